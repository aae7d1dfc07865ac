//! The chart on a genuine API server, as `deploy/chart/README.md` says: refused where it could not work,
//! installed, removed; and with other names and every other value than the default.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::linkerd::webhook::chart_default;
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions, until_any};
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE, until_refused};
use crate::helm::{
    Document, NAMESPACE, Setting, all_on, another, chart, default_of, leaves, render, root, set, template,
};

/// Another namespace than the usual one.
const ELSEWHERE: &str = "mesh-gate";

#[tokio::test]
async fn the_chart_is_installed_removed_and_installed_renamed() -> Result<()> {
    // Nobody reports the node's status, which this controller would write onto it again and again.
    let controllers = "--controllers=*,-node-lifecycle-controller".to_owned();
    let options = ApiOptions { controller_manager: vec![controllers], ..ApiOptions::default() };
    let harness = Harness { cluster: Cluster::start_with(options).await? };
    let exercise = async {
        harness.is_refused_where_it_could_not_work().await?;
        harness.is_installed_into_a_namespace_that_helm_creates().await?;
        harness.is_applied_as_argo_cd_does().await?;
        harness.is_installed_and_leaves_nothing_but_its_namespaces().await?;
        harness.passes_strict_validation_with_every_other_value().await?;
        harness.confines_the_agent_under_other_names().await
    };
    harness.cluster.reported(&[], exercise).await
}

/// What each value may be beside its default, and everything switched on. Helm has the namespaces made before.
fn every_other_value() -> Vec<Setting> {
    // In audit mode, and where creations are refused, there would be less of it.
    let mut left_out = vec!["createNamespaces", "mode", "admission"];
    // Of the Prometheus Operator's kinds, which this API server does not have.
    left_out.extend(["monitoring.podMonitor", "monitoring.rules"]);
    let paths = leaves().into_iter().filter(|path| !left_out.contains(&path.as_str()));
    paths
        .map(|path| {
            let value = if path.ends_with(".enabled") { Value::Bool(true) } else { another(&path) };
            (path, value)
        })
        .collect()
}

// === impl Stage ===

impl Harness {
    async fn is_installed_and_leaves_nothing_but_its_namespaces(&self) -> Result<()> {
        let namespaces = root().join("deploy/manifests/10-namespaces.yaml");
        let namespaces = namespaces.to_str().context("a path")?;
        self.kubectl(&["apply", "--filename", namespaces], "").await?;
        let notes = self.install(NAMESPACE, &[]).await.map_err(anyhow::Error::msg)?;
        for said in [
            "ADMISSION: hold (admission=auto, and this Kubernetes, v1.36.3, has MutatingAdmissionPolicy)",
            "It replaces pods that request injection and have no proxy, if they never ran.",
            "linkerd-gate uninstall --now --namespace linkerd-gate --probe-namespace linkerd-gate-probe",
            "helm uninstall linkerd-gate --namespace linkerd-gate",
        ] {
            ensure!(notes.contains(said), "{said}: {notes}");
        }
        self.is_there_as_rendered(&[]).await?;
        self.is_in_the_way_of_no_other_program_without_linkerd().await?;

        let chart = chart();
        let path = chart.to_str().context("a path")?;
        let words = ["upgrade", "linkerd-gate", path, "--namespace", NAMESPACE];
        self.helm(&words, &[set("mode", "audit")]).await.map_err(anyhow::Error::msg)?;
        let agents = ["get", "daemonset", "linkerd-gate", "--namespace", NAMESPACE, "--output=yaml"];
        let agents = self.kubectl(&agents, "").await?;
        ensure!(agents.contains("name: LINKERD_GATE_MODE"), "{agents}");
        self.warns_then_refuses_then_holds(&words).await?;

        // A second one is refused before anything of the first is touched.
        let elsewhere = ["get", "namespace", ELSEWHERE, "--ignore-not-found", "--output=name"];
        ensure!(self.kubectl(&elsewhere, "").await?.is_empty(), "{ELSEWHERE} is there");
        let words = ["template", path, "--namespace", ELSEWHERE, "--show-only", "templates/namespaces.yaml"];
        let settings = [
            set("createNamespaces", true),
            set("probeNamespace", another("probeNamespace")),
            set("probeNamespaceLabels", another("probeNamespaceLabels")),
            set("linkerdExtension", true),
        ];
        let made = self.helm(&words, &settings).await.map_err(anyhow::Error::msg)?;
        self.kubectl(&["apply", "--filename=-"], &made).await?;
        let second = self.install(ELSEWHERE, &every_other_value()).await.err().context("a second one was installed")?;
        ensure!(second.contains("cannot be imported into the current release"), "{second}");

        self.hooks_let_go_what_is_held().await?;
        let words = ["uninstall", "linkerd-gate", "--namespace", NAMESPACE, "--no-hooks"];
        self.helm(&words, &[]).await.map_err(anyhow::Error::msg)?;
        let left = self.helms_own().await?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        self.kubectl(&["delete", "--filename", namespaces], "").await?;
        Ok(())
    }

    /// There is no webhook configuration that policies could go by.
    async fn is_in_the_way_of_no_other_program_without_linkerd(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, "default");
        pods.create(&PostParams::default(), &serde_json::from_value(asking())?).await.context("creating a pod")?;
        let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        pods.patch("web", &PatchParams::default(), &label).await.context("changing a pod")?;
        let status = Patch::Merge(json!({"status": {"reason": "Looked"}}));
        pods.patch_status("web", &PatchParams::default(), &status).await.context("a pod's status")?;
        pods.delete("web", &DeleteParams::default()).await.context("deleting a pod")?;
        let jobs: Api<Job> = Api::namespaced(self.cluster.client().await?, "default");
        let job = json!({
            "metadata": {"name": "web"},
            "spec": {"suspend": true, "template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "app", "image": "app:test"}],
            }}},
        });
        jobs.create(&PostParams::default(), &serde_json::from_value(job)?).await.context("creating a Job")?;
        jobs.patch("web", &PatchParams::default(), &label).await.context("changing a Job")?;
        jobs.delete("web", &DeleteParams::background()).await.context("deleting a Job")?;
        Ok(())
    }

    async fn is_there_as_rendered(&self, settings: &[Setting]) -> Result<()> {
        let installed = self.helms_own().await?;
        // Helm installs a hook when it is due, and does not count it as its own.
        let is_hook = |document: &Document| document.text.contains("helm.sh/hook:");
        let rendered = render(NAMESPACE, settings).iter().filter(|document| !is_hook(document)).count();
        ensure!(installed.len() == rendered, "{rendered} objects were rendered, and these are there: {installed:#?}");
        Ok(())
    }

    /// To see first what would be refused, then to refuse it, and then, by default, to hold it.
    async fn warns_then_refuses_then_holds(&self, upgrade: &[&str]) -> Result<()> {
        // Nobody answers it, so pods that ask stay bare.
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.cluster.client().await?);
        webhooks.create(&PostParams::default(), &chart_default()).await?;
        let words = "requests injection and has no linkerd-proxy";
        let mut settings = all_on();
        settings.push(set("mode", "audit"));
        let notes = self.helm(upgrade, &settings).await.map_err(anyhow::Error::msg)?;
        ensure!(
            notes.contains("ADMISSION: warn (admission=auto")
                && notes.contains("starts outside the mesh. Its creator gets a warning"),
            "{notes}"
        );
        self.is_there_as_rendered(&settings).await?;
        let warned =
            |stored: &Value, said: &str| !is_held(stored) && said.starts_with("Warning: ") && said.contains(words);
        self.until_answer("the guard warns", &asking(), warned).await?;

        settings.retain(|(path, _)| path != "mode");
        settings.push(set("admission", "refuse"));
        let notes = self.helm(upgrade, &settings).await.map_err(anyhow::Error::msg)?;
        ensure!(notes.contains("This Kubernetes could hold such pods instead"), "{notes}");
        let refused =
            |stored: &Value, said: &str| stored.is_null() && said.contains("denied request") && said.contains(words);
        self.until_answer("the guard refuses", &asking(), refused).await?;

        settings.retain(|(path, _)| path != "admission");
        self.helm(upgrade, &settings).await.map_err(anyhow::Error::msg)?;
        self.is_there_as_rendered(&settings).await?;
        self.until_answer("hold holds", &asking(), |stored, said| is_held(stored) && said.is_empty()).await
    }

    async fn passes_strict_validation_with_every_other_value(&self) -> Result<()> {
        let output = template(ELSEWHERE, &every_other_value());
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The pod of `helm test` needs its service account, which a dry run does not leave there.
        let rendered = String::from_utf8(output.stdout)?;
        let documents = rendered.split("---\n").filter(|document| !document.contains("helm.sh/hook: test"));
        let rendered = documents.collect::<Vec<_>>().join("---\n");
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
        let ours = ListParams::default().labels("app.kubernetes.io/component=agent");
        let agent = until_any(&pods, &ours, "an agent on node-a", PATIENCE, |pods| {
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

        self.confines_the_controller_under_other_names().await?;
        let probe = another("probeNamespace");
        let probe: Api<Pod> = Api::namespaced(admin, probe.as_str().context("a name")?);
        let any: Pod = serde_json::from_value(pod("any").running("app:test").json())?;
        until_refused("linkerd-gate-probe", async || probe.create(&PostParams::default(), &any).await.map(drop)).await
    }

    /// As the agent.
    async fn confines_the_controller_under_other_names(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, ELSEWHERE);
        let ours = ListParams::default().labels("app.kubernetes.io/component=controller");
        let controller = until_any(&pods, &ours, "a controller", PATIENCE, |pods| {
            pods.values().next().and_then(|pod| pod.metadata.name.clone())
        })
        .await?;
        let nodes: Api<Node> = Api::all(self.cluster.client_as_pod(ELSEWHERE, &controller).await?);
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        let policy = "linkerd-gate-controller-nodes";
        let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
        until_refused(policy, async || nodes.patch("node-a", &dry_run, &cordon).await.map(drop)).await?;

        let admin: Api<Node> = Api::all(self.cluster.client().await?);
        let lifted = Patch::Merge(json!({"spec": {"taints": null}}));
        for (key, ours) in [(another("agent.taintKey"), true), (default_of("agent.taintKey"), false)] {
            let taint = Patch::Merge(json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}}));
            admin.patch("node-a", &PatchParams::default(), &taint).await?;
            let answer = nodes.patch("node-a", &dry_run, &lifted).await;
            ensure!(answer.is_ok() == ours, "{key}: {answer:?}");
        }
        Ok(())
    }
}

/// A pod that asks for Linkerd.
fn asking() -> Value {
    pod("web").asking().in_namespace("default").running("app:test").json()
}

fn is_held(pod: &Value) -> bool {
    pod["spec"]["schedulingGates"] == json!([{"name": "linkerd-gate/injected"}])
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
