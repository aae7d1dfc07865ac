//! What is not what it looked like when the decision was taken.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster;
use linkerd_gate_kit::object::namespace;
use linkerd_gate_kit::standin::Fault;
use serde_json::json;

use super::harness::{Harness, PATIENCE, controller, object};
use super::workloads::{
    SHOP, all_bare, are_meshed, merge, of, opened, pods, recover, removals, set, stateful, uids, unscheduled,
    until_event, until_pods,
};

/// By so much the controller hears of everything late, which is less than what it gives a connection.
const LATE: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn a_new_pod_of_the_same_name_survives_the_earlier_decision() -> Result<()> {
    let harness = opened().await?;
    let mut patient = unscheduled(stateful("db", 1));
    merge(
        &mut patient,
        &json!({"spec": {"template": {"metadata": {"annotations": {"linkerd-gate/repair": "report"}}}}}),
    );
    harness.create::<StatefulSet>(SHOP, patient).await?;
    let bare = until_pods(&harness, "bare", |pods| all_bare(pods, 1)).await?;
    let way = harness.cluster.relay().start().await?;
    let account = harness.account("controller").await?;
    let kubeconfig = harness.cluster.kubeconfig_at(&account, way.address())?;
    let replica = harness.start_as(controller("one"), &kubeconfig)?;
    let done = async {
        replica.until_said("pods outside the mesh: 1 stays").await?;
        recover(&harness).await?;
        replica.until_said("proof: open").await?;
        way.suffer(Fault::Slow(LATE)).await?;
        let pods = pods(&harness).await?;
        let held = json!({"metadata": {"annotations": {"linkerd-gate/repair": "held"}}});
        pods.patch("db-0", &PatchParams::default(), &Patch::Merge(held)).await?;
        // The controller decides before it hears of the deletion: nothing tells when, but it is late by as much for either.
        tokio::time::sleep(LATE / 2).await;
        pods.delete("db-0", &DeleteParams::default()).await?;
        let before = uids(bare.values());
        let other = |pod: &Pod| pod.metadata.uid.as_ref().is_some_and(|uid| !before.contains(uid));
        let next = cluster::until(&pods, "db-0", "another one", PATIENCE, other).await?;
        ensure!(meshed(&next), "the one that was made by hand is bare");
        replica.until_said("delete pod: the object changed; planning again namespace=shop pod=db-0").await?;
        ensure!(pods.get("db-0").await?.metadata.uid == next.metadata.uid, "the new pod was removed");
        let requests = harness.requests_of("controller").await?;
        let codes: Vec<_> = removals(&requests).into_iter().map(|request| request.code).collect();
        ensure!(codes == [Some(409)], "not one attempt, which met a conflict, but {codes:?}");
        way.recover().await?;
        replica.until_said("no pod is outside the mesh any more namespace=shop owner=StatefulSet db").await?;
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

#[tokio::test]
async fn pods_of_a_terminating_owner_or_namespace_are_not_removed() -> Result<()> {
    let harness = opened().await?;
    harness.cluster.create_namespace(&object(namespace("closing").asking().json())?).await?;
    let mut stays = unscheduled(set("leaving", 2));
    merge(&mut stays, &json!({"metadata": {"finalizers": ["test.example/stays"]}}));
    harness.create::<ReplicaSet>(SHOP, stays).await?;
    harness.create::<ReplicaSet>(SHOP, unscheduled(set("web", 2))).await?;
    let mut long = unscheduled(set("long", 2));
    merge(&mut long, &json!({"spec": {"template": {"metadata": {"finalizers": ["test.example/takes-long"]}}}}));
    harness.create::<ReplicaSet>("closing", long).await?;
    let bare = until_pods(&harness, "bare", |pods| all_bare(pods, 4)).await?;
    until_two_in("closing", &harness, |_| true).await?;
    let client = harness.cluster.client().await?;
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), SHOP);
    sets.delete("leaving", &DeleteParams::background()).await?;
    Api::<Namespace>::all(client).delete("closing", &DeleteParams::default()).await?;
    until_two_in("closing", &harness, |pod| pod.metadata.deletion_timestamp.is_some()).await?;

    let replica = harness.start_apart(controller("one"), "controller").await?;
    let done = async {
        let event = until_event(&harness, "ReplicaSet", "leaving", "PodsOutsideMesh").await?;
        ensure!(event.message.as_ref().is_some_and(|message| message.contains("is gone or going away")), "{event:?}");
        recover(&harness).await?;
        let after = until_pods(&harness, "the others meshed", |pods| are_meshed(&of(pods, "web"), 2)).await?;
        ensure!(uids(of(&bare, "leaving")) == uids(of(&after, "leaving")), "pods were removed that nobody makes anew");
        replica.until_said("no pod is outside the mesh any more namespace=shop owner=ReplicaSet web").await?;
        let requests = harness.requests_of("controller").await?;
        let removals = removals(&requests);
        ensure!(removals.len() == 2 && removals.iter().all(|request| request.name.starts_with("web-")), "{removals:?}");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

/// Waits until there are two pods in that namespace, and both are like that.
async fn until_two_in(namespace: &str, harness: &Harness, condition: impl Fn(&Pod) -> bool) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(harness.cluster.client().await?, namespace);
    let found = |pods: &super::workloads::Pods| (pods.len() == 2 && pods.values().all(&condition)).then_some(());
    cluster::until_any(&pods, &kube::api::ListParams::default(), "two pods", PATIENCE, found).await
}
