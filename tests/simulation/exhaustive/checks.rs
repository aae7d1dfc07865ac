//! What holds in every state, and a state in words.

use std::time::Duration;

use linkerd_gate_core::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate_core::decide::node::taint::{Edit, NodeChange, NodeState, NodeView, Opened, TAINT_KEY};

use crate::api_server::{LeaseWrite, Truth};
use crate::state::{MAX_CLOSED, State, TICK};

/// For how long a Lease lasts: written down again, so that a change of the program's own is seen.
const LEASE_LASTS: Duration = Duration::from_secs(15);

// === impl State ===

impl State {
    /// No node opens in a boot before something allows it.
    pub fn check_patch(
        &self,
        node: usize,
        me: &LeaseHolder,
        before: &NodeView,
        change: &NodeChange,
        state: &NodeState,
        truth: Truth,
    ) -> Result<(), String> {
        let machine = &self.machines[node];
        let opens = matches!(change.opened_boot, Edit::Set(_)) || change.taint == Edit::Remove;
        if !opens {
            return Ok(());
        }
        let proven = truth.evidence.is_some_and(|evidence| evidence >= machine.lost);
        let closed_for = machine.first_agent.map(|since| (self.now + TICK).saturating_sub(since)).unwrap_or_default();
        let allowed = match state {
            NodeState::Open(Opened::Proven | Opened::BeforeRepair(_)) => proven,
            NodeState::Open(Opened::TooLongClosed) => closed_for >= MAX_CLOSED,
            NodeState::Open(Opened::ThisBoot) => before.opened_boot.as_ref() == Some(&me.incarnation),
            NodeState::Open(Opened::Adopted) => before.opened_boot.is_none(),
            _ => false,
        };
        if allowed {
            return Ok(());
        }
        Err(format!(
            "{me} opens its node as {state:?}: evidence from {:?}, power lost at {:?}, first agent at {:?}",
            truth.evidence, machine.lost, machine.first_agent
        ))
    }

    /// No node stays closed for longer than it may.
    pub fn check_closed(&self) -> Result<(), String> {
        for (node, machine) in self.machines.iter().enumerate() {
            let Some(since) = machine.tainted_since.filter(|_| self.seats[node].is_some() && !self.is_cut(node)) else {
                continue;
            };
            let since = since.max(self.undisturbed[node]);
            if self.now >= since + MAX_CLOSED + TICK * 3 {
                let state = self.seats[node].as_ref().map(|seat| &seat.value.agent.state);
                return Err(format!("node-{node} has been closed since {since:?}, as {state:?}"));
            }
        }
        Ok(())
    }

    /// In words, for a story.
    pub fn describe(&self) -> String {
        let node = |node: usize| {
            let machine = &self.machines[node];
            let view = &self.api.value.nodes[node];
            let taint = view.taint(TAINT_KEY).and_then(|taint| taint.value.clone());
            let gate = self.seats[node].as_ref().map(|seat| seat.value.agent.follower.gate().to_string());
            format!(
                "node-{node} powered {}, taint {taint:?}, opened {:?}, gate {gate:?}",
                machine.powered, view.opened_boot
            )
        };
        let pods: Vec<_> = self.pods.value.iter().flatten().collect();
        let pods: Vec<_> = pods
            .iter()
            .map(|pod| {
                format!("{} meshed {} gated {} on {:?} {:?}", pod.name, pod.meshed, pod.gated, pod.node, pod.reported)
            })
            .collect();
        format!("{}; {}; injector {:?}; {}", node(0), node(1), self.essential, pods.join(", "))
    }
}

/// No agent takes the Lease from a prover that may still be acting, and it is counted when it changes hands.
pub fn check_lease(before: Option<(&LeaseRecord, Duration)>, write: &LeaseWrite, now: Duration) -> Result<(), String> {
    let Some((record, renewed)) = before else { return Ok(()) };
    let Some(former) = record.holder.as_ref().filter(|former| **former != write.holder) else { return Ok(()) };
    let dead = former.name == write.holder.name && former.incarnation != write.holder.incarnation;
    let silent = now.saturating_sub(renewed);
    if !dead && silent < LEASE_LASTS {
        return Err(format!("{} took the Lease from {former}, which had renewed it {silent:?} ago", write.holder));
    }
    if write.transitions != record.transitions + 1 {
        return Err(format!("{} took the Lease from {former} without counting it", write.holder));
    }
    Ok(())
}
