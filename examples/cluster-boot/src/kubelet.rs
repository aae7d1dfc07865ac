//! A kubelet that runs a pod's init containers in order, as far as this story has any.

use anyhow::{Context as _, Result, bail};
use linkerd_gate_kit::standin::{Proxy, RunningProxy};
use serde_json::Value;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::process::Command;

/// How a container came to its end.
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// What it logged.
    pub said: Vec<String>,
}

/// How long a proxy waits before it asks again for a certificate that it did not get. The genuine one waits up to 10 s, which
/// would only make the picture longer.
const PROXY_RETRY: Duration = Duration::from_millis(400);

/// Starts the proxy of an injected pod and waits until it is certified, as its startup probe makes kubelet do. The proxy is a
/// stand-in that lives as long as what is returned.
pub async fn run_proxy(container: &Value) -> Result<RunningProxy> {
    let variable = |name: &str| {
        let variables = container["env"].as_array().into_iter().flatten();
        let mut named = variables.filter(|variable| variable["name"] == name);
        named.next().and_then(|variable| variable["value"].as_str())
    };
    let identity = variable("LINKERD2_PROXY_IDENTITY_SVC_ADDR").context("the proxy is not told where identity is")?;
    let proxy = Proxy::new(identity, "default.shop.serviceaccount.identity.linkerd.cluster.local")
        .retrying_after(PROXY_RETRY)
        .start()
        .await?;
    proxy.until_certified().await;
    Ok(proxy)
}

/// Runs the gate's init container of a pod: the real program, with the container's arguments and variables and nothing else
/// in its environment.
pub async fn run_gate(program: &Path, container: &Value, pod: &Value) -> Result<Ended> {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.args(container["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("a variable without a name")?;
        let value = match &variable["valueFrom"]["fieldRef"]["fieldPath"] {
            Value::String(path) => field(pod, path)?,
            _ => variable["value"].as_str().unwrap_or("").to_owned(),
        };
        command.env(name, value);
    }
    let output = command.output().await.with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).lines().map(str::to_owned).collect();
    let code = output.status.code().with_context(|| format!("the gate was killed: {}", output.status))?;
    Ok(Ended { code, said })
}

/// The downward API: what a `fieldPath` says of this pod. Labels and annotations that are absent are empty.
fn field(pod: &Value, path: &str) -> Result<String> {
    let entry = |map: &str| path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']");
    let value = if let Some(key) = entry("metadata.labels") {
        &pod["metadata"]["labels"][key]
    } else if let Some(key) = entry("metadata.annotations") {
        &pod["metadata"]["annotations"][key]
    } else {
        match path {
            "metadata.name" => &pod["metadata"]["name"],
            "metadata.namespace" => &pod["metadata"]["namespace"],
            "status.podIP" => &pod["status"]["podIP"],
            "status.hostIP" => &pod["status"]["hostIP"],
            _ => bail!("{path}: a field that this kubelet does not know"),
        }
    };
    Ok(value.as_str().unwrap_or("").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_absent_label_is_an_empty_variable() -> Result<()> {
        let pod = json!({"metadata": {"name": "web", "labels": {"a/b": "c"}}});
        assert_eq!(field(&pod, "metadata.labels['a/b']")?, "c");
        assert_eq!(field(&pod, "metadata.labels['linkerd.io/control-plane-ns']")?, "");
        assert_eq!(field(&pod, "metadata.name")?, "web");
        assert!(field(&pod, "spec.nodeName").is_err());
        Ok(())
    }
}
