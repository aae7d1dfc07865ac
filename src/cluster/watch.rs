//! Watches: what the API server has, kept as small values, with what stands in the way of knowing it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::failure::{describe, is_silence};
use crate::retry::Schedule;

/// What a watch knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen<V> {
    /// The objects by `namespace/name`, or by name where they have no namespace; nothing before the first whole list.
    pub objects: Option<Arc<BTreeMap<String, V>>>,
    /// Why what is known may be old: the watch does not work at the moment.
    pub trouble: Option<String>,
}

/// Follows the objects that `config` selects, for ever, and keeps `view` of each in `sink`. Readers are woken when something
/// that they can see has changed, and at no other time.
///
/// A watch that fails is begun anew, after a pause; meanwhile what was known stays, with the trouble beside it.
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
    let mut schedule = Schedule::watching_again();
    let mut events = watcher::watcher(api.clone(), config.clone()).boxed();
    let mut listed = BTreeMap::new();
    loop {
        let Some(event) = events.next().await else {
            unreachable!("a watcher's stream does not end");
        };
        match event {
            Ok(event) => {
                let settled = apply(event, &view, &mut listed, &sink);
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
                // What was asked for is too old: the next list is new, and nobody need know. Nor need they where nothing was said
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
fn apply<K, V>(
    event: Event<K>,
    view: &impl Fn(&K) -> V,
    listed: &mut BTreeMap<String, V>,
    sink: &watch::Sender<Seen<V>>,
) -> bool
where
    K: Resource,
    V: Clone + PartialEq,
{
    match event {
        Event::Init => {
            listed.clear();
            return false;
        }
        Event::InitApply(object) => {
            listed.insert(key(&object), view(&object));
            return false;
        }
        Event::InitDone => {
            let listed = std::mem::take(listed);
            sink.send_if_modified(|seen| {
                let news = seen.trouble.take().is_some() | (seen.objects.as_deref() != Some(&listed));
                seen.objects = Some(Arc::new(listed));
                news
            });
        }
        Event::Apply(object) => {
            let (key, value) = (key(&object), view(&object));
            sink.send_if_modified(|seen| {
                let mut news = seen.trouble.take().is_some();
                let objects = Arc::make_mut(seen.objects.get_or_insert_default());
                if objects.get(&key) != Some(&value) {
                    objects.insert(key, value);
                    news = true;
                }
                news
            });
        }
        Event::Delete(object) => {
            sink.send_if_modified(|seen| {
                let objects = Arc::make_mut(seen.objects.get_or_insert_default());
                objects.remove(&key(&object)).is_some() | seen.trouble.take().is_some()
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

// === impl Seen ===

impl<V> Default for Seen<V> {
    fn default() -> Self {
        Self { objects: None, trouble: None }
    }
}

impl<V> Seen<V> {
    /// Each object, as far as known.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        self.objects.iter().flat_map(|objects| objects.values())
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
    use super::*;
    use k8s_openapi::api::core::v1::Node;

    fn node(name: &str, version: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.metadata.resource_version = Some(version.to_owned());
        node
    }

    /// The names, and how often a reader was woken.
    fn after(events: Vec<Event<Node>>) -> (Vec<String>, u32) {
        let (sink, mut reader) = watch::channel(Seen::default());
        let mut listed = BTreeMap::new();
        let mut woken = 0;
        for event in events {
            apply(event, &|node: &Node| node.name_any(), &mut listed, &sink);
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
    fn what_a_reader_cannot_see_does_not_wake_it() {
        let begin = vec![Event::Init, Event::InitApply(node("a", "1")), Event::InitDone];
        let same = [begin.clone(), vec![Event::Apply(node("a", "2"))]].concat();
        assert_eq!(after(same).1, 1);
        let gone = [begin, vec![Event::Delete(node("a", "3"))]].concat();
        assert_eq!(after(gone), (Vec::new(), 2));
    }
}
