//! Mode `replace`: when to ask the cluster to replace this pod, and what to say of its answer.

use std::time::Duration;

use tokio::time::Instant;

use super::messages;
use super::status_log::{Level, StatusLog};
use crate::cluster::Replacing;
use crate::config::OwnPod;
use crate::retry::Schedule;

/// Deletes the pod that `wait` runs in, once it is proven that its successor would be injected.
///
/// A parameter of `wait`, because it is the one thing that needs a Kubernetes client: the waiting program has none.
pub trait Replacer {
    /// One attempt.
    ///
    /// # Errors
    /// Why nothing was deleted, as a clause.
    fn replace(&self, pod: &OwnPod) -> impl Future<Output = Result<Replacing, String>>;
}

/// The state of a replacement across attempts.
#[derive(Debug)]
pub(super) struct Replacement<R> {
    replacer: R,
    schedule: Schedule,
    not_before: Instant,
    requested: bool,
}

// === impl Replacement ===

impl<R: Replacer> Replacement<R> {
    /// No pod replaces itself in its first seconds: should its successors come back bare for a reason that no proof shows,
    /// they must not follow one another in a frenzy. A pod that was held through a boot has long passed that.
    pub(super) fn new(replacer: R) -> Self {
        let not_before = Instant::now() + Schedule::self_replacement().next_pause();
        Self { replacer, schedule: Schedule::api_retry(), not_before, requested: false }
    }

    /// One attempt, and how long to pause after it. Ends with the pod being deleted; SIGTERM ends the process then.
    pub(super) async fn attempt(&mut self, pod: &OwnPod, log: &mut StatusLog) -> Duration {
        let wait = self.not_before.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            log.state(Level::Info, messages::about_to_replace());
            return wait;
        }
        if !self.requested {
            match self.replacer.replace(pod).await {
                Ok(Replacing::Deleted) => {
                    self.requested = true;
                    log.state(Level::Warn, messages::replaced());
                }
                Ok(Replacing::AlreadyGoing) => {
                    self.requested = true;
                    log.state(Level::Info, messages::already_going());
                }
                Err(why) => log.state(Level::Warn, messages::not_replaced(pod, &why)),
            }
        }
        self.schedule.next_pause()
    }
}
