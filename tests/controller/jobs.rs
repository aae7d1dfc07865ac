//! Jobs, which take a pod that goes for a failure: three ways to repair them, and none of them makes a Job fail.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use linkerd_gate_kit::cluster;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::harness::{Harness, PATIENCE, controller, object};
use super::workloads::{
    Pods, SHOP, all_bare, are_meshed, ignoring, is_running, job, merge, of, opened, pods, recover, succeed, uids,
    unscheduled, until_event, until_pods, waiting,
};

/// On a Job that the controller suspended.
const SUSPENDED: &str = "linkerd-gate/suspended-at";

#[tokio::test]
async fn jobs_are_repaired_uncounted_and_none_fails() -> Result<()> {
    let harness = opened().await?;
    harness.cluster.start_kwok().await?;
    harness.cluster.fake_nodes(1).await?;
    // Evicted, and not counted.
    harness.create::<Job>(SHOP, unscheduled(ignoring(job("ignoring", 2)))).await?;
    harness.create::<Job>(SHOP, ignoring(job("ignoring-running", 2))).await?;
    // No pod may fail, and none has started: suspended for a moment.
    harness.create::<Job>(SHOP, unscheduled(waiting(job("strict", 3)))).await?;
    // The same, without `wait`, which alone tells that none is about to start.
    harness.create::<Job>(SHOP, unscheduled(job("pending", 1))).await?;
    // One of the two finds room beside the other nowhere.
    harness.create::<Job>(SHOP, apart(waiting(job("started", 2)))).await?;
    // Whose `suspend` is somebody else's.
    harness.create::<Job>(SHOP, queued(unscheduled(waiting(job("queued", 1))))).await?;
    apply(&harness, applied(unscheduled(waiting(job("applied", 1))))).await?;
    let bare = until_pods(&harness, "bare, and those running that can", |pods| {
        let running = |app: &str| of(pods, app).into_iter().filter(|pod| is_running(pod)).count();
        all_bare(pods, 12) && running("ignoring-running") == 2 && running("started") == 1
    })
    .await?;

    let settings = controller("one").with("EVICTION", "true").with("REPAIR", "running");
    let replica = harness.start_apart(settings, "controller").await?;
    let done = async {
        replica.until_said("first scan complete pods=12 missed=12").await?;
        for (job, why) in [
            ("started", "2 stay: its Job would count it as a failure; give the Job a podFailurePolicy"),
            ("pending", "1 stays: its Job would count it as a failure; give the Job a podFailurePolicy"),
            ("queued", "1 stays: its Job would count it as a failure, and the controller cannot suspend the Job"),
            ("applied", "somebody-who-applies applies spec.suspend"),
        ] {
            let line = replica.until_said(&format!(" namespace=shop owner=Job {job} ")).await?;
            ensure!(line.contains(why), "{line}");
            let event = until_event(&harness, "Job", job, "PodsOutsideMesh").await?;
            ensure!(event.message.as_ref().is_some_and(|message| message.contains(why)), "{event:?}");
        }
        recover(&harness).await?;
        let after = until_pods(&harness, "meshed", |pods| {
            are_meshed(&alive(pods, "ignoring"), 2)
                && are_meshed(&alive(pods, "ignoring-running"), 2)
                && are_meshed(&alive(pods, "strict"), 3)
        })
        .await?;
        replica.until_said("resumed Job namespace=shop owner=Job strict").await?;
        for left in ["pending", "started", "queued", "applied"] {
            ensure!(uids(of(&after, left)) == uids(of(&bare, left)), "{left} was touched");
        }

        // What was replaced goes on as if nothing had been.
        open_nowhere(&harness).await?;
        for (name, pods) in [("ignoring", 2), ("ignoring-running", 2), ("strict", 3)] {
            complete(&harness, name, pods).await?;
            let done = until_job(&harness, name, "complete", |job| condition(job, "Complete")).await?;
            let status = done.status.unwrap_or_default();
            ensure!(status.failed.unwrap_or(0) == 0, "{name} counts failures: {status:?}");
        }
        let jobs = jobs(&harness).await?.list(&kube::api::ListParams::default()).await?;
        ensure!(jobs.iter().all(|job| !condition(job, "Failed")), "a Job failed: {jobs:?}");
        let writes = harness.requests_of("controller").await?;
        let writes = writes.iter().filter(|request| request.resource == "jobs" && request.verb == "patch");
        let written: Vec<_> = writes.map(|request| request.name.as_str()).collect();
        ensure!(written == ["strict", "strict"], "not one suspension and one resumption, but {written:?}");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

#[tokio::test]
async fn the_next_controller_resumes_a_job_that_a_dead_one_suspended() -> Result<()> {
    let harness = opened().await?;
    let mut slow = unscheduled(waiting(job("strict", 2)));
    // Its pods take until we say so to go: the controller dies meanwhile.
    merge(&mut slow, &json!({"spec": {"template": {"metadata": {"finalizers": ["test.example/takes-long"]}}}}));
    harness.create::<Job>(SHOP, slow).await?;
    let mut theirs = unscheduled(waiting(job("theirs", 1)));
    merge(&mut theirs, &json!({"spec": {"suspend": true}}));
    harness.create::<Job>(SHOP, theirs).await?;
    let bare = until_pods(&harness, "bare", |pods| all_bare(pods, 2)).await?;

    let mut first = harness.start(controller("one"))?;
    let suspended = async {
        first.until_said("first scan complete pods=2 missed=2").await?;
        recover(&harness).await?;
        until_job(&harness, "strict", "suspended with our mark", is_marked).await?;
        until_pods(&harness, "going", |pods| pods.values().all(|pod| pod.metadata.deletion_timestamp.is_some())).await
    };
    suspended.await.with_context(|| first.said())?;
    first.signal(Signal::SIGKILL)?;
    first.kill().await?;

    // Its container starts again, in the same pod.
    let second = harness.start(controller("one"))?;
    let resumed = async {
        second.until_said("this replica leads").await?;
        for name in bare.keys() {
            let name = name.trim_start_matches("shop/");
            let none = json!({"metadata": {"finalizers": null}});
            pods(&harness).await?.patch(name, &PatchParams::default(), &Patch::Merge(none)).await?;
        }
        second.until_said("resumed Job namespace=shop owner=Job strict").await?;
        until_pods(&harness, "made anew", |pods| are_meshed(&alive(pods, "strict"), 2)).await?;
        let job = until_job(&harness, "strict", "resumed, without our mark", |job| !is_marked(job)).await?;
        ensure!(!is_suspended(&job) && !condition(&job, "Failed"), "{job:?}");
        let theirs = jobs(&harness).await?.get("theirs").await?;
        ensure!(is_suspended(&theirs), "a Job that somebody else suspended was resumed");
        anyhow::Ok(())
    };
    resumed.await.with_context(|| second.said())
}

async fn jobs(harness: &Harness) -> Result<Api<Job>> {
    Ok(Api::namespaced(harness.cluster.client().await?, SHOP))
}

async fn until_job(harness: &Harness, name: &str, what: &str, condition: impl Fn(&Job) -> bool) -> Result<Job> {
    cluster::until(&jobs(harness).await?, name, what, PATIENCE, condition).await
}

/// Those of its pods that have neither ended nor are about to.
fn alive<'a>(pods: &'a Pods, job: &str) -> Vec<&'a Pod> {
    let over = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Failed" | "Succeeded"))
    };
    of(pods, job).into_iter().filter(|pod| !over(pod)).collect()
}

fn condition(job: &Job, kind: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true)
}

fn is_marked(job: &Job) -> bool {
    job.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(SUSPENDED))
}

/// Its pods do not share a node.
fn apart(mut job: Value) -> Value {
    let app = job["spec"]["template"]["metadata"]["labels"]["app"].clone();
    let apart = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}});
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}});
    merge(&mut job, &json!({"spec": {"template": {"spec": {"affinity": affinity}}}}));
    job
}

/// A Job as it is once Kueue has let it begin.
fn queued(mut job: Value) -> Value {
    merge(&mut job, &json!({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "night"}}}));
    job
}

/// A Job whose manifest says that it is not suspended.
fn applied(mut job: Value) -> Value {
    merge(&mut job, &json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"suspend": false}}));
    job
}

async fn apply(harness: &Harness, job: Value) -> Result<()> {
    let name = job["metadata"]["name"].as_str().context("a Job without a name")?.to_owned();
    let job: Job = object(job)?;
    jobs(harness).await?.patch(&name, &PatchParams::apply("somebody-who-applies"), &Patch::Apply(&job)).await?;
    Ok(())
}

/// Lets pods run that found no node.
async fn open_nowhere(harness: &Harness) -> Result<()> {
    let label = json!({"metadata": {"labels": {"nowhere": "true"}}});
    harness.nodes().await?.patch("fake-0", &PatchParams::default(), &Patch::Merge(label)).await?;
    Ok(())
}

/// Lets a Job's pods run, and end well: nothing runs in them that could end.
async fn complete(harness: &Harness, job: &str, count: usize) -> Result<()> {
    let running = until_pods(harness, "running", |pods| {
        let alive = alive(pods, job);
        alive.len() == count && alive.into_iter().all(is_running)
    })
    .await?;
    let api = pods(harness).await?;
    for pod in alive(&running, job) {
        succeed(&api, pod).await?;
    }
    Ok(())
}
