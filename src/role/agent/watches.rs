//! What one prover watches. Nobody else does: a thousand agents have two watches each.

use std::collections::BTreeSet;
use std::convert::Infallible;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Context;
use crate::cluster::ClientError;
use crate::cluster::essential::{follow_daemon_sets, follow_namespaces};
use crate::cluster::linkerd::{follow_endpoints, follow_webhooks};
use crate::cluster::watch::Seen;
use crate::decide::essential::{self, DaemonSetView, NamespaceView};
use crate::linkerd::WebhookView;
use crate::linkerd::endpoints::EndpointsView;
use crate::linkerd::names::service;

/// The Service of the API servers, in namespace `default`.
pub(super) const API_SERVERS: &str = "kubernetes";

/// The watches at work. None of them ends by itself, but for a fault of ours.
pub(super) struct Watches {
    pub(super) seen: Watched,
    tasks: JoinSet<Infallible>,
}

/// What they see. A clone has read what the original has read, and goes on by itself.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) webhooks: watch::Receiver<Seen<MutatingWebhookConfiguration>>,
    pub(super) endpoints: watch::Receiver<Seen<EndpointsView>>,
    pub(super) namespaces: watch::Receiver<Seen<NamespaceView>>,
    pub(super) daemon_sets: watch::Receiver<Seen<DaemonSetView>>,
}

// === impl Watches ===

impl Watches {
    pub(super) fn begin(context: &Context) -> Result<Self, ClientError> {
        let client = context.access.watching()?;
        let mut tasks = JoinSet::new();
        let (sink, webhooks) = watch::channel(Seen::default());
        tasks.spawn(follow_webhooks(client.clone(), sink));
        let (sink, endpoints) = watch::channel(Seen::default());
        let services = [service::PROXY_INJECTOR, service::IDENTITY, service::DESTINATION, service::POLICY, API_SERVERS];
        let services = services.map(str::to_owned);
        let following = client.clone();
        tasks.spawn(async move { follow_endpoints(following, &services, sink).await });
        let (sink, namespaces) = watch::channel(Seen::default());
        tasks.spawn(follow_namespaces(client.clone(), sink));
        let (sink, daemon_sets) = watch::channel(Seen::default());
        tasks.spawn(follow_daemon_sets(client, sink));
        Ok(Self { seen: Watched { webhooks, endpoints, namespaces, daemon_sets }, tasks })
    }

    /// Goes on for ever: a watch that panics takes the process with it.
    pub(super) async fn last(mut self) -> Infallible {
        join(&mut self.tasks).await
    }
}

// === impl Watched ===

impl Watched {
    /// The injector's webhooks; nothing before they were seen, an error where they cannot be read.
    pub(super) fn webhooks(&self) -> Option<Result<WebhookView, String>> {
        let seen = self.webhooks.borrow();
        let configurations = seen.objects.as_ref()?;
        Some(WebhookView::new(configurations.values()).map_err(|error| error.to_string()))
    }

    /// The EndpointSlices; nothing before they were listed.
    pub(super) fn slices(&self) -> Option<Vec<EndpointsView>> {
        self.endpoints.borrow().objects.as_ref().map(|slices| slices.values().cloned().collect())
    }

    /// The essential namespaces; nothing while what decides about them is not known.
    pub(super) fn essential(&self, added: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        let webhooks = self.webhooks()?.ok()?;
        let namespaces = self.namespaces.borrow();
        let all = namespaces.objects.as_ref()?;
        Some(essential::namespaces(&webhooks, all.values(), added))
    }

    /// What keeps the watches from seeing, one sentence each.
    pub(super) fn troubles(&self) -> BTreeSet<String> {
        let all = [
            self.webhooks.borrow().trouble.clone(),
            self.endpoints.borrow().trouble.clone(),
            self.namespaces.borrow().trouble.clone(),
            self.daemon_sets.borrow().trouble.clone(),
        ];
        all.into_iter().flatten().collect()
    }

    /// Completes when what decides about a proof has been listed once.
    pub(super) async fn listed(&mut self) {
        while !(self.webhooks.borrow().is_known() && self.endpoints.borrow().is_known()) {
            self.changed().await;
        }
    }

    /// Completes when something that is watched has changed.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.webhooks.changed() => {}
            Ok(()) = self.endpoints.changed() => {}
            Ok(()) = self.namespaces.changed() => {}
            Ok(()) = self.daemon_sets.changed() => {}
            // The watches are gone, and with them the prover.
            else => std::future::pending().await,
        }
    }
}

/// Awaits tasks that do not end: one that panics takes the process with it, one that was aborted is forgotten.
pub(super) async fn join(tasks: &mut JoinSet<Infallible>) -> Infallible {
    loop {
        match tasks.join_next().await {
            Some(Ok(never)) => match never {},
            Some(Err(error)) if error.is_cancelled() => {}
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }
}
