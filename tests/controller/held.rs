//! Pods that never ran: the cluster has no node, so none of them ever starts.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;

use super::harness::controller;
use super::workloads::{
    SHOP, all_bare, all_meshed, job, name, opened, recover, set, stateful, until_event, until_pods, waiting,
};

#[tokio::test]
async fn bare_pods_are_recreated_once_injection_is_proven() -> Result<()> {
    let harness = opened().await?;
    // One pod of the StatefulSet: the next one's turn would come when this one is ready, or after a minute.
    harness.create::<ReplicaSet>(SHOP, set("web", 3)).await?;
    harness.create::<StatefulSet>(SHOP, stateful("db", 1)).await?;
    harness.create::<Job>(SHOP, waiting(job("once", 2))).await?;
    let bare = until_pods(&harness, "bare", |pods| all_bare(pods, 6)).await?;
    let replica = harness.start(controller("one"))?;
    let done = async {
        replica.until_said("first scan complete pods=6 missed=6").await?;
        replica
            .until_said("pods outside the mesh: 3 to replace namespace=shop owner=ReplicaSet web held=3 running=0")
            .await?;
        until_event(&harness, "ReplicaSet", "web", "PodsOutsideMesh").await?;
        for pod in bare.values() {
            let name = name(pod)?;
            let event = until_event(&harness, "Pod", name, "OutsideMesh").await?;
            let message = event.message.unwrap_or_default();
            // A command that does no harm where it is pasted without a thought: a Job counts what is deleted.
            let harmless = !message.contains("kubectl delete pod") && message.contains("counts against its Job's");
            let command = message.contains(&format!("kubectl delete pod {name} --namespace shop"));
            ensure!(if name.starts_with("once") { harmless } else { command }, "{message}");
        }
        // The Job is suspended by then, whether injection is proven or not: its clock stands.
        until_pods(&harness, "without those of the Job", |pods| all_bare(pods, 4)).await?;
        replica.until_said("no pod is outside the mesh any more namespace=shop owner=Job once").await?;
        ensure!(replica.metric("linkerd_gate_missed_pods", "state=\"held\"").await? == 4);
        recover(&harness).await?;
        let meshed = until_pods(&harness, "meshed", |pods| all_meshed(pods, 6)).await?;
        ensure!(meshed.values().all(|pod| bare.values().all(|before| before.metadata.uid != pod.metadata.uid)));
        replica.until_said("no pod is outside the mesh any more namespace=shop owner=StatefulSet db").await?;
        replica.until_said("no pod is outside the mesh any more namespace=shop owner=ReplicaSet web").await?;
        ensure!(replica.metric("linkerd_gate_missed_pods", "").await? == 0);
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}
