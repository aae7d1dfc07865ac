//! The chart's pre-delete hook, as Helm stored it: what it runs does what it is for by the rights that it comes with, and those
//! rights are good for nothing else. There is no kubelet here, so the program is run beside the cluster, by the account's token.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use linkerd_gate_kit::object::{job, pod};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{Harness, PATIENCE, until_refused};
use crate::helm::{NAMESPACE, template};

/// The hook's account.
const ACCOUNT: &str = "linkerd-gate-uninstall";

#[test]
fn helm_template_does_not_print_what_would_uninstall_at_once() {
    let output = template(NAMESPACE, &[]);
    let rendered = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !rendered.contains("helm.sh/hook") && !rendered.contains(ACCOUNT), "{rendered}");
}

// === impl Stage ===

impl Harness {
    /// After that nothing of what Helm installed holds anything, and the release can go.
    pub async fn hooks_let_go_what_is_held(&self) -> Result<()> {
        let words = ["get", "hooks", "linkerd-gate", "--namespace", NAMESPACE];
        let hooks = self.helm(&words, &[]).await.map_err(anyhow::Error::msg)?;
        let mut hooks: Vec<Value> = serde_saphyr::from_multiple(&hooks)?;
        // What `helm test` runs is a person's to ask for.
        hooks.retain(|hook| hook["metadata"]["annotations"]["helm.sh/hook"] != "test");
        let is_job = |hook: &&Value| hook["kind"] == "Job";
        ensure!(hooks.iter().all(|hook| hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"), "{hooks:#?}");
        let run = hooks.iter().find(is_job).context("no Job among the hooks")?;
        let weight = |hook: &Value| {
            let weight = hook["metadata"]["annotations"]["helm.sh/hook-weight"].as_str().map(str::parse::<i32>);
            weight.context("no weight")?.context("a weight")
        };
        // As Helm does, by weight: what confines rights is there before them, and both before the Job.
        let mut others: Vec<&Value> = hooks.iter().filter(|hook| !is_job(hook)).collect();
        others.sort_by_key(|hook| weight(hook).unwrap_or_default());
        ensure!(
            others.iter().all(|hook| weight(hook).is_ok_and(|other| other < weight(run).unwrap_or_default())),
            "{others:#?}"
        );
        ensure!(
            others.first().is_some_and(|hook| hook["kind"].as_str().is_some_and(|kind| kind.starts_with("Validating")))
        );
        for hook in &others {
            self.kubectl(&["apply", "--validate=strict", "--filename=-"], &hook.to_string()).await?;
        }
        let said =
            self.kubectl(&["apply", "--validate=strict", "--dry-run=server", "--filename=-"], &run.to_string()).await?;
        ensure!(said.contains("job.batch/linkerd-gate-uninstall created"), "{said}");

        let admin = self.cluster.client().await?;
        let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
        let held =
            pods.create(&PostParams::default(), &object(&pod("held").asking().running("app:test").json())?).await?;
        ensure!(held.spec.is_some_and(|spec| spec.scheduling_gates.is_some()), "it is not held");
        pods.create(&PostParams::default(), &object(&pod("free").running("app:test").json())?).await?;
        let nodes: Api<Node> = Api::all(admin.clone());
        let marked = json!({
            "metadata": {"name": "closed", "annotations": {"linkerd-gate/opened-boot": "b"}},
            "spec": {"taints": [{"key": "linkerd-gate/closed", "effect": "NoSchedule"}]},
        });
        nodes.create(&PostParams::default(), &object(&marked)?).await?;
        let jobs: Api<Job> = Api::namespaced(admin, "default");
        for name in ["ours", "theirs"] {
            let mut suspended = job(name).spec_field("suspend", true).of(pod(name).running("app:test"));
            if name == "ours" {
                suspended = suspended.annotated("linkerd-gate/suspended-at", "2026-01-01T00:00:00Z");
            }
            jobs.create(&PostParams::default(), &object(&suspended.json())?).await?;
        }
        self.rights_of_the_hook_are_good_for_nothing_else().await?;

        let container = &run["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array().context("no arguments")?.iter().filter_map(Value::as_str);
        let kubeconfig = self.cluster.kubeconfig_as(NAMESPACE, ACCOUNT).await?;
        let mut program = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"));
        program.args(arguments).env_clear().env("KUBECONFIG", kubeconfig).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE * 2, program.output()).await.context("it does not end")??;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        for line in [
            "deployment/linkerd-gate-controller -n linkerd-gate: deleted",
            "mutatingadmissionpolicybinding/linkerd-gate-hold: deleted",
            "validatingadmissionpolicybinding/linkerd-gate-guard: deleted",
            "validatingadmissionpolicybinding/linkerd-gate-release: deleted",
            "admission, by a dry-run copy of pod/held -n default: holds nothing any more",
            "pod/held -n default: released, it starts outside the mesh: no controller creates it again",
            "job/ours -n default: resumed: linkerd-gate had suspended it",
            "daemonset/linkerd-gate -n linkerd-gate: deleted",
            "node/closed: freed of taint linkerd-gate/closed, annotation linkerd-gate/opened-boot",
        ] {
            ensure!(said.lines().any(|said| said == line), "{line}: {said}");
        }
        ensure!(pods.get("held").await?.spec.is_some_and(|spec| spec.scheduling_gates.is_none()), "it is held");
        nodes.delete("closed", &DeleteParams::default()).await?;
        for hook in &others {
            self.kubectl(&["delete", "--filename=-"], &hook.to_string()).await?;
        }
        self.kubectl(&["delete", "pods,jobs", "--all", "--namespace", "default", "--grace-period=0", "--force"], "")
            .await?;
        Ok(())
    }

    /// Each write as the hook's account: what it is for passes, and what it is not for is refused.
    async fn rights_of_the_hook_are_good_for_nothing_else(&self) -> Result<()> {
        let client = self.cluster.client_as(NAMESPACE, ACCOUNT).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let nodes: Api<Node> = Api::all(client.clone());
        let jobs: Api<Job> = Api::namespaced(client, "default");
        let any: Pod = object(&pod("any").running("app:test").json())?;
        // The policy counts from here on. Until then such a pod may be created, which is not `any`.
        let early: Pod = object(&pod("early").running("app:test").json())?;
        until_refused(ACCOUNT, async || pods.create(&PostParams::default(), &early).await.map(drop)).await?;

        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let merge = |value: Value| Patch::Merge(value);
        let dry_delete = DeleteParams { dry_run: true, ..DeleteParams::default() };
        let refused = |what: &str, answer: kube::Result<()>| match answer {
            Err(error) if error.to_string().contains(ACCOUNT) => Ok(()),
            answer => Err(anyhow::anyhow!("{what}: {answer:?}")),
        };
        refused("a pod that runs", pods.delete("free", &dry_delete).await.map(drop))?;
        let label = merge(json!({"metadata": {"labels": {"x": "y"}}}));
        refused("a held pod's label", pods.patch("held", &dry, &label).await.map(drop))?;
        let first = pods_container(&self.cluster.client().await?, "held").await?;
        let image = Patch::Strategic(json!({"spec": {"containers": [{"name": first, "image": "other:1"}]}}));
        refused("a held pod's image", pods.patch("held", &dry, &image).await.map(drop))?;
        refused("a free pod's annotation", pods.patch("free", &dry, &merge(ours("release"))).await.map(drop))?;
        refused(
            "a cordon",
            nodes.patch("closed", &dry, &merge(json!({"spec": {"unschedulable": true}}))).await.map(drop),
        )?;
        refused("a node's label", nodes.patch("closed", &dry, &label).await.map(drop))?;
        let other = json!({"spec": {"taints": [{"key": "example.com/x", "effect": "NoExecute"}]}});
        refused("another taint", nodes.patch("closed", &dry, &merge(other)).await.map(drop))?;
        let resumed = merge(json!({"spec": {"suspend": false}}));
        refused("another's Job", jobs.patch("theirs", &dry, &resumed).await.map(drop))?;
        let grown = merge(json!({"spec": {"suspend": false, "backoffLimit": 7}}));
        refused("our Job's limit", jobs.patch("ours", &dry, &grown).await.map(drop))?;

        pods.delete("held", &dry_delete).await.context("a held pod cannot be deleted")?;
        jobs.patch("ours", &dry, &resumed).await.context("a Job of ours cannot be resumed")?;
        pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &any).await.context("no dry run")?;
        Ok(())
    }
}

fn ours(name: &str) -> Value {
    json!({"metadata": {"annotations": {format!("linkerd-gate/{name}"): "true"}}})
}

/// The name of the pod's first container.
async fn pods_container(client: &kube::Client, name: &str) -> Result<String> {
    let pod = Api::<Pod>::namespaced(client.clone(), "default").get(name).await?;
    pod.spec.and_then(|spec| spec.containers.into_iter().next()).map(|first| first.name).context("no container")
}

fn object<T: serde::de::DeserializeOwned>(json: &Value) -> Result<T> {
    serde_json::from_value(json.clone()).context("a builder made something that is no such object")
}
