//! The world: power, an API server, Linkerd's parts, a scheduler, and the agents' processes, on a clock of its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use linkerd_gate_core::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate_core::decide::election::published_verdict::TaintSuppressions;
use linkerd_gate_core::decide::node::essential::{EssentialNamespace, UnboundPod};
use linkerd_gate_core::decide::node::taint::{NodePolicy, NodeView, TAINT_KEY, Tainting};
use linkerd_gate_core::decide::{Gate, ManualOverride, Policy, PublishedVerdict};
use linkerd_gate_core::linkerd::WebhookView;

use crate::agent::{Agent, Cluster, Policies};
use crate::api_server::{ApiServer, Truth, Word};
use crate::app_invariants::Lied;
use crate::controller::Controller;
use crate::events::{Event, Scheduled};
use crate::objects::{Change, Channel, Objects};
use crate::random::Random;
use crate::setting::{Counts, Setting, Violation};
use crate::story::{Happening, Incident};
use crate::wait::Wait;

/// A second of the world.
pub const SECOND: Duration = Duration::from_secs(1);

/// Where the wall clock of the world begins, in seconds since the Unix epoch.
pub const EPOCH: i64 = 1_767_225_600;

/// How long the last lines of a story are.
const TAIL: usize = 80;

pub static CHART: LazyLock<WebhookView> = LazyLock::new(WebhookView::chart_default);

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
    pub tainted_since: Option<Duration>,
    /// Whether no agent starts there.
    pub agent_gone: bool,
    /// Since when the API server has had it tainted and without a ready agent, but for moments; and such a moment.
    pub orphaned_since: Option<Duration>,
    pub not_orphaned_since: Option<Duration>,
    /// Since when it has its pod of the network plug-in's DaemonSet.
    pub cni_since: Option<Duration>,
    /// When it lacked that because of our taint.
    pub cni_lacked: Option<Duration>,
    /// Since when a fresh verdict names it among those that yield.
    pub suppressed_since: Option<Duration>,
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

/// What the controllers' Lease says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Published {
    /// When it was renewed last, and since when it has said that pods are still to be replaced.
    pub renewed: Duration,
    pub since: Option<Duration>,
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
    pub api_undisturbed: Duration,
    pub machines: Vec<Machine>,
    pub agents: Vec<Agent>,
    pub pods: Vec<Pod>,
    pub webhook_present: bool,
    pub webhook_absent: Option<Duration>,
    pub webhook_placeholder: bool,
    pub injector_down: bool,
    pub identity_down: bool,
    /// Whether the network plug-in's DaemonSet does not tolerate our taint.
    pub daemon_set_lacks: bool,
    pub lease_deleted: Option<Duration>,
    /// Until when a person's words were to last that closed something, and that opened something.
    pub closed_by_override_until: Option<Duration>,
    pub opened_by_override_until: Option<Duration>,
    pub published: Published,
    pub objects: Objects,
    /// Each `wait` that runs, by its pod's uid.
    pub waits: BTreeMap<String, Wait>,
    pub replicas: Vec<Controller>,
    /// The node of each pod of a replica.
    pub seats: BTreeMap<(usize, usize), usize>,
    /// None of the controllers of owners, nor the scheduler, works before then.
    pub managers_up_at: Duration,
    /// Whether the injector leaves pods alone, though it answers dry-runs as it should.
    pub injector_lies: bool,
    /// Whether the API server does not trust the injector.
    pub certificate_wrong: bool,
    pub lied: BTreeMap<usize, Lied>,
    /// When a replica's write to this version of an object, by its uid, met another one.
    pub conflicted: BTreeMap<(usize, String, String), Duration>,
    pub leaderships_in_lie: usize,
    pub webhook_edition: u32,
    pub webhooks: Rc<WebhookView>,
    /// When a dry-run would have been injected last.
    pub injected_at: Option<Duration>,
    pub absent_since: Option<Duration>,
    pub controller_lease_deleted: Option<Duration>,
    /// Since when a person has everything closed, and until when everything was open.
    pub closed_since: Option<Duration>,
    pub opened_at: Option<Duration>,
    said: Option<String>,
    pub agent_pods: BTreeMap<usize, bool>,
    pub calm: bool,
    pub counts: Counts,
    pub policies: Policies,
    pub cluster: Cluster,
    pub known: (bool, bool, bool, bool),
    pub queue: BinaryHeap<Reverse<Scheduled>>,
    pub number: u64,
    pub pods_made: usize,
    pub history: VecDeque<String>,
}

/// The id of a boot, as unlike its neighbours as genuine ones are.
pub fn boot_id(node: usize, boot: usize) -> String {
    let mut random = Random::new(u64::try_from(boot * 1000 + node).unwrap());
    format!("{:08x}-{node:04}", random.below(1 << 32))
}

/// The namespace of our own pods.
pub const AGENTS: &str = "linkerd-gate";

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
            opened_by_override_until: None,
            published: Published::default(),
            objects: Objects::default(),
            waits: BTreeMap::new(),
            replicas: Vec::new(),
            seats: BTreeMap::new(),
            managers_up_at: Duration::ZERO,
            injector_lies: false,
            certificate_wrong: false,
            lied: BTreeMap::new(),
            conflicted: BTreeMap::new(),
            leaderships_in_lie: 0,
            webhook_edition: 0,
            webhooks: Rc::new(WebhookView::default()),
            injected_at: None,
            absent_since: None,
            controller_lease_deleted: None,
            closed_since: None,
            opened_at: None,
            said: None,
            agent_pods: BTreeMap::new(),
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

    pub fn begin(&mut self) {
        let fresh = self.setting.fresh_install;
        for node in 0..self.setting.nodes {
            self.add_machine(if fresh { None } else { Some(boot_id(node, 0)) }, EPOCH - 1000);
            self.start_first_agent(node);
        }
        if !fresh {
            // What etcd remembers: an open verdict of a prover that is no more.
            let open = Gate::Open {
                basis: linkerd_gate_core::decide::Basis::Proven,
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
        if self.setting.apps {
            self.draw_apps();
        }
        for channel in [Channel::Namespaces, Channel::Webhooks, Channel::Nodes, Channel::Override] {
            self.objects.note(channel, String::new(), Change::Current);
        }
        for seat in 0..2 {
            let after = self.random.between(1000, 8000);
            self.schedule(after, Event::StartReplica { seat, pod: 0 });
        }
        self.schedule(Duration::ZERO, Event::Tick);
    }

    /// A machine that is there for the first time since the world began. Returns its number.
    pub fn add_machine(&mut self, opened_boot: Option<String>, created: i64) -> usize {
        let node = self.machines.len();
        self.machines.push(Machine {
            powered: true,
            boot: 1,
            booted: self.now,
            // It lost nothing; a look may have been on its way since before it came.
            power_lost: self.now.saturating_sub(Duration::from_secs(18)),
            first_agent: None,
            tainted_since: None,
            agent_gone: false,
            orphaned_since: None,
            not_orphaned_since: None,
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
        node
    }

    /// A machine that joined gets its agent soon.
    pub fn start_first_agent(&mut self, node: usize) {
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

    pub fn schedule(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Scheduled { at, number: self.number, event }));
    }

    pub fn happen_in(&mut self, after: Duration, happening: Happening) {
        self.schedule(self.now + after, Event::Happen(happening, None));
    }

    /// What is in a story will happen.
    pub fn follow(&mut self, story: &[Incident]) {
        for Incident { at, seed, happening } in story {
            self.schedule(*at, Event::Happen(happening.clone(), Some(*seed)));
        }
    }

    pub fn start_agent_in(&mut self, after: Duration, node: usize, pod: String) {
        let boot = self.machines[node].boot;
        self.schedule(self.now + after, Event::StartAgent { node, boot, pod });
    }

    pub fn log(&mut self, line: impl FnOnce(&Self) -> String) {
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
            self.spread_news();
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

    /// What a person says of everything, as the agents' Lease carries it.
    pub fn note_said(&mut self) {
        let said = self.api.lease.as_ref().and_then(|word| word.record.manual_override.clone());
        if said != self.said {
            self.said = said;
            self.objects.note(Channel::Override, String::new(), Change::Current);
        }
        self.note_override();
    }

    /// Notes since when everything is closed, and when it was open last.
    pub fn note_override(&mut self) {
        let word = ManualOverride::in_force(self.said.as_deref(), self.wall()).ok().flatten();
        let closed = word.is_some_and(|word| !word.open);
        self.closed_since = if closed { self.closed_since.or(Some(self.now)) } else { None };
        if word.is_some_and(|word| word.open) {
            self.opened_at = Some(self.now);
        }
    }
}
