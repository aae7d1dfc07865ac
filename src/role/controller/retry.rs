//! Asks owners whose creates were refused to try again, once injection is proven.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::repair::{MANY, key};
use super::watches::Watched;
use super::{Context, RECHECK, leads, prover, wall};
use crate::cluster::repair;
use crate::decide::Gate;
use crate::decide::repair::WriteOutcome;
use crate::decide::repair::retry::{OwnerRetries, OwnerRetry};

/// How many are asked for at a time: after each such handful it is looked whether injection is still proven.
const HANDFUL: usize = 16;

/// How long one may take. Unlike its neighbours, so that a reason tells which limit fired.
const ANSWER: Duration = Duration::from_millis(4100);

/// The least pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// How often it is said that owners cannot be nudged.
const SAID_AGAIN: Duration = Duration::from_mins(1);

struct OwnerRetrier {
    context: Arc<Context>,
    seen: Watched,
    renewed: watch::Receiver<Instant>,
    gate: watch::Receiver<Gate>,
    reprove: watch::Sender<Duration>,
    nudges: OwnerRetries,
    /// When it was said last that they cannot be sent.
    said: Option<Duration>,
    /// Owners of which audit mode has said that they would be nudged, by uid.
    audited: BTreeSet<String>,
}

/// Nudges for ever.
pub(super) async fn run(
    context: Arc<Context>,
    seen: Watched,
    renewed: watch::Receiver<Instant>,
    gate: watch::Receiver<Gate>,
    reprove: watch::Sender<Duration>,
) -> Infallible {
    if !context.settings.retry_owners {
        return std::future::pending().await;
    }
    let (nudges, said, audited) = (OwnerRetries::default(), None, BTreeSet::new());
    OwnerRetrier { context, seen, renewed, gate, reprove, nudges, said, audited }.run().await
}

// === impl OwnerRetrier ===

impl OwnerRetrier {
    async fn run(mut self) -> Infallible {
        loop {
            let (due, again) = self.step();
            for handful in due.chunks(HANDFUL) {
                // Each time: those before may have taken long, and be refused.
                if self.proven(self.context.now()).is_none() {
                    break;
                }
                self.send(handful).await;
            }
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                biased;
                () = self.seen.refused() => {}
                Ok(()) = self.gate.changed() => {}
                () = async {
                    match again {
                        Some(again) => tokio::time::sleep_until(self.context.epoch + again).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// When the evidence was taken by which owners may be retried now; nothing if none may.
    fn proven(&mut self, now: Duration) -> Option<Duration> {
        let free = self.seen.retry_watch_errors().is_empty() && self.seen.close_override().is_none();
        prover::proven(&self.gate.borrow_and_update(), now).filter(|_| free && leads(&self.renewed))
    }

    /// The owners to retry now, and when to check again at the latest.
    fn step(&mut self) -> (Vec<OwnerRetry>, Option<Duration>) {
        let now = self.context.now();
        let proven = self.proven(now);
        let Some(refusals) = self.seen.refused_creates() else { return (Vec::new(), Some(now + RECHECK)) };
        let nudges = &mut self.nudges;
        let stepped = self.seen.owners(|owners| nudges.step(&owners, &refusals, proven, now));
        if let Some(at) = self.nudges.refused_again_at() {
            prover::reprove(&self.reprove, at);
        }
        let metrics = &self.context.metrics;
        metrics.retrying_owners.set(i64::try_from(self.nudges.under_way()).unwrap_or(i64::MAX));
        metrics.retry_window_owners.set(i64::try_from(self.nudges.window()).unwrap_or(i64::MAX));
        let (due, again) = stepped.unwrap_or_default();
        let again = if proven.is_some() { again } else { Some(now + RECHECK) };
        (due, again)
    }

    async fn send(&mut self, handful: &[OwnerRetry]) {
        if self.audited.len() > MANY {
            // Said once more rather than remembered for ever.
            self.audited.clear();
        }
        let now = self.context.now();
        let refusals = self.seen.refused_creates().unwrap_or_default();
        for nudge in handful {
            self.nudges.sent(nudge, &refusals, now);
        }
        if !self.context.acts() {
            self.audit(handful);
            return;
        }
        let outcomes = join_all(handful.iter().map(|nudge| retry_one(&self.context, nudge))).await;
        for (nudge, outcome) in handful.iter().zip(outcomes) {
            self.context.metrics.nudged(key(&outcome));
            let now = self.context.now();
            match outcome {
                WriteOutcome::Done => {
                    info!(namespace = nudge.namespace, owner = %nudge.owner, "retried owner whose pods were refused");
                }
                WriteOutcome::Conflict => {
                    debug!(namespace = nudge.namespace, owner = %nudge.owner, "owner not retried: it is gone");
                }
                WriteOutcome::Failed(why) | WriteOutcome::Refused(why) => {
                    self.nudges.failed(nudge, now);
                    if self.said.is_none_or(|said| said + SAID_AGAIN <= now) {
                        warn!(
                            namespace = nudge.namespace, owner = %nudge.owner, error = why,
                            "cannot retry refused owners"
                        );
                        self.said = Some(now);
                    }
                }
            }
        }
    }

    /// Says once of each what would be done.
    fn audit(&mut self, handful: &[OwnerRetry]) {
        for nudge in handful {
            if self.audited.insert(nudge.owner.uid.clone()) {
                self.context.metrics.nudged("audit");
                info!(
                    namespace = nudge.namespace, owner = %nudge.owner,
                    "audit mode: owner whose pods were refused not retried"
                );
            }
        }
    }
}

async fn retry_one(context: &Context, nudge: &OwnerRetry) -> WriteOutcome {
    let late = || WriteOutcome::Failed(format!("the API server did not answer in {ANSWER:?}"));
    let sent = repair::nudge(context.client.clone(), nudge, wall());
    tokio::time::timeout(ANSWER, sent).await.unwrap_or_else(|_| late())
}
