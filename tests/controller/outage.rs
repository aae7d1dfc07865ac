//! Whatever dies in the middle of it: the API server, and the controller at several moments.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use linkerd_gate::linkerd::meshed;
use nix::sys::signal::Signal;

use super::harness::controller;
use super::workloads::{
    Pods, SHOP, all_bare, all_meshed, opened, recover, removals, set, succeeded, uids, unscheduled, until_pods,
};

const PODS: usize = 160;

#[tokio::test]
async fn a_killed_controllers_work_is_finished_and_never_repeated() -> Result<()> {
    let harness = opened().await?;
    harness.create::<ReplicaSet>(SHOP, unscheduled(set("web", u32::try_from(PODS)?))).await?;
    let bare = until_pods(&harness, "bare", |pods| all_bare(pods, PODS)).await?;
    let account = harness.account("controller").await?;
    let mut replica = harness.start_as(controller("one"), &account)?;
    replica.until_said("first scan complete pods=160 missed=160").await?;
    recover(&harness).await?;
    let mut in_the_mesh = BTreeSet::new();
    for count in [5, 40] {
        let enough = until_pods(&harness, "some meshed", |pods| meshed_of(pods) >= count).await;
        in_the_mesh.extend(names_of_meshed(&enough.with_context(|| replica.said())?));
        replica.signal(Signal::SIGKILL)?;
        replica.kill().await?;
        // The container starts again, in the same pod.
        replica = harness.start_as(controller("one"), &account)?;
    }
    let done = async {
        in_the_mesh.extend(names_of_meshed(&until_pods(&harness, "more meshed", |pods| meshed_of(pods) >= 80).await?));
        harness.cluster.kill_api_server()?;
        replica.until_said("repair paused: watches are not in sync").await?;
        harness.cluster.start_api_server().await?;
        // Where that took longer than its Lease lasts, it leads anew, and has paused nothing.
        let all = until_pods(&harness, "all meshed", |pods| all_meshed(pods, PODS)).await?;
        ensure!(uids(bare.values()).is_disjoint(&uids(all.values())));
        let requests = harness.requests_so_far_of("controller")?;
        let removals = removals(&requests);
        let removed: Vec<_> = succeeded(&removals).into_iter().map(|request| request.name.as_str()).collect();
        let once: BTreeSet<_> = removed.iter().map(|name| (*name).to_owned()).collect();
        ensure!(once.len() == removed.len(), "a pod was removed twice: {removed:?}");
        // A successor that the API server creates as it starts may be bare, and is then removed as well; a meshed one never is.
        let wrongly: Vec<_> = once.intersection(&in_the_mesh).collect();
        ensure!(wrongly.is_empty(), "a meshed pod was removed: {wrongly:?}");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

fn names_of_meshed(pods: &Pods) -> impl Iterator<Item = String> {
    pods.values().filter(|pod| meshed(pod)).filter_map(|pod| pod.metadata.name.clone())
}

fn meshed_of(pods: &Pods) -> usize {
    pods.values().filter(|pod| meshed(pod)).count()
}
