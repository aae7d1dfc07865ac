//! Nodes: its own, one taint, one annotation.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate::decide::manual_override;
use linkerd_gate::decide::node::taint::{LEFT_OPEN_BOOT, OPENED_BOOT, TAINT_EFFECT, TAINT_KEY};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, with_every_right};
use crate::write::{Attack, Change, Form, Write, change, get, send};

const POLICY: &str = "linkerd-gate-agent-nodes";
const OWN: &str = "/api/v1/nodes/node-a";

fn closed() -> Value {
    json!({"key": TAINT_KEY, "value": "3f2a9c1e5b1d-7", "effect": TAINT_EFFECT})
}

fn taint(node: &mut Value, taint: Value) {
    node["spec"]["taints"].as_array_mut().expect("taints").push(taint);
}

#[tokio::test]
async fn the_agent_writes_only_its_taint_and_annotation_on_its_node() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let before = get(&admin, OWN).await?;
    let attack = Attack { anybody: &admin, attacker: &agent, policy: POLICY };
    let (metadata, spec) = ("other metadata as they are", "nothing of a node's spec but one taint");
    let (annotation, taints) = ("no annotation on a node but", "no taint but");
    let attacks: [(&str, &str, Change); 17] = [
        ("a label", metadata, |node| node["metadata"]["labels"]["a"] = "b".into()),
        ("no label", metadata, |node| drop(fields(&mut node["metadata"]["labels"]).remove("kubernetes.io/hostname"))),
        ("a finalizer", metadata, |node| node["metadata"]["finalizers"] = json!(["example.com/never"])),
        ("an owner", metadata, |node| {
            node["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": "gone"}]);
        }),
        ("cordon", spec, |node| node["spec"]["unschedulable"] = true.into()),
        ("a provider", spec, |node| node["spec"]["providerID"] = "cloud://another".into()),
        ("a range of pod addresses", spec, |node| {
            node["spec"]["podCIDR"] = "10.9.0.0/24".into();
            node["spec"]["podCIDRs"] = json!(["10.9.0.0/24"]);
        }),
        ("another taint", taints, |node| taint(node, json!({"key": "another", "effect": "NoSchedule"}))),
        ("NoExecute", taints, |node| taint(node, json!({"key": "linkerd-gate/closed", "effect": "NoExecute"}))),
        ("PreferNoSchedule", taints, |node| {
            taint(node, json!({"key": "linkerd-gate/closed", "effect": "PreferNoSchedule"}));
        }),
        ("somebody's taint lifted", taints, |node| drop(list(&mut node["spec"]["taints"]).remove(0))),
        ("somebody's taint and ours", taints, |node| list(&mut node["spec"]["taints"])[0] = closed()),
        ("a taint with a time", "with a value and no other field", |node| {
            let mut closed = closed();
            closed["timeAdded"] = "2026-01-01T00:00:00Z".into();
            taint(node, closed);
        }),
        ("an annotation", annotation, |node| node["metadata"]["annotations"]["a"] = "b".into()),
        ("a person's word", annotation, |node| {
            node["metadata"]["annotations"][manual_override::ANNOTATION] = "open 2026-01-01T06:00:00Z".into();
        }),
        ("somebody's annotation", annotation, |node| {
            node["metadata"]["annotations"]["example.com/somebody"] = "mine".into();
        }),
        ("a long annotation", "at most 64 characters", |node| {
            node["metadata"]["annotations"][OPENED_BOOT] = "x".repeat(65).into();
        }),
    ];
    for (what, words, wanted) in attacks {
        attack.is_refused(what, OWN, wanted, words).await?;
    }
    let after = get(&admin, OWN).await?;
    ensure!(after == before, "something was written: {after:#}");
    Ok(())
}

fn fields(value: &mut Value) -> &mut serde_json::Map<String, Value> {
    value.as_object_mut().expect("an object")
}

fn list(value: &mut Value) -> &mut Vec<Value> {
    value.as_array_mut().expect("a list")
}

#[tokio::test]
async fn the_agent_writes_no_other_node_and_none_without_its_token() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let attack = Attack { anybody: &admin, attacker: &agent, policy: POLICY };
    let words = "the node that it runs on";
    let set = |node: &mut Value| taint(node, closed());
    let annotate = |node: &mut Value| node["metadata"]["annotations"][OPENED_BOOT] = "b".into();
    attack.is_refused("another's taint", "/api/v1/nodes/node-b", set, words).await?;
    attack.is_refused("another's annotation", "/api/v1/nodes/node-b", annotate, words).await?;

    let nowhere = harness.agent_without_a_node().await?;
    let attack = Attack { attacker: &nowhere, ..attack };
    attack.is_refused("a token without a node", OWN, set, words).await
}

#[tokio::test]
async fn an_agent_writes_no_status_and_makes_and_ends_no_node() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let attack = Attack { anybody: &admin, attacker: &agent, policy: POLICY };
    let words = "neither creates nor deletes them, nor writes their status";
    let status = format!("{OWN}/status");
    let capacity = |node: &mut Value| node["status"]["capacity"]["cpu"] = "96".into();
    attack.is_refused("its capacity", &status, capacity, words).await?;
    let condition = |node: &mut Value| node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    attack.is_refused("its condition", &status, condition, words).await?;
    // A label can be written through the status as well.
    let label = |node: &mut Value| node["metadata"]["labels"]["a"] = "b".into();
    attack.is_refused("a label by the status", &status, label, words).await?;

    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-x"}});
    attack.write_is_refused("a new node", &Write::create("/api/v1/nodes", &node), words).await?;
    attack.write_is_refused("a node by apply", &Write::apply("/api/v1/nodes/node-x", &node), words).await?;
    attack.write_is_refused("its end", &Write::delete(OWN), words).await?;
    let kubelet = Write::connect(&format!("{OWN}/proxy/pods"));
    attack.is_refused_alone("through the API server to its kubelet", &kubelet, words).await
}

#[tokio::test]
async fn the_agent_sets_and_removes_its_taint_and_its_annotation() -> Result<()> {
    const NODE: &str = "/api/v1/nodes/node-c";
    let harness = with_every_right().await?;
    let agent = harness.agent("node-c").await?;
    let before = get(&agent, NODE).await?;
    for form in Form::ALL {
        let close = |node: &mut Value| {
            taint(node, closed());
            node["metadata"]["annotations"][OPENED_BOOT] = "3f2a9c1e-5b1d-4c7e-9a39-0d3f4a1c2b3d".into();
            node["metadata"]["annotations"][LEFT_OPEN_BOOT] = "3f2a9c1e-5b1d-4c7e-9a39-0d3f4a1c2b3d".into();
        };
        change(&agent, form, NODE, false, close).await?.context("every form can add")??;
        let again = |node: &mut Value| {
            list(&mut node["spec"]["taints"]).last_mut().expect("ours")["value"] = "another-1".into();
        };
        change(&agent, form, NODE, false, again).await?.context("every form can change")??;
        let lift = |node: &mut Value| {
            list(&mut node["spec"]["taints"]).pop();
            fields(&mut node["metadata"]["annotations"]).remove(OPENED_BOOT);
            fields(&mut node["metadata"]["annotations"]).remove(LEFT_OPEN_BOOT);
        };
        let form = if form == Form::Apply { Form::JsonPatch } else { form };
        change(&agent, form, NODE, false, lift).await?.context("this form can take away")??;
    }
    // As it does it itself: guarded by what was read, so that a lost race is a conflict.
    let guarded = async {
        loop {
            let node = get(&agent, NODE).await?;
            let taints = node["spec"]["taints"].clone();
            let mut closed_too = taints.clone();
            list(&mut closed_too).push(closed());
            let patch = json!([
                {"op": "replace", "path": "/metadata/resourceVersion", "value": node["metadata"]["resourceVersion"]},
                {"op": "test", "path": "/spec/taints", "value": taints},
                {"op": "replace", "path": "/spec/taints", "value": closed_too},
                {"op": "add", "path": "/metadata/annotations/linkerd-gate~1opened-boot", "value": "a-boot"},
            ]);
            match send(&agent, &Write::json_patch(NODE, &patch)).await {
                Err(refusal) if refusal.code == 409 => {}
                outcome => return anyhow::Ok(outcome?),
            }
        }
    };
    let written = tokio::time::timeout(PATIENCE, guarded).await??;
    let mut expected = before["spec"]["taints"].clone();
    list(&mut expected).push(closed());
    ensure!(written["spec"]["taints"] == expected, "somebody else's taints: {written:#}");
    ensure!(written["metadata"]["annotations"]["example.com/somebody"] == "else", "{written:#}");
    Ok(())
}
