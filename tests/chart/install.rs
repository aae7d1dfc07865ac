//! The chart on a genuine API server, as `deploy/chart/README.md` says: refused where its namespaces are not as they have to be,
//! installed, removed; and with other names and every other value than the default.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions, until_any};
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::helm::{NAMESPACE, Setting, another, chart, default_of, helm, leaves, render, root, set, template};

const PATIENCE: Duration = Duration::from_mins(1);

/// Another namespace than the usual one.
const ELSEWHERE: &str = "mesh-gate";

struct Stage {
    cluster: Cluster,
}

#[tokio::test]
async fn the_chart_is_installed_and_removed_and_installed_under_other_names() -> Result<()> {
    // Nobody reports the node's status, which this controller would write onto it again and again.
    let controllers = "--controllers=*,-node-lifecycle-controller".to_owned();
    let options = ApiOptions { controller_manager: vec![controllers], ..ApiOptions::default() };
    let stage = Stage { cluster: Cluster::start_with(options).await? };
    let exercise = async {
        stage.is_refused_without_its_namespaces().await?;
        stage.is_installed_and_leaves_nothing_but_its_namespaces().await?;
        stage.passes_strict_validation_with_every_other_value().await?;
        stage.confines_the_agent_under_other_names().await
    };
    stage.cluster.reported(&[], exercise).await
}

/// What each value may be beside its default, and everything switched on. Helm has the namespaces made before.
fn every_other_value() -> Vec<Setting> {
    let paths = leaves().into_iter().filter(|path| path != "createNamespaces");
    paths
        .map(|path| {
            let value = if path.ends_with(".enabled") { Value::Bool(true) } else { another(&path) };
            (path, value)
        })
        .collect()
}

// === impl Stage ===

impl Stage {
    /// Runs Helm as the administrator. What it said, where it refused.
    async fn helm(&self, words: &[&str], settings: &[Setting]) -> Result<String, String> {
        let mut helm = tokio::process::Command::from(helm());
        helm.args(words).env("KUBECONFIG", self.cluster.kubeconfig()).stdin(Stdio::null());
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

    async fn install(&self, namespace: &str, settings: &[Setting]) -> Result<String, String> {
        let chart = chart();
        let chart = chart.to_str().ok_or("a path that is no text")?;
        self.helm(&["install", "linkerd-gate", chart, "--namespace", namespace], settings).await
    }

    async fn kubectl(&self, words: &[&str], input: &str) -> Result<String> {
        let mut kubectl = tokio::process::Command::new(self.cluster.kubectl());
        kubectl.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn()?;
        child.stdin.take().context("no stdin")?.write_all(input.as_bytes()).await?;
        let output = child.wait_with_output().await?;
        ensure!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What Helm says is its own, of the kinds that the chart has.
    async fn helms_own(&self) -> Result<Vec<String>> {
        let kinds: BTreeSet<String> = render(NAMESPACE, &[])
            .iter()
            .map(|document| document.value()["kind"].as_str().unwrap_or_default().to_lowercase())
            .collect();
        let kinds = kinds.into_iter().collect::<Vec<_>>().join(",");
        let selector = "--selector=app.kubernetes.io/managed-by=Helm";
        let found = self.kubectl(&["get", &kinds, "--all-namespaces", selector, "--output=name"], "").await?;
        Ok(found.lines().map(str::to_owned).collect())
    }

    async fn is_refused_without_its_namespaces(&self) -> Result<()> {
        let refused = |outcome: Result<String, String>, why: &str| match outcome {
            Ok(said) => bail!("it was installed: {said}"),
            Err(said)
                if said.contains(why) && said.contains("kubectl apply -f deploy/manifests/10-namespaces.yaml") =>
            {
                Ok(())
            }
            Err(said) => bail!("not {why:?} with what to type, but: {said}"),
        };
        refused(self.install(NAMESPACE, &[]).await, "the namespace linkerd-gate has to be there before")?;
        let chart = chart();
        let words = [
            "install",
            "linkerd-gate",
            chart.to_str().context("a path")?,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
        ];
        refused(self.helm(&words, &[]).await, "the namespace linkerd-gate has to be there before")?;
        refused(self.helm(&words, &[set("createNamespaces", true)]).await, "createNamespaces is for `helm template`")?;
        self.kubectl(&["create", "namespace", NAMESPACE], "").await.context("it was there before")?;
        let label =
            "the namespace linkerd-gate has to have config.linkerd.io/admission-webhooks=disabled among its labels";
        refused(self.install(NAMESPACE, &[]).await, label)?;
        let nothing = self.helms_own().await?;
        ensure!(nothing.is_empty(), "something was written: {nothing:?}");
        Ok(())
    }

    async fn is_installed_and_leaves_nothing_but_its_namespaces(&self) -> Result<()> {
        let namespaces = root().join("deploy/manifests/10-namespaces.yaml");
        let namespaces = namespaces.to_str().context("a path")?;
        self.kubectl(&["apply", "--filename", namespaces], "").await?;
        let notes = self.install(NAMESPACE, &[]).await.map_err(anyhow::Error::msg)?;
        ensure!(notes.contains("helm uninstall linkerd-gate --namespace linkerd-gate"), "{notes}");
        let installed = self.helms_own().await?;
        let rendered = render(NAMESPACE, &[]).len();
        ensure!(installed.len() == rendered, "{rendered} objects were rendered, and these are there: {installed:#?}");

        let chart = chart();
        let path = chart.to_str().context("a path")?;
        let words = ["upgrade", "linkerd-gate", path, "--namespace", NAMESPACE];
        self.helm(&words, &[set("agent.mode", "audit")]).await.map_err(anyhow::Error::msg)?;
        let agents = ["get", "daemonset", "linkerd-gate", "--namespace", NAMESPACE, "--output=yaml"];
        let agents = self.kubectl(&agents, "").await?;
        ensure!(agents.contains("name: LINKERD_GATE_MODE"), "{agents}");

        // A second one is refused before anything of the first is touched.
        let elsewhere = ["get", "namespace", ELSEWHERE, "--ignore-not-found", "--output=name"];
        ensure!(self.kubectl(&elsewhere, "").await?.is_empty(), "{ELSEWHERE} is there");
        let words = ["template", path, "--namespace", ELSEWHERE, "--show-only", "templates/namespaces.yaml"];
        let settings = [set("createNamespaces", true), set("probeNamespace", another("probeNamespace"))];
        let made = self.helm(&words, &settings).await.map_err(anyhow::Error::msg)?;
        self.kubectl(&["apply", "--filename=-"], &made).await?;
        let second = self.install(ELSEWHERE, &every_other_value()).await.err().context("a second one was installed")?;
        ensure!(second.contains("cannot be imported into the current release"), "{second}");

        self.kubectl(&["delete", "daemonset", "linkerd-gate", "--namespace", NAMESPACE, "--cascade=foreground"], "")
            .await?;
        self.helm(&["uninstall", "linkerd-gate", "--namespace", NAMESPACE], &[]).await.map_err(anyhow::Error::msg)?;
        let left = self.helms_own().await?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        self.kubectl(&["delete", "--filename", namespaces], "").await?;
        Ok(())
    }

    async fn passes_strict_validation_with_every_other_value(&self) -> Result<()> {
        let output = template(ELSEWHERE, &every_other_value());
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rendered = String::from_utf8(output.stdout)?;
        let words = ["apply", "--validate=strict", "--dry-run=server", "--filename=-"];
        let said = self.kubectl(&words, &rendered).await?;
        ensure!(said.lines().count() == rendered.matches("\nkind: ").count(), "not all of it was taken:\n{said}");
        // It is strict: a field that does not exist is refused.
        let misspelt = rendered.replacen("hostNetwork:", "hostNetwrok:", 1);
        let said = self.kubectl(&words, &misspelt).await.err().context("a field that does not exist was taken")?;
        ensure!(said.to_string().contains("hostNetwrok"), "{said}");
        Ok(())
    }

    /// The agent's own token, in a namespace of another name: what it is for passes, what it is not for is refused by the policies.
    async fn confines_the_agent_under_other_names(&self) -> Result<()> {
        let admin = self.cluster.client().await?;
        let nodes: Api<Node> = Api::all(admin.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node("node-a"))?).await?;
        self.install(ELSEWHERE, &every_other_value()).await.map_err(anyhow::Error::msg)?;

        let pods: Api<Pod> = Api::namespaced(admin.clone(), ELSEWHERE);
        let agent = until_any(&pods, &ListParams::default(), "an agent on node-a", PATIENCE, |pods| {
            let on_a_node = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            pods.values().find(on_a_node).and_then(|pod| pod.metadata.name.clone())
        })
        .await?;
        let agents: Api<Node> = Api::all(self.cluster.client_as_pod(ELSEWHERE, &agent).await?);
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
        let policy = "linkerd-gate-agent-nodes";
        until_refused(policy, async || agents.patch("node-a", &dry_run, &cordon).await.map(drop)).await?;

        let taint = |key: &Value| {
            let taints = json!([{"key": key, "effect": "NoSchedule"}]);
            Patch::Merge(json!({"spec": {"taints": taints}}))
        };
        let taints = |node: Node| node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        // The API server's own taint of a new node must stay.
        nodes.patch("node-a", &PatchParams::default(), &Patch::Merge(json!({"spec": {"taints": null}}))).await?;
        let key = another("agent.taintKey");
        let closed = taints(agents.patch("node-a", &dry_run, &taint(&key)).await?);
        ensure!(closed.iter().any(|taint| Some(&*taint.key) == key.as_str()), "{closed:?}");
        let usual = agents.patch("node-a", &dry_run, &taint(&default_of("agent.taintKey"))).await;
        let usual = usual.err().context("the agent set a taint that is not its own here")?.to_string();
        ensure!(usual.contains(policy), "{usual}");

        let probe = another("probeNamespace");
        let probe: Api<Pod> = Api::namespaced(admin, probe.as_str().context("a name")?);
        let any: Pod = serde_json::from_value(pod("any").running("app:test").json())?;
        until_refused("linkerd-gate-probe", async || probe.create(&PostParams::default(), &any).await.map(drop))
            .await?;
        Ok(())
    }
}

/// Policies count a moment after they were written: writes until this one refuses.
async fn until_refused(policy: &str, write: impl AsyncFn() -> kube::Result<()>) -> Result<()> {
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

/// A node that the DaemonSet's selector, default and example together, takes.
fn node(name: &str) -> Value {
    let mut labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/hostname": name});
    for (label, value) in another("agent.nodeSelector").as_object().into_iter().flatten() {
        labels[label] = value.clone();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        },
    })
}
