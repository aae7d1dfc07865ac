//! `helm uninstall` on a genuine node: the chart's hook runs there as the pod of a Job, lets go what is held, and nothing is left.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use linkerd_gate::decide::hold;
use linkerd_gate_kit::cluster;

use super::harness::{GATE, Harness, PATIENCE, SHOP, app_runs};
use super::playground;
use super::workloads::{self, JOBS, OWNERS, Pods, of, try_ownerless};

/// A pod without an owner.
const ALONE: &str = "alone-at-the-end";

/// The Job of the chart's hook, and the beginning of its pod's name.
const HOOK: &str = "linkerd-gate-uninstall";

/// What a person types in the playground, each line of which has to succeed.
const INJECTOR_OFF: &str = r#"
injector sideways | grep -q "not done: .* is not a command of the playground"
reboot node-9 | grep -q "not done: no node \"node-9\"; there are node-0, node-1"
injector off | grep -q "no injector runs"
test "$(kubectl get deployment/linkerd-proxy-injector -n linkerd -o jsonpath={.spec.replicas})" = 0
helm status linkerd-gate -n linkerd-gate | grep -q "STATUS: deployed"
linkerd-gate check | grep -q "no endpoint"
"#;

/// With the injector down and a pod of every owner held: each starts outside the mesh, as the hook says that it will.
pub async fn what_helm_uninstalls_holds_nothing_and_leaves_nothing(harness: &Harness) -> Result<()> {
    workloads::open(harness, true).await?;
    let ended = playground::session(harness, &["sh", "-e", "-c", INJECTOR_OFF]).await?;
    ensure!(ended.success(), "in the playground's shell: {ended}");
    harness.recreate_pods(&[SHOP], "").await?;
    let refused = try_ownerless(harness, ALONE, None).await?;
    ensure!(refused.is_none(), "{refused:?}");
    workloads::create_jobs(harness, true).await?;
    let jobs: Api<Job> = harness.api(SHOP).await?;
    for job in JOBS {
        cluster::until(&jobs, job, "suspended", PATIENCE, |job| {
            job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true)
        })
        .await?;
    }
    let pods: Api<Pod> = harness.api(SHOP).await?;
    let all = |pods: &Pods, is: fn(&Pod) -> bool| {
        let owned = OWNERS.iter().all(|owner| {
            let own = of(pods, owner.name);
            !own.is_empty() && own.into_iter().all(is)
        });
        owned && of(pods, ALONE).into_iter().all(is)
    };
    let held = |pods: &Pods| all(pods, hold::is_gated).then_some(());
    cluster::until_any(&pods, &ListParams::default(), "a pod of every owner is held", PATIENCE, held).await?;

    harness.helm(&["uninstall", GATE, "--namespace", GATE, "--wait", "--timeout", "5m"]).await?;
    let started = harness.api::<Event>(GATE).await?.list(&ListParams::default().fields("reason=Started")).await?;
    let of_the_hook = |event: &Event| event.involved_object.name.iter().any(|name| name.starts_with(HOOK));
    ensure!(started.iter().any(of_the_hook), "the hook has started no container: {:#?}", started.items);

    // Those with the entry of `wait` are held by that, which is theirs and not ours to take away.
    let plain = |pods: &Pods| {
        let free = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none()).all(|pod| {
            !hold::is_gated(pod)
                && (app_runs(pod) || is_done(pod) || pod.labels().values().any(|app| app.contains("entry")))
        });
        free.then_some(())
    };
    cluster::until_any(&pods, &ListParams::default(), "everything that was held runs", PATIENCE, plain).await?;
    cluster::until(&jobs, JOBS[0], "complete", PATIENCE, |job| {
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Complete" && condition.status == "True")
    })
    .await?;
    nothing_is_left(harness).await
}

fn is_done(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded")
}

/// Nothing of ours in the cluster, once the namespaces are deleted as well, which are not Helm's.
async fn nothing_is_left(harness: &Harness) -> Result<()> {
    let namespaces = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests/10-namespaces.yaml");
    harness.kubectl(&["delete", "--filename", namespaces.to_str().context("a path")?]).await?;
    let kinds = harness.kubectl(&["api-resources", "--verbs=list", "--output=name"]).await?;
    for kind in kinds.lines().filter(|kind| !["events", "events.events.k8s.io"].contains(kind)) {
        let found = harness.kubectl(&["get", kind, "--all-namespaces", "--output=name"]).await?;
        let ours: Vec<&str> = found.lines().filter(|name| name.contains("linkerd-gate")).collect();
        ensure!(ours.is_empty(), "{ours:?} is left");
    }
    let nodes: Api<Node> = harness.nodes().await?;
    let marks = |node: &Node| {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).map(|taint| taint.key.clone());
        let all: Vec<String> =
            taints.chain(node.annotations().keys().cloned()).chain(node.labels().keys().cloned()).collect();
        all.into_iter().filter(|key| key.starts_with("linkerd-gate/")).collect::<Vec<_>>()
    };
    let left: BTreeMap<String, Vec<String>> =
        nodes.list(&ListParams::default()).await?.iter().map(|node| (node.name_any(), marks(node))).collect();
    ensure!(left.values().all(Vec::is_empty), "on nodes: {left:?}");
    Ok(())
}
