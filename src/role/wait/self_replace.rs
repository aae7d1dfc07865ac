//! Mode `replace`: when to ask the cluster to replace this pod, and what to say of its answer.

use std::time::Duration;

use tokio::time::Instant;

use super::messages;
use super::status_log::{Level, StatusLog};
use crate::cluster::{self, Replacing};
use crate::config::OwnPod;
use crate::retry::Schedule;

/// The state of a replacement across attempts.
#[derive(Debug)]
pub(super) struct Replacement {
    schedule: Schedule,
    not_before: Instant,
    requested: bool,
}

// === impl Replacement ===

impl Replacement {
    /// No pod replaces itself in its first seconds: should its successors come back bare for a reason that no proof shows,
    /// they must not follow one another in a frenzy. A pod that was held through a boot has long passed that.
    pub(super) fn new() -> Self {
        let not_before = Instant::now() + Schedule::replacing().next_pause();
        Self { schedule: Schedule::asking(), not_before, requested: false }
    }

    /// One attempt, and how long to pause after it. Ends with the pod being deleted; SIGTERM ends the process then.
    pub(super) async fn attempt(&mut self, pod: &OwnPod, log: &mut StatusLog) -> Duration {
        let wait = self.not_before.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            log.state(Level::Info, messages::about_to_replace());
            return wait;
        }
        if !self.requested {
            match replace(pod).await {
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

async fn replace(pod: &OwnPod) -> Result<Replacing, cluster::NotReplaced> {
    // The configuration has all three: `replace` is refused without them.
    let [namespace, name, uid] = [&pod.namespace, &pod.name, &pod.uid].map(|part| part.as_deref().unwrap_or_default());
    cluster::replace(cluster::in_cluster, namespace, name, uid).await
}
