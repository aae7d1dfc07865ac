//! Pods that exist: one toleration more, for what waits for a node in an essential namespace.

use anyhow::{Context as _, Result};
use linkerd_gate::decide::node::essential;
use linkerd_gate::decide::node::taint::TAINT_KEY;
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

use crate::harness::with_every_right;
use crate::write::{Attack, Change, Form, Write, change, get};

const POLICY: &str = "linkerd-gate-agent-pods";

/// The one that the agent adds.
pub fn toleration() -> Value {
    serde_json::to_value(essential::toleration(TAINT_KEY)).expect("a toleration is JSON")
}

fn tolerate(pod: &mut Value, toleration: Value) {
    pod["spec"]["tolerations"].as_array_mut().expect("the API server gives each pod some").push(toleration);
}

#[tokio::test]
async fn an_unbound_essential_pod_gets_the_toleration() -> Result<()> {
    let harness = with_every_right().await?;
    let agent = harness.agent("node-a").await?;
    for namespace in ["kube-system", "cert-manager", "linkerd", "storage", "linkerd-gate"] {
        for form in Form::ALL {
            let path = harness.waiting_pod(namespace, &format!("waits-{form:?}").to_lowercase()).await?;
            let add = |pod: &mut Value| tolerate(pod, toleration());
            let written = change(&agent, form, &path, false, add).await?.context("every form can add")?;
            written.with_context(|| format!("{namespace}, {form:?}"))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn nothing_else_of_such_a_pod_is_changed() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let attack = Attack { anybody: &admin, attacker: &agent, policy: POLICY };
    let mut gated = pod("gated").annotated("example.com/a", "b").running("app:test").json();
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
    let gated = harness.create_pod("kube-system", &gated).await?;
    let (metadata, spec, tolerations) =
        ("other metadata as they are", "nothing of a pod's spec but its tolerations", "once, at the end, and no other");
    let attacks: [(&str, &str, Change); 18] = [
        ("a label", metadata, |pod| pod["metadata"]["labels"]["a"] = "b".into()),
        ("a label and the toleration", metadata, |pod| {
            pod["metadata"]["labels"]["a"] = "b".into();
            tolerate(pod, toleration());
        }),
        ("an annotation", metadata, |pod| pod["metadata"]["annotations"]["linkerd.io/inject"] = "disabled".into()),
        ("no annotation", metadata, |pod| {
            pod["metadata"]["annotations"].as_object_mut().expect("annotations").remove("example.com/a");
        }),
        ("a finalizer", metadata, |pod| pod["metadata"]["finalizers"] = json!(["example.com/never"])),
        ("an owner", metadata, |pod| {
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": "gone"}]);
        }),
        ("an image", spec, |pod| pod["spec"]["containers"][0]["image"] = "evil:1".into()),
        ("an image and the toleration", spec, |pod| {
            pod["spec"]["containers"][0]["image"] = "evil:1".into();
            tolerate(pod, toleration());
        }),
        ("a deadline", spec, |pod| pod["spec"]["activeDeadlineSeconds"] = 1.into()),
        ("a node selector", spec, |pod| pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node-b"})),
        ("no scheduling gate", spec, |pod| {
            drop(pod["spec"].as_object_mut().expect("a spec").remove("schedulingGates"));
        }),
        ("another toleration", tolerations, |pod| tolerate(pod, json!({"key": "another", "operator": "Exists"}))),
        ("a toleration of everything", tolerations, |pod| tolerate(pod, json!({"operator": "Exists"}))),
        ("our taint with every effect", tolerations, |pod| {
            tolerate(pod, json!({"key": "linkerd-gate/closed", "operator": "Exists"}));
        }),
        ("our taint with NoExecute", tolerations, |pod| {
            tolerate(pod, json!({"key": "linkerd-gate/closed", "operator": "Exists", "effect": "NoExecute"}));
        }),
        ("our taint with a value", tolerations, |pod| {
            let one = json!({"key": "linkerd-gate/closed", "operator": "Equal", "value": "a", "effect": "NoSchedule"});
            tolerate(pod, one);
        }),
        ("two of them", tolerations, |pod| {
            tolerate(pod, toleration());
            tolerate(pod, json!({"key": "another", "operator": "Exists"}));
        }),
        ("it and one instead of another", tolerations, |pod| {
            // Of a pair that is there twice, one would be lost.
            tolerate(pod, toleration());
            tolerate(pod, toleration());
        }),
    ];
    for (what, words, wanted) in attacks {
        attack.is_refused(what, &gated, wanted, words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_agent_must_not_change_a_bound_or_tolerant_pod() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let attack = Attack { anybody: &admin, attacker: &agent, policy: POLICY };
    let add = |pod: &mut Value| tolerate(pod, toleration());

    let mut bound = pod("bound").running("app:test").json();
    bound["spec"]["nodeName"] = "node-b".into();
    let bound = harness.create_pod("kube-system", &bound).await?;
    attack.is_refused("a pod with a node", &bound, add, "only pods that have no node yet").await?;

    let waiting = harness.waiting_pod("kube-system", "no-agents").await?;
    let nowhere = harness.agent_without_a_node().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    without_node.is_refused("a token without a node", &waiting, add, "by the token of its pod").await?;

    let mut tolerant = pod("tolerant").running("app:test").json();
    tolerant["spec"]["tolerations"] = json!([toleration()]);
    let tolerant = harness.create_pod("kube-system", &tolerant).await?;
    let before = get(&admin, &tolerant).await?;
    // A write that changes nothing is none that it has any business with.
    let nothing = Write::merge(&tolerant, &json!({"spec": {"tolerations": before["spec"]["tolerations"]}}));
    attack.write_is_refused("nothing", &nothing, "once, at the end, and no other").await
}

#[tokio::test]
async fn a_pod_of_a_user_gets_nothing() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let attack = Attack { anybody: &admin, attacker: &agent, policy: "linkerd-gate-agent-essential" };
    let words = "shop is not essential: it is not Linkerd's, Linkerd's injector selects it";
    let path = harness.waiting_pod("shop", "of-a-user").await?;
    attack.is_refused("a user's pod", &path, |pod| tolerate(pod, toleration()), words).await
}

#[tokio::test]
async fn the_agent_must_not_delete_bind_evict_resize_or_exec_pods() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let attack = Attack { anybody: &admin, attacker: &agent, policy: POLICY };
    let words = "neither deletes pods nor binds, evicts, resizes or execs into them, nor writes their status";
    let mut target = pod("target").running("app:test").json();
    target["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    let path = harness.create_pod("kube-system", &target).await?;
    let of = |part: &str| format!("{path}/{part}");

    attack.write_is_refused("its end", &Write::delete(&path), words).await?;
    let binding = json!({"metadata": {"name": "target"}, "target": {"kind": "Node", "name": "node-b"}});
    attack.write_is_refused("a node", &Write::create(&of("binding"), &binding), words).await?;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "target"}});
    attack.write_is_refused("an eviction", &Write::create(&of("eviction"), &eviction), words).await?;
    let status = |pod: &mut Value| pod["status"]["message"] = "all is well".into();
    attack.is_refused("its status", &of("status"), status, words).await?;
    let resize = json!({"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "2"}}}]}});
    attack.write_is_refused("its size", &Write::strategic(&of("resize"), &resize), words).await?;
    let ephemeral = json!({"spec": {"ephemeralContainers": [{"name": "in", "image": "evil:1"}]}});
    attack.write_is_refused("a container", &Write::strategic(&of("ephemeralcontainers"), &ephemeral), words).await?;
    attack.is_refused_alone("a proxy", &Write::connect(&of("proxy/")), words).await?;
    let shell = Write::connect(&of("exec?command=sh&container=app"));
    attack.is_refused_alone("a shell", &shell, words).await
}
