//! One agent's process: the pure core, and as much of a loop around it as the role has. It sees what its watches and the
//! answers to its requests bring, and never the world.

mod election;
mod message;
mod prover;

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use linkerd_gate_core::decide::election::elector::{Elector, WriteError};
use linkerd_gate_core::decide::election::lease_record::LeaseHolder;
use linkerd_gate_core::decide::gate_status::NodeStatus;
use linkerd_gate_core::decide::node::repair_wait::ControllerLease;
use linkerd_gate_core::decide::node::taint::{Age, NodeFacts, NodePlan, NodeState, NodeView};
use linkerd_gate_core::decide::readiness::gate::ClosedReason;
use linkerd_gate_core::decide::{Follower, Gate, GateStatus, ManualOverride, Policy, ProbeResult};

use crate::api_server::{Refused, Request, Truth, Word};
use crate::random::{Format, Random};
use election::length;
pub use message::{Answer, Cluster, Found, Message, Policies, Surroundings};
use prover::Prover;

/// How long an agent waits for the answer to a patch of its node, or to a look.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(7);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Runs,
    /// Stopped by a signal, or starved: it has everything before it, and does nothing.
    Hangs,
    Ended,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Agent {
    pub node: usize,
    pub me: LeaseHolder,
    proven_again: Duration,
    /// When its node booted, by the world's clock.
    pub booted: Duration,
    pub started: Duration,
    pub process: Process,
    /// Since when nothing has been wrong with it: it runs, and reaches the API server.
    pub undisturbed: Duration,
    pub cut_off: bool,
    /// How it writes its verdict.
    pub format: Format,
    pub watching: bool,
    /// What waits while it hangs.
    pub inbox: Vec<Message>,
    /// Which wake-up counts: an earlier one was put off.
    pub alarm: u64,
    pub dry_runs: usize,
    pub state: Option<NodeState>,
    pub follower: Follower,
    /// What is behind the latest word that it knows: for the invariants.
    truth: Truth,
    node_view: Option<Rc<NodeView>>,
    lease: Option<Rc<Word>>,
    identity: ProbeResult,
    identity_due: Duration,
    closed_since: Option<Duration>,
    controller: ControllerLease,
    /// Whether it follows the controllers' Lease.
    pub wants_controller: bool,
    /// As the last fresh verdict named them: a prover that stopped taints no node.
    suppressed_by: Vec<String>,
    patch: Writing,
    elector: Elector,
    /// The verdict that is on its way.
    writing: Option<(u64, String)>,
    /// The one that the Lease carries, as far as is known.
    written: Option<String>,
    prover: Option<Prover>,
    wake: Duration,
}

/// One kind of write: at most one is under way.
#[derive(Clone, Debug, Default)]
struct Writing {
    sent: Option<Duration>,
    not_before: Duration,
}

// === impl Process ===

impl Process {
    pub fn lives(self) -> bool {
        matches!(self, Self::Runs | Self::Hangs)
    }
}

// === impl Writing ===

impl Writing {
    /// Whether another may be sent.
    fn may(&self, now: Duration) -> bool {
        now >= self.not_before && self.sent.is_none_or(|sent| now >= sent + REQUEST_LIMIT)
    }

    fn next(&self) -> Duration {
        self.sent.map_or(self.not_before, |sent| (sent + REQUEST_LIMIT).max(self.not_before))
    }
}

// === impl Agent ===

impl Agent {
    pub fn new(node: usize, me: LeaseHolder, booted: Duration, now: Duration, policies: &Policies) -> Self {
        let mut follower = Follower::new(&policies.proven).unwrap();
        follower.note_watch_error(Some("the Lease has not been seen yet"));
        Self {
            node,
            elector: Elector::new(me.clone()),
            me,
            proven_again: policies.proven_again,
            booted,
            started: now,
            process: Process::Runs,
            undisturbed: now,
            cut_off: false,
            format: Format::Ours,
            watching: false,
            inbox: Vec::new(),
            alarm: 0,
            dry_runs: 0,
            state: None,
            follower,
            truth: Truth::default(),
            node_view: None,
            lease: None,
            identity: ProbeResult::unknown("not asked yet"),
            identity_due: Duration::ZERO,
            closed_since: None,
            controller: ControllerLease::default(),
            wants_controller: false,
            suppressed_by: Vec::new(),
            patch: Writing::default(),
            writing: None,
            written: None,
            prover: None,
            wake: now,
        }
    }

    /// Its monotonic clock, which no other process shares.
    fn local(&self, now: Duration) -> Duration {
        now.saturating_sub(self.booted)
    }

    /// Whether it acts as the prover: it holds the Lease by its own knowledge, and renewed it lately.
    pub fn acts(&self, now: Duration) -> bool {
        self.elector.leads(self.local(now))
    }

    /// Whether its node was opened in this boot, as far as it has seen.
    pub fn knows_it_was_opened(&self) -> bool {
        self.node_view.as_ref().is_some_and(|node| node.opened_boot.as_ref() == Some(&self.me.incarnation))
    }

    /// What it would publish now, where it proves.
    pub fn verdict(&self) -> Option<String> {
        self.prover.as_ref().map(Prover::verdict)
    }

    /// What it answers to who asks `/gate`.
    pub fn gate_status(&self, now: Duration, wall: Timestamp, policy: &Policy) -> GateStatus {
        let state = self.state.as_ref().unwrap_or(&NodeState::Undecided).as_str().to_owned();
        let node = NodeStatus { name: self.me.name.clone(), state, reason: String::new() };
        let answer = GateStatus::of(self.follower.gate(), policy, None, node);
        let answer = answer.seeing(self.follower.is_fresh(self.local(now)));
        match self.manual_override(wall) {
            Some(word) => answer.overridden(word.open, word.to_string()),
            None => answer,
        }
    }

    /// When it wants to be woken.
    pub fn wake(&self) -> Duration {
        self.wake
    }

    pub fn receive(&mut self, message: Message, now: Duration, random: &mut Random) {
        match message {
            Message::Lease(word) => {
                let local = self.local(now);
                self.follower.note_watch_error(None);
                self.follower.note(word.as_ref().map(|word| &word.record), local);
                self.elector.observe(word.as_ref().map(|word| &word.record), local);
                if let Some(word) = &word {
                    self.truth = word.truth;
                }
                self.lease = word;
            }
            Message::Trouble => self.follower.note_watch_error(Some("the watch ended")),
            Message::Node(view) => self.node_view = Some(view),
            Message::Controller(record) if self.wants_controller => {
                let local = self.local(now);
                self.controller.note(record.as_deref(), local);
            }
            Message::Controller(_) => {}
            Message::Answer(answer, sent) => self.answered(answer, sent, now, random),
        }
    }

    fn answered(&mut self, answer: Answer, sent: Duration, now: Duration, random: &mut Random) {
        let local = self.local(now);
        match answer {
            Answer::Node(result) => {
                self.patch = Writing::default();
                match result {
                    // As the role does: what its watch has shown since is newer.
                    Ok(view) if self.node_view.as_ref().is_none_or(|seen| is_newer(&view, seen)) => {
                        self.node_view = Some(view);
                    }
                    Ok(_) => {}
                    Err(Refused::Conflict) => self.patch.not_before = now + random.between(100, 500),
                    Err(Refused::Lost) => self.patch.not_before = now + random.between(500, 3000),
                }
            }
            Answer::Lease(number, result) => {
                let result = result.map_err(|refused| match refused {
                    Refused::Conflict => WriteError::Conflict,
                    Refused::Lost => WriteError::Failed("lost".to_owned()),
                });
                self.elector.answered(number, result, local, &mut |pause| length(pause, random));
            }
            Answer::Look(found) => {
                let Some(prover) = self.prover.as_mut().filter(|prover| prover.looking == Some(sent)) else { return };
                if prover.hangs {
                    return;
                }
                prover.looking = None;
                prover.found(&found, sent, (now, local), random);
                self.elector.note_probes(prover.look_at.saturating_sub(self.booted));
            }
            Answer::Tolerate(uid) => {
                if let Some(prover) = &mut self.prover {
                    prover.tolerating.remove(&uid);
                }
            }
        }
    }

    /// Does what is to be done now.
    ///
    /// # Errors
    /// An invariant that does not hold.
    pub fn step(&mut self, around: &mut Surroundings<'_>) -> Result<Vec<Request>, String> {
        let now = around.now;
        self.wake = now + Duration::from_secs(30);
        if now >= self.identity_due {
            self.identity = around.identity.clone();
            let pause = if self.follower.gate().is_open() { (8000, 12_000) } else { (300, 700) };
            self.identity_due = now + around.random.between(pause.0, pause.1);
        }
        self.wake_at(self.identity_due, now);

        if self.knows_it_was_opened() {
            self.follower.note_opened_boot();
        }
        let local = self.local(now);
        let before = self.follower.step(&self.identity, local);
        self.check_gate(&before)?;
        if let Some(stale) = self.follower.stale_at(local) {
            self.wake_at(self.booted + stale, now);
        }
        let mut requests = Vec::new();
        self.reconcile_node(around, &mut requests);
        self.elect(around, &mut requests);
        self.prove(around, &mut requests);
        Ok(requests)
    }

    fn wake_at(&mut self, at: Duration, now: Duration) {
        if at > now {
            self.wake = self.wake.min(at);
        }
    }

    fn check_gate(&self, before: &Gate) -> Result<(), String> {
        match (before, self.follower.gate()) {
            (
                Gate::Open { .. },
                Gate::Closed {
                    why: ClosedReason::Unknown(_) | ClosedReason::NoEvidence | ClosedReason::Outdated, ..
                },
            ) => Err(format!(
                "{} closed its gate without knowing anything against it: {}",
                self.me,
                self.follower.gate()
            )),
            (Gate::Closed { .. } | Gate::Settling { .. }, Gate::Open { .. }) => {
                if self.truth.renewed < self.started {
                    return Err(format!(
                        "{} opened its gate by a verdict that was not renewed since it started",
                        self.me
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn manual_override(&self, wall: Timestamp) -> Option<ManualOverride> {
        let of_node = self.node_view.as_ref().and_then(|view| view.manual_override.as_deref());
        let of_all = self.lease.as_ref().and_then(|word| word.record.manual_override.as_deref());
        let in_force = |word| ManualOverride::in_force(word, wall).ok().flatten();
        in_force(of_node).or_else(|| in_force(of_all))
    }

    fn reconcile_node(&mut self, around: &mut Surroundings<'_>, requests: &mut Vec<Request>) {
        let now = around.now;
        let Some(view) = self.node_view.clone() else { return };
        let manual_override = self.manual_override(around.wall);
        let local = self.local(now);
        if let Some(word) = self.follower.published(local) {
            self.suppressed_by = word.suppressed_by(&self.me.name);
        }
        let policy = &around.policies.node;
        self.controller.note_override(manual_override.is_some_and(|word| !word.open), local);
        let facts = NodeFacts {
            node: &view,
            boot: &self.me.incarnation,
            uptime: now.saturating_sub(self.booted),
            closed_since: self.closed_since,
            age: Age::of(&view, (now >= self.started + Duration::from_millis(300)).then_some(around.installed)),
            gate: self.follower.gate(),
            suppressed_by: &self.suppressed_by,
            repair: self.controller.wait(self.follower.gate(), policy.repair_grace, local),
            manual_override,
        };
        let plan = NodePlan::of(policy, &facts);
        let wanted = plan.state.follows_controller();
        if wanted && !self.wants_controller {
            self.controller.clear();
        }
        self.wants_controller = wanted;
        if let Some(next) = self.controller.next(self.follower.gate(), policy.repair_grace, local) {
            self.wake_at(self.booted + next, now);
        }
        self.closed_since = plan.closed_since(self.closed_since);
        // A machine that goes down is closed, and stays so: the next boot decides again.
        let change = plan.change;
        if let NodeState::Closed { since, .. } = &plan.state {
            self.wake_at(self.booted + *since + policy.max_closed, now);
        }
        if let Some(word) = manual_override {
            let left = word.until.duration_since(around.wall).unsigned_abs();
            self.wake_at(now + left + Duration::from_micros(1), now);
        }
        self.wake_at(self.started + Duration::from_millis(300), now);
        if let Some(change) = change {
            if self.patch.may(now) {
                self.patch.sent = Some(now);
                let resource_version = view.resource_version.clone();
                let state = plan.state.clone();
                requests.push(Request::PatchNode { resource_version, change, state, truth: self.truth });
            }
            self.wake_at(self.patch.next(), now);
        }
        self.state = Some(plan.state);
    }
}

fn is_newer(view: &NodeView, than: &NodeView) -> bool {
    let version = |view: &NodeView| view.resource_version.parse::<u64>().unwrap_or_default();
    version(view) > version(than)
}
