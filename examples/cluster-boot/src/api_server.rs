//! An API server that plays admission, and nothing else of an API server.

use anyhow::{Result, bail};
use linkerd_gate_kit::standin::client::{self, Verdict, WebhookCaller};
use serde_json::Value;

/// Admits pods, through a webhook with `failurePolicy: Ignore`.
pub struct ApiServer {
    namespace: &'static str,
    webhook: WebhookCaller,
}

/// A pod as it was admitted.
pub struct Admitted {
    /// The pod, patched or not.
    pub pod: Value,
    /// Why the injector had no say in it, if it had none. A genuine API server keeps this to its own log.
    pub missed: Option<String>,
}

// === impl ApiServer ===

impl ApiServer {
    /// Creates pods in one namespace.
    pub fn new(namespace: &'static str, webhook: WebhookCaller) -> Self {
        Self { namespace, webhook }
    }

    /// Creates a pod.
    ///
    /// # Errors
    /// The webhook denied it: the one answer that `Ignore` does not ignore, and not part of this story.
    pub async fn create(&self, pod: &Value) -> Result<Admitted> {
        match self.webhook.review(self.namespace, pod).await {
            Ok(Verdict::Allowed(operations)) => {
                Ok(Admitted { pod: client::apply(pod.clone(), &operations)?, missed: None })
            }
            Ok(Verdict::Denied(why)) => bail!("the injector denies {}: {why}", pod["metadata"]["name"]),
            Err(error) => Ok(Admitted { pod: pod.clone(), missed: Some(format!("{error:#}")) }),
        }
    }
}
