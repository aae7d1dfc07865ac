//! What the API server does with a replica's requests, and what must never be asked of it.

use std::rc::Rc;
use std::time::Duration;

use linkerd_gate_core::decide::PendingRepair;
use linkerd_gate_core::decide::election::lease_record::{LEASE_DURATION, LeaseRecord};
use linkerd_gate_core::decide::node::taint::TAINT_KEY;
use linkerd_gate_core::decide::readiness::gate::PROOF_LIFETIME;
use linkerd_gate_core::decide::repair::{Action, Operation, Repair, Target, Ungate, WriteOutcome};

use crate::api_server::Refused;
use crate::controller::{Ask, Reply};
use crate::objects::{AppPod, Channel};
use crate::render;
use crate::world::World;

/// For how long what was true may still be acted on: a request takes its time, and what it was decided by had taken its own.
pub const LAG: Duration = Duration::from_secs(25);

/// The answer to what no API server took.
pub fn refused(ask: Ask) -> Reply {
    let down = || WriteOutcome::Failed("connection refused".to_owned());
    match ask {
        Ask::Lease { number, .. } => Reply::Lease(number, Err(Refused::Lost)),
        Ask::Look => Reply::Look(crate::agent::Found::nothing()),
        Ask::Trial(action) => Reply::Tried(action, false),
        Ask::Act(action) | Ask::Delete(action, _) => Reply::Acted(action, down()),
        Ask::Ungate(ungate) => Reply::Ungated(ungate, down()),
        Ask::Retry(retry) => Reply::Retried(retry, down()),
        Ask::OpenNode(_) => Reply::NodeOpened,
    }
}

// === impl World ===

impl World {
    /// Takes a request.
    ///
    /// # Errors
    /// An invariant that does not hold.
    pub fn apply(&mut self, one: usize, ask: Ask) -> Result<Reply, String> {
        Ok(match ask {
            Ask::Lease { number, expected, renewed, transitions, pending } => Reply::Lease(
                number,
                self.write_controller_lease(one, expected.as_deref(), renewed, transitions, pending)?,
            ),
            Ask::Look => Reply::Look(self.look()),
            Ask::Trial(action) => Reply::Tried(action, self.injects()),
            Ask::Act(action) => self.act(action)?,
            Ask::Delete(action, version) => {
                let outcome = match &action.operation {
                    Operation::Untrack { target: [target], .. } => {
                        let target = Target { resource_version: version.to_string(), ..target.clone() };
                        self.remove_target(&action, &target, false)?
                    }
                    _ => WriteOutcome::Conflict,
                };
                Reply::Acted(action, outcome)
            }
            Ask::Ungate(ungate) => {
                let outcome = self.ungate(&ungate)?;
                Reply::Ungated(ungate, outcome)
            }
            Ask::Retry(retry) => {
                let found = self.objects.owners.iter().position(|owner| owner.reference.uid == retry.owner.uid);
                if let Some(owner) = found {
                    self.objects.touch(owner, self.now);
                }
                let outcome = if found.is_some() { WriteOutcome::Done } else { WriteOutcome::Conflict };
                Reply::Retried(retry, outcome)
            }
            Ask::OpenNode(view) => {
                let node = self.api.nodes.iter().position(|node| node.name == view.name);
                if let Some(node) = node.filter(|node| self.api.nodes[*node].resource_version == view.resource_version)
                {
                    self.check_orphan(one, node)?;
                    self.counts.orphans += 1;
                    self.api.change_node(node, |view| view.taints = Some(view.with_taint(TAINT_KEY, None)));
                    self.note_taint(node);
                    self.notify_node(node);
                }
                Reply::NodeOpened
            }
        })
    }

    fn write_controller_lease(
        &mut self,
        one: usize,
        expected: Option<&str>,
        renewed: String,
        transitions: i32,
        pending: String,
    ) -> Result<Result<LeaseRecord, Refused>, String> {
        let stored = self.api.controller.as_ref().map(|record| record.resource_version.as_str());
        if stored != expected {
            self.counts.conflicts += 1;
            return Ok(Err(Refused::Conflict));
        }
        let me = self.replicas[one].me.clone();
        let former = self.api.controller.as_ref().and_then(|record| record.holder.clone());
        if let Some(former) = former.filter(|former| *former != me && former.name != me.name) {
            let silent = self.now.saturating_sub(self.published.renewed);
            if silent < LEASE_DURATION {
                return Err(format!("{me} took the controllers' Lease from {former}, renewed {silent:?} ago"));
            }
        }
        let pods = PendingRepair::read(&pending).map_or(0, PendingRepair::pods);
        let lapsed = self.now >= self.published.renewed + Duration::from_secs(8);
        let since = self.published.since.filter(|_| !lapsed);
        self.published.renewed = self.now;
        self.published.since = (pods > 0).then(|| since.unwrap_or(self.now));
        let record = LeaseRecord {
            resource_version: self.objects.next_version().to_string(),
            holder: Some(me),
            renewed: Some(renewed),
            transitions,
            pending_repair: Some(pending),
            ..LeaseRecord::default()
        };
        self.counts.renewals += 1;
        self.api.controller = Some(Rc::new(record.clone()));
        self.notify_controller_lease();
        Ok(Ok(record))
    }

    /// Notes what conflicted: the same request would conflict again until the replica's watch shows another version.
    pub fn note_conflict(&mut self, one: usize, reply: &Reply) {
        let now = self.now;
        let mut note = |uid: &str, version: &str| {
            self.conflicted.insert((one, uid.to_owned(), version.to_owned()), now);
        };
        match reply {
            Reply::Acted(action, WriteOutcome::Conflict) => {
                action.written_versions().for_each(|(uid, version)| note(uid, version));
            }
            Reply::Ungated(ungate, WriteOutcome::Conflict) => note(&ungate.uid, &ungate.resource_version),
            _ => {}
        }
    }

    fn check_conflicts(&self, one: usize, ask: &Ask) -> Result<(), String> {
        let again = |uid: &str, version: &str| {
            let key = (one, uid.to_owned(), version.to_owned());
            self.conflicted.get(&key).is_some_and(|at| self.now < *at + Duration::from_secs(5))
        };
        let repeats = match ask {
            Ask::Act(action) => action.written_versions().any(|(uid, version)| again(uid, version)),
            Ask::Ungate(ungate) => again(&ungate.uid, &ungate.resource_version),
            _ => false,
        };
        if repeats {
            return Err(format!("{} repeats what conflicted: {ask:?}", self.replicas[one].me));
        }
        Ok(())
    }

    /// What a replica must not send.
    pub fn check_sent(&mut self, one: usize, ask: &Ask) -> Result<(), String> {
        let me = &self.replicas[one].me;
        let recently = self.controller_lease_deleted.is_some_and(|at| self.now < at + Duration::from_secs(30));
        let other =
            self.living_replicas().into_iter().find(|other| *other != one && self.replicas[*other].leads(self.now));
        let first_half = !matches!(ask, Ask::Delete(..));
        if let Some(other) = other.filter(|_| first_half && !recently) {
            return Err(format!("{me} writes while {} leads", self.replicas[other].me));
        }
        self.check_conflicts(one, ask)?;
        let Ask::Act(action) = ask else { return Ok(()) };
        if action.operation.needs_proof()
            && self.injected_at.is_none_or(|at| self.now > at + PROOF_LIFETIME + Duration::from_secs(8))
        {
            return Err(format!(
                "{me} acts without a proof, the last of which could be at {:?}: {action:?}",
                self.injected_at
            ));
        }
        let disturbed = self.replicas[one].undisturbed + LAG > self.now || self.api_undisturbed + LAG > self.now;
        self.note_override();
        let me = &self.replicas[one].me;
        let closed = self.closed_since.is_some_and(|since| self.now >= since + LAG);
        if closed && !disturbed && !action.operation.reverts() && !self.replicas[one].skewed() {
            return Err(format!("{me} acts though everything is closed by a person: {action:?}"));
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<Reply, String> {
        let outcome = match &action.operation {
            Operation::Delete([target]) => self.remove_target(&action, target, false)?,
            Operation::Evict([target]) => self.remove_target(&action, target, true)?,
            Operation::Untrack { target: [target], .. } => {
                let Some(pod) = self.target(&action, target) else {
                    return Ok(Reply::Acted(action, WriteOutcome::Conflict));
                };
                if !pod.gated || !pod.tracked || pod.deleting {
                    WriteOutcome::Conflict
                } else {
                    let path = pod.path();
                    self.objects.change(&path, |pod| pod.tracked = false);
                    let version = self.objects.pods[&path].version;
                    return Ok(Reply::Untracked(action, version));
                }
            }
            Operation::Suspend { resource_version, .. } => self.write_job(&action, resource_version, true)?,
            Operation::Resume { resource_version, .. } => self.write_job(&action, resource_version, false)?,
        };
        Ok(Reply::Acted(action, outcome))
    }

    /// The pod that is meant, as it was looked at.
    fn target(&self, action: &Action, target: &Target) -> Option<AppPod> {
        let pod = self.objects.pods.get(&format!("{}/{}", action.namespace, target.name))?;
        (pod.uid == target.uid && pod.version.to_string() == target.resource_version).then(|| pod.clone())
    }

    fn remove_target(&mut self, action: &Action, target: &Target, evicts: bool) -> Result<WriteOutcome, String> {
        let Some(pod) = self.target(action, target) else { return Ok(WriteOutcome::Conflict) };
        let path = pod.path();
        let mode = self.setting.repair.repair;
        let wrong = |what: &str| Err(format!("{path} ({}) is removed, {what}: {action:?}", pod.uid));
        if pod.deleting {
            return Ok(WriteOutcome::Done);
        }
        if pod.meshed {
            return wrong("which is meshed");
        }
        if !pod.template.asks() {
            return wrong("which is legitimately skipped");
        }
        if pod.owner.is_none() {
            return wrong("which nothing makes again");
        }
        if pod.template.report {
            return wrong("of which repair only reports");
        }
        if pod.has_started() && !(evicts && mode == Repair::Running) {
            return wrong("which has started");
        }
        if pod.is_finished() {
            return wrong("which is over");
        }
        if pod.released {
            return wrong("which a person released");
        }
        if let Some(owner) = pod.owner {
            self.note_removed(owner)?;
        }
        self.counts.removed += 1;
        self.counts.evicted += usize::from(evicts);
        self.objects.change(&path, |pod| pod.removed = true);
        self.delete_pod(&path);
        Ok(WriteOutcome::Done)
    }

    fn write_job(&mut self, action: &Action, version: &str, suspends: bool) -> Result<WriteOutcome, String> {
        let found = self.objects.owners.iter().position(|owner| owner.reference.uid == action.owner.uid);
        let Some(owner) = found else { return Ok(WriteOutcome::Conflict) };
        let stored = self.objects.owners[owner].version.to_string();
        if stored != *version {
            return Ok(WriteOutcome::Conflict);
        }
        if suspends {
            let lost = self.objects.pods_of(owner).find(|pod| pod.is_active() && (pod.has_started() || pod.meshed));
            if let Some(pod) = lost {
                return Err(format!("a Job is suspended though {} of it has started or is meshed", pod.path()));
            }
            self.counts.suspended += 1;
        } else if self.objects.owners[owner].mark.is_none() && self.objects.owners[owner].suspended {
            return Err(format!("{} is resumed, which a person suspended", self.objects.owners[owner].path()));
        }
        let mark = render::mark(self.wall());
        let one = &mut self.objects.owners[owner];
        one.suspended = suspends;
        one.mark = suspends.then_some(mark);
        self.objects.touch(owner, self.now);
        Ok(WriteOutcome::Done)
    }

    fn ungate(&mut self, ungate: &Ungate) -> Result<WriteOutcome, String> {
        self.note_excused();
        let path = format!("{}/{}", ungate.namespace, ungate.name);
        let Some(pod) = self.objects.pods.get(&path) else { return Ok(WriteOutcome::Conflict) };
        if pod.version.to_string() != ungate.resource_version || !pod.gated || pod.deleting {
            return Ok(WriteOutcome::Conflict);
        }
        let bare = pod.template.asks() && !pod.meshed;
        if bare && !pod.released && !pod.template.exempt && !pod.excused {
            return Err(format!("the gate of {path} comes off, which is not meshed: {ungate:?}"));
        }
        self.counts.ungated += 1;
        self.objects.change(&path, |pod| (pod.gated, pod.let_go) = (false, true));
        Ok(WriteOutcome::Done)
    }

    /// The node's channel has news.
    pub fn note_nodes(&mut self) {
        self.objects.note(Channel::Nodes, String::new(), crate::objects::Change::Current);
    }
}
