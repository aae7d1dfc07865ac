//! The tender of essential pods: gives those that the scheduler refuses the one toleration that lets them onto closed nodes.
//!
//! It goes on by itself beside the proofs, which may each wait for as long as an API server waits for an injector: what Linkerd
//! needs to come up must not wait for that.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Context;
use super::watches::Watched;
use crate::cluster::essential::{self as pods, Tolerated};
use crate::cluster::watch::Seen;
use crate::config::Mode;
use crate::decide::essential::{self, PodView, Tolerate};
use crate::decide::lease::LEADS_FOR;
use crate::metrics::Written;
use crate::retry::Schedule;
use crate::role::proving::join;

/// How long it rests where nothing has to be tried again.
const REST: Duration = Duration::from_mins(1);

/// One prover's tender.
pub(super) struct Tender {
    context: Arc<Context>,
    seen: Watched,
    /// When the Lease was renewed last: who has not renewed in time does not act.
    renewed: watch::Receiver<Instant>,
    /// The pods without a node of each essential namespace.
    followed: BTreeMap<String, (watch::Receiver<Seen<PodView>>, AbortHandle)>,
    /// Woken by every change of `followed`, whose number changes.
    changed: (watch::Sender<()>, watch::Receiver<()>),
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
    told: Option<String>,
}

// === impl Tender ===

impl Tender {
    pub(super) fn new(context: Arc<Context>, seen: Watched, renewed: watch::Receiver<Instant>) -> Self {
        Self {
            context,
            seen,
            renewed,
            followed: BTreeMap::new(),
            changed: watch::channel(()),
            tasks: JoinSet::new(),
            asked: BTreeMap::new(),
        }
    }

    /// Tends for ever.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let wanting = self.wanting();
            let now = Instant::now();
            let due: Vec<&Tolerate> =
                wanting.iter().filter(|pod| self.asked.get(&pod.uid).is_none_or(|asked| asked.again <= now)).collect();
            // Between two writes a process may have been stopped for any time.
            let leads = self.renewed.borrow().elapsed() < LEADS_FOR;
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
                Ok(()) = self.changed.1.changed() => {}
                () = tokio::time::sleep_until(next) => {}
                never = join(&mut self.tasks) => match never {},
            }
        }
    }

    /// The essential pods that want the toleration.
    fn wanting(&mut self) -> Vec<Tolerate> {
        let settings = &self.context.settings;
        let Some(essential) = self.seen.essential(&settings.essential) else { return Vec::new() };
        if !settings.node_policy.taints {
            return Vec::new();
        }
        let key = settings.node_policy.taint_key.clone();
        self.follow(&essential);
        let pods: Vec<PodView> =
            self.followed.values().flat_map(|(pods, _)| pods.borrow().iter().cloned().collect::<Vec<_>>()).collect();
        let wanting = essential::tolerate(&key, &essential, &pods);
        self.asked.retain(|uid, _| wanting.iter().any(|pod| pod.uid == *uid));
        wanting
    }

    /// Follows the pods of exactly these namespaces.
    fn follow(&mut self, essential: &BTreeSet<String>) {
        self.followed.retain(|namespace, (_, task)| {
            let stays = essential.contains(namespace);
            if !stays {
                task.abort();
            }
            stays
        });
        for namespace in essential {
            if self.followed.contains_key(namespace) {
                continue;
            }
            let Ok(client) = self.context.access.watching() else { return };
            let (sink, mut seen) = watch::channel(Seen::default());
            let kept = seen.clone();
            let changed = self.changed.0.clone();
            let name = namespace.clone();
            let task = self.tasks.spawn(async move {
                let following = pods::follow_pods(client, &name, sink);
                let telling = async {
                    let mut told = None;
                    while seen.changed().await.is_ok() {
                        let trouble = seen.borrow_and_update().trouble.clone();
                        if trouble != told {
                            if let Some(trouble) = &trouble {
                                warn!("{trouble}: essential pods there get no toleration meanwhile");
                            }
                            told = trouble;
                        }
                        let _tender_listens = changed.send(());
                    }
                    std::future::pending::<Infallible>().await
                };
                tokio::select! { never = following => never, never = telling => never }
            });
            self.followed.insert(namespace.clone(), (kept, task));
        }
    }

    /// Writes, or in audit mode does not; nothing is returned then.
    async fn tolerate(&self, pod: &Tolerate) -> Option<Result<Tolerated, String>> {
        if self.context.settings.mode == Mode::Audit {
            return None;
        }
        let key = &self.context.settings.node_policy.taint_key;
        Some(pods::tolerate(self.context.client.clone(), key, pod).await)
    }

    /// Says what became of a pod, once, and when it is tried again: what worked the watch shows in a moment, and what did not is
    /// not given up. A pod of Linkerd's own may be the one that everything waits for.
    fn note(&mut self, pod: &Tolerate, result: Option<Result<Tolerated, String>>) {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let (written, line, loud) = match result {
            None => {
                (Written::Audit, format!("audit: essential pod {name} would get the toleration of our taint"), false)
            }
            Some(Ok(Tolerated::Added)) => {
                let line =
                    format!("essential pod {name} may go to closed nodes now: it got the toleration of our taint");
                (Written::Done, line, false)
            }
            Some(Ok(Tolerated::Overtaken)) => (Written::Conflict, String::new(), false),
            Some(Err(why)) => {
                (Written::Failed, format!("essential pod {name} cannot go to closed nodes yet: {why}"), true)
            }
        };
        let told = self.asked.get(&pod.uid).and_then(|asked| asked.told.clone());
        if written != Written::Audit || told.is_none() {
            self.context.metrics.toleration_given(written);
        }
        if told.as_ref() != Some(&line) && !line.is_empty() {
            if loud {
                warn!("{line}");
            } else {
                info!("{line}");
            }
        }
        let new = || Asked { again: Instant::now(), schedule: Schedule::asking(), told: None };
        let asked = self.asked.entry(pod.uid.clone()).or_insert_with(new);
        asked.again = Instant::now() + asked.schedule.next_pause();
        asked.told = Some(line);
    }
}
