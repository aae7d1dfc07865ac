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
use super::{Context, leads, prover, wall};
use crate::cluster::repair;
use crate::decide::Gate;
use crate::decide::repair::retry::{OwnerRetries, OwnerRetry};
use crate::decide::repair::step::RECHECK;
use crate::decide::repair::{Permit, WriteOutcome};

/// How many are asked for at a time: after each such handful it is looked whether injection is still proven.
const HANDFUL: usize = 16;

/// How long one may take. Unlike its neighbours, so that a reason tells which limit fired.
const ANSWER: Duration = Duration::from_millis(4100);

/// The least pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// How often it is said that owners cannot be retried.
const SAID_AGAIN: Duration = Duration::from_mins(1);

struct OwnerRetrier {
    context: Arc<Context>,
    seen: Watched,
    renewed: watch::Receiver<Instant>,
    gate: watch::Receiver<Gate>,
    reprove: watch::Sender<Duration>,
    retries: OwnerRetries,
    /// When it was said last that they cannot be sent.
    said: Option<Duration>,
    /// Owners of which audit mode has said that they would be retried, by uid.
    audited: BTreeSet<String>,
}

/// Retries for ever.
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
    let (retries, said, audited) = (OwnerRetries::default(), None, BTreeSet::new());
    OwnerRetrier { context, seen, renewed, gate, reprove, retries, said, audited }.run().await
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
                () = self.seen.refused_creates_changed() => {}
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
        let permit = Permit {
            leads: leads(&self.renewed),
            in_sync: self.seen.retry_watch_errors().is_empty(),
            closed: self.seen.close_override().is_some(),
        };
        permit.proven(&self.gate.borrow_and_update(), now)
    }

    /// The owners to retry now, and when to check again at the latest.
    fn step(&mut self) -> (Vec<OwnerRetry>, Option<Duration>) {
        let now = self.context.now();
        let proven = self.proven(now);
        let Some(refusals) = self.seen.refused_creates() else { return (Vec::new(), Some(now + RECHECK)) };
        let retries = &mut self.retries;
        let stepped = self.seen.owners(|owners| retries.step(&owners, &refusals, proven, now));
        if let Some(at) = self.retries.refused_again_at() {
            prover::reprove(&self.reprove, at);
        }
        let metrics = &self.context.metrics;
        metrics.retrying_owners.set(i64::try_from(self.retries.under_way()).unwrap_or(i64::MAX));
        metrics.retry_window_owners.set(i64::try_from(self.retries.window()).unwrap_or(i64::MAX));
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
        for retry in handful {
            self.retries.sent(retry, &refusals, now);
        }
        if !self.context.acts() {
            self.audit(handful);
            return;
        }
        let outcomes = join_all(handful.iter().map(|retry| retry_one(&self.context, retry))).await;
        for (retry, outcome) in handful.iter().zip(outcomes) {
            self.context.metrics.owner_retried(key(&outcome));
            let now = self.context.now();
            match outcome {
                WriteOutcome::Done => {
                    info!(namespace = retry.namespace, owner = %retry.owner, "retried owner whose pods were refused");
                }
                WriteOutcome::Conflict => {
                    debug!(namespace = retry.namespace, owner = %retry.owner, "owner not retried: it is gone");
                }
                WriteOutcome::Failed(why) | WriteOutcome::Refused(why) => {
                    self.retries.failed(retry, now);
                    if self.said.is_none_or(|said| said + SAID_AGAIN <= now) {
                        warn!(
                            namespace = retry.namespace, owner = %retry.owner, error = why,
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
        for retry in handful {
            if self.audited.insert(retry.owner.uid.clone()) {
                self.context.metrics.owner_retried("audit");
                info!(
                    namespace = retry.namespace, owner = %retry.owner,
                    "audit mode: owner whose pods were refused not retried"
                );
            }
        }
    }
}

async fn retry_one(context: &Context, retry: &OwnerRetry) -> WriteOutcome {
    let late = || WriteOutcome::Failed(format!("the API server did not answer in {ANSWER:?}"));
    let sent = repair::retry_owner(context.client.clone(), retry, wall());
    tokio::time::timeout(ANSWER, sent).await.unwrap_or_else(|_| late())
}
