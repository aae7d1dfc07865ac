//! A kubelet, as far as this story needs one: it runs the proxy of an injected pod.

use anyhow::{Context as _, Result};
use linkerd_gate_kit::standin::{Proxy, RunningProxy};
use serde_json::Value;
use std::time::Duration;

/// How long a proxy waits before it asks again for a certificate that it did not get. The genuine one waits up to 10 s, which
/// would only make the picture longer.
const PROXY_RETRY: Duration = Duration::from_millis(400);

/// Starts the proxy of an injected pod and waits until it is certified, as its startup probe makes kubelet do. The proxy is a
/// stand-in that lives as long as what is returned. A pod without a proxy has none to start.
pub async fn run_proxy(pod: &Value) -> Result<Option<RunningProxy>> {
    let mut containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let Some(container) = containers.find(|container| container["name"] == "linkerd-proxy") else { return Ok(None) };
    let variable = |name: &str| {
        let mut variables = container["env"].as_array().into_iter().flatten();
        variables.find(|variable| variable["name"] == name).and_then(|variable| variable["value"].as_str())
    };
    let identity = variable("LINKERD2_PROXY_IDENTITY_SVC_ADDR").context("the proxy does not know where identity is")?;
    let proxy = Proxy::new(identity, "default.shop.serviceaccount.identity.linkerd.cluster.local")
        .retrying_after(PROXY_RETRY)
        .start()
        .await?;
    proxy.until_certified().await;
    Ok(Some(proxy))
}
