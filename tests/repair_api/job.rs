//! Suspending and resuming Jobs.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use linkerd_gate::cluster::repair::{resume, suspend};
use linkerd_gate::decide::repair::{OwnerReference, OwnerView, WriteOutcome};
use linkerd_gate_kit::cluster::{until, until_any};
use linkerd_gate_kit::object::{job, pod};
use serde_json::json;

use crate::harness::{PATIENCE, create, in_namespace, merge};

const ANOTHER: &str = "00000000-0000-0000-0000-000000000000";

#[tokio::test]
async fn a_job_without_retries_is_suspended_and_resumed_uncounted() -> Result<()> {
    in_namespace("job", async |client, namespace| {
        let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        create(&jobs, job("once").backoff_limit(0).of(pod("once").running("app:1")).json()).await?;
        let active =
            |count| move |job: &Job| job.status.as_ref().is_some_and(|status| status.active.unwrap_or(0) == count);
        let before = until(&jobs, "once", "active", PATIENCE, active(1)).await?;
        let template = before.spec.clone().context("no spec")?.template;
        let first = only_pod(&pods, None).await?;
        let now = Timestamp::now();

        let suspending =
            async |job: &OwnerReference, version: &str| suspend(client.clone(), &namespace, job, version, now).await;
        refuses_what_was_not_looked_at(&jobs, suspending).await?;
        until_done(&jobs, suspending).await?;
        let suspended = until(&jobs, "once", "without pods", PATIENCE, active(0)).await?;
        let view = OwnerView::of_job(&suspended);
        let detail = view.job().context("no Job")?;
        ensure!(detail.suspended && detail.suspended_by_us == Some(now.to_string()), "{detail:?}");
        ensure!(detail.managed.is_none(), "what we wrote is taken for somebody else's: {:?}", detail.managed);

        let resuming =
            async |job: &OwnerReference, version: &str| resume(client.clone(), &namespace, job, version).await;
        refuses_what_was_not_looked_at(&jobs, resuming).await?;
        until_done(&jobs, resuming).await?;
        let second = only_pod(&pods, Some(&first)).await?;
        ensure!(second != first, "the same pod");
        let resumed = until(&jobs, "once", "active", PATIENCE, active(1)).await?;
        let view = OwnerView::of_job(&resumed);
        let detail = view.job().context("no Job")?;
        ensure!(!detail.suspended && detail.suspended_by_us.is_none() && !detail.finished, "{detail:?}");
        ensure!(resumed.status.and_then(|status| status.failed).unwrap_or(0) == 0, "something was counted");
        ensure!(resumed.spec.context("no spec")?.template == template, "its template was touched");
        Ok(())
    })
    .await
}

/// The uid of the only pod, which is not this one.
async fn only_pod(pods: &Api<Pod>, not: Option<&str>) -> Result<String> {
    let found = |all: &BTreeMap<String, Pod>| {
        let mut uids = all.values().filter_map(|pod| pod.metadata.uid.clone());
        uids.next().filter(|uid| all.len() == 1 && Some(uid.as_str()) != not)
    };
    until_any(pods, &ListParams::default(), "one pod", PATIENCE, found).await
}

fn reference(job: &Job) -> (OwnerReference, String) {
    let view = OwnerView::of_job(job);
    (view.reference, view.resource_version.unwrap_or_default())
}

async fn refuses_what_was_not_looked_at(
    jobs: &Api<Job>,
    act: impl AsyncFn(&OwnerReference, &str) -> WriteOutcome,
) -> Result<()> {
    let (owner, stale) = reference(&jobs.get("once").await?);
    let touched = merge(jobs, "once", json!({"metadata": {"labels": {"touched": stale}}})).await?;
    let (_, version) = reference(&touched);
    let another = OwnerReference { uid: ANOTHER.to_owned(), ..owner.clone() };
    let gone = OwnerReference { name: "gone".to_owned(), ..owner.clone() };
    for (what, owner, version) in
        [("an older version", &owner, &stale), ("another uid", &another, &version), ("no Job", &gone, &version)]
    {
        let outcome = act(owner, version).await;
        ensure!(outcome == WriteOutcome::Conflict, "{what}: {outcome:?}");
    }
    let after = jobs.get("once").await?;
    ensure!(
        after.spec == touched.spec && after.metadata.annotations == touched.metadata.annotations,
        "it was touched: {after:?}"
    );
    Ok(())
}

/// Its controller writes it too: a lost race is looked at anew, as the controller of ours would.
async fn until_done(jobs: &Api<Job>, act: impl AsyncFn(&OwnerReference, &str) -> WriteOutcome) -> Result<()> {
    let attempts = async {
        loop {
            let (owner, version) = reference(&jobs.get("once").await?);
            match act(&owner, &version).await {
                WriteOutcome::Done => return Ok(()),
                WriteOutcome::Conflict => {}
                other => bail!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, attempts).await?
}
