//! What one prover watches. No other agent does: a thousand agents have two watches each, and a third while their node is closed.

use std::collections::BTreeSet;
use std::convert::Infallible;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Client;
use crate::cluster::tolerations::{follow_daemon_sets, follow_namespaces};
use crate::cluster::watch::Seen;
use crate::decide::node::essential;
use crate::decide::node::essential::{DaemonSetView, EssentialNamespace};
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
    pub(super) namespaces: watch::Receiver<Seen<EssentialNamespace>>,
    pub(super) daemon_sets: watch::Receiver<Seen<DaemonSetView>>,
}

// === impl Watches ===

impl Watches {
    pub(super) fn begin(client: Client) -> Self {
        let mut tasks = JoinSet::new();
        let linkerd = readiness::Watched::begin(&client, &mut tasks);
        let (sink, namespaces) = watch::channel(Seen::default());
        tasks.spawn(follow_namespaces(client.clone(), sink));
        let (sink, daemon_sets) = watch::channel(Seen::default());
        tasks.spawn(follow_daemon_sets(client, sink));
        Self { seen: Watched { linkerd, namespaces, daemon_sets }, tasks }
    }

    /// Goes on for ever: a watch that panics takes the process with it.
    pub(super) async fn last(mut self) -> Infallible {
        join(&mut self.tasks).await
    }
}

// === impl Watched ===

impl Watched {
    /// The essential namespaces; nothing while what decides about them is not known.
    pub(super) fn essential(&self, added: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        let webhooks = self.linkerd.webhooks()?.ok()?;
        let namespaces = self.namespaces.borrow();
        let all = namespaces.objects.as_ref()?;
        Some(essential::namespaces(&webhooks, all.values(), added))
    }

    /// What keeps the watches from seeing, one sentence each.
    pub(super) fn troubles(&self) -> BTreeSet<String> {
        let all = [self.namespaces.borrow().trouble.clone(), self.daemon_sets.borrow().trouble.clone()];
        self.linkerd.troubles().into_iter().chain(all.into_iter().flatten()).collect()
    }

    /// Completes when what decides about a proof has been listed once.
    pub(super) async fn listed(&mut self) {
        while !self.linkerd.is_known() {
            self.changed().await;
        }
    }

    /// Completes when something that is watched has changed.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = self.linkerd.changed() => {}
            Ok(()) = self.namespaces.changed() => {}
            Ok(()) = self.daemon_sets.changed() => {}
            // The watches are gone, and with them the prover.
            else => std::future::pending().await,
        }
    }
}
