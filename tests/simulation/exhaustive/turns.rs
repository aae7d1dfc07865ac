//! What a turn does: of an agent, of the controller, of what runs pods; and what a request that arrives comes to.

use std::rc::Rc;
use std::time::Duration;

use linkerd_gate_core::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate_core::decide::repair::object::OwnersOfAKind;
use linkerd_gate_core::decide::repair::{Action as Repair, Operation, Ungate, WriteOutcome};
use linkerd_gate_core::decide::{LinkerdInstallation, ProbeResult};

use crate::agent::{Answer, Found, Message, Surroundings};
use crate::api_server::{Refused, Request};
use crate::checks::check_lease;
use crate::memo::{Came, Reads};
use crate::objects::Reported;
use crate::random::Random;
use crate::render;
use crate::replica::{Asks, Part};
use crate::setting::{Setting, made, owner};
use crate::state::{CONTROLLER, NODE_LEASE, Repairing, Seat, State, TICK, Turn};

/// For how long a proof counts: written down again, so that a change of the program's own is seen.
const PROOF_COUNTS: Duration = Duration::from_secs(45);

// === impl State ===

impl State {
    pub fn lose_power(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        (machine.powered, machine.lost, machine.first_agent) = (false, self.now, None);
        (self.seats[node], self.turns[node]) = (None, Turn::Done);
        if self.essential.node == Some(node) {
            self.essential.runs = false;
        }
        self.change_pods(|pods| {
            for pod in pods.iter_mut().flatten().filter(|pod| pod.node == Some(node)) {
                // No kubelet reports it: what the API server knows of it stays.
                pod.runs_since = None;
            }
        });
    }

    /// Returns whether what was drawn mattered, or was not late.
    pub fn step_agent(&mut self, node: usize, late: bool, setting: &Setting) -> Result<bool, String> {
        let Some(seat) = &self.seats[node] else { return Ok(false) };
        let reads = Reads {
            now: self.now,
            seat: Rc::clone(seat),
            node: Rc::clone(&self.api.value.nodes[node]),
            lease: self.api.value.lease.clone(),
            controller: self.api.value.controller.clone(),
            essential: (self.essential.number, self.essential.tolerates, self.essential.node.is_some()),
            cut: self.is_cut(node),
            late,
        };
        let known = setting.turns.borrow().get(&reads);
        let Came(next) = if let Some(known) = known {
            known
        } else {
            let next = Came(self.agent_after(node, late, setting)?);
            setting.turns.borrow_mut().add(reads, next.clone());
            next
        };
        let Some(next) = next else { return Ok(false) };
        self.turns[node] = if next.value.requests.is_empty() { Turn::Done } else { Turn::Sent };
        self.seats[node] = Some(next);
        Ok(true)
    }

    /// What an agent is after its turn; nothing where being late makes no difference.
    fn agent_after(&self, node: usize, late: bool, setting: &Setting) -> Result<Option<Rc<Part<Seat>>>, String> {
        let Some(seat) = &self.seats[node] else { return Ok(None) };
        let mut seat = seat.value.clone();
        let mut random = Random { late, asked: false };
        if !self.is_cut(node) {
            let api = &self.api.value;
            let news = [
                Message::Node(Rc::clone(&api.nodes[node])),
                Message::Lease(api.lease.clone()),
                Message::Controller(api.controller.clone()),
            ];
            for message in news {
                seat.agent.receive(message, self.now, &mut random);
            }
        }
        let cluster = setting.cluster(&self.essential);
        let mut around = Surroundings {
            now: self.now,
            wall: setting.rules.wall,
            policies: &setting.policies,
            random: &mut random,
            identity: ProbeResult::Ready,
            installed: 0,
            cluster: &cluster,
        };
        let wanted = seat.agent.wants_controller;
        seat.requests = seat.agent.step(&mut around)?;
        if seat.agent.wants_controller && !wanted && !self.is_cut(node) {
            seat.agent.receive(Message::Controller(self.api.value.controller.clone()), self.now, &mut random);
        }
        if late && !random.asked {
            return Ok(None);
        }
        if seat.requests.iter().any(|request| matches!(request, Request::Look)) {
            let holder = self.api.value.lease.as_ref().and_then(|word| word.record.holder.as_ref());
            if holder != Some(&seat.agent.me) {
                return Err(format!("{} proves, though the Lease is {holder:?}'s", seat.agent.me));
            }
        }
        seat.verdict = seat.agent.verdict();
        Ok(Some(Part::of_agent(seat)))
    }

    pub fn arrive(&mut self, node: usize, answered: bool) -> Result<(), String> {
        let Some(seat) = &self.seats[node] else { return Ok(()) };
        let mut seat = seat.value.clone();
        let reaches = !self.is_cut(node) || !answered;
        let now = self.now;
        for request in std::mem::take(&mut seat.requests) {
            let answer = match request {
                Request::PatchNode { resource_version, change, state, truth } => {
                    let before = Rc::clone(&self.api.value.nodes[node]);
                    let result = if reaches {
                        self.change_api(|api| api.patch_node(node, &resource_version, &change))
                    } else {
                        Err(Refused::Lost)
                    };
                    if result.is_ok() {
                        self.check_patch(node, &seat.agent.me, &before, &change, &state, truth)?;
                    }
                    Answer::Node(if answered { result } else { Err(Refused::Lost) })
                }
                Request::WriteLease(write) => {
                    let before = self.api.value.lease.clone();
                    let result =
                        if reaches { self.change_api(|api| api.write_lease(&write, now)) } else { Err(Refused::Lost) };
                    if result.is_ok() {
                        check_lease(before.as_ref().map(|word| (&word.record, word.truth.renewed)), &write, now)?;
                    }
                    let result = if answered { result } else { Err(Refused::Lost) };
                    Answer::Lease(write.number, result.map(|word| word.record.clone()))
                }
                Request::Look => Answer::Look(if reaches && answered { self.look() } else { Found::nothing() }),
                Request::Tolerate(uid) => {
                    if reaches && uid == format!("injector-{}", self.essential.number) {
                        self.essential.tolerates = true;
                    }
                    Answer::Tolerate(uid)
                }
            };
            seat.agent.receive(Message::Answer(answer, now), now, &mut Random::default());
        }
        seat.verdict = seat.agent.verdict();
        self.turns[node] = Turn::Done;
        self.seats[node] = Some(Part::of_agent(seat));
        Ok(())
    }

    fn look(&mut self) -> Found {
        let injects = self.injects();
        if injects {
            self.injected_at = self.now;
        }
        let ready = |up: bool, why: &str| if up { ProbeResult::Ready } else { ProbeResult::not_ready(why.to_owned()) };
        Found {
            installation: LinkerdInstallation::Present,
            webhook: ProbeResult::Ready,
            injector: ready(injects, "no endpoint is ready"),
            injection: ready(injects, "came back bare"),
            identity: ProbeResult::Ready,
        }
    }

    pub fn step_controller(&mut self, setting: &Setting) {
        let Some(part) = &self.controller else { return };
        let mut part = part.value.clone();
        let seen = (!self.is_cut(CONTROLLER)).then(|| {
            let has = |app: usize| usize::from(self.pods.value[app].is_some());
            let owners: OwnersOfAKind = [0, 1]
                .map(|app| owner(app, has(app)))
                .iter()
                .map(|owner| (owner.path(), render::owner(owner)))
                .collect();
            ((*self.views).clone(), owners)
        });
        part.asks = part.replica.step(seen, &setting.rules, self.now);
        self.turns[CONTROLLER] = Turn::Sent;
        self.controller = Some(Part::new(part));
    }

    pub fn repair_arrives(&mut self, answered: bool) -> Result<(), String> {
        let Some(part) = &self.controller else { return Ok(()) };
        let Repairing { mut replica, asks: Asks { looks, actions, ungates } } = part.value.clone();
        let now = self.now;
        let reaches = !self.is_cut(CONTROLLER) || !answered;
        if looks {
            let found = if reaches && answered { self.look() } else { Found::nothing() };
            replica.found(&found, now);
        }
        if reaches {
            let pending = replica.pending.write();
            let version = format!("9{}", now.as_secs());
            let record = LeaseRecord {
                resource_version: version,
                holder: Some(LeaseHolder::read("controller/node/uid")),
                renewed: Some(now.as_micros().to_string()),
                pending_repair: Some(pending),
                ..LeaseRecord::default()
            };
            self.change_api(|api| api.controller = Some(Rc::new(record)));
            if answered {
                replica.renewed(now);
            }
        }
        let failed = || WriteOutcome::Failed("connection refused".to_owned());
        for ungate in ungates {
            let outcome = if reaches { self.ungate(&ungate) } else { failed() };
            replica.ungated(&ungate, &if answered { outcome } else { failed() }, now);
        }
        for action in actions {
            let outcome = if reaches { self.act(&action)? } else { failed() };
            replica.acted(&action, &if answered { outcome } else { failed() }, now);
        }
        self.turns[CONTROLLER] = Turn::Done;
        self.controller = Some(Part::new(Repairing { replica, asks: Asks::default() }));
        Ok(())
    }

    /// The controller takes its gate off a pod. Whether it may shows when its app starts.
    fn ungate(&mut self, ungate: &Ungate) -> WriteOutcome {
        let found = self.pods.value.iter().position(|pod| {
            pod.as_ref().is_some_and(|pod| {
                pod.gated && pod.uid == ungate.uid && pod.version.to_string() == ungate.resource_version
            })
        });
        let Some(app) = found else { return WriteOutcome::Conflict };
        self.change_pods(|pods| {
            if let Some(pod) = &mut pods[app] {
                (pod.gated, pod.let_go) = (false, true);
                pod.version += 1;
            }
        });
        WriteOutcome::Done
    }

    /// A write of the controller's.
    fn act(&mut self, action: &Repair) -> Result<WriteOutcome, String> {
        let Operation::Delete([target]) = &action.operation else {
            return Err(format!("the controller sends what nothing here asks for: {action:?}"));
        };
        let found = self.pods.value.iter().position(|pod| {
            pod.as_ref().is_some_and(|pod| pod.uid == target.uid && pod.version.to_string() == target.resource_version)
        });
        let Some(app) = found else { return Ok(WriteOutcome::Conflict) };
        let pod = self.pods.value[app].clone().unwrap();
        if pod.meshed || pod.has_started() {
            return Err(format!("{} is removed, which is meshed or has started: {pod:?}", pod.path()));
        }
        if self.now > self.injected_at + PROOF_COUNTS + TICK * 2 {
            return Err(format!(
                "{} is removed without a proof; a pod was injected at {:?} last",
                pod.path(),
                self.injected_at
            ));
        }
        self.change_pods(|pods| pods[app] = None);
        Ok(WriteOutcome::Done)
    }

    /// Whether the scheduler takes a node.
    fn fits(&self, node: usize, tolerates: bool) -> bool {
        let machine = &self.machines[node];
        (machine.powered || self.now < machine.lost + NODE_LEASE) && (tolerates || !self.api.value.is_tainted(node))
    }

    /// Pods that have a node start, those that have none are bound, and what lacks is made. Returns whether the node that is preferred
    /// mattered, or was the first.
    pub fn run_world(&mut self, preferred: usize) -> Result<bool, String> {
        self.world_done = true;
        let mut mattered = false;
        let mut bind = |state: &Self, tolerates: bool| {
            let fit = [0, 1].map(|node| state.fits(node, tolerates));
            mattered |= fit == [true; 2];
            [preferred, 1 - preferred].into_iter().find(|node| fit[*node])
        };
        match self.essential.node {
            Some(node) => self.essential.runs = self.machines[node].powered,
            None => self.essential.node = bind(self, self.essential.tolerates),
        }
        let injects = self.injects();
        let mut pods = self.pods.value.clone();
        for (app, pod) in pods.iter_mut().enumerate() {
            match pod {
                None => {
                    self.pods_made += 1;
                    // Admission holds the pods of one application, and lets those of the other through.
                    *pod = Some(made(app, self.pods_made, injects, app == 0 && !injects));
                }
                Some(pod) => match pod.node {
                    Some(node) if self.machines[node].powered && pod.runs_since.is_none() => {
                        // No one releases a pod here, and nothing is opened: what admission held never runs outside the mesh.
                        if pod.enforced && !pod.meshed && pod.template.asks() || pod.gated {
                            return Err(format!("the app of {} starts outside the mesh", pod.path()));
                        }
                        pod.restarts = i32::from(pod.ran);
                        (pod.ran, pod.runs_since) = (true, Some(TICK));
                        pod.reported = Reported::Runs { ready: true };
                        pod.version += 1;
                    }
                    None if !pod.gated => {
                        pod.node = bind(self, false);
                        pod.version += u64::from(pod.node.is_some());
                    }
                    _ => {}
                },
            }
        }
        if pods.iter().zip(&self.pods.value).any(|(pod, before)| {
            pod.as_ref().map(|pod| (&pod.uid, pod.version)) != before.as_ref().map(|pod| (&pod.uid, pod.version))
        }) {
            self.change_pods(|before| *before = pods);
        }
        Ok(preferred == 0 || mattered)
    }
}
