//! Pods that hold keeps from every node, made again once the injector is back, beside the least that such pods take.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, PartialObjectMeta, PostParams, PropagationPolicy, WatchEvent,
    WatchParams,
};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::{HURRIED, LOOK_EVERY, SHOP, check_meshed, create, load, owner, pods, resource_of, set};
use crate::agents::{Harness, PATIENCE, ports};
use crate::gate::Gate;
use crate::said;
use crate::table::{GATE, Table, Target};

/// How many pods the owners of [`OWNERS`] have.
const PODS: usize = 500;

/// How many of the floor's requests are under way at a time: more than the API server works on, and not so many that it gives some up.
const CREATED_AT_ONCE: usize = 100;

/// Of the least that the same pods take.
const RATIO: f64 = 1.3;

/// Fake nodes, on each of which a DaemonSet has a pod.
const NODES: usize = 10;

/// What Linkerd puts onto a pod that it injects.
const MESHED: &str = "linkerd.io/control-plane-ns";

/// Which owners, how many of each kind, and how many pods each of them has.
const OWNERS: [(&str, usize, usize); 5] = [
    ("ReplicaSet", 10, 25),
    ("StatefulSet", 2, 50),
    ("ReplicationController", 2, 25),
    ("DaemonSet", 5, NODES),
    ("Job", 10, 5),
];

/// So many times [`OWNERS`], with their pods.
#[derive(Clone, Copy)]
pub(super) struct Scale(pub(super) usize);

// === impl Scale ===

impl Scale {
    fn pods(self) -> usize {
        PODS * self.0
    }

    fn owners(self) -> [(&'static str, usize, usize); 5] {
        OWNERS.map(|(kind, count, pods)| (kind, count * self.0, pods))
    }

    /// The number of pods, for people.
    fn name(self) -> &'static str {
        if self.0 == 1 { "500" } else { "1,000" }
    }
}

/// Returns the least that so many pods take: a client that creates them at once, with the injector up.
pub(super) async fn measure(gate: &Gate, scale: Scale, table: &mut Table) -> Result<Duration> {
    let (pods, owners, name) = (scale.pods(), scale.owners(), scale.name());
    let harness = set(NODES, &HURRIED).await?;
    for file in ["60-admission-hold.yaml", "61-admission-guard.yaml"] {
        apply(&harness, file).await?;
    }
    harness.rise().await?;
    until_asked(&harness, "a pod is meshed", |pod| pod.is_some_and(|pod| is_meshed(&pod))).await?;
    // Caches warm, code paths seen.
    floor(&harness, pods, 0).await?;
    let before = floor(&harness, pods, 1).await?;
    let deleted = deleted_at_once(&harness, scale).await?;
    clear(&harness).await?;

    hold(&harness, &owners, pods).await?;
    let mut controller = harness.start_controller(gate.full(), ports(1)[0]).await?;
    controller.until_said("first scan complete").await?;
    // It suspends Jobs before anything is proven, which ends their pods.
    until_suspended(&harness, owners[4].1).await?;
    said(&format!("recovery: {pods} pods are held, and the injector is back; load {}", load()?));
    let spent = harness.api_server_cpu()?;
    let mut follow = follow(&harness).await?;
    harness.rise().await?;
    let proven = controller.until_said("proof: open").await?;
    let last = timeout(PATIENCE, follow.until(pods)).await.with_context(|| controller.said())??;
    let spent = harness.api_server_cpu()?.saturating_sub(spent);
    check_meshed(&harness, SHOP, pods).await?;
    no_job_failed(&harness).await?;
    let took = last - proven;
    let requests = harness.requests_of_controllers()?;
    let deletions: Vec<_> = requests
        .iter()
        .filter(|request| request.verb == "delete" && request.resource == "pods" && !request.dry_run)
        .map(|request| request.received)
        .collect();
    if let (Some(first), Some(latest)) = (deletions.first(), deletions.last()) {
        said(&format!(
            "recovery: {} deletions within {:.1} s, all pods there after {:.1}; {:.1} s of the API server's CPU",
            deletions.len(),
            latest.duration_since(*first).as_secs_f64(),
            took.as_secs_f64(),
            spent.as_secs_f64(),
        ));
    }
    drop(controller);
    clear(&harness).await?;
    let after = floor(&harness, pods, 2).await?;
    let at_best = before.min(after);
    said(&format!(
        "recovery: {pods} pods created at once in {:.1} s and {:.1} s",
        before.as_secs_f64(),
        after.as_secs_f64()
    ));

    let how = "created by one client, 100 requests at a time, with the injector up, hold and guard bound: the shorter of one before \
               and one after the next rows";
    table.figure(&format!("{name} pods created at once"), "s", how).value(GATE, at_best.as_secs_f64());
    let how = "from the controller's log line of the proof to the last pod with a proxy, by a watch: ReplicaSets, StatefulSets, \
               ReplicationControllers, DaemonSets and Jobs, the controller manager's clients unhindered; no Job counts a failure";
    table.figure(&format!("{name} held pods: all meshed"), "s", how).value(GATE, took.as_secs_f64());
    let ratio = took.as_secs_f64() / at_best.as_secs_f64();
    table
        .figure(&format!("{name} held pods, by {name} created at once"), "×", "the second of these rows by the first")
        .value(GATE, ratio)
        .target("≤ 1.3", Target::Missable(ratio <= RATIO));
    let how = "by one client, 100 requests at a time, with the injector up and no controller of ours: until their owners have made all \
               of them again, by the same watch; Jobs, which would count failures, are ReplicaSets there";
    table.figure(&format!("{name} held pods deleted at once"), "s", how).value(GATE, deleted.as_secs_f64());
    let how = "the second of these rows by the one before this: what remains is the controller's own part";
    let ratio = took.as_secs_f64() / deleted.as_secs_f64();
    table.figure(&format!("{name} held pods, by {name} deleted at once"), "×", how).value(GATE, ratio);
    Ok(at_best)
}

/// Makes owners while the injector is absent, until all their pods are held.
async fn hold(harness: &Harness, owners: &[(&'static str, usize, usize)], pods: usize) -> Result<()> {
    harness.fall().await?;
    until_asked(harness, "a pod is held", |pod| pod.is_some_and(|pod| is_gated(&pod))).await?;
    let owners: Vec<_> =
        owners.iter().flat_map(|(kind, count, each)| (0..*count).map(|place| held(kind, place, *each))).collect();
    create(harness, SHOP, owners).await?;
    super::until_pods(harness, SHOP, pods).await?;
    ensure!(meshed(harness).await? == 0, "a pod has a proxy although the injector is absent");
    Ok(())
}

/// How long a client takes that deletes as many held pods at once, until their owners have made all of them again.
async fn deleted_at_once(harness: &Harness, scale: Scale) -> Result<Duration> {
    let (count, mut owners) = (scale.pods(), scale.owners());
    let [.., jobs] = &mut owners;
    *jobs = ("ReplicaSet", 0, 0);
    let [replicated, ..] = &mut owners;
    replicated.1 += 2 * scale.0;
    hold(harness, &owners, count).await?;
    let names = Api::<Pod>::namespaced(harness.client(), SHOP).list_metadata(&ListParams::default()).await?;
    let names: Vec<_> = names.items.into_iter().filter_map(|pod| pod.metadata.name).collect();
    let spent = harness.api_server_cpu()?;
    let mut follow = follow(harness).await?;
    harness.rise().await?;
    until_asked(harness, "a pod is meshed", |pod| pod.is_some_and(|pod| is_meshed(&pod))).await?;
    let client = harness.client();
    let began = Instant::now();
    let deletions = async {
        stream::iter(names)
            .map(|name| {
                let pods: Api<Pod> = Api::namespaced(client.clone(), SHOP);
                async move { pods.delete(&name, &DeleteParams::default()).await.map(drop) }
            })
            .buffer_unordered(CREATED_AT_ONCE)
            .try_collect::<()>()
            .await?;
        anyhow::Ok(began.elapsed())
    };
    // The watch is read meanwhile: an API server ends one whose client does not keep up.
    let last = async { timeout(PATIENCE, follow.until(count)).await.context("owners have not made their pods again")? };
    let (answered, last) = tokio::try_join!(deletions, last)?;
    said(&format!(
        "recovery: {count} held pods deleted by one client within {:.1} s, all pods there after {:.1}; {:.1} s of the API server's CPU",
        answered.as_secs_f64(),
        (last - began).as_secs_f64(),
        harness.api_server_cpu()?.saturating_sub(spent).as_secs_f64(),
    ));
    Ok(last - began)
}

/// An owner whose pods hold may keep from a node: none of them names one.
fn held(kind: &'static str, place: usize, pods: usize) -> (&'static str, Value) {
    let mut owner = owner(kind, &format!("{}-{place}", kind.to_lowercase()), pods, 0);
    let spec = &mut owner["spec"];
    spec["template"]["spec"]["nodeName"] = Value::Null;
    match kind {
        "DaemonSet" => spec["template"]["spec"]["nodeSelector"] = json!({}),
        "StatefulSet" => spec["podManagementPolicy"] = json!("Parallel"),
        "ReplicationController" => spec["selector"] = spec["selector"]["matchLabels"].clone(),
        "Job" => spec["backoffLimit"] = json!(0),
        _ => {}
    }
    (kind, owner)
}

/// How long a client takes that creates all pods at once.
async fn floor(harness: &Harness, pods: usize, round: usize) -> Result<Duration> {
    let requests: Vec<_> = (0..pods)
        .map(|place| {
            let mut pod = owner("ReplicaSet", "floor", 1, 0)["spec"]["template"].take();
            pod["metadata"]["name"] = format!("floor-{round}-{place}").into();
            pod["spec"]["nodeName"] = Value::Null;
            pod.to_string().into_bytes()
        })
        .collect();
    let client = harness.client();
    let began = Instant::now();
    stream::iter(requests)
        .map(|body| {
            let client = client.clone();
            async move {
                let request = Request::post(format!("/api/v1/namespaces/{SHOP}/pods"))
                    .header("content-type", "application/json")
                    .body(body.into())?;
                let answer = client.send(request).await?;
                ensure!(answer.status().is_success(), "a pod of the floor: {}", answer.status());
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CREATED_AT_ONCE)
        .try_collect::<()>()
        .await?;
    let took = began.elapsed();
    check_meshed(harness, SHOP, pods).await?;
    clear(harness).await?;
    Ok(took)
}

/// Takes all owners and pods away.
async fn clear(harness: &Harness) -> Result<()> {
    let at_once = DeleteParams {
        grace_period_seconds: Some(0),
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    for kind in OWNERS.iter().map(|(kind, ..)| *kind).chain(["Pod"]) {
        let all: Api<DynamicObject> = Api::namespaced_with(harness.client(), SHOP, &resource_of(kind));
        // Its answer has been an object and a list.
        let _ = all.delete_collection(&at_once, &ListParams::default()).await?;
    }
    let began = Instant::now();
    while pods(harness, SHOP).await? > 0 {
        ensure!(began.elapsed() < PATIENCE, "pods stay");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

pub(super) async fn apply(harness: &Harness, file: &str) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests").join(file);
    let mut command = Command::new(harness.cluster.kubectl());
    let output = command.args(["apply", "--filename"]).arg(&file).output().await?;
    ensure!(output.status.success(), "cannot apply {}:\n{}", file.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Asks for a pod, without effect, until the answer is such; nothing where it is refused.
pub(super) async fn until_asked(harness: &Harness, what: &str, condition: impl Fn(Option<Pod>) -> bool) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(harness.client(), SHOP);
    let pod = serde_json::from_value(linkerd_gate_kit::object::pod("is-it-so").running("app:test").json())?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let asking = async { while !condition(pods.create(&dry_run, &pod).await.ok()) {} };
    timeout(PATIENCE, asking).await.with_context(|| format!("{what}: not so"))
}

pub(super) fn is_meshed(pod: &Pod) -> bool {
    pod.metadata.labels.iter().flatten().any(|(key, _)| key == MESHED)
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten());
    gates.into_iter().any(|gate| gate.name == "linkerd-gate/injected")
}

async fn until_suspended(harness: &Harness, count: usize) -> Result<()> {
    let jobs: Api<Job> = Api::namespaced(harness.client(), SHOP);
    let suspended = |jobs: &BTreeMap<String, Job>| {
        let is = |job: &&Job| job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
        (jobs.values().filter(is).count() == count).then_some(())
    };
    linkerd_gate_kit::cluster::until_any(&jobs, &ListParams::default(), "suspended Jobs", PATIENCE, suspended).await
}

async fn no_job_failed(harness: &Harness) -> Result<()> {
    let jobs: Api<Job> = Api::namespaced(harness.client(), SHOP);
    for job in jobs.list(&ListParams::default()).await? {
        let failed = job.status.as_ref().and_then(|status| status.failed).unwrap_or_default();
        ensure!(failed == 0, "{:?} counts {failed} failures", job.metadata.name);
    }
    Ok(())
}

async fn meshed(harness: &Harness) -> Result<usize> {
    let pods: Api<Pod> = Api::namespaced(harness.client(), SHOP);
    Ok(pods.list_metadata(&ListParams::default().labels(MESHED)).await?.items.len())
}

/// The pods that have a proxy, by a watch: asking again and again would cost the API server what is measured.
struct Meshed<S> {
    events: S,
    count: usize,
}

type Event = kube::Result<WatchEvent<PartialObjectMeta<Pod>>>;

async fn follow(harness: &Harness) -> Result<Meshed<impl Stream<Item = Event> + Unpin>> {
    let pods: Api<Pod> = Api::namespaced(harness.client(), SHOP);
    let there = pods.list_metadata(&ListParams::default().labels(MESHED)).await?;
    let version = there.metadata.resource_version.context("a list without a version")?;
    let events = pods.watch_metadata(&WatchParams::default().labels(MESHED), &version).await?;
    Ok(Meshed { events: Box::pin(events), count: there.items.len() })
}

impl<S: Stream<Item = Event> + Unpin> Meshed<S> {
    /// When there are so many.
    async fn until(&mut self, count: usize) -> Result<Instant> {
        while self.count < count {
            match self.events.next().await.context("the watch has ended")?? {
                WatchEvent::Added(_) => self.count += 1,
                WatchEvent::Deleted(_) => self.count -= 1,
                WatchEvent::Error(status) => bail!("the watch: {status:?}"),
                WatchEvent::Modified(_) | WatchEvent::Bookmark(_) => {}
            }
        }
        Ok(Instant::now())
    }
}
