//! The namespaces of an installation: made by Helm, and refused where linkerd-gate could not work in them.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Api, DeleteParams, PostParams};
use linkerd_gate::linkerd::webhook::chart_default;
use serde_json::Value;

use crate::harness::Harness;
use crate::helm::{Document, NAMESPACE, chart, render, set};

/// By this flag Helm creates the release's namespace, without labels.
const CREATE_NAMESPACE: &str = "--create-namespace";

// === impl Stage ===

impl Harness {
    pub async fn is_refused_where_it_could_not_work(&self) -> Result<()> {
        let refused = |outcome: Result<String, String>, why: &str| match outcome {
            Ok(said) => bail!("it was installed: {said}"),
            Err(said) if said.contains(why) => Ok(said),
            Err(said) => bail!("not {why:?}, but: {said}"),
        };
        let with_how = |outcome: Result<String, String>, why: &str| {
            let said = refused(outcome, why)?;
            ensure!(said.contains("kubectl apply -f deploy/manifests/10-namespaces.yaml"), "not what to type: {said}");
            Ok(())
        };
        // Helm says so itself, before it writes anything.
        refused(self.install(NAMESPACE, &[]).await, "namespaces \"linkerd-gate\" not found")?;
        let (chart, create) = (chart(), [CREATE_NAMESPACE]);
        let words = [&install(&chart)?[..], &create].concat();
        with_how(self.helm(&words, &[set("createNamespaces", true)]).await, "createNamespaces is for `helm template`")?;

        // A webhook that refuses what it cannot patch would refuse our pods too.
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.cluster.client().await?);
        let mut failing = chart_default();
        for webhook in failing.webhooks.iter_mut().flatten() {
            webhook.failure_policy = Some("Fail".to_owned());
        }
        let name = failing.metadata.name.clone().context("a name")?;
        webhooks.create(&PostParams::default(), &failing).await?;
        with_how(self.helm(&words, &[]).await, "Linkerd's webhook has failurePolicy=Fail")?;
        webhooks.delete(&name, &DeleteParams::default()).await?;

        self.kubectl(&["create", "namespace", NAMESPACE], "").await.context("it was there before")?;
        let level = "pod-security.kubernetes.io/enforce";
        self.kubectl(&["label", "namespace", NAMESPACE, &format!("{level}=restricted")], "").await?;
        with_how(self.install(NAMESPACE, &[]).await, &format!("{level}=restricted, which refuses"))?;
        self.kubectl(&["delete", "namespace", NAMESPACE], "").await?;
        let nothing = self.helms_own().await?;
        ensure!(nothing.is_empty(), "something was written: {nothing:?}");
        Ok(())
    }

    /// Without a namespace made before. What it lacks is printed as commands, which are run here as they are printed.
    pub async fn is_installed_into_a_namespace_that_helm_creates(&self) -> Result<()> {
        let chart = chart();
        let create = [CREATE_NAMESPACE];
        let words = [&install(&chart)?[..], &create].concat();
        let notes = self.helm(&words, &[]).await.map_err(anyhow::Error::msg)?;
        let is_command = |line: &&str| line.trim().starts_with("kubectl") && line.contains("--overwrite namespace");
        let commands: Vec<&str> = notes.lines().filter(is_command).map(str::trim).collect();
        ensure!(notes.contains("NAMESPACE: linkerd-gate lacks") && commands.len() == 2, "{notes}");
        for command in commands {
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            self.kubectl(&words, "").await?;
        }
        // As `deploy/manifests/10-namespaces.yaml` has them, but for what Helm adds.
        let rendered = render(NAMESPACE, &[set("createNamespaces", true)]);
        let wanted: Vec<Value> = rendered.iter().map(Document::value).filter(|it| it["kind"] == "Namespace").collect();
        ensure!(wanted.len() == 2, "{wanted:?}");
        for wanted in &wanted {
            let name = wanted["metadata"]["name"].as_str().context("a name")?;
            let found = self.kubectl(&["get", "namespace", name, "--output=json"], "").await?;
            let found: Value = serde_json::from_str(&found)?;
            for field in ["labels", "annotations"] {
                for (key, value) in wanted["metadata"][field].as_object().context("a map")? {
                    ensure!(found["metadata"][field][key] == *value, "{name} has no {key}: {found:#}");
                }
            }
        }
        let path = chart.to_str().context("a path")?;
        let notes = self.helm(&["upgrade", "linkerd-gate", path, "--namespace", NAMESPACE], &[]).await;
        let notes = notes.map_err(anyhow::Error::msg)?;
        ensure!(!notes.contains("lacks"), "{notes}");
        self.has_no_drift_that_flux_would_see().await?;
        let words = ["uninstall", "linkerd-gate", "--namespace", NAMESPACE, "--no-hooks", "--wait"];
        self.helm(&words, &[]).await.map_err(anyhow::Error::msg)?;
        let probe = ["get", "namespace", "linkerd-gate-probe", "--ignore-not-found", "--output=name"];
        ensure!(self.kubectl(&probe, "").await?.is_empty(), "the probe namespace is left");
        self.kubectl(&["delete", "namespace", NAMESPACE], "").await?;
        Ok(())
    }
}

/// The words that install the chart.
fn install(chart: &std::path::Path) -> Result<[&str; 5]> {
    Ok(["install", "linkerd-gate", chart.to_str().context("a path")?, "--namespace", NAMESPACE])
}
