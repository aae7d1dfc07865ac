//! Opens nodes whose agent is gone, as late as an agent would at the latest: nothing must wait for what no longer lives.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::event_recorder::{EventRecorder, Note};
use super::watches::Watched;
use super::{Context, leads, repair, wall};
use crate::cluster::event::EventSubject;
use crate::cluster::node;
use crate::decide::node::orphan::{self, Orphans, RETRY};
use crate::decide::node::taint::NodeView;
use crate::decide::repair::step::RECHECK;
use crate::decide::repair::{Permit, WriteOutcome};

/// The least pause between two looks: nodes report every few seconds.
const PAUSE: Duration = Duration::from_secs(1);

/// Opens for ever.
pub(super) async fn run(
    context: Arc<Context>,
    mut seen: Watched,
    renewed: watch::Receiver<Instant>,
    recorder: EventRecorder,
) -> Infallible {
    let mut orphans = Orphans::default();
    loop {
        let (due, mut again) = due_nodes(&context, &seen, &renewed, &mut orphans);
        for node in due {
            let now = context.now();
            orphans.put_off(&node.name, now);
            again = Some(again.map_or(now + RETRY, |again| again.min(now + RETRY)));
            open(&context, &node, &recorder).await;
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            biased;
            () = seen.nodes_changed() => {}
            () = async {
                match again {
                    Some(again) => tokio::time::sleep_until(context.epoch + again).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

fn due_nodes(
    context: &Context,
    seen: &Watched,
    renewed: &watch::Receiver<Instant>,
    orphans: &mut Orphans,
) -> (Vec<NodeView>, Option<Duration>) {
    let (nodes, pods) = (seen.nodes.borrow(), seen.pods.borrow());
    let (Some(nodes), Some(pods)) = (&nodes.objects, &pods.objects) else { return (Vec::new(), None) };
    // The override for all nodes holds here too.
    let (leads, in_sync) = (leads(renewed), seen.node_watch_errors().is_empty());
    let permit = Permit { leads, in_sync, closed: seen.close_override().is_some() };
    if !permit.is_free() {
        return (Vec::new(), Some(context.now() + RECHECK));
    }
    let settings = &context.settings;
    let has_agent = orphan::with_agents(pods, &settings.namespace);
    let has_agent = |node: &str| has_agent.contains(node);
    let (key, longest) = (settings.taint_key.as_str(), settings.orphan_after);
    let (due, again) = orphans.step(nodes.values(), has_agent, key, longest, context.now(), wall());
    (due.into_iter().cloned().collect(), again)
}

async fn open(context: &Context, node: &NodeView, recorder: &EventRecorder) {
    let (name, key) = (&node.name, &context.settings.taint_key);
    // In audit mode as well: nothing is closed there, so that a taint of ours was left from before.
    let outcome = node::open_node(context.client.clone(), key, node).await;
    context.metrics.orphan_node_opened(repair::key(&outcome));
    match outcome {
        WriteOutcome::Done => {
            let message = format!(
                "The node was closed and had no agent of linkerd-gate that was ready for {:?}: the controller opened it, without a \
                 proof of injection. Next: kubectl get pods --namespace {} --output wide",
                context.settings.orphan_after, context.settings.namespace
            );
            warn!(node = name, reason = "it was closed and had no ready agent", "opened node");
            let subject = EventSubject::node(node);
            recorder.note(|| Note { subject, warning: true, reason: "GateOpenedOrphanNode", message });
        }
        WriteOutcome::Conflict => {}
        WriteOutcome::Refused(why) | WriteOutcome::Failed(why) => {
            warn!(node = name, error = why, "cannot open a node without an agent");
        }
    }
}
