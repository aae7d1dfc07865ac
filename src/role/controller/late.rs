//! Looks up why an owner has not created a pod again after the controller removed one, and reports it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::event_recorder::{EventRecorder, Note, subject_of};
use super::{Context, wall};
use crate::cluster::successor;
use crate::decide::repair::late::{LateReplacement, NotCreated};

/// How many may wait to be looked up. Of an owner that finds no place the next replacement is looked up.
const WAITING: usize = 500;

/// How long one may take. Unlike its neighbours, so that a reason tells which limit fired.
const ANSWER: Duration = Duration::from_millis(6100);

/// The least time from one to the next: an API server reads all Events of a namespace for it.
const PAUSE: Duration = Duration::from_millis(200);

/// How often the same cause is reported of an owner.
const REPORTED_AGAIN: Duration = Duration::from_mins(10);

/// Where late replacements are handed in.
pub(super) type LateSender = mpsc::Sender<LateReplacement>;

/// Those that wait to be looked up.
pub(super) struct LateReplacements {
    waiting: mpsc::Receiver<LateReplacement>,
    /// When it was reported, by the owner's uid and the cause.
    reported: BTreeMap<(String, &'static str), Duration>,
}

pub(super) fn channel() -> (LateSender, LateReplacements) {
    let (sender, waiting) = mpsc::channel(WAITING);
    (sender, LateReplacements { waiting, reported: BTreeMap::new() })
}

// === impl LateReplacements ===

impl LateReplacements {
    /// Looks up for ever.
    pub(super) async fn run(mut self, context: Arc<Context>, recorder: EventRecorder) -> Infallible {
        loop {
            let Some(late) = self.waiting.recv().await else {
                // No sender is left.
                return std::future::pending().await;
            };
            let now = context.now();
            let at = |instant: Duration| wall() - now.saturating_sub(instant);
            let why = look_up(&context, &late, at(late.since), at(late.proven_since)).await;
            self.report(&context, &recorder, &late, &why, context.now());
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn report(
        &mut self,
        context: &Context,
        recorder: &EventRecorder,
        late: &LateReplacement,
        why: &NotCreated,
        now: Duration,
    ) {
        let LateReplacement { namespace, owner, .. } = late;
        self.reported.retain(|_, at| *at + REPORTED_AGAIN > now);
        let cause = why.key();
        let report = (owner.uid.clone(), cause);
        if self.reported.contains_key(&report) {
            debug!(namespace, owner = %owner, cause, "pod still not created again");
            return;
        }
        self.reported.insert(report, now);
        context.metrics.replacement_late(cause);
        match why {
            NotCreated::Refused(refusal) => {
                warn!(error = refusal.words, namespace, owner = %owner, cause, "pod not created again");
            }
            NotCreated::Failed(error) => warn!(error, namespace, owner = %owner, cause, "pod not created again"),
            NotCreated::Unknown => {
                info!(reason = "no Event says why", namespace, owner = %owner, cause, "pod not created again");
            }
        }
        if let (Some(message), Some(subject)) = (why.message(namespace, owner), subject_of(namespace, owner)) {
            recorder.note(|| Note { subject, warning: true, reason: "NotCreatedAgain", message });
        }
    }
}

async fn look_up(context: &Context, late: &LateReplacement, since: Timestamp, proven_since: Timestamp) -> NotCreated {
    let why = successor::not_created(context.client.clone(), &late.namespace, &late.owner, since, proven_since);
    let unanswered = || NotCreated::Failed(format!("the API server did not list the owner's Events in {ANSWER:?}"));
    tokio::time::timeout(ANSWER, why).await.unwrap_or_else(|_| unanswered())
}
