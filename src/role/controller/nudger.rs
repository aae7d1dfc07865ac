//! Asks owners whose creates were refused to try again, once injection is proven.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::repairer::key;
use super::watches::Watched;
use super::{Context, leads, prover, wall};
use crate::cluster::repair;
use crate::decide::Gate;
use crate::decide::nudge::{Nudge, Nudges};
use crate::decide::repair::Outcome;

/// How many are asked for at a time.
const AT_A_TIME: usize = 16;

/// The least pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Nudges for ever.
pub(super) async fn run(
    context: Arc<Context>,
    mut seen: Watched,
    renewed: watch::Receiver<Instant>,
    mut gate: watch::Receiver<Gate>,
    doubt: watch::Sender<Duration>,
) -> Infallible {
    let mut nudges = Nudges::default();
    let mut told = None;
    if !context.settings.nudges {
        return std::future::pending().await;
    }
    loop {
        let now = context.now();
        let free = seen.troubles().is_empty() && seen.closed_by_hand().is_none() && leads(&renewed);
        let proven = prover::proven(&gate.borrow_and_update(), now).filter(|_| free);
        let refusals = seen.refusals().unwrap_or_default();
        let (due, again) = seen.owners(|owners| nudges.step(&owners, &refusals, proven, now)).unwrap_or_default();
        if let Some(at) = nudges.refused_again_at() {
            prover::doubt(&doubt, at);
        }
        context.metrics.nudges_under_way.set(i64::try_from(nudges.under_way()).unwrap_or(i64::MAX));
        context.metrics.nudge_window.set(i64::try_from(nudges.window()).unwrap_or(i64::MAX));
        if !due.is_empty() {
            info!("injection is proven: {} refused owners are asked to try again", due.len());
        }
        for nudge in &due {
            nudges.sent(nudge, &refusals, now);
        }
        let (context_of, renewed_of) = (&context, &renewed);
        let one = |nudge: Nudge| async move {
            if !context_of.acts() {
                return (nudge, None);
            }
            let may = leads(renewed_of);
            let outcome =
                if may { repair::nudge(context_of.client.clone(), &nudge, wall()).await } else { Outcome::Overtaken };
            (nudge, Some(outcome))
        };
        let done: Vec<_> = futures::stream::iter(due).map(one).buffer_unordered(AT_A_TIME).collect().await;
        for (nudge, outcome) in done {
            let Some(outcome) = outcome else {
                context.metrics.nudged("audit");
                continue;
            };
            context.metrics.nudged(key(&outcome));
            if let Outcome::Failed(why) | Outcome::Refused(why) = outcome {
                nudges.failed(&nudge, context.now());
                if told.as_ref() != Some(&why) {
                    warn!("{}/{} could not be nudged: {why}", nudge.namespace, nudge.owner);
                    told = Some(why);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            biased;
            () = seen.refused() => {}
            Ok(()) = gate.changed() => {}
            () = async {
                match again {
                    Some(again) => tokio::time::sleep_until(context.epoch + again).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}
