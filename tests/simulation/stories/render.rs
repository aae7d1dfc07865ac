//! Pods and owners as Kubernetes' own objects, from which the program reads what decides.

use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetStatus, ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus, StatefulSet,
    StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateWaiting, ContainerStatus, EnvVar, Namespace, Pod,
    PodCondition, PodSchedulingGate, PodSpec, PodStatus, PodTemplateSpec, ReplicationController,
    ReplicationControllerSpec, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use linkerd_gate_core::decide::hold;
use linkerd_gate_core::decide::repair::object::{ADMISSION, EXEMPT, JOB_TRACKING, REPAIR, SUSPENDED};
use linkerd_gate_core::decide::repair::{Kind, NamespaceView, OwnerView};
use linkerd_gate_core::linkerd::mesh_state::WAIT;
use linkerd_gate_core::linkerd::names;

use crate::objects::{AppPod, Ask, Owner, Reported, Template};
use crate::world::node_name;

pub fn pod(pod: &AppPod) -> Pod {
    let owner = pod.reference.as_ref().map(|owner| {
        let (api_version, kind) = owner.kind.names();
        meta::OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            controller: Some(true),
            ..meta::OwnerReference::default()
        }
    });
    let mut metadata = ObjectMeta {
        name: Some(pod.name.clone()),
        namespace: Some(pod.namespace.to_owned()),
        uid: Some(pod.uid.clone()),
        resource_version: Some(pod.version.to_string()),
        owner_references: owner.map(|owner| vec![owner]),
        creation_timestamp: Some(meta::Time(pod.created)),
        deletion_timestamp: pod.deleting.then_some(meta::Time(pod.created)),
        finalizers: pod.tracked.then(|| vec![JOB_TRACKING.to_owned()]),
        ..template_metadata(pod.template)
    };
    if pod.meshed {
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(names::label::CONTROL_PLANE_NS.to_owned(), names::DEFAULT_NAMESPACE.to_owned());
    }
    if pod.released {
        metadata.annotations.get_or_insert_default().insert(hold::RELEASE.to_owned(), "true".to_owned());
    }
    let mut spec = spec(pod.template);
    if pod.meshed {
        spec.containers.push(container(names::container::PROXY));
    }
    spec.node_name = pod.node.map(node_name);
    spec.scheduling_gates = pod.gated.then(|| vec![PodSchedulingGate { name: hold::GATE.to_owned() }]);
    Pod { metadata, spec: Some(spec), status: Some(status(pod)) }
}

fn template_metadata(template: Template) -> ObjectMeta {
    let mut annotations = Vec::new();
    match template.ask {
        Ask::ByPod => annotations.push((names::annotation::INJECT.to_owned(), names::inject::ENABLED.to_owned())),
        Ask::Declines => annotations.push((names::annotation::INJECT.to_owned(), names::inject::DISABLED.to_owned())),
        Ask::Invalid => annotations.push((names::annotation::INJECT.to_owned(), "Enabled".to_owned())),
        Ask::ByNamespace | Ask::Nothing | Ask::HostNetwork => {}
    }
    if template.report {
        annotations.push((REPAIR.to_owned(), "report".to_owned()));
    }
    ObjectMeta {
        annotations: Some(annotations.into_iter().collect()),
        labels: template.exempt.then(|| [(ADMISSION.to_owned(), EXEMPT.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn spec(template: Template) -> PodSpec {
    PodSpec {
        containers: vec![container("app")],
        init_containers: template.waits.then(|| vec![wait(template)]),
        host_network: (template.ask == Ask::HostNetwork).then_some(true),
        ..PodSpec::default()
    }
}

fn wait(template: Template) -> Container {
    let variable = EnvVar {
        name: "LINKERD_GATE_ON_MISSED".to_owned(),
        value: Some(template.on_missed.to_string()),
        ..EnvVar::default()
    };
    Container { env: Some(vec![variable]), ..container(WAIT) }
}

fn container(name: &str) -> Container {
    Container { name: name.to_owned(), ..Container::default() }
}

fn status(pod: &AppPod) -> PodStatus {
    let waiting = || ContainerState { waiting: Some(ContainerStateWaiting::default()), ..ContainerState::default() };
    let running = || ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() };
    let of = |name: &str, state: ContainerState, restarts: i32| ContainerStatus {
        name: name.to_owned(),
        state: Some(state),
        restart_count: restarts,
        ..ContainerStatus::default()
    };
    let condition = |kind: &str, met: bool| PodCondition {
        type_: kind.to_owned(),
        status: if met { "True" } else { "False" }.to_owned(),
        ..PodCondition::default()
    };
    let (phase, wait, app, initialized, ready) = match pod.reported {
        Reported::Nothing => return PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() },
        Reported::Waiting => ("Pending", waiting(), waiting(), !pod.template.waits, false),
        Reported::Waits => ("Pending", running(), waiting(), false, false),
        Reported::Runs { ready } => ("Running", ContainerState::default(), running(), true, ready),
        Reported::Succeeded => ("Succeeded", ContainerState::default(), ContainerState::default(), true, false),
    };
    let mut containers = vec![of("app", app.clone(), pod.restarts)];
    if pod.meshed {
        containers.push(of(names::container::PROXY, app, pod.restarts));
    }
    PodStatus {
        phase: Some(phase.to_owned()),
        container_statuses: Some(containers),
        init_container_statuses: pod.template.waits.then(|| vec![of(WAIT, wait, 0)]),
        conditions: Some(vec![condition("Initialized", initialized), condition("Ready", ready)]),
        ..PodStatus::default()
    }
}

pub fn owner(owner: &Owner) -> OwnerView {
    let metadata = ObjectMeta {
        name: Some(owner.reference.name.clone()),
        namespace: Some(owner.namespace.to_owned()),
        uid: Some(owner.reference.uid.clone()),
        resource_version: Some(owner.version.to_string()),
        annotations: owner.mark.as_ref().map(|mark| [(SUSPENDED.to_owned(), mark.clone())].into()),
        ..ObjectMeta::default()
    };
    let number = |count: usize| i32::try_from(count).unwrap();
    let (has, wanted) = (number(owner.has), number(owner.wanted));
    match owner.reference.kind {
        Kind::StatefulSet => OwnerView::of_stateful_set(&StatefulSet {
            metadata,
            spec: Some(StatefulSetSpec { replicas: Some(wanted), ..StatefulSetSpec::default() }),
            status: Some(StatefulSetStatus { replicas: has, ..StatefulSetStatus::default() }),
        }),
        Kind::DaemonSet => OwnerView::of_daemon_set(&DaemonSet {
            metadata,
            spec: None,
            status: Some(DaemonSetStatus {
                current_number_scheduled: has,
                desired_number_scheduled: number(owner.desired),
                ..DaemonSetStatus::default()
            }),
        }),
        Kind::ReplicationController => OwnerView::of_replication_controller(&ReplicationController {
            metadata,
            spec: Some(ReplicationControllerSpec { replicas: Some(wanted), ..ReplicationControllerSpec::default() }),
            status: Some(ReplicationControllerStatus { replicas: has, ..ReplicationControllerStatus::default() }),
        }),
        Kind::Job => OwnerView::of_job(&job(owner, metadata, has, wanted)),
        _ => OwnerView::of_replica_set(&ReplicaSet {
            metadata,
            spec: Some(ReplicaSetSpec { replicas: Some(wanted), ..ReplicaSetSpec::default() }),
            status: Some(ReplicaSetStatus {
                replicas: has,
                conditions: owner.refused.then(|| {
                    vec![ReplicaSetCondition {
                        type_: "ReplicaFailure".to_owned(),
                        status: "True".to_owned(),
                        message: Some(
                            "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding \
                             'linkerd-gate-guard' denied request: not injected"
                                .to_owned(),
                        ),
                        ..ReplicaSetCondition::default()
                    }]
                }),
                ..ReplicaSetStatus::default()
            }),
        }),
    }
}

fn job(owner: &Owner, metadata: ObjectMeta, active: i32, completions: i32) -> Job {
    Job {
        metadata,
        spec: Some(JobSpec {
            suspend: Some(owner.suspended),
            parallelism: Some(completions),
            completions: Some(completions),
            template: PodTemplateSpec {
                metadata: Some(template_metadata(owner.template)),
                spec: Some(spec(owner.template)),
            },
            ..JobSpec::default()
        }),
        status: Some(JobStatus {
            active: Some(active),
            succeeded: Some(i32::try_from(owner.succeeded).unwrap()),
            conditions: owner.is_over().then(|| {
                vec![JobCondition {
                    type_: if owner.failed > 0 { "Failed" } else { "Complete" }.to_owned(),
                    status: "True".to_owned(),
                    ..JobCondition::default()
                }]
            }),
            ..JobStatus::default()
        }),
    }
}

/// The two namespaces of the applications, of which one asks.
pub fn namespaces() -> [(&'static str, NamespaceView); 2] {
    ["shop", "plain"].map(|name| {
        let asks = || [(names::annotation::INJECT.to_owned(), names::inject::ENABLED.to_owned())].into();
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            annotations: (name == "shop").then(asks),
            ..ObjectMeta::default()
        };
        (name, NamespaceView::of(&Namespace { metadata, ..Namespace::default() }))
    })
}

/// The mark on a Job that is suspended at this instant.
pub fn mark(now: Timestamp) -> String {
    now.to_string()
}
