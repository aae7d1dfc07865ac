//! Pods, namespaces and owners, reduced on arrival to what decides: a controller keeps those of the whole cluster in mind.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use strum::{Display, EnumString};

use crate::decide::hold;
use crate::linkerd::mesh_state::{meshed, started};
use crate::linkerd::{NamespaceInput, PodInput, Started};

/// On a namespace or a pod: how its missed pods are repaired, whatever the controller's setting.
pub const REPAIR: &str = "linkerd-gate/repair";

/// On an owner: when it was last asked to try a refused create again.
pub const RETRIED_AT: &str = "linkerd-gate/retried-at";

/// On a Job: that we suspended it, and since when. Whoever finds it resumes the Job.
pub const SUSPENDED: &str = "linkerd-gate/suspended-at";

/// On a namespace or a pod: what admission does about it. [`EXEMPT`] is nothing.
pub const ADMISSION: &str = "linkerd-gate/admission";

/// The value of [`ADMISSION`] by which our policies leave a pod alone.
pub const EXEMPT: &str = "exempt";

/// The finalizer by which a Job counts a pod (<https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-tracking-with-finalizers>).
/// A gated pod that is deleted without it counts as nothing: neither a failure nor a retry (seen, in every variant of Job that was
/// tried).
pub const JOB_TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// By this annotation a kubelet says that a pod is its own, of a file (<https://kubernetes.io/docs/reference/labels-annotations-taints/>).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is replaced of what is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Repair {
    /// Nothing.
    Report,
    /// What never ran.
    Held,
    /// What runs as well, by eviction.
    Running,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is written apart from the others")]
pub struct PodView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// For the precondition of a removal; nothing where it will never be removed, so that its changes wake no loop.
    pub resource_version: Option<String>,
    /// The owner that creates it again.
    pub owner: Option<OwnerReference>,
    /// What decides whether it should have a proxy; nothing where it has one.
    pub bare: Option<PodInput>,
    /// Whether an app container has ever started.
    pub started: Started,
    /// Where it is in its life.
    pub life: Life,
    /// Whether it stands for a file on a node.
    pub mirror: bool,
    /// The annotation [`REPAIR`]: its meaning, or its text where it has none.
    pub repair: Option<Result<Repair, String>>,
    /// Whether `wait` is among its init containers.
    pub waits: bool,
    /// Whether that `wait` may let it start outside the mesh, by its variables, so that it can start at any moment.
    pub wait_opens: bool,
    /// Our scheduling gate; nothing where it has none.
    pub scheduling_gate: Option<Box<SchedulingGateView>>,
    /// Whether a person lets it run without a proxy: the annotation [`RELEASE`](hold::RELEASE).
    pub released: bool,
    /// Its node.
    pub node: Option<String>,
    /// Whether it is an agent of ours, by its label; the reader knows the namespace.
    pub agent: bool,
}

/// What matters of a pod that our scheduling gate keeps from a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchedulingGateView {
    /// The place of our gate among the pod's scheduling gates.
    pub index: usize,
    /// Whether the pod itself carries the label [`ADMISSION`] with the value [`EXEMPT`].
    pub exempt: bool,
    /// Whether it has the finalizer [`JOB_TRACKING`].
    pub tracked: bool,
    /// A finalizer of another program, which keeps a deleted pod there.
    pub foreign_finalizer: Option<String>,
    /// When it was created, by the API server's clock.
    pub created: Option<Timestamp>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Not ready, not ready yet, or not ready any more.
    Unready,
    /// Ready.
    Ready,
    /// Going away: it was deleted, and has its grace period.
    Going,
    /// Over: it succeeded or failed.
    Finished,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceView {
    /// What decides about injection.
    pub input: NamespaceInput,
    /// The annotation [`REPAIR`], as on a pod.
    pub repair: Option<Result<Repair, String>>,
    /// Whether it is going away.
    pub terminating: bool,
    /// Whether it carries the label [`ADMISSION`] with the value [`EXEMPT`].
    pub exempt: bool,
}

/// The owner that creates a pod again, as the pod names it: its controller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerReference {
    /// What it is.
    pub kind: Kind,
    /// Its name, in the namespace of its pods.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What an owner is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `apps` ReplicaSet, mostly of a Deployment.
    ReplicaSet,
    /// `apps` StatefulSet.
    StatefulSet,
    /// `apps` DaemonSet.
    DaemonSet,
    /// ReplicationController.
    ReplicationController,
    /// `batch` Job.
    Job,
    /// Anything else, by its `apiVersion` and kind: it is not known what it does when its pods are deleted.
    Other(String),
}

/// An owner of one of the five known kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerView {
    /// Itself.
    pub reference: OwnerReference,
    /// Its namespace.
    pub namespace: String,
    /// For preconditions; only of a Job, which is the only one whose spec is written.
    pub resource_version: Option<String>,
    /// Whether it is going away.
    pub deleting: bool,
    /// How many pods it has made that are there, or have done what they were made for.
    pub has: i32,
    /// Whether that is fewer than it wants.
    pub wants: bool,
    /// A ReplicaSet's condition `ReplicaFailure`, in its own words.
    pub failure: Option<String>,
    /// What its kind adds.
    pub detail: Detail,
}

/// What a kind of owner adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing.
    Plain,
    /// A DaemonSet: how many of its pods may be unavailable at a time, at least one.
    DaemonSet {
        /// That many.
        max_unavailable: usize,
    },
    /// A Job.
    Job(JobDetail),
}

/// Which evicted pods a Job does not count as failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignores {
    /// None for certain.
    #[default]
    Nothing,
    /// Those that `wait` holds.
    Held,
    /// All.
    Everything,
}

/// What a Job adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobDetail {
    /// Which of its pods its `podFailurePolicy` ignores when they are evicted.
    pub ignores_eviction: Ignores,
    /// `spec.suspend`
    pub suspended: bool,
    /// The annotation [`SUSPENDED`].
    pub suspended_by_us: Option<String>,
    /// Who else manages `suspend`, in words.
    pub managed: Option<String>,
    /// Whether it is over.
    pub finished: bool,
    /// `status.active`
    pub active: i32,
    /// What its pods would be; only of a Job with our mark, which has none.
    pub template: Option<Box<TemplateView>>,
}

/// What a Job makes its pods of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateView {
    /// What decides whether they should have a proxy.
    pub input: PodInput,
    /// The annotation [`REPAIR`], as on a pod.
    pub repair: Option<Result<Repair, String>>,
}

/// The number at the end of a StatefulSet's pod's name.
pub(super) fn ordinal(name: &str) -> Option<u64> {
    name.rsplit_once('-')?.1.parse().ok()
}

// === impl PodView ===

impl PodView {
    /// What decides of a Pod.
    pub fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let meshed = meshed(pod);
        let finished = matches!(phase, "Succeeded" | "Failed");
        let mut conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default().iter();
        let wait = hold::wait_of(pod);
        let scheduling_gate = SchedulingGateView::of(pod).map(Box::new);
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata
                .resource_version
                .clone()
                .filter(|_| (!meshed || scheduling_gate.is_some()) && !finished),
            owner: OwnerReference::of(metadata),
            bare: (!meshed).then(|| PodInput::of(pod)),
            started: started(pod),
            life: if finished {
                Life::Finished
            } else if metadata.deletion_timestamp.is_some() {
                Life::Going
            } else if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
                Life::Ready
            } else {
                Life::Unready
            },
            mirror: annotation(metadata, MIRROR).is_some(),
            repair: repair(metadata),
            waits: wait.is_some(),
            wait_opens: wait.is_some_and(hold::may_open),
            scheduling_gate,
            released: hold::is_released(pod),
            node: spec.and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()),
            agent: label(metadata, "app.kubernetes.io/name") == Some("linkerd-gate")
                && label(metadata, "app.kubernetes.io/component") == Some("agent"),
        }
    }

    /// Whether it is over.
    pub fn is_finished(&self) -> bool {
        self.life == Life::Finished
    }

    /// Its name, with its namespace.
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

// === impl SchedulingGateView ===

impl SchedulingGateView {
    fn of(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let mut foreign = metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != JOB_TRACKING);
        Some(Self {
            index: hold::gates(pod).iter().position(|gate| gate.name == hold::GATE)?,
            exempt: label(metadata, ADMISSION) == Some(EXEMPT),
            tracked: metadata.finalizers.iter().flatten().any(|finalizer| finalizer == JOB_TRACKING),
            foreign_finalizer: foreign.next().cloned(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        })
    }
}

// === impl TemplateView ===

impl TemplateView {
    fn of(template: &PodTemplateSpec) -> Self {
        let metadata = template.metadata.clone().unwrap_or_default();
        let repair = repair(&metadata);
        Self { input: PodInput::of(&Pod { metadata, spec: template.spec.clone(), status: None }), repair }
    }
}

// === impl NamespaceView ===

impl NamespaceView {
    /// What decides of a Namespace.
    pub fn of(namespace: &Namespace) -> Self {
        let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            input: NamespaceInput::of(namespace),
            repair: repair(&namespace.metadata),
            terminating: namespace.metadata.deletion_timestamp.is_some() || phase == Some("Terminating"),
            exempt: label(&namespace.metadata, ADMISSION) == Some(EXEMPT),
        }
    }
}

// === impl OwnerReference ===

impl OwnerReference {
    /// The controller among the owners.
    fn of(metadata: &ObjectMeta) -> Option<Self> {
        let mut owners = metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true))?;
        Some(Self { kind: Kind::of(&owner.api_version, &owner.kind), name: owner.name.clone(), uid: owner.uid.clone() })
    }
}

impl fmt::Display for OwnerReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

// === impl Kind ===

impl Kind {
    /// The kind that an owner reference names. Another group's `Job` is another kind.
    pub fn of(api_version: &str, kind: &str) -> Self {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, kind) {
            ("apps", "ReplicaSet") => Self::ReplicaSet,
            ("apps", "StatefulSet") => Self::StatefulSet,
            ("apps", "DaemonSet") => Self::DaemonSet,
            ("", "ReplicationController") => Self::ReplicationController,
            ("batch", "Job") => Self::Job,
            _ => Self::Other(format!("{api_version} {kind}")),
        }
    }

    /// `apiVersion` and `kind`, as an Event's `involvedObject` has them.
    pub fn names(&self) -> (&str, &str) {
        match self {
            Self::ReplicaSet => ("apps/v1", "ReplicaSet"),
            Self::StatefulSet => ("apps/v1", "StatefulSet"),
            Self::DaemonSet => ("apps/v1", "DaemonSet"),
            Self::ReplicationController => ("v1", "ReplicationController"),
            Self::Job => ("batch/v1", "Job"),
            Self::Other(name) => name.split_once(' ').unwrap_or(("", name)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(name) => f.write_str(name),
            known => f.write_str(known.names().1),
        }
    }
}

// === impl OwnerView ===

impl OwnerView {
    /// What decides of a ReplicaSet.
    pub fn of_replica_set(set: &ReplicaSet) -> Self {
        let status = set.status.as_ref();
        let mut conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default().iter();
        let failure = conditions.find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
        let has = status.map_or(0, |status| status.replicas);
        Self {
            failure: failure.map(|condition| condition.message.clone().unwrap_or_default()),
            has,
            wants: has < set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            ..Self::plain(Kind::ReplicaSet, &set.metadata)
        }
    }

    /// What decides of a StatefulSet.
    pub fn of_stateful_set(set: &StatefulSet) -> Self {
        let has = set.status.as_ref().map_or(0, |status| status.replicas);
        Self {
            has,
            wants: has < set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            ..Self::plain(Kind::StatefulSet, &set.metadata)
        }
    }

    /// What decides of a DaemonSet.
    pub fn of_daemon_set(set: &DaemonSet) -> Self {
        let (has, desired) = set
            .status
            .as_ref()
            .map_or((0, 0), |status| (status.current_number_scheduled, status.desired_number_scheduled));
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let budget = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.max_unavailable.as_ref());
        let max_unavailable = share(budget, usize::try_from(desired).unwrap_or_default());
        Self {
            has,
            wants: has < desired,
            detail: Detail::DaemonSet { max_unavailable },
            ..Self::plain(Kind::DaemonSet, &set.metadata)
        }
    }

    /// What decides of a ReplicationController.
    pub fn of_replication_controller(controller: &ReplicationController) -> Self {
        let has = controller.status.as_ref().map_or(0, |status| status.replicas);
        Self {
            has,
            wants: has < controller.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            ..Self::plain(Kind::ReplicationController, &controller.metadata)
        }
    }

    /// What decides of a Job.
    pub fn of_job(job: &Job) -> Self {
        let spec = job.spec.clone().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
        let finished = status.conditions.iter().flatten().any(|condition| {
            matches!(condition.type_.as_str(), "Complete" | "Failed" | "SuccessCriteriaMet" | "FailureTarget")
                && condition.status == "True"
        });
        let suspended = spec.suspend.unwrap_or(false);
        let active = status.active.unwrap_or(0);
        let succeeded = status.succeeded.unwrap_or(0);
        let left = match spec.completions {
            Some(completions) => completions - succeeded,
            // A work queue: once one has succeeded there is nothing left to begin.
            None => {
                if succeeded > 0 {
                    0
                } else {
                    i32::MAX
                }
            }
        };
        let wanted = spec.parallelism.unwrap_or(1).min(left);
        let mark = annotation(&job.metadata, SUSPENDED).map(ToOwned::to_owned);
        Self {
            resource_version: job.metadata.resource_version.clone(),
            has: active + succeeded,
            wants: !finished && !suspended && active < wanted,
            detail: Detail::Job(JobDetail {
                ignores_eviction: Ignores::by(rules),
                suspended,
                template: mark.is_some().then(|| Box::new(TemplateView::of(&spec.template))),
                suspended_by_us: mark,
                managed: managed(job, spec.managed_by.as_deref()),
                finished,
                active,
            }),
            ..Self::plain(Kind::Job, &job.metadata)
        }
    }

    fn plain(kind: Kind, metadata: &ObjectMeta) -> Self {
        Self {
            reference: OwnerReference {
                kind,
                name: metadata.name.clone().unwrap_or_default(),
                uid: metadata.uid.clone().unwrap_or_default(),
            },
            namespace: metadata.namespace.clone().unwrap_or_default(),
            resource_version: None,
            deleting: metadata.deletion_timestamp.is_some(),
            has: 0,
            wants: false,
            failure: None,
            detail: Detail::Plain,
        }
    }

    /// What only a Job has.
    pub fn job(&self) -> Option<&JobDetail> {
        match &self.detail {
            Detail::Job(job) => Some(job),
            Detail::Plain | Detail::DaemonSet { .. } => None,
        }
    }
}

// === impl Ignores ===

impl Ignores {
    /// The first rule that matches a failed pod decides. `DisruptionTarget` is what an eviction puts onto it.
    fn by<'a>(rules: impl IntoIterator<Item = &'a PodFailurePolicyRule>) -> Self {
        // What kubelet's SIGTERM and SIGKILL make of `wait`, the only container that runs in a held pod.
        const SIGNALLED: [i32; 2] = [143, 137];
        let mut certain = Self::Everything;
        for rule in rules {
            let mut conditions = rule.on_pod_conditions.iter().flatten();
            let is_met = |pattern: &PodFailurePolicyOnPodConditionsPattern| {
                pattern.type_ == "DisruptionTarget" && pattern.status == "True"
            };
            if rule.action == "Ignore" {
                if conditions.any(is_met) {
                    return certain;
                }
                // Whether it matches or not, the pod is not counted by it.
                continue;
            }
            let passes = match &rule.on_exit_codes {
                // An evicted app may end with any code.
                Some(codes) => {
                    certain = Self::Held;
                    codes.operator == "In" && !codes.values.iter().any(|code| SIGNALLED.contains(code))
                }
                // An evicted pod might have other conditions as well.
                None => conditions.all(|pattern| pattern.type_ == "DisruptionTarget" && !is_met(pattern)),
            };
            if !passes {
                return Self::Nothing;
            }
        }
        Self::Nothing
    }
}

/// How many of `desired` may be unavailable; the API server's default is 1. Never none: a set that may only surge still has to be
/// repaired, one pod at a time.
fn share(budget: Option<&IntOrString>, desired: usize) -> usize {
    let many = match budget {
        None => 1,
        Some(IntOrString::Int(count)) => usize::try_from(*count).unwrap_or_default(),
        Some(IntOrString::String(text)) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or_default();
            // Rounded up, as the DaemonSet controller does.
            desired.saturating_mul(percent).div_ceil(100)
        }
    };
    many.max(1)
}

/// Who manages `suspend` beside the person who made the Job; to lift what another has set would start what must not start.
fn managed(job: &Job, managed_by: Option<&str>) -> Option<String> {
    let metadata = &job.metadata;
    if let Some(by) = managed_by.filter(|by| *by != "kubernetes.io/job-controller") {
        return Some(format!("spec.managedBy names {by}"));
    }
    if let Some(queue) = metadata.labels.iter().flatten().find(|(key, _)| key.starts_with("kueue.x-k8s.io/")) {
        return Some(format!("the label {} gives it to Kueue", queue.0));
    }
    // CronJobs make Jobs and leave them alone; JobSets and training operators suspend and resume theirs.
    if let Some(owner) = OwnerReference::of(metadata)
        && owner.kind != Kind::Other("batch/v1 CronJob".to_owned())
    {
        return Some(format!("{owner} owns it"));
    }
    let applies = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:spec")?.get("f:suspend"));
        entry.operation.as_deref() == Some("Apply") && fields.is_some()
    };
    if let Some(entry) = metadata.managed_fields.iter().flatten().find(applies) {
        let manager = entry.manager.as_deref().unwrap_or("another client");
        return Some(format!("{manager} applies spec.suspend"));
    }
    let by_kubectl = annotation(metadata, "kubectl.kubernetes.io/last-applied-configuration").unwrap_or_default();
    let by_kubectl: serde_json::Value = serde_json::from_str(by_kubectl).unwrap_or_default();
    by_kubectl.pointer("/spec/suspend").is_some().then(|| "kubectl applies spec.suspend".to_owned())
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// What the annotation [`REPAIR`] says: its meaning, or its text. An empty one says nothing.
fn repair(metadata: &ObjectMeta) -> Option<Result<Repair, String>> {
    let text = annotation(metadata, REPAIR).filter(|text| !text.is_empty())?;
    Some(text.parse().map_err(|_| text.to_owned()))
}

/// Owners of one kind, by `namespace/name`.
pub type OwnersOfAKind = BTreeMap<String, OwnerView>;
