//! Reconciles one node: steps its gate, keeps its taint and annotation as planned, and shows all of it on `/gate`.

mod messages;
mod shutdown;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Context, wall};
use crate::cluster::installation::{DAEMON_SET, Installation, installation};
use crate::cluster::node::{self as cluster_node, PatchError};
use crate::cluster::watch::Seen;
use crate::decide::election::lease_record::LeaseRecord;
use crate::decide::gate_status::NodeStatus;
use crate::decide::node::repair_wait::{ControllerLease, RepairWait};
use crate::decide::node::taint::{Age, Edit, NodeChange, NodeFacts, NodePlan, NodeState, NodeView, Opened, Tainting};
use crate::decide::{self, Follower, Gate, GateStatus, ManualOverride, ProbeResult};
use crate::http::Face;
use crate::metrics::Written;
use crate::retry::Schedule;

/// How long a step may be away from the next at most: what is judged by a clock is judged at least this often.
const AT_LEAST_EVERY: Duration = Duration::from_secs(30);

/// How long a node's watch may take to show what made our patch a conflict.
const CATCHING_UP: Duration = Duration::from_secs(2);

/// The reconciler's ends of its channels.
pub(super) struct Channels {
    pub(super) node: watch::Receiver<Seen<NodeView>>,
    pub(super) lease: watch::Receiver<Seen<LeaseRecord>>,
    /// The controllers' Lease, while it is wanted.
    pub(super) controller: watch::Receiver<Seen<LeaseRecord>>,
    /// Whether it is: an open node waits for no controller.
    pub(super) wants_controller: watch::Sender<bool>,
    /// What was found of identity, from this node.
    pub(super) identity: watch::Receiver<ProbeResult>,
    /// Where identity is to be asked.
    pub(super) addresses: watch::Sender<Vec<SocketAddr>>,
    /// What a prover that takes over goes on from.
    pub(super) gate: watch::Sender<Gate>,
    pub(super) face: watch::Sender<Face>,
}

/// One node's reconciler.
pub(super) struct NodeReconciler {
    context: Arc<Context>,
    follower: Follower,
    ends: Channels,

    /// The node as our last patch left it, until the watch shows it or something newer.
    patched: Option<Patched>,
    /// Since when this boot of the node is known to be closed, by its uptime.
    closed_since: Option<Duration>,
    /// DaemonSets to yield to, by the last fresh word.
    suppressed_by: Vec<String>,
    /// What the controller has to do before the node opens.
    controller: ControllerLease,
    /// Whether the node was there before us.
    age: Age,
    /// What was said last, so that it is said once.
    reported: Reported,
    /// The node whose taint of our key, which ends pods, still needs an Event.
    foreign: Option<NodeView>,
    /// The write under way: at most one.
    acting: Option<BoxFuture<'static, WriteResult>>,
    /// Nothing is written before then.
    not_before: Option<Instant>,
    /// When the node may be opened by what opens all nodes at once.
    opens_at: Option<Instant>,
    /// The version for which a patch was a conflict: once the watch shows another one, it is time.
    conflict: Option<String>,
    schedule: Schedule,
}

struct Patched {
    /// The version that the patch was made for: a watch that still shows it is behind.
    from: String,
    node: NodeView,
}

#[derive(Default)]
struct Reported {
    state: Option<NodeState>,
    /// The state that an Event was made for, although nothing was written for it.
    announced: Option<NodeState>,
    trouble: Option<String>,
    manual_override: Option<String>,
    misspelt: Option<(&'static str, String)>,
    refusal: Option<String>,
    would: Option<String>,
    ending_taint: bool,
}

/// What became of an act.
enum WriteResult {
    Patched {
        from: String,
        result: Result<NodeView, PatchError>,
    },
    Installed(Result<Installation, String>),
    /// Nothing but an Event.
    Announced,
}

/// What the plan is made from, beside the node.
struct PlanInputs {
    now: Duration,
    uptime: Duration,
    repair: RepairWait,
    manual_override: Option<ManualOverride>,
}

// === impl NodeReconciler ===

impl NodeReconciler {
    pub(super) fn new(context: Arc<Context>, follower: Follower, ends: Channels) -> Self {
        Self {
            context,
            follower,
            ends,
            patched: None,
            closed_since: None,
            suppressed_by: Vec::new(),
            controller: ControllerLease::default(),
            age: Age::Unknown,
            reported: Reported::default(),
            foreign: None,
            acting: None,
            not_before: None,
            opens_at: None,
            conflict: None,
            schedule: Schedule::api_retry(),
        }
    }

    /// Keeps the node as it should be, for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            let wake = self.step();
            let mut acting = self.acting.take();
            let acted = tokio::select! {
                biased;
                acted = maybe(&mut acting) => Some(acted),
                Ok(()) = self.ends.node.changed() => None,
                Ok(()) = self.ends.lease.changed() => None,
                Ok(()) = self.ends.controller.changed() => None,
                Ok(()) = self.ends.identity.changed() => None,
                () = tokio::time::sleep_until(wake) => None,
            };
            match acted {
                Some(acted) => self.note(acted),
                None => self.acting = acting,
            }
        }
    }

    /// One step: everything that is known, the gate, the plan, and the write that follows from it. Returns when to step again
    /// though nothing happens.
    fn step(&mut self) -> Instant {
        let inputs = self.update_gate();
        let mut wake = Instant::now() + AT_LEAST_EVERY;
        let epoch = self.context.epoch;
        let mut by_then = |at: Option<Duration>| {
            if let Some(at) = at.filter(|at| *at > inputs.now) {
                wake = wake.min(epoch + at);
            }
        };
        by_then(self.follower.stale_at(inputs.now));
        let grace = self.context.settings.node_policy.repair_grace;
        by_then(self.controller.next(self.follower.gate(), grace, inputs.now));
        if let Some(word) = inputs.manual_override {
            let left = word.until.duration_since(wall());
            by_then(Duration::try_from(left).ok().map(|left| inputs.now + left));
        }

        let Some(node) = self.node() else {
            self.show(&inputs, None);
            return wake;
        };
        let plan = self.plan(&node, &inputs);
        self.follow_controller_lease(&plan.state);
        self.closed_since = plan.closed_since(self.closed_since);
        if let NodeState::Closed { since, .. } = &plan.state {
            let bound = *since + self.context.settings.node_policy.max_closed;
            by_then(Some(inputs.now + bound.saturating_sub(inputs.uptime)));
        }
        if let Some(not_before) = self.not_before {
            wake = wake.min(not_before.max(Instant::now() + Duration::from_millis(10)));
        }
        self.log_plan(&plan);
        self.log_no_execute_taint(&node);
        let tainted = node.taint(&self.context.settings.node_policy.taint_key).is_some();
        self.act(plan.clone(), node);
        let now = Instant::now();
        wake = self.opens_at.filter(|at| *at > now).map_or(wake, |at| wake.min(at));
        self.show(&inputs, Some((&plan.state, tainted)));
        wake
    }

    /// Notes what the watches show, and steps the gate.
    fn update_gate(&mut self) -> PlanInputs {
        let now = self.context.now();
        let record = {
            let seen = self.ends.lease.borrow_and_update();
            let blind = if seen.is_known() {
                seen.trouble.as_deref()
            } else {
                Some(seen.trouble.as_deref().unwrap_or("the Lease has not been seen yet"))
            };
            self.follower.note_watch_error(blind);
            let record = seen.only().cloned();
            // While it cannot be watched, what is known of it is what was known before.
            if blind.is_none() {
                self.follower.note(record.as_ref(), now);
            }
            record
        };
        if self.node().is_some_and(|node| node.opened_boot.as_ref() == Some(&self.context.me.incarnation)) {
            self.follower.note_opened_boot();
        }
        let identity = self.ends.identity.borrow_and_update().clone();
        let before = self.follower.step(&identity, now);
        match decide::Transition::between(&before, self.follower.gate()) {
            None => {}
            Some(change) if change.is_setback() => warn!(reason = change.reason(), "gate: {}", change.message()),
            Some(change) => info!(reason = change.reason(), "gate: {}", change.message()),
        }
        let seed = self.follower.prover_gate(now);
        self.ends.gate.send_if_modified(|gate| {
            let news = *gate != seed;
            *gate = seed;
            news
        });

        if let Some(word) = self.follower.published(now) {
            // The last verdict holds while no prover renews it: a prover that stopped taints no node.
            self.suppressed_by = word.suppressed_by(&self.context.me.name);
            self.ends.addresses.send_if_modified(|addresses| {
                let news = *addresses != word.identity;
                addresses.clone_from(&word.identity);
                news
            });
        }
        let manual_override = self.manual_override(record.as_ref());
        self.controller.note_override(manual_override.is_some_and(|word| !word.open), now);
        let repair = self.repair(now);
        self.context.metrics.verdict_fresh.set(i64::from(self.follower.is_fresh(now)));
        PlanInputs { now, uptime: uptime(now), repair, manual_override }
    }

    /// What the controller has to do before the node opens.
    fn repair(&mut self, now: Duration) -> RepairWait {
        let policy = &self.context.settings.node_policy;
        if policy.tainting == Tainting::Never {
            return RepairWait::Nothing;
        }
        let seen = self.ends.controller.borrow_and_update();
        if seen.is_known() {
            self.controller.note(seen.only(), now);
        }
        self.controller.wait(self.follower.gate(), policy.repair_grace, now)
    }

    /// Follows the controllers' Lease while the node is closed, or should be: a thousand open nodes need not.
    fn follow_controller_lease(&mut self, state: &NodeState) {
        let wanted = self.context.settings.node_policy.tainting != Tainting::Never && state.follows_controller();
        let changed =
            self.ends.wants_controller.send_if_modified(|current| std::mem::replace(current, wanted) != wanted);
        if changed && wanted {
            // What was seen before the last pause says nothing of now.
            self.controller.clear();
        }
    }

    /// The override that is in force: the node's own before the one for all nodes.
    fn manual_override(&mut self, record: Option<&LeaseRecord>) -> Option<ManualOverride> {
        let of_node = self.node().and_then(|node| node.manual_override);
        let of_all = record.and_then(|record| record.manual_override.clone());
        let mut in_force = None;
        let mut misspelt = None;
        for (place, written) in [("the Lease linkerd-gate", of_all), ("the node", of_node)] {
            match ManualOverride::in_force(written.as_deref(), wall()) {
                Ok(word) => in_force = word.or(in_force),
                Err(why) => {
                    misspelt = Some((place, why.to_string()));
                }
            }
        }
        if self.reported.misspelt != misspelt {
            if let Some((object, error)) = &misspelt {
                warn!(error, object, "manual override ignored");
            }
            self.reported.misspelt = misspelt;
        }
        self.context.metrics.override_in_force.set(i64::from(in_force.is_some()));
        let said = in_force.map(|word| word.to_string());
        if self.reported.manual_override != said {
            if let Some(word) = &said {
                warn!(reason = word, "manual override in force");
            } else {
                info!("manual override ended");
            }
            self.reported.manual_override = said;
        }
        in_force
    }

    /// The node as it is known: as our patch left it, until the watch has caught up.
    fn node(&mut self) -> Option<NodeView> {
        let seen = self.ends.node.borrow_and_update();
        if self.reported.trouble != seen.trouble {
            if let Some(trouble) = &seen.trouble {
                warn!(error = trouble, "node watch not in sync");
            } else {
                info!("node watch in sync");
            }
            self.reported.trouble.clone_from(&seen.trouble);
        }
        let current = seen.only()?;
        match &self.patched {
            Some(patched) if patched.from == current.resource_version => Some(patched.node.clone()),
            Some(_) | None => {
                self.patched = None;
                Some(current.clone())
            }
        }
    }

    fn plan(&self, node: &NodeView, inputs: &PlanInputs) -> NodePlan {
        let facts = NodeFacts {
            node,
            boot: &self.context.me.incarnation,
            uptime: inputs.uptime,
            closed_since: self.closed_since,
            age: self.age,
            gate: self.follower.gate(),
            suppressed_by: &self.suppressed_by,
            repair: inputs.repair,
            manual_override: inputs.manual_override,
        };
        NodePlan::of(&self.context.settings.node_policy, &facts)
    }

    /// Says what becomes of the node, once.
    fn log_plan(&mut self, plan: &NodePlan) {
        if self.reported.state.as_ref().is_some_and(|reported| !reported.is_news(&plan.state)) {
            return;
        }
        if plan.state.is_warning() {
            warn!(reason = plan.state.reason(), "node {}", plan.state.message());
        } else {
            info!(reason = plan.state.reason(), "node {}", plan.state.message());
        }
        self.reported.state = Some(plan.state.clone());
    }

    /// Logs once that the node has a taint with our key that ends pods: another client set it, and must remove it.
    fn log_no_execute_taint(&mut self, node: &NodeView) {
        let key = &self.context.settings.node_policy.taint_key;
        let found = node.ending_taint(key).is_some();
        if found && !self.reported.ending_taint {
            warn!(reason = messages::ending_taint(key, &node.name), "foreign taint");
            self.foreign = Some(node.clone());
        }
        self.reported.ending_taint = found;
    }

    /// Begins the write that the plan asks for, unless one is under way.
    fn act(&mut self, plan: NodePlan, node: NodeView) {
        let conflict_resolved = self.conflict.as_ref().is_some_and(|version| *version != node.resource_version);
        let too_early = !conflict_resolved && self.not_before.is_some_and(|not_before| Instant::now() < not_before);
        if self.acting.is_some() || too_early {
            return;
        }
        (self.not_before, self.conflict) = (None, None);
        if let Some(node) = self.foreign.take() {
            let context = Arc::clone(&self.context);
            let reported = async move {
                messages::announce_ending_taint(&context, &node).await;
                WriteResult::Announced
            };
            self.acting = Some(reported.boxed());
            return;
        }
        if plan.state == NodeState::Undecided {
            let (client, namespace) = (self.context.client.clone(), self.context.settings.namespace.clone());
            self.acting = Some(async move { WriteResult::Installed(installation(client, &namespace).await) }.boxed());
            return;
        }
        let context = Arc::clone(&self.context);
        let Some(change) = plan.change else {
            match plan.would {
                Some(would) => self.announce_would(context, plan.state, &would, node),
                None => self.announce_alone(context, plan.state, node),
            }
            return;
        };
        if self.opens_later(&plan.state) {
            return;
        }
        // The write brings an Event with it.
        self.reported.announced = Some(plan.state.clone());
        let message = messages::of_change(&plan.state, self.follower.gate());
        let acted = async move {
            let key = &context.settings.node_policy.taint_key;
            let result = cluster_node::patch(context.client.clone(), key, &node, &change).await;
            context.metrics.node_patched(match &result {
                Ok(_) => Written::Done,
                Err(PatchError::Conflict) => Written::Conflict,
                Err(PatchError::Denied(_)) => Written::Refused,
                Err(PatchError::Failed(_)) => Written::Failed,
            });
            if result.is_ok() && context.settings.node_policy.tainting == Tainting::Enforce {
                if plan.state == NodeState::Open(Opened::TooLongClosed) {
                    context.metrics.unproven_openings.inc();
                }
                messages::announce(&context, &node, &plan.state, &change, &message).await;
            } else if result.is_ok() && change.taint == Edit::Remove {
                messages::announce_lifted(&context, &node).await;
            }
            WriteResult::Patched { from: node.resource_version, result }
        };
        self.acting = Some(acted.boxed());
    }

    /// Whether a write has to wait, because a thousand other agents learn at the same instant that they may open their nodes.
    fn opens_later(&mut self, state: &NodeState) -> bool {
        let with_all =
            matches!(state, NodeState::Open(Opened::Proven | Opened::BeforeRepair(_) | Opened::NotInstalled));
        if !with_all {
            self.opens_at = None;
            return false;
        }
        let at = *self.opens_at.get_or_insert_with(|| Instant::now() + Schedule::node_opening().next_pause());
        Instant::now() < at
    }

    /// In audit mode: says what would be written, once; the plan stays the same until something changes.
    fn announce_would(&mut self, context: Arc<Context>, state: NodeState, change: &NodeChange, node: NodeView) {
        let would = format!("audit mode, not executed: {}: {state}", messages::change(change));
        if self.reported.would.as_ref() == Some(&would) {
            return;
        }
        let text = messages::of_change(&state, self.follower.gate());
        let text = format!("audit mode, not executed: {}: {text}", messages::change(change));
        info!(reason = %state, change = messages::change(change), "audit mode: node change not executed");
        context.metrics.node_patched(Written::Audit);
        self.reported.would = Some(would);
        let change = change.clone();
        let announced = async move {
            messages::announce(&context, &node, &state, &change, &text).await;
            WriteResult::Announced
        };
        self.acting = Some(announced.boxed());
    }

    /// An Event for a state that a person would ask about though nothing is written for it.
    fn announce_alone(&mut self, context: Arc<Context>, state: NodeState, node: NodeView) {
        if !messages::stands_alone(&state) {
            self.reported.announced = None;
            return;
        }
        if self.reported.announced.as_ref().is_some_and(|reported| !reported.is_news(&state)) {
            return;
        }
        self.reported.announced = Some(state.clone());
        let announced = async move {
            messages::announce_alone(&context, &node, &state).await;
            WriteResult::Announced
        };
        self.acting = Some(announced.boxed());
    }

    /// Notes what became of an act.
    fn note(&mut self, acted: WriteResult) {
        match acted {
            WriteResult::Announced => {}
            WriteResult::Patched { from, result: Ok(node) } => {
                self.schedule.reset();
                self.reported.refusal = None;
                self.patched = Some(Patched { from, node });
            }
            // Seen by the watch in a moment; until then the plan would be the same, and fail the same way.
            WriteResult::Patched { from, result: Err(PatchError::Conflict) } => {
                self.not_before = Some(Instant::now() + CATCHING_UP);
                self.conflict = Some(from);
            }
            WriteResult::Patched { result: Err(PatchError::Denied(why) | PatchError::Failed(why)), .. } => {
                self.not_before = Some(Instant::now() + self.schedule.next_pause());
                self.log_write_error(&format!("the API server did not accept the change: {why}"));
            }
            WriteResult::Installed(Ok(Installation::Since(second))) => {
                self.schedule.reset();
                let age = self.node().map_or(Age::Unknown, |node| Age::of(&node, Some(second)));
                self.age = age;
            }
            // It is not known which nodes are older; and a changed name must not close a running cluster.
            WriteResult::Installed(Ok(Installation::Removed)) => {
                self.not_before = Some(Instant::now() + self.schedule.next_pause());
                self.log_unknown_age(&format!(
                    "there is no DaemonSet {DAEMON_SET} in namespace {}: its age shows which nodes are older, so it must have \
                     this name",
                    self.context.settings.namespace
                ));
            }
            WriteResult::Installed(Err(why)) => {
                self.not_before = Some(Instant::now() + self.schedule.next_pause());
                self.log_unknown_age(&why);
            }
        }
    }

    fn log_write_error(&mut self, why: &str) {
        if self.is_new_error(why) {
            error!(error = why, "node write failed");
        }
    }

    fn log_unknown_age(&mut self, why: &str) {
        if self.is_new_error(why) {
            error!(error = why, "node unchanged: the install time of linkerd-gate cannot be read");
        }
    }

    /// Whether this error is another one than the last; it is the last one from now on.
    fn is_new_error(&mut self, why: &str) -> bool {
        let is_new = self.reported.refusal.as_deref() != Some(why);
        self.reported.refusal = Some(why.to_owned());
        is_new
    }

    /// Shows what holds: of the node what should be, and whether it has our taint.
    fn show(&self, inputs: &PlanInputs, node: Option<(&NodeState, bool)>) {
        let is_open = matches!(node, Some((NodeState::Open(_), false)));
        let shown = match node {
            Some((NodeState::Open(_), true)) => NodeStatus {
                name: self.context.me.name.clone(),
                state: "closed".to_owned(),
                reason: format!(
                    "the agent is about to remove its taint{}",
                    self.reported.refusal.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
                ),
            },
            Some((state, _)) => NodeStatus {
                name: self.context.me.name.clone(),
                state: state.as_str().to_owned(),
                reason: state.to_string(),
            },
            None => unseen_node(&self.context),
        };
        let gate = self.follower.gate();
        let prover = self.follower.observer().holder().map(|holder| holder.name.clone());
        let mut answer = GateStatus::of(gate, self.follower.policy(), prover, shown);
        answer = answer.seeing(self.follower.is_fresh(inputs.now));
        if let Some(word) = inputs.manual_override {
            answer = answer.overridden(word.open, word.to_string());
        }
        self.context.metrics.open.set(i64::from(answer.open));
        self.context.metrics.node_open.set(i64::from(is_open));
        self.context.metrics.node_tainted.set(i64::from(matches!(node, Some((_, true)))));
        let ready = match (node, self.ends.lease.borrow().is_known()) {
            (None, _) if self.ends.node.borrow().is_known() => ProbeResult::not_ready(format!(
                "there is no node {}: is LINKERD_GATE_NODE_NAME right?",
                self.context.me.name
            )),
            (None, _) => ProbeResult::not_ready(format!("node {} has not been seen yet", self.context.me.name)),
            (_, false) => ProbeResult::not_ready("the Lease has not been seen yet"),
            (Some(_), true) => ProbeResult::Ready,
        };
        let face = Face::new(&answer, ready);
        self.ends.face.send_if_modified(|current| {
            let news = *current != face;
            *current = face;
            news
        });
    }
}

/// The answer before anything is known.
pub(super) fn first_answer(context: &Context) -> GateStatus {
    GateStatus::of(&Gate::closed(), &context.settings.proving.policy(), None, unseen_node(context))
}

fn unseen_node(context: &Context) -> NodeStatus {
    NodeStatus {
        name: context.me.name.clone(),
        state: NodeState::Undecided.as_str().to_owned(),
        reason: "the agent's watch of the node is not in sync yet".to_owned(),
    }
}

/// The write under way, or for ever.
async fn maybe(acting: &mut Option<BoxFuture<'static, WriteResult>>) -> WriteResult {
    match acting {
        Some(acting) => acting.await,
        None => std::future::pending().await,
    }
}

/// How long the machine has been up, by its own word; where it does not say, how long the agent has been.
fn uptime(fallback: Duration) -> Duration {
    // The first of two numbers of seconds: proc_uptime(5).
    let read = std::fs::read_to_string("/proc/uptime").ok();
    let seconds = read.as_deref().and_then(|text| text.split(' ').next()).and_then(|first| first.parse::<f64>().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(fallback)
}
