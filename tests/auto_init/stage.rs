//! A control plane with the policy in it, an injector, and words for what became of a pod.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, Request};
use kube::Client;
use linkerd_gate_kit::cluster::{Api as Cluster, LoopbackAddress};
use linkerd_gate_kit::object::{Namespace, namespace, pod, webhook_configuration};
use linkerd_gate_kit::standin::{Certificates, Injector, Namespaces, Sidecar, Standin};
use serde_json::{Value, json};

/// How long anything here may take that is awaited.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Where webhook configurations are.
pub const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// Where the kind of our policy is.
pub const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";

/// The name of the policy and of its binding.
pub const NAME: &str = "linkerd-gate-init";

/// A namespace that asks.
pub const SHOP: &str = "shop";

/// A control plane in which the policy was applied. Linkerd is not installed yet, but its injector is there to be called.
pub struct Stage {
    /// The control plane.
    pub cluster: Cluster,
    /// The injector.
    pub injector: Standin,
    /// What the injector knows of namespaces.
    pub known: Namespaces,
    certificates: Certificates,
    _address: LoopbackAddress,
}

/// The manifest under test.
pub fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests/optional/60-auto-init.yaml")
}

/// The policy as the manifest has it.
pub fn policy() -> Result<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(manifest())?)?;
    documents.into_iter().find(|document| document["kind"] == "MutatingAdmissionPolicy").context("no policy")
}

/// The policy with other values: pairs of a variable's name and its expression.
pub fn policy_with(values: &[(&str, &str)]) -> Result<Value> {
    let mut policy = policy()?;
    let variables = policy["spec"]["variables"].as_array_mut().context("no variables")?;
    for (name, expression) in values {
        let value = variables.iter_mut().find(|variable| variable["name"] == *name);
        value.with_context(|| format!("there is no value {name}"))?["expression"] = (*expression).into();
    }
    Ok(policy)
}

/// The containers of that field of a pod, by name.
pub fn names<'a>(pod: &'a Value, field: &str) -> Vec<&'a str> {
    let containers = pod["spec"][field].as_array().into_iter().flatten();
    containers.map(|container| container["name"].as_str().unwrap_or_default()).collect()
}

/// The entry of `wait` in a pod.
pub fn entry(pod: &Value) -> Option<&Value> {
    pod["spec"]["initContainers"].as_array()?.iter().find(|container| container["name"] == "linkerd-gate")
}

/// The value of one of the entry's variables.
pub fn variable<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let variables = entry(pod)?["env"].as_array()?;
    variables.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}

// === impl Stage ===

impl Stage {
    /// The stage: the manifest applied, and [`SHOP`].
    pub async fn set() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let address = LoopbackAddress::claim()?;
        let certificates = Certificates::for_injector("linkerd")?;
        let known = Namespaces::any();
        let injector = Injector::new(certificates.clone(), &known, Sidecar::genuine("linkerd"))
            .serving_on((address.ip(), 443).into())
            .start()
            .await?;
        let at = address.ip();
        let stage = Self { cluster, injector, known, certificates, _address: address };
        // As a plain installation by Helm leaves it: nothing on the namespace says what it is.
        stage.make(namespace("linkerd")).await?;
        stage.cluster.expose("linkerd", "linkerd-proxy-injector", at, &[(443, 443)]).await?;
        stage.make(namespace(SHOP).asking()).await?;
        stage.apply_the_manifest().await?;
        Ok(stage)
    }

    /// A namespace, of which the injector knows too.
    pub async fn make(&self, namespace: Namespace) -> Result<()> {
        let namespace = namespace.json();
        let annotations = namespace["metadata"]["annotations"].as_object();
        for (key, value) in annotations.into_iter().flatten() {
            let name = namespace["metadata"]["name"].as_str().context("a namespace without a name")?;
            self.known.annotate(name, key, value.as_str().context("an annotation that is no text")?);
        }
        self.cluster.create_namespace(&serde_json::from_value(namespace)?).await?;
        Ok(())
    }

    /// `kubectl apply` of the file as it is, as strictly as the API server can look at it.
    async fn apply_the_manifest(&self) -> Result<()> {
        let output = tokio::process::Command::new(self.cluster.kubectl())
            .args(["apply", "--validate=strict", "--filename"])
            .arg(manifest())
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // What the API server finds doubtful in an expression it says as a warning.
        ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Installs the chart's webhook configuration, and waits until the policy goes by it.
    pub async fn install_linkerd(&self) -> Result<()> {
        let configuration = webhook_configuration("linkerd").ca_bundle(self.certificates.ca_bundle()).json();
        self.send(Method::POST, WEBHOOKS, &configuration).await?;
        self.until("the entry is added", &in_shop("canary"), |pod| entry(pod).is_some()).await?;
        Ok(())
    }

    /// Gives the policy other values.
    pub async fn set_values(&self, values: &[(&str, &str)]) -> Result<()> {
        let variables = policy_with(values)?["spec"]["variables"].take();
        self.merge(&format!("{POLICIES}/{NAME}"), &json!({"spec": {"variables": variables}})).await
    }

    /// The pod as the API server would store it.
    pub async fn admit(&self, pod: &Value) -> Result<Value> {
        admit(&self.cluster.client().await?, pod).await
    }

    /// Tries a pod until it is admitted in a way that satisfies the condition: what the API server admits by reaches it a moment
    /// after it was written.
    pub async fn until(&self, what: &str, pod: &Value, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        until(&self.cluster.client().await?, what, pod, condition).await
    }

    /// Tries a pod until it is refused with these words, and returns the whole refusal.
    pub async fn until_refused(&self, pod: &Value, words: &str) -> Result<String> {
        let client = self.cluster.client().await?;
        let refused = async {
            loop {
                if let Err(error) = admit(&client, pod).await {
                    let said = format!("{error:#}");
                    if said.contains(words) {
                        return said;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.with_context(|| format!("it is not refused: {words}"))
    }

    /// One request with a body of JSON.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        send(&self.cluster.client().await?, method, path, "application/json", body).await
    }

    /// One merge patch.
    pub async fn merge(&self, path: &str, body: &Value) -> Result<()> {
        send(&self.cluster.client().await?, Method::PATCH, path, "application/merge-patch+json", body).await?;
        Ok(())
    }
}

/// A pod of the shop's.
pub fn in_shop(name: &str) -> Value {
    pod(name).in_namespace(SHOP).json()
}

/// The pod as the API server would store it: a dry-run goes the whole way of admission.
pub async fn admit(client: &Client, pod: &Value) -> Result<Value> {
    let namespace = pod["metadata"]["namespace"].as_str().context("a pod without a namespace")?;
    let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
    send(client, Method::POST, &path, "application/json", pod).await
}

/// As [`Stage::until`].
pub async fn until(client: &Client, what: &str, pod: &Value, condition: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = String::new();
    let satisfied = async {
        loop {
            match admit(client, pod).await {
                Ok(admitted) if condition(&admitted) => return admitted,
                Ok(admitted) => last = format!("{:#}", admitted["spec"]["initContainers"]),
                Err(error) => last = format!("{error:#}"),
            }
        }
    };
    match tokio::time::timeout(PATIENCE, satisfied).await {
        Ok(admitted) => Ok(admitted),
        Err(_elapsed) => bail!("{what}: not within {} s; last: {last}", PATIENCE.as_secs()),
    }
}

/// One request, and the object in the answer.
pub async fn send(client: &Client, method: Method, path: &str, content_type: &str, body: &Value) -> Result<Value> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", content_type).body(body)?;
    client.request(request).await.with_context(|| path.to_owned())
}
