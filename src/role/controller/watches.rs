//! What the controller watches that leads.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Context, wall};
use crate::cluster::watch::Seen;
use crate::cluster::{ClientError, lease, node, workloads};
use crate::decide::ProbeResult;
use crate::decide::election::lease_record::{LeaseRecord, PROVER_LEASE};
use crate::decide::manual_override::ManualOverride;
use crate::decide::node::taint::NodeView;
use crate::decide::repair::retry::{RefusedCreate, RefusedCreates};
use crate::decide::repair::{ClusterOverride, NamespaceView, OwnerView, Owners, PodView, Snapshot};
use crate::role::readiness::{self, join};

/// The watches at work. None of them ends by itself, but for a fault of ours.
pub(super) struct Watches {
    pub(super) seen: Watched,
    tasks: JoinSet<Infallible>,
}

/// What they see. A clone has read what the original has read, and goes on by itself.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) linkerd: readiness::Watched,
    pub(super) pods: watch::Receiver<Seen<PodView>>,
    /// The owners whose pods are awaited, by uid.
    awaited: watch::Sender<BTreeSet<String>>,
    namespaces: watch::Receiver<Seen<NamespaceView>>,
    owners: OwnersWatched,
    refusals: watch::Receiver<Seen<RefusedCreate>>,
    pub(super) nodes: watch::Receiver<Seen<NodeView>>,
    /// The agents' Lease, for the manual override.
    agents: watch::Receiver<Seen<LeaseRecord>>,
}

/// What makes pods.
#[derive(Clone)]
pub(super) struct OwnersWatched {
    replica_sets: watch::Receiver<Seen<OwnerView>>,
    stateful_sets: watch::Receiver<Seen<OwnerView>>,
    daemon_sets: watch::Receiver<Seen<OwnerView>>,
    replication_controllers: watch::Receiver<Seen<OwnerView>>,
    jobs: watch::Receiver<Seen<OwnerView>>,
}

// === impl Watches ===

impl Watches {
    pub(super) fn begin(context: &Context) -> Result<Self, ClientError> {
        /// Begins one watch.
        macro_rules! follow {
            ($tasks:ident, $client:ident, $follow:path) => {{
                let (sink, seen) = watch::channel(Seen::default());
                $tasks.spawn($follow($client.clone(), sink));
                seen
            }};
        }
        let client = context.access.watching()?;
        let mut tasks = JoinSet::new();
        let linkerd = readiness::Watched::begin(&client, &mut tasks);
        // Before pods, so that an owner is mostly there when its pods come.
        let owners = OwnersWatched {
            replica_sets: follow!(tasks, client, workloads::follow_replica_sets),
            stateful_sets: follow!(tasks, client, workloads::follow_stateful_sets),
            daemon_sets: follow!(tasks, client, workloads::follow_daemon_sets),
            replication_controllers: follow!(tasks, client, workloads::follow_replication_controllers),
            jobs: follow!(tasks, client, workloads::follow_jobs),
        };
        let namespaces = follow!(tasks, client, workloads::follow_namespaces);
        let (awaited, receiver) = watch::channel(BTreeSet::new());
        let (sink, pods) = watch::channel(Seen::default());
        tasks.spawn(workloads::follow_pods(client.clone(), receiver, sink));
        let refusals = follow!(tasks, client, workloads::follow_refusals);
        let (sink, nodes) = watch::channel(Seen::default());
        let key = context.settings.taint_key.clone();
        let nodes_client = client.clone();
        tasks.spawn(async move { node::follow_nodes(nodes_client, &key, sink).await });
        let (sink, agents) = watch::channel(Seen::default());
        let (lease_client, namespace) = (context.access.watching_the_lease()?, context.settings.namespace.clone());
        tasks.spawn(async move { lease::follow_lease(lease_client, &namespace, PROVER_LEASE, sink).await });
        Ok(Self { seen: Watched { linkerd, pods, awaited, namespaces, owners, refusals, nodes, agents }, tasks })
    }

    /// Goes on for ever: a watch that panics takes the process with it.
    pub(super) async fn last(mut self) -> Infallible {
        join(&mut self.tasks).await
    }
}

// === impl Watched ===

impl Watched {
    /// What is seen now, for as long as `look` runs; nothing before all of it was listed, or where the webhook cannot be read.
    pub(super) fn snapshot<T>(
        &self,
        context: &Context,
        proven: Option<Duration>,
        look: impl FnOnce(&Snapshot<'_>) -> T,
    ) -> Option<T> {
        let webhooks = self.linkerd.webhooks()?.ok()?;
        let (pods, namespaces) = (self.pods.borrow(), self.namespaces.borrow());
        let others = pods.hidden;
        let (pods, namespaces) = (pods.objects.as_deref()?, namespaces.objects.as_deref()?);
        self.owners.with_owners(|owners| {
            let (projection, wall) = (context.settings.projection, wall());
            let manual = self
                .manual_override()
                .map(|word| if word.open { ClusterOverride::Open } else { ClusterOverride::Closed });
            look(&Snapshot { pods, others, namespaces, owners, webhooks: &webhooks, projection, proven, manual, wall })
        })
    }

    /// What makes pods, likewise.
    pub(super) fn owners<T>(&self, look: impl FnOnce(Owners<'_>) -> T) -> Option<T> {
        self.owners.with_owners(look)
    }

    /// What keeps repair from seeing, one sentence each: whoever sees old things does not act.
    pub(super) fn repair_watch_errors(&self) -> BTreeSet<String> {
        let own = [trouble(&self.pods), trouble(&self.namespaces), trouble(&self.agents)];
        let unreadable = self.linkerd.webhooks().and_then(Result::err);
        let own = own.into_iter().flatten().chain(unreadable).chain(self.linkerd.troubles());
        own.chain(self.owners.troubles()).collect()
    }

    /// The same of retries.
    pub(super) fn retry_watch_errors(&self) -> BTreeSet<String> {
        let own = [trouble(&self.refusals), trouble(&self.agents)].into_iter().flatten();
        own.chain(self.linkerd.troubles()).chain(self.owners.troubles()).collect()
    }

    /// The same of opening nodes, which must not wait for Linkerd.
    pub(super) fn node_watch_errors(&self) -> BTreeSet<String> {
        [trouble(&self.pods), trouble(&self.nodes), trouble(&self.agents)].into_iter().flatten().collect()
    }

    /// Whether everything that this role follows is seen, and what keeps from it.
    pub(super) fn readiness(&self) -> ProbeResult {
        let listed = self.linkerd.is_known()
            && self.pods.borrow().is_known()
            && self.namespaces.borrow().is_known()
            && self.nodes.borrow().is_known()
            && self.refusals.borrow().is_known()
            && self.agents.borrow().is_known()
            && self.owners.with_owners(|_| ()).is_some();
        let mut troubles = self.repair_watch_errors();
        troubles.extend(self.retry_watch_errors());
        troubles.extend(self.node_watch_errors());
        match troubles.into_iter().next() {
            Some(trouble) => ProbeResult::unknown(trouble),
            None if !listed => ProbeResult::unknown("not everything has been listed yet"),
            None => ProbeResult::Ready,
        }
    }

    /// The override that closes everything: no pod is replaced then.
    pub(super) fn close_override(&self) -> Option<ManualOverride> {
        self.manual_override().filter(|word| !word.open)
    }

    /// What a person said for the whole cluster, where that is in force.
    pub(super) fn manual_override(&self) -> Option<ManualOverride> {
        let agents = self.agents.borrow();
        let word = agents.only().and_then(|record| record.manual_override.as_deref());
        ManualOverride::in_force(word, wall()).ok().flatten()
    }

    /// Whether the injector's configurations are seen as they are now.
    pub(super) fn sees_webhooks(&self) -> bool {
        let webhooks = self.linkerd.webhooks.borrow();
        webhooks.is_known() && webhooks.trouble.is_none()
    }

    /// Says whose pods are awaited: all of them are seen from then on, whatever they are.
    pub(super) fn await_pods_of(&self, owners: BTreeSet<String>) {
        self.awaited.send_if_modified(|before| {
            let news = *before != owners;
            *before = owners;
            news
        });
    }

    /// The refusals; of several of one owner, the latest.
    pub(super) fn refused_creates(&self) -> Option<RefusedCreates> {
        let refusals = self.refusals.borrow();
        Some(refusals.objects.as_deref()?.values().cloned().collect())
    }

    /// Completes when something has changed that decides about repair.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.pods.changed() => {}
            Ok(()) = self.namespaces.changed() => {}
            () = self.owners.changed() => {}
            () = self.linkerd.changed() => {}
            Ok(()) = self.agents.changed() => {}
            // The watches are gone, and with them the controller.
            else => std::future::pending().await,
        }
    }

    /// Completes when something has changed that decides about nodes.
    pub(super) async fn nodes_changed(&mut self) {
        tokio::select! {
            Ok(()) = self.nodes.changed() => {}
            Ok(()) = self.pods.changed() => {}
            Ok(()) = self.agents.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Completes when something has changed that decides about retries.
    pub(super) async fn refused_creates_changed(&mut self) {
        tokio::select! {
            Ok(()) = self.refusals.changed() => {}
            () = self.owners.changed() => {}
            else => std::future::pending().await,
        }
    }
}

// === impl OwnersWatched ===

impl OwnersWatched {
    fn with_owners<T>(&self, look: impl FnOnce(Owners<'_>) -> T) -> Option<T> {
        let (sets, stateful) = (self.replica_sets.borrow(), self.stateful_sets.borrow());
        let (daemons, controllers) = (self.daemon_sets.borrow(), self.replication_controllers.borrow());
        let jobs = self.jobs.borrow();
        Some(look(Owners {
            replica_sets: sets.objects.as_deref()?,
            stateful_sets: stateful.objects.as_deref()?,
            daemon_sets: daemons.objects.as_deref()?,
            replication_controllers: controllers.objects.as_deref()?,
            jobs: jobs.objects.as_deref()?,
        }))
    }

    fn troubles(&self) -> impl Iterator<Item = String> {
        let all = [
            trouble(&self.replica_sets),
            trouble(&self.stateful_sets),
            trouble(&self.daemon_sets),
            trouble(&self.replication_controllers),
            trouble(&self.jobs),
        ];
        all.into_iter().flatten()
    }

    async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.replica_sets.changed() => {}
            Ok(()) = self.stateful_sets.changed() => {}
            Ok(()) = self.daemon_sets.changed() => {}
            Ok(()) = self.replication_controllers.changed() => {}
            Ok(()) = self.jobs.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// What keeps a watch from seeing.
fn trouble<V>(seen: &watch::Receiver<Seen<V>>) -> Option<String> {
    seen.borrow().trouble.clone()
}
