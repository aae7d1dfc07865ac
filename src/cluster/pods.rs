//! The pods of a whole cluster, in little memory.
//!
//! What decides about a pod outside the mesh is kept of each, and of what else its owner has. All other pods, nearly all of
//! them, only matter while one of their owner's is outside the mesh, or while repair waits for what comes instead of one. Otherwise a
//! name, a uid and a node are kept of each, about a hundred bytes, from which the rest can be made again: the rest is the same for
//! thousands of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::reduced::{Reduce, Reduced};
use super::watch::{Keep, Seen};
use crate::decide::repair::{OwnerReference, PodView};

/// The number of kinds of rest: more than pods have, since what a person may write freely is not hidden.
const RESTS: usize = 256;

/// How often it is looked which owners need not be shown any more.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Decides which pods are shown to those who decide, and keeps the others.
#[derive(Debug)]
pub(super) struct Sieve {
    owners: HashMap<Uid, Owner>,
    /// Those of them that have hidden pods, by namespace.
    hiding: HashMap<Arc<str>, HashSet<Uid>>,
    /// What pods have in common, without name, uid, node, owner and namespace.
    rests: Vec<PodView>,
    nodes: BTreeSet<Arc<str>>,
    /// Which list is being read, or was last.
    list: u16,
    /// Whether it is being read.
    listing: bool,
    hidden: usize,
    /// The uids of owners whose pods are shown whatever they are.
    awaited: watch::Receiver<BTreeSet<String>>,
    /// How many owners were left when it was looked last which of them are shown, and when that was.
    left: usize,
    looked: Instant,
}

/// A uid, in the form that every API server writes.
type Uid = [u8; 16];

#[derive(Debug)]
struct Owner {
    namespace: Arc<str>,
    reference: OwnerReference,
    /// Whether all its pods are shown.
    shown: bool,
    /// Otherwise, all of them, by name.
    hidden: Vec<Hidden>,
}

#[derive(Debug)]
struct Hidden {
    name: Box<str>,
    uid: Uid,
    node: Option<Arc<str>>,
    /// Its place among the rests.
    rest: u16,
    /// The last list that had it, or that came before it.
    list: u16,
}

impl Reduce for PodView {
    type Of = Pod;

    fn reduce(pod: &Pod) -> Self {
        Self::of(pod)
    }
}

// === impl Sieve ===

impl Sieve {
    /// Shows all pods of the owners whose uids are `awaited`, whatever they are, for as long as they are.
    pub(super) fn new(awaited: watch::Receiver<BTreeSet<String>>) -> Self {
        Self {
            owners: HashMap::new(),
            hiding: HashMap::new(),
            rests: Vec::new(),
            nodes: BTreeSet::new(),
            list: 0,
            listing: false,
            hidden: 0,
            awaited,
            left: 0,
            looked: Instant::now(),
        }
    }

    /// Hides a pod among its owner's, which is not shown.
    fn hide(&mut self, uid: Uid, pod: Hidden) {
        let Some(owner) = self.owners.get_mut(&uid) else { return };
        match owner.place(&pod.name) {
            Ok(place) => owner.hidden[place] = pod,
            Err(place) => {
                if owner.hidden.is_empty() {
                    self.hiding.entry(Arc::clone(&owner.namespace)).or_default().insert(uid);
                }
                if owner.hidden.len() == owner.hidden.capacity() {
                    // Half as much again would be more than all else that is kept of it.
                    owner.hidden.reserve_exact(1 + owner.hidden.len() / 8);
                }
                owner.hidden.insert(place, pod);
                self.hidden += 1;
            }
        }
    }

    /// Whether a pod of this name is hidden among its owner's.
    fn hides(&self, owner: Uid, name: &str) -> bool {
        self.owners.get(&owner).is_some_and(|owner| owner.place(name).is_ok())
    }

    /// Forgets a hidden pod of this owner.
    fn drop_of(&mut self, uid: Uid, name: &str) {
        let Some(owner) = self.owners.get_mut(&uid) else { return };
        if let Ok(place) = owner.place(name) {
            owner.hidden.remove(place);
            self.hidden -= 1;
            self.note_emptied(uid);
        }
    }

    /// An owner has hidden pods no longer, perhaps.
    fn note_emptied(&mut self, uid: Uid) {
        let Some(owner) = self.owners.get(&uid).filter(|owner| owner.hidden.is_empty()) else { return };
        if let Some(hiding) = self.hiding.get_mut(&owner.namespace) {
            hiding.remove(&uid);
            if hiding.is_empty() {
                self.hiding.remove(&owner.namespace);
            }
        }
        if !owner.shown {
            self.owners.remove(&uid);
        }
    }

    /// Forgets what is hidden of this name in this namespace, whichever its owner is: the pod has lost that one.
    fn drop_of_any(&mut self, namespace: &str, name: &str) {
        let hiding = self.hiding.get(namespace);
        let found = hiding.and_then(|hiding| hiding.iter().find(|uid| self.hides(**uid, name)).copied());
        if let Some(uid) = found {
            self.drop_of(uid, name);
        }
    }

    /// What is kept of a pod that may be hidden; nothing where it has nothing in common with others.
    fn reduce(&mut self, view: &PodView) -> Option<Hidden> {
        let (uid, rest) = (read_uid(&view.uid)?, rest_of(&mut self.rests, view)?);
        let node = view.node.as_deref().map(|node| shared(&mut self.nodes, node));
        Some(Hidden { name: view.name.as_str().into(), uid, node, rest, list: self.list })
    }
}

impl Keep<Reduced<PodView>, PodView> for Sieve {
    fn take(&mut self, pod: Reduced<PodView>, known: bool, show: &mut dyn FnMut(String, PodView)) -> bool {
        let view = pod.view;
        let owner_uid = view.owner.as_ref().and_then(|owner| read_uid(&owner.uid));
        // Had it another owner before? What a list shows of that goes when the list is complete.
        if !known && !self.listing && !owner_uid.is_some_and(|uid| self.hides(uid, &view.name)) {
            self.drop_of_any(&view.namespace, &view.name);
        }
        let (Some(owner_uid), Some(reference)) = (owner_uid, &view.owner) else {
            // Nothing makes it, or nothing that an API server knows.
            show(view.path(), view);
            return true;
        };
        if !self.owners.contains_key(&owner_uid) {
            let namespace =
                self.hiding.get_key_value(view.namespace.as_str()).map(|(namespace, _)| Arc::clone(namespace));
            let namespace = namespace.unwrap_or_else(|| view.namespace.as_str().into());
            let owner = Owner { namespace, reference: reference.clone(), shown: false, hidden: Vec::new() };
            self.owners.insert(owner_uid, owner);
        }
        let owner = &self.owners[&owner_uid];
        if !owner.shown
            && owner.may_hide(&view)
            && let Some(hidden) = self.reduce(&view)
        {
            self.hide(owner_uid, hidden);
            return false;
        }
        // From now on all that its owner has matters.
        let Some(owner) = self.owners.get_mut(&owner_uid) else { unreachable!("it was inserted above") };
        owner.shown = true;
        self.hidden -= owner.hidden.len();
        for hidden in std::mem::take(&mut owner.hidden) {
            if *hidden.name != *view.name {
                let pod = hidden.show(&owner.namespace, &owner.reference, &self.rests);
                show(pod.path(), pod);
            }
        }
        self.note_emptied(owner_uid);
        show(view.path(), view);
        true
    }

    fn forget(&mut self, pod: &Reduced<PodView>, known: bool) {
        if known {
            return;
        }
        let PodView { namespace, name, owner, .. } = &pod.view;
        let uid = owner.as_ref().and_then(|owner| read_uid(&owner.uid));
        match uid.filter(|uid| self.hides(*uid, name)) {
            Some(uid) => self.drop_of(uid, name),
            // It lost its owner with the last thing that became of it.
            None => self.drop_of_any(namespace, name),
        }
    }

    fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
        self.listing = true;
    }

    fn end(&mut self) {
        self.listing = false;
        let list = self.list;
        self.hiding.clear();
        for (uid, owner) in &mut self.owners {
            owner.hidden.retain(|hidden| hidden.list == list);
            owner.hidden.shrink_to_fit();
            if !owner.hidden.is_empty() {
                self.hiding.entry(Arc::clone(&owner.namespace)).or_default().insert(*uid);
            }
        }
        self.hidden = self.owners.values().map(|owner| owner.hidden.len()).sum();
        self.owners.retain(|_, owner| owner.shown || !owner.hidden.is_empty());
        self.nodes.retain(|node| Arc::strong_count(node) > 1);
    }

    fn settle(&mut self, seen: &mut Seen<PodView>) {
        // Now and then: it takes a look at everything that is shown.
        if self.looked.elapsed() < LOOK_EVERY && self.owners.len() <= self.left + self.left / 8 + 1000 {
            return;
        }
        self.looked = Instant::now();
        let (mut there, mut kept) = (HashSet::new(), HashSet::new());
        for pod in seen.iter() {
            let Some(uid) = pod.owner.as_ref().and_then(|owner| read_uid(&owner.uid)) else { continue };
            there.insert(uid);
            let hides = self.owners.get(&uid).is_some_and(|owner| owner.may_hide(pod));
            if !hides || rest_of(&mut self.rests, pod).is_none() {
                kept.insert(uid);
            }
        }
        kept.extend(self.awaited.borrow().iter().filter_map(|uid| read_uid(uid)));
        // Of these nothing is outside the mesh any more, and nothing is awaited.
        let hides: HashSet<Uid> = there.difference(&kept).copied().collect();
        for uid in &hides {
            if let Some(owner) = self.owners.get_mut(uid) {
                owner.shown = false;
            }
        }
        if !hides.is_empty() {
            seen.hide(|pod| {
                let uid = pod.owner.as_ref().and_then(|owner| read_uid(&owner.uid)).filter(|uid| hides.contains(uid));
                let Some((uid, hidden)) = uid.and_then(|uid| Some((uid, self.reduce(pod)?))) else { return false };
                self.hide(uid, hidden);
                true
            });
        }
        // Nor is anything left of an owner whose shown pods are all gone.
        self.owners.retain(|uid, owner| !owner.hidden.is_empty() || there.contains(uid));
        self.left = self.owners.len();
    }

    fn hidden(&self) -> usize {
        self.hidden
    }
}

/// The place of what a pod has in common with others; nothing where there are too many.
fn rest_of(rests: &mut Vec<PodView>, view: &PodView) -> Option<u16> {
    let (namespace, name, uid) = (String::new(), String::new(), String::new());
    let rest = PodView { namespace, name, uid, owner: None, node: None, ..view.clone() };
    let place = match rests.iter().position(|known| *known == rest) {
        Some(place) => place,
        None if rests.len() < RESTS => {
            rests.push(rest);
            rests.len() - 1
        }
        None => return None,
    };
    u16::try_from(place).ok()
}

fn shared(all: &mut BTreeSet<Arc<str>>, text: &str) -> Arc<str> {
    if let Some(known) = all.get(text) {
        return Arc::clone(known);
    }
    let new = Arc::<str>::from(text);
    all.insert(Arc::clone(&new));
    new
}

// === impl Owner ===

impl Owner {
    /// Whether a pod of its is one that may be hidden.
    fn may_hide(&self, pod: &PodView) -> bool {
        let same = *self.namespace == *pod.namespace && pod.owner.as_ref() == Some(&self.reference);
        // An annotation that means nothing can have any text: such pods have nothing in common, and their author pays for them.
        let alike = !pod.agent && !matches!(pod.repair, Some(Err(_)));
        pod.bare.is_none() && pod.resource_version.is_none() && alike && same && read_uid(&pod.uid).is_some()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.hidden.binary_search_by(|hidden| (*hidden.name).cmp(name))
    }
}

// === impl Hidden ===

impl Hidden {
    fn show(self, namespace: &str, owner: &OwnerReference, rests: &[PodView]) -> PodView {
        PodView {
            namespace: namespace.to_owned(),
            name: self.name.into(),
            uid: write_uid(self.uid),
            owner: Some(owner.clone()),
            node: self.node.as_deref().map(ToOwned::to_owned),
            ..rests[usize::from(self.rest)].clone()
        }
    }
}

/// Nothing where it would not be written as it was.
fn read_uid(text: &str) -> Option<Uid> {
    if text.len() != 36 || !text.is_ascii() {
        return None;
    }
    let number = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
    let uid = number.to_be_bytes();
    (write_uid(uid) == text).then_some(uid)
}

fn write_uid(uid: Uid) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(uid));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Resource as _;
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    /// What those who decide see, and how many pods there are besides.
    struct Model {
        sieve: Sieve,
        seen: watch::Sender<Seen<PodView>>,
        listing: crate::cluster::watch::Listing<PodView>,
        awaited: watch::Sender<BTreeSet<String>>,
    }

    fn uid(number: u128) -> String {
        write_uid((0x1234_5678_9abc_def0_0000_0000_0000_0000 + number).to_be_bytes())
    }

    fn pod(name: &str, owner: u128, meshed: bool) -> Reduced<PodView> {
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": uid(1000 + u128::from(name.as_bytes()[0])), "resourceVersion": "7",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("set-{owner}"),
                    "uid": uid(owner), "controller": true}],
            },
            "spec": {"nodeName": "node-0", "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        if meshed {
            pod["metadata"]["labels"] = json!({"linkerd.io/control-plane-ns": "linkerd"});
            pod["spec"]["initContainers"] =
                json!([{"name": "linkerd-proxy", "image": "cr.l5d.io/linkerd/proxy:1", "restartPolicy": "Always"}]);
        }
        read(pod)
    }

    fn read(pod: Value) -> Reduced<PodView> {
        serde_json::from_value(pod).unwrap()
    }

    impl Model {
        fn new() -> Self {
            let (seen, _) = watch::channel(Seen::default());
            let (awaited, receiver) = watch::channel(BTreeSet::new());
            Self { sieve: Sieve::new(receiver), seen, listing: crate::cluster::watch::Listing::default(), awaited }
        }

        fn after(&mut self, events: impl IntoIterator<Item = Event<Reduced<PodView>>>) -> (Vec<String>, usize) {
            for event in events {
                crate::cluster::watch::apply(event, &mut self.sieve, &mut self.listing, &self.seen);
            }
            let seen = self.seen.borrow();
            (seen.iter().map(|pod| pod.name.clone()).collect(), seen.hidden)
        }

        fn list(&mut self, pods: impl IntoIterator<Item = Reduced<PodView>>) -> (Vec<String>, usize) {
            let pods = pods.into_iter().map(Event::InitApply);
            self.after([Event::Init].into_iter().chain(pods).chain([Event::InitDone]))
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn pods_are_shown_once_one_of_their_owners_is_outside_the_mesh() {
        let mut model = Model::new();
        assert_eq!(model.list([pod("a", 1, true), pod("b", 1, true), pod("c", 2, true)]), (vec![], 3));
        assert_eq!(model.after([Event::Apply(pod("d", 1, false))]), (names(&["a", "b", "d"]), 1));
        // Each as it would have been without all this.
        for name in ["a", "b"] {
            let shown = model.seen.borrow().objects.as_ref().unwrap()[&format!("shop/{name}")].clone();
            assert_eq!(shown, pod(name, 1, true).view);
        }
        // It stays so when that one is gone: what became of it is not over yet.
        assert_eq!(model.after([Event::Delete(pod("d", 1, false))]), (names(&["a", "b"]), 1));
        assert_eq!(model.after([Event::Apply(pod("e", 1, true))]), (names(&["a", "b", "e"]), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_is_hidden_again_once_its_pods_are_meshed() {
        let mut model = Model::new();
        model.list([pod("a", 1, true), pod("b", 1, false), pod("c", 2, false), pod("d", 2, true), pod("e", 3, true)]);
        model.awaited.send_replace(BTreeSet::from([uid(1)]));
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(model.after([Event::Delete(pod("b", 1, false))]), (names(&["a", "c", "d"]), 1), "one is awaited");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(model.after([Event::Apply(pod("f", 1, true))]), (names(&["a", "c", "d", "f"]), 1));
        model.awaited.send_replace(BTreeSet::new());
        let look = || [Event::Apply(pod("e", 3, true))];
        assert_eq!(model.after(look()), (names(&["a", "c", "d", "f"]), 1), "it is looked now and then");
        tokio::time::advance(LOOK_EVERY).await;
        let mut reader = model.seen.subscribe();
        reader.mark_unchanged();
        assert_eq!(model.after(look()), (names(&["c", "d"]), 3), "the second owner has one that is missed");
        assert!(!reader.has_changed().unwrap(), "what decides about nothing is no news");
        assert_eq!(model.after([Event::Apply(pod("a", 1, true))]), (names(&["c", "d"]), 3), "each once");
        // It comes back whole when it has to.
        assert_eq!(model.after([Event::Apply(pod("g", 1, false))]), (names(&["a", "c", "d", "f", "g"]), 1));
        assert_eq!(model.seen.borrow().objects.as_ref().unwrap()["shop/f"], pod("f", 1, true).view);
        // And a list that lacks it while it is hidden takes it away.
        model.after([Event::Delete(pod("g", 1, false))]);
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(model.after(look()), (names(&["c", "d"]), 3));
        assert_eq!(model.list([pod("f", 1, true)]), (vec![], 1));
    }

    #[test]
    fn a_pod_that_changes_its_owner_leaves_nothing_with_the_first() {
        let ownerless = || read(json!({"metadata": {"name": "a", "namespace": "shop", "uid": uid(1)}}));
        let elsewhere = || {
            let mut pod = pod("a", 4, true);
            pod.meta_mut().namespace = Some("bank".to_owned());
            pod.view.namespace = "bank".to_owned();
            pod
        };
        for (changed, hidden) in [(ownerless as fn() -> _, 1), (|| pod("a", 2, true), 2)] {
            let mut model = Model::new();
            model.list([pod("a", 1, true), pod("b", 1, true), elsewhere()]);
            model.after([Event::Apply(changed())]);
            assert_eq!(model.seen.borrow().hidden, hidden + 1, "it is counted once");
            let (shown, _) = model.after([Event::Apply(pod("c", 1, false))]);
            let of_the_first: Vec<_> = shown.iter().filter(|name| *name != "a").cloned().collect();
            assert_eq!(of_the_first, names(&["b", "c"]));
            let shown = model.seen.borrow().objects.as_ref().unwrap().get("shop/a").map(|pod| pod.owner.is_some());
            assert_ne!(shown, Some(true), "it is not the first owner's any more");
        }
        // Only its deletion has its former fields.
        let mut model = Model::new();
        model.list([pod("a", 1, true), pod("b", 1, true)]);
        assert_eq!(model.after([Event::Delete(ownerless())]), (vec![], 1));
    }

    #[test]
    fn list_order_does_not_matter_and_pods_missing_in_it_are_gone() {
        let all = || vec![pod("a", 1, true), pod("b", 1, false), pod("c", 1, true), pod("d", 2, true)];
        for turn in 0..4 {
            let mut model = Model::new();
            let mut pods = all();
            pods.rotate_left(turn);
            assert_eq!(model.list(pods), (names(&["a", "b", "c"]), 1), "{turn}");
            assert_eq!(model.list([pod("a", 1, true), pod("x", 3, true)]), (names(&["a"]), 1));
            assert_eq!(model.list([pod("x", 3, true)]), (vec![], 1));
            assert_eq!(model.list([]), (vec![], 0));
        }
    }

    #[test]
    fn one_that_takes_anothers_name_takes_its_place() {
        let mut model = Model::new();
        assert_eq!(model.list([pod("a", 1, true)]), (vec![], 1));
        // Its deletion was missed: another owner's pod has its name now.
        assert_eq!(model.list([pod("a", 2, true)]), (vec![], 1));
        assert_eq!(
            model.after([Event::Apply(pod("b", 1, false))]),
            (names(&["b"]), 1),
            "what was the first owner's is gone"
        );
        assert_eq!(model.after([Event::Delete(pod("a", 2, true))]), (names(&["b"]), 0));
        assert_eq!(model.after([Event::Delete(pod("a", 2, true))]), (names(&["b"]), 0));
    }

    #[test]
    fn a_pod_that_loses_its_proxy_or_has_no_owner_is_shown() {
        let mut model = Model::new();
        let ownerless = read(json!({"metadata": {"name": "z", "namespace": "shop", "uid": uid(1)}}));
        assert_eq!(model.list([pod("a", 1, true), ownerless]), (names(&["z"]), 1));
        assert_eq!(model.after([Event::Apply(pod("a", 1, false))]), (names(&["a", "z"]), 0));
        assert_eq!(model.seen.borrow().objects.as_ref().unwrap()["shop/a"], pod("a", 1, false).view);
    }

    #[test]
    fn owners_come_and_go_without_a_trace() {
        let mut model = Model::new();
        model.list([]);
        for owner in 0..5000 {
            model.after([Event::Apply(pod("a", owner, false)), Event::Delete(pod("a", owner, false))]);
            let meshed = 10_000 + owner;
            model.after([Event::Apply(pod("b", meshed, true)), Event::Delete(pod("b", meshed, true))]);
        }
        assert!(model.sieve.owners.len() <= 1001, "{}", model.sieve.owners.len());
        assert_eq!((model.sieve.rests.len(), model.sieve.hidden), (1, 0));
    }

    #[test]
    fn pods_with_an_invalid_annotation_are_not_deduplicated() {
        let mut model = Model::new();
        let odd = |owner: u128| {
            let mut pod = pod("a", owner, true);
            pod.view.repair = Some(Err(format!("nonsense-{owner}")));
            pod
        };
        model.list((0..1000).map(odd));
        assert_eq!((model.sieve.rests.len(), model.sieve.hidden), (0, 0));
        model.after([Event::Apply(pod("b", 5000, true))]);
        assert_eq!((model.sieve.rests.len(), model.sieve.hidden), (1, 1), "others are hidden as before");
    }

    #[test]
    fn a_uid_converts_to_text_and_back_or_is_refused() {
        let text = "0b6f9e52-9b1f-4e0a-8d5a-0d2f3b3f9c11";
        assert_eq!(read_uid(text).map(write_uid).as_deref(), Some(text));
        for other in ["", "uid of web", "0B6F9E52-9B1F-4E0A-8D5A-0D2F3B3F9C11", "0b6f9e529-b1f-4e0a-8d5a-0d2f3b3f9c11"]
        {
            assert_eq!(read_uid(other), None, "{other}");
        }
    }
}
