//! Adds our toleration to essential pods that the scheduler refused, so that they run on closed nodes.
//!
//! It goes on by itself beside the proofs, which may each wait for as long as an API server waits for an injector: what Linkerd
//! needs to come up must not wait for that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Context;
use super::watches::Watched;
use crate::cluster::Client;
use crate::cluster::tolerations::{self as pods, Tolerated};
use crate::cluster::watch::Seen;
use crate::config::Mode;
use crate::decide::election::lease_record::RENEW_DEADLINE;
use crate::decide::node::essential;
use crate::decide::node::essential::{AddToleration, UnboundPod};
use crate::decide::node::taint::Tainting;
use crate::metrics::Written;
use crate::retry::Schedule;
use crate::role::readiness::join;

/// How long it rests where nothing has to be tried again.
const REST: Duration = Duration::from_mins(1);

/// Adds tolerations while this agent is the prover.
pub(super) struct TolerationWriter {
    context: Arc<Context>,
    seen: Watched,
    /// When the Lease was renewed last: who has not renewed in time does not act.
    renewed: watch::Receiver<Instant>,
    /// The pods that the scheduler has refused, of all namespaces.
    pods: watch::Receiver<Seen<UnboundPod>>,
    /// What keeps them from being seen, as it was said last.
    trouble: Option<String>,
    tasks: JoinSet<Infallible>,
    /// Pods that were asked for and do not show the toleration yet, by uid.
    asked: BTreeMap<String, Asked>,
}

/// What became of a pod so far.
struct Asked {
    /// Not before then again.
    again: Instant,
    schedule: Schedule,
    /// What was said of it last.
    reported: Option<String>,
}

// === impl TolerationWriter ===

impl TolerationWriter {
    pub(super) fn new(context: Arc<Context>, client: Client, seen: Watched, renewed: watch::Receiver<Instant>) -> Self {
        let (sink, pods) = watch::channel(Seen::default());
        let mut tasks = JoinSet::new();
        if context.settings.node_policy.tainting != Tainting::Never {
            let key = context.settings.node_policy.taint_key.clone();
            tasks.spawn(async move { pods::follow_pods(client, &key, sink).await });
        }
        Self { context, seen, renewed, pods, trouble: None, tasks, asked: BTreeMap::new() }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let wanting = self.wanting();
            let now = Instant::now();
            let due: Vec<&AddToleration> =
                wanting.iter().filter(|pod| self.asked.get(&pod.uid).is_none_or(|asked| asked.again <= now)).collect();
            // Between two writes a process may have been stopped for any time.
            let leads = self.renewed.borrow().elapsed() < RENEW_DEADLINE;
            if leads && !due.is_empty() {
                let results = join_all(due.iter().map(|pod| self.tolerate(pod))).await;
                for (pod, result) in due.into_iter().zip(results) {
                    self.note(pod, result);
                }
            }
            let next = if leads {
                self.asked.values().map(|asked| asked.again).min().unwrap_or(now + REST)
            } else {
                now + Duration::from_secs(1)
            };
            tokio::select! {
                biased;
                () = self.seen.changed() => {}
                Ok(()) = self.pods.changed() => {}
                () = tokio::time::sleep_until(next) => {}
                never = join(&mut self.tasks) => match never {},
            }
        }
    }

    /// The essential pods that want the toleration.
    fn wanting(&mut self) -> Vec<AddToleration> {
        let settings = &self.context.settings;
        let Some(essential) = self.seen.essential(&settings.essential) else { return Vec::new() };
        let seen = self.pods.borrow_and_update().clone();
        if self.trouble != seen.trouble {
            if let Some(trouble) = &seen.trouble {
                warn!(error = trouble, "the watch of essential pods is not in sync: no pod gets the toleration");
            }
            self.trouble.clone_from(&seen.trouble);
        }
        let wanting = essential::missing_tolerations(&settings.node_policy.taint_key, &essential, seen.iter());
        self.asked.retain(|uid, _| wanting.iter().any(|pod| pod.uid == *uid));
        wanting
    }

    /// Writes, or in audit mode does not; nothing is returned then.
    async fn tolerate(&self, pod: &AddToleration) -> Option<Result<Tolerated, String>> {
        if self.context.settings.mode == Mode::Audit {
            return None;
        }
        let key = &self.context.settings.node_policy.taint_key;
        Some(pods::tolerate(self.context.client.clone(), key, pod).await)
    }

    /// Says what became of a pod, once, and when it is tried again: what worked the watch shows in a moment, and what did not is
    /// not given up. A pod of Linkerd's own may be the one that everything waits for.
    fn note(&mut self, pod: &AddToleration, result: Option<Result<Tolerated, String>>) {
        let (namespace, name) = (&pod.namespace, &pod.name);
        let (written, error) = match result {
            None => (Written::Audit, None),
            Some(Ok(Tolerated::Added)) => (Written::Done, None),
            Some(Ok(Tolerated::Conflict)) => (Written::Conflict, None),
            Some(Err(why)) => (Written::Failed, Some(why)),
        };
        let line = error.clone().unwrap_or_else(|| format!("{written:?}"));
        let reported = self.asked.get(&pod.uid).and_then(|asked| asked.reported.clone());
        if written != Written::Audit || reported.is_none() {
            self.context.metrics.toleration_given(written);
        }
        if reported.as_ref() != Some(&line) {
            match written {
                Written::Audit => info!(namespace, pod = name, "audit mode: toleration not added to essential pod"),
                Written::Done => info!(namespace, pod = name, "toleration added to essential pod"),
                Written::Conflict => {}
                Written::Refused | Written::Failed => {
                    warn!(namespace, pod = name, error, "toleration not added to essential pod; retrying");
                }
            }
        }
        let new = || Asked { again: Instant::now(), schedule: Schedule::api_retry(), reported: None };
        let asked = self.asked.entry(pod.uid.clone()).or_insert_with(new);
        asked.again = Instant::now() + asked.schedule.next_pause();
        asked.reported = Some(line);
    }
}
