//! The chart as Helm installs it, through the power cut that makes bare pods: with `admission: auto` and `refuse` no app starts
//! outside the mesh, with `off` they do, and stay. One cluster, of one node and then of two.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::{ClusterOptions, NodeOptions};
use linkerd_gate_kit::linkerd::LinkerdDirectory;
use linkerd_gate_kit::object::{deployment, pod};
use serde_json::json;

use super::boot_report;
use super::harness::{Harness, LINKERD, SHOP, app_runs, images, is_scheduled};
use super::power_cut::{Created, PowerCut, SETTLED};
use super::release::Admission;
use super::timeline::{Column, beside};
use super::workloads::{OWNERS, Pods, of, on, owners_settled, runs_meshed, uids};
use super::{uninstalled, variants};

/// Linkerd's Deployment of injectors.
pub const INJECTOR: &str = "linkerd-proxy-injector";

pub async fn no_app_starts_outside_the_mesh_whatever_boots_first() -> Result<()> {
    let later = vec![NodeOptions::default()];
    let harness =
        Harness::set(ClusterOptions { nodes: 1, later, ..ClusterOptions::default() }, |linkerd| linkerd).await?;
    let stories = async {
        harness.upgrade(Admission::Auto).await?;
        let one_node = kept(&harness, "auto, one node", Admission::Auto).await?;
        harness.cluster.power_on(&harness.cluster.nodes()[1]).await?;
        harness.until_all_nodes_are_open().await?;
        harness.helm_test_passes().await?;
        let auto = kept(&harness, "auto", Admission::Auto).await?;
        let fails_closed = variants::where_the_webhook_fails_closed(&harness).await?;
        let flaps = match LinkerdDirectory::from_environment()? {
            None => Some(variants::where_the_injector_flaps(&harness).await?),
            Some(linkerd) => {
                linkerd.leave_out("where_the_injector_flaps", "no genuine injector comes and goes on demand");
                None
            }
        };
        harness.upgrade(Admission::Refuse).await?;
        let refuse = kept(&harness, "refuse", Admission::Refuse).await?;
        harness.upgrade(Admission::Off).await?;
        let off = lost(&harness).await?;
        an_init_container_is_not_interrupted(&harness).await?;
        println!("{}", beside(&[auto, refuse, off]));
        harness.upgrade(Admission::Auto).await?;
        let no_controller = variants::where_no_controller_runs(&harness).await?;
        let variants: Vec<Column> =
            [Some(one_node), Some(fails_closed), flaps, Some(no_controller)].into_iter().flatten().collect();
        println!("{}", beside(&variants));
        uninstalled::what_helm_uninstalls_holds_nothing_and_leaves_nothing(&harness).await
    };
    harness.reported(Box::pin(stories)).await
}

/// Admission keeps every pod from starting bare, and all end up in the mesh.
async fn kept(harness: &Harness, title: &str, admission: Admission) -> Result<Column> {
    let mut cut = PowerCut::happens(harness, title, admission.into(), async || Ok(())).await?;
    let refusal = cut.refusal.clone().unwrap_or_default();
    ensure!(
        refusal.contains("linkerd-gate-guard"),
        "the pod with a nodeName was not refused by the guard: {refusal:?}"
    );
    ensure!(!cut.early.values().any(is_scheduled), "a pod has a node before the injector runs: {:#?}", cut.early);
    cut.boots_and_settles(SETTLED, |pods| owners_settled(harness, pods)).await?;
    cut.ensure_all_meshed().await?;
    ensure!(harness.unmeshed_and_running().await? == 0, "an app runs outside the mesh");
    boot_report::tells_what_happened(&cut, admission.into()).await?;
    Ok(cut.column)
}

/// What agents and a controller alone leave behind: pods that were bound before the first kubelet ran start bare, and stay so.
async fn lost(harness: &Harness) -> Result<Column> {
    let mut cut = PowerCut::happens(harness, "off", Created::Bare, async || Ok(())).await?;
    // The entry holds its own pods, and the controller has those made again: it acts, and leaves what runs alone.
    let nodes = on(harness).count();
    let settled = |pods: &Pods| {
        OWNERS.iter().all(|owner| {
            let own = of(pods, owner.name);
            own.len() == owner.wanted(nodes)
                && own.into_iter().all(if owner.name == "entry" { runs_meshed } else { app_runs })
        })
    };
    let pods = cut.boots_and_settles("every app runs, those with the entry of `wait` in the mesh", settled).await?;
    cut.column.say(SETTLED, "never");
    let made = cut.conclude().await?;
    ensure!(!made.bare.is_empty(), "the trouble itself did not happen: every app was started in the mesh");
    let bare = pods.values().filter(|pod| app_runs(pod) && !meshed(pod));
    let (bare, early) = (uids(bare), uids(cut.early.values()));
    ensure!(!bare.is_empty() && bare.is_subset(&early), "not the pods of the outage run outside the mesh: {bare:?}");
    let left = made.bare.iter().filter(|name| pods.values().any(|pod| pod.name_any() == **name && !meshed(pod)));
    let jobs = made.bare.iter().filter(|name| name.starts_with("report")).count();
    ensure!(left.count() + jobs >= made.bare.len(), "a pod that ran was replaced: {:?}", made.bare);
    Ok(cut.column)
}

/// A pod in the middle of an init container of its own, a schema migration say, is not replaced, though its app never ran.
async fn an_init_container_is_not_interrupted(harness: &Harness) -> Result<()> {
    harness.scale(LINKERD, INJECTOR, 0).await?;
    let init = json!({"name": "migrate", "image": images::PAUSE, "imagePullPolicy": "IfNotPresent"});
    let app = pod("migration").running(images::APP).with_init_container(init);
    harness.recreate_pods(&[SHOP], "app=entry").await?;
    harness.apply(&[deployment("migration").in_namespace(SHOP).of(app).json()]).await?;
    let runs = |pod: &Pod, name: &str| {
        let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
        statuses.into_iter().any(|status| {
            status.name == name
                && status.restart_count == 0
                && status.state.as_ref().is_some_and(|state| state.running.is_some())
        })
    };
    let before = harness.until_pods("app=migration", 1, "migrates", |pod| runs(pod, "migrate")).await?;
    ensure!(!before.iter().any(meshed), "it was injected, though no injector runs");
    harness.until_pods("app=entry", 2, "held by its entry", |pod| runs(pod, "linkerd-gate")).await?;
    harness.scale(LINKERD, INJECTOR, 1).await?;
    // By then the controller has replaced what is held.
    harness.until_pods("app=entry", 2, "in the mesh", runs_meshed).await?;
    let after = harness.until_pods("app=migration", 1, "migrates", |pod| runs(pod, "migrate")).await?;
    ensure!(uids(&before) == uids(&after), "the pod was replaced in the middle of its init container");
    harness.kubectl(&["delete", "deployment", "migration", "--namespace", SHOP]).await?;
    Ok(())
}
