//! Watches: what the API server has, kept as small values, with what stands in the way of knowing it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::error::{describe, is_silence};
use crate::retry::Schedule;

/// What a watch knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen<V> {
    /// The objects by `namespace/name`, or by name where they have no namespace; nothing before the first whole list.
    pub objects: Option<Arc<BTreeMap<String, V>>>,
    /// How many objects there are besides, of which nothing has to be seen.
    pub hidden: usize,
    /// Why what is known may be old: the watch does not work at the moment.
    pub trouble: Option<String>,
}

/// What is kept of what a watch tells.
pub(super) trait Keep<K, V> {
    /// Takes in an object as it is now, and shows what is to be seen from now on, by its key. Returns whether the object itself is.
    /// `known` says whether one of its name is seen already.
    fn take(&mut self, object: K, known: bool, show: &mut dyn FnMut(String, V)) -> bool;

    /// An object is gone, which is still seen if it is `known`.
    fn forget(&mut self, _object: &K, _known: bool) {}

    /// A whole list begins.
    fn begin(&mut self) {}

    /// It is complete: what it lacked is gone.
    fn end(&mut self) {}

    /// Everything is taken in, and this is what is seen, of which some may be [hidden](Seen::hide).
    fn settle(&mut self, _seen: &mut Seen<V>) {}

    /// How many objects there are that are not to be seen.
    fn hidden(&self) -> usize {
        0
    }
}

/// Keeps a view of those objects that have one.
struct Views<F>(F);

/// A list that is being read.
#[derive(Debug)]
pub(super) struct Listing<V> {
    /// What it had so far, where it is the first one.
    first: BTreeMap<String, V>,
    /// Of the keys that it had so far, the hashes, where it is a later one: eight bytes each instead of a second copy.
    listed: Vec<u64>,
    hasher: RandomState,
    /// Whether it had something new.
    news: bool,
}

/// Follows the objects that `config` selects, for ever, and keeps `view` of each in `sink`. Readers are woken when something
/// that they can see has changed, and at no other time.
///
/// A watch that fails begins again, after a pause; meanwhile what was known stays, with the trouble beside it.
pub async fn follow<K, V>(
    what: &str,
    api: Api<K>,
    config: watcher::Config,
    view: impl Fn(&K) -> V,
    sink: watch::Sender<Seen<V>>,
) -> Infallible
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    V: Clone + PartialEq,
{
    follow_some(what, api, config, |object| Some(view(&object)), sink).await
}

/// The same, of those objects only that have a view: of the others nothing is kept.
///
/// Later lists are read into what is known already, so that there is no second copy of it: what a list has is taken in as it
/// comes, and what it lacks goes when it is complete.
pub async fn follow_some<K, V>(
    what: &str,
    api: Api<K>,
    config: watcher::Config,
    view: impl FnMut(K) -> Option<V>,
    sink: watch::Sender<Seen<V>>,
) -> Infallible
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    V: Clone + PartialEq,
{
    follow_kept(what, api, config, Views(view), sink).await
}

/// The same, of what `keep` shows.
pub(super) async fn follow_kept<K, V>(
    what: &str,
    api: Api<K>,
    config: watcher::Config,
    mut keep: impl Keep<K, V>,
    sink: watch::Sender<Seen<V>>,
) -> Infallible
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    V: Clone + PartialEq,
{
    let mut schedule = Schedule::watch_restart();
    let mut events = watcher::watcher(api.clone(), config.clone()).boxed();
    let mut listing = Listing::default();
    loop {
        let Some(event) = events.next().await else {
            unreachable!("a watcher's stream does not end");
        };
        match event {
            Ok(event) => {
                let settled = apply(event, &mut keep, &mut listing, &sink);
                if settled {
                    schedule.reset();
                }
            }
            Err(error) => {
                let trouble = match &error {
                    watcher::Error::InitialListFailed(error) => describe(&format!("list {what}"), error),
                    watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                        describe(&format!("watch {what}"), error)
                    }
                    other => format!("the watch of {what} failed: {other}"),
                };
                // What was asked for is too old: the next list is new, and no reader needs to know. Nor need they where nothing was said
                // for so long that the connection counts as dead: most likely nothing happened, and the next list tells.
                let expired = matches!(&error, watcher::Error::WatchError(status) if status.code == 410);
                let silent = matches!(&error, watcher::Error::WatchFailed(error) if is_silence(error));
                if !expired && !silent {
                    sink.send_if_modified(|seen| {
                        let news = seen.trouble.as_ref() != Some(&trouble);
                        seen.trouble = Some(trouble);
                        news
                    });
                }
                if !silent {
                    tokio::time::sleep(schedule.next_pause()).await;
                }
                // From a whole list on, which is what tells that the trouble is over: a watch that is merely resumed says
                // nothing until something changes.
                events = watcher::watcher(api.clone(), config.clone()).boxed();
            }
        }
    }
}

/// Whether the watch works as far as this event tells.
pub(super) fn apply<K, V>(
    event: Event<K>,
    keep: &mut impl Keep<K, V>,
    listing: &mut Listing<V>,
    sink: &watch::Sender<Seen<V>>,
) -> bool
where
    K: Resource,
    V: Clone + PartialEq,
{
    match event {
        Event::Init => {
            // Of a list that was not read to its end, what was new in it is known already, and its readers are not awake yet.
            *listing = Listing { news: listing.news, ..Listing::default() };
            keep.begin();
            return false;
        }
        Event::InitApply(object) => {
            let key = key(&object);
            // No reader is woken in the middle of a list.
            sink.send_if_modified(|seen| {
                listing.note(&key, seen);
                let shown = keep.take(object, seen.has(&key), &mut |key, value| listing.put(key, value, seen));
                if !shown {
                    listing.news |= seen.remove(&key);
                }
                false
            });
            return false;
        }
        Event::InitDone => {
            keep.end();
            let listing = std::mem::take(listing);
            sink.send_if_modified(|seen| {
                let news = listing.end(seen) | seen.trouble.take().is_some();
                seen.settle(keep);
                news
            });
        }
        Event::Apply(object) => {
            let key = key(&object);
            sink.send_if_modified(|seen| {
                let mut news = seen.trouble.take().is_some();
                let shown = keep.take(object, seen.has(&key), &mut |key, value| news |= seen.put(key, value));
                if !shown {
                    // It was seen before, perhaps.
                    news |= seen.remove(&key);
                }
                seen.settle(keep);
                news
            });
        }
        Event::Delete(object) => {
            let key = key(&object);
            sink.send_if_modified(|seen| {
                keep.forget(&object, seen.has(&key));
                let news = seen.remove(&key) | seen.trouble.take().is_some();
                seen.settle(keep);
                news
            });
        }
    }
    true
}

fn key<K: Resource>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

// === impl Views ===

impl<K: Resource, V, F: FnMut(K) -> Option<V>> Keep<K, V> for Views<F> {
    fn take(&mut self, object: K, _known: bool, show: &mut dyn FnMut(String, V)) -> bool {
        let key = key(&object);
        let view = (self.0)(object);
        view.map(|view| show(key, view)).is_some()
    }
}

// === impl Listing ===

impl<V> Default for Listing<V> {
    fn default() -> Self {
        Self { first: BTreeMap::new(), listed: Vec::new(), hasher: RandomState::new(), news: false }
    }
}

impl<V: Clone + PartialEq> Listing<V> {
    /// The list has this one.
    fn note(&mut self, key: &String, seen: &Seen<V>) {
        if seen.is_known() {
            self.listed.push(self.hasher.hash_one(key));
        }
    }

    fn put(&mut self, key: String, value: V, seen: &mut Seen<V>) {
        if seen.is_known() {
            self.news |= seen.put(key, value);
        } else {
            self.first.insert(key, value);
        }
    }

    /// The list is complete: what it lacks is gone. Whether that, or something before it, is news.
    fn end(mut self, seen: &mut Seen<V>) -> bool {
        let Some(objects) = &mut seen.objects else {
            seen.objects = Some(Arc::new(self.first));
            return true;
        };
        self.listed.sort_unstable();
        let listed = |key: &String| self.listed.binary_search(&self.hasher.hash_one(key)).is_ok();
        if objects.keys().all(listed) {
            return self.news;
        }
        Arc::make_mut(objects).retain(|key, _| listed(key));
        true
    }
}

// === impl Seen ===

impl<V> Default for Seen<V> {
    fn default() -> Self {
        Self { objects: None, hidden: 0, trouble: None }
    }
}

impl<V> Seen<V> {
    /// Each object, as far as known.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        self.objects.iter().flat_map(|objects| objects.values())
    }

    /// Whether that is news.
    fn put(&mut self, key: String, value: V) -> bool
    where
        V: Clone + PartialEq,
    {
        let objects = Arc::make_mut(self.objects.get_or_insert_default());
        if objects.get(&key) == Some(&value) {
            return false;
        }
        objects.insert(key, value);
        true
    }

    fn has(&self, key: &str) -> bool {
        self.objects.as_ref().is_some_and(|objects| objects.contains_key(key))
    }

    /// Takes away those of which nothing has to be seen any more, as `hide` says. That wakes no reader.
    pub(super) fn hide(&mut self, mut hide: impl FnMut(&V) -> bool)
    where
        V: Clone,
    {
        if let Some(objects) = &mut self.objects {
            Arc::make_mut(objects).retain(|_, value| !hide(value));
        }
    }

    /// Whether it was there.
    fn remove(&mut self, key: &str) -> bool
    where
        V: Clone,
    {
        self.objects.as_mut().is_some_and(|objects| Arc::make_mut(objects).remove(key).is_some())
    }

    fn settle<K>(&mut self, keep: &mut impl Keep<K, V>) {
        keep.settle(self);
        self.hidden = keep.hidden();
    }

    /// Whether there was a whole list.
    pub fn is_known(&self) -> bool {
        self.objects.is_some()
    }

    /// The only object, where one is watched; nothing where there is none, or it is not known yet.
    pub fn only(&self) -> Option<&V> {
        self.iter().next()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;

    use super::*;

    fn node(name: &str, version: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.metadata.resource_version = Some(version.to_owned());
        node
    }

    /// The names, and how often a reader was woken.
    fn after(events: Vec<Event<Node>>) -> (Vec<String>, u32) {
        let (sink, mut reader) = watch::channel(Seen::default());
        let mut listing = Listing::default();
        let mut woken = 0;
        for event in events {
            let view = |node: Node| Some(node.name_any()).filter(|name| !name.starts_with("without-view"));
            apply(event, &mut Views(view), &mut listing, &sink);
            if reader.has_changed().unwrap() {
                reader.mark_unchanged();
                woken += 1;
            }
        }
        let names = reader.borrow().iter().cloned().collect();
        (names, woken)
    }

    #[test]
    fn a_list_is_shown_whole_and_what_it_lacks_is_gone() {
        let list = |names: &[&str]| {
            let objects = names.iter().map(|name| Event::InitApply(node(name, "1")));
            [Event::Init].into_iter().chain(objects).chain([Event::InitDone]).collect::<Vec<_>>()
        };
        assert_eq!(after(list(&["a", "b"])), (vec!["a".to_owned(), "b".to_owned()], 1));
        assert_eq!(after([list(&["a", "b"]), list(&["b"])].concat()), (vec!["b".to_owned()], 2));
    }

    #[test]
    fn what_has_no_view_is_not_kept() {
        let begin = vec![Event::Init, Event::InitApply(node("without-view", "1")), Event::InitDone];
        assert_eq!(after(begin.clone()), (Vec::new(), 1));
        let later =
            [begin.clone(), vec![Event::Apply(node("without-view", "2")), Event::Delete(node("without-view", "3"))]];
        assert_eq!(after(later.concat()), (Vec::new(), 1));
        assert_eq!(after([begin.clone(), begin].concat()), (Vec::new(), 1));
    }

    #[test]
    fn a_later_list_is_merged_into_the_known_objects() {
        let (sink, mut reader) = watch::channel(Seen::default());
        let mut listing = Listing::default();
        let mut take =
            |event| apply(event, &mut Views(|node: Node| node.metadata.resource_version), &mut listing, &sink);
        for event in [Event::Init, Event::InitApply(node("a", "1")), Event::InitApply(node("b", "1"))] {
            take(event);
            assert!(!reader.borrow().is_known(), "half of the first list is nothing that may be acted on");
        }
        take(Event::InitDone);
        let versions = |seen: &Seen<String>| seen.iter().cloned().collect::<Vec<_>>();
        assert_eq!(versions(&reader.borrow_and_update()), ["1", "1"]);
        let before = Arc::as_ptr(reader.borrow().objects.as_ref().unwrap());
        take(Event::Init);
        take(Event::InitApply(node("b", "2")));
        assert_eq!(versions(&reader.borrow()), ["1", "2"], "what the list lacks is there until it is complete");
        assert!(!reader.has_changed().unwrap(), "and wakes its readers once");
        take(Event::InitDone);
        assert!(reader.has_changed().unwrap());
        assert_eq!(versions(&reader.borrow_and_update()), ["2"]);
        assert_eq!(Arc::as_ptr(reader.borrow().objects.as_ref().unwrap()), before, "there is no second copy");
        take(Event::Init);
        take(Event::InitApply(node("b", "2")));
        take(Event::InitDone);
        assert!(!reader.has_changed().unwrap(), "the same list is no news");
    }

    #[test]
    fn what_a_reader_cannot_see_does_not_wake_it() {
        let begin = vec![Event::Init, Event::InitApply(node("a", "1")), Event::InitDone];
        let same = [begin.clone(), vec![Event::Apply(node("a", "2"))]].concat();
        assert_eq!(after(same).1, 1);
        let gone = [begin, vec![Event::Delete(node("a", "3"))]].concat();
        assert_eq!(after(gone), (Vec::new(), 2));
    }
}
