//! One agent's process: the pure core, and as much of a loop around it as the role has. It sees what its watches and the
//! answers to its requests bring, and never the world.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use linkerd_gate_core::decide::election::elector::{Elector, Pause, Step, WriteError};
use linkerd_gate_core::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate_core::decide::election::published_verdict::TaintSuppressions;
use linkerd_gate_core::decide::node::essential;
use linkerd_gate_core::decide::node::essential::{DaemonPodView, DaemonSetView, EssentialNamespace, UnboundPod};
use linkerd_gate_core::decide::node::placement::NodePlace;
use linkerd_gate_core::decide::node::repair_wait::ControllerLease;
use linkerd_gate_core::decide::node::taint::{Age, NodeFacts, NodePlan, NodePolicy, NodeState, NodeView, TAINT_KEY};
use linkerd_gate_core::decide::readiness::gate::ClosedReason;
use linkerd_gate_core::decide::{
    Evidence, Follower, Gate, LinkerdInstallation, ManualOverride, Policy, Probe, ProbeResult, PublishedVerdict,
};
use linkerd_gate_core::linkerd::WebhookView;

use crate::api_server::{LeaseWrite, Refused, Request, Truth, Word};
use crate::random::{Format, Random};

/// How long an agent waits for the answer to a patch of its node, or to a look.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(7);

/// The longest time that an agent that finds the Lease vacant leaves it to others.
const TAKEN_WITHIN_MILLIS: u64 = 5000;

/// What the operator configured.
#[derive(Debug)]
pub struct Policies {
    pub proven: Policy,
    pub node: NodePolicy,
    /// How often an open gate is proven again, give or take a fifth.
    pub proven_again: Duration,
}

/// What an agent could find out now, if it looked.
pub struct Surroundings<'a> {
    pub now: Duration,
    pub wall: Timestamp,
    pub policies: &'a Policies,
    pub random: &'a mut Random,
    /// What identity answers to its node.
    pub identity: ProbeResult,
    /// When linkerd-gate was installed.
    pub installed: i64,
    pub cluster: &'a Cluster,
}

/// What a prover's watches show.
#[derive(Debug, Default)]
pub struct Cluster {
    pub webhooks: WebhookView,
    pub namespaces: Vec<EssentialNamespace>,
    pub pods: Vec<UnboundPod>,
    pub daemon_sets: Vec<DaemonSetView>,
    pub daemon_pods: Vec<DaemonPodView>,
    pub places: Vec<NodePlace>,
}

/// What came of a look: what each probe found, without an instant.
#[derive(Clone, Debug)]
pub struct Found {
    pub installation: LinkerdInstallation,
    pub webhook: ProbeResult,
    pub injector: ProbeResult,
    pub injection: ProbeResult,
    pub identity: ProbeResult,
}

/// What an agent asked for, and what came of it.
#[derive(Clone, Debug)]
pub enum Answer {
    Node(Result<Rc<NodeView>, Refused>),
    /// The Lease as the write of that number left it.
    Lease(u64, Result<LeaseRecord, Refused>),
    Look(Found),
    Tolerate(String),
}

/// What reaches a process from outside.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "few are under way at a time")]
pub enum Message {
    Lease(Option<Rc<Word>>),
    Node(Rc<NodeView>),
    /// The controllers' Lease.
    Controller(Option<Rc<LeaseRecord>>),
    /// With when the request was sent.
    Answer(Answer, Duration),
}

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

/// What an agent is while it leads.
#[derive(Clone, Debug)]
struct Prover {
    gate: Gate,
    /// Its probes do not end any more, whatever comes; only another prover's do.
    hangs: bool,
    looking: Option<Duration>,
    look_at: Duration,
    pause: Duration,
    evidence: Option<Duration>,
    proven_again: Duration,
    /// What must run everywhere and does not tolerate our taint; until its own watches know, what its predecessor said.
    suppressions: TaintSuppressions,
    listed: bool,
    tolerating: BTreeSet<String>,
}

// === impl Found ===

impl Found {
    /// What a look finds that does not reach the API server.
    pub fn nothing() -> Self {
        let unknown = || ProbeResult::unknown("the API server does not answer");
        Self {
            installation: LinkerdInstallation::Unseen,
            webhook: unknown(),
            injector: unknown(),
            injection: unknown(),
            identity: unknown(),
        }
    }
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
            follower: Follower::new(&policies.proven).unwrap(),
            truth: Truth::default(),
            node_view: None,
            lease: None,
            identity: ProbeResult::unknown("not asked yet"),
            identity_due: Duration::ZERO,
            closed_since: None,
            controller: ControllerLease::default(),
            wants_controller: false,
            patch: Writing::default(),
            writing: None,
            written: None,
            prover: None,
            wake: now,
        }
    }

    /// Its monotonic clock, which has nothing to do with anybody else's.
    fn local(&self, now: Duration) -> Duration {
        now.saturating_sub(self.booted)
    }

    /// Whether it acts as the prover: it holds the Lease by its own knowledge, and renewed it lately.
    pub fn acts(&self, now: Duration) -> bool {
        self.elector.leads(self.local(now))
    }

    /// What it would publish now, where it proves.
    pub fn verdict(&self) -> Option<String> {
        self.prover.as_ref().map(Prover::verdict)
    }

    /// When it wants to be woken.
    pub fn wake(&self) -> Duration {
        self.wake
    }

    pub fn receive(&mut self, message: Message, now: Duration, random: &mut Random) {
        match message {
            Message::Lease(word) => {
                let local = self.local(now);
                self.follower.note(word.as_ref().map(|word| &word.record), local);
                self.elector.observe(word.as_ref().map(|word| &word.record), local);
                if let Some(word) = &word {
                    self.truth = word.truth;
                }
                self.lease = word;
            }
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

    /// Its probes never end from now on, though it renews its Lease and tends what else a prover tends. Returns whether it proves.
    pub fn hang_probes(&mut self) -> bool {
        let prover = self.prover.as_mut().filter(|prover| prover.listed && !prover.hangs);
        prover.is_some_and(|prover| {
            prover.hangs = true;
            true
        })
    }

    /// What the watches of a prover would tell: it looks at once.
    pub fn notice(&mut self, now: Duration) {
        if let Some(prover) = &mut self.prover {
            prover.look_at = now;
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

        let local = self.local(now);
        let before = self.follower.step(&self.identity, local);
        self.check_gate(&before)?;
        if let Some(stale) = self.follower.stale_at(local) {
            self.wake_at(self.booted + stale, now);
        }
        let mut requests = Vec::new();
        self.tend_node(around, &mut requests);
        self.tend_lease(around, &mut requests);
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
            ) => Err(format!("{} closed its gate for want of knowledge: {}", self.me, self.follower.gate())),
            (Gate::Closed { .. } | Gate::Settling { .. }, Gate::Open { .. }) => {
                if self.truth.renewed < self.started {
                    return Err(format!(
                        "{} opened its gate by a verdict that nobody renewed since it started",
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

    fn tend_node(&mut self, around: &mut Surroundings<'_>, requests: &mut Vec<Request>) {
        let now = around.now;
        let Some(view) = self.node_view.clone() else { return };
        let manual_override = self.manual_override(around.wall);
        let local = self.local(now);
        let suppressed_by =
            self.follower.published(local).map(|word| word.suppressed_by(&self.me.name)).unwrap_or_default();
        let policy = &around.policies.node;
        self.controller.note_override(manual_override.is_some_and(|word| !word.open), local);
        let facts = NodeFacts {
            node: &view,
            boot: &self.me.incarnation,
            uptime: now.saturating_sub(self.booted),
            closed_since: self.closed_since,
            age: Age::of(&view, (now >= self.started + Duration::from_millis(300)).then_some(around.installed)),
            gate: self.follower.gate(),
            suppressed_by: &suppressed_by,
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
        // A machine that goes down is closed, and stays so: the next boot decides anew.
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

    fn tend_lease(&mut self, around: &mut Surroundings<'_>, requests: &mut Vec<Request>) {
        let (now, local) = (around.now, self.local(around.now));
        loop {
            if let Some((_, verdict)) = self.writing.take_if(|(number, _)| *number == self.elector.accepted()) {
                self.written = Some(verdict);
            }
            let verdict = self.verdict().map(|verdict| self.format.apply(verdict));
            let news =
                verdict.as_ref().filter(|verdict| self.written.as_ref() != Some(verdict)).map(|_| Duration::ZERO);
            match self.elector.step(local, news, &mut |pause| length(pause, around.random)) {
                Step::Wait { until } => {
                    if let Some(until) = until {
                        self.wake_at(self.booted + until, now);
                    }
                    return;
                }
                Step::Write(write) => {
                    let evidence = self.prover.as_ref().map_or(self.truth.evidence, |prover| prover.evidence);
                    let verdict = verdict.unwrap_or_else(|| self.format.apply(self.begin(now).verdict()));
                    self.writing = Some((write.number, verdict.clone()));
                    let renewed = now.as_micros().to_string();
                    self.elector.sent(write.number, renewed.clone());
                    let record = write.record.as_ref();
                    let ours = record.is_some_and(|record| record.holder.as_ref() == Some(&self.me));
                    let transitions = record.map_or(0, |record| record.transitions);
                    requests.push(Request::WriteLease(LeaseWrite {
                        number: write.number,
                        resource_version: record.map(|record| record.resource_version.clone()),
                        holder: self.me.clone(),
                        renewed,
                        transitions: if ours { transitions } else { transitions + 1 },
                        verdict,
                        evidence,
                    }));
                }
                Step::Lead(_) => {
                    self.prover = Some(self.begin(now));
                    self.elector.note_probes(local);
                }
                Step::StepDown(_) => self.prover = None,
            }
        }
    }

    /// A prover that takes over does not close what is open by its own knowledge.
    fn begin(&self, now: Duration) -> Prover {
        // What its predecessor said, where it lived to see it: after a power loss that would be old news, and a taint that is
        // there for a moment too long does less harm than one that is not.
        let said = self.lease.as_ref().and_then(|word| word.record.verdict.as_deref());
        let said = said.filter(|_| self.follower.observer().stale_at().is_some());
        let suppressions = said
            .and_then(|said| PublishedVerdict::read(said).ok())
            .map(|word| word.taint_suppressed_by)
            .unwrap_or_default();
        Prover {
            gate: self.follower.prover_gate(self.local(now)),
            hangs: false,
            looking: None,
            look_at: now,
            pause: Duration::from_millis(100),
            evidence: self.truth.evidence,
            proven_again: self.proven_again,
            suppressions,
            listed: false,
            tolerating: BTreeSet::new(),
        }
    }

    fn prove(&mut self, around: &mut Surroundings<'_>, requests: &mut Vec<Request>) {
        let now = around.now;
        let local = self.local(now);
        if !self.acts(now) {
            return;
        }
        let Some(prover) = &mut self.prover else { return };
        let hangs = prover.hangs;
        if !hangs && prover.looking.is_some_and(|sent| now >= sent + REQUEST_LIMIT) {
            prover.looking = None;
            let lost = || ProbeResult::unknown("the API server did not answer in time");
            let nothing = Found {
                installation: LinkerdInstallation::Unseen,
                webhook: lost(),
                injector: lost(),
                injection: lost(),
                identity: lost(),
            };
            prover.found(&nothing, now, (now, local), around.random);
            self.elector.note_probes(prover.look_at.saturating_sub(self.booted));
        }
        if !hangs && prover.looking.is_none() && now >= prover.look_at {
            prover.looking = Some(now);
            self.dry_runs += 1;
            requests.push(Request::Look);
        }
        if prover.listed {
            let essential =
                essential::namespaces(&around.cluster.webhooks, &around.cluster.namespaces, &BTreeSet::new());
            let Cluster { daemon_sets, daemon_pods, places, .. } = around.cluster;
            let sets = essential::intolerant(TAINT_KEY, &essential, &[], daemon_sets);
            prover.suppressions = essential::suppressions(TAINT_KEY, &sets, places, daemon_pods, &prover.suppressions);
            for tolerate in essential::missing_tolerations(TAINT_KEY, &essential, &around.cluster.pods) {
                if prover.tolerating.insert(tolerate.uid.clone()) {
                    requests.push(Request::Tolerate(tolerate.uid));
                }
            }
        }
        if !hangs {
            let next = prover.looking.map_or(prover.look_at, |sent| sent + REQUEST_LIMIT);
            self.wake_at(next, now);
        }
    }
}

fn is_newer(view: &NodeView, than: &NodeView) -> bool {
    let version = |view: &NodeView| view.resource_version.parse::<u64>().unwrap_or_default();
    version(view) > version(than)
}

fn length(pause: Pause, random: &mut Random) -> Duration {
    match pause {
        Pause::Acquire => random.between(0, TAKEN_WITHIN_MILLIS),
        Pause::Retry => random.between(500, 1500),
    }
}

// === impl Prover ===

impl Prover {
    /// What it publishes.
    fn verdict(&self) -> String {
        PublishedVerdict::new(&self.gate, self.suppressions.clone(), Vec::new()).write()
    }

    fn found(&mut self, found: &Found, sent: Duration, (now, local): (Duration, Duration), random: &mut Random) {
        // By the same clock as its follower's: one process has one.
        let evidence = Evidence::at(local)
            .with_linkerd_installation(found.installation)
            .with(Probe::Webhook, found.webhook.clone())
            .with(Probe::Injector, found.injector.clone())
            .with(Probe::Injection, found.injection.clone())
            .with(Probe::Identity, found.identity.clone());
        let policy = Policy::proven();
        let verdict = linkerd_gate_core::decide::Verdict::of(&policy, &evidence);
        self.gate = std::mem::take(&mut self.gate).step(&policy, &evidence);
        if verdict.is_open() {
            self.evidence = Some(sent);
            self.pause = Duration::from_millis(100);
        } else {
            self.pause = (self.pause * 3 / 2).min(Duration::from_secs(5));
        }
        self.listed |= found.installation != LinkerdInstallation::Unseen;
        self.look_at = now
            + match &self.gate {
                Gate::Open { degraded: None, .. } => {
                    self.proven_again * 4 / 5 + random.between(0, self.proven_again.as_secs() * 400)
                }
                Gate::Settling { .. } => random.between(350, 450),
                Gate::Open { .. } | Gate::Closed { .. } => self.pause + random.between(0, 50),
            };
    }
}
