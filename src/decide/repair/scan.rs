//! One pass over all pods: which are outside the mesh, and what else their owners have.

use crate::linkerd::injection::injection_of;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use strum::EnumCount;

use super::object::{Kind, Life, NamespaceView, OwnerReference, OwnerView, OwnersOfAKind, PodView};
use crate::linkerd::{Injection, Started, TokenProjection, WebhookView};

/// What is seen now. All of it was listed at least once.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
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
    pub manual: Option<ClusterOverride>,
    /// The time by the wall's clock, for ages that begin at an instant of the API server's.
    pub wall: Timestamp,
}

/// What a person said for the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterOverride {
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

/// How a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It has its proxy.
    Meshed,
    /// It has none, and should have none.
    Skipped,
    /// It is over, or going away.
    Over,
    /// It should have a proxy, and has none.
    Missed(MissedState),
    /// Its namespace has not been seen yet.
    Unknown,
}

/// What a missed pod has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumCount)]
pub enum MissedState {
    /// No app container has ever started, for certain.
    Held,
    /// One has, or it is not known.
    Running,
}

/// How `pod` stands.
pub fn pod_state(pod: &PodView, snapshot: &Snapshot<'_>) -> PodState {
    if matches!(pod.life, Life::Going | Life::Finished) {
        return PodState::Over;
    }
    let Some(input) = &pod.bare else { return PodState::Meshed };
    let Some(namespace) = snapshot.namespaces.get(&pod.namespace) else { return PodState::Unknown };
    match injection_of(input, &namespace.input, snapshot.webhooks, snapshot.projection) {
        Injection::Inject(_) => PodState::Missed(MissedState::of(pod.started)),
        // Where match conditions decide only the API server knows: no pod counts as missed.
        Injection::Conditional(_) | Injection::Skip(_) | Injection::NotCalled(_) => PodState::Skipped,
    }
}

// === impl MissedState ===

impl MissedState {
    /// Both.
    pub const ALL: [Self; Self::COUNT] = [Self::Held, Self::Running];

    fn of(started: Started) -> Self {
        match started {
            Started::Never => Self::Held,
            Started::Ever | Started::Unknown => Self::Running,
        }
    }

    /// One word, for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Running => "running",
        }
    }
}

impl fmt::Display for MissedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one pass over all pods found.
#[derive(Debug)]
pub struct Scan<'a> {
    /// Every pod that is missed.
    pub missed: Vec<(&'a PodView, MissedState)>,
    /// Of every owner that has missed pods, had some, or is a Job that we suspended, by uid: all its pods and how they stand.
    pub siblings: BTreeMap<&'a str, Vec<(&'a PodView, PodState)>>,
    /// Every pod with our scheduling gate that is neither over nor going away, and how it stands.
    pub gated: Vec<(&'a PodView, PodState)>,
    /// Every pod that has no proxy and should have none.
    pub(super) skipped: Vec<&'a PodView>,
}

// === impl Scan ===

impl<'a> Scan<'a> {
    /// Looks at every pod once. `remembers`: whether an owner had missed pods lately, by its uid.
    pub fn of(snapshot: &Snapshot<'a>, remembers: impl Fn(&str) -> bool) -> Self {
        let states: Vec<_> = snapshot.pods.values().map(|pod| (pod, pod_state(pod, snapshot))).collect();
        let mut scan = Self { missed: Vec::new(), siblings: BTreeMap::new(), gated: Vec::new(), skipped: Vec::new() };
        let mut owners: BTreeSet<&str> =
            snapshot.owners.jobs.values().filter(|job| is_marked(job)).map(|job| job.reference.uid.as_str()).collect();
        for (pod, state) in &states {
            if pod.scheduling_gate.is_some() && *state != PodState::Over {
                scan.gated.push((pod, *state));
            }
            match state {
                PodState::Missed(missed) => {
                    scan.missed.push((pod, *missed));
                    owners.extend(pod.owner.as_ref().map(|owner| owner.uid.as_str()));
                }
                // What has our gate runs nowhere: there is nothing to remember of it.
                PodState::Skipped if pod.scheduling_gate.is_some() => {}
                PodState::Skipped => scan.skipped.push(pod),
                PodState::Meshed | PodState::Over | PodState::Unknown => {}
            }
        }
        for (pod, state) in states {
            let Some(owner) = &pod.owner else { continue };
            if owners.contains(owner.uid.as_str()) || remembers(&owner.uid) {
                scan.siblings.entry(&owner.uid).or_default().push((pod, state));
            }
        }
        scan
    }

    /// What an owner has.
    pub fn siblings_of(&self, owner: &str) -> &[(&'a PodView, PodState)] {
        self.siblings.get(owner).map_or(&[], Vec::as_slice)
    }
}

fn is_marked(job: &OwnerView) -> bool {
    job.job().is_some_and(|job| job.suspended_by_us.is_some())
}
