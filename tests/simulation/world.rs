//! The world: power, an API server, Linkerd's parts, a scheduler, and the agents' processes, on a clock of its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::jiff::Timestamp;
use linkerd_gate::decide::election::lease_record::{LEASE_DURATION, LeaseHolder, LeaseRecord};
use linkerd_gate::decide::election::published_verdict::TaintSuppressions;
use linkerd_gate::decide::manual_override::ANNOTATION;
use linkerd_gate::decide::node::essential;
use linkerd_gate::decide::node::essential::{DaemonPodView, DaemonSetView, EssentialNamespace, UnboundPod};
use linkerd_gate::decide::node::placement::{NodePlace, Placement};
use linkerd_gate::decide::node::taint::{
    AnnotationEdit, NodeChange, NodePolicy, NodeState, NodeView, Opened, TAINT_EFFECT, TAINT_KEY, Tainting,
};
use linkerd_gate::decide::{
    Gate, LinkerdInstallation, ManualOverride, PendingRepair, Policy, ProbeResult, PublishedVerdict,
};
use linkerd_gate::linkerd::WebhookView;

use crate::agent::{Agent, Answer, Cluster, Found, Message, Policies, Process, Surroundings};
use crate::api_server::{ApiServer, Refused, Request, Truth, Word};
use crate::random::Random;
use crate::story::Happening;

/// A second of the world.
pub const SECOND: Duration = Duration::from_secs(1);

/// Where the wall clock of the world begins, in seconds since the Unix epoch.
const EPOCH: i64 = 1_767_225_600;

/// How long the last lines of a story are.
const TAIL: usize = 80;

static CHART: LazyLock<WebhookView> = LazyLock::new(WebhookView::chart_default);

/// What differs between worlds.
#[derive(Clone, Debug)]
pub struct Setting {
    pub seed: u64,
    pub nodes: usize,
    pub taints: bool,
    pub max_closed: Duration,
    pub repair_grace: Duration,
    pub proven_again: Duration,
    /// Whether the cluster was there before linkerd-gate; else it was there in an earlier boot, gate and all.
    pub fresh_install: bool,
    /// Whether to write down what happens: twice as slow, so only where it is to be read.
    pub logged: bool,
}

/// An invariant that does not hold.
#[derive(Debug)]
pub struct Violation {
    pub at: Duration,
    pub what: String,
    pub tail: String,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Renewals of a Lease by its holder.
    pub renewals: usize,
    /// Tries to take the Lease that reached the API server, refused ones among them.
    pub takings: usize,
    /// Every other write that agents sent.
    pub other_writes: usize,
    /// Writes that were refused because somebody was faster.
    pub conflicts: usize,
    /// Looks that provers made.
    pub dry_runs: usize,
    /// Provers whose probes did not end any more.
    pub probes_hung: usize,
    /// Tolerations that were added to essential pods.
    pub tolerations: usize,
    /// App pods that were created without a proxy because the injector did not answer, and had a node to start on.
    pub slipped: usize,
    /// App pods that were created meanwhile and had to stay Pending.
    pub pending: usize,
    /// Those of them that were Pending still, without a proxy, when a node opened: they start outside the mesh.
    pub bound_bare: usize,
    /// Nodes that opened before the controller was done, because they had waited for as long as they may.
    pub before_repair: usize,
    /// Nodes that opened because they had been closed for as long as a node may be.
    pub too_long_closed: usize,
    /// Nodes that opened by proof.
    pub proven: usize,
}

/// What happens, and when. The number keeps the order of what happens at one instant.
struct Scheduled {
    at: Duration,
    number: u64,
    event: Event,
}

enum Event {
    Tick,
    Wake { agent: usize, alarm: u64 },
    Notice(usize),
    Reconnect(usize),
    Deliver(usize, Message),
    Arrive { agent: usize, request: Request, sent: Duration },
    Respond { agent: usize, answer: Answer, sent: Duration },
    StartAgent { node: usize, boot: usize, pod: String },
    Happen(Happening),
}

/// A machine.
pub struct Machine {
    pub powered: bool,
    /// How often it booted.
    pub boot: usize,
    pub booted: Duration,
    /// When it lost its power the last time: evidence from before says nothing to this boot.
    pub power_lost: Duration,
    /// When the first agent of this boot started.
    pub first_agent: Option<Duration>,
    tainted_since: Option<Duration>,
    /// Since when it has its pod of the network plug-in's DaemonSet.
    pub cni_since: Option<Duration>,
    /// When it lacked that because of our taint.
    cni_lacked: Option<Duration>,
    /// Since when a fresh verdict names it among those that yield.
    suppressed_since: Option<Duration>,
}

/// Which of the things that Linkerd needs a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Dns,
    Identity,
    Injector,
    /// One that no node has room for.
    Unschedulable,
}

/// An essential pod.
pub struct Pod {
    pub part: Part,
    pub node: Option<usize>,
    pub starts: Duration,
    pub view: UnboundPod,
}

/// The controllers, one of which leads.
#[derive(Debug, Default)]
pub struct Controllers {
    /// None of them lives before then.
    pub up_at: Duration,
    /// Missed pods that wait for a node.
    pending: usize,
    /// How many it published last, when, and since when it was more than none.
    published: usize,
    renewed: Duration,
    published_since: Option<Duration>,
}

/// Everything.
#[expect(clippy::struct_excessive_bools, reason = "what may be broken breaks independently of the rest")]
pub struct World {
    pub setting: Setting,
    pub now: Duration,
    pub random: Random,
    pub api: ApiServer,
    pub api_up: bool,
    pub api_slow: bool,
    api_undisturbed: Duration,
    pub machines: Vec<Machine>,
    pub agents: Vec<Agent>,
    pub pods: Vec<Pod>,
    pub webhook_present: bool,
    webhook_absent: Option<Duration>,
    pub webhook_placeholder: bool,
    pub injector_down: bool,
    pub identity_down: bool,
    /// Whether the network plug-in's DaemonSet does not tolerate our taint.
    pub daemon_set_lacks: bool,
    pub lease_deleted: Option<Duration>,
    pub closed_by_override_until: Option<Duration>,
    pub controllers: Controllers,
    pub calm: bool,
    pub counts: Counts,
    policies: Policies,
    cluster: Cluster,
    known: (bool, bool, bool, bool),
    queue: BinaryHeap<Reverse<Scheduled>>,
    number: u64,
    pods_made: usize,
    history: VecDeque<String>,
}

// === impl Scheduled ===

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The id of a boot, as unlike its neighbours as genuine ones are.
fn boot_id(node: usize, boot: usize) -> String {
    let mut random = Random::new(u64::try_from(boot * 1000 + node).unwrap());
    format!("{:08x}-{node:04}", random.below(1 << 32))
}

pub fn node_name(node: usize) -> String {
    format!("node-{node}")
}

// === impl World ===

impl World {
    pub fn new(setting: Setting) -> Self {
        let policies = Policies {
            proven: Policy::proven(),
            node: NodePolicy {
                taint_key: TAINT_KEY.to_owned(),
                tainting: if setting.taints { Tainting::Enforce } else { Tainting::Never },
                max_closed: setting.max_closed,
                repair_grace: setting.repair_grace,
            },
            proven_again: setting.proven_again,
        };
        let namespace = |name: &str| EssentialNamespace { name: name.to_owned(), ..EssentialNamespace::default() };
        let cluster = Cluster {
            webhooks: CHART.clone(),
            namespaces: ["kube-system", "linkerd", "shop"].map(namespace).into(),
            ..Cluster::default()
        };
        let mut world = Self {
            now: Duration::ZERO,
            random: Random::new(setting.seed),
            api: ApiServer::default(),
            api_up: true,
            api_slow: false,
            api_undisturbed: Duration::ZERO,
            machines: Vec::new(),
            agents: Vec::new(),
            pods: Vec::new(),
            webhook_present: true,
            webhook_absent: None,
            webhook_placeholder: false,
            injector_down: false,
            identity_down: false,
            daemon_set_lacks: false,
            lease_deleted: None,
            closed_by_override_until: None,
            controllers: Controllers::default(),
            calm: false,
            counts: Counts::default(),
            policies,
            cluster,
            known: (false, false, false, false),
            queue: BinaryHeap::new(),
            number: 0,
            pods_made: 0,
            history: VecDeque::new(),
            setting,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let fresh = self.setting.fresh_install;
        for node in 0..self.setting.nodes {
            self.add_machine(if fresh { None } else { Some(boot_id(node, 0)) }, EPOCH - 1000);
        }
        if !fresh {
            // What etcd remembers: an open verdict of a prover that is no more.
            let open = Gate::Open {
                basis: linkerd_gate::decide::Basis::Proven,
                since: SECOND,
                latest: SECOND,
                degraded: None,
            };
            let record = LeaseRecord {
                resource_version: "0".to_owned(),
                holder: Some(LeaseHolder {
                    name: node_name(0),
                    detail: "agent-before".to_owned(),
                    incarnation: boot_id(0, 0),
                }),
                renewed: Some("before".to_owned()),
                transitions: 4,
                verdict: Some(PublishedVerdict::new(&open, TaintSuppressions::new(), Vec::new()).write()),
                manual_override: None,
                pending_repair: None,
            };
            self.api.lease = Some(Rc::new(Word { record, truth: Truth::default() }));
        }
        for part in [Part::Dns, Part::Identity, Part::Injector] {
            let node = (!self.random.chance(40)).then(|| self.random.below(self.setting.nodes));
            self.make_pod(part, node);
        }
        if self.random.chance(30) {
            self.make_pod(Part::Unschedulable, None);
        }
        self.refresh_cluster();
        self.schedule(Duration::ZERO, Event::Tick);
    }

    /// A machine that is there for the first time since the world began, with an agent soon.
    pub fn add_machine(&mut self, opened_boot: Option<String>, created: i64) {
        let node = self.machines.len();
        self.machines.push(Machine {
            powered: true,
            boot: 1,
            booted: self.now,
            // It lost nothing; a look may have been on its way since before it came.
            power_lost: self.now.saturating_sub(Duration::from_secs(18)),
            first_agent: None,
            tainted_since: None,
            cni_since: None,
            cni_lacked: None,
            suppressed_since: None,
        });
        self.api.add_node(NodeView {
            name: node_name(node),
            has_annotations: opened_boot.is_some(),
            opened_boot,
            created: Some(created),
            ..NodeView::default()
        });
        self.refresh_cluster();
        let after = self.random.between(500, 12_000);
        self.start_agent_in(after, node, format!("agent-{node}"));
    }

    pub fn wall(&self) -> Timestamp {
        let micros = EPOCH * 1_000_000 + i64::try_from(self.now.as_micros()).unwrap();
        Timestamp::from_microsecond(micros).unwrap()
    }

    pub fn created_now(&self) -> i64 {
        self.wall().as_second()
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Scheduled { at, number: self.number, event }));
    }

    pub fn happen_in(&mut self, after: Duration, happening: Happening) {
        self.schedule(self.now + after, Event::Happen(happening));
    }

    pub fn start_agent_in(&mut self, after: Duration, node: usize, pod: String) {
        let boot = self.machines[node].boot;
        self.schedule(self.now + after, Event::StartAgent { node, boot, pod });
    }

    pub fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.setting.logged {
            let line = format!("{:>9.3} {}", self.now.as_secs_f64(), line(self));
            if self.history.len() == TAIL {
                self.history.pop_front();
            }
            self.history.push_back(line);
        }
    }

    /// Lets the world go on until then.
    pub fn run_until(&mut self, end: Duration) -> Result<(), Violation> {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at > end {
                break;
            }
            let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else { break };
            self.now = at;
            self.handle(event).map_err(|what| self.violation(what))?;
        }
        self.now = end;
        Ok(())
    }

    pub fn violation(&self, what: String) -> Violation {
        let tail = self.history.iter().fold(String::new(), |mut tail, line| {
            let _ = writeln!(tail, "{line}");
            tail
        });
        Violation { at: self.now, what, tail }
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick => {
                self.schedule(self.now + SECOND, Event::Tick);
                self.schedule_pods();
                self.run_daemon_sets();
                self.create_app_pod();
                self.run_controllers();
                self.notice_linkerd();
                self.check_closed()
            }
            Event::Wake { agent, alarm } => {
                if self.agents[agent].alarm == alarm {
                    self.step(agent)
                } else {
                    Ok(())
                }
            }
            Event::Notice(agent) => {
                let now = self.now;
                self.agents[agent].notice(now);
                self.step(agent)
            }
            Event::Reconnect(agent) => {
                self.reconnect(agent);
                Ok(())
            }
            Event::Deliver(agent, message) => self.deliver(agent, message),
            Event::Arrive { agent, request, sent } => self.arrive(agent, request, sent),
            Event::Respond { agent, answer, sent } => {
                let answer = if self.reaches(agent) { answer } else { lost(answer) };
                self.deliver(agent, Message::Answer(answer, sent))
            }
            Event::StartAgent { node, boot, pod } => {
                self.start_agent(node, boot, pod);
                Ok(())
            }
            Event::Happen(happening) => {
                self.tell(|_| format!("-- {happening:?}"));
                happening.happen(self);
                Ok(())
            }
        }
    }

    // --- agents ---

    /// Whether an agent's packets get through to the API server.
    fn reaches(&self, agent: usize) -> bool {
        self.api_up && !self.agents[agent].cut_off
    }

    fn start_agent(&mut self, node: usize, boot: usize, pod: String) {
        let machine = &mut self.machines[node];
        if !machine.powered || machine.boot != boot {
            return;
        }
        if machine.first_agent.is_none() {
            // A taint that an earlier boot left is this one's from now on.
            machine.first_agent = Some(self.now);
            machine.tainted_since = machine.tainted_since.map(|_| self.now);
        }
        let me = LeaseHolder { name: node_name(node), detail: pod, incarnation: boot_id(node, boot) };
        let twin = self.agents.iter().any(|agent| agent.me == me && agent.process.lives());
        if twin {
            return;
        }
        self.tell(|_| format!("{me} starts"));
        self.agents.push(Agent::new(node, me, self.machines[node].booted, self.now, &self.policies));
        let after = self.random.between(20, 800);
        self.schedule(self.now + after, Event::Reconnect(self.agents.len() - 1));
    }

    /// Lists and watches anew; tries again later where the API server is out of reach.
    fn reconnect(&mut self, agent: usize) {
        if !self.agents[agent].process.lives() || self.agents[agent].watching {
            return;
        }
        if !self.reaches(agent) {
            let after = self.random.between(500, 5000);
            self.schedule(self.now + after, Event::Reconnect(agent));
            return;
        }
        self.agents[agent].watching = true;
        self.agents[agent].undisturbed = self.now;
        let node = Message::Node(Rc::clone(&self.api.nodes[self.agents[agent].node]));
        let lease = Message::Lease(self.api.lease.clone());
        for message in [node, lease, Message::Controller(self.api.controller.clone())] {
            self.schedule(self.now, Event::Deliver(agent, message));
        }
    }

    /// Breaks an agent's watches: what changes now it learns when it lists again.
    pub fn break_watches(&mut self, agent: usize) {
        if self.agents[agent].watching {
            self.agents[agent].watching = false;
            let after = self.random.between(100, 8000);
            self.schedule(self.now + after, Event::Reconnect(agent));
        }
    }

    pub fn break_all_watches(&mut self) {
        self.api_undisturbed = self.now;
        for agent in 0..self.agents.len() {
            self.break_watches(agent);
        }
    }

    pub fn api_settled(&mut self) {
        self.api_undisturbed = self.now;
    }

    pub fn notify_lease(&mut self) {
        for agent in 0..self.agents.len() {
            self.notify(agent, Message::Lease(self.api.lease.clone()));
        }
    }

    pub fn notify_node(&mut self, node: usize) {
        for agent in 0..self.agents.len() {
            if self.agents[agent].node == node {
                self.notify(agent, Message::Node(Rc::clone(&self.api.nodes[node])));
            }
        }
    }

    /// Sends what changed to one who watches. Whatever else changes before it arrives is in it: a watch may skip, and it never
    /// goes back.
    fn notify(&mut self, agent: usize, message: Message) {
        if self.agents[agent].watching && self.agents[agent].process.lives() {
            let after = self.random.between(1, if self.api_slow { 3000 } else { 150 });
            self.schedule(self.now + after, Event::Deliver(agent, message));
        }
    }

    fn deliver(&mut self, agent: usize, message: Message) -> Result<(), String> {
        // A watch tells what is there when it tells it.
        let message = match message {
            Message::Lease(_) | Message::Node(_) | Message::Controller(_) if !self.agents[agent].watching => {
                return Ok(());
            }
            Message::Controller(_) => Message::Controller(self.api.controller.clone()),
            Message::Lease(_) => Message::Lease(self.api.lease.clone()),
            Message::Node(_) => Message::Node(Rc::clone(&self.api.nodes[self.agents[agent].node])),
            answer @ Message::Answer(..) => answer,
        };
        match self.agents[agent].process {
            Process::Ended => Ok(()),
            Process::Hangs => {
                self.agents[agent].inbox.push(message);
                Ok(())
            }
            Process::Runs => {
                self.agents[agent].receive(message, self.now, &mut self.random);
                self.step(agent)
            }
        }
    }

    /// A process goes on. Which of what waits for it comes first is nobody's promise.
    pub fn wake_up(&mut self, agent: usize) {
        if self.agents[agent].process != Process::Hangs {
            return;
        }
        self.agents[agent].process = Process::Runs;
        self.agents[agent].undisturbed = self.now;
        let inbox = std::mem::take(&mut self.agents[agent].inbox);
        let late = if self.random.chance(50) { Duration::from_millis(5) } else { Duration::ZERO };
        let alarm = self.agents[agent].alarm;
        self.schedule(self.now + Duration::from_millis(2), Event::Wake { agent, alarm });
        for message in inbox {
            self.schedule(self.now + late, Event::Deliver(agent, message));
        }
    }

    pub fn end(&mut self, agent: usize) {
        self.agents[agent].process = Process::Ended;
        self.agents[agent].inbox.clear();
    }

    /// Those that live, on a node or anywhere.
    pub fn living(&self, node: Option<usize>) -> Vec<usize> {
        let all = self.agents.iter().enumerate();
        all.filter(|(_, agent)| agent.process.lives() && node.is_none_or(|node| node == agent.node))
            .map(|(number, _)| number)
            .collect()
    }

    fn step(&mut self, agent: usize) -> Result<(), String> {
        if self.agents[agent].process != Process::Runs {
            return Ok(());
        }
        let identity = self.identity_seen_from(self.agents[agent].node);
        let wall = self.wall();
        let mut around = Surroundings {
            now: self.now,
            wall,
            policies: &self.policies,
            random: &mut self.random,
            identity,
            installed: EPOCH,
            cluster: &self.cluster,
        };
        let process = &mut self.agents[agent];
        let open = process.follower.gate().is_open();
        let wanted = process.wants_controller;
        let requests = process.step(&mut around)?;
        let begins = process.wants_controller && !wanted;
        process.alarm += 1;
        let (alarm, wake) = (process.alarm, process.wake().max(self.now + Duration::from_micros(1)));
        self.schedule(wake, Event::Wake { agent, alarm });
        if open != self.agents[agent].follower.gate().is_open() {
            self.tell(|world| format!("{}: gate {}", world.agents[agent].me, world.agents[agent].follower.gate()));
        }
        if begins {
            self.notify(agent, Message::Controller(None));
        }
        for request in requests {
            self.send(agent, request)?;
        }
        Ok(())
    }

    /// What the controllers do once a second: one of them says how many pods it still replaces, and replaces them.
    fn run_controllers(&mut self) {
        if self.controllers.pending > 0
            && (0..self.machines.len()).any(|node| self.machines[node].powered && !self.api.is_tainted(node))
        {
            // A node that has just booted, before its agent's first write: what only admission can prevent.
            self.controllers.pending = 0;
        }
        if !self.api_up || self.now < self.controllers.up_at {
            return;
        }
        if self.injects() {
            self.controllers.pending = self.controllers.pending.saturating_sub(5);
        }
        let pending = self.controllers.pending;
        if self.now < self.controllers.renewed + Duration::from_secs(5) && pending == self.controllers.published {
            return;
        }
        self.tell(|_| format!("the controller still replaces {pending} pods"));
        let controllers = &mut self.controllers;
        (controllers.renewed, controllers.published) = (self.now, pending);
        controllers.published_since = (pending > 0).then(|| controllers.published_since.unwrap_or(self.now));
        self.api.controller = Some(Rc::new(LeaseRecord {
            holder: Some(LeaseHolder::read("anywhere/controller/uid")),
            renewed: Some(self.now.as_micros().to_string()),
            pending_repair: Some(PendingRepair::new(pending).write()),
            ..LeaseRecord::default()
        }));
        for agent in 0..self.agents.len() {
            if self.agents[agent].wants_controller {
                self.notify(agent, Message::Controller(None));
            }
        }
    }

    // --- requests ---

    fn latency(&mut self) -> Duration {
        if self.api_slow { self.random.between(1500, 2500) } else { self.random.between(1, 40) }
    }

    fn send(&mut self, agent: usize, request: Request) -> Result<(), String> {
        self.count_sent(agent, &request);
        if matches!(request, Request::Look) {
            self.check_dry_run(agent)?;
        }
        let after = self.latency();
        self.schedule(self.now + after, Event::Arrive { agent, request, sent: self.now });
        Ok(())
    }

    fn count_sent(&mut self, agent: usize, request: &Request) {
        match request {
            Request::Look => self.counts.dry_runs += 1,
            Request::WriteLease(_) => {}
            Request::PatchNode { change, state, .. } => {
                self.counts.other_writes += 1;
                self.tell(|world| format!("{} sends {change:?} for {state:?}", world.agents[agent].me));
            }
            Request::Tolerate(uid) => {
                self.counts.other_writes += 1;
                self.counts.tolerations += 1;
                self.tell(|world| format!("{} tolerates for {uid}", world.agents[agent].me));
            }
        }
    }

    fn arrive(&mut self, agent: usize, request: Request, sent: Duration) -> Result<(), String> {
        let reached = self.reaches(agent);
        let answer = match request {
            Request::PatchNode { resource_version, change, state, truth } => {
                let node = self.agents[agent].node;
                let refused = || Err(Refused::Lost);
                let before = Rc::clone(&self.api.nodes[node]);
                let result = if reached { self.api.patch_node(node, &resource_version, &change) } else { refused() };
                if result.is_ok() {
                    self.check_patch(agent, &before, &change, &state, truth)?;
                    self.note_taint(node);
                    self.notify_node(node);
                }
                self.counts.conflicts += usize::from(result == Err(Refused::Conflict));
                Answer::Node(result)
            }
            Request::WriteLease(write) => {
                let before = self.api.lease.clone();
                if reached {
                    let renews = before.as_ref().is_some_and(|word| word.record.holder.as_ref() == Some(&write.holder));
                    *(if renews { &mut self.counts.renewals } else { &mut self.counts.takings }) += 1;
                }
                let result = if reached { self.api.write_lease(&write, self.now) } else { Err(Refused::Lost) };
                if result.is_ok() {
                    self.check_lease(before.as_deref(), &write.holder, write.transitions)?;
                    let changed = before.as_ref().and_then(|word| word.record.verdict.as_ref()) != Some(&write.verdict);
                    if changed || before.is_none_or(|word| word.record.holder.as_ref() != Some(&write.holder)) {
                        self.tell(|_| format!("{} publishes {}", write.holder, write.verdict));
                    }
                    self.notify_lease();
                }
                self.counts.conflicts += usize::from(matches!(result, Err(Refused::Conflict)));
                Answer::Lease(write.number, result.map(|word| word.record.clone()))
            }
            Request::Look => Answer::Look(if reached { self.look() } else { nothing_found() }),
            Request::Tolerate(uid) => {
                if reached {
                    self.tolerate(&uid);
                }
                Answer::Tolerate(uid)
            }
        };
        let after = self.latency();
        self.schedule(self.now + after, Event::Respond { agent, answer, sent });
        Ok(())
    }

    fn tolerate(&mut self, uid: &str) {
        for pod in &mut self.pods {
            if pod.view.uid == uid {
                pod.view.tolerations.get_or_insert_default().push(essential::toleration(TAINT_KEY));
            }
        }
        self.refresh_cluster();
    }

    /// What a dry-run pod and the prover's watches show at this instant.
    fn look(&mut self) -> Found {
        if !self.webhook_present {
            let absent = || ProbeResult::unknown("there is no webhook");
            return Found {
                installation: LinkerdInstallation::Absent,
                webhook: ProbeResult::not_ready("there is none"),
                injector: absent(),
                injection: ProbeResult::not_ready("came back bare"),
                identity: absent(),
            };
        }
        let ready = |up: bool, why: &str| if up { ProbeResult::Ready } else { ProbeResult::not_ready(why.to_owned()) };
        let injects = self.injects();
        Found {
            installation: LinkerdInstallation::Present,
            webhook: ready(!self.webhook_placeholder, "its CA bundle is a placeholder"),
            // Endpoints are what etcd remembers: they may call an injector ready that lost its power.
            injector: ready(injects || (self.now.as_secs() / 20).is_multiple_of(2), "no endpoint is ready"),
            injection: ready(injects, "came back bare"),
            identity: ready(self.identity_up(), "refused"),
        }
    }

    // --- Linkerd, pods, the scheduler ---

    fn part_runs(&self, part: Part) -> bool {
        self.pods.iter().any(|pod| {
            pod.part == part && pod.starts <= self.now && pod.node.is_some_and(|node| self.machines[node].powered)
        })
    }

    pub fn identity_up(&self) -> bool {
        !self.identity_down && self.part_runs(Part::Dns) && self.part_runs(Part::Identity)
    }

    /// Whether the API server gets an injected pod from the injector.
    pub fn injects(&self) -> bool {
        self.webhook_present
            && !self.webhook_placeholder
            && !self.injector_down
            && self.part_runs(Part::Injector)
            && self.identity_up()
    }

    fn identity_seen_from(&mut self, node: usize) -> ProbeResult {
        if !self.machines[node].powered {
            ProbeResult::unknown("no power")
        } else if self.identity_up() {
            ProbeResult::Ready
        } else if self.random.chance(50) {
            ProbeResult::not_ready("refused")
        } else {
            ProbeResult::unknown("timed out")
        }
    }

    pub fn make_pod(&mut self, part: Part, node: Option<usize>) {
        self.pods_made += 1;
        let number = self.pods_made;
        let starts = self.now + self.random.between(1000, 4000);
        let namespace = if matches!(part, Part::Dns | Part::Unschedulable) { "kube-system" } else { "linkerd" };
        let tolerations = if self.random.chance(50) {
            None
        } else {
            Some(vec![Toleration { key: Some("node.kubernetes.io/not-ready".to_owned()), ..Toleration::default() }])
        };
        let view = UnboundPod {
            namespace: namespace.to_owned(),
            name: format!("{part:?}-{number}"),
            uid: format!("{part:?}-{number}"),
            tolerations,
            settled: node.is_some(),
        };
        self.pods.push(Pod { part, node, starts, view });
    }

    /// A Deployment makes a part's pod anew, somewhere.
    pub fn replace_pod(&mut self, part: Part) {
        self.pods.retain(|pod| pod.part != part);
        self.make_pod(part, None);
        self.refresh_cluster();
    }

    /// What the controllers and the scheduler do once a second, while the API server is up.
    fn schedule_pods(&mut self) {
        if !self.api_up {
            return;
        }
        for pod in 0..self.pods.len() {
            if self.pods[pod].node.is_some() || self.pods[pod].part == Part::Unschedulable {
                continue;
            }
            let tolerates = self.pods[pod].view.tolerations.iter().flatten().any(|toleration| {
                toleration.key.as_deref() == Some(TAINT_KEY) && toleration.effect.as_deref() == Some(TAINT_EFFECT)
            });
            let fit: Vec<usize> = (0..self.machines.len())
                .filter(|node| self.machines[*node].powered && (tolerates || !self.api.is_tainted(*node)))
                .collect();
            if fit.is_empty() {
                continue;
            }
            let node = fit[self.random.below(fit.len())];
            let starts = self.now + self.random.between(1000, 4000);
            let pod = &mut self.pods[pod];
            (pod.node, pod.starts, pod.view.settled) = (Some(node), starts, true);
            self.refresh_cluster();
        }
    }

    /// What the DaemonSet controller does once a second: it makes no pod for a node whose taint is not tolerated, and ends none.
    fn run_daemon_sets(&mut self) {
        for node in 0..self.machines.len() {
            if self.machines[node].cni_since.is_some() {
                continue;
            }
            // Whether or not anybody can see it: the prover does as soon as the API server is back.
            if self.daemon_set_lacks && self.webhook_present {
                self.machines[node].cni_lacked = Some(self.now);
            }
            if self.api_up && !(self.daemon_set_lacks && self.api.is_tainted(node)) && self.random.chance(40) {
                self.machines[node].cni_since = Some(self.now);
                self.refresh_cluster();
            }
        }
    }

    fn create_app_pod(&mut self) {
        if !self.api_up || !self.webhook_present || self.injects() {
            return;
        }
        if (0..self.machines.len()).any(|node| self.machines[node].powered && !self.api.is_tainted(node)) {
            self.counts.slipped += 1;
        } else {
            self.counts.pending += 1;
            self.controllers.pending += 1;
        }
    }

    /// What the watches of a prover show follows the world.
    pub fn refresh_cluster(&mut self) {
        if !self.webhook_present {
            self.webhook_absent = Some(self.now);
        }
        if self.daemon_set_lacks {
            for machine in self.machines.iter_mut().filter(|machine| machine.cni_since.is_none()) {
                machine.cni_lacked = Some(self.now);
            }
        }
        self.cluster.webhooks = if self.webhook_present { CHART.clone() } else { WebhookView::default() };
        self.cluster.pods = self.pods.iter().map(|pod| pod.view.clone()).collect();
        let exists = essential::toleration(TAINT_KEY);
        let set = |name: &str, tolerations: Vec<Toleration>| DaemonSetView {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            placement: Placement::anywhere(tolerations),
            optional: false,
        };
        let nodes = 0..self.machines.len();
        let has_cni = nodes.clone().filter(|node| self.machines[*node].cni_since.is_some());
        self.cluster.daemon_pods =
            has_cni.map(|node| DaemonPodView { owner: "cni".to_owned(), node: node_name(node) }).collect();
        self.cluster.places = nodes.map(|node| self.place(node)).collect();
        self.cluster.daemon_sets = vec![
            set("proxy", vec![exists.clone()]),
            set("cni", if self.daemon_set_lacks { Vec::new() } else { vec![exists] }),
        ];
        self.notify_provers();
    }

    fn place(&self, node: usize) -> NodePlace {
        let taints = self.api.nodes.get(node).and_then(|view| view.taints.clone()).unwrap_or_default();
        NodePlace { name: node_name(node), taints, ..NodePlace::default() }
    }

    fn notify_provers(&mut self) {
        for agent in 0..self.agents.len() {
            if self.agents[agent].process.lives() && self.agents[agent].acts(self.now) {
                let after = self.random.between(20, 500);
                self.schedule(self.now + after, Event::Notice(agent));
            }
        }
    }

    fn notice_linkerd(&mut self) {
        let known = (self.injects(), self.identity_up(), self.webhook_present, self.webhook_placeholder);
        if known != self.known {
            self.known = known;
            self.tell(|_| format!("-- injects, identity up, webhook present, placeholder: {known:?}"));
            // A power loss tells nobody anything, so not every change is noticed.
            if self.random.chance(70) {
                self.notify_provers();
            }
        }
    }

    // --- invariants ---

    pub fn note_taint(&mut self, node: usize) {
        let tainted = self.api.is_tainted(node);
        if self.cluster.places.len() == self.machines.len() {
            self.cluster.places[node] = self.place(node);
        }
        if self.daemon_set_lacks {
            self.notify_provers();
        }
        let machine = &mut self.machines[node];
        machine.tainted_since = tainted.then(|| machine.tainted_since.unwrap_or(self.now));
    }

    /// At most one agent proves: the one that holds the Lease.
    fn check_dry_run(&self, agent: usize) -> Result<(), String> {
        let holder = self.api.lease.as_ref().and_then(|word| word.record.holder.as_ref());
        let me = &self.agents[agent].me;
        let deleted = self.lease_deleted.is_some_and(|at| self.now < at + Duration::from_secs(20));
        if holder == Some(me) || deleted {
            return Ok(());
        }
        Err(format!("{me} proves, though the Lease is {holder:?}'s"))
    }

    /// Nobody takes the Lease from a prover that may still be acting, and nobody overwrites a successor.
    fn check_lease(&self, before: Option<&Word>, holder: &LeaseHolder, transitions: i32) -> Result<(), String> {
        let Some(word) = before else { return Ok(()) };
        let Some(former) = &word.record.holder else { return Ok(()) };
        if former == holder {
            return Ok(());
        }
        let dead = former.name == holder.name && former.incarnation != holder.incarnation;
        let silent = self.now.saturating_sub(word.truth.renewed);
        if !dead && silent < LEASE_DURATION {
            return Err(format!("{holder} took the Lease from {former}, which had renewed it {silent:?} ago"));
        }
        if transitions != word.record.transitions + 1 {
            return Err(format!("{holder} took the Lease from {former} without counting it"));
        }
        Ok(())
    }

    /// No node opens in a boot before something allows it.
    fn check_patch(
        &mut self,
        agent: usize,
        before: &NodeView,
        change: &NodeChange,
        state: &NodeState,
        truth: Truth,
    ) -> Result<(), String> {
        let Agent { node, me, .. } = &self.agents[agent];
        let machine = &self.machines[*node];
        let opens = matches!(change.opened_boot, AnnotationEdit::Set(_)) || change.taint == AnnotationEdit::Remove;
        if !opens || me.incarnation != boot_id(*node, machine.boot) || !machine.powered {
            return Ok(());
        }
        let allowed = match state {
            NodeState::Open(opened @ (Opened::Proven | Opened::BeforeRepair(_))) => {
                self.counts.proven += 1;
                self.counts.bound_bare += std::mem::take(&mut self.controllers.pending);
                let waited = match opened {
                    Opened::BeforeRepair(_) => {
                        self.counts.before_repair += 1;
                        self.has_waited(agent)
                    }
                    _ => !self.must_wait(agent),
                };
                waited && truth.evidence.is_some_and(|evidence| evidence >= machine.power_lost)
            }
            NodeState::Open(Opened::TooLongClosed) => {
                self.counts.too_long_closed += 1;
                machine.first_agent.is_some_and(|since| self.now + SECOND >= since + self.setting.max_closed)
            }
            NodeState::Open(Opened::NotInstalled) => {
                self.webhook_absent.is_some_and(|at| self.now < at + Duration::from_secs(40))
            }
            NodeState::Open(Opened::Overridden(word)) => {
                word.open && word.until.duration_since(self.wall()).as_secs() > -20
            }
            NodeState::Open(Opened::ThisBoot) => before.opened_boot.as_ref() == Some(&me.incarnation),
            NodeState::Open(Opened::Adopted) => before.opened_boot.is_none() && before.created <= Some(EPOCH),
            NodeState::TaintSuppressed(_) => {
                machine.cni_lacked.is_some_and(|at| self.now < at + Duration::from_secs(40))
            }
            NodeState::Open(Opened::LeftOpen) | NodeState::Closed { .. } | NodeState::Undecided => false,
        };
        if allowed {
            return Ok(());
        }
        Err(format!(
            "{me} opens its node as {state:?}: evidence from {:?}, power lost at {:?}, first agent at {:?}",
            truth.evidence, machine.power_lost, machine.first_agent
        ))
    }

    /// Whether an agent has to know that the controller still replaces pods.
    fn must_wait(&self, agent: usize) -> bool {
        let patience = Duration::from_secs(10);
        let Controllers { renewed, published_since, .. } = self.controllers;
        self.is_undisturbed(&self.agents[agent], patience)
            && self.now < renewed + Duration::from_secs(8)
            && published_since.is_some_and(|since| self.now >= since + patience)
    }

    /// Whether an agent's node has waited for the controller for as long as it may.
    fn has_waited(&self, agent: usize) -> bool {
        let Agent { node, follower, booted, .. } = &self.agents[agent];
        let grace = self.setting.repair_grace;
        let since = self.machines[*node].first_agent.unwrap_or(self.now);
        follower.gate().open_since().is_none_or(|since| self.now >= *booted + since + grace)
            || self.now + SECOND >= since + self.setting.max_closed
    }

    /// Whether nothing has been in an agent's way for so long.
    fn is_undisturbed(&self, agent: &Agent, during: Duration) -> bool {
        agent.process == Process::Runs
            && !agent.cut_off
            && agent.watching
            && self.api_up
            && !self.api_slow
            && self.now >= agent.undisturbed + during
            && self.now >= self.api_undisturbed + during
    }

    fn is_closed_by_override(&self) -> bool {
        self.closed_by_override_until.is_some_and(|until| self.now < until + Duration::from_secs(15))
    }

    /// No node stays closed for longer than it may, and none is tainted while that keeps an essential DaemonSet away.
    fn check_closed(&mut self) -> Result<(), String> {
        if !self.webhook_present {
            self.webhook_absent = Some(self.now);
        }
        let fresh = self.api.lease.as_ref().filter(|word| self.now < word.truth.renewed + Duration::from_secs(8));
        let published = fresh.and_then(|word| PublishedVerdict::read(word.record.verdict.as_deref()?).ok());
        for node in 0..self.machines.len() {
            let named =
                published.as_ref().is_some_and(|published| !published.suppressed_by(&node_name(node)).is_empty());
            let machine = &mut self.machines[node];
            machine.suppressed_since = named.then(|| machine.suppressed_since.unwrap_or(self.now));
        }
        self.check_suppressions()?;
        if self.is_closed_by_override() {
            return Ok(());
        }
        let patience = Duration::from_secs(15);
        for agent in self.agents.iter().filter(|agent| self.is_undisturbed(agent, patience)) {
            let node = &self.api.nodes[agent.node];
            let Some(since) = self.machines[agent.node].tainted_since else { continue };
            // Time that was closed by hand does not count, and an agent counts from when it could see its node.
            let since = self
                .closed_by_override_until
                .map_or(since, |until| since.max(until))
                .max(agent.undisturbed)
                .max(self.api_undisturbed);
            if node.shutting_down {
                continue;
            }
            if self.now >= since + self.setting.max_closed + patience {
                return Err(format!("{} has been closed since {since:?}, as {:?}", node.name, agent.state));
            }
            let suppressed_since = self.machines[agent.node].suppressed_since;
            if suppressed_since.is_some_and(|at| self.now >= at + patience) && self.now >= since + patience {
                return Err(format!(
                    "{} is tainted as {:?} though kube-system/cni must run there",
                    node.name, agent.state
                ));
            }
        }
        Ok(())
    }

    /// A node that has its pod does not yield: no taint ends that.
    fn check_suppressions(&self) -> Result<(), String> {
        let patience = Duration::from_secs(40);
        let holder = self.api.lease.as_ref().and_then(|word| word.record.holder.as_ref());
        let Some(prover) = self.agents.iter().find(|agent| Some(&agent.me) == holder) else { return Ok(()) };
        if !self.is_undisturbed(prover, patience) || !self.webhook_present {
            return Ok(());
        }
        for (node, machine) in self.machines.iter().enumerate() {
            let for_long = |since: Option<Duration>| since.is_some_and(|since| self.now >= since + patience);
            if for_long(machine.cni_since) && for_long(machine.suppressed_since) {
                return Err(format!("{} yields to what it has since {:?}", node_name(node), machine.cni_since));
            }
        }
        Ok(())
    }

    /// Once Linkerd is healthy and nothing disturbs, everything is open and everything essential has its node.
    pub fn check_all_open(&self) -> Result<(), String> {
        if !self.injects() {
            let waiting: Vec<&str> =
                self.pods.iter().filter(|pod| pod.node.is_none()).map(|pod| pod.view.name.as_str()).collect();
            return Err(format!("Linkerd does not come up; these pods wait for a node: {waiting:?}"));
        }
        if let Some(pod) = self.pods.iter().find(|pod| pod.node.is_none() && pod.part != Part::Unschedulable) {
            return Err(format!("{} has no node", pod.view.name));
        }
        for agent in self.agents.iter().filter(|agent| agent.process.lives()) {
            let node = &self.api.nodes[agent.node];
            let opened = !self.setting.taints || node.opened_boot.as_ref() == Some(&agent.me.incarnation);
            if self.api.is_tainted(agent.node) || !opened || !agent.follower.gate().is_open() {
                let gate = agent.follower.gate();
                return Err(format!("{} is not open: {:?}; its gate is {gate}; {node:?}", agent.me, agent.state));
            }
        }
        Ok(())
    }

    /// The node's annotation of that name, given by a person.
    pub fn annotate_node(&mut self, node: usize, word: Option<ManualOverride>) {
        self.tell(|_| format!("-- {ANNOTATION} of node-{node}: {word:?}"));
        self.api.change_node(node, |view| view.manual_override = word.map(|word| word.to_string()));
        self.notify_node(node);
    }

    /// How many agents live on each node.
    pub fn agents_by_node(&self) -> BTreeMap<usize, usize> {
        self.agents.iter().filter(|agent| agent.process.lives()).fold(BTreeMap::new(), |mut all, agent| {
            *all.entry(agent.node).or_default() += 1;
            all
        })
    }
}

/// The same answer, had it never come.
fn lost(answer: Answer) -> Answer {
    match answer {
        Answer::Node(_) => Answer::Node(Err(Refused::Lost)),
        Answer::Lease(number, _) => Answer::Lease(number, Err(Refused::Lost)),
        Answer::Look(_) => Answer::Look(nothing_found()),
        Answer::Tolerate(uid) => Answer::Tolerate(uid),
    }
}

fn nothing_found() -> Found {
    let unknown = || ProbeResult::unknown("the API server does not answer");
    Found {
        installation: LinkerdInstallation::Unseen,
        webhook: unknown(),
        injector: unknown(),
        injection: unknown(),
        identity: unknown(),
    }
}
