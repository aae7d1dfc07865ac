//! A pod, or what makes pods, kept small: of ten thousand pods only that which decisions and explanations need.

use super::{
    read::{Place, Repeated},
    template::Removed,
};
use k8s_openapi::{
    api::{
        batch::v1::PodFailurePolicy,
        core::v1::{Affinity, Container, ContainerState, ContainerStatus, NodeAffinity, Pod, PodStatus, Volume},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// A pod, or what makes pods.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) place: Place,
    pub(super) kind: String,
    pub(super) name: String,
    /// As it is written; nothing where it is left to the command that applies it.
    pub(super) namespace: Option<String>,
    /// The pod itself, or the one that the template makes.
    pub(super) pod: Kept,
    pub(super) maker: Maker,
    /// For a pod: nothing. For everything else: where the pod's template is.
    pub(super) template: Option<String>,
    /// The annotation `linkerd.io/inject` on the workload itself, where nothing reads it.
    pub(super) unread_annotation: Option<String>,
    /// Fields of the pod, its metadata or its template that Kubernetes does not know.
    pub(super) unknown_fields: Vec<String>,
    /// Where no API server takes its version.
    pub(super) removed: Option<Removed>,
    /// Keys that stand twice.
    pub(super) repeated: Vec<Repeated>,
    pub(super) limits: Limits,
}

/// A pod in few bytes: as JSON.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Box<[u8]>);

/// What ends a pod that is held, or what a held pod holds up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// `activeDeadlineSeconds` of its Job.
    pub(super) deadline: Option<i64>,
    /// Its CronJob's `concurrencyPolicy` is Forbid.
    pub(super) one_at_a_time: bool,
}

/// Who makes a pod, and makes another in its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Maker {
    /// No controller: a person or a program made it.
    NoOwner,

    /// A Job, with this policy.
    Job(Option<PodFailurePolicy>),

    /// A Job that is not here.
    JobElsewhere,

    /// Something else, of this kind.
    Other(String),
}

// === impl Subject ===

impl Subject {
    /// Whether this is a pod that an API server has already admitted.
    pub(super) fn exists(&self, pod: &Pod) -> bool {
        self.template.is_none() && pod.metadata.uid.is_some()
    }
}

// === impl Maker ===

impl Maker {
    /// The maker of a pod, by its owners. Only its controller creates another; any other owner just takes it along when it goes.
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        match owners.iter().find(|owner| owner.controller == Some(true)) {
            None => Self::NoOwner,
            Some(owner) if owner.kind == "Job" && owner.api_version.starts_with("batch/") => Self::JobElsewhere,
            Some(owner) => Self::Other(owner.kind.clone()),
        }
    }

    /// Whether it is known to make another pod in place of one that is deleted, at no cost to itself. Of other kinds it is
    /// not known: a step of a Workflow fails.
    pub(super) fn is_known(&self) -> bool {
        const KNOWN: [&str; 5] = ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"];
        matches!(self, Self::Other(kind) if KNOWN.contains(&kind.as_str()))
    }
}

// === impl Kept ===

impl Kept {
    /// Keeps of a pod what is needed.
    pub(super) fn new(mut pod: Pod) -> Self {
        reduce(&mut pod);
        Self(serde_json::to_vec(&pod).unwrap_or_default().into_boxed_slice())
    }

    /// The pod again.
    pub(super) fn pod(&self) -> Pod {
        serde_json::from_slice(&self.0).unwrap_or_default()
    }
}

fn reduce(pod: &mut Pod) {
    let metadata = &mut pod.metadata;
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| {
            let key = key.to_ascii_lowercase();
            key.contains("linkerd") || key.contains("inject")
        });
    }
    if let Some(spec) = &mut pod.spec {
        spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(reduce_container);
        for volume in spec.volumes.iter_mut().flatten() {
            *volume = Volume { name: std::mem::take(&mut volume.name), ..Volume::default() };
        }
        let required = spec
            .affinity
            .take()
            .and_then(|affinity| affinity.node_affinity)
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution);
        spec.affinity = required.map(|required| Affinity {
            node_affinity: Some(NodeAffinity {
                required_during_scheduling_ignored_during_execution: Some(required),
                ..NodeAffinity::default()
            }),
            ..Affinity::default()
        });
        spec.tolerations = None;
        spec.topology_spread_constraints = None;
        spec.ephemeral_containers = None;
    }
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        conditions: status.conditions,
        container_statuses: status.container_statuses.map(reduce_statuses),
        init_container_statuses: status.init_container_statuses.map(reduce_statuses),
        ..PodStatus::default()
    });
}

fn reduce_container(container: &mut Container) {
    if let Some(env) = &mut container.env {
        env.retain(|variable| variable.name.starts_with("LINKERD_GATE_"));
    }
    container.liveness_probe = None;
    container.readiness_probe = None;
    container.startup_probe = None;
    container.lifecycle = None;
    container.ports = None;
    container.resources = None;
}

fn reduce_statuses(statuses: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    let state = |state: ContainerState| ContainerState { waiting: None, ..state };
    let reduce = |status: ContainerStatus| ContainerStatus {
        name: status.name,
        ready: status.ready,
        restart_count: status.restart_count,
        started: status.started,
        state: status.state.map(state),
        last_state: status.last_state.map(state),
        ..ContainerStatus::default()
    };
    statuses.into_iter().map(reduce).collect()
}
