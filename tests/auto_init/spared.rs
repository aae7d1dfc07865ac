//! Who gets nothing. Beside each stands the same pod but for one thing, which gets the entry.

use anyhow::{Result, ensure};
use linkerd_gate_kit::object::{Pod, gate, namespace, pod};
use serde_json::{Value, json};

use crate::stage::{SHOP, Stage, entry, names};

const IMAGE: &str = "gate:1";

fn web() -> Pod {
    pod("web").in_namespace(SHOP)
}

async fn ensure_added(stage: &Stage, what: &str, pod: Pod, expected: bool) -> Result<()> {
    let admitted = stage.admit(&pod.json()).await?;
    ensure!(entry(&admitted).is_some() == expected, "{what}: {:#}", admitted["spec"]["initContainers"]);
    Ok(())
}

pub async fn who_does_not_ask_gets_nothing(stage: &Stage) -> Result<()> {
    stage.make(namespace("silent")).await?;
    let mirrored = |key| web().annotated(key, "any").on_node("node-a");
    // Linkerd's own containers are nothing that Windows could run: no injector here.
    stage.injector.suffer(linkerd_gate_kit::standin::Fault::Absent).await?;
    let cases = [
        ("the namespace asks", web(), true),
        ("the pod declines", web().not_asking(), false),
        ("nobody asks", pod("web").in_namespace("silent"), false),
        ("the pod asks", pod("web").in_namespace("silent").asking(), true),
        ("on the host's network", web().on_the_hosts_network(), false),
        (
            "with another mesh's sidecar",
            web().with_init_container(json!({"name": "istio-init", "image": "a:1"})),
            false,
        ),
        ("with an init container", web().with_init_container(json!({"name": "any-init", "image": "a:1"})), true),
        ("for Windows", web().spec_field("os", json!({"name": "windows"})), false),
        ("for Linux", web().spec_field("os", json!({"name": "linux"})), true),
        ("the mirror of a static pod", mirrored("kubernetes.io/config.mirror"), false),
        ("a pod with any annotation", mirrored("kubernetes.io/config.seen"), true),
    ];
    for (what, pod, expected) in cases {
        // No service account may be mounted into the mirror of a pod that the API server does not run.
        let pod = pod.spec_field("automountServiceAccountToken", false);
        ensure_added(stage, what, pod, expected).await?;
    }
    Ok(stage.injector.recover().await?)
}

/// By its name, or by the variable that every entry needs: the pod is stored as it was sent.
pub async fn somebodys_own_entry_is_left_alone(stage: &Stage) -> Result<()> {
    let own = gate(IMAGE).variable("LINKERD_GATE_ON_MISSED", "exit");
    let renamed = own.clone().field("name", "hold").json();
    let setup = json!({"name": "setup", "image": "setup:1"});
    for (what, sent, expected) in [
        ("pasted", web().with_init_container(setup.clone()).with_gate(own), vec!["linkerd-gate", "setup"]),
        ("pasted under another name", web().with_init_container(renamed), vec!["hold"]),
    ] {
        let sent = sent.json();
        let admitted = stage.admit(&sent).await?;
        let linkerds = ["linkerd-init", "linkerd-proxy"];
        let mut users = names(&admitted, "initContainers");
        users.retain(|name| !linkerds.contains(name));
        ensure!(users == expected, "{what}: {users:?}");
        let all = admitted["spec"]["initContainers"].as_array().into_iter().flatten();
        let images: Vec<&Value> = all.map(|container| &container["image"]).filter(|image| *image == IMAGE).collect();
        ensure!(images.len() == 1, "{what}: {images:?}");
    }
    let mut app_of_that_name = web().json();
    app_of_that_name["spec"]["containers"][0]["name"] = "linkerd-gate".into();
    let admitted = stage.admit(&app_of_that_name).await?;
    ensure!(entry(&admitted).is_none(), "names have to be unique in a pod");
    Ok(())
}

pub async fn a_label_opts_out(stage: &Stage) -> Result<()> {
    let key = "linkerd-gate/init";
    stage.make(namespace("opted-out").asking().labelled(key, "disabled")).await?;
    stage.make(namespace("opted-in").asking().labelled(key, "enabled")).await?;
    for (what, pod, expected) in [
        ("the pod opts out", web().labelled(key, "disabled"), false),
        ("another value", web().labelled(key, "Disabled"), true),
        ("as an annotation", web().annotated(key, "disabled"), true),
        ("the namespace opts out", pod("web").in_namespace("opted-out"), false),
        ("the pod cannot opt in again", pod("web").in_namespace("opted-out").labelled(key, "enabled"), false),
        ("the namespace says anything else", pod("web").in_namespace("opted-in"), true),
    ] {
        ensure_added(stage, what, pod, expected).await?;
    }
    Ok(())
}

/// Linkerd itself, ourselves, and what the operator says is needed first: pods that ask, in namespaces that the live webhook
/// selects.
pub async fn what_the_gate_waits_for_is_left_alone(stage: &Stage) -> Result<()> {
    for ours in ["linkerd-gate", "linkerd-gate-probe"] {
        stage.make(namespace(ours).asking()).await?;
    }
    stage.make(namespace("storage").asking().labelled("linkerd-gate/essential", "true")).await?;
    stage.make(namespace("not-essential").asking().labelled("linkerd-gate/essential", "false")).await?;
    for (name, expected) in [
        ("linkerd", false),
        ("linkerd-gate", false),
        ("linkerd-gate-probe", false),
        ("kube-system", false),
        ("storage", false),
        ("not-essential", true),
        ("default", true),
    ] {
        ensure_added(stage, name, pod("web").in_namespace(name).asking(), expected).await?;
    }
    Ok(())
}
