//! What is read of a cluster for a report, reduced to what it shows.
//!
//! Text of objects is made fit to be shown here, on arrival: no later step meets a control character.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, Node, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::check::labels::component;
use crate::check::survey::Owner;
use crate::check::{Read, Survey, Unread, clean};
use crate::decide::election::lease_record::LeaseRecord;
use crate::decide::hold;
use crate::decide::node::taint::NodeView;
use crate::decide::repair::retry;
use crate::linkerd::mesh_state::{Meshing, Started, meshing, started};

/// What the program calls itself in Events: `cluster::FIELD_MANAGER`.
const OURS: &str = "linkerd-gate";

/// A reporter's time is taken while it is at most so much before the API server's: an Event waits while the server is away.
const WAITED_AT_MOST: SignedDuration = SignedDuration::from_mins(15);

/// And at most so much after it.
const AHEAD_AT_MOST: SignedDuration = SignedDuration::from_secs(5);

/// Everything that is read.
#[derive(Debug)]
pub struct Facts {
    /// The time of this machine.
    pub now: Timestamp,
    /// How far back the report goes.
    pub since: SignedDuration,
    /// The namespace whose pods are reported; all of them where there is none.
    pub namespace: Option<String>,
    /// The Events.
    pub events: Read<Events>,
    /// The nodes.
    pub nodes: Read<Vec<NodeFact>>,
    /// Our Leases, with their names.
    pub leases: Read<Vec<LeaseFact>>,
    /// The pods.
    pub pods: Read<PodFacts>,
    /// Linkerd's control plane.
    pub linkerd: Read<ControlPlane>,
}

/// The Events of the cluster that a report shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Those that matter, in any order.
    pub kept: Vec<EventFact>,
    /// When the oldest Event of all was created: there may have been older ones.
    pub oldest: Option<Timestamp>,
    /// Why those of nodes are not among them; nothing where they are.
    pub nodes_unread: Option<Unread>,
}

/// An Event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFact {
    /// Its reason.
    pub reason: String,
    /// Whether it is a Warning.
    pub warning: bool,
    /// Its message.
    pub message: String,
    /// The kind of its object.
    pub kind: String,
    /// The namespace of its object.
    pub namespace: String,
    /// The name of its object.
    pub name: String,
    /// The uid of its object.
    pub uid: String,
    /// When it happened, at second precision.
    pub at: Timestamp,
    /// When it happened last.
    pub last: Timestamp,
    /// How often.
    pub count: usize,
    /// By how much its reporter's clock was off, where that was too far for its time to be taken.
    pub skew: Option<SignedDuration>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFact {
    /// Its name.
    pub name: String,
    /// When it joined.
    pub created: Option<Timestamp>,
    /// The id of its boot, as its kubelet says it.
    pub boot_id: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Since when.
    pub ready_since: Option<Timestamp>,
    /// Whether it has our taint.
    pub closed: bool,
    /// Whether the agent has opened it in this boot.
    pub opened: bool,
    /// The manual override, as it is written.
    pub manual_override: Option<String>,
    /// When linkerd-gate last wrote to it, by the API server.
    pub written: Option<Timestamp>,
}

/// A Lease of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFact {
    /// Its name.
    pub name: String,
    /// Who holds it: an agent's node, a controller's pod.
    pub holder: Option<String>,
    /// Since when.
    pub acquired: Option<Timestamp>,
    /// When it was renewed last.
    pub renewed: Option<Timestamp>,
    /// How often it changed hands.
    pub transitions: i32,
    /// The manual override for all nodes, as it is written.
    pub manual_override: Option<String>,
}

/// The pods.
#[derive(Debug, Default)]
pub struct PodFacts {
    /// Who is outside the mesh, by owner.
    pub survey: Survey,
    /// Pods that were created since the report begins, and are meshed.
    pub meshed: Vec<MeshedPod>,
    /// Pods that are held now, with what makes them, and their creation.
    pub held: Vec<(PodKey, Owner, Timestamp)>,
}

/// A pod in its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A meshed pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshedPod {
    /// The uid of its owner.
    pub owner_uid: String,
    /// When it was created.
    pub created: Timestamp,
    /// When the first of its containers started; nothing where none has.
    pub started: Option<Timestamp>,
}

/// Since when the first pod of each part of Linkerd's control plane is ready.
pub type ControlPlane = BTreeMap<String, Timestamp>;

/// Whole seconds: what Kubernetes' own times have.
pub fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

// === impl Events ===

impl Events {
    /// Takes in an Event: keeps what matters of it, if it does.
    pub fn add(&mut self, event: &Event) {
        let created = event.metadata.creation_timestamp.as_ref().map(|time| seconds(time.0));
        self.oldest = [self.oldest, created].into_iter().flatten().min();
        self.kept.extend(EventFact::of(event));
    }
}

// === impl EventFact ===

impl EventFact {
    /// What matters of an Event; nothing of one that no report shows.
    pub fn of(event: &Event) -> Option<Self> {
        let reason = event.reason.as_deref().unwrap_or_default();
        let message = event.message.as_deref().unwrap_or_default();
        let object = &event.involved_object;
        let kind = object.kind.as_deref().unwrap_or_default();
        let source = event.source.as_ref().and_then(|source| source.component.as_deref()).unwrap_or_default();
        let component = event.reporting_component.as_deref().filter(|it| !it.is_empty()).unwrap_or(source);
        let matters = match reason {
            "Rebooted" | "NodeReady" | "NodeNotReady" | "NodeShutdown" => kind == "Node",
            "FailedCreate" => retry::is_ours(message),
            _ => component == OURS && (reason.starts_with("Gate") || OF_PODS.contains(&reason)),
        };
        let created = event.metadata.creation_timestamp.as_ref().map(|time| seconds(time.0));
        let first = event.first_timestamp.as_ref().map(|time| time.0);
        let first = first.or_else(|| event.event_time.as_ref().map(|time| time.0)).map(seconds);
        let (at, skew) = match (created, first) {
            (Some(created), Some(first)) => {
                let off = first.duration_since(created);
                if off > AHEAD_AT_MOST || off < -WAITED_AT_MOST { (created, Some(off)) } else { (first, None) }
            }
            (created, first) => (created.or(first)?, None),
        };
        if !matters {
            return None;
        }
        let series = event.series.as_ref();
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let last = series.and_then(|series| series.last_observed_time.as_ref().map(|time| time.0)).or(last);
        // A reporter whose clock is off is off by the same in both.
        let lasted = last.zip(first).map(|(last, first)| seconds(last).duration_since(first));
        let lasted = lasted.unwrap_or_default().max(SignedDuration::ZERO);
        let count = series.and_then(|series| series.count).or(event.count).unwrap_or(1);
        Some(Self {
            reason: reason.to_owned(),
            warning: event.type_.as_deref() == Some("Warning"),
            message: clean(message),
            kind: clean(kind),
            namespace: clean(object.namespace.as_deref().unwrap_or_default()),
            name: clean(object.name.as_deref().unwrap_or_default()),
            uid: object.uid.clone().unwrap_or_default(),
            at,
            last: at.checked_add(lasted).unwrap_or(at),
            count: usize::try_from(count).unwrap_or(1).max(1),
            skew,
        })
    }
}

/// The reasons of our Events on pods and on what makes them.
const OF_PODS: [&str; 10] = [
    "OutsideMesh",
    "PodsOutsideMesh",
    "Replacing",
    "ReplacementRefused",
    "ReplacementFailed",
    "NotCreatedAgain",
    "ReplacementsOutsideMesh",
    "Released",
    "ReleasedWithoutProxy",
    "ReleaseFailed",
];

// === impl NodeFact ===

impl NodeFact {
    /// What matters of a node whose taint would have this key.
    pub fn of(node: &Node, taint_key: &str) -> Self {
        let view = NodeView::of(node);
        let status = node.status.as_ref();
        let boot_id = status.and_then(|status| Some(status.node_info.as_ref()?.boot_id.clone())).unwrap_or_default();
        let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.find(|condition| condition.type_ == "Ready");
        let managed = node.metadata.managed_fields.iter().flatten();
        let ours = managed.filter(|entry| entry.manager.as_deref() == Some(OURS));
        Self {
            name: clean(&view.name),
            created: node.metadata.creation_timestamp.as_ref().map(|time| seconds(time.0)),
            ready: view.ready,
            ready_since: ready.and_then(|it| Some(seconds(it.last_transition_time.as_ref()?.0))),
            closed: view.taint(taint_key).is_some(),
            opened: !boot_id.is_empty() && view.opened_boot.as_ref() == Some(&boot_id),
            boot_id,
            manual_override: view.manual_override.as_deref().map(clean),
            written: ours.filter_map(|entry| Some(seconds(entry.time.as_ref()?.0))).max(),
        }
    }
}

// === impl LeaseFact ===

impl LeaseFact {
    /// What matters of a Lease.
    pub fn of(lease: &Lease) -> Self {
        let record = LeaseRecord::of(lease);
        let spec = lease.spec.as_ref();
        Self {
            name: clean(lease.metadata.name.as_deref().unwrap_or_default()),
            holder: record.holder.map(|holder| clean(&holder.name)),
            acquired: spec.and_then(|spec| Some(seconds(spec.acquire_time.as_ref()?.0))),
            renewed: spec.and_then(|spec| Some(seconds(spec.renew_time.as_ref()?.0))),
            transitions: record.transitions,
            manual_override: record.manual_override.as_deref().map(clean),
        }
    }
}

// === impl PodFacts ===

impl PodFacts {
    /// Takes in a pod; of meshed ones those that were created since `from`.
    pub fn add(&mut self, pod: &Pod, from: Timestamp) {
        self.survey.add(pod);
        let metadata = &pod.metadata;
        let key = PodKey::of(pod);
        let Some(created) = metadata.creation_timestamp.as_ref().map(|time| seconds(time.0)) else { return };
        let going = metadata.deletion_timestamp.is_some();
        if meshing(pod) == Meshing::Meshed && created >= from && !going {
            let mut owners = metadata.owner_references.iter().flatten();
            let owner = owners.find(|owner| owner.controller == Some(true));
            let owner_uid = owner.map(|owner| owner.uid.clone()).unwrap_or_default();
            self.meshed.push(MeshedPod { owner_uid, created, started: first_start(pod) });
        } else if hold::is_gated(pod) && started(pod) == Started::Never && !going {
            self.held.push((key, Owner::of(pod), created));
        }
    }
}

/// Notes since when a pod of Linkerd's control plane is ready, if it is one.
pub fn note_control_plane(parts: &mut ControlPlane, pod: &Pod) {
    let Some(part) = component(pod.metadata.labels.as_ref()) else { return };
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.find(|condition| condition.type_ == "Ready" && condition.status == "True");
    let Some(since) = ready.and_then(|ready| Some(seconds(ready.last_transition_time.as_ref()?.0))) else { return };
    let known = parts.entry(clean(part)).or_insert(since);
    *known = since.min(*known);
}

fn first_start(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.filter_map(began).map(seconds).min()
}

fn began(status: &ContainerStatus) -> Option<Timestamp> {
    let of = |state: &ContainerState| {
        let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
        let ended = state.terminated.as_ref().and_then(|ended| ended.started_at.as_ref());
        running.or(ended).map(|time| time.0)
    };
    [&status.last_state, &status.state].into_iter().flatten().filter_map(of).min()
}

// === impl PodKey ===

impl PodKey {
    fn of(pod: &Pod) -> Self {
        let text = |text: Option<&str>| clean(text.unwrap_or_default());
        Self { namespace: text(pod.metadata.namespace.as_deref()), name: text(pod.metadata.name.as_deref()) }
    }
}
