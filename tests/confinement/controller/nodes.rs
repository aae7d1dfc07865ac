//! Nodes: opened, and nothing else.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate::decide::node::taint::{OPENED_BOOT, TAINT_EFFECT, TAINT_KEY};
use serde_json::{Value, json};

use crate::harness::with_every_right;
use crate::write::{Attack, Change, Form, Write, change, get, send};

const POLICY: &str = "linkerd-gate-controller-nodes";
const NODE: &str = "/api/v1/nodes/left-closed";

fn closed() -> Value {
    json!({"key": TAINT_KEY, "value": "3f2a9c1e5b1d-7", "effect": TAINT_EFFECT})
}

fn taints(node: &mut Value) -> &mut Vec<Value> {
    node["spec"]["taints"].as_array_mut().expect("taints")
}

fn lift(node: &mut Value) {
    taints(node).retain(|taint| taint["key"] != TAINT_KEY);
}

#[tokio::test]
async fn the_controller_opens_a_node_and_does_nothing_else_to_it() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    // No agent's: no node of this name counts for the DaemonSet.
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "left-closed",
            "labels": {"a": "b"},
            "annotations": {"example.com/somebody": "else", OPENED_BOOT: "a-boot"},
        },
        "spec": {"taints": [{"key": "example.com/gpu", "effect": "NoSchedule"}, closed()]},
    });
    send(&admin, &Write::create("/api/v1/nodes", &node)).await?;
    let (metadata, spec, one) = (
        "annotations, owners, finalizers and other metadata",
        "nothing of a node's spec but one taint",
        "neither sets nor removes another",
    );
    let attacks: [(&str, &str, Change); 14] = [
        ("a label", metadata, |node| node["metadata"]["labels"]["a"] = "c".into()),
        ("an annotation", metadata, |node| node["metadata"]["annotations"]["a"] = "b".into()),
        ("the agent's annotation", metadata, |node| node["metadata"]["annotations"][OPENED_BOOT] = "b".into()),
        ("an annotation and the taint", metadata, |node| {
            node["metadata"]["annotations"][OPENED_BOOT] = "b".into();
            lift(node);
        }),
        ("a finalizer", metadata, |node| node["metadata"]["finalizers"] = json!(["example.com/never"])),
        ("an owner", metadata, |node| {
            node["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": "gone"}]);
        }),
        ("cordon", spec, |node| node["spec"]["unschedulable"] = true.into()),
        ("a provider", spec, |node| node["spec"]["providerID"] = "cloud://another".into()),
        ("cordon and the taint", spec, |node| {
            node["spec"]["unschedulable"] = true.into();
            lift(node);
        }),
        ("another taint", one, |node| taints(node).push(json!({"key": "another", "effect": "NoSchedule"}))),
        ("our taint with another effect", one, |node| {
            taints(node).push(json!({"key": TAINT_KEY, "effect": "NoExecute"}));
        }),
        ("another value", one, |node| {
            taints(node).iter_mut().find(|taint| taint["key"] == TAINT_KEY).expect("ours")["value"] = "another".into();
        }),
        ("somebody's taint lifted", one, |node| taints(node).retain(|taint| taint["key"] == TAINT_KEY)),
        ("every taint lifted", one, |node| taints(node).clear()),
    ];
    for (what, words, wanted) in attacks {
        attack.is_refused(what, NODE, wanted, words).await?;
    }
    let words = "neither creates nor deletes them, nor writes their status";
    let status = format!("{NODE}/status");
    let capacity = |node: &mut Value| node["status"]["capacity"] = json!({"cpu": "96"});
    attack.is_refused("its capacity", &status, capacity, words).await?;
    let label = |node: &mut Value| node["metadata"]["labels"]["a"] = "c".into();
    attack.is_refused("a label by the status", &status, label, words).await?;
    let another = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-x"}});
    attack.write_is_refused("a new node", &Write::create("/api/v1/nodes", &another), words).await?;
    attack.write_is_refused("its end", &Write::delete(NODE), words).await?;
    attack.is_refused_alone("its kubelet", &Write::connect("/api/v1/nodes/node-a/proxy/pods"), words).await?;
    let nowhere = harness.controller_without_a_pod().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    without_node.is_refused("a token of no pod", NODE, lift, "by the token of its pod").await?;

    // Closed by nobody, opened again and again; as JSON patch it goes as the controller sends it.
    let before = get(&admin, NODE).await?["spec"]["taints"].clone();
    for form in [Form::JsonPatch, Form::MergePatch, Form::Replace] {
        let written = change(&controller, form, NODE, false, lift).await?.context("this form can")??;
        let left: Vec<_> = before.as_array().into_iter().flatten().filter(|taint| taint["key"] != TAINT_KEY).collect();
        ensure!(written["spec"]["taints"] == json!(left), "{written:#}");
        let close = |node: &mut Value| taints(node).push(closed());
        attack.is_refused("closed", NODE, close, one).await?;
        change(&admin, Form::MergePatch, NODE, false, close).await?.context("a merge patch can")??;
    }
    send(&admin, &Write::delete(NODE)).await?;
    Ok(())
}
