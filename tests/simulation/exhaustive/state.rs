//! The cluster: two nodes with an agent each, one controller, Linkerd's injector as an essential pod, two pods of applications.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

use linkerd_gate_core::decide::node::taint::NodeView;
use linkerd_gate_core::decide::repair::PodView;

use crate::agent::Agent;
use crate::api_server::{ApiServer, Request};
use crate::form::{Fingerprint, Form, Names};
use crate::objects::AppPod;
use crate::render;
use crate::replica::{Asks, Part, Replica};
use crate::setting::{Setting, holder, node_name};

/// How long a tick is: every process has its turn once in it.
pub const TICK: Duration = Duration::from_secs(5);

/// For so long a machine is dark at least: longer than a request is under way.
pub const DARK: Duration = Duration::from_secs(10);

/// For so long something is cut off at most.
pub const CUT_FOR: Duration = Duration::from_secs(25);

/// For how long an API server takes a node for ready that has lost its power.
pub const NODE_LEASE: Duration = Duration::from_secs(40);

pub const MAX_CLOSED: Duration = Duration::from_secs(40);

pub const REPAIR_GRACE: Duration = Duration::from_secs(15);

/// The controller's turn, after the agents'.
pub const CONTROLLER: usize = 2;

/// How much may still befall the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A node loses its power.
    pub power_cuts: u8,
    /// Both nodes lose their power at the same instant.
    pub blackouts: u8,
    /// The process of an agent or of the controller dies.
    pub deaths: u8,
    /// A process that cannot reach the API server.
    pub partitions: u8,
    /// The injector does not answer.
    pub outages: u8,
    /// Once one has come, the others come after so many ticks, or after a multiple of that.
    pub apart: u8,
}

pub const NO_FAULTS: Faults = Faults { power_cuts: 0, blackouts: 0, deaths: 0, partitions: 0, outages: 0, apart: 1 };

/// What a process has done in this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    Due,
    /// Its requests are under way.
    Sent,
    Done,
}

#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub powered: bool,
    pub boot: u8,
    /// When it lost its power, and when it came back.
    pub lost: Duration,
    pub back: Duration,
    /// When an agent began first in this boot.
    pub first_agent: Option<Duration>,
    pub tainted_since: Option<Duration>,
}

#[derive(Clone, Debug)]
pub struct Seat {
    pub agent: Agent,
    pub requests: Vec<Request>,
    /// What it would publish.
    pub verdict: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Repairing {
    pub replica: Replica,
    pub asks: Asks,
}

/// Linkerd's injector.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Essential {
    pub node: Option<usize>,
    pub tolerates: bool,
    pub runs: bool,
    pub number: u8,
}

#[derive(Clone)]
pub struct State {
    pub now: Duration,
    pub seats: [Option<Rc<Part<Seat>>>; 2],
    pub controller: Option<Rc<Part<Repairing>>>,
    pub api: Rc<Stored>,
    pub pods: Rc<Part<[Option<AppPod>; 2]>>,
    pub views: Rc<BTreeMap<String, PodView>>,
    pub pods_made: u64,
    pub machines: [Machine; 2],
    pub essential: Essential,
    pub answers: bool,
    /// When a pod would have been injected last.
    pub injected_at: Duration,
    /// Who is cut off from the API server, and since when.
    pub cut: Option<(usize, Duration)>,
    /// Since when each process has been reachable.
    pub undisturbed: [Duration; 3],
    pub turns: [Turn; 3],
    /// Whether scheduler, kubelets and owners had their turn.
    pub world_done: bool,
    pub left: Faults,
    /// When the first fault came.
    pub first_fault: Option<Duration>,
}

/// The API server's part: its own counter tells nothing that the objects' versions do not.
pub struct Stored {
    pub value: ApiServer,
    nodes: [Rc<Form>; 2],
    leases: Rc<Form>,
}

impl Stored {
    fn new(value: ApiServer) -> Rc<Self> {
        let nodes = [0, 1].map(|node| Rc::new(Form::of(&value.nodes[node])));
        let leases = Rc::new(Form::of(&(&value.lease, &value.controller)));
        Rc::new(Self { value, nodes, leases })
    }

    /// What it becomes: the form of what did not change is known.
    fn changed(&self, value: ApiServer) -> Rc<Self> {
        let nodes = [0, 1].map(|node| {
            let (new, old) = (&value.nodes[node], &self.value.nodes[node]);
            if Rc::ptr_eq(new, old) { Rc::clone(&self.nodes[node]) } else { Rc::new(Form::of(new)) }
        });
        let same = value.lease.as_ref().map(Rc::as_ptr) == self.value.lease.as_ref().map(Rc::as_ptr)
            && value.controller.as_ref().map(Rc::as_ptr) == self.value.controller.as_ref().map(Rc::as_ptr);
        let leases = if same { Rc::clone(&self.leases) } else { Rc::new(Form::of(&(&value.lease, &value.controller))) };
        Rc::new(Self { value, nodes, leases })
    }
}

// === impl State ===

impl State {
    /// A cluster on which linkerd-gate was just installed.
    pub fn installed(setting: &Setting) -> Self {
        let mut api = ApiServer::default();
        for node in 0..2 {
            api.add_node(NodeView { name: node_name(node), created: Some(0), ..NodeView::default() });
        }
        let machine = Machine {
            powered: true,
            boot: 1,
            lost: Duration::ZERO,
            back: Duration::ZERO,
            first_agent: None,
            tainted_since: None,
        };
        let pods = [None, None];
        let mut state = Self {
            now: Duration::from_mins(10),
            seats: [None, None],
            controller: None,
            api: Stored::new(api),
            pods: Part::new(pods),
            views: Rc::default(),
            pods_made: 0,
            machines: [machine; 2],
            essential: Essential { node: Some(0), tolerates: true, runs: true, number: 0 },
            answers: true,
            injected_at: Duration::from_mins(10),
            cut: None,
            undisturbed: [Duration::from_mins(10); 3],
            turns: [Turn::Due; 3],
            world_done: false,
            left: NO_FAULTS,
            first_fault: None,
        };
        state.begin_tick(setting);
        state
    }

    /// A new tick: processes that should run and do not begin.
    pub fn begin_tick(&mut self, setting: &Setting) {
        (self.turns, self.world_done) = ([Turn::Due; 3], false);
        for node in 0..2 {
            let machine = &mut self.machines[node];
            if machine.powered && self.seats[node].is_none() {
                machine.first_agent = machine.first_agent.or(Some(self.now));
                self.undisturbed[node] = self.now;
                let agent = Agent::new(node, holder(node, machine.boot), Duration::ZERO, self.now, &setting.policies);
                self.seats[node] = Some(Part::of_agent(Seat { agent, requests: Vec::new(), verdict: None }));
            }
        }
        if self.controller.is_none() {
            let replica = Replica::new(&setting.rules, self.now);
            self.controller = Some(Part::new(Repairing { replica, asks: Asks::default() }));
        }
        if self.injects() {
            self.injected_at = self.now;
        }
    }

    /// Whether a pod that is created now is injected.
    pub fn injects(&self) -> bool {
        self.answers && self.essential.runs
    }

    pub fn is_cut(&self, process: usize) -> bool {
        self.cut.is_some_and(|(who, _)| who == process)
    }

    pub fn change_pods(&mut self, change: impl FnOnce(&mut [Option<AppPod>; 2])) {
        let mut pods = self.pods.value.clone();
        change(&mut pods);
        let views = pods.iter().flatten().map(|pod| (pod.path(), PodView::of(&render::pod(pod)))).collect();
        (self.pods, self.views) = (Part::new(pods), Rc::new(views));
    }

    pub fn change_api<T>(&mut self, change: impl FnOnce(&mut ApiServer) -> T) -> T {
        let mut api = self.api.value.clone();
        let result = change(&mut api);
        self.api = self.api.changed(api);
        for node in 0..2 {
            let tainted = self.api.value.is_tainted(node);
            let machine = &mut self.machines[node];
            machine.tainted_since = tainted.then(|| machine.tainted_since.unwrap_or(self.now));
        }
        result
    }

    /// What tells it from other states, whichever node is called the first.
    pub fn form(&self) -> u128 {
        self.form_of(false).min(self.form_of(true))
    }

    fn form_of(&self, exchanged: bool) -> u128 {
        let order = if exchanged { [1, 0] } else { [0, 1] };
        let number = |node: usize| if node < 2 { order[node] } else { node };
        let cuts = order.map(|node| self.machines[node].lost);
        let mut hasher = Fingerprint::default();
        let hasher = &mut hasher;
        let ago = |at: Duration, furthest: u64| self.now.saturating_sub(at).min(Duration::from_secs(furthest));
        let mut names = Names::default();
        let mut add = |form: Option<&Form>, hasher: &mut Fingerprint| {
            form.is_some().hash(hasher);
            if let Some(form) = form {
                form.hash(exchanged, self.now, cuts, &mut names, hasher);
            }
        };
        for node in order {
            add(Some(&self.api.nodes[node]), hasher);
        }
        add(Some(&self.api.leases), hasher);
        add(Some(&self.pods.form), hasher);
        for node in order {
            add(self.seats[node].as_ref().map(|seat| &seat.form), hasher);
        }
        add(self.controller.as_ref().map(|part| &part.form), hasher);
        for node in order {
            let machine = &self.machines[node];
            (machine.powered, machine.boot).hash(hasher);
            ago(machine.lost, if machine.powered { 0 } else { 40 }).hash(hasher);
            self.turns[node].hash(hasher);
            // How long it has been closed, while it is.
            if let Some(since) = machine.tainted_since {
                (ago(since, 60), machine.first_agent.map(|at| ago(at, 45))).hash(hasher);
                ago(self.undisturbed[node], 60).hash(hasher);
            }
        }
        let Essential { node, tolerates, runs, .. } = self.essential;
        (node.map(number), tolerates, runs).hash(hasher);
        (self.answers, self.turns[CONTROLLER], self.world_done, self.left).hash(hasher);
        self.cut.map(|(who, since)| (number(who), ago(since, 60))).hash(hasher);
        ago(self.injected_at, 55).hash(hasher);
        self.until_fault().hash(hasher);
        hasher.wide()
    }

    /// How many ticks it takes until another fault may come, if any may.
    pub fn until_fault(&self) -> Option<u64> {
        let Faults { power_cuts, blackouts, deaths, partitions, outages, apart } = self.left;
        let ticks = |first: Duration| self.now.saturating_sub(first).as_secs() / TICK.as_secs();
        let apart = u64::from(apart);
        let wait = self.first_fault.map_or(0, |first| (apart - ticks(first) % apart) % apart);
        (power_cuts + blackouts + deaths + partitions + outages > 0).then_some(wait)
    }

    /// Whether nothing is broken.
    pub fn is_healthy(&self) -> bool {
        self.machines.iter().all(|machine| machine.powered)
            && self.answers
            && self.cut.is_none()
            && self.seats.iter().all(Option::is_some)
            && self.controller.is_some()
    }

    /// Whether every node is open and every pod meshed, but for one that was let onto an open node.
    pub fn is_good(&self) -> bool {
        self.lacks().is_none()
    }

    pub fn lacks(&self) -> Option<String> {
        for (node, seat) in self.seats.iter().enumerate() {
            let Some(seat) = seat else { return Some(format!("node-{node} has no agent")) };
            let view = &self.api.value.nodes[node];
            let agent = &seat.value.agent;
            if self.api.value.is_tainted(node) || view.opened_boot.as_ref() != Some(&agent.me.incarnation) {
                return Some(format!(
                    "node-{node} is not open: {:?}; its gate is {}",
                    agent.state,
                    agent.follower.gate()
                ));
            }
            if !agent.follower.gate().is_open() {
                return Some(format!("the gate of node-{node} is {}", agent.follower.gate()));
            }
        }
        if !self.essential.runs {
            return Some(format!("the injector does not run: {:?}", self.essential));
        }
        for (app, pod) in self.pods.value.iter().enumerate() {
            let Some(pod) = pod else { return Some(format!("app-{app} has no pod")) };
            if !pod.ran || app == 0 && !pod.meshed {
                return Some(format!("app-{app}: meshed {}, gated {}, on {:?}", pod.meshed, pod.gated, pod.node));
            }
        }
        None
    }
}
