//! What becomes of a node's taint and annotation.
//!
//! Level-triggered: the wanted state is computed from facts each time, and a change is what differs from it. So a taint
//! that another client removed is set again, one that an earlier agent left is removed, and where nothing differs nothing is written.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::repair_wait::RepairWait;
use crate::decide::manual_override::ManualOverride;
use crate::decide::readiness::gate::Gate;
use crate::decide::readiness::verdict::Basis;

/// The annotation on a Node that says which boot of it was opened.
pub const OPENED_BOOT: &str = "linkerd-gate/opened-boot";

/// The annotation on a Node that says which boot of it ran without being closed: in audit mode, or where nodes are not tainted. Its pods
/// run; when nodes are closed again, this one is not while that boot lasts.
pub const LEFT_OPEN_BOOT: &str = "linkerd-gate/left-open-boot";

/// The key of our taint, unless it is configured otherwise.
pub const TAINT_KEY: &str = "linkerd-gate/closed";

/// Why a node is open whose injection is proven, as its Event says it: `report` reads it again.
pub const PROVEN: &str = "the gate is open";

/// The effect of our taint. `NoExecute` would end pods that run.
pub const TAINT_EFFECT: &str = "NoSchedule";

/// What the operator wants of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePolicy {
    /// The key of the taint.
    pub taint_key: String,
    /// Whether nodes are tainted at all.
    pub tainting: Tainting,
    /// How long a node may be closed before it opens unproven.
    pub max_closed: Duration,
    /// How long a node that could open waits for the controller at most.
    pub repair_grace: Duration,
}

/// Whether nodes are tainted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tainting {
    /// They are.
    Enforce,
    /// They are not; what would be done is said.
    Audit,
    /// They are not.
    Never,
}

/// A node as the API server has it, reduced to what decisions need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its uid: events refer to it.
    pub uid: String,
    /// For the precondition of a patch.
    pub resource_version: String,
    /// Its taints, as they are written; nothing where the list is absent.
    pub taints: Option<Vec<Taint>>,
    /// Whether it has any annotation at all: a patch must make the map where it has not.
    pub has_annotations: bool,
    /// The annotation [`OPENED_BOOT`].
    pub opened_boot: Option<String>,
    /// The annotation [`LEFT_OPEN_BOOT`].
    pub left_open_boot: Option<String>,
    /// The annotation [`crate::decide::manual_override::ANNOTATION`].
    pub manual_override: Option<String>,
    /// When it joined the cluster, by the API server's clock, in seconds since the Unix epoch.
    pub created: Option<i64>,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether its kubelet says that the machine is shutting down.
    pub shutting_down: bool,
}

/// Whether a node was there before linkerd-gate was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It was: installing must not close a running cluster.
    BeforeUs,
    /// It joined later: nothing on it was created with the gate's knowledge.
    AfterUs,
    /// It is not known yet.
    Unknown,
}

/// Everything that decides about a node.
#[derive(Clone, Debug)]
pub struct NodeFacts<'a> {
    /// The node.
    pub node: &'a NodeView,
    /// The id of this boot.
    pub boot: &'a str,
    /// How long this boot has lasted: the only clock that survives the agent and not the boot.
    pub uptime: Duration,
    /// Since when, by `uptime`, this process knows the node as closed.
    pub closed_since: Option<Duration>,
    /// Only matters for a node without the annotation.
    pub age: Age,
    /// The agent's gate.
    pub gate: &'a Gate,
    /// DaemonSets that must run here and do not tolerate our taint, by a fresh word of the prover's.
    pub suppressed_by: &'a [String],
    /// What it waits for before it opens.
    pub repair: RepairWait,
    /// The override that is in force.
    pub manual_override: Option<ManualOverride>,
}

/// What a node is to the gate, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Pods may be scheduled onto it.
    Open(Opened),
    /// Pods may not be scheduled onto it, since so long by its uptime.
    Closed {
        /// Since when.
        since: Duration,
        /// Why.
        why: Closed,
    },
    /// It should be closed, and is not, so that these DaemonSets (`namespace/name`) get their pods.
    TaintSuppressed(Vec<String>),
    /// It is left as it is.
    Undecided,
}

/// Why a node is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was opened earlier in this boot.
    ThisBoot,
    /// It was there before us.
    Adopted,
    /// The gate is open.
    Proven,
    /// The gate is open, and the controller still replaces so many pods: the node has waited for as long as it may.
    BeforeRepair(usize),
    /// Linkerd is not installed. It may be in a moment, so that this is not remembered.
    NotInstalled,
    /// It ran unclosed in this boot before nodes were tainted, so it is not closed now.
    LeftOpen,
    /// It was closed for as long as a node may be: pods start whatever Linkerd does. `wait` and guard still hold them.
    TooLongClosed,
    /// A person said so.
    Overridden(ManualOverride),
}

/// Why a node is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Its machine is going down: it is to come back closed, without a window.
    ShuttingDown,
    /// Nothing has been proven in this boot.
    Unproven,
    /// The gate is open, and the controller has to replace pods first.
    AwaitsRepair(RepairWait),
    /// A person said so.
    Overridden(ManualOverride),
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeChange {
    /// Our taint, by its value.
    pub taint: Edit,
    /// The annotation [`OPENED_BOOT`].
    pub opened_boot: Edit,
    /// The annotation [`LEFT_OPEN_BOOT`].
    pub left_open_boot: Edit,
}

/// What becomes of one thing on a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It is as it should be.
    Keep,
    /// It is to be there, with this value.
    Set(String),
    /// It is to be gone.
    Remove,
}

/// What a node should be, and what has to be written for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// What it should be.
    pub state: NodeState,
    /// What differs and is to be written.
    pub change: Option<NodeChange>,
    /// In audit mode, what would be written instead.
    pub would: Option<NodeChange>,
}

// === impl NodeView ===

impl NodeView {
    /// What decisions need of a Node.
    pub fn of(node: &Node) -> Self {
        let metadata = &node.metadata;
        let annotation = |key| metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.find(|condition| condition.type_ == "Ready");
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|spec| spec.taints.clone()),
            has_annotations: metadata.annotations.is_some(),
            opened_boot: annotation(OPENED_BOOT),
            left_open_boot: annotation(LEFT_OPEN_BOOT),
            manual_override: annotation(crate::decide::manual_override::ANNOTATION),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            ready: ready.is_some_and(|condition| condition.status == "True"),
            // Kubelet's own words (pkg/kubelet/nodeshutdown): it has no separate reason for it.
            shutting_down: ready.is_some_and(|condition| {
                condition.status == "False"
                    && condition.message.as_deref().is_some_and(|message| message.contains("node is shutting down"))
            }),
        }
    }

    /// A taint with our key that ends pods. Linkerd-gate never sets it, and may not lift it.
    pub fn ending_taint(&self, key: &str) -> Option<&Taint> {
        self.taints.iter().flatten().find(|taint| taint.key == key && taint.effect == "NoExecute")
    }

    /// Our taint, where it is there.
    pub fn taint(&self, key: &str) -> Option<&Taint> {
        self.taints.iter().flatten().find(|taint| taint.key == key && taint.effect == TAINT_EFFECT)
    }

    /// The taints with ours set to this, or gone; the others as they are, in their order.
    pub fn with_taint(&self, key: &str, value: Option<&str>) -> Vec<Taint> {
        let mut taints = self.taints.clone().unwrap_or_default();
        let ours = |taint: &Taint| taint.key == key && taint.effect == TAINT_EFFECT;
        match value {
            None => taints.retain(|taint| !ours(taint)),
            Some(value) => match taints.iter_mut().find(|taint| ours(taint)) {
                // Other fields that a client wrote into it are removed: this is the taint as the agent makes it.
                Some(taint) => {
                    taint.value = Some(value.to_owned());
                    taint.time_added = None;
                }
                None => taints.push(Taint {
                    key: key.to_owned(),
                    value: Some(value.to_owned()),
                    effect: TAINT_EFFECT.to_owned(),
                    time_added: None,
                }),
            },
        }
        taints
    }
}

impl Age {
    /// Of a node, beside the moment of our installation in seconds since the Unix epoch. Both are the API server's word.
    pub fn of(node: &NodeView, installed: Option<i64>) -> Self {
        match (node.created, installed) {
            (Some(created), Some(installed)) if created <= installed => Self::BeforeUs,
            (Some(_), Some(_)) => Self::AfterUs,
            (None, _) | (_, None) => Self::Unknown,
        }
    }
}

// === impl NodeChange ===

impl NodeChange {
    /// Nothing is written.
    pub const NOTHING: Self = Self { taint: Edit::Keep, opened_boot: Edit::Keep, left_open_boot: Edit::Keep };

    fn unless_nothing(self) -> Option<Self> {
        (self != Self::NOTHING).then_some(self)
    }
}

// === impl NodePlan ===

impl NodePlan {
    /// What a node should be.
    ///
    /// The order of the rules is their rank: the machine's end, a person, then what this boot has seen, then the installation, then evidence,
    /// then the ways out of a deadlock.
    pub fn of(policy: &NodePolicy, facts: &NodeFacts<'_>) -> Self {
        let state = state(policy, facts);
        let enforced = change(policy, facts, &state);
        match policy.tainting {
            Tainting::Enforce => Self { state, change: enforced, would: None },
            Tainting::Audit => Self { state, change: leave_open(policy, facts), would: enforced },
            Tainting::Never => Self { state, change: leave_open(policy, facts), would: None },
        }
    }

    /// Since when, by its uptime, the process knows the node as closed after this plan, if it was `before` it. Time that a person or the
    /// lack of Linkerd decided about does not count: the longest time that a node may be closed begins after it.
    pub fn closed_since(&self, before: Option<Duration>) -> Option<Duration> {
        match &self.state {
            NodeState::Closed { why: Closed::Overridden(_), .. }
            | NodeState::Open(
                Opened::Overridden(_) | Opened::NotInstalled | Opened::ThisBoot | Opened::LeftOpen | Opened::Adopted,
            ) => None,
            NodeState::Closed { since, .. } => Some(*since),
            // Until it is written, the node is what it was.
            NodeState::Open(Opened::Proven | Opened::BeforeRepair(_) | Opened::TooLongClosed)
            | NodeState::TaintSuppressed(_)
            | NodeState::Undecided => before,
        }
    }

    /// The node after we are gone for good: as if we had never been there.
    pub fn for_removal(policy: &NodePolicy, node: &NodeView) -> Option<NodeChange> {
        let gone = |is_there| if is_there { Edit::Remove } else { Edit::Keep };
        let change = NodeChange {
            taint: gone(node.taint(&policy.taint_key).is_some()),
            opened_boot: gone(node.opened_boot.is_some()),
            left_open_boot: gone(node.left_open_boot.is_some()),
        };
        change.unless_nothing()
    }
}

fn state(policy: &NodePolicy, facts: &NodeFacts<'_>) -> NodeState {
    let since = closed_since(policy, facts);
    let opened_this_boot = facts.node.opened_boot.as_deref() == Some(facts.boot);
    if facts.node.shutting_down {
        return NodeState::Closed { since, why: Closed::ShuttingDown };
    }
    match facts.manual_override {
        Some(word) if !word.open => {
            return NodeState::Closed { since: facts.uptime, why: Closed::Overridden(word) };
        }
        // Where there is proof as well, the proof is what lasts.
        Some(word) if !opened_this_boot && !facts.gate.is_open() => return NodeState::Open(Opened::Overridden(word)),
        Some(_) | None => {}
    }
    if opened_this_boot {
        return NodeState::Open(Opened::ThisBoot);
    }
    if policy.tainting == Tainting::Enforce && facts.node.left_open_boot.as_deref() == Some(facts.boot) {
        return NodeState::Open(Opened::LeftOpen);
    }
    // A taint on a node that has never been opened means that a person wants it closed: a registration taint, for example.
    if facts.node.opened_boot.is_none() && facts.node.taint(&policy.taint_key).is_none() && facts.closed_since.is_none()
    {
        match facts.age {
            Age::BeforeUs => return NodeState::Open(Opened::Adopted),
            Age::Unknown => return NodeState::Undecided,
            Age::AfterUs => {}
        }
    }
    if facts.gate.basis() == Some(Basis::NotInstalled) {
        return NodeState::Open(Opened::NotInstalled);
    }
    let too_long = facts.uptime.saturating_sub(since) >= policy.max_closed;
    if facts.gate.is_open() && (too_long || !facts.repair.holds()) {
        return NodeState::Open(match facts.repair {
            RepairWait::Over(pods) | RepairWait::Pods(pods) => Opened::BeforeRepair(pods),
            RepairWait::Nothing | RepairWait::Unseen => Opened::Proven,
        });
    }
    if too_long {
        return NodeState::Open(Opened::TooLongClosed);
    }
    if !facts.suppressed_by.is_empty() {
        return NodeState::TaintSuppressed(facts.suppressed_by.to_vec());
    }
    let why = if facts.gate.is_open() { Closed::AwaitsRepair(facts.repair) } else { Closed::Unproven };
    NodeState::Closed { since, why }
}

/// What is written where nodes are tainted.
fn change(policy: &NodePolicy, facts: &NodeFacts<'_>, state: &NodeState) -> Option<NodeChange> {
    let present = facts.node.taint(&policy.taint_key);
    let taint = match state {
        NodeState::Undecided => return None,
        NodeState::Closed { why: Closed::Overridden(_), .. } => {
            let wanted = override_stamp(facts.boot);
            match present {
                Some(taint) if taint.value.as_ref() == Some(&wanted) => Edit::Keep,
                Some(_) | None => Edit::Set(wanted),
            }
        }
        NodeState::Closed { since, .. } => match present {
            // A taint of this boot is right whatever uptime it names: it is the older knowledge.
            Some(taint) if read_stamp(taint, facts.boot).is_some() => Edit::Keep,
            Some(_) | None => Edit::Set(stamp(facts.boot, *since)),
        },
        NodeState::Open(_) | NodeState::TaintSuppressed(_) if present.is_some() => Edit::Remove,
        NodeState::Open(_) | NodeState::TaintSuppressed(_) => Edit::Keep,
    };
    let opened = matches!(
        state,
        NodeState::Open(
            Opened::Adopted | Opened::Proven | Opened::BeforeRepair(_) | Opened::TooLongClosed | Opened::LeftOpen
        )
    );
    let opened_boot = if opened { Edit::Set(facts.boot.to_owned()) } else { Edit::Keep };
    // Once the boot counts as opened, the other note has done its work.
    let left_open_boot = if opened && facts.node.left_open_boot.is_some() { Edit::Remove } else { Edit::Keep };
    NodeChange { taint, opened_boot, left_open_boot }.unless_nothing()
}

/// What is written where nodes are not tainted: nothing stays closed, and it is noted that this boot ran unclosed, so that it is not
/// closed under its pods when nodes are tainted again.
fn leave_open(policy: &NodePolicy, facts: &NodeFacts<'_>) -> Option<NodeChange> {
    let node = facts.node;
    let this_boot = |note: &Option<String>| note.as_deref() == Some(facts.boot);
    let noted = this_boot(&node.left_open_boot) || this_boot(&node.opened_boot);
    let change = NodeChange {
        taint: if node.taint(&policy.taint_key).is_some() { Edit::Remove } else { Edit::Keep },
        opened_boot: Edit::Keep,
        left_open_boot: if noted { Edit::Keep } else { Edit::Set(facts.boot.to_owned()) },
    };
    change.unless_nothing()
}

/// Since when the node has been closed in this boot, by its uptime: the earliest that is known. A taint from an earlier
/// boot says nothing, and one of this boot says it to an agent that was restarted: one that crashes again and again must
/// not keep a node closed for ever.
fn closed_since(policy: &NodePolicy, facts: &NodeFacts<'_>) -> Duration {
    let written = facts.node.taint(&policy.taint_key).and_then(|taint| read_stamp(taint, facts.boot));
    [written, facts.closed_since].into_iter().flatten().min().unwrap_or(facts.uptime).min(facts.uptime)
}

/// The taint's value: which boot was closed, and at which second of it. No clock of the wall is in it, because at boot that
/// clock may be years off.
fn stamp(boot: &str, since: Duration) -> String {
    format!("{}-{}", short(boot), since.as_secs())
}

/// The taint's value where a person closed the node: without a second, since that time does not count.
fn override_stamp(boot: &str) -> String {
    format!("{}-hand", short(boot))
}

fn read_stamp(taint: &Taint, boot: &str) -> Option<Duration> {
    let (of, second) = taint.value.as_deref()?.rsplit_once('-')?;
    (of == short(boot)).then(|| second.parse().ok().map(Duration::from_secs)).flatten()
}

/// The beginning of a boot id, as far as a label's value may hold it (it begins and ends with a letter or a digit).
fn short(boot: &str) -> String {
    boot.chars().filter(char::is_ascii_alphanumeric).take(12).collect()
}

// === impl NodeState ===

impl NodeState {
    /// One word, for metrics and `/gate`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Closed { .. } => "closed",
            Self::TaintSuppressed(_) => "taint-suppressed",
            Self::Undecided => "unknown",
        }
    }

    /// Whether the agent follows the controllers' Lease: while the node is closed, for whatever reason, or should be. It may open
    /// in a moment, and must know by then what is still to be replaced. A thousand open nodes need not.
    pub const fn follows_controller(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::TaintSuppressed(_))
    }

    /// Whether a person should look.
    pub const fn is_warning(&self) -> bool {
        matches!(self, Self::Open(Opened::TooLongClosed | Opened::BeforeRepair(_)) | Self::TaintSuppressed(_))
    }

    /// Whether a person who knows `self` would learn something from `newer`. How many pods are left is no news.
    pub fn is_news(&self, newer: &Self) -> bool {
        let waits = |state: &Self| matches!(state, Self::Closed { why: Closed::AwaitsRepair(RepairWait::Pods(_)), .. });
        // How it was opened is known; that it was is no news.
        let noted = matches!(
            self,
            Self::Open(
                Opened::Adopted | Opened::Proven | Opened::BeforeRepair(_) | Opened::LeftOpen | Opened::TooLongClosed
            )
        );
        let opened = noted && *newer == Self::Open(Opened::ThisBoot);
        let same = waits(self) && waits(newer) || opened || self.to_string() == newer.to_string();
        !same
    }
}

impl NodeState {
    /// The state in words that never vary: after `node `, a log line's message.
    pub const fn message(&self) -> &'static str {
        match self {
            Self::Open(Opened::TooLongClosed) => "open, unproven",
            Self::Open(_) => "open",
            Self::Closed { why: Closed::AwaitsRepair(_), .. } => "stays closed",
            Self::Closed { .. } => "closed",
            Self::TaintSuppressed(_) => "not tainted",
            Self::Undecided => "unchanged",
        }
    }

    /// Why: a log line's field `reason`.
    pub fn reason(&self) -> String {
        match self {
            Self::Open(Opened::ThisBoot) => "it was opened earlier in this boot".to_owned(),
            Self::Open(Opened::Adopted) => "the node is older than the installation of linkerd-gate".to_owned(),
            Self::Open(Opened::Proven) => PROVEN.to_owned(),
            Self::Open(Opened::NotInstalled) => {
                "Linkerd is not installed; once it is, the node is closed until injection is proven".to_owned()
            }
            Self::Open(Opened::LeftOpen) => "this boot ran unclosed (audit mode, or taint=never)".to_owned(),
            Self::Open(Opened::BeforeRepair(pods)) => format!(
                "{PROVEN}; {}, but LINKERD_GATE_REPAIR_GRACE has passed: they may start outside the mesh",
                RepairWait::Over(*pods)
            ),
            Self::Open(Opened::TooLongClosed) => {
                "the node was closed for LINKERD_GATE_NODE_MAX_CLOSED; pods may start outside the mesh".to_owned()
            }
            Self::Open(Opened::Overridden(by)) | Self::Closed { why: Closed::Overridden(by), .. } => {
                format!("manual override until {}", by.until)
            }
            Self::Closed { why: Closed::ShuttingDown, .. } => {
                "the machine is shutting down, and must start closed".to_owned()
            }
            Self::Closed { why: Closed::Unproven, .. } => "injection is not proven in this boot".to_owned(),
            Self::Closed { why: Closed::AwaitsRepair(wait), .. } => wait.to_string(),
            Self::TaintSuppressed(to) => format!(
                "these DaemonSets do not tolerate the taint, and lack their pod on this node: {}",
                to.join(", ")
            ),
            Self::Undecided => "the install time of linkerd-gate is not known yet".to_owned(),
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message(), self.reason())
    }
}

#[cfg(test)]
mod tests;
