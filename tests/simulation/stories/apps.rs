//! Applications: what owners make, what admission does about it, and which node a pod gets.

use std::time::Duration;

use linkerd_gate_core::decide::repair::{Kind, OwnerReference};
use linkerd_gate_core::decide::wait::OnMissed;

use crate::events::Event;
use crate::objects::{AppPod, Ask, Owner, Reported, Template};
use crate::setting::Broken;
use crate::world::{SECOND, World};

/// How long an API server takes a node for ready that has lost its power.
const NODE_LEASE: Duration = Duration::from_secs(40);

/// What the chart's `admission` was set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Hold and guard.
    Hold,
    /// The guard alone.
    Refuse,
    Off,
}

/// What becomes of a create.
enum Admitted {
    Meshed,
    Gated,
    Bare,
    Refused,
}

// === impl Template ===

impl Template {
    fn draw(world: &mut World) -> Self {
        let ask = match world.random.below(12) {
            0..=5 => Ask::ByNamespace,
            6..=7 => Ask::ByPod,
            8 => Ask::Declines,
            9 => Ask::Nothing,
            10 => Ask::HostNetwork,
            _ => Ask::Invalid,
        };
        let on_missed = match world.random.below(10) {
            0 => OnMissed::Exit,
            1 => OnMissed::Open,
            _ => OnMissed::Hold,
        };
        Self {
            ask,
            waits: world.random.chance(25),
            on_missed,
            exempt: world.random.chance(5),
            report: world.random.chance(5),
        }
    }
}

// === impl World ===

impl World {
    pub fn draw_apps(&mut self) {
        for _ in 0..=self.random.below(5) {
            self.make_owner();
        }
        if self.random.chance(30) {
            self.make_bare_pod();
        }
    }

    pub fn make_owner(&mut self) {
        let kind = match self.random.below(7) {
            0..=1 => Kind::ReplicaSet,
            2 => Kind::ReplicationController,
            3 => Kind::StatefulSet,
            4 => Kind::DaemonSet,
            _ => Kind::Job,
        };
        let number = self.objects.owners.len();
        let template = Template::draw(self);
        let wanted = 1 + self.random.below(3);
        let reference = OwnerReference { kind, name: format!("app-{number}"), uid: format!("owner-{number}") };
        let owner = Owner::new(reference, template, wanted, self.now);
        self.objects.owners.push(owner);
        self.objects.sync(number, true);
    }

    /// A pod that a person makes, which nothing makes again.
    pub fn make_bare_pod(&mut self) {
        let template = Template::draw(self);
        let name = format!("bare-{}", self.pods_made);
        self.create_pod(None, name, template, None);
    }

    fn admit(&mut self, template: Template) -> Admitted {
        // What Linkerd's injector and the two policies do is drawn from the template, not from the code under test.
        let asked = template.asks() && self.webhook_present;
        if asked && self.injects() && !self.injector_lies {
            return Admitted::Meshed;
        }
        match self.setting.admission {
            Admission::Hold if asked && !template.exempt => Admitted::Gated,
            Admission::Refuse if asked && !template.exempt => Admitted::Refused,
            _ => Admitted::Bare,
        }
    }

    /// Creates a pod, unless admission refuses it.
    fn create_pod(&mut self, owner: Option<usize>, name: String, template: Template, pin: Option<usize>) -> bool {
        let (meshed, gated) = match self.admit(template) {
            Admitted::Refused => return false,
            Admitted::Meshed => (true, false),
            Admitted::Gated => (false, true),
            Admitted::Bare => (false, false),
        };
        self.pods_made += 1;
        let uid = format!("pod-{}", self.pods_made);
        let bare = !meshed && template.asks();
        if let Some(owner) = owner.map(|owner| &mut self.objects.owners[owner]) {
            owner.held_since = if meshed { None } else { owner.held_since.or(Some(self.now)) };
        }
        self.counts.bare += usize::from(bare);
        self.counts.held += usize::from(gated);
        let pod = AppPod {
            namespace: template.namespace(),
            name,
            uid,
            version: 0,
            created: self.wall(),
            owner,
            reference: owner.map(|owner| self.objects.owners[owner].reference.clone()),
            template,
            pin,
            node: None,
            meshed,
            gated,
            tracked: owner.is_some_and(|owner| self.objects.owners[owner].is_job()),
            released: false,
            deleting: false,
            reported: Reported::Nothing,
            restarts: 0,
            enforced: self.setting.admission != Admission::Off && self.webhook_present && !template.exempt,
            excused: false,
            let_go: false,
            came_before: self.absent_lately(),
            runs_since: None,
            ran: false,
            removed: false,
            made: self.now,
        };
        self.log(|_| {
            let how = if meshed {
                "meshed"
            } else if gated {
                "gated"
            } else {
                "bare"
            };
            format!("{} is created {how} as {}", pod.path(), pod.uid)
        });
        self.objects.store(pod);
        true
    }

    /// What the controllers of owners do once a second.
    pub fn run_owners(&mut self) -> Result<(), String> {
        if !self.api_up || self.now < self.managers_up_at {
            return Ok(());
        }
        for owner in 0..self.objects.owners.len() {
            if self.objects.owners[owner].is_job() {
                self.run_job(owner)?;
            }
            let lacking = self.lacking(owner);
            for (name, pin) in lacking {
                let one = &self.objects.owners[owner];
                if one.next_try > self.now {
                    break;
                }
                let template = one.template;
                let taken = self.create_pod(Some(owner), name, template, pin);
                let now = self.now;
                let one = &mut self.objects.owners[owner];
                if taken {
                    (one.failures, one.refused) = (0, false);
                    one.made += 1;
                } else {
                    one.failures += 1;
                    one.refused = true;
                    let pause = Duration::from_millis(5).saturating_mul(1 << one.failures.min(18));
                    one.next_try = now + pause.min(Duration::from_secs(1000));
                    self.counts.refused += 1;
                    self.objects.note_refusal(owner);
                    break;
                }
            }
            self.objects.sync(owner, false);
        }
        Ok(())
    }

    /// The pods that an owner would make now: their names and nodes.
    fn lacking(&mut self, owner: usize) -> Vec<(String, Option<usize>)> {
        let one = &self.objects.owners[owner];
        let name = |number: usize| format!("{}-{number}", one.reference.name);
        let active = || self.objects.pods_of(owner).filter(|pod| pod.is_active());
        match one.reference.kind {
            Kind::StatefulSet => {
                // One after the other, each when those before it are ready.
                for ordinal in 0..one.wanted {
                    let name = name(ordinal);
                    match self.objects.pods.get(&format!("{}/{name}", one.namespace)) {
                        None => return vec![(name, None)],
                        Some(pod) if !pod.deleting && pod.reported == Reported::Runs { ready: true } => {}
                        Some(_) => break,
                    }
                }
                Vec::new()
            }
            Kind::DaemonSet => {
                let has = |node: usize| self.objects.pods_of(owner).any(|pod| pod.pin == Some(node));
                let should = |node: &usize| self.is_schedulable(*node);
                let nodes: Vec<usize> = (0..self.machines.len()).filter(should).collect();
                let desired = (0..self.machines.len())
                    .filter(|node| should(node) || active().any(|pod| pod.pin == Some(*node)))
                    .count();
                let lacking: Vec<_> = nodes.into_iter().filter(|node| !has(*node)).collect();
                let made = one.made;
                let lacking = lacking.into_iter().enumerate();
                let lacking = lacking.map(|(number, node)| (name(made + number), Some(node))).collect();
                self.objects.owners[owner].desired = desired;
                lacking
            }
            Kind::Job if one.suspended || one.is_over() => Vec::new(),
            Kind::Job => {
                let wanted = (one.wanted - one.succeeded).saturating_sub(active().count());
                (0..wanted).map(|number| (name(one.made + number), None)).collect()
            }
            _ => {
                let wanted = one.wanted.saturating_sub(active().count());
                (0..wanted).map(|number| (name(one.made + number), None)).collect()
            }
        }
    }

    /// What the Job controller does about the pods that are there: it counts them, and takes its finalizer off.
    fn run_job(&mut self, owner: usize) -> Result<(), String> {
        let suspended = self.objects.owners[owner].suspended;
        let paths: Vec<String> = self.objects.pods_of(owner).map(AppPod::path).collect();
        for path in paths {
            let pod = self.objects.pods[&path].clone();
            if pod.is_finished() {
                let one = &mut self.objects.owners[owner];
                if pod.tracked {
                    one.succeeded += 1;
                }
                self.objects.remove(&path);
            } else if (suspended || self.objects.owners[owner].failed > 0) && !pod.deleting {
                self.objects.change(&path, |pod| pod.tracked = false);
                self.delete_pod(&path);
            } else if pod.deleting && pod.tracked {
                if !suspended {
                    self.objects.owners[owner].failed += 1;
                    if pod.removed {
                        return Err(format!("a Job counts {path} as a failure, which a controller of ours removed"));
                    }
                }
                self.objects.change(&path, |pod| pod.tracked = false);
                if pod.node.is_none() {
                    self.objects.remove(&path);
                }
            }
        }
        Ok(())
    }

    /// Whether the scheduler takes a node for one that can have a pod which tolerates nothing of ours.
    fn is_schedulable(&self, node: usize) -> bool {
        let machine = &self.machines[node];
        (machine.powered || self.now < machine.power_lost + NODE_LEASE) && !self.api.is_tainted(node)
    }

    /// What the scheduler does once a second.
    pub fn bind_pods(&mut self) {
        if !self.api_up || self.now < self.managers_up_at {
            return;
        }
        let fit: Vec<usize> = (0..self.machines.len()).filter(|node| self.is_schedulable(*node)).collect();
        let ignores = self.setting.broken == Some(Broken::SchedulerIgnoresGates);
        let free = |pod: &AppPod| pod.node.is_none() && (!pod.gated || ignores) && !pod.deleting;
        let waiting = self.objects.pods.values().filter(|pod| free(pod));
        let waiting: Vec<_> = waiting.map(|pod| (pod.path(), pod.pin)).collect();
        for (path, pin) in waiting {
            let nodes: Vec<usize> = fit.iter().copied().filter(|node| pin.is_none_or(|pin| pin == *node)).collect();
            if nodes.is_empty() {
                continue;
            }
            let node = nodes[self.random.below(nodes.len())];
            self.log(|_| format!("{path} is bound to node-{node}"));
            self.objects.change(&path, |pod| pod.node = Some(node));
            self.counts.bound_bare += usize::from(self.objects.pods[&path].is_missed());
            let seen = self.random.between(50, 900);
            self.kubelet_in(seen, &path, crate::kubelet::Step::See);
        }
    }

    /// Deletes a pod, with its grace period where it has a node.
    pub fn delete_pod(&mut self, path: &str) {
        self.objects.delete(path);
        if self.objects.pods.contains_key(path) {
            let ends = self.random.between(50, 3000);
            self.kubelet_in(ends, path, crate::kubelet::Step::Kill);
        }
    }

    pub fn kubelet_in(&mut self, after: Duration, path: &str, step: crate::kubelet::Step) {
        let Some(pod) = self.objects.pods.get(path) else { return };
        let Some(node) = pod.node else { return };
        let (uid, boot) = (pod.uid.clone(), self.machines[node].boot);
        let event = Event::Kubelet { path: path.to_owned(), uid, boot, step };
        self.schedule(self.now + after, event);
    }

    /// Whatever the kubelet of a node that boots finds there starts again.
    pub fn restart_pods(&mut self, node: usize) {
        let paths: Vec<String> =
            self.objects.pods.values().filter(|pod| pod.node == Some(node)).map(AppPod::path).collect();
        for path in paths {
            if let Some(pod) = self.objects.pods.get_mut(&path) {
                pod.runs_since = None;
            }
            let seen = SECOND + self.random.between(1000, 8000);
            self.kubelet_in(seen, &path, crate::kubelet::Step::See);
        }
    }
}
