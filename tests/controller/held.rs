//! Pods that never ran: the cluster has no node, so none of them ever starts.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::shop::{
    all_bare, all_meshed, job, name, opened, recover, replica_set, stateful_set, until_event, until_pods,
};
use super::stage::controller;

#[tokio::test]
async fn what_was_created_bare_is_made_anew_once_injection_is_proven() -> Result<()> {
    let stage = opened().await?;
    replica_set(&stage, "web", 3).await?;
    stateful_set(&stage, "db", 2).await?;
    job(&stage, "once", 2, json!({})).await?;
    let bare = until_pods(&stage, "bare", |pods| all_bare(pods, 7)).await?;
    let replica = stage.start(controller("one"))?;
    let done = async {
        replica.until_said("looked at 7 pods: 7 are outside the mesh").await?;
        replica
            .until_said("shop/ReplicaSet web: 3 pods are outside the mesh (3 held, 0 running): 3 are replaced")
            .await?;
        until_event(&stage, "ReplicaSet", "web", "PodsOutsideMesh").await?;
        for pod in bare.values() {
            let name = name(pod)?;
            let event = until_event(&stage, "Pod", name, "OutsideMesh").await?;
            let message = event.message.unwrap_or_default();
            ensure!(message.contains(&format!("kubectl delete pod {name} --namespace shop")), "{message}");
        }
        ensure!(replica.metric("linkerd_gate_missed_pods", "state=\"held\"").await? == 7);
        recover(&stage).await?;
        let meshed = until_pods(&stage, "meshed", |pods| all_meshed(pods, 7)).await?;
        ensure!(meshed.values().all(|pod| bare.values().all(|before| before.metadata.uid != pod.metadata.uid)));
        replica.until_said("shop/Job once: no pod is outside the mesh any more").await?;
        ensure!(replica.metric("linkerd_gate_missed_pods", "").await? == 0);
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}
