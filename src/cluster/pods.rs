//! The pods of a whole cluster, in little memory.
//!
//! What decides about a pod outside the mesh is kept of each, and of what else its owner has. All other pods, nearly all of
//! them, only matter once one of their owner's is outside the mesh. Until then a name, a uid and a node are kept of each, about
//! a hundred bytes, from which the rest can be made again: the rest is the same for thousands of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::reduced::{Reduce, Reduced};
use super::watch::{Keep, Seen};
use crate::decide::repair::{OwnerReference, PodView};

/// So many kinds of rest are told apart: more than pods have, since what a person may write freely is not hidden.
const RESTS: usize = 256;

/// Decides which pods are shown to those who decide, and keeps the others.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    owners: HashMap<Uid, Owner>,
    /// What pods have in common, without name, uid, node, owner and namespace.
    rests: Vec<PodView>,
    nodes: BTreeSet<Arc<str>>,
    /// Which list is being read, or was last.
    list: u16,
    hidden: usize,
    /// How many owners were left when it was looked last which of them are still needed.
    needed: usize,
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

impl Keep<Reduced<PodView>, PodView> for Sieve {
    fn take(&mut self, pod: Reduced<PodView>, show: &mut dyn FnMut(String, PodView)) -> bool {
        let view = pod.view;
        let owner_uid = view.owner.as_ref().and_then(|owner| read_uid(&owner.uid));
        let (Some(owner_uid), Some(reference)) = (owner_uid, &view.owner) else {
            // Nothing makes it, or nothing that an API server knows.
            show(view.path(), view);
            return true;
        };
        let owner = self.owners.entry(owner_uid).or_insert_with(|| Owner {
            namespace: view.namespace.as_str().into(),
            reference: reference.clone(),
            shown: false,
            hidden: Vec::new(),
        });
        let same = *owner.namespace == *view.namespace && owner.reference == *reference;
        // An annotation that means nothing can have any text: such pods have nothing in common, and their author pays for them.
        let alike = !view.agent && !matches!(view.repair, Some(Err(_)));
        let hides = view.bare.is_none() && view.resource_version.is_none() && alike && same && !owner.shown;
        if let Some((uid, rest)) = read_uid(&view.uid).filter(|_| hides).zip(rest_of(&mut self.rests, &view, hides)) {
            let node = view.node.as_deref().map(|node| shared(&mut self.nodes, node));
            let hidden = Hidden { name: view.name.into(), uid, node, rest, list: self.list };
            match owner.place(&hidden.name) {
                Ok(place) => owner.hidden[place] = hidden,
                Err(place) => {
                    if owner.hidden.len() == owner.hidden.capacity() {
                        // Half as much again would be more than all else that is kept of it.
                        owner.hidden.reserve_exact(1 + owner.hidden.len() / 8);
                    }
                    owner.hidden.insert(place, hidden);
                    self.hidden += 1;
                }
            }
            return false;
        }
        // From now on all that its owner has matters.
        owner.shown = true;
        self.hidden -= owner.hidden.len();
        for hidden in std::mem::take(&mut owner.hidden) {
            if *hidden.name != *view.name {
                let pod = hidden.show(&owner.namespace, &owner.reference, &self.rests);
                show(pod.path(), pod);
            }
        }
        show(view.path(), view);
        true
    }

    fn forget(&mut self, pod: &Reduced<PodView>) {
        let uid = pod.view.owner.as_ref().and_then(|owner| read_uid(&owner.uid));
        let Some(uid) = uid else { return };
        let Some(owner) = self.owners.get_mut(&uid) else { return };
        if let Ok(place) = owner.place(&pod.view.name) {
            owner.hidden.remove(place);
            self.hidden -= 1;
        }
        if owner.hidden.is_empty() && !owner.shown {
            self.owners.remove(&uid);
        }
    }

    fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    fn end(&mut self) {
        let list = self.list;
        for owner in self.owners.values_mut() {
            owner.hidden.retain(|hidden| hidden.list == list);
            owner.hidden.shrink_to_fit();
        }
        self.hidden = self.owners.values().map(|owner| owner.hidden.len()).sum();
        self.owners.retain(|_, owner| owner.shown || !owner.hidden.is_empty());
        self.nodes.retain(|node| Arc::strong_count(node) > 1);
    }

    fn settle(&mut self, seen: &Seen<PodView>) {
        // Now and then: an owner whose shown pods are all gone is forgotten.
        if self.owners.len() <= self.needed + self.needed / 8 + 1000 {
            return;
        }
        let needed: BTreeSet<Uid> =
            seen.iter().filter_map(|pod| pod.owner.as_ref()).filter_map(|owner| read_uid(&owner.uid)).collect();
        self.owners.retain(|uid, owner| !owner.hidden.is_empty() || needed.contains(uid));
        self.needed = self.owners.len();
    }

    fn hidden(&self) -> usize {
        self.hidden
    }
}

/// The place of what a pod has in common with others; nothing where there are too many.
fn rest_of(rests: &mut Vec<PodView>, view: &PodView, wanted: bool) -> Option<u16> {
    if !wanted {
        return None;
    }
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
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    /// What those who decide see, and how many pods there are besides.
    struct Scene {
        sieve: Sieve,
        seen: tokio::sync::watch::Sender<Seen<PodView>>,
        listing: crate::cluster::watch::Listing<PodView>,
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

    impl Scene {
        fn new() -> Self {
            let (seen, _) = tokio::sync::watch::channel(Seen::default());
            Self { sieve: Sieve::default(), seen, listing: crate::cluster::watch::Listing::default() }
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
        let mut scene = Scene::new();
        assert_eq!(scene.list([pod("a", 1, true), pod("b", 1, true), pod("c", 2, true)]), (vec![], 3));
        assert_eq!(scene.after([Event::Apply(pod("d", 1, false))]), (names(&["a", "b", "d"]), 1));
        // Each as it would have been without all this.
        for name in ["a", "b"] {
            let shown = scene.seen.borrow().objects.as_ref().unwrap()[&format!("shop/{name}")].clone();
            assert_eq!(shown, pod(name, 1, true).view);
        }
        // It stays so when that one is gone: what became of it is not over yet.
        assert_eq!(scene.after([Event::Delete(pod("d", 1, false))]), (names(&["a", "b"]), 1));
        assert_eq!(scene.after([Event::Apply(pod("e", 1, true))]), (names(&["a", "b", "e"]), 1));
    }

    #[test]
    fn the_order_of_a_list_does_not_matter_and_what_it_lacks_is_gone() {
        let all = || vec![pod("a", 1, true), pod("b", 1, false), pod("c", 1, true), pod("d", 2, true)];
        for turn in 0..4 {
            let mut scene = Scene::new();
            let mut pods = all();
            pods.rotate_left(turn);
            assert_eq!(scene.list(pods), (names(&["a", "b", "c"]), 1), "{turn}");
            assert_eq!(scene.list([pod("a", 1, true), pod("x", 3, true)]), (names(&["a"]), 1));
            assert_eq!(scene.list([pod("x", 3, true)]), (vec![], 1));
            assert_eq!(scene.list([]), (vec![], 0));
        }
    }

    #[test]
    fn one_that_takes_anothers_name_takes_its_place() {
        let mut scene = Scene::new();
        assert_eq!(scene.list([pod("a", 1, true)]), (vec![], 1));
        // Its deletion was missed: another owner's pod has its name now.
        assert_eq!(scene.list([pod("a", 2, true)]), (vec![], 1));
        assert_eq!(
            scene.after([Event::Apply(pod("b", 1, false))]),
            (names(&["b"]), 1),
            "what was the first owner's is gone"
        );
        assert_eq!(scene.after([Event::Delete(pod("a", 2, true))]), (names(&["b"]), 0));
        assert_eq!(scene.after([Event::Delete(pod("a", 2, true))]), (names(&["b"]), 0));
    }

    #[test]
    fn a_pod_that_loses_its_proxy_or_has_no_owner_is_shown() {
        let mut scene = Scene::new();
        let ownerless = read(json!({"metadata": {"name": "z", "namespace": "shop", "uid": uid(1)}}));
        assert_eq!(scene.list([pod("a", 1, true), ownerless]), (names(&["z"]), 1));
        assert_eq!(scene.after([Event::Apply(pod("a", 1, false))]), (names(&["a", "z"]), 0));
        assert_eq!(scene.seen.borrow().objects.as_ref().unwrap()["shop/a"], pod("a", 1, false).view);
    }

    #[test]
    fn owners_come_and_go_without_a_trace() {
        let mut scene = Scene::new();
        scene.list([]);
        for owner in 0..5000 {
            scene.after([Event::Apply(pod("a", owner, false)), Event::Delete(pod("a", owner, false))]);
            let meshed = 10_000 + owner;
            scene.after([Event::Apply(pod("b", meshed, true)), Event::Delete(pod("b", meshed, true))]);
        }
        assert!(scene.sieve.owners.len() <= 1001, "{}", scene.sieve.owners.len());
        assert_eq!((scene.sieve.rests.len(), scene.sieve.hidden), (1, 0));
    }

    #[test]
    fn annotations_that_mean_nothing_take_no_place_among_what_pods_have_in_common() {
        let mut scene = Scene::new();
        let odd = |owner: u128| {
            let mut pod = pod("a", owner, true);
            pod.view.repair = Some(Err(format!("nonsense-{owner}")));
            pod
        };
        scene.list((0..1000).map(odd));
        assert_eq!((scene.sieve.rests.len(), scene.sieve.hidden), (0, 0));
        scene.after([Event::Apply(pod("b", 5000, true))]);
        assert_eq!((scene.sieve.rests.len(), scene.sieve.hidden), (1, 1), "others are hidden as before");
    }

    #[test]
    fn a_uid_goes_there_and_back_or_is_none() {
        let text = "0b6f9e52-9b1f-4e0a-8d5a-0d2f3b3f9c11";
        assert_eq!(read_uid(text).map(write_uid).as_deref(), Some(text));
        for other in ["", "uid of web", "0B6F9E52-9B1F-4E0A-8D5A-0D2F3B3F9C11", "0b6f9e529-b1f-4e0a-8d5a-0d2f3b3f9c11"]
        {
            assert_eq!(read_uid(other), None, "{other}");
        }
    }
}
