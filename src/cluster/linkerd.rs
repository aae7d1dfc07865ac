//! Linkerd's own objects, and where the API servers are.

use std::convert::Infallible;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::sync::watch;

use super::watch::{Seen, follow};
use crate::linkerd::endpoints::EndpointsView;
use crate::linkerd::names::{component, label};

/// The label that says which Service an EndpointSlice belongs to
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetesioservice-name>).
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Follows the injector's webhook configurations, for ever.
pub async fn follow_webhooks(client: Client, sink: watch::Sender<Seen<MutatingWebhookConfiguration>>) -> Infallible {
    let config =
        watcher::Config::default().labels(&format!("{}={}", label::CONTROL_PLANE_COMPONENT, component::PROXY_INJECTOR));
    let webhooks = Api::<MutatingWebhookConfiguration>::all(client);
    follow("mutatingwebhookconfigurations", webhooks, config, Clone::clone, sink).await
}

/// Follows the EndpointSlices of Services of these names in every namespace, for ever: one watch for all of them.
pub async fn follow_endpoints(
    client: Client,
    services: &[String],
    sink: watch::Sender<Seen<EndpointsView>>,
) -> Infallible {
    let config = watcher::Config::default().labels(&format!("{SERVICE_NAME} in ({})", services.join(",")));
    follow("endpointslices", Api::<EndpointSlice>::all(client), config, EndpointsView::of, sink).await
}
