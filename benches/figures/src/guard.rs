//! What the guard costs a pod's creation, by the API server's own metrics, beside the injector's call in the same requests.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use linkerd_gate_kit::cluster::{self, LoopbackAddress};
use linkerd_gate_kit::object::{namespace, pod, webhook_configuration};
use linkerd_gate_kit::standin::{Certificates, Fault, Injector, Namespaces, Sidecar, Standin};
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::agents::PATIENCE;
use crate::said;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};

/// Of each sort of pod, in so many batches: of a busy machine the median batch says more than the mean of all.
const PODS: u32 = 500;
const BATCHES: u32 = 5;

/// How many webhook configurations of others there are at the end: each is a parameter of the guard's.
const OTHERS: u32 = 20;

/// Of the injector's call, for a pod that was injected.
const RATIO: f64 = 0.5;

/// The plugin that evaluates policies, for whatever is created.
const PLUGIN: Metric = Metric {
    name: "apiserver_admission_controller_admission_duration_seconds",
    labels: &["name=\"ValidatingAdmissionPolicy\"", "operation=\"CREATE\"", "type=\"validate\""],
};
const WEBHOOK: Metric = Metric {
    name: "apiserver_admission_webhook_admission_duration_seconds",
    labels: &["name=\"linkerd-proxy-injector.linkerd.io\"", "operation=\"CREATE\""],
};
/// Observed for what is refused only, and of that only the expression that refused.
const POLICY: Metric = Metric {
    name: "apiserver_validating_admission_policy_check_duration_seconds",
    labels: &["policy=\"linkerd-gate-guard\""],
};
/// Everything that validates.
const STEP: Metric = Metric {
    name: "apiserver_admission_step_admission_duration_seconds",
    labels: &["operation=\"CREATE\"", "type=\"validate\""],
};

/// A histogram of the API server's.
pub struct Metric {
    pub name: &'static str,
    pub labels: &'static [&'static str],
}

/// What an API server has observed of one so far.
#[derive(Clone, Copy)]
pub struct Observed {
    pub seconds: f64,
    count: f64,
}

/// What a pod's creation took on average, in microseconds.
struct Cost {
    plugin: f64,
    step: f64,
    /// Where it was called.
    webhook: f64,
    /// Where it refused.
    policy: f64,
}

/// An API server with an injector, and namespaces whose pods are injected and are not.
pub struct Harness {
    pub cluster: cluster::Api,
    client: Client,
    pub injector: Standin,
    _address: LoopbackAddress,
}

pub async fn measure(harness: &Harness, table: &mut Table) -> Result<()> {
    // Caches warm, code paths seen.
    harness.cost("shop", Expect::Injected).await?;
    let without = harness.cost("shop", Expect::Injected).await?;

    said("guard: on, behind an injector that answers");
    harness.apply().await?;
    harness.injector.suffer(Fault::Absent).await?;
    harness.until_refused().await?;
    harness.injector.recover().await?;
    let injected = harness.cost("shop", Expect::Injected).await?;
    let quiet = harness.cost("quiet", Expect::Bare).await?;

    said("guard: the injector absent");
    harness.injector.suffer(Fault::Absent).await?;
    let refused = harness.cost("shop", Expect::Refused).await?;
    harness.injector.recover().await?;

    said(&format!("guard: beside {OTHERS} webhook configurations of others"));
    harness.others().await?;
    let among = harness.cost("shop", Expect::Injected).await?;
    harness.look_at_all().await?;
    let all = harness.cost("shop", Expect::Injected).await?;

    let how = "the API server's admission_controller_admission_duration_seconds of ValidatingAdmissionPolicy, of 500 \
               dry-run creates, one after the other: the median of 5 batches' means";
    for (name, cost) in [
        ("without the guard: policies, a pod's creation", &without),
        ("guard: an injected pod's creation", &injected),
        ("guard: of a pod that does not ask", &quiet),
        ("guard: of a pod that is refused", &refused),
        ("guard: injected, beside 20 webhooks of others", &among),
        ("guard: the same, with selector: {}", &all),
    ] {
        table.figure(name, "µs", how).value(GATE, cost.plugin);
    }
    let how = "the API server's validating_admission_policy_check_duration_seconds, of the same: the one expression, which the \
               API server reports for refused pods only";
    table.figure("guard: its rule alone, of a pod that is refused", "µs", how).value(GATE, refused.policy);
    let how = "the API server's admission_step_admission_duration_seconds, type validate, of the same";
    table.figure("guard: all of validation, an injected pod's", "µs", how).value(GATE, injected.step);
    let how = "the API server's admission_webhook_admission_duration_seconds, of the same: the test kit's stand-in, \
               compiled without optimization, on the same machine";
    table.figure("the injector's call, an injected pod's creation", "µs", how).value(GATE, injected.webhook);
    let ratio = injected.plugin / injected.webhook;
    table
        .figure(
            "guard: an injected pod's, by the injector's call",
            "×",
            "the second of these rows, by the one before this",
        )
        .value(GATE, ratio)
        .target("≤ 0.5", Target::Kept(ratio <= RATIO));
    Ok(())
}

/// What becomes of pods.
#[derive(Clone, Copy, Debug)]
enum Expect {
    Injected,
    Bare,
    Refused,
}

// === impl Stage ===

impl Harness {
    pub async fn set() -> Result<Self> {
        let cluster = cluster::Api::start().await?;
        let client = cluster.client().await?;
        let address = LoopbackAddress::claim()?;
        let certificates = Certificates::for_injector("linkerd")?;
        let namespaces = Namespaces::any().asking("shop").asking("asked-twice").asking("asked-again");
        let injector = Injector::new(certificates.clone(), &namespaces, Sidecar::genuine("linkerd"))
            .serving_on((address.ip(), 443).into())
            .start()
            .await
            .context("the injector's stand-in needs port 443, which takes root")?;
        for namespace in
            [namespace("linkerd").without_admission_webhooks(), namespace("shop").asking(), namespace("quiet")]
        {
            cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
        }
        cluster.expose("linkerd", "linkerd-proxy-injector", address.ip(), &[(443, 443)]).await?;
        let harness = Self { cluster, client, injector, _address: address };
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(harness.client.clone());
        let configuration = webhook_configuration("linkerd").ca_bundle(certificates.ca_bundle()).json();
        webhooks.create(&PostParams::default(), &serde_json::from_value(configuration)?).await?;
        harness.until("the injector is called", |answer| answer.is_ok_and(|pod| is_injected(&pod))).await?;
        Ok(harness)
    }

    async fn apply(&self) -> Result<()> {
        let guard = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests/61-admission-guard.yaml");
        let output = Command::new(self.cluster.kubectl()).args(["apply", "--filename"]).arg(guard).output().await?;
        ensure!(output.status.success(), "cannot install:\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Takes the label off Linkerd's webhook configuration, and has the guard look at all of them.
    async fn look_at_all(&self) -> Result<()> {
        self.injector.suffer(Fault::Absent).await?;
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let label = json!({"metadata": {"labels": {"linkerd.io/control-plane-component": null}}});
        let name = "linkerd-proxy-injector-webhook-config";
        webhooks.patch(name, &PatchParams::default(), &Patch::Merge(&label)).await?;
        self.until("the guard has lost sight of it", |answer| answer.is_ok()).await?;
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        let patch = json!({"spec": {"paramRef": {"selector": {"matchLabels": null}}}});
        bindings.patch("linkerd-gate-guard", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        self.until_refused().await?;
        Ok(self.injector.recover().await?)
    }

    async fn until_refused(&self) -> Result<()> {
        self.until("the guard refuses", |answer| answer.is_err()).await
    }

    /// Webhook configurations that are nobody's whom the guard looks for, as many tools install them.
    async fn others(&self) -> Result<()> {
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        for number in 0..OTHERS {
            let mut configuration = webhook_configuration("tools").named(&format!("tool-{number}")).json();
            configuration["metadata"]["labels"] = json!({});
            configuration["webhooks"][0]["name"] = format!("tool-{number}.example.com").into();
            // It is called for nobody: what is measured is that it is there.
            configuration["webhooks"][0]["rules"][0]["resources"] = json!(["configmaps"]);
            webhooks.create(&PostParams::default(), &serde_json::from_value(configuration)?).await?;
        }
        Ok(())
    }

    /// Asks for a pod in `shop`, without effect, until the answer is such.
    pub async fn until(&self, what: &str, condition: impl Fn(Result<Pod, kube::Error>) -> bool) -> Result<()> {
        let asking = async {
            while !condition(self.ask("shop", "is-it-so").await) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, asking).await.with_context(|| format!("{what}: not so"))
    }

    /// Asks for this pod, without effect.
    pub async fn ask(&self, namespace: &str, name: &str) -> Result<Pod, kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = serde_json::from_value(pod(name).running("app:test").json()).map_err(kube::Error::SerdeError)?;
        pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await
    }

    /// Asks for many pods, which are all to be answered alike, and returns what one of them cost.
    async fn cost(&self, namespace: &str, expect: Expect) -> Result<Cost> {
        let mut batches = Vec::new();
        for _ in 0..BATCHES {
            let before = self.metrics().await?;
            for number in 0..PODS / BATCHES {
                match (expect, self.ask(namespace, &format!("pod-{number}")).await) {
                    (Expect::Injected, Ok(pod)) if is_injected(&pod) => {}
                    (Expect::Bare, Ok(pod)) if !is_injected(&pod) => {}
                    (Expect::Refused, Err(kube::Error::Api(status)))
                        if status.message.contains("'linkerd-gate-guard'") => {}
                    (_, answer) => bail!("{answer:?}"),
                }
            }
            let after = self.metrics().await?;
            // Controllers create something now and then, which would be counted as well.
            let counted = PLUGIN.read(&after).since(PLUGIN.read(&before)).count;
            ensure!(counted <= f64::from(PODS / BATCHES) * 1.1, "{counted} objects were created beside");
            batches.push((before, after));
        }
        let median = |metric: &Metric| {
            let means = batches.iter().map(|(before, after)| metric.read(after).since(metric.read(before)));
            means.map(Observed::mean_microseconds).collect::<Sample>().median()
        };
        Ok(Cost { plugin: median(&PLUGIN), step: median(&STEP), webhook: median(&WEBHOOK), policy: median(&POLICY) })
    }

    pub async fn metrics(&self) -> Result<String> {
        Ok(self.client.request_text(Request::get("/metrics").body(Vec::new())?).await?)
    }
}

pub fn is_injected(pod: &Pod) -> bool {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    inits.into_iter().any(|container| container.name == "linkerd-proxy")
}

// === impl Metric ===

impl Metric {
    /// The sum over all series with these labels.
    pub fn read(&self, metrics: &str) -> Observed {
        let sum = |suffix: &str| {
            let series = format!("{}_{suffix}{{", self.name);
            let with = metrics
                .lines()
                .filter(|line| line.starts_with(&series) && self.labels.iter().all(|label| line.contains(label)));
            with.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        Observed { seconds: sum("sum"), count: sum("count") }
    }
}

// === impl Observed ===

impl Observed {
    pub fn since(self, before: Self) -> Self {
        Self { seconds: self.seconds - before.seconds, count: self.count - before.count }
    }

    /// Nothing where nothing was observed.
    fn mean_microseconds(self) -> f64 {
        if self.count > 0.0 { self.seconds / self.count * 1e6 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_series_and_of_no_others() {
        let metrics = "\
# HELP a_seconds Some.
a_seconds_bucket{name=\"x\",le=\"1\"} 7
a_seconds_sum{name=\"x\",rejected=\"false\"} 0.5
a_seconds_sum{name=\"x\",rejected=\"true\"} 0.25
a_seconds_sum{name=\"y\",rejected=\"false\"} 9
a_seconds_count{name=\"x\",rejected=\"false\"} 2
a_seconds_count{name=\"x\",rejected=\"true\"} 1
";
        let metric = Metric { name: "a_seconds", labels: &["name=\"x\""] };
        let none = Observed { seconds: 0.0, count: 0.0 };
        assert!((metric.read(metrics).since(none).mean_microseconds() - 250_000.0).abs() < 1e-6);
        assert!(Metric { name: "b_seconds", labels: &[] }.read(metrics).mean_microseconds().abs() < 1e-9);
    }
}
