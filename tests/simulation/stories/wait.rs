//! `wait` in a pod: what it hears, from its node's agent and else by its own looks. What follows is for the shipped rules.

use std::net::Ipv4Addr;
use std::time::Duration;

use linkerd_gate_core::decide::wait::status::{BLIND, is_blind, uncovered};
use linkerd_gate_core::decide::wait::{OwnPod, PodClass, Status, Then};
use linkerd_gate_core::decide::{Evidence, Policy, Probe, ProbeResult};
use linkerd_gate_core::linkerd::names;

use crate::agent::Process;
use crate::objects::{AppPod, Ask};
use crate::render;
use crate::world::{Part, World};

/// One that runs.
#[derive(Debug)]
pub struct Wait {
    known: Status,
    /// Whether it looks itself, because its agent says nothing that could be used.
    looks: bool,
    /// Since when its agent has said that it sees no verdict.
    blind: Option<Duration>,
}

// === impl Wait ===

impl Wait {
    fn new() -> Self {
        Self { known: Status::default(), looks: false, blind: None }
    }
}

// === impl World ===

impl World {
    /// What `wait` does with its pod after it has heard what there is to hear; nothing where it goes on waiting.
    pub fn step_wait(&mut self, pod: &AppPod, node: usize) -> Option<Then> {
        let own = downward(pod);
        let class = PodClass::of(&own);
        if class == PodClass::Meshed {
            return Some(Then::Open);
        }
        let policy = policy(class, pod);
        let (now, wall) = (self.now, self.wall());
        let agent = self.agents.iter().find(|agent| agent.node == node && agent.process == Process::Runs);
        let answer = agent.map(|agent| agent.gate_status(now, wall, &self.policies.proven));
        let answer = answer.filter(|answer| uncovered(&policy, answer).is_none());
        let mut wait = self.waits.remove(&pod.uid).unwrap_or_else(Wait::new);
        match answer {
            Some(answer) if !is_blind(&answer) => {
                wait = Wait { known: Status::FromAgent(answer), looks: false, blind: None };
            }
            Some(answer) if !wait.looks && now < *wait.blind.get_or_insert(now) + BLIND => {
                wait.known = Status::FromAgent(answer);
            }
            _ if !wait.looks => wait = Wait { looks: true, ..Wait::new() },
            _ => wait.known = wait.known.look(&policy, &self.seen_from(node)),
        }
        let then = wait.known.opening().map(|opening| opening.then(class, pod.template.on_missed, &own));
        self.waits.insert(pod.uid.clone(), wait);
        then
    }

    /// What the two services answer to who has no rights.
    fn seen_from(&mut self, node: usize) -> Evidence {
        let injector = !self.injector_down && self.part_runs(Part::Dns) && self.part_runs(Part::Injector);
        let injector = if injector { ProbeResult::Ready } else { ProbeResult::not_ready("refused") };
        let identity = self.identity_seen_from(node);
        Evidence::at(self.now).with(Probe::Injector, injector).with(Probe::Identity, identity)
    }
}

/// What the entry of `wait` requires by default.
fn policy(class: PodClass, pod: &AppPod) -> Policy {
    let direct = Policy::direct();
    let requires = |probe: &Probe| class.requires(*probe, pod.template.on_missed, |probe| direct.requires(probe));
    Policy::new(Probe::ALL.into_iter().filter(requires), direct.proofs(), direct.settling()).unwrap()
}

/// What the downward API says of a pod.
fn downward(pod: &AppPod) -> OwnPod {
    let metadata = render::pod(pod).metadata;
    let of = |map: Option<std::collections::BTreeMap<String, String>>, key| map.and_then(|mut map| map.remove(key));
    let host = Ipv4Addr::new(10, 0, 0, 1).into();
    let own = if pod.template.ask == Ask::HostNetwork { host } else { Ipv4Addr::new(10, 244, 0, 9).into() };
    OwnPod {
        injected_by: of(metadata.labels, names::label::CONTROL_PLANE_NS).unwrap_or_default(),
        inject: of(metadata.annotations, names::annotation::INJECT),
        ip: Some(own),
        host_ip: Some(host),
        name: Some(pod.name.clone()),
        namespace: Some(pod.namespace.to_owned()),
        uid: Some(pod.uid.clone()),
    }
}
