//! A controller that is killed between the two writes by which a held pod of a Job goes.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::decide::hold;
use linkerd_gate::decide::repair::object::JOB_TRACKING;
use linkerd_gate_kit::standin::Fault;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::gated::{ensure_no_failures, holding};
use super::harness::{Harness, PATIENCE, controller, object};
use super::workloads::{
    SHOP, all_meshed, are_meshed, is_running, job, merge, pods, recover, removals, succeeded, uids, until_pods,
};

/// The webhook that every deletion of the shop's pods waits for.
const IN_THE_WAY: &str = "deletions.in-the-way.example";

/// The API server holds the deletions back, so the controller dies after its patches were stored and before a pod was deleted.
#[tokio::test]
async fn a_job_survives_a_controller_killed_between_patch_and_delete() -> Result<()> {
    let harness = holding().await?;
    recover(&harness).await?;
    harness.until_dry_run("injected", |answer| answer.as_ref().is_ok_and(linkerd_gate::linkerd::meshed)).await?;
    let mut strict = job("strict", 1);
    merge(&mut strict, &json!({"spec": {"parallelism": 1, "completions": 3}}));
    harness.create::<Job>(SHOP, strict).await?;
    let running = until_pods(&harness, "running", |pods| all_meshed(pods, 1) && pods.values().all(is_running)).await?;
    harness.injector.suffer(Fault::Absent).await?;
    let jobs: Api<Job> = Api::namespaced(harness.cluster.client().await?, SHOP);
    let wider = json!({"spec": {"parallelism": 3}});
    jobs.patch("strict", &PatchParams::default(), &Patch::Merge(&wider)).await?;
    until_pods(&harness, "two held", |pods| pods.len() == 3 && held(pods.values()).count() == 2).await?;

    let _silent = hold_deletions_back(&harness).await?;
    let account = harness.account("controller").await?;
    let mut first = harness.start_as(controller("one"), &account)?;
    let story = async {
        first.until_said("first scan complete pods=3 missed=2").await?;
        recover(&harness).await?;
        until_pods(&harness, "held and not counted any more", |pods| {
            held(pods.values()).filter(|pod| !is_tracked(pod)).count() == 2
        })
        .await
    };
    let untracked = story.await.with_context(|| first.said())?;
    first.kill().await?;
    let begun: BTreeSet<_> = held(untracked.values()).filter_map(|pod| pod.metadata.name.clone()).collect();
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(harness.cluster.client().await?);
    webhooks.delete(IN_THE_WAY, &DeleteParams::default()).await?;
    // The Job controller was there all the while.
    ensure_no_failures(&harness).await?;
    let before = harness.requests_so_far_of("controller")?;
    ensure!(succeeded(&removals(&before)).is_empty(), "a pod was deleted before the controller died: {before:?}");

    let second = harness.start_as(controller("one"), &account)?;
    let done = async {
        let after = until_pods(&harness, "meshed and running", |pods| {
            let alive: Vec<_> = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
            are_meshed(&alive, 3) && alive.into_iter().all(is_running)
        })
        .await?;
        ensure!(uids(running.values()).is_subset(&uids(after.values())), "the pod that ran was touched");
        ensure_no_failures(&harness).await?;
        let requests = harness.requests_so_far_of("controller")?;
        let removed: BTreeSet<_> =
            succeeded(&removals(&requests)).into_iter().map(|request| request.name.clone()).collect();
        ensure!(removed == begun, "begun were {begun:?}, removed {removed:?}");
        anyhow::Ok(())
    };
    done.await.with_context(|| second.said())
}

fn held<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> impl Iterator<Item = &'a Pod> {
    pods.into_iter().filter(|pod| hold::is_gated(pod))
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == JOB_TRACKING)
}

/// Has the API server ask about each deletion of a pod in the shop where no answer ever comes, and waits until it does.
async fn hold_deletions_back(harness: &Harness) -> Result<(TcpListener, TcpStream)> {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await?;
    let configuration = json!({
        "metadata": {"name": IN_THE_WAY},
        "webhooks": [{
            "name": IN_THE_WAY,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SHOP}},
            "clientConfig": {"url": format!("https://{}/", silent.local_addr()?)},
            "failurePolicy": "Fail",
            "timeoutSeconds": 30,
            "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "sideEffects": "None",
        }],
    });
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(harness.cluster.client().await?);
    webhooks.create(&PostParams::default(), &object(configuration)?).await?;
    let shop = pods(harness).await?;
    let name = shop.list(&ListParams::default()).await?.items.into_iter().find_map(|pod| pod.metadata.name);
    let name = name.context("no pod")?;
    let dry_run = DeleteParams { dry_run: true, ..DeleteParams::default() };
    let asked = async {
        loop {
            tokio::select! {
                accepted = silent.accept() => return anyhow::Ok(accepted?.0),
                // The webhook does not count yet.
                answer = shop.delete(&name, &dry_run) => { answer?; }
            }
        }
    };
    let connection = tokio::time::timeout(PATIENCE, asked).await.context("deletions are not held back")??;
    Ok((silent, connection))
}
