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

use super::harness::{GATE, Harness, PATIENCE, agent_of, controller, is_closed, logs_of};
use super::workloads::{SHOP, all_bare, all_meshed, merge, opened, pod, recover, set, until_meshed, until_pods};

#[tokio::test]
async fn the_controller_opens_only_closed_nodes_without_an_agent() -> Result<()> {
    let harness = opened().await?;
    harness.cluster.start_kwok().await?;
    let nodes = harness.cluster.fake_nodes(3).await?;
    let [orphan, with_agent, open] = nodes.as_slice() else { anyhow::bail!("not three nodes") };
    // The agent's pod tolerates the taint, as all of them do.
    harness.create::<Pod>(GATE, agent_on(with_agent)).await?;
    let agents: Api<Pod> = Api::namespaced(harness.cluster.client().await?, GATE);
    cluster::until(&agents, "agent", "ready", PATIENCE, super::workloads::is_ready).await?;
    for node in [orphan, with_agent] {
        close(&harness, node).await?;
    }
    // Audit mode closes nothing, and lifts what was left from before it.
    let settings = controller("one").with("ORPHAN_AFTER", "2s");
    let mut audited = harness.start_apart(settings.with("MODE", "audit"), "audited").await?;
    harness.until_node(orphan, "open", |node| !is_closed(node)).await.with_context(|| audited.said())?;
    ensure!(audited.terminate().await? == 0, "{}", audited.said());
    close(&harness, orphan).await?;

    let replica = harness.start_apart(controller("one").with("ORPHAN_AFTER", "2s"), "controller").await?;
    let done = async {
        let event = harness.until_event(orphan, "GateOpenedOrphanNode").await?;
        ensure!(event.message.as_ref().is_some_and(|message| message.contains("had no agent")), "{event:?}");
        harness.until_node(orphan, "open", |node| !is_closed(node)).await?;
        ensure!(is_closed(&harness.nodes().await?.get(with_agent).await?), "a node was opened whose agent lives");
        // Once nothing of ours is there, it is an orphan as well.
        agents.delete("agent", &kube::api::DeleteParams::default()).await?;
        harness.until_node(with_agent, "open", |node| !is_closed(node)).await?;
        let requests = harness.requests_of("controller").await?;
        let patched: Vec<_> = requests
            .iter()
            .filter(|request| request.resource == "nodes" && request.verb == "patch")
            .map(|request| request.name.as_str())
            .collect();
        ensure!(patched == [orphan, with_agent], "not one write for each of them, and none for {open}: {patched:?}");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

/// Nothing but their closed nodes keeps these pods from starting: no policy holds or refuses them.
#[tokio::test]
async fn the_scheduler_binds_no_bare_pod_to_a_closed_node() -> Result<()> {
    const SETS: usize = 4;
    const PODS: usize = 100;
    let harness = opened().await?;
    harness.cluster.start_kwok().await?;
    let nodes = harness.cluster.fake_nodes(2).await?;
    let mut agents = Vec::new();
    for node in &nodes {
        harness.annotate_node(node, "linkerd-gate/opened-boot", Some("an-earlier-boot")).await?;
        // However long this machine takes to replace them all.
        agents.push(harness.start(agent_of(node, "boot-1").with("REPAIR_GRACE", "1h").with("NODE_MAX_CLOSED", "1h"))?);
    }
    let story = async {
        for node in &nodes {
            harness.until_node(node, "closed", is_closed).await?;
        }
        for place in 0..SETS {
            harness.create::<ReplicaSet>(SHOP, set(&format!("web-{place}"), u32::try_from(PODS / SETS)?)).await?;
        }
        let bare = until_pods(&harness, "bare", |pods| all_bare(pods, PODS)).await?;
        agents.push(harness.start_apart(controller("one"), "controller").await?);
        let leases = harness.leases().await?;
        let counted = |lease: &Lease| {
            let annotations = lease.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get("linkerd-gate/pending-repair")).is_some_and(|said| said.contains(":100"))
        };
        cluster::until(&leases, "linkerd-gate-controller", "100 pods counted", PATIENCE, counted).await?;
        recover(&harness).await?;
        until_meshed(&harness, PODS, |pods| all_meshed(pods, PODS)).await?;
        for node in &nodes {
            harness.until_node(node, "open", |node| !is_closed(node)).await?;
        }
        let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let after = until_pods(&harness, "placed", |pods| all_meshed(pods, PODS) && pods.values().all(placed)).await?;
        let bound: BTreeSet<String> = harness
            .cluster
            .requests_of("system:kube-scheduler")?
            .into_iter()
            .filter(|request| request.subresource == "binding" && request.namespace == SHOP)
            .map(|request| request.name)
            .collect();
        let names = |pods: &super::workloads::Pods| -> BTreeSet<String> {
            pods.values().filter_map(|pod| pod.metadata.name.clone()).collect()
        };
        let (before, after) = (names(&bare), names(&after));
        ensure!(bound.is_disjoint(&before), "bound without a proxy: {:?}", bound.intersection(&before));
        ensure!(bound == after, "the audit log tells of other bindings than there are: {bound:?}");
        anyhow::Ok(())
    };
    let outcome = story.await;
    outcome.with_context(|| logs_of(&agents))
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

async fn close(harness: &Harness, node: &str) -> Result<()> {
    let closed = json!({"spec": {"taints": [{"key": TAINT_KEY, "effect": "NoSchedule"}]}});
    harness.nodes().await?.patch(node, &PatchParams::default(), &Patch::Merge(closed)).await?;
    Ok(())
}
