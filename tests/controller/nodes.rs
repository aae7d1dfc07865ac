//! Nodes that are closed and whose agent is gone.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use linkerd_gate::decide::node::taint::TAINT_KEY;
use linkerd_gate_kit::cluster;
use serde_json::{Value, json};

use super::shop::{merge, opened, pod};
use super::stage::{GATE, PATIENCE, Stage, controller, is_closed};

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
