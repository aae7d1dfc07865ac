//! What can happen in a state, and what comes of it.

use crate::api_server::Request;
use crate::objects::AppPod;
use crate::replica::Asks;
use crate::setting::Setting;
use crate::state::{CONTROLLER, CUT_FOR, DARK, Essential, NO_FAULTS, NODE_LEASE, State, TICK, Turn};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An agent sees what its watches show, and sends what it decides. `late`: it leaves a free Lease to others for a while.
    Agent {
        node: usize,
        late: bool,
    },
    /// The same of the controller.
    Controller,
    /// A process's requests arrive, and it has the answers.
    Arrive(usize),
    /// They arrive, and their answers are lost.
    Unanswered(usize),
    /// Kubelets, scheduler and owners: pods start, are bound, rather to this node, and are made.
    World {
        node: usize,
    },
    /// Each process had its turn, and time goes on.
    Tick,
    PowerCut(usize),
    PowerCutOfAll,
    PowerOn(usize),
    /// The process of an agent or of the controller dies.
    Dies(usize),
    InjectorStops,
    InjectorAnswers,
    CutOff(usize),
    Reconnected,
    /// The pods of a dark node are given up, and made again.
    GivenUp(usize),
}

impl Action {
    /// Whether it happens without anything breaking or being mended.
    pub fn is_progress(self) -> bool {
        matches!(self, Self::Agent { .. } | Self::Controller | Self::Arrive(_) | Self::World { .. } | Self::Tick)
    }
}

// === impl State ===

impl State {
    /// What can happen next. What an agent draws is among it only where it matters.
    pub fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        // What the controller sees it sees first: nothing but its own writes and the world's turn changes that.
        if self.turns[CONTROLLER] == Turn::Due && self.controller.is_some() {
            all.push(Action::Controller);
        } else {
            self.add_turns(&mut all);
        }
        self.add_faults(&mut all);
        all
    }

    /// Where one process's requests and whatever else can happen in this tick come to the same in each order, only one order is followed.
    fn add_turns(&self, all: &mut Vec<Action>) {
        if let Some(process) = [CONTROLLER, 0, 1].into_iter().find(|process| self.arrives_alone(*process)) {
            return self.add_arrival(process, all);
        }
        for (node, seat) in self.seats.iter().enumerate() {
            if seat.is_some() && self.turns[node] == Turn::Due {
                all.extend([false, true].map(|late| Action::Agent { node, late }));
            }
        }
        (0..3).filter(|process| self.turns[*process] == Turn::Sent).for_each(|process| self.add_arrival(process, all));
        if !self.world_done && (all.is_empty() || !self.world_rests()) {
            all.extend([0, 1].map(|node| Action::World { node }));
        } else if all.is_empty() && self.cut.is_none_or(|(_, since)| self.now < since + CUT_FOR) {
            all.push(Action::Tick);
        }
    }

    fn add_arrival(&self, process: usize, all: &mut Vec<Action>) {
        all.push(Action::Arrive(process));
        if self.cut.is_some_and(|(who, since)| who == process && since == self.now) {
            all.push(Action::Unanswered(process));
        }
    }

    /// Whether the requests of a process that are under way touch nothing that another one reads or writes in this tick. Who dies while they
    /// are under way does so before they arrive.
    fn arrives_alone(&self, process: usize) -> bool {
        if self.turns[process] != Turn::Sent {
            return false;
        }
        // What a look finds does not change in this tick.
        let looks = || self.world_rests() && self.left.power_cuts == 0;
        if process == CONTROLLER {
            let Some(part) = &self.controller else { return false };
            let Asks { looks: asked, actions, ungates } = &part.value.asks;
            // Agents that still have their turn do not follow its Lease: their nodes were opened in this boot.
            let unread = |node: usize| {
                self.turns[node] != Turn::Due
                    || self.seats[node].as_ref().is_none_or(|seat| seat.value.agent.knows_it_was_opened())
            };
            return actions.is_empty() && ungates.is_empty() && (!asked || looks()) && unread(0) && unread(1);
        }
        let Some(seat) = &self.seats[process] else { return false };
        seat.value.requests.iter().all(|request| match request {
            // Only the scheduler looks at another's node.
            Request::PatchNode { .. } => self.world_rests(),
            Request::Look => looks(),
            Request::WriteLease(_) | Request::Tolerate(_) => false,
        })
    }

    /// Whether kubelets, scheduler and owners have nothing to do in this tick, whatever the others do.
    fn world_rests(&self) -> bool {
        let writes = self.turns[CONTROLLER] == Turn::Sent
            && self.controller.as_ref().is_some_and(|part| {
                let Asks { actions, ungates, .. } = &part.value.asks;
                !actions.is_empty() || !ungates.is_empty()
            });
        let pod_rests = |pod: &Option<AppPod>| {
            pod.as_ref().is_some_and(|pod| match pod.node {
                Some(node) => !self.machines[node].powered || pod.runs_since.is_some(),
                None => pod.gated,
            })
        };
        let essential = self.essential.node.is_some_and(|node| self.essential.runs == self.machines[node].powered);
        self.world_done || !writes && essential && self.pods.value.iter().all(pod_rests)
    }

    /// What breaks or is mended does so at the beginning of a tick; and a process may die while its requests are the only ones under way.
    fn add_faults(&self, all: &mut Vec<Action>) {
        let others_wait = |process: usize| {
            (0..2).all(|other| other == process || self.turns[other] == Turn::Due || self.seats[other].is_none())
        };
        let dies = |process: usize| {
            let there = if process == CONTROLLER { self.controller.is_some() } else { self.seats[process].is_some() };
            let first = if process == CONTROLLER { Turn::Due } else { self.turns[CONTROLLER] };
            let begins = self.turns[process] == Turn::Due && first == Turn::Due;
            there && !self.world_done && others_wait(process) && (begins || self.turns[process] == Turn::Sent)
        };
        let left = if self.until_fault() == Some(0) { self.left } else { NO_FAULTS };
        if left.deaths > 0 {
            all.extend((0..3).filter(|process| dies(*process)).map(Action::Dies));
        }
        if left.power_cuts > 0 {
            all.extend((0..2).filter(|node| dies(*node)).map(Action::PowerCut));
        }
        if self.turns[CONTROLLER] != Turn::Due || self.world_done {
            return;
        }
        for (node, machine) in self.machines.iter().enumerate().filter(|(_, machine)| !machine.powered) {
            if self.now == machine.lost + DARK || self.now >= machine.lost + NODE_LEASE {
                all.push(Action::PowerOn(node));
            }
            let pods = self.pods.value.iter().flatten().any(|pod| pod.node == Some(node));
            if self.now == machine.lost + DARK && (pods || self.essential.node == Some(node)) {
                all.push(Action::GivenUp(node));
            }
        }
        if !self.answers {
            all.push(Action::InjectorAnswers);
        }
        if self.cut.is_some_and(|(_, since)| self.now > since) {
            all.push(Action::Reconnected);
        }
        if left.blackouts > 0 && self.seats.iter().all(Option::is_some) {
            all.push(Action::PowerCutOfAll);
        }
        if left.partitions > 0 && self.cut.is_none() {
            all.extend([0, 1, CONTROLLER].map(Action::CutOff));
        }
        if left.outages > 0 && self.answers {
            all.push(Action::InjectorStops);
        }
    }

    /// The state after it; nothing where it is the same as another action.
    ///
    /// # Errors
    /// An invariant that does not hold.
    pub fn after(&self, action: Action, setting: &Setting) -> Result<Option<Self>, String> {
        let mut next = self.clone();
        match action {
            Action::Agent { node, late } => {
                if !next.step_agent(node, late, setting)? {
                    return Ok(None);
                }
            }
            Action::Controller => next.step_controller(setting),
            Action::Arrive(CONTROLLER) => next.repair_arrives(true)?,
            Action::Unanswered(CONTROLLER) => next.repair_arrives(false)?,
            Action::Arrive(node) => next.arrive(node, true)?,
            Action::Unanswered(node) => next.arrive(node, false)?,
            Action::World { node } => {
                if !next.run_world(node)? {
                    return Ok(None);
                }
            }
            Action::Tick => {
                next.check_closed()?;
                next.now += TICK;
                next.begin_tick(setting);
            }
            Action::PowerCut(node) => {
                next.left.power_cuts -= 1;
                next.lose_power(node);
            }
            Action::PowerCutOfAll => {
                next.left.blackouts -= 1;
                (0..2).for_each(|node| next.lose_power(node));
            }
            Action::PowerOn(node) => {
                let machine = &mut next.machines[node];
                (machine.powered, machine.back, machine.boot) = (true, next.now, machine.boot + 1);
            }
            Action::Dies(CONTROLLER) => {
                next.left.deaths -= 1;
                (next.controller, next.turns[CONTROLLER]) = (None, Turn::Done);
            }
            Action::Dies(node) => {
                next.left.deaths -= 1;
                (next.seats[node], next.turns[node]) = (None, Turn::Done);
            }
            Action::InjectorStops => (next.answers, next.left.outages) = (false, next.left.outages - 1),
            Action::InjectorAnswers => next.answers = true,
            Action::CutOff(who) => (next.cut, next.left.partitions) = (Some((who, next.now)), next.left.partitions - 1),
            Action::Reconnected => {
                if let Some((who, _)) = next.cut.take() {
                    next.undisturbed[who] = next.now;
                }
            }
            Action::GivenUp(node) => {
                if next.essential.node == Some(node) {
                    let number = next.essential.number + 1;
                    next.essential = Essential { node: None, tolerates: false, runs: false, number };
                }
                next.change_pods(|pods| {
                    for pod in pods {
                        *pod = pod.take().filter(|pod| pod.node != Some(node));
                    }
                });
            }
        }
        if next.left != self.left {
            next.first_fault = next.first_fault.or(Some(next.now));
        }
        Ok(Some(next))
    }
}
