//! A genuine API server, and those who install and use the chart on it.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use linkerd_gate_kit::cluster::Api as Cluster;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::helm::{NAMESPACE, Setting, all_on, chart, helm, render, with_image};

/// How long anything here may take that is awaited.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A cluster.
pub struct Harness {
    /// The cluster.
    pub cluster: Cluster,
}

// === impl Stage ===

impl Harness {
    /// Runs Helm as the administrator. What it said, where it refused.
    pub async fn helm(&self, words: &[&str], settings: &[Setting]) -> Result<String, String> {
        let mut helm = tokio::process::Command::from(helm());
        helm.args(words).env("KUBECONFIG", self.cluster.kubeconfig()).stdin(Stdio::null());
        let settings =
            if ["install", "upgrade", "template"].contains(&words[0]) { with_image(settings) } else { vec![] };
        for (path, value) in settings {
            helm.arg("--set-json").arg(format!("{path}={value}"));
        }
        let output = helm.output().await.map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Installs the chart.
    pub async fn install(&self, namespace: &str, settings: &[Setting]) -> Result<String, String> {
        let chart = chart();
        let chart = chart.to_str().ok_or("a path that is no text")?;
        self.helm(&["install", "linkerd-gate", chart, "--namespace", namespace], settings).await
    }

    /// What kubectl prints.
    pub async fn kubectl(&self, words: &[&str], input: &str) -> Result<String> {
        let mut kubectl = tokio::process::Command::new(self.cluster.kubectl());
        kubectl.args(words);
        let output = spoken_to(kubectl, input).await?;
        ensure!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What Helm says is its own, of the kinds that the chart has.
    pub async fn helms_own(&self) -> Result<Vec<String>> {
        let kinds: BTreeSet<String> = render(NAMESPACE, &all_on())
            .iter()
            .map(|document| document.value()["kind"].as_str().unwrap_or_default().to_lowercase())
            .collect();
        let kinds = kinds.into_iter().collect::<Vec<_>>().join(",");
        let selector = "--selector=app.kubernetes.io/managed-by=Helm";
        let found = self.kubectl(&["get", &kinds, "--all-namespaces", selector, "--output=name"], "").await?;
        Ok(found.lines().map(str::to_owned).collect())
    }

    /// Tries a pod, until what the API server says satisfies the condition: what it admits by reaches it a moment after it was
    /// written. First the pod that it would store, or nothing where it refuses, then its warnings or its refusal.
    pub async fn until_answer(&self, what: &str, pod: &Value, condition: impl Fn(&Value, &str) -> bool) -> Result<()> {
        let mut last = String::new();
        let tried = async {
            loop {
                let mut kubectl = tokio::process::Command::new(self.cluster.kubectl());
                kubectl.args(["create", "--dry-run=server", "--output=json", "--filename=-"]);
                let output = spoken_to(kubectl, &pod.to_string()).await?;
                let stored = serde_json::from_slice(&output.stdout).unwrap_or_default();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                if condition(&stored, &said) {
                    return anyhow::Ok(());
                }
                last = format!("{said}\n{:#}", stored["spec"]);
            }
        };
        match tokio::time::timeout(PATIENCE, tried).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("{what}: not within {} s; last: {last}", PATIENCE.as_secs()),
        }
    }
}

/// Runs a program, with that on its standard input.
async fn spoken_to(mut program: tokio::process::Command, input: &str) -> Result<Output> {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn()?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes()).await?;
    Ok(child.wait_with_output().await?)
}

/// Policies count a moment after they were written: writes until this one refuses.
pub async fn until_refused(policy: &str, write: impl AsyncFn() -> kube::Result<()>) -> Result<()> {
    let mut last = "it passed".to_owned();
    let refused = async {
        loop {
            match write().await {
                Err(refusal) if refusal.to_string().contains(policy) => return,
                Err(refusal) => last = refusal.to_string(),
                Ok(()) => "it passed".clone_into(&mut last),
            }
            tokio::task::yield_now().await;
        }
    };
    match tokio::time::timeout(PATIENCE, refused).await {
        Ok(()) => Ok(()),
        Err(_) => bail!("{policy} does not refuse: {last}"),
    }
}
