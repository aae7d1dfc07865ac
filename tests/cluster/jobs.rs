//! Jobs: three ways of ending, and what each costs.

use anyhow::{Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;
use kube::api::Api;
use linkerd_gate_kit::cluster;
use linkerd_gate_kit::object::{Pod, job};

use crate::harness::{Harness, Linkerd, PATIENCE, exit_code, has_proxy, images, status};

/// A pod that runs to its end once it may start.
fn work(linkerd: &Linkerd<'_>, on_missed: &str) -> Pod {
    let gate = linkerd.gate().variable("LINKERD_GATE_ON_MISSED", on_missed);
    linkerd.app("work", gate).with_args(&["app", "once"])
}

fn has_condition(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

pub async fn a_job_that_ignores_75_gets_itself_into_the_mesh(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("job-ignores").await?;
    let story = async {
        // Not one failure is allowed: what `wait` does must not count.
        let work = job("work").backoff_limit(0).ignoring_exit_code(75).of(work(&linkerd, "exit"));
        harness.create::<Job>(&linkerd.shop, work.json()).await?;
        let missed =
            harness.until_pod(&linkerd.shop, "work", "held", |pod| status(pod, "linkerd-gate").is_some()).await?;
        ensure!(!has_proxy(&missed));
        harness.until_log(&missed, "linkerd-gate", "waiting: ").await?;
        harness.ensure_never_started(&missed, "app").await?;

        linkerd.start().await?;
        let jobs: Api<Job> = harness.api(&linkerd.shop).await?;
        let done = cluster::until(&jobs, "work", "complete", PATIENCE, |job| {
            has_condition(job, "Complete") || has_condition(job, "Failed")
        })
        .await?;
        ensure!(has_condition(&done, "Complete"), "{:#?}", done.status);
        let worked = harness.until_pod(&linkerd.shop, "work", "worked", |pod| exit_code(pod, "app") == Some(0)).await?;
        ensure!(has_proxy(&worked) && worked.uid() != missed.uid(), "the pod that worked is not a meshed one");
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn a_job_without_that_policy_counts_the_exit_as_a_failure(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("job-counts").await?;
    let story = async {
        let work = job("work").backoff_limit(0).of(work(&linkerd, "exit").running(images::NEVER));
        harness.create::<Job>(&linkerd.shop, work.json()).await?;
        let missed =
            harness.until_pod(&linkerd.shop, "work", "held", |pod| status(pod, "linkerd-gate").is_some()).await?;
        linkerd.start().await?;
        let jobs: Api<Job> = harness.api(&linkerd.shop).await?;
        cluster::until(&jobs, "work", "failed", PATIENCE, |job| has_condition(job, "Failed")).await?;
        // As documented: the Job fails, but the app never ran outside the mesh.
        ensure!(
            exit_code(&harness.api(&linkerd.shop).await?.get(&missed.name_any()).await?, "linkerd-gate") == Some(75)
        );
        harness.ensure_never_started(&missed, "app").await
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn a_job_that_restarts_in_place_never_leaves_its_pod(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("job-restarts").await?;
    let story = async {
        let work = job("work").restarting("OnFailure").of(work(&linkerd, "exit").running(images::NEVER));
        harness.create::<Job>(&linkerd.shop, work.json()).await?;
        let missed =
            harness.until_pod(&linkerd.shop, "work", "held", |pod| status(pod, "linkerd-gate").is_some()).await?;
        linkerd.start().await?;
        let again = harness.until_pod(&linkerd.shop, "work", "restarted in place", |pod| {
            status(pod, "linkerd-gate").is_some_and(|gate| gate.restart_count >= 1)
        });
        let again = again.await?;
        ensure!(again.uid() == missed.uid() && exit_code(&again, "linkerd-gate") == Some(75));
        harness.ensure_never_started(&missed, "app").await
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn a_held_job_is_not_failed(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("job-held").await?;
    let story = async {
        let work = job("work").backoff_limit(0).of(work(&linkerd, "hold").running(images::NEVER));
        harness.create::<Job>(&linkerd.shop, work.json()).await?;
        let missed =
            harness.until_pod(&linkerd.shop, "work", "held", |pod| status(pod, "linkerd-gate").is_some()).await?;
        linkerd.start().await?;
        harness.until_log(&missed, "linkerd-gate", "must be created again").await?;
        let job: Job = harness.api(&linkerd.shop).await?.get("work").await?;
        ensure!(!has_condition(&job, "Failed"), "{:#?}", job.status);
        harness.ensure_never_started(&missed, "app").await
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}
