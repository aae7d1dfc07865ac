//! What holds after every step: of pods, their owners and the controllers.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use linkerd_gate_core::decide::repair::tracker::MAX_FAILURES;
use linkerd_gate_core::decide::repair::{Kind, Repair};
use linkerd_gate_core::decide::wait::OnMissed;

use crate::objects::{AppPod, Change, Channel, Reported};
use crate::setting::Broken;
use crate::world::{AGENTS, SECOND, World, node_name};
use crate::writes::LAG;

/// What is known of an owner while the injector lies: replacements come without a proxy though the proofs are good.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lied {
    removals: usize,
}

// === impl World ===

impl World {
    /// No app of a pod that asks starts outside the mesh where admission or `wait` keeps it from that. What it has to do with who let
    /// it go is not asked: only what the pod is, what people said, and how long it was held.
    pub fn check_start(&mut self, pod: &AppPod) -> Result<(), String> {
        if pod.meshed || !pod.template.asks() {
            return Ok(());
        }
        if pod.enforced && !pod.released && !pod.excused {
            return Err(format!(
                "the app of {} ({}) starts outside the mesh, which admission holds",
                pod.path(),
                pod.uid
            ));
        }
        // An agent that is cut off follows the word that it has seen, for as long as that was to last.
        let opened = self.opened_by_override_until.is_some_and(|until| self.now < until + LAG);
        if pod.template.waits && pod.template.on_missed != OnMissed::Open && !opened {
            return Err(format!("the app of {} ({}) starts outside the mesh, which `wait` holds", pod.path(), pod.uid));
        }
        self.counts.started_bare += 1;
        Ok(())
    }

    /// Notes which held pods may run without a proxy: it stays so.
    pub fn note_excused(&mut self) {
        let held: Vec<&AppPod> = self.objects.pods.values().filter(|pod| pod.gated && !pod.excused).collect();
        let excused: Vec<String> = held.into_iter().filter(|pod| self.is_excused(pod)).map(AppPod::path).collect();
        for path in excused {
            self.objects.pods.get_mut(&path).unwrap().excused = true;
        }
    }

    fn is_excused(&self, pod: &AppPod) -> bool {
        let lately = |since: Duration| self.now < since + LAG;
        // The age of a pod is by a replica's wall clock.
        let clocks_differ = || {
            let replicas = self.living_replicas().into_iter().map(|one| &self.replicas[one]);
            replicas.into_iter().any(|replica| replica.skewed() || lately(replica.undisturbed))
        };
        // A Job is resumed whose pods were held for too long, and those that it makes then are not held again.
        let job = pod.owner.map(|owner| &self.objects.owners[owner]).filter(|owner| owner.is_job());
        let since = job.and_then(|job| job.held_since).unwrap_or(pod.made);
        self.opened_at.is_some_and(lately)
            || self
                .setting
                .repair
                .hold_max
                .is_some_and(|longest| self.now + Duration::from_secs(90) >= since + longest || clocks_differ())
            || self.absent_since.is_some_and(|since| self.now >= since + Duration::from_mins(10))
    }

    /// A replica removed a pod of an owner.
    pub fn note_removed(&mut self, owner: usize) -> Result<(), String> {
        if !self.injector_lies {
            return Ok(());
        }
        let lied = self.lied.entry(owner).or_default();
        lied.removals += 1;
        // Each leader counts for itself, and what was under way when the lie began is not of it.
        let most = (MAX_FAILURES * 2) * (1 + self.leaderships_in_lie) + 2;
        if lied.removals > most {
            let path = self.objects.owners[owner].path();
            return Err(format!("{} pods of {path} were removed though each came back missed", lied.removals));
        }
        Ok(())
    }

    /// A replica opens a node for an agent that is gone: no sooner than an agent would, as far as it could see.
    pub fn check_orphan(&self, one: usize, node: usize) -> Result<(), String> {
        let after = self.setting.orphan_after;
        let saw = self.now >= self.replicas[one].undisturbed + after + Duration::from_secs(10);
        let waited =
            self.machines[node].orphaned_since.is_some_and(|since| self.now + Duration::from_secs(2) >= since + after);
        if saw && !waited {
            let since = self.machines[node].orphaned_since;
            return Err(format!("{} is opened as an orphan, which it has been since {since:?}", node_name(node)));
        }
        let settled = Duration::from_mins(1);
        let lives = |agent: &&crate::agent::Agent| {
            agent.node == node && agent.process.lives() && self.now >= agent.started + settled
        };
        if let Some(agent) = self.agents.iter().find(lives).filter(|_| self.now >= self.api_undisturbed + settled) {
            return Err(format!("{} is opened as an orphan, which has {}", node_name(node), agent.me));
        }
        Ok(())
    }

    /// What is noted once a second.
    pub fn note_second(&mut self) {
        if self.injects() {
            self.injected_at = Some(self.now);
        }
        self.absent_since = if self.webhook_present { None } else { self.absent_since.or(Some(self.now)) };
        if self.absent_since.is_some() {
            self.objects.pods.values_mut().for_each(|pod| pod.came_before = true);
        }
        self.note_excused();
        if self.setting.broken == Some(Broken::GatesComeOff) {
            let held: Vec<String> = self.objects.pods.values().filter(|pod| pod.gated).map(AppPod::path).collect();
            for path in held {
                self.objects.change(&path, |pod| pod.gated = false);
            }
        }
        self.note_readiness();
    }

    /// Whether a controller may still take Linkerd for uninstalled.
    pub fn absent_lately(&self) -> bool {
        self.webhook_absent.is_some_and(|at| self.now < at + Duration::from_secs(50))
    }

    /// Which nodes and agents an API server takes for ready.
    fn note_readiness(&mut self) {
        if !self.api_up {
            return;
        }
        for node in 0..self.machines.len() {
            let machine = &self.machines[node];
            let lately = self.now < machine.power_lost + Duration::from_secs(40);
            let ready = machine.powered || lately;
            let agent = lately && !machine.powered
                || self.agents.iter().any(|agent| agent.node == node && agent.process.lives());
            if self.api.nodes[node].ready != ready {
                self.api.change_node(node, |view| view.ready = ready);
                self.notify_node(node);
            }
            if self.agent_pods.get(&node) != Some(&agent) {
                self.agent_pods.insert(node, agent);
                self.objects.store_other(&agent_pod(node, agent));
            }
            self.note_orphan(node, !agent && self.api.is_tainted(node));
        }
    }

    /// Since when a node is an orphan. What lasts for moments only, a watch may never show.
    fn note_orphan(&mut self, node: usize, orphaned: bool) {
        let (now, machine) = (self.now, &mut self.machines[node]);
        if orphaned {
            machine.orphaned_since = machine.orphaned_since.or(Some(now));
            machine.not_orphaned_since = None;
        } else if now >= *machine.not_orphaned_since.get_or_insert(now) + Duration::from_secs(4) {
            machine.orphaned_since = None;
        }
    }

    /// Once everything is healthy, whatever asks is meshed, and nothing is held.
    pub fn check_all_meshed(&self) -> Result<(), String> {
        if !self.setting.replicas {
            return Ok(());
        }
        for pod in self.objects.pods.values() {
            let stays = stays(pod);
            // What slipped through where admission does not keep it from that, and ran, is left alone by default; and in the other
            // mode, what was there when it was not asked for.
            let kept =
                (pod.has_started() || pod.ran) && (self.setting.repair.repair == Repair::Held || pod.came_before);
            if pod.is_missed() && !stays && !kept {
                return Err(format!("{} ({}) is not meshed: {pod:?}", pod.path(), pod.uid));
            }
            if pod.gated && !stays {
                return Err(format!("{} is held still", pod.path()));
            }
            if pod.deleting {
                return Err(format!("{} does not go", pod.path()));
            }
        }
        for (number, owner) in self.objects.owners.iter().enumerate() {
            if owner.mark.is_some() {
                return Err(format!("{} is suspended still", owner.path()));
            }
            let active: Vec<&AppPod> = self.objects.pods_of(number).filter(|pod| pod.is_active()).collect();
            let ready = active.iter().filter(|pod| pod.reported == Reported::Runs { ready: true } || pod.gated).count();
            let stuck = self.objects.pods_of(number).any(|pod| pod.is_missed() && (pod.gated || pod.template.waits));
            if self.objects.pods_of(number).any(|pod| pod.is_missed() && stays(pod)) || self.waits_for_ever(number) {
                // A StatefulSet makes no other before that one is ready.
                continue;
            }
            let wanted = match owner.reference.kind {
                Kind::Job if owner.is_over() => 0,
                Kind::Job => owner.wanted - owner.succeeded,
                Kind::DaemonSet => self.machines.len(),
                _ => owner.wanted,
            };
            let active = active.len();
            if active < wanted || ready < wanted && !stuck {
                return Err(format!("{} has {active} pods, {ready} of them ready, and wants {wanted}", owner.path()));
            }
        }
        Ok(())
    }

    /// Whether `wait` holds an owner's pods for ever: its entry asks, and Linkerd would not inject them.
    fn waits_for_ever(&self, owner: usize) -> bool {
        use crate::objects::Ask;
        let template = self.objects.owners[owner].template;
        template.waits && matches!(template.ask, Ask::Nothing | Ask::Invalid)
    }

    /// Changes the webhook's configuration, as an upgrade of Linkerd does.
    pub fn refresh_webhooks(&mut self) {
        let mut view = self.cluster.webhooks.clone();
        for webhook in &mut view.webhooks {
            webhook.timeout = SECOND * (10 + self.webhook_edition);
        }
        if *self.webhooks != view {
            self.webhooks = view.into();
            self.objects.note(Channel::Webhooks, String::new(), Change::Current);
        }
    }
}

/// Whether a pod that is outside the mesh stays so for a reason of its own.
fn stays(pod: &AppPod) -> bool {
    pod.owner.is_none() || pod.template.report || pod.released || pod.let_go
}

/// A node's agent, as an API server shows it.
fn agent_pod(node: usize, ready: bool) -> Pod {
    let label = |name: &str, value: &str| (format!("app.kubernetes.io/{name}"), value.to_owned());
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("agent-{node}")),
            namespace: Some(AGENTS.to_owned()),
            uid: Some(format!("agent-{node}")),
            labels: Some([label("name", "linkerd-gate"), label("component", "agent")].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { node_name: Some(node_name(node)), host_network: Some(true), ..PodSpec::default() }),
        status: Some(PodStatus {
            phase: Some("Running".to_owned()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".to_owned(),
                status: if ready { "True" } else { "False" }.to_owned(),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        }),
    }
}
