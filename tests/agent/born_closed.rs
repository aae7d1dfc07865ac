//! Nodes that have the taint from their registration on, by the policy that the chart renders with `agent.bornClosed`.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use linkerd_gate::decide::node::taint::{NodeView, TAINT_KEY};
use linkerd_gate_kit::parts::find_helm;
use serde_json::json;
use tokio::process::Command;

use super::harness::{Harness, PATIENCE, agent_of, controller, is_closed, logs_of, object, opened};

/// Applies what the chart renders, and waits until it counts.
async fn bear_closed(harness: &Harness) -> Result<()> {
    let helm = tokio::task::spawn_blocking(find_helm).await??;
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/chart");
    let rendered = Command::new(helm)
        .args(["template", "linkerd-gate", chart, "--namespace", "linkerd-gate"])
        .args(["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"])
        .args(["--set", "agent.bornClosed=true,image.repository=REGISTRY/linkerd-gate"])
        .args(["--show-only", "templates/admission/born-closed.yaml"])
        .env_remove("KUBECONFIG")
        .output()
        .await?;
    ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), rendered.stdout)?;
    let applied =
        Command::new(harness.cluster.kubectl()).args(["apply", "--filename"]).arg(file.path()).output().await?;
    ensure!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    // An API server follows a policy a moment after it was written.
    let (nodes, dry_run) = (harness.nodes().await?, PostParams { dry_run: true, ..PostParams::default() });
    let counts = async {
        while !is_closed(&nodes.create(&dry_run, &registration("is-it-so")?).await?) {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, counts).await.context("the policy does not count")?
}

/// As a kubelet registers its node.
fn registration(name: &str) -> Result<Node> {
    object(json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}}))
}

#[tokio::test]
async fn a_born_closed_node_is_opened_by_its_agent_or_as_an_orphan() -> Result<()> {
    let harness = Harness::set().await?;
    bear_closed(&harness).await?;
    let nodes = harness.nodes().await?;
    // One that gets no agent, since it is no machine, is left alone.
    let mut fargate = registration("fargate")?;
    fargate.metadata.labels.get_or_insert_default().insert("eks.amazonaws.com/compute-type".into(), "fargate".into());
    ensure!(!is_closed(&nodes.create(&PostParams::default(), &fargate).await?), "a virtual node was born closed");
    for name in ["node-0", "orphan"] {
        let born = nodes.create(&PostParams::default(), &registration(name)?).await?;
        let view = NodeView::of(&born);
        let taint = view.taint(TAINT_KEY).context("it was not born closed")?;
        ensure!(taint.value.as_deref().unwrap_or_default().is_empty() && view.opened_boot.is_none(), "{born:?}");
    }

    // The agent takes it over: closed since now, and opened when proven, in one write each.
    let agent = harness.start_apart(agent_of("node-0", "boot-1"), "agent").await?;
    let story = async {
        let stamped = |node: &Node| {
            let taint = NodeView::of(node).taint(TAINT_KEY).and_then(|taint| taint.value.clone());
            taint.is_some_and(|value| value.starts_with("boot1-"))
        };
        harness.until_node("node-0", "taken over", stamped).await?;
        agent.until_says("node closed: injection is not proven in this boot").await?;
        harness.injector.recover().await?;
        harness.until_node("node-0", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;
        ensure!(!is_closed(&nodes.get("node-0").await?));
        let patched = harness.requests_of("agent").await?;
        let patched = patched.iter().filter(|request| request.resource == "nodes" && request.verb == "patch").count();
        ensure!(patched == 2, "{patched} writes");
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())?;

    // No agent ever comes to the other. A node that is not ready gets no pods, and is left alone.
    let replica = harness.start_apart(controller("one").with("ORPHAN_AFTER", "2s"), "controller").await?;
    let story = async {
        ensure!(is_closed(&nodes.get("orphan").await?));
        let condition = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"});
        let status = kube::api::Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        nodes.patch_status("orphan", &kube::api::PatchParams::default(), &status).await?;
        harness.until_event("orphan", "GateOpenedOrphanNode").await?;
        harness.until_node("orphan", "open", |node| !is_closed(node)).await?;
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&agent, &replica]))
}
