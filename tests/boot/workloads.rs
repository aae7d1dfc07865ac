//! The pods whose start is looked at: one workload of every kind of owner, Jobs that forgive no failure, and pods without an owner.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::{self, Node};
use linkerd_gate_kit::object::{self, deployment, gate, job, pod, stateful_set};
use serde_json::{Value, json};

use super::harness::{Harness, PATIENCE, SHOP, app_runs, images};

/// A pod that names its node itself: no scheduler sees it, so no scheduling gate can hold it.
pub const PINNED: &str = "pinned";

/// Jobs with `backoffLimit: 0`, the second with the entry of `wait`.
pub const JOBS: [&str; 2] = ["report", "report-entry"];

/// Pods by `namespace/name`.
pub type Pods = BTreeMap<String, Pod>;

/// Something that makes pods again when they are gone.
pub struct Owner {
    /// Its kind.
    pub kind: &'static str,
    /// Its name, which its pods have as the label `app`.
    pub name: &'static str,
    /// How many pods; `None` for one on each node.
    replicas: Option<u32>,
    /// Whether its pods have the entry of `wait`.
    entry: bool,
}

/// One of each kind, and one whose pods have the entry.
pub const OWNERS: [Owner; 5] = [
    Owner { kind: "Deployment", name: "web", replicas: Some(3), entry: false },
    Owner { kind: "Deployment", name: "entry", replicas: Some(2), entry: true },
    Owner { kind: "StatefulSet", name: "store", replicas: Some(2), entry: false },
    Owner { kind: "DaemonSet", name: "logs", replicas: None, entry: false },
    Owner { kind: "ReplicationController", name: "legacy", replicas: Some(2), entry: false },
];

// === impl Owner ===

impl Owner {
    fn json(&self, entries: bool) -> Value {
        let pod = app(self.name, self.entry && entries);
        let workload = match self.kind {
            "StatefulSet" => stateful_set(self.name),
            _ => deployment(self.name),
        };
        let mut object = workload.in_namespace(SHOP).replicas(self.replicas.unwrap_or_default()).of(pod).json();
        object["kind"] = self.kind.into();
        match self.kind {
            "DaemonSet" => drop(object["spec"].as_object_mut().and_then(|spec| spec.remove("replicas"))),
            "ReplicationController" => {
                object["apiVersion"] = "v1".into();
                object["spec"]["selector"] = json!({"app": self.name});
            }
            _ => {}
        }
        object
    }

    /// How many pods it wants in a cluster of so many nodes.
    pub fn wanted(&self, nodes: usize) -> usize {
        self.replicas.map_or(nodes, |count| count as usize)
    }
}

fn app(name: &str, entry: bool) -> object::Pod {
    let app = pod(name).running(images::APP).with_args(&["app", "8080"]).serving_on(8080);
    if entry { app.with_gate(gate(images::GATE)) } else { app }
}

/// Every owner's pods run in the mesh, and nothing else is there: where a story begins. `entries` says whether any pod has the entry of
/// `wait`.
pub async fn open(harness: &Harness, entries: bool) -> Result<()> {
    clear(harness).await?;
    harness.apply(&OWNERS.iter().map(|owner| owner.json(entries)).collect::<Vec<_>>()).await?;
    let pods: Vec<Pod> = harness.pods(SHOP).await?;
    let api: Api<Pod> = harness.api(SHOP).await?;
    for pod in pods.iter().filter(|pod| !meshed(pod)) {
        api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
    }
    let found = |pods: &Pods| owners_settled(harness, pods).then_some(());
    cluster::until_any(&api, &ListParams::default(), "the workloads run in the mesh", PATIENCE, found).await
}

/// Removes the Jobs, and the pods without an owner.
async fn clear(harness: &Harness) -> Result<()> {
    let jobs: Api<Job> = harness.api(SHOP).await?;
    jobs.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
    let pods: Api<Pod> = harness.api(SHOP).await?;
    for pod in pods.list(&ListParams::default()).await?.items {
        if pod.owner_references().is_empty() {
            pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
        }
    }
    cluster::until_any(&jobs, &ListParams::default(), "no Job is left", PATIENCE, |jobs: &BTreeMap<String, Job>| {
        jobs.is_empty().then_some(())
    })
    .await?;
    let found = |pods: &Pods| pods.values().all(|pod| !JOBS.contains(&app_of(pod))).then_some(());
    cluster::until_any(&pods, &ListParams::default(), "no pod of a Job is left", PATIENCE, found).await
}

/// What a person or a CronJob would create in the middle of the outage.
pub async fn create_jobs(harness: &Harness, entries: bool) -> Result<()> {
    let objects = JOBS.map(|name| {
        let app = app(name, entries && name.ends_with("entry")).with_args(&["app", "once"]);
        let app = app.container_field("readinessProbe", Value::Null).container_field("ports", Value::Null);
        job(name).in_namespace(SHOP).backoff_limit(0).of(app).json()
    });
    harness.apply(&objects).await
}

/// Creates a pod without an owner; why it was refused, where it was.
pub async fn try_ownerless(harness: &Harness, name: &str, node: Option<&str>) -> Result<Option<String>> {
    let mut ownerless = app(name, false);
    if let Some(node) = node {
        ownerless = ownerless.on_node(node);
    }
    let pods: Api<Pod> = harness.api(SHOP).await?;
    match pods.create(&PostParams::default(), &serde_json::from_value(ownerless.json())?).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(status.message)),
        Err(error) => Err(error.into()),
    }
}

/// The nodes that are on.
pub fn on(harness: &Harness) -> impl Iterator<Item = &Node> {
    harness.cluster.nodes().iter().filter(|node| node.is_on())
}

/// The label `app`.
pub fn app_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).map_or("", String::as_str)
}

/// The living pods of one app.
pub fn of<'a>(pods: &'a Pods, app: &str) -> Vec<&'a Pod> {
    let is_of = |pod: &&Pod| app_of(pod) == app && pod.metadata.deletion_timestamp.is_none();
    pods.values().filter(is_of).collect()
}

/// Their uids.
pub fn uids<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<String> {
    pods.into_iter().filter_map(|pod| pod.metadata.uid.clone()).collect()
}

/// Whether its scheduling waits for our gate.
pub fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten());
    gates.into_iter().any(|gate| gate.name == "linkerd-gate/injected")
}

/// Whether it runs in the mesh.
pub fn runs_meshed(pod: &Pod) -> bool {
    meshed(pod) && app_runs(pod)
}

/// Whether every owner has as many pods as it wants, and all of them run in the mesh.
pub fn owners_settled(harness: &Harness, pods: &Pods) -> bool {
    let nodes = on(harness).count();
    OWNERS.iter().all(|owner| {
        let own = of(pods, owner.name);
        own.len() == owner.wanted(nodes) && own.into_iter().all(runs_meshed)
    })
}

/// Waits until each Job has ended, well.
pub async fn until_jobs_complete(harness: &Harness) -> Result<()> {
    for name in JOBS {
        until_job_completes(harness, name).await?;
    }
    Ok(())
}

/// Waits until each Job that there is has ended, well.
pub async fn until_those_jobs_complete(harness: &Harness) -> Result<()> {
    let jobs: Api<Job> = harness.api(SHOP).await?;
    for job in jobs.list(&ListParams::default()).await? {
        until_job_completes(harness, &job.name_any()).await?;
    }
    Ok(())
}

/// Waits until the Job has ended, well: no failure of a pod is forgiven.
pub async fn until_job_completes(harness: &Harness, name: &str) -> Result<()> {
    let jobs: Api<Job> = harness.api(SHOP).await?;
    let ended = |job: &Job| has_condition(job, "Complete") || has_condition(job, "Failed");
    let job = cluster::until(&jobs, name, "ended", PATIENCE, ended).await?;
    ensure!(has_condition(&job, "Complete"), "Job {name} failed: {:?}", job.status);
    let failed = job.status.as_ref().and_then(|status| status.failed).unwrap_or_default();
    ensure!(failed == 0, "Job {name} counts {failed} failed pods");
    Ok(())
}

/// How many Jobs failed.
pub async fn failed_jobs(harness: &Harness) -> Result<usize> {
    let jobs: Api<Job> = harness.api(SHOP).await?;
    Ok(jobs.list(&ListParams::default()).await?.iter().filter(|job| has_condition(job, "Failed")).count())
}

/// Waits until this many creates of the kind and name were refused, by the Events of its controller; the last words of one.
pub async fn until_create_refused(harness: &Harness, kind: &str, name: &str, since: &str) -> Result<String> {
    let events: Api<Event> = harness.api(SHOP).await?;
    let only = ListParams::default().fields(&format!("involvedObject.kind={kind},reason=FailedCreate"));
    let found = |events: &BTreeMap<String, Event>| {
        events.values().find_map(|event| {
            let about = event.involved_object.name.as_deref().unwrap_or_default();
            let new = event.metadata.resource_version.as_deref().is_some_and(|version| newer(version, since));
            // A Deployment's pods are made by its ReplicaSet.
            (new && (about == name || about.starts_with(&format!("{name}-")))).then(|| event.message.clone())
        })
    };
    let what = format!("{kind} {name}: a create is refused");
    let message = cluster::until_any(&events, &only, &what, PATIENCE, found).await?;
    message.with_context(|| format!("an Event about {kind} {name} without a message"))
}

/// Whether a resource version is newer than another: of one kind of object, an API server counts upwards.
fn newer(version: &str, than: &str) -> bool {
    version.parse::<u64>().ok() > than.parse::<u64>().ok()
}

/// The resource version of this moment.
pub async fn now(harness: &Harness) -> Result<String> {
    let events: Api<Event> = harness.api(SHOP).await?;
    Ok(events.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default())
}

fn has_condition(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}
