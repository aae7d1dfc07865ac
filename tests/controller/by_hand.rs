//! A person's word for everything: nothing is made anew past it, and what was begun is brought to its end all the same.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use linkerd_gate_kit::cluster;
use serde_json::json;

use super::shop::{SHOP, all_bare, all_meshed, job, merge, opened, recover, removals, set, until_pods, waiting};
use super::stage::{GATE, PATIENCE, Stage, controller, is_closed};

#[tokio::test]
async fn closed_by_hand_nothing_is_replaced_or_opened_and_a_suspended_job_is_resumed() -> Result<()> {
    let stage = opened().await?;
    stage.create::<ReplicaSet>(SHOP, set("web", 1)).await?;
    until_pods(&stage, "bare", |pods| all_bare(pods, 1)).await?;
    let mut marked = waiting(job("marked", 1));
    let mark = json!({"linkerd-gate/suspended-at": "2026-01-01T00:00:00Z"});
    merge(&mut marked, &json!({"metadata": {"annotations": mark}, "spec": {"suspend": true}}));
    stage.create::<Job>(SHOP, marked).await?;
    orphan(&stage, "node-0").await?;
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    let word = json!({"linkerd-gate/override": format!("closed {until}")});
    stage.create::<Lease>(GATE, json!({"metadata": {"name": GATE, "annotations": word}})).await?;
    recover(&stage).await?;

    let replica = stage.start_apart(controller("one").with("ORPHAN_AFTER", "1s"), "controller").await?;
    let done = async {
        replica.until_said("manual override: no pod is replaced").await?;
        replica.until_said("proof: open").await?;
        replica.until_said("resumed Job namespace=shop owner=Job marked").await?;
        // For longer than the node may be closed, and many plans.
        renewals(&stage, 2).await?;
        let pods = until_pods(&stage, "the Job's", |pods| pods.len() == 2).await?;
        ensure!(!all_meshed(&pods, 2), "past a person's word: {pods:?}");
        ensure!(removals(&stage.requests_of("controller")?).is_empty(), "past a person's word");
        ensure!(is_closed(&stage.nodes().await?.get("node-0").await?), "past a person's word");

        stage.annotate_lease("linkerd-gate/override", None).await?;
        replica.until_said("manual override ended").await?;
        until_pods(&stage, "meshed", |pods| all_meshed(pods, 2)).await?;
        stage.until_node("node-0", "open", |node| !is_closed(node)).await?;
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

/// A node that is ready, and closed by an agent that is gone.
async fn orphan(stage: &Stage, name: &str) -> Result<()> {
    stage.node(name, json!({})).await?;
    let closed = json!({"spec": {"taints": [{"key": "linkerd-gate/closed", "effect": "NoSchedule"}]}});
    let nodes = stage.nodes().await?;
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(closed)).await?;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Played"}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await?;
    Ok(())
}

/// Waits until the controller has renewed its Lease so often: every five seconds.
async fn renewals(stage: &Stage, count: usize) -> Result<()> {
    let leases = stage.leases().await?;
    let of = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
    for _ in 0..count {
        let before = of(&leases.get("linkerd-gate-controller").await?);
        cluster::until(&leases, "linkerd-gate-controller", "renewed", PATIENCE, |lease| of(lease) != before).await?;
    }
    Ok(())
}
