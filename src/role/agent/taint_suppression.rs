//! Finds the nodes that lack a pod of an essential DaemonSet because of our taint: they yield until they have it.
//!
//! Nodes and DaemonSets' pods are watched only while there is such a DaemonSet. Where all essential DaemonSets tolerate the taint, as most do,
//! none of this costs anything.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use super::Context;
use super::watches::Watched;
use crate::cluster::Client;
use crate::cluster::tolerations::{follow_daemon_pods, follow_places};
use crate::cluster::watch::Seen;
use crate::decide::election::published_verdict::TaintSuppressions;
use crate::decide::node::essential;
use crate::decide::node::essential::DaemonPodView;
use crate::decide::node::placement::NodePlace;
use crate::decide::node::taint::Tainting;
use crate::role::readiness::join;

/// One prover's.
pub(super) struct TaintSuppressor {
    context: Arc<Context>,
    client: Client,
    seen: Watched,
    nodes: Option<Followed<NodePlace>>,
    /// Of each namespace with such a DaemonSet.
    pods: BTreeMap<String, Followed<DaemonPodView>>,
    tasks: JoinSet<Infallible>,
    found: watch::Sender<TaintSuppressions>,
    /// What was said last: which DaemonSets, and what keeps the watches from seeing.
    reported: (BTreeSet<String>, BTreeSet<String>),
}

/// A watch that is ended when it is not wanted any more.
struct Followed<V> {
    seen: watch::Receiver<Seen<V>>,
    task: AbortHandle,
}

// === impl TaintSuppressor ===

impl TaintSuppressor {
    /// Goes on from what was published last, in `found`.
    pub(super) fn new(
        context: Arc<Context>,
        client: Client,
        seen: Watched,
        found: watch::Sender<TaintSuppressions>,
    ) -> Self {
        Self {
            context,
            client,
            seen,
            nodes: None,
            pods: BTreeMap::new(),
            tasks: JoinSet::new(),
            found,
            reported: Default::default(),
        }
    }

    /// Looks for ever.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            if let Some(suppressions) = self.suppressions() {
                self.context
                    .metrics
                    .taint_suppressing_daemonsets
                    .set(i64::try_from(suppressions.len()).unwrap_or(i64::MAX));
                self.log_changes(&suppressions);
                self.found.send_if_modified(|current| {
                    let news = *current != suppressions;
                    *current = suppressions;
                    news
                });
            }
            let followed = async {
                let nodes = self.nodes.iter_mut().map(|followed| Box::pin(followed.changed()) as Changed<'_>);
                let pods = self.pods.values_mut().map(|followed| Box::pin(followed.changed()) as Changed<'_>);
                let all: Vec<_> = nodes.chain(pods).collect();
                if all.is_empty() {
                    std::future::pending::<()>().await;
                }
                futures::future::select_all(all).await;
            };
            tokio::select! {
                biased;
                () = self.seen.changed() => {}
                () = followed => {}
                never = join(&mut self.tasks) => match never {},
            }
        }
    }

    /// Which nodes yield to what; nothing while that cannot be known.
    fn suppressions(&mut self) -> Option<TaintSuppressions> {
        let settings = &self.context.settings;
        if settings.node_policy.tainting == Tainting::Never {
            return Some(TaintSuppressions::new());
        }
        let key = settings.node_policy.taint_key.clone();
        let essential = self.seen.essential(&settings.essential)?;
        let daemon_sets = self.seen.daemon_sets.borrow().objects.clone()?;
        let sets = essential::intolerant(&key, &essential, &settings.ignored_daemon_sets, daemon_sets.values());
        self.follow(&sets.iter().map(|set| set.namespace.clone()).collect());
        if sets.is_empty() {
            return Some(TaintSuppressions::new());
        }
        let nodes = self.nodes.as_ref()?.seen.borrow().objects.clone()?;
        let pods: Option<Vec<_>> = self.pods.values().map(|followed| followed.seen.borrow().objects.clone()).collect();
        let pods = pods?;
        let pods = pods.iter().flat_map(|objects| objects.values());
        Some(essential::suppressions(&key, &sets, nodes.values(), pods, &self.found.borrow()))
    }

    /// Follows nodes, and the DaemonSets' pods of exactly these namespaces.
    fn follow(&mut self, namespaces: &BTreeSet<String>) {
        if namespaces.is_empty() {
            self.nodes = None;
        } else if self.nodes.is_none() {
            let (sink, seen) = watch::channel(Seen::default());
            let task = self.tasks.spawn(follow_places(self.client.clone(), sink));
            self.nodes = Some(Followed { seen, task });
        }
        self.pods.retain(|namespace, _| namespaces.contains(namespace));
        for namespace in namespaces {
            if self.pods.contains_key(namespace) {
                continue;
            }
            let (sink, seen) = watch::channel(Seen::default());
            let (client, name) = (self.client.clone(), namespace.clone());
            let task = self.tasks.spawn(async move { follow_daemon_pods(client, &name, sink).await });
            self.pods.insert(namespace.clone(), Followed { seen, task });
        }
    }

    /// Says which DaemonSets nodes yield to, and what keeps the watches from seeing, each once.
    fn log_changes(&mut self, suppressions: &TaintSuppressions) {
        let sets: BTreeSet<String> = suppressions.keys().cloned().collect();
        for set in sets.difference(&self.reported.0) {
            let nodes = suppressions.get(set).map_or(0, BTreeSet::len);
            warn!(
                daemon_set = %set, nodes,
                "taint suppressed: a DaemonSet does not tolerate it; add the toleration to its pods, or list it in \
                 LINKERD_GATE_IGNORED_DAEMON_SETS"
            );
        }
        for set in self.reported.0.difference(&sets) {
            info!(daemon_set = %set, "taint no longer suppressed");
        }
        let nodes = self.nodes.iter().filter_map(|followed| followed.seen.borrow().trouble.clone());
        let pods = self.pods.values().filter_map(|followed| followed.seen.borrow().trouble.clone());
        let troubles: BTreeSet<String> = nodes.chain(pods).collect();
        for trouble in troubles.difference(&self.reported.1) {
            warn!(
                error = trouble,
                "the watches of nodes and DaemonSet pods are not in sync: the suppressed nodes may be outdated"
            );
        }
        self.reported = (sets, troubles);
    }
}

/// Completes when a watch shows something else.
type Changed<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

// === impl Followed ===

impl<V> Followed<V> {
    async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // Its task has ended, which ends the process.
            std::future::pending::<()>().await;
        }
    }
}

impl<V> Drop for Followed<V> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
