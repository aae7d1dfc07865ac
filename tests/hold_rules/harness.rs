//! A cluster with Linkerd's injector, another program's webhook, and hold and guard as users apply them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::Request;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions, LoopbackAddress, until_gone};
use linkerd_gate_kit::object::{namespace, pod, webhook_configuration};
use linkerd_gate_kit::standin::{Certificates, Fault, Injector, Namespaces, Sidecar, Standin, other_webhook};
use serde_json::{Value, json};
use tokio::process::Command;

/// How long anything here may take that is awaited.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The gate that holds.
pub const GATE: &str = "linkerd-gate/injected";

/// The namespace whose pods ask.
pub const SHOP: &str = "shop";

/// One whose pods do not.
pub const QUIET: &str = "quiet";

/// The namespace of the other program whose webhooks change pods.
const OTHER: &str = "other";

/// Pods with this label are sent to the other program's webhooks.
pub const CHANGED: (&str, &str) = ("webhook.kit.test/called", "true");

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Without a proxy, and with our gate.
    Held,
    /// With Linkerd's proxy, and without our gate.
    Meshed,
    /// With neither.
    Bare,
    /// With both: nothing that should ever be.
    MeshedAndGated,
    /// The guard's rule refused it.
    Missed,
    /// Something else refused it: the code, and the words.
    Refused(u16, String),
}

/// The cluster.
pub struct Harness {
    pub cluster: Cluster,
    pub admin: Client,
    pub injector: Standin,
    _webhook: Standin,
    _addresses: [LoopbackAddress; 2],
}

// === impl Outcome ===

impl Outcome {
    pub fn of(pod: &Pod) -> Self {
        match (meshed(pod), gates(pod).iter().any(|gate| gate == GATE)) {
            (false, true) => Self::Held,
            (true, false) => Self::Meshed,
            (false, false) => Self::Bare,
            (true, true) => Self::MeshedAndGated,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The names of a pod's scheduling gates.
pub fn gates(pod: &Pod) -> Vec<String> {
    let gates = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten());
    gates.map(|gate| gate.name.clone()).collect()
}

/// A directory of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

// === impl Stage ===

impl Harness {
    /// A cluster with Linkerd's injector, and nothing of linkerd-gate.
    pub async fn set(options: ApiOptions) -> Result<Self> {
        let cluster = Cluster::start_with(options).await?;
        let admin = cluster.client().await?;
        let addresses = [LoopbackAddress::claim()?, LoopbackAddress::claim()?];
        let [of_injector, of_other] = [addresses[0].ip(), addresses[1].ip()];
        for namespace in [
            namespace("linkerd").without_admission_webhooks(),
            namespace(OTHER).without_admission_webhooks(),
            namespace(SHOP).asking(),
            namespace(QUIET),
        ] {
            cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
        }
        let certificates = Certificates::for_injector("linkerd")?;
        let injector =
            Injector::new(certificates.clone(), &Namespaces::any().asking(SHOP), Sidecar::genuine("linkerd"))
                .serving_on((of_injector, 443).into())
                .start()
                .await?;
        let others = Certificates::for_injector(OTHER)?;
        let webhook = other_webhook((of_other, 443).into(), &others).await?;
        for (namespace, address) in [("linkerd", of_injector), (OTHER, of_other)] {
            cluster.expose(namespace, "linkerd-proxy-injector", address, &[(443, 443)]).await?;
        }
        let harness = Self { cluster, admin, injector, _webhook: webhook, _addresses: addresses };
        harness.configure(webhook_configuration("linkerd").ca_bundle(certificates.ca_bundle()).json()).await?;
        for (name, again) in [("a-before", false), ("z-after", false), ("z-again", true)] {
            harness.configure(others_webhook(name, again, others.ca_bundle())).await?;
        }
        harness.until("the injector is called", &asking("is-it-so"), |outcome| *outcome == Outcome::Meshed).await?;
        Ok(harness)
    }

    /// The same with hold and guard, as the default for Kubernetes 1.36 and later has them.
    pub async fn with_admission(options: ApiOptions) -> Result<Self> {
        let harness = Self::set(options).await?;
        for file in ["60-admission-hold.yaml", "61-admission-guard.yaml", "62-admission-release.yaml"] {
            harness.apply(&repository("deploy/manifests").join(file)).await?;
        }
        harness.injector_is_down().await?;
        harness.until("pods are held", &asking("is-it-so"), |outcome| *outcome == Outcome::Held).await?;
        harness.until_the_others_are_in_force().await?;
        Ok(harness)
    }

    /// The API server reads validating policies apart from mutating ones, and a moment later as may be.
    async fn until_the_others_are_in_force(&self) -> Result<()> {
        let mut bound = asking("is-it-so");
        bound["spec"]["nodeName"] = "node-0".into();
        self.until("the guard refuses", &bound, |outcome| *outcome == Outcome::Missed).await?;

        let pods = self.pods(SHOP);
        let held = self.create(&asking("is-it-so")).await?;
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let ungate = json!([{"op": "remove", "path": "/spec/schedulingGates"}]);
        let ungate = Patch::Json::<()>(serde_json::from_value(ungate)?);
        let refused = async {
            while pods.patch("is-it-so", &dry, &ungate).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.context("the release policy refuses nothing")?;
        pods.delete("is-it-so", &DeleteParams::default().grace_period(0)).await?;
        until_gone(&pods, "is-it-so", &held.metadata.uid.unwrap_or_default(), PATIENCE).await
    }

    pub async fn injector_is_up(&self) -> Result<()> {
        Ok(self.injector.recover().await?)
    }

    pub async fn injector_is_down(&self) -> Result<()> {
        Ok(self.injector.suffer(Fault::Absent).await?)
    }

    /// Applies a file as a person does, and takes no field for granted.
    pub async fn apply(&self, file: &Path) -> Result<()> {
        let file = file.to_str().context("a path that is no text")?;
        self.kubectl(&["apply", "--validate=strict", "--filename", file]).await.map(drop)
    }

    /// Runs kubectl as the administrator. What it printed.
    pub async fn kubectl(&self, words: &[&str]) -> Result<String> {
        let output = self.try_kubectl(words).await?;
        ensure!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same, whatever becomes of it.
    pub async fn try_kubectl(&self, words: &[&str]) -> Result<Output> {
        Ok(Command::new(self.cluster.kubectl()).args(words).stdin(Stdio::null()).output().await?)
    }

    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), namespace)
    }

    /// Makes a webhook configuration.
    pub async fn configure(&self, configuration: Value) -> Result<()> {
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.admin.clone());
        webhooks.create(&PostParams::default(), &serde_json::from_value(configuration)?).await?;
        Ok(())
    }

    /// What would become of a pod.
    pub async fn ask(&self, pod: &Value) -> Result<Outcome> {
        Ok(match self.send(pod, "?dryRun=All").await? {
            Ok(pod) => Outcome::of(&pod),
            Err(outcome) => outcome,
        })
    }

    /// Creates a pod, which is to be admitted.
    pub async fn create(&self, pod: &Value) -> Result<Pod> {
        self.send(pod, "").await?.map_err(|outcome| anyhow::anyhow!("{outcome}"))
    }

    /// Sends a pod as it stands, whether or not it is one.
    pub async fn send(&self, pod: &Value, parameters: &str) -> Result<Result<Pod, Outcome>> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or(SHOP);
        let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods{parameters}"))
            .header("content-type", "application/json")
            .body(pod.to_string().into_bytes().into())?;
        let (head, body) = self.admin.send(request).await?.into_parts();
        let body = body.collect_bytes().await?;
        if head.status.is_success() {
            return Ok(Ok(serde_json::from_slice(&body)?));
        }
        let status: Value = serde_json::from_slice(&body).unwrap_or_default();
        let words = status["message"].as_str().unwrap_or_default().to_owned();
        let by_the_guard = words.contains("'linkerd-gate-guard'") && words.contains("has no linkerd-proxy");
        let refused = if by_the_guard { Outcome::Missed } else { Outcome::Refused(head.status.as_u16(), words) };
        Ok(Err(refused))
    }

    /// Asks until the answer is such: what admission goes by reaches it a moment after it was written.
    pub async fn until(&self, what: &str, pod: &Value, condition: impl Fn(&Outcome) -> bool) -> Result<()> {
        let mut last = None;
        let asking = async {
            loop {
                let outcome = self.ask(pod).await?;
                if condition(&outcome) {
                    return anyhow::Ok(());
                }
                last = Some(outcome);
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("{what}: not so after {} s; last: {last:?}", PATIENCE.as_secs()),
        }
    }
}

/// A pod that asks, because its namespace does.
pub fn asking(name: &str) -> Value {
    pod(name).in_namespace(SHOP).running("app:1").json()
}

/// Another program's webhook for pods with the label, which is called at the path of its name, again where `again`.
fn others_webhook(name: &str, again: bool, ca_bundle: &str) -> Value {
    let mut configuration = webhook_configuration(OTHER).named(name).ca_bundle(ca_bundle).failing_closed().json();
    // Nothing of Linkerd's, by which hold and guard would find it.
    configuration["metadata"]["labels"] = json!({});
    let webhook = &mut configuration["webhooks"][0];
    webhook["name"] = format!("{name}.kit.test").into();
    webhook["clientConfig"]["service"]["path"] = format!("/{name}").into();
    webhook["objectSelector"] = json!({"matchLabels": {CHANGED.0: CHANGED.1}});
    webhook["rules"][0]["resources"] = json!(["pods"]);
    webhook["reinvocationPolicy"] = if again { "IfNeeded" } else { "Never" }.into();
    configuration
}
