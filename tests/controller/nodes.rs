//! Nodes that are closed and whose agent is gone.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use linkerd_gate::decide::node::taint::TAINT_KEY;
use linkerd_gate_kit::cluster;
use serde_json::{Value, json};

use super::shop::{SHOP, all_bare, all_meshed, merge, opened, pod, recover, set, until_meshed, until_pods};
use super::stage::{GATE, PATIENCE, Stage, agent_of, controller, is_closed, told};

#[tokio::test]
async fn a_closed_node_without_an_agent_is_opened_and_one_with_an_agent_is_left_to_it() -> Result<()> {
    let stage = opened().await?;
    stage.cluster.start_kwok().await?;
    let nodes = stage.cluster.fake_nodes(3).await?;
    let [orphan, tended, open] = nodes.as_slice() else { anyhow::bail!("not three nodes") };
    // The agent's pod tolerates the taint, as all of them do.
    stage.create::<Pod>(GATE, agent_on(tended)).await?;
    let agents: Api<Pod> = Api::namespaced(stage.cluster.client().await?, GATE);
    cluster::until(&agents, "agent", "ready", PATIENCE, super::shop::is_ready).await?;
    for node in [orphan, tended] {
        close(&stage, node).await?;
    }
    // Audit mode closes nothing, and lifts what was left from before it.
    let settings = controller("one").with("ORPHAN_AFTER", "2s");
    let mut audited = stage.start_apart(settings.with("MODE", "audit"), "audited").await?;
    stage.until_node(orphan, "open", |node| !is_closed(node)).await.with_context(|| audited.said())?;
    ensure!(audited.terminate().await? == 0, "{}", audited.said());
    close(&stage, orphan).await?;

    let replica = stage.start_apart(controller("one").with("ORPHAN_AFTER", "2s"), "controller").await?;
    let done = async {
        let event = stage.until_event(orphan, "GateOpenedOrphanNode").await?;
        ensure!(event.message.as_ref().is_some_and(|message| message.contains("had no agent")), "{event:?}");
        stage.until_node(orphan, "open", |node| !is_closed(node)).await?;
        ensure!(is_closed(&stage.nodes().await?.get(tended).await?), "a node was opened whose agent lives");
        // Once nothing of ours is there, it is an orphan as well.
        agents.delete("agent", &kube::api::DeleteParams::default()).await?;
        stage.until_node(tended, "open", |node| !is_closed(node)).await?;
        let requests = stage.requests_of("controller")?;
        let patched: Vec<_> = requests
            .iter()
            .filter(|request| request.resource == "nodes" && request.verb == "patch")
            .map(|request| request.name.as_str())
            .collect();
        ensure!(patched == [orphan, tended], "not one write for each of them, and none for {open}: {patched:?}");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

/// Nothing but their closed nodes keeps these pods from starting: no policy holds or refuses them.
#[tokio::test]
async fn of_a_hundred_bare_pods_on_closed_nodes_the_scheduler_binds_none() -> Result<()> {
    const SETS: usize = 4;
    const PODS: usize = 100;
    let stage = opened().await?;
    stage.cluster.start_kwok().await?;
    let nodes = stage.cluster.fake_nodes(2).await?;
    let mut agents = Vec::new();
    for node in &nodes {
        stage.annotate_node(node, "linkerd-gate/opened-boot", Some("an-earlier-boot")).await?;
        // However long this machine takes to replace them all.
        agents.push(stage.start(agent_of(node, "boot-1").with("REPAIR_GRACE", "1h").with("NODE_MAX_CLOSED", "1h"))?);
    }
    let story = async {
        for node in &nodes {
            stage.until_node(node, "closed", is_closed).await?;
        }
        for place in 0..SETS {
            stage.create::<ReplicaSet>(SHOP, set(&format!("web-{place}"), u32::try_from(PODS / SETS)?)).await?;
        }
        let bare = until_pods(&stage, "bare", |pods| all_bare(pods, PODS)).await?;
        agents.push(stage.start_apart(controller("one"), "controller").await?);
        let leases = stage.leases().await?;
        let counted = |lease: &Lease| {
            let annotations = lease.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get("linkerd-gate/pending-repair")).is_some_and(|said| said.contains(":100"))
        };
        cluster::until(&leases, "linkerd-gate-controller", "100 pods counted", PATIENCE, counted).await?;
        recover(&stage).await?;
        until_meshed(&stage, PODS, |pods| all_meshed(pods, PODS)).await?;
        for node in &nodes {
            stage.until_node(node, "open", |node| !is_closed(node)).await?;
        }
        let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let after = until_pods(&stage, "placed", |pods| all_meshed(pods, PODS) && pods.values().all(placed)).await?;
        let bound: BTreeSet<String> = stage
            .cluster
            .requests_of("system:kube-scheduler")?
            .into_iter()
            .filter(|request| request.subresource == "binding" && request.namespace == SHOP)
            .map(|request| request.name)
            .collect();
        let names = |pods: &super::shop::Pods| -> BTreeSet<String> {
            pods.values().filter_map(|pod| pod.metadata.name.clone()).collect()
        };
        let (before, after) = (names(&bare), names(&after));
        ensure!(bound.is_disjoint(&before), "bound without a proxy: {:?}", bound.intersection(&before));
        ensure!(bound == after, "the audit log tells of other bindings than there are: {bound:?}");
        anyhow::Ok(())
    };
    let outcome = story.await;
    outcome.with_context(|| told(&agents))
}

fn agent_on(node: &str) -> Value {
    let mut agent = pod("agent");
    merge(
        &mut agent,
        &json!({
            "metadata": {"labels": {"app.kubernetes.io/name": "linkerd-gate", "app.kubernetes.io/component": "agent"}},
            "spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}]},
        }),
    );
    agent
}

async fn close(stage: &Stage, node: &str) -> Result<()> {
    let closed = json!({"spec": {"taints": [{"key": TAINT_KEY, "effect": "NoSchedule"}]}});
    stage.nodes().await?.patch(node, &PatchParams::default(), &Patch::Merge(closed)).await?;
    Ok(())
}
