//! Events: about its own node.

use anyhow::Result;
use serde_json::{Value, json};

use crate::harness::with_every_right;
use crate::write::{Attack, Write, send};

const POLICY: &str = "linkerd-gate-agent-events";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn about(kind: &str, name: &str) -> Value {
    json!({
        "metadata": {"generateName": "linkerd-gate-"},
        "type": "Normal",
        "reason": "Opened",
        "message": "opened",
        "involvedObject": {"apiVersion": "v1", "kind": kind, "name": name, "uid": name},
        "source": {"component": "linkerd-gate"},
    })
}

#[tokio::test]
async fn the_agent_writes_events_about_its_own_node_only() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let attack = Attack { anybody: &admin, attacker: &agent, policy: POLICY };
    let own = about("Node", "node-a");
    send(&agent, &Write::create(EVENTS, &own)).await?;

    let node = "about the node that it runs on";
    let mut another_group = own.clone();
    another_group["involvedObject"]["apiVersion"] = "example.com/v1".into();
    let mut of_a_pod = about("Pod", "node-a");
    of_a_pod["involvedObject"]["namespace"] = "default".into();
    for (what, event) in
        [("another node", about("Node", "node-b")), ("a pod", of_a_pod), ("a node of another kind", another_group)]
    {
        attack.write_is_refused(what, &Write::create(EVENTS, &event), node).await?;
    }
    let nowhere = harness.agent_without_a_node().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    without_node.write_is_refused("a token without a node", &Write::create(EVENTS, &own), node).await?;

    // The same objects by their other name.
    let new = json!({
        "metadata": {"name": "new"},
        "type": "Normal",
        "reason": "Opened",
        "action": "Open",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "linkerd-gate",
        "reportingInstance": "node-a",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": "node-b"},
    });
    let write = Write::create("/apis/events.k8s.io/v1/namespaces/default/events", &new);
    attack.write_is_refused("another node by events.k8s.io", &write, node).await?;

    let default = "creates events in the namespace default";
    let elsewhere = json!({
        "metadata": {"generateName": "linkerd-gate-"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "web", "namespace": "shop"},
    });
    let write = Write::create("/api/v1/namespaces/shop/events", &elsewhere);
    attack.write_is_refused("another namespace", &write, default).await?;
    let mut theirs = own.clone();
    theirs["metadata"] = json!({"name": "theirs"});
    send(&admin, &Write::create(EVENTS, &theirs)).await?;
    let path = format!("{EVENTS}/theirs");
    let change = Write::merge(&path, &json!({"message": "something else"}));
    attack.write_is_refused("a change", &change, default).await?;
    attack.write_is_refused("an end", &Write::delete(&path), default).await
}
