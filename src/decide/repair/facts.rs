//! Everything that is seen, at one moment.

use super::view::{Kind, NamespaceView, OwnerReference, OwnerView, OwnersOfAKind, PodView};
use crate::linkerd::{TokenProjection, WebhookView};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is seen now. All of it was listed at least once.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// All pods outside the mesh and whatever else their owners have, by `namespace/name`.
    pub pods: &'a BTreeMap<String, PodView>,
    /// How many other pods there are.
    pub others: usize,
    /// All namespaces, by name.
    pub namespaces: &'a BTreeMap<String, NamespaceView>,
    /// What makes pods.
    pub owners: Owners<'a>,
    /// The injector's webhooks.
    pub webhooks: &'a WebhookView,
    /// How Linkerd was installed, in the one respect that its webhook does not tell.
    pub projection: TokenProjection,
    /// When the latest evidence was taken by which our own proof holds; nothing where it does not.
    pub proven: Option<Duration>,
    /// What a person said for the whole cluster, where that is in force.
    pub manual: Option<ManualOverride>,
    /// The time by the wall's clock, for ages that begin at an instant of the API server's.
    pub wall: Timestamp,
}

/// What a person said for the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManualOverride {
    /// `open --all`: whatever waits for injection goes on without it.
    Open,
    /// `close --all`: nothing is replaced, retried or opened.
    Closed,
}

/// What makes pods, of the five known kinds.
#[derive(Clone, Copy, Debug)]
pub struct Owners<'a> {
    /// ReplicaSets.
    pub replica_sets: &'a OwnersOfAKind,
    /// StatefulSets.
    pub stateful_sets: &'a OwnersOfAKind,
    /// DaemonSets.
    pub daemon_sets: &'a OwnersOfAKind,
    /// ReplicationControllers.
    pub replication_controllers: &'a OwnersOfAKind,
    /// Jobs.
    pub jobs: &'a OwnersOfAKind,
}

// === impl Owners ===

impl<'a> Owners<'a> {
    /// The owner that is meant: one of its name with another uid is another.
    pub fn get(&self, namespace: &str, owner: &OwnerReference) -> Option<&'a OwnerView> {
        let all = match owner.kind {
            Kind::ReplicaSet => self.replica_sets,
            Kind::StatefulSet => self.stateful_sets,
            Kind::DaemonSet => self.daemon_sets,
            Kind::ReplicationController => self.replication_controllers,
            Kind::Job => self.jobs,
            Kind::Other(_) => return None,
        };
        all.get(&format!("{namespace}/{}", owner.name)).filter(|view| view.reference.uid == owner.uid)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &'a OwnerView> + use<'a> {
        [self.replica_sets, self.stateful_sets, self.daemon_sets, self.replication_controllers, self.jobs]
            .into_iter()
            .flat_map(BTreeMap::values)
    }
}
