//! What the node reconciler reports of its node: Events, and lines.

use tracing::warn;

use super::super::{Context, wall};
use crate::cluster::event::{self, EventSubject, Reporter};
use crate::decide::Gate;
use crate::decide::node::repair_wait::RepairWait;
use crate::decide::node::taint::{Closed, Edit, NodeChange, NodeState, NodeView, Opened};

/// An Event for whoever describes the node: one for each change that a person would ask about.
pub(super) async fn announce(
    context: &Context,
    node: &NodeView,
    state: &NodeState,
    change: &NodeChange,
    message: &str,
) {
    // A taint's value that is corrected is no news.
    if change.taint == Edit::Keep && !matches!(state, NodeState::Open(_)) {
        return;
    }
    note(context, node, state, message).await;
}

/// What the Event says of a change of the node: where the gate closes it, with the probes that failed, as `/gate` has them.
pub(super) fn of_change(state: &NodeState, gate: &Gate) -> String {
    match (state, gate) {
        (NodeState::Closed { why: Closed::Unproven, .. }, Gate::Closed { why, .. }) => format!("{state}: {why}"),
        (NodeState::Closed { why: Closed::Unproven, .. }, Gate::Settling { .. }) => format!("{state}: {gate}"),
        _ => state.to_string(),
    }
}

/// Whether a state has an Event although nothing was written for it.
pub(super) const fn stands_alone(state: &NodeState) -> bool {
    matches!(
        state,
        NodeState::Closed { why: Closed::AwaitsRepair(RepairWait::Pods(_)), .. } | NodeState::TaintSuppressed(_)
    )
}

/// That Event.
pub(super) async fn announce_alone(context: &Context, node: &NodeView, state: &NodeState) {
    note(context, node, state, &state.to_string()).await;
}

/// An Event where a taint was lifted because nodes are not closed in this mode.
pub(super) async fn announce_lifted(context: &Context, node: &NodeView) {
    let message = "taint removed: no node is closed in audit mode, nor with LINKERD_GATE_TAINT=never";
    send(context, node, false, "GateLeftOpen", message).await;
}

/// What to say of a taint of our key that ends pods.
pub(super) fn ending_taint(key: &str, node: &str) -> String {
    format!(
        "the node has the taint {key}:NoExecute, which ends pods. linkerd-gate sets only {key}:NoSchedule, and may not remove \
         this one: kubectl taint node {node} {key}:NoExecute-"
    )
}

/// The Event of it.
pub(super) async fn announce_ending_taint(context: &Context, node: &NodeView) {
    let message = ending_taint(&context.settings.node_policy.taint_key, &node.name);
    send(context, node, true, "GateForeignTaint", &message).await;
}

async fn note(context: &Context, node: &NodeView, state: &NodeState, message: &str) {
    let reason = match state {
        NodeState::Open(Opened::TooLongClosed) => "GateOpenedUnproven",
        NodeState::Open(Opened::BeforeRepair(_)) => "GateOpenedBeforeRepair",
        NodeState::Open(Opened::Adopted) => "GateAdopted",
        NodeState::Open(_) => "GateOpened",
        NodeState::Closed { why: Closed::AwaitsRepair(_), .. } => "GateAwaitsRepair",
        NodeState::Closed { .. } => "GateClosed",
        NodeState::TaintSuppressed(_) => "GateTaintSuppressed",
        NodeState::Undecided => return,
    };
    send(context, node, state.is_warning(), reason, message).await;
}

async fn send(context: &Context, node: &NodeView, warning: bool, reason: &str, message: &str) {
    let (client, subject) = (context.client.clone(), EventSubject::node(node));
    let reporter = Reporter { instance: &node.name, node: Some(&node.name) };
    if let Err(why) = event::note(client, reporter, &subject, warning, reason, message, wall()).await {
        warn!(error = why, reason_of_event = reason, "Event not written");
    }
}

/// What a change would do, for whoever only watches.
pub(super) fn change(change: &NodeChange) -> String {
    let taint = match change.taint {
        Edit::Keep => None,
        Edit::Set(_) => Some("tainted"),
        Edit::Remove => Some("taint removed"),
    };
    let boot = match change.opened_boot {
        Edit::Keep => None,
        Edit::Set(_) => Some("noted as opened"),
        Edit::Remove => Some("note removed"),
    };
    taint.into_iter().chain(boot).collect::<Vec<_>>().join(", ")
}
