//! A cluster of two nodes loses all power, without the gate and with it.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use linkerd_gate_kit::cluster::ClusterOptions;

use super::harness::{GATE, Harness, LINKERD, REPLICAS, SHOP, app_runs, is_closed, is_scheduled, opened};
use super::timeline::Timeline;

pub async fn a_cut_of_all_power_with_and_without_the_gate() -> Result<()> {
    let harness = Harness::set(ClusterOptions { nodes: 2, ..ClusterOptions::default() }, |linkerd| linkerd).await?;
    let scenario = async {
        harness.create_workloads(false).await?;
        without_the_gate(&harness).await?;
        installing_closes_nothing(&harness).await?;
        with_the_gate(&harness).await?;
        one_node_reboots(&harness).await?;
        removing_leaves_nothing(&harness).await
    };
    harness.reported(Box::pin(scenario)).await
}

/// The morning that people lose: Linkerd's pods and the apps' have to be created again, and the apps' are faster.
async fn without_the_gate(harness: &Harness) -> Result<()> {
    let mut timeline = power_cut(harness, "all power is cut, without the gate").await?;
    for node in harness.cluster.nodes() {
        harness.cluster.until_ready(node).await?;
    }
    timeline.mark("both nodes Ready");
    recreate_all(harness).await?;
    timeline.mark("the pods of Linkerd, DNS, cert-manager and of the shop are created again");
    harness.until_pods("app=plain", REPLICAS, "all apps run", app_runs).await?;
    let bare = harness.unmeshed_and_running().await?;
    timeline.mark(format!("all {REPLICAS} apps run; {bare} of them outside the mesh"));
    harness.until_linkerd_is_ready().await?;
    timeline.mark("Linkerd is ready");
    let bare = harness.unmeshed_and_running().await?;
    timeline.mark(format!("and {bare} stay outside the mesh, until somebody notices"));
    println!("{timeline}");
    ensure!(bare == REPLICAS as usize, "the trouble itself did not happen: {bare} are outside the mesh");
    harness.recreate_pods(&[SHOP], "app=plain").await?;
    harness
        .until_pods("app=plain", REPLICAS, "meshed", |pod| linkerd_gate::linkerd::meshed(pod) && app_runs(pod))
        .await?;
    Ok(())
}

async fn installing_closes_nothing(harness: &Harness) -> Result<()> {
    harness.install_the_gate(&[]).await?;
    for node in harness.cluster.nodes() {
        let boot = node.boot_id()?;
        harness.until_node(node.name(), "adopted", |node| opened(node).as_deref() == Some(boot.as_str())).await?;
    }
    // An Event reports every change of a node: none was closed, not even for a moment.
    let events: Api<Event> = harness.api("default").await?;
    let reasons: Vec<String> = events
        .list(&ListParams::default())
        .await?
        .items
        .into_iter()
        .filter(|event| event.reporting_component.as_deref() == Some(GATE))
        .filter_map(|event| event.reason)
        .collect();
    ensure!(reasons == ["GateAdopted", "GateAdopted"], "{reasons:?}");
    harness.create_workloads(true).await
}

async fn with_the_gate(harness: &Harness) -> Result<()> {
    let mut timeline = power_cut(harness, "all power is cut, with the gate").await?;
    harness.until_all_nodes_are_closed().await?;
    timeline.mark("both nodes are closed, by their agents");
    for node in harness.cluster.nodes() {
        harness.cluster.until_ready(node).await?;
    }
    timeline.mark("both nodes Ready");
    // Closed before new evidence, and nothing but the agents' first write came before this.
    recreate_all(harness).await?;
    timeline.mark("the pods of Linkerd, DNS, cert-manager and of the shop are created again");
    let linkerds = harness.until_scheduled(LINKERD, 3).await?;
    timeline.mark(format!("Linkerd's {linkerds} pods have a node: they were given the toleration"));
    let shop = harness.pods(SHOP).await?;
    let scheduled = shop.iter().filter(|pod| is_scheduled(pod)).count();
    let open = harness.any_node_is_open().await?;
    ensure!(open || scheduled == 0, "{scheduled} pods of the shop went to closed nodes");
    timeline.mark(format!("{} pods of the shop wait for a node, {scheduled} have one", shop.len() - scheduled));
    harness.until_linkerd_is_ready().await?;
    timeline.mark("Linkerd is ready");
    harness.until_all_nodes_are_open().await?;
    timeline.mark("both nodes are open: injection is proven");
    harness.until_scheduled("cert-manager", 1).await?;
    harness.until_available("kube-system", "coredns").await?;
    // The entry holds what was created bare, until it is created again.
    let held = harness.until_pods("app=held", REPLICAS, "have a node", is_scheduled).await?;
    let missed = held.iter().filter(|pod| !linkerd_gate::linkerd::meshed(pod)).count();
    ensure!(missed == REPLICAS as usize, "only {missed} of {REPLICAS} pods were created bare");
    for pod in &held {
        let line = harness.until_said(pod, "linkerd-gate", "must be created again").await?;
        ensure!(line.contains("proven by an injected dry-run pod"), "not by the node's agent: {line}");
    }
    let now = harness.pods(SHOP).await?;
    let started = now
        .iter()
        .filter(|pod| pod.metadata.labels.as_ref().is_some_and(|labels| labels["app"] == "held") && app_runs(pod))
        .count();
    timeline.mark(format!(
        "{REPLICAS} bare pods with the entry: {started} run outside the mesh, all are held and say what to do"
    ));
    ensure!(started == 0, "{started} apps started outside the mesh");
    harness.recreate_pods(&[SHOP], "app=held").await?;
    harness
        .until_pods("app=held", REPLICAS, "meshed", |pod| linkerd_gate::linkerd::meshed(pod) && app_runs(pod))
        .await?;
    timeline.mark("created again, by the command in their logs: all run in the mesh");
    harness.until_pods("app=plain", REPLICAS, "run", app_runs).await?;
    let bare = harness.unmeshed_and_running().await?;
    timeline
        .mark(format!("without the entry {bare} of {REPLICAS} run outside the mesh, started after Linkerd was ready"));
    println!("{timeline}");
    harness.recreate_pods(&[SHOP], "app=plain").await?;
    harness
        .until_pods("app=plain", REPLICAS, "meshed", |pod| linkerd_gate::linkerd::meshed(pod) && app_runs(pod))
        .await?;
    Ok(())
}

/// One node alone: the verdict is there already, so it is closed for as long as its agent needs to look.
async fn one_node_reboots(harness: &Harness) -> Result<()> {
    let node = &harness.cluster.nodes()[1];
    let before = harness.closures(node.name()).await?;
    harness.cluster.reboot(node).await?;
    harness.until_all_nodes_are_open().await?;
    ensure!(harness.closures(node.name()).await? == before + 1, "it was not closed at its boot");
    ensure!(harness.unmeshed_and_running().await? == 0, "somebody came back bare");
    Ok(())
}

async fn removing_leaves_nothing(harness: &Harness) -> Result<()> {
    harness
        .kubectl(&["delete", "daemonset", GATE, "--namespace", GATE, "--cascade=foreground", "--timeout=120s"])
        .await?;
    for node in harness.nodes().await?.list(&ListParams::default()).await? {
        ensure!(!is_closed(&node) && opened(&node).is_none(), "something is left: {:?} {:?}", node.metadata, node.spec);
    }
    Ok(())
}

/// Cuts all power, and switches everything on again; nobody waits for anything yet.
async fn power_cut(harness: &Harness, title: &str) -> Result<Timeline> {
    harness.cluster.cut_power().await?;
    let mut timeline = Timeline::begin(title);
    harness.cluster.power_on_control_plane().await?;
    timeline.mark("the API server answers; etcd remembers everything as it was");
    try_join_all(harness.cluster.nodes().iter().map(|node| harness.cluster.switch_on(node))).await?;
    timeline.mark("both nodes are switched on");
    Ok(timeline)
}

async fn recreate_all(harness: &Harness) -> Result<()> {
    harness.recreate_pods(&[LINKERD, "cert-manager"], "").await?;
    harness.recreate_pods(&["kube-system"], "k8s-app=kube-dns").await?;
    // As after a boot: before the injector answers.
    harness.until_not_injected().await?;
    harness.recreate_pods(&[SHOP], "").await
}
