//! A cluster of one node, where everything the gate waits for has to run on the node that the gate closes; and nodes that join.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use linkerd_gate_kit::cluster::{self, ClusterOptions, NODE_DIRECTORY, NodeOptions};
use linkerd_gate_kit::linkerd::LinkerdDirectory;
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

use super::harness::{Harness, LINKERD, PATIENCE, images, is_closed, is_scheduled};

pub async fn nothing_that_the_gate_waits_for_waits_for_the_gate() -> Result<()> {
    let later = vec![NodeOptions { taints: Vec::new(), network_awaited: true }];
    let options = ClusterOptions { nodes: 1, later, ..ClusterOptions::default() };
    let harness = Harness::set(options, |linkerd| linkerd).await?;
    let scenario = async {
        webhook_fails_closed(&harness).await?;
        a_pod_that_can_never_be_scheduled(&harness).await?;
        // Adopted, though nothing was proven: it was there before.
        harness.install_the_gate(&[("LINKERD_GATE_NODE_MAX_CLOSED", "40s")]).await?;
        harness.until_all_nodes_are_open().await?;
        harness.create_workloads(true).await?;
        everything_is_scheduled_again(&harness).await?;
        match LinkerdDirectory::from_environment()? {
            None => identity_is_ready_by_its_endpoints_and_does_not_answer(&harness).await?,
            Some(linkerd) => linkerd.leave_out(
                "identity_is_ready_by_its_endpoints_and_does_not_answer",
                "no genuine identity is ready and refuses connections on demand",
            ),
        }
        a_node_joins_whose_network_does_not_tolerate_the_taint(&harness).await?;
        foreign_dead_webhook(&harness).await
    };
    harness.reported(Box::pin(scenario)).await
}

/// `failurePolicy: Fail`, as Linkerd's high availability has it.
async fn webhook_fails_closed(harness: &Harness) -> Result<()> {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(harness.cluster.client().await?);
    let patch = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch)?);
    webhooks.patch("linkerd-proxy-injector-webhook-config", &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn a_pod_that_can_never_be_scheduled(harness: &Harness) -> Result<()> {
    let pods: Api<Pod> = harness.api("kube-system").await?;
    let nowhere = pod("nowhere").running(images::PAUSE).spec_field("nodeSelector", json!({"nowhere": "true"}));
    harness.create(&pods, nowhere.json()).await?;
    Ok(())
}

/// The node boots, and Linkerd, DNS and cert-manager have to be scheduled anew, on the node that is closed until they run.
async fn everything_is_scheduled_again(harness: &Harness) -> Result<()> {
    let node = harness.cluster.node();
    let before = harness.closures(node.name()).await?;
    harness.cluster.cut_power().await?;
    harness.cluster.power_on_control_plane().await?;
    harness.cluster.switch_on(node).await?;
    harness.until_node(node.name(), "closed", is_closed).await?;
    harness.cluster.until_ready(node).await?;
    harness.recreate_pods(&[LINKERD, "cert-manager"], "").await?;
    harness.recreate_pods(&["kube-system"], "k8s-app=kube-dns").await?;
    harness.until_scheduled(LINKERD, 3).await?;
    harness.until_scheduled("cert-manager", 1).await?;
    harness.until_linkerd_is_ready().await?;
    harness.until_all_nodes_are_open().await?;
    harness.until_available("kube-system", "coredns").await?;
    ensure!(harness.closures(node.name()).await? == before + 1, "it was closed once");
    for name in ["plain", "held"] {
        harness.until_available(super::harness::SHOP, name).await?;
    }
    ensure!(harness.unmeshed_and_running().await? == 0, "a bare pod runs, with failurePolicy Fail");
    let nowhere = harness.api::<Pod>("kube-system").await?.get("nowhere").await?;
    ensure!(!is_scheduled(&nowhere), "it went somewhere");
    Ok(())
}

/// kubelet finds it ready, and so its EndpointSlice says; but nothing listens where proxies ask for certificates.
async fn identity_is_ready_by_its_endpoints_and_does_not_answer(harness: &Harness) -> Result<()> {
    let suffer = |fault: &'static str| {
        let words = ["set", "env", "deployment/linkerd-identity", "--namespace", LINKERD, fault];
        async move { harness.kubectl(&words).await }
    };
    suffer("LINKERD_STANDIN_FAULT=refuse").await?;
    harness.until_verdict("closed", |verdict| verdict.contains(r#""probe":"identity","result":"not-ready""#)).await?;
    harness.until_available(LINKERD, "linkerd-identity").await?;
    suffer("LINKERD_STANDIN_FAULT-").await?;
    harness.until_verdict("open", |verdict| verdict.contains(r#""gate":"open""#)).await?;
    harness.until_all_nodes_are_open().await
}

/// Its network is set up by a DaemonSet that does not tolerate the taint: the node is not tainted before it has that pod.
async fn a_node_joins_whose_network_does_not_tolerate_the_taint(harness: &Harness) -> Result<()> {
    harness.scale(LINKERD, "linkerd-proxy-injector", 0).await?;
    let agent_of = |node: &'static str| harness.agent_on(node);
    // Whichever probe fails first closes the gate: the dry-run may be faster than the watch of endpoints.
    harness.until_verdict("closed", |verdict| verdict.contains(r#""probe":"injector","result":"not-ready""#)).await?;
    harness.apply(&[cni(&json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]))]).await?;
    let [.., joining] = harness.cluster.nodes() else { unreachable!("a cluster has nodes") };
    harness.cluster.switch_on(joining).await?;
    harness.cluster.until_ready(joining).await?;
    agent_of("node-1").await?;
    // Whichever comes first, the agent or the DaemonSet's pod: the pod gets there, and then the node is closed.
    let network = ListParams::default().labels("app=cni");
    let runs_there = |pods: &BTreeMap<String, Pod>| {
        let node = |pod: &Pod| pod.spec.as_ref()?.node_name.clone();
        let phase = |pod: &Pod| pod.status.as_ref()?.phase.clone();
        let runs = |pod: &Pod| node(pod).as_deref() == Some(joining.name()) && phase(pod).as_deref() == Some("Running");
        pods.values().any(runs).then_some(())
    };
    let pods = harness.api::<Pod>("kube-system").await?;
    cluster::until_any(&pods, &network, "the network's pod runs there", PATIENCE, runs_there).await?;
    harness.until_node(joining.name(), "closed", is_closed).await?;
    harness.apply(&[cni(&json!([{"operator": "Exists"}]))]).await?;
    harness.scale(LINKERD, "linkerd-proxy-injector", 1).await?;
    harness.until_all_nodes_are_open().await
}

/// It refuses every pod, and nobody answers it: the node opens after its bound, with a Warning, and `/gate` stays closed.
async fn foreign_dead_webhook(harness: &Harness) -> Result<()> {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(harness.cluster.client().await?);
    let dead = json!({
        "metadata": {"name": "somebody-elses"},
        "webhooks": [{
            "name": "dead.example.com",
            "clientConfig": {"service": {"name": "dead", "namespace": "default"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 2,
        }],
    });
    harness.create(&webhooks, dead).await?;
    let node = harness.cluster.node();
    harness.cluster.cut_power().await?;
    harness.cluster.power_on_control_plane().await?;
    harness.cluster.switch_on(node).await?;
    harness.until_node(node.name(), "closed", is_closed).await?;
    harness.until_agent_said(node.name(), "dead.example.com").await?;
    harness.until_all_nodes_are_open().await?;
    let warning = harness.kubectl(&["describe", "node", node.name()]).await?;
    ensure!(warning.contains("GateOpenedUnproven"), "{warning}");
    webhooks.delete("somebody-elses", &DeleteParams::default()).await?;
    harness.until_agent_said(node.name(), "gate: open: proven").await?;
    Ok(())
}

/// A DaemonSet in kube-system that sets up the pods' network of nodes that wait for it.
fn cni(tolerations: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "cni", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"app": "cni"}},
            "template": {
                "metadata": {"labels": {"app": "cni"}},
                "spec": {
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": tolerations,
                    "volumes": [{"name": "node", "hostPath": {"path": NODE_DIRECTORY}}],
                    "containers": [{
                        "name": "install",
                        "image": images::PAUSE,
                        "imagePullPolicy": "Never",
                        "args": ["copy", "/node/pods.conflist", "/node/net.d/10-pods.conflist"],
                        "volumeMounts": [{"name": "node", "mountPath": "/node"}],
                    }],
                },
            },
        },
    })
}
