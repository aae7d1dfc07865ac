//! What a leader plans and asks for: repair and its paced evictions, retries of refused owners, nodes without an agent.

use std::collections::BTreeMap;
use std::time::Duration;

use linkerd_gate_core::decide::PendingRepair;
use linkerd_gate_core::decide::node::orphan;
use linkerd_gate_core::decide::node::taint::{NodeView, TAINT_KEY};
use linkerd_gate_core::decide::repair::object::OwnersOfAKind;
use linkerd_gate_core::decide::repair::retry::RefusedCreates;
use linkerd_gate_core::decide::repair::step::{self, RECHECK};
use linkerd_gate_core::decide::repair::{ClusterOverride, Due, Operation, Owners, Room, Scan, Snapshot, plan};
use linkerd_gate_core::linkerd::TokenProjection;

use super::Leader;
use crate::controller::{Around, Ask};
use crate::objects::Channel;
use crate::world::AGENTS;

// === impl Leader ===

impl Leader {
    /// Sends one eviction when its turn comes.
    pub(super) fn pace(&mut self, leads: bool, local: Duration, asks: &mut Vec<Ask>) {
        while !self.paced.is_empty() && self.evictions.next() <= local {
            let action = self.paced.remove(0);
            self.evictions.goes(local);
            let proven = self.gate.proven_at(local).is_some();
            if step::may_send(&action.operation, leads, self.free, proven).is_ok() {
                asks.push(Ask::Act(action));
            } else {
                self.tracker.dropped(&action);
                self.dirty = true;
            }
        }
    }

    pub(super) fn repair(
        &mut self,
        leads: bool,
        local: Duration,
        around: &Around<'_>,
        asks: &mut Vec<Ask>,
    ) -> Option<Duration> {
        const CHANNELS: &[Channel] = &[
            Channel::Pods,
            Channel::Namespaces,
            Channel::Override,
            Channel::Webhooks,
            Channel::ReplicaSets,
            Channel::ReplicationControllers,
            Channel::StatefulSets,
            Channel::DaemonSets,
            Channel::Jobs,
        ];
        let permit = self.permit(leads, CHANNELS, around.wall);
        self.free = permit.is_free();
        let proven = self.gate.proven_at(local).filter(|_| leads);
        if !self.in_sync(&[Channel::Webhooks]) || !self.listed(&[Channel::Webhooks]) {
            self.tracker.note_watches_lost();
        }
        // Who is not overridden is seen before the agents' Lease is: the role waits for no list of it.
        let needed: Vec<_> = CHANNELS.iter().copied().filter(|channel| *channel != Channel::Override).collect();
        if !self.listed(&needed) {
            return Some(local + RECHECK);
        }
        let none = OwnersOfAKind::new();
        let said = self.said(around.wall);
        let manual = said.map(|word| if word.open { ClusterOverride::Open } else { ClusterOverride::Closed });
        let Self { pods, owners, namespaces, webhooks, tracker, .. } = self;
        let snapshot = Snapshot {
            pods,
            others: 0,
            namespaces,
            owners: owners_of(owners, &none),
            webhooks,
            projection: TokenProjection::Enabled,
            proven,
            manual,
            wall: around.wall,
        };
        let scan = Scan::of(&snapshot, |owner| tracker.remembers(owner));
        tracker.observe(&snapshot, &scan, local);
        let plan = plan(&snapshot, &scan, tracker, around.policy, local);
        self.pending = PendingRepair::new(plan.pending);
        let room = Room { actions: 64, ungates: 200 };
        let Due { actions, ungates, again } = step::begin(plan, &scan, tracker, permit, room, local);
        if let Some(at) = tracker.missed_again_at() {
            self.require_proof(at, local);
        }
        for action in actions {
            let evicts = matches!(action.operation, Operation::Evict(_));
            asks.push(if evicts { Ask::Trial(action) } else { Ask::Act(action) });
        }
        asks.extend(ungates.into_iter().map(Ask::Ungate));
        again
    }

    fn require_proof(&mut self, at: Duration, local: Duration) {
        if at > self.reprove {
            self.reprove = at;
            self.look_at = self.look_at.min(local + Duration::from_millis(100));
        }
    }

    pub(super) fn retry(
        &mut self,
        leads: bool,
        local: Duration,
        around: &Around<'_>,
        asks: &mut Vec<Ask>,
    ) -> Option<Duration> {
        const CHANNELS: &[Channel] = &[
            Channel::Refusals,
            Channel::Override,
            Channel::Webhooks,
            Channel::ReplicaSets,
            Channel::ReplicationControllers,
            Channel::StatefulSets,
            Channel::DaemonSets,
            Channel::Jobs,
        ];
        if self.retrying > 0 {
            return None;
        }
        let proven = self.permit(leads, CHANNELS, around.wall).proven(&self.gate, local);
        let needed: Vec<_> = CHANNELS
            .iter()
            .copied()
            .filter(|channel| !matches!(channel, Channel::Override | Channel::Webhooks))
            .collect();
        if !self.listed(&needed) {
            return Some(local + RECHECK);
        }
        let refusals: RefusedCreates = self.refusals.values().cloned().collect();
        let none = OwnersOfAKind::new();
        let owners = owners_of(&self.owners, &none);
        let (due, again) = self.retries.step(&owners, &refusals, proven, local);
        for retry in &due {
            self.retries.sent(retry, &refusals, local);
        }
        self.retrying = due.len();
        asks.extend(due.into_iter().map(Ask::Retry));
        if let Some(at) = self.retries.refused_again_at() {
            self.require_proof(at, local);
        }
        if proven.is_some() { again } else { Some(local + RECHECK) }
    }

    pub(super) fn orphans(
        &mut self,
        leads: bool,
        local: Duration,
        around: &Around<'_>,
        asks: &mut Vec<Ask>,
    ) -> Option<Duration> {
        const CHANNELS: &[Channel] = &[Channel::Pods, Channel::Nodes, Channel::Override];
        if !self.listed(&[Channel::Pods, Channel::Nodes]) {
            return None;
        }
        if !self.permit(leads, CHANNELS, around.wall).is_free() {
            return Some(local + RECHECK);
        }
        let agents = orphan::with_agents(&self.pods, AGENTS);
        let has_agent = |node: &str| agents.contains(node);
        let nodes = self.nodes.values();
        let (due, again) = self.orphans.step(nodes, has_agent, TAINT_KEY, around.orphan_after, local, around.wall);
        let due: Vec<NodeView> = due.into_iter().cloned().collect();
        let retried = (!due.is_empty()).then_some(local + orphan::RETRY);
        for node in due {
            self.orphans.put_off(&node.name, local);
            asks.push(Ask::OpenNode(node.into()));
        }
        again.into_iter().chain(retried).min()
    }
}

fn owners_of<'a>(owners: &'a BTreeMap<Channel, OwnersOfAKind>, none: &'a OwnersOfAKind) -> Owners<'a> {
    let of = |channel| owners.get(&channel).unwrap_or(none);
    Owners {
        replica_sets: of(Channel::ReplicaSets),
        stateful_sets: of(Channel::StatefulSets),
        daemon_sets: of(Channel::DaemonSets),
        replication_controllers: of(Channel::ReplicationControllers),
        jobs: of(Channel::Jobs),
    }
}
