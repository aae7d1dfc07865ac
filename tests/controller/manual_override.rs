//! A person's word for everything: nothing is made anew past it, and what was begun is brought to its end all the same.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use linkerd_gate_kit::cluster;
use serde_json::json;

use super::harness::{GATE, Harness, PATIENCE, controller, is_closed};
use super::workloads::{SHOP, all_bare, all_meshed, job, merge, opened, recover, removals, set, until_pods, waiting};

#[tokio::test]
async fn a_closed_override_stops_repair_and_resumes_suspended_jobs() -> Result<()> {
    let harness = opened().await?;
    harness.create::<ReplicaSet>(SHOP, set("web", 1)).await?;
    until_pods(&harness, "bare", |pods| all_bare(pods, 1)).await?;
    let mut marked = waiting(job("marked", 1));
    let mark = json!({"linkerd-gate/suspended-at": "2026-01-01T00:00:00Z"});
    merge(&mut marked, &json!({"metadata": {"annotations": mark}, "spec": {"suspend": true}}));
    harness.create::<Job>(SHOP, marked).await?;
    orphan(&harness, "node-0").await?;
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    let word = json!({"linkerd-gate/override": format!("closed {until}")});
    harness.create::<Lease>(GATE, json!({"metadata": {"name": GATE, "annotations": word}})).await?;
    recover(&harness).await?;

    let replica = harness.start_apart(controller("one").with("ORPHAN_AFTER", "1s"), "controller").await?;
    let done = async {
        replica.until_said("manual override: no pod is replaced").await?;
        replica.until_said("proof: open").await?;
        replica.until_said("resumed Job namespace=shop owner=Job marked").await?;
        // For longer than the node may be closed, and many plans.
        renewals(&harness, 2).await?;
        let pods = until_pods(&harness, "the Job's", |pods| pods.len() == 2).await?;
        ensure!(!all_meshed(&pods, 2), "past a person's word: {pods:?}");
        ensure!(removals(&harness.requests_of("controller").await?).is_empty(), "past a person's word");
        ensure!(is_closed(&harness.nodes().await?.get("node-0").await?), "past a person's word");

        harness.annotate_lease("linkerd-gate/override", None).await?;
        replica.until_said("manual override ended").await?;
        until_pods(&harness, "meshed", |pods| all_meshed(pods, 2)).await?;
        harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

/// A node that is ready, and closed by an agent that is gone.
async fn orphan(harness: &Harness, name: &str) -> Result<()> {
    harness.node(name, json!({})).await?;
    let closed = json!({"spec": {"taints": [{"key": "linkerd-gate/closed", "effect": "NoSchedule"}]}});
    let nodes = harness.nodes().await?;
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(closed)).await?;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Played"}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await?;
    Ok(())
}

/// Waits until the controller has renewed its Lease so often: every five seconds.
async fn renewals(harness: &Harness, count: usize) -> Result<()> {
    let leases = harness.leases().await?;
    let of = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
    for _ in 0..count {
        let before = of(&leases.get("linkerd-gate-controller").await?);
        cluster::until(&leases, "linkerd-gate-controller", "renewed", PATIENCE, |lease| of(lease) != before).await?;
    }
    Ok(())
}
