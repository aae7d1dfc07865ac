//! A shop's workloads, and what becomes of their pods.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::{self, AuditedRequest};
use serde_json::{Value, json};

use super::harness::{Harness, PATIENCE};

/// Where the workloads are.
pub const SHOP: &str = "shop";

/// All pods, by name.
pub type Pods = BTreeMap<String, Pod>;

/// A cluster with a Linkerd whose injector is absent, and a namespace that asks.
pub async fn opened() -> Result<Harness> {
    let harness = Harness::set().await?;
    harness
        .cluster
        .create_namespace(&super::harness::object(linkerd_gate_kit::object::namespace(SHOP).asking().json())?)
        .await?;
    Ok(harness)
}

/// Lets the injector answer; provers look at once.
pub async fn recover(harness: &Harness) -> Result<()> {
    harness.injector.recover().await?;
    harness.move_injector(true).await
}

pub async fn pods(harness: &Harness) -> Result<Api<Pod>> {
    Ok(Api::namespaced(harness.cluster.client().await?, SHOP))
}

/// Waits until the shop's pods are like that.
pub async fn until_pods(harness: &Harness, what: &str, condition: impl Fn(&Pods) -> bool) -> Result<Pods> {
    let found = |pods: &Pods| condition(pods).then(|| pods.clone());
    cluster::until_any(&pods(harness).await?, &ListParams::default(), what, PATIENCE, found).await
}

/// Waits until so many of the shop's pods have a proxy, and then until they are `complete`. Each tenth of them has [`PATIENCE`] of its own:
/// how long all of them take depends on the machine, and a tenth that does not come is a fault.
pub async fn until_meshed(harness: &Harness, count: usize, complete: impl Fn(&Pods) -> bool) -> Result<Pods> {
    let number = |pods: &Pods| pods.values().filter(|pod| meshed(pod)).count();
    for tenth in 1..=10 {
        let part = (count * tenth).div_ceil(10);
        until_pods(harness, &format!("{part} of {count} meshed"), |pods| number(pods) >= part).await?;
    }
    until_pods(harness, "meshed", complete).await
}

/// Waits for an Event of that reason about something of that name in the shop.
pub async fn until_event(harness: &Harness, kind: &str, name: &str, reason: &str) -> Result<Event> {
    let events: Api<Event> = Api::namespaced(harness.cluster.client().await?, SHOP);
    let only = ListParams::default().fields(&format!("involvedObject.kind={kind},involvedObject.name={name}"));
    let found =
        |all: &BTreeMap<String, Event>| all.values().find(|event| event.reason.as_deref() == Some(reason)).cloned();
    cluster::until_any(&events, &only, &format!("event {reason} on {kind} {name}"), PATIENCE, found).await
}

/// Those that belong to one of these apps.
pub fn of<'a>(pods: &'a Pods, app: &str) -> Vec<&'a Pod> {
    let is_of =
        |pod: &&Pod| pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).is_some_and(|of| of == app);
    pods.values().filter(is_of).collect()
}

/// Their uids.
pub fn uids<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<String> {
    pods.into_iter().filter_map(|pod| pod.metadata.uid.clone()).collect()
}

pub fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Whether it is ready, and not about to go.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Lets a pod end well: nothing runs in it that could.
pub async fn succeed(pods: &Api<Pod>, pod: &Pod) -> Result<()> {
    let succeeded = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status(name(pod)?, &PatchParams::default(), &Patch::Merge(succeeded)).await?;
    Ok(())
}

/// What of this was to remove a pod: deletions and evictions.
pub fn removals(requests: &[AuditedRequest]) -> Vec<&AuditedRequest> {
    let removes = |request: &&AuditedRequest| {
        request.resource == "pods" && (request.verb == "delete" || request.subresource == "eviction")
    };
    requests.iter().filter(removes).collect()
}

/// Those that were done.
pub fn succeeded<'a>(requests: &[&'a AuditedRequest]) -> Vec<&'a AuditedRequest> {
    requests.iter().copied().filter(|request| request.code.is_some_and(|code| code < 300)).collect()
}

/// Whether each of them has its proxy, and there are so many.
pub fn are_meshed(pods: &[&Pod], count: usize) -> bool {
    pods.len() == count && pods.iter().all(|pod| meshed(pod) && pod.metadata.deletion_timestamp.is_none())
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

/// A ReplicaSet, or a ReplicationController as far as they are written alike.
pub fn set(name: &str, replicas: u32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, "Always"),
        },
    })
}

/// A StatefulSet that does not wait for one pod before it makes the next, and leaves old ones alone when its template changes.
pub fn stateful(name: &str, replicas: u32) -> Value {
    let mut set = set(name, replicas);
    merge(
        &mut set,
        &json!({"spec": {
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
        }}),
    );
    set
}

/// A Job of so many pods at a time, which tolerates no failure.
pub fn job(name: &str, parallelism: u32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "parallelism": parallelism,
            "completions": parallelism,
            "template": template(name, "Never"),
        },
    })
}

/// A pod without an owner, or a template.
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

/// A pod without an owner.
pub fn pod(name: &str) -> Value {
    let mut pod = template(name, "Always");
    pod["metadata"]["name"] = json!(name);
    pod
}

/// The same, and made anew by that.
pub fn owned_by(api_version: &str, kind: &str, name: &str, uid: &str, mut pod: Value) -> Value {
    let owner = json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true});
    pod["metadata"]["ownerReferences"] = json!([owner]);
    pod
}

/// The same with a Job's word that its evicted pods are no failures.
pub fn ignoring(mut job: Value) -> Value {
    let rule = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    merge(&mut job, &json!({"spec": {"podFailurePolicy": {"rules": [rule]}}}));
    job
}

/// The same, whose pods have the entry of `wait`.
pub fn waiting(mut owner: Value) -> Value {
    let entry = json!([{"name": "linkerd-gate", "image": "gate:1", "args": ["wait"]}]);
    merge(&mut owner, &json!({"spec": {"template": {"spec": {"initContainers": entry}}}}));
    owner
}

/// The same, whose pods find no node: none of them ever starts.
pub fn unscheduled(mut owner: Value) -> Value {
    merge(&mut owner, &json!({"spec": {"template": {"spec": {"nodeSelector": {"nowhere": "true"}}}}}));
    owner
}

/// Changes what `change` names, and leaves the rest.
pub fn merge(object: &mut Value, change: &Value) {
    match change {
        Value::Object(fields) if object.is_object() => {
            for (key, value) in fields {
                merge(&mut object[key.as_str()], value);
            }
        }
        other => *object = other.clone(),
    }
}
