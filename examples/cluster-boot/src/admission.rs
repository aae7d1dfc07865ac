//! Admission: Linkerd's webhook, and the hold policy where it is installed.

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{Namespace, Pod},
};
use linkerd_gate::{
    decide::hold,
    linkerd::{self, TokenProjection, WebhookView},
};
use linkerd_gate_kit::memory_api::{self, Selection, Store};
use linkerd_gate_kit::standin::client::{self, Verdict, WebhookCaller};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Admits pods, through a webhook with `failurePolicy: Ignore`.
pub struct Admission {
    /// Calls the injector.
    pub webhook: WebhookCaller,
    /// Whether the hold policy is installed. Here its rules are the library's; in a cluster they are CEL in the API server, and a
    /// test holds both to one answer.
    pub holds: bool,
}

/// A pod as it was admitted.
pub struct Admitted {
    /// The pod, patched or not.
    pub pod: Value,
    /// Why the injector had no say in it, if it had none. A genuine API server keeps this to its own log.
    pub missed: Option<String>,
    /// Whether it has the scheduling gate of the hold policy.
    pub held: bool,
}

// === impl Admission ===

impl Admission {
    /// What becomes of a pod that is created now.
    ///
    /// # Errors
    /// The webhook denied it: the one answer that `Ignore` does not ignore, and not part of this story.
    pub async fn decide(&self, store: &Store, pod: Value) -> Result<Admitted> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let (mut pod, missed) = match self.webhook.review(&namespace, &pod).await {
            Ok(Verdict::Allowed(operations)) => (client::apply(pod, &operations)?, None),
            Ok(Verdict::Denied(why)) => bail!("the injector denies {}: {why}", pod["metadata"]["name"]),
            Err(error) => (pod, Some(format!("{error:#}"))),
        };
        let held = self.holds && requests_injection_in_vain(store, &namespace, &pod)?;
        if held {
            pod["spec"]["schedulingGates"] = json!([{"name": hold::GATE}]);
        }
        Ok(Admitted { pod, missed, held })
    }
}

#[async_trait]
impl memory_api::Admission for Admission {
    async fn admit(&self, store: &Store, pod: Value) -> Result<Value> {
        Ok(self.decide(store, pod).await?.pod)
    }
}

/// Whether the pod requests a proxy and has none.
fn requests_injection_in_vain(store: &Store, namespace: &str, pod: &Value) -> Result<bool> {
    let namespaces = all::<Namespace>(store, "/api/v1/namespaces")?;
    let found = namespaces.into_iter().find(|found| found.metadata.name.as_deref() == Some(namespace));
    let namespace = found.with_context(|| format!("no namespace {namespace}"))?;
    let configurations: Vec<MutatingWebhookConfiguration> =
        all(store, "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations")?;
    let webhooks = WebhookView::new(&configurations).context("the webhook configuration")?;
    let pod: Pod = serde_json::from_value(pod.clone()).context("the pod")?;
    Ok(linkerd::missed(&pod, &namespace, &webhooks, TokenProjection::Enabled))
}

fn all<K: DeserializeOwned>(store: &Store, collection: &str) -> Result<Vec<K>> {
    let (objects, _) = store.list(&Selection { collection: collection.to_owned(), ..Selection::default() });
    objects.into_iter().map(|object| serde_json::from_value(object).context(collection.to_owned())).collect()
}
