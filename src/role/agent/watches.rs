//! What one prover watches. Nobody else does: a thousand agents have two watches each.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::Context;
use crate::cluster::ClientError;
use crate::cluster::essential::{follow_daemon_sets, follow_namespaces, follow_pods};
use crate::cluster::linkerd::{follow_endpoints, follow_webhooks};
use crate::cluster::watch::Seen;
use crate::decide::essential::{DaemonSetView, NamespaceView, PodView};
use crate::linkerd::WebhookView;
use crate::linkerd::endpoints::EndpointsView;
use crate::linkerd::names::service;

/// The Service of the API servers, in namespace `default`.
pub(super) const API_SERVERS: &str = "kubernetes";

/// Everything that one prover watches.
pub(super) struct Watches {
    pub(super) webhooks: watch::Receiver<Seen<MutatingWebhookConfiguration>>,
    pub(super) endpoints: watch::Receiver<Seen<EndpointsView>>,
    pub(super) namespaces: watch::Receiver<Seen<NamespaceView>>,
    pub(super) daemon_sets: watch::Receiver<Seen<DaemonSetView>>,
    /// The pods without a node of each essential namespace.
    pods: BTreeMap<String, (watch::Receiver<Seen<PodView>>, AbortHandle)>,
    /// Woken by every change of `pods`, whose number changes.
    pods_changed: (watch::Sender<()>, watch::Receiver<()>),
    /// Where all of them run. None of them ends by itself, but for a fault of ours.
    tasks: JoinSet<Infallible>,
}

// === impl Watches ===

impl Watches {
    /// Begins to watch what is watched whatever is found.
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
        let pods_changed = watch::channel(());
        Ok(Self { webhooks, endpoints, namespaces, daemon_sets, pods: BTreeMap::new(), pods_changed, tasks })
    }

    /// The injector's webhooks; nothing before they were seen, an error where they cannot be read.
    pub(super) fn webhooks(&self) -> Option<Result<WebhookView, String>> {
        let seen = self.webhooks.borrow();
        let configurations = seen.objects.as_ref()?;
        Some(WebhookView::new(configurations.values()).map_err(|error| error.to_string()))
    }

    /// Follows the pods of exactly these namespaces.
    pub(super) fn follow_pods(&mut self, context: &Context, essential: &BTreeSet<String>) {
        self.pods.retain(|namespace, (_, task)| {
            let stays = essential.contains(namespace);
            if !stays {
                task.abort();
            }
            stays
        });
        for namespace in essential {
            if self.pods.contains_key(namespace) {
                continue;
            }
            let Ok(client) = context.access.watching() else { return };
            let (sink, mut seen) = watch::channel(Seen::default());
            let kept = seen.clone();
            let changed = self.pods_changed.0.clone();
            let name = namespace.clone();
            let task = self.tasks.spawn(async move {
                let following = follow_pods(client, &name, sink);
                let telling = async {
                    while seen.changed().await.is_ok() {
                        let _prover_listens = changed.send(());
                    }
                    std::future::pending::<Infallible>().await
                };
                tokio::select! { never = following => never, never = telling => never }
            });
            self.pods.insert(namespace.clone(), (kept, task));
        }
    }

    /// Every pod without a node in the namespaces that are followed.
    pub(super) fn pods(&self) -> Vec<PodView> {
        self.pods.values().flat_map(|(pods, _)| pods.borrow().iter().cloned().collect::<Vec<_>>()).collect()
    }

    /// Completes when what decides about a proof has been listed once.
    pub(super) async fn listed(&mut self) {
        while !(self.webhooks.borrow().is_known() && self.endpoints.borrow().is_known()) {
            self.changed().await;
        }
    }

    /// Completes when something that is watched has changed.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::select! {
                _ = self.webhooks.changed() => return,
                _ = self.endpoints.changed() => return,
                _ = self.namespaces.changed() => return,
                _ = self.daemon_sets.changed() => return,
                _ = self.pods_changed.1.changed() => return,
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(never) => match never {},
                    // Ended by us: its namespace is essential no longer.
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
            }
        }
    }
}
