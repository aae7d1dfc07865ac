//! What the controller asks for is what it has the rights to, with the manifests' own service account, policies and token.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use linkerd_gate_kit::cluster::ApiOptions;
use linkerd_gate_kit::object::{namespace, pod as pod_named};
use serde_json::json;

use super::harness::{Agent, GATE, Harness, PATIENCE, controller, is_closed, object};
use super::retry::owners::until_tried;
use super::rights::{apply, apply_what_runs, rights, until_rights_count, used};
use super::workloads::{
    SHOP, all_meshed, ignoring, job, merge, recover, set, stateful, unscheduled, until_event, until_pods, waiting,
};

/// So many refusals, and a controller pauses for 20 s: longer than the story takes from the injector's return to the nudges.
const TRIES: i32 = 12;

/// The controller's service account in the manifests.
const ACCOUNT: &str = "linkerd-gate-controller";

#[tokio::test]
async fn the_controller_has_the_rights_to_what_it_does_and_no_more() -> Result<()> {
    // No kubelet reports of the node: once its state is unknown, its DaemonSets try again by themselves.
    let patient = vec!["--node-monitor-grace-period=1h".to_owned()];
    let options = ApiOptions { controller_manager: patient, ..ApiOptions::default() };
    let harness = Harness::before_installation_with(options).await?;
    harness.cluster.create_namespace(&object(namespace(SHOP).asking().json())?).await?;
    apply_what_runs(&harness).await?;
    apply(&harness, "optional/70-controller-eviction-rbac.yaml").await?;
    let rights = rights(&["51-controller-rbac.yaml", "optional/70-controller-eviction-rbac.yaml"])?;
    until_rights_count(&harness, ACCOUNT, &rights).await?;

    // One for each way in which a pod is replaced.
    harness.create::<ReplicaSet>(SHOP, unscheduled(set("held", 1))).await?;
    harness.create::<Job>(SHOP, unscheduled(ignoring(job("evicted", 1)))).await?;
    harness.create::<Job>(SHOP, unscheduled(waiting(job("suspended", 1)))).await?;
    until_pods(&harness, "bare", |pods| pods.len() == 3).await?;
    // One that our gate holds, and that Linkerd would leave as it is.
    let mut skipped = super::workloads::pod("skipped");
    merge(
        &mut skipped,
        &json!({
            "metadata": {"annotations": {"linkerd.io/inject": "disabled"}},
            "spec": {"schedulingGates": [{"name": "linkerd-gate/injected"}]},
        }),
    );
    harness.create::<Pod>(SHOP, skipped).await?;
    node_without_agent(&harness, "node-0").await?;

    let mut replica = start(&harness).await?;
    let done = async {
        replica.until_said("first scan complete").await?;
        replica
            .until_said(
                "removed the scheduling gate: Linkerd\'s injector would leave it as it is namespace=shop pod=skipped",
            )
            .await?;
        let pods: Api<Pod> = Api::namespaced(harness.cluster.client().await?, SHOP);
        pods.delete("skipped", &DeleteParams::default()).await?;
        // Before anybody is refused: a DaemonSet tries again when a node changes.
        harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
        refuse_four(&harness).await?;
        recover(&harness).await?;
        until_pods(&harness, "meshed", |pods| all_meshed(pods, 7)).await?;
        replica.until_said("resumed Job namespace=shop owner=Job suspended").await?;
        for kind in ["ReplicaSet", "StatefulSet", "DaemonSet", "Job"] {
            replica
                .until_said(&format!("retried owner whose pods were refused namespace=shop owner={kind} late"))
                .await?;
        }
        // Written at its own pace.
        until_event(&harness, "ReplicaSet", "held", "Replacing").await
    };
    done.await.with_context(|| replica.said())?;
    ensure!(replica.terminate().await? == 0, "{}", replica.said());
    used(&rights, &harness.requests_of(ACCOUNT).await?).with_context(|| replica.said())
}

/// A replica with the token that kubelet would give its pod.
async fn start(harness: &Harness) -> Result<Agent> {
    let pod = "linkerd-gate-controller-0";
    let own = json!({
        "metadata": {"name": pod},
        "spec": {
            "nodeName": "node-0", "serviceAccountName": ACCOUNT, "containers": [{"name": "controller", "image": "gate:1"}],
        },
    });
    harness.create::<Pod>(GATE, own).await?;
    let settings = controller(pod).with("EVICTION", "true").with("ORPHAN_AFTER", "1s");
    harness.start_as(settings, &harness.cluster.kubeconfig_as_pod(GATE, pod).await?)
}

/// A node that is ready, and closed by an agent that is gone.
async fn node_without_agent(harness: &Harness, name: &str) -> Result<()> {
    harness.node(name, json!({})).await?;
    let closed = json!({"spec": {"taints": [{"key": "linkerd-gate/closed", "effect": "NoSchedule", "value": "b-1"}]}});
    let nodes = harness.nodes().await?;
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(closed)).await?;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Played"}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await?;
    Ok(())
}

/// An owner of each of the four kinds, whose pods the guard refuses.
async fn refuse_four(harness: &Harness) -> Result<()> {
    apply(harness, "61-admission-guard.yaml").await?;
    let pods: Api<Pod> = Api::namespaced(harness.cluster.client().await?, SHOP);
    let asked: Pod = object(pod_named("asked").json())?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let refused = async { while pods.create(&dry_run, &asked).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.context("the guard refuses nothing")?;

    harness.create::<ReplicaSet>(SHOP, unscheduled(set("late", 1))).await?;
    harness.create::<StatefulSet>(SHOP, unscheduled(stateful("late", 1))).await?;
    harness.create::<Job>(SHOP, unscheduled(job("late", 1))).await?;
    let mut everywhere = set("late", 1);
    everywhere["spec"].as_object_mut().context("a spec")?.remove("replicas");
    merge(&mut everywhere, &json!({"spec": {"template": {"spec": {"tolerations": [{"operator": "Exists"}]}}}}));
    harness.create::<DaemonSet>(SHOP, everywhere).await?;
    // Until their controllers pause for so long that they would not try again by themselves in time.
    let key = |kind: &str| (kind.to_owned(), SHOP.to_owned(), "late".to_owned());
    until_tried(harness, &["replicasets", "statefulsets", "daemonsets", "jobs"].map(key).into(), TRIES).await
}
