//! What a controller writes: removals of missed pods, our gate and a Job's finalizer on gated ones, two fields of a Job, one annotation
//! of an owner that was refused. Each has a precondition, so that what was not looked at is never meant; none writes a whole object.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::core::response::StatusCause;
use kube::{Api, Client, Error, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::{describe, is_failed_test};
use crate::decide::hold::GATE;
use crate::decide::repair::object::{JOB_TRACKING, RETRIED_AT, SUSPENDED};
use crate::decide::repair::retry::OwnerRetry;
use crate::decide::repair::{Kind, OwnerReference, Target, Ungate, WriteOutcome};

/// Removes the pod that was looked at, as it was looked at, with its own grace period: by a deletion, or by an eviction, which
/// disruption budgets may refuse.
pub async fn remove(client: Client, namespace: &str, target: &Target, evict: bool) -> WriteOutcome {
    let pods = Api::<Pod>::namespaced(client, namespace);
    if evict { self::evict(&pods, namespace, target).await } else { delete(&pods, namespace, target).await }
}

/// Takes the finalizer off a gated pod by which its Job counts it, and deletes the pod: the Job counts nothing, and makes another.
///
/// `gate_index` is the place of our gate among its scheduling gates. Whoever stops between the two leaves a gated pod without the finalizer,
/// which [`remove`] is for.
pub async fn untrack(client: Client, namespace: &str, target: &Target, gate_index: usize) -> WriteOutcome {
    let act = format!("take the finalizer {JOB_TRACKING} off pod {namespace}/{}", target.name);
    let operations = json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": target.resource_version},
        {"op": "test", "path": format!("/spec/schedulingGates/{gate_index}/name"), "value": GATE},
        // No other is among them: one of another program's would keep the pod there.
        {"op": "test", "path": "/metadata/finalizers", "value": [JOB_TRACKING]},
        {"op": "remove", "path": "/metadata/finalizers"},
    ]);
    let pods = Api::<Pod>::namespaced(client, namespace);
    match patch_pod(&pods, &target.name, operations).await {
        Ok(metadata) => {
            let uid = metadata.uid.unwrap_or_else(|| target.uid.clone());
            let target =
                Target { uid, resource_version: metadata.resource_version.unwrap_or_default(), ..target.clone() };
            delete(&pods, namespace, &target).await
        }
        Err(error) => outcome(&act, Err(error)),
    }
}

/// Takes our gate off a pod as it was looked at: other gates stay, and so does the rest of it.
pub async fn ungate(client: Client, ungate: &Ungate) -> WriteOutcome {
    let Ungate { namespace, name, resource_version, index, .. } = ungate;
    let path = format!("/spec/schedulingGates/{index}");
    let operations = json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
        {"op": "test", "path": format!("{path}/name"), "value": GATE},
        {"op": "remove", "path": path},
    ]);
    let pods = Api::<Pod>::namespaced(client, namespace);
    let patched = patch_pod(&pods, name, operations).await.map(drop);
    outcome(&format!("take the scheduling gate {GATE} off pod {namespace}/{name}"), patched)
}

/// Suspends a Job, which ends its active pods without counting them, and leaves a mark by which whoever finds it resumes it.
pub async fn suspend(
    client: Client,
    namespace: &str,
    job: &OwnerReference,
    resource_version: &str,
    now: Timestamp,
) -> WriteOutcome {
    let document = json!({
        "metadata": {
            "uid": job.uid,
            "resourceVersion": resource_version,
            "annotations": {SUSPENDED: now.to_string()},
        },
        "spec": {"suspend": true},
    });
    let act = format!("suspend job {namespace}/{}", job.name);
    outcome(&act, patch::<Job>(client, namespace, &job.name, &document).await)
}

/// Resumes a Job that we suspended, and takes our mark away.
pub async fn resume(client: Client, namespace: &str, job: &OwnerReference, resource_version: &str) -> WriteOutcome {
    let document = json!({
        "metadata": {
            "uid": job.uid,
            "resourceVersion": resource_version,
            "annotations": {SUSPENDED: null},
        },
        "spec": {"suspend": false},
    });
    let act = format!("resume job {namespace}/{}", job.name);
    outcome(&act, patch::<Job>(client, namespace, &job.name, &document).await)
}

/// Asks an owner's controller to try a refused create again, by a change that means nothing else.
pub async fn retry_owner(client: Client, retry: &OwnerRetry, now: Timestamp) -> WriteOutcome {
    let OwnerRetry { namespace, owner, .. } = retry;
    let document = json!({"metadata": {"uid": owner.uid, "annotations": {RETRIED_AT: now.to_string()}}});
    let act = format!("annotate {} {namespace}/{}", owner.kind.names().1.to_lowercase(), owner.name);
    let patched = match owner.kind {
        Kind::ReplicaSet => patch::<ReplicaSet>(client, namespace, &owner.name, &document).await,
        Kind::StatefulSet => patch::<StatefulSet>(client, namespace, &owner.name, &document).await,
        Kind::DaemonSet => patch::<DaemonSet>(client, namespace, &owner.name, &document).await,
        Kind::Job => patch::<Job>(client, namespace, &owner.name, &document).await,
        Kind::ReplicationController | Kind::Other(_) => {
            return WriteOutcome::Failed(format!("this version cannot {act}, so nothing is written"));
        }
    };
    outcome(&act, patched)
}

async fn delete(pods: &Api<Pod>, namespace: &str, target: &Target) -> WriteOutcome {
    let parameters = DeleteParams::default().preconditions(Preconditions {
        uid: Some(target.uid.clone()),
        resource_version: Some(target.resource_version.clone()),
    });
    let deleted = pods.delete(&target.name, &parameters).await.map(drop);
    outcome(&format!("delete pod {namespace}/{}", target.name), deleted)
}

async fn evict(pods: &Api<Pod>, namespace: &str, target: &Target) -> WriteOutcome {
    // Not by kube's own `evict`: it sends the options as `delete_options`, which an API server does not know and drops.
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(target.name.clone()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        delete_options: Some(meta::DeleteOptions {
            preconditions: Some(meta::Preconditions {
                uid: Some(target.uid.clone()),
                resource_version: Some(target.resource_version.clone()),
            }),
            ..meta::DeleteOptions::default()
        }),
    };
    let act = format!("evict pod {namespace}/{}", target.name);
    let answer =
        pods.create_subresource::<_, Status>("eviction", &target.name, &PostParams::default(), &eviction).await;
    match answer {
        Err(Error::Api(status)) if is_of_a_budget(&status) => WriteOutcome::Refused(words(&status)),
        Err(Error::Api(status)) if status.message.contains("cannot create resource \"pods/eviction\"") => {
            WriteOutcome::Failed(format!(
                "{}; LINKERD_GATE_EVICTION=true needs the right to create pods/eviction",
                describe(&act, &Error::Api(status)),
            ))
        }
        answer => outcome(&act, answer.map(drop)),
    }
}

/// A merge patch, which writes no fields of other clients. Only metadata comes back.
async fn patch<K>(client: Client, namespace: &str, name: &str, document: &Value) -> Result<(), Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let parameters = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let objects = Api::<K>::namespaced(client, namespace);
    objects.patch_metadata(name, &parameters, &Patch::Merge(document)).await.map(drop)
}

/// A JSON patch of a pod. Only metadata comes back.
async fn patch_pod(pods: &Api<Pod>, name: &str, operations: Value) -> Result<ObjectMeta, Error> {
    let patch = serde_json::from_value(operations).map_err(Error::SerdeError)?;
    let parameters = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = pods.patch_metadata(name, &parameters, &Patch::<()>::Json(patch)).await?;
    Ok(patched.metadata)
}

fn outcome(act: &str, answer: Result<(), Error>) -> WriteOutcome {
    match answer {
        Ok(()) => WriteOutcome::Done,
        Err(Error::Api(status)) if is_conflict(&status) => WriteOutcome::Conflict,
        Err(error) => WriteOutcome::Failed(describe(act, &error)),
    }
}

/// Whether what was looked at is gone or going, or has changed, or another of its name is there.
fn is_conflict(status: &Status) -> bool {
    status.code == 404
        || status.code == 409
        // A `test` that failed: the list that was looked at has changed.
        || is_failed_test(status)
        // To a patch without a resource version, another uid is an attempt to change it.
        || causes(status).iter().any(|cause| cause.field == "metadata.uid" || cause.reason == "NamespaceTerminating")
}

/// Whether a disruption budget is in the way: a 429 that names one is its word, any other the API server's own trouble. A budget
/// that cannot keep up with evictions forbids them, and two of one pod are a 500 (k8s.io/kubernetes, `EvictionREST.Create`).
fn is_of_a_budget(status: &Status) -> bool {
    causes(status).iter().any(|cause| cause.reason == "DisruptionBudget")
        || status.code == 403 && status.details.as_ref().is_some_and(|details| details.kind == "poddisruptionbudget")
        || status.code == 500 && status.message.contains("more than one PodDisruptionBudget")
}

/// The refusal, with the budget's own words.
fn words(status: &Status) -> String {
    let budget = causes(status).iter().find(|cause| cause.reason == "DisruptionBudget");
    budget.map_or_else(|| status.message.clone(), |budget| format!("{} {}", status.message, budget.message))
}

fn causes(status: &Status) -> &[StatusCause] {
    status.details.as_ref().map_or(&[], |details| &details.causes)
}
