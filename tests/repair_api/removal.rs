//! Removals of pods.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use linkerd_gate::cluster::repair::remove;
use linkerd_gate::decide::repair::{Target, WriteOutcome};
use linkerd_gate_kit::cluster::{until, until_gone};
use linkerd_gate_kit::object::{self, pod};
use serde_json::json;

use crate::harness::{NODE, PATIENCE, cluster, create, in_namespace, merge, target};

#[tokio::test]
async fn a_pod_is_removed_only_if_unchanged_since_observed() -> Result<()> {
    in_namespace("removal", async |client, namespace| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        for evict in [false, true] {
            let never_ran = create(&pods, held("held").json()).await?;
            only_as_looked_at(&client, &pods, &namespace, &never_ran, evict).await?;
            ensure!(pods.get_opt("held").await?.is_none(), "evict={evict}: it was on no node, so it is gone");

            create(&pods, pod("running").on_node(NODE).spec_field("terminationGracePeriodSeconds", 77).json()).await?;
            let running = run(&pods, "running").await?;
            only_as_looked_at(&client, &pods, &namespace, &running, evict).await?;
            let going = pods.get("running").await?;
            ensure!(going.metadata.deletion_grace_period_seconds == Some(77), "evict={evict}: {:?}", going.metadata);
            pods.delete("running", &DeleteParams::default().grace_period(0)).await?;
            until_gone(&pods, "running", going.metadata.uid.as_deref().unwrap_or_default(), PATIENCE).await?;
            ensure!(
                remove(client.clone(), &namespace, &target(&going), evict).await == WriteOutcome::Conflict,
                "it is gone"
            );
        }
        Ok(())
    })
    .await
}

/// A pod that waits for a scheduler which is not there: nobody else writes to it.
fn held(name: &str) -> object::Pod {
    pod(name).spec_field("schedulerName", "nobody")
}

/// Removes it, after everything that must not.
async fn only_as_looked_at(client: &Client, pods: &Api<Pod>, namespace: &str, before: &Pod, evict: bool) -> Result<()> {
    let stale = target(before);
    let now = merge(pods, &stale.name, json!({"metadata": {"labels": {"touched": "since"}}})).await?;
    let another = Target { uid: "00000000-0000-0000-0000-000000000000".to_owned(), ..target(&now) };
    for (what, wrong) in [("an older version", stale), ("another uid", another)] {
        let outcome = remove(client.clone(), namespace, &wrong, evict).await;
        ensure!(outcome == WriteOutcome::Conflict, "evict={evict}, {what}: {outcome:?}");
        let after = pods.get(&wrong.name).await?;
        ensure!(after == now, "evict={evict}, {what}: it was touched: {after:?}");
    }
    let outcome = remove(client.clone(), namespace, &target(&now), evict).await;
    ensure!(outcome == WriteOutcome::Done, "evict={evict}: {outcome:?}");
    Ok(())
}

/// Says of a pod what its kubelet would.
async fn run(pods: &Api<Pod>, name: &str) -> Result<Pod> {
    let ready = json!({"type": "Ready", "status": "True"});
    let status = Patch::Merge(json!({"status": {"phase": "Running", "conditions": [ready]}}));
    Ok(pods.patch_status(name, &PatchParams::default(), &status).await?)
}

#[tokio::test]
async fn a_disruption_budget_refuses_evictions_but_no_deletions() -> Result<()> {
    in_namespace("budget", async |client, namespace| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &namespace);
        create(&pods, pod("web").labelled("app", "web").on_node(NODE).json()).await?;
        let running = run(&pods, "web").await?;
        let allowing = async |name: &str, allowed| {
            until(&budgets, name, "counted", PATIENCE, |budget| {
                let generation = budget.metadata.generation;
                budget.status.as_ref().is_some_and(|status| {
                    status.observed_generation == generation && status.disruptions_allowed == allowed
                })
            })
            .await
        };
        let budget = |name: &str| {
            let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
            json!({"metadata": {"name": name}, "spec": spec})
        };
        create(&budgets, budget("keep")).await?;
        allowing("keep", 0).await?;

        let refused = remove(client.clone(), &namespace, &target(&running), true).await;
        ensure!(
            matches!(&refused, WriteOutcome::Refused(why) if why.contains("The disruption budget keep needs 1 healthy pods")),
            "{refused:?}"
        );
        create(&budgets, budget("two")).await?;
        let refused = remove(client.clone(), &namespace, &target(&running), true).await;
        ensure!(matches!(&refused, WriteOutcome::Refused(why) if why.contains("more than one")), "{refused:?}");
        budgets.delete("two", &DeleteParams::default()).await?;
        ensure!(pods.get("web").await? == running, "it was touched");

        merge(&budgets, "keep", json!({"spec": {"minAvailable": 0}})).await?;
        allowing("keep", 1).await?;
        // Nothing stale before it: the API server asks the budget first, and an eviction that then fails has used it up.
        let outcome = remove(client.clone(), &namespace, &target(&running), true).await;
        ensure!(outcome == WriteOutcome::Done, "{outcome:?}");
        let going = pods.get("web").await?;
        let conditions = going.status.and_then(|status| status.conditions).unwrap_or_default();
        ensure!(conditions.iter().any(|condition| condition.type_ == "DisruptionTarget"), "{conditions:?}");

        // A budget is no reason to keep a pod that never ran.
        merge(&budgets, "keep", json!({"spec": {"minAvailable": 1}})).await?;
        let never_ran = create(&pods, held("held").labelled("app", "web").json()).await?;
        allowing("keep", 0).await?;
        ensure!(remove(client, &namespace, &target(&never_ran), false).await == WriteOutcome::Done, "a deletion asks no budget");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_removal_without_the_right_says_which_it_is() -> Result<()> {
    in_namespace("rights", async |client, namespace| {
        let pods: Api<Pod> = Api::namespaced(client, &namespace);
        let never_ran = target(&create(&pods, held("held").json()).await?);
        let unprivileged = cluster().await?.client_as(&namespace, "default").await?;
        for (evict, words) in [
            (false, "cannot delete resource \"pods\""),
            (true, "LINKERD_GATE_EVICTION=true needs the right to create pods/eviction"),
        ] {
            let outcome = remove(unprivileged.clone(), &namespace, &never_ran, evict).await;
            ensure!(matches!(&outcome, WriteOutcome::Failed(why) if why.contains(words)), "{outcome:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_that_goes_with_its_namespace_is_no_failure() -> Result<()> {
    in_namespace("going", async |client, namespace| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        // Without a kubelet it stays, and so does the namespace.
        create(&pods, pod("last").on_node(NODE).json()).await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.delete(&namespace, &DeleteParams::default()).await?;
        let going = until(&pods, "last", "going", PATIENCE, |pod| pod.metadata.deletion_timestamp.is_some()).await?;
        for evict in [true, false] {
            let outcome = remove(client.clone(), &namespace, &target(&going), evict).await;
            ensure!(matches!(outcome, WriteOutcome::Done | WriteOutcome::Conflict), "evict={evict}: {outcome:?}");
        }
        let uid = going.metadata.uid.context("no uid")?;
        pods.delete("last", &DeleteParams::default().grace_period(0)).await?;
        until_gone(&pods, "last", &uid, PATIENCE).await
    })
    .await
}
