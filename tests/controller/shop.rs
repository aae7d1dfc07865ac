//! A shop's workloads, and what becomes of their pods.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster;
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage};

/// Where the workloads are.
pub const SHOP: &str = "shop";

/// All pods, by name.
pub type Pods = BTreeMap<String, Pod>;

/// A cluster with a Linkerd whose injector is absent, and a namespace that asks.
pub async fn opened() -> Result<Stage> {
    let stage = Stage::set().await?;
    stage
        .cluster
        .create_namespace(&super::stage::object(linkerd_gate_kit::object::namespace(SHOP).asking().json())?)
        .await?;
    Ok(stage)
}

/// Lets the injector answer; provers look at once.
pub async fn recover(stage: &Stage) -> Result<()> {
    stage.injector.recover().await?;
    stage.move_injector(true).await
}

pub async fn pods(stage: &Stage) -> Result<Api<Pod>> {
    Ok(Api::namespaced(stage.cluster.client().await?, SHOP))
}

/// Waits until the shop's pods are like that.
pub async fn until_pods(stage: &Stage, what: &str, condition: impl Fn(&Pods) -> bool) -> Result<Pods> {
    let found = |pods: &Pods| condition(pods).then(|| pods.clone());
    cluster::until_any(&pods(stage).await?, &ListParams::default(), what, PATIENCE, found).await
}

/// Waits for an Event of that reason about something of that name in the shop.
pub async fn until_event(stage: &Stage, kind: &str, name: &str, reason: &str) -> Result<Event> {
    let events: Api<Event> = Api::namespaced(stage.cluster.client().await?, SHOP);
    let only = ListParams::default().fields(&format!("involvedObject.kind={kind},involvedObject.name={name}"));
    let found =
        |all: &BTreeMap<String, Event>| all.values().find(|event| event.reason.as_deref() == Some(reason)).cloned();
    cluster::until_any(&events, &only, &format!("event {reason} on {kind} {name}"), PATIENCE, found).await
}

/// So many pods, and each of them with its proxy.
pub fn all_meshed(pods: &Pods, count: usize) -> bool {
    pods.len() == count && pods.values().all(|pod| meshed(pod) && pod.metadata.deletion_timestamp.is_none())
}

/// So many pods, and none of them with a proxy.
pub fn all_bare(pods: &Pods, count: usize) -> bool {
    pods.len() == count && pods.values().all(|pod| !meshed(pod))
}

pub fn name(pod: &Pod) -> Result<&str> {
    pod.metadata.name.as_deref().context("a pod without a name")
}

pub async fn replica_set(stage: &Stage, name: &str, replicas: u32) -> Result<ReplicaSet> {
    stage.create(SHOP, set(name, replicas)).await
}

pub async fn stateful_set(stage: &Stage, name: &str, replicas: u32) -> Result<StatefulSet> {
    let mut set = set(name, replicas);
    set["spec"]["serviceName"] = json!(name);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    stage.create(SHOP, set).await
}

/// A Job of so many pods at a time, which tolerates no failure.
pub async fn job(stage: &Stage, name: &str, parallelism: u32, spec: Value) -> Result<Job> {
    let mut job = json!({
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "parallelism": parallelism,
            "completions": parallelism,
            "template": template(name, "Never"),
        },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        job["spec"][key] = value.clone();
    }
    stage.create(SHOP, job).await
}

fn set(name: &str, replicas: u32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, "Always"),
        },
    })
}

fn template(name: &str, restart: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": name}},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "app:1"}],
        },
    })
}
