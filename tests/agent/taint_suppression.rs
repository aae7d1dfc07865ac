//! An essential DaemonSet that does not tolerate the taint, as `svclb-*` of k3s: a node yields only while it lacks its pod.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use linkerd_gate::decide::node::essential::DaemonPodView;
use linkerd_gate_kit::cluster;
use serde_json::{Value, json};

use super::harness::{Harness, PATIENCE, agent_of, is_closed, logs_of, opened};

/// A DaemonSet of kube-system on the nodes of a pool, whose pods tolerate what these nodes without a kubelet have, and not our taint.
fn daemon_set(name: &str, pool: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "nodeSelector": {"pool": pool},
                    "tolerations": [
                        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
                        {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
                    ],
                    "containers": [{"name": "lb", "image": "lb:1"}],
                },
            },
        },
    })
}

/// Waits until a node has its pod of that DaemonSet.
async fn until_pod_on(harness: &Harness, set: &str, node: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(harness.cluster.client().await?, "kube-system");
    let only = ListParams::default().labels(&format!("app={set}"));
    let is_there = |pods: &std::collections::BTreeMap<String, Pod>| {
        // Nodes without a kubelet have no room for it: it stays Pending, and is for that node all the same.
        let on = |pod: &Pod| DaemonPodView::of(pod).is_some_and(|view| view.node == node);
        pods.values().any(on).then_some(())
    };
    cluster::until_any(&pods, &only, &format!("a pod of {set} on {node}"), PATIENCE, is_there).await
}

async fn label(harness: &Harness, node: &str) -> Result<()> {
    let pool = Patch::Merge(json!({"metadata": {"labels": {"pool": "lb"}}}));
    harness.nodes().await?.patch(node, &PatchParams::default(), &pool).await?;
    Ok(())
}

#[tokio::test]
async fn a_taint_is_suppressed_only_while_an_essential_pod_is_missing() -> Result<()> {
    let harness = Harness::set().await?;
    for node in ["node-0", "node-1"] {
        harness.node_of_an_earlier_boot(node).await?;
    }
    label(&harness, "node-0").await?;
    harness.create::<DaemonSet>("kube-system", daemon_set("svclb-web", "lb")).await?;
    // What matches no node opens none.
    harness.create::<DaemonSet>("kube-system", daemon_set("left-over", "nowhere")).await?;
    until_pod_on(&harness, "svclb-web", "node-0").await?;

    let has_it = harness.start_apart(agent_of("node-0", "boot-1"), "has-it").await?;
    has_it.until_says("gate: waiting: injection not ready").await.with_context(|| has_it.said())?;
    let lacks_it = harness.start_apart(agent_of("node-1", "boot-1"), "lacks-it").await?;
    let story = async {
        // Both are closed: one has its pod, which the taint does not end, and the other is to have none.
        for node in ["node-0", "node-1"] {
            harness.until_node(node, "closed", is_closed).await?;
        }
        ensure!(has_it.metric("linkerd_gate_taint_suppressing_daemonsets", "").await? == 0);
        // The other joins the pool: it yields until its pod is there, and says so.
        label(&harness, "node-1").await?;
        let event = harness.until_event("node-1", "GateTaintSuppressed").await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
        ensure!(event.message.is_some_and(|text| text.ends_with(": kube-system/svclb-web")), "to what?");
        until_pod_on(&harness, "svclb-web", "node-1").await?;
        harness.until_node("node-1", "closed again", is_closed).await?;
        has_it.until_said("taint suppressed: a DaemonSet does not tolerate it").await?;
        has_it.until_said("taint no longer suppressed").await?;
        ensure!(is_closed(&harness.nodes().await?.get("node-0").await?));
        ensure!(has_it.times_said("node not tainted: these DaemonSets") == 0, "it yielded to a pod that it has");
        ensure!(lacks_it.times_said("node not tainted: these DaemonSets") == 1);
        harness.injector.recover().await?;
        for node in ["node-0", "node-1"] {
            harness.until_node(node, "open", |node| !is_closed(node)).await?;
        }
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&has_it, &lacks_it]))
}

#[tokio::test]
async fn no_node_waits_for_a_daemon_set_that_is_ignored() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    // Closed before the DaemonSets come, so that it lacks both.
    let agent = agent_of("node-0", "boot-1").with("IGNORED_DAEMON_SETS", "kube-system/svclb-*");
    let agent = harness.start_apart(agent, "agent").await?;
    let story = async {
        harness.until_node("node-0", "closed", is_closed).await?;
        label(&harness, "node-0").await?;
        harness.create::<DaemonSet>("kube-system", daemon_set("svclb-web", "lb")).await?;
        let mut optional = daemon_set("optional", "lb");
        optional["metadata"]["labels"] = json!({"linkerd-gate/essential": "false"});
        harness.create::<DaemonSet>("kube-system", optional).await?;
        // One that counts comes after them: what it does is seen, and names it alone.
        harness.create::<DaemonSet>("kube-system", daemon_set("cni", "lb")).await?;
        let event = harness.until_event("node-0", "GateTaintSuppressed").await?;
        ensure!(event.message.is_some_and(|text| text.ends_with(": kube-system/cni")), "to what else?");
        // It is closed again as soon as its pod is there, which may be before anybody looks.
        let node = harness.nodes().await?.get("node-0").await?;
        ensure!(opened(&node).as_deref() == Some("an-earlier-boot"), "it is noted as opened: {node:?}");
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}
