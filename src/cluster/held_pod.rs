//! One held pod, as a person's command treats it: releasing it, and making it again.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, PodSchedulingGate};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::event::{EventSubject, Reporter, note};
use super::refused::Refused;
use crate::decide::hold;
use crate::retry::Schedule;

/// What for: it decides which rights a person needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To take our gate off.
    Release,
    /// To make a pod again.
    Recreate,
    /// To let go what is held, in all namespaces.
    Uninstall,
}

/// Reads a pod; nothing where there is none of that name.
pub async fn read(client: &Client, purpose: Purpose, namespace: &str, name: &str) -> Result<Option<Pod>, Refused> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    pods.get_opt(name).await.map_err(|error| Refused::of(&error, &purpose.right(namespace)))
}

/// The names of all pods of a namespace that our gate holds, in order.
pub async fn gated(client: &Client, namespace: &str) -> Result<Vec<String>, Refused> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default()).await;
    let listed = listed.map_err(|error| Refused::of(&error, &Purpose::Release.right(namespace)))?;
    let held = listed.items.into_iter().filter(|pod| hold::is_gated(pod) && pod.metadata.deletion_timestamp.is_none());
    Ok(held.filter_map(|pod| pod.metadata.name).collect())
}

/// Takes our gate off the pod as it was read, and marks it as released by a person.
///
/// One JSON patch: it fails with [`Refused::Conflict`] where the pod is another one by now, or its gates have changed.
pub async fn release(client: &Client, purpose: Purpose, pod: &Pod) -> Result<(), Refused> {
    patch(client, purpose, pod, release_patch(pod, true)).await
}

/// Takes our gate off the pod as it was read, without the mark: for a pod that is in the mesh.
pub(super) async fn ungate(client: &Client, purpose: Purpose, pod: &Pod) -> Result<(), Refused> {
    patch(client, purpose, pod, release_patch(pod, false)).await
}

/// Applies a JSON patch to the pod.
pub(super) async fn patch(client: &Client, purpose: Purpose, pod: &Pod, document: Value) -> Result<(), Refused> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let parameters = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let refused = |error: &kube::Error| Refused::of(error, &purpose.right(namespace));
    let document = serde_json::from_value(document).map_err(|error| refused(&kube::Error::SerdeError(error)))?;
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let patched = pods.patch_metadata(name, &parameters, &Patch::<()>::Json(document)).await;
    patched.map(drop).map_err(|error| refused(&error))
}

/// The Event that tells of a release: a Warning on the pod.
///
/// # Errors
/// One sentence: the release itself stands.
pub async fn note_release(client: &Client, pod: &Pod, now: Timestamp) -> Result<(), String> {
    let metadata = &pod.metadata;
    let subject = EventSubject {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
    };
    let reporter = Reporter { instance: "linkerd-gate-release", node: None };
    let message = "released by hand: linkerd-gate's gate was taken off, and the pod starts outside the mesh";
    note(client.clone(), reporter, &subject, true, "Released", message, now).await
}

/// Creates the pod without storing it. Returns it as it would be stored.
pub async fn try_create(client: &Client, purpose: Purpose, namespace: &str, pod: &Pod) -> Result<Pod, Refused> {
    create_with(client, purpose, namespace, pod, true).await
}

/// Creates the pod. Returns it as it is stored.
pub async fn create(client: &Client, namespace: &str, pod: &Pod) -> Result<Pod, Refused> {
    create_with(client, Purpose::Recreate, namespace, pod, false).await
}

async fn create_with(
    client: &Client,
    purpose: Purpose,
    namespace: &str,
    pod: &Pod,
    dry_run: bool,
) -> Result<Pod, Refused> {
    let parameters = PostParams { dry_run, field_manager: Some(super::FIELD_MANAGER.to_owned()) };
    let created = Api::<Pod>::namespaced(client.clone(), namespace).create(&parameters, pod).await;
    created.map_err(|error| Refused::of(&error, &purpose.right(namespace)))
}

/// Deletes the pod as it was read and no other, with its own grace period.
pub async fn delete(client: &Client, purpose: Purpose, pod: &Pod) -> Result<(), Refused> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let parameters = DeleteParams::default().preconditions(Preconditions {
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
    });
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let deleted = pods.delete(pod.metadata.name.as_deref().unwrap_or_default(), &parameters).await;
    deleted.map(drop).map_err(|error| Refused::of(&error, &purpose.right(namespace)))
}

/// Waits until the pod is gone, for `limit` at most. Returns whether it is.
pub async fn until_pod_gone(client: &Client, namespace: &str, name: &str, uid: &str, limit: Duration) -> bool {
    until_gone(Api::<Pod>::namespaced(client.clone(), namespace), name, uid, limit).await
}

/// Waits until the object of that name and uid is gone, for `limit` at most, by a watch. Returns whether it is. An API server that
/// does not answer for a while is waited for.
pub(super) async fn until_gone<K>(api: Api<K>, name: &str, uid: &str, limit: Duration) -> bool
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let gone = async {
        let mut schedule = Schedule::watch_restart();
        loop {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let mut events = watcher::watcher(api.clone(), config).boxed();
            let mut listed = false;
            loop {
                match events.next().await {
                    Some(Ok(Event::Init)) => listed = false,
                    Some(Ok(Event::InitApply(object) | Event::Apply(object))) => {
                        listed = object.meta().uid.as_deref() == Some(uid);
                        // Another one has its name.
                        if !listed {
                            return;
                        }
                    }
                    Some(Ok(Event::InitDone)) if !listed => return,
                    Some(Ok(Event::InitDone)) => {}
                    Some(Ok(Event::Delete(_))) => return,
                    Some(Err(_)) | None => break,
                }
            }
            tokio::time::sleep(schedule.next_pause()).await;
        }
    };
    tokio::time::timeout(limit, gone).await.is_ok()
}

/// The patch by which our gate comes off, and no other; `mark` adds the annotation that says that a person did it.
fn release_patch(pod: &Pod, mark: bool) -> Value {
    let gates = hold::gates(pod);
    let others: Vec<PodSchedulingGate> = hold::other_gates(pod);
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid}),
        json!({"op": "test", "path": "/spec/schedulingGates", "value": gates}),
    ];
    if mark {
        // A slash within a name is `~1` in a path (RFC 6901).
        let path = format!("/metadata/annotations/{}", hold::RELEASE.replace('/', "~1"));
        if pod.metadata.annotations.is_none() {
            operations.push(json!({"op": "test", "path": "/metadata/annotations", "value": null}));
            operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        }
        operations.push(json!({"op": "add", "path": path, "value": "true"}));
    }
    operations.push(if others.is_empty() {
        json!({"op": "remove", "path": "/spec/schedulingGates"})
    } else {
        json!({"op": "replace", "path": "/spec/schedulingGates", "value": others})
    });
    operations.into()
}

/// The rights of `uninstall`.
pub(super) const UNINSTALL_RIGHT: &str =
    "those of cluster-admin, or of the ClusterRole linkerd-gate-uninstall in deploy/chart/templates/uninstall";

// === impl Purpose ===

impl Purpose {
    /// What it takes, and the command that grants it.
    fn right(self, namespace: &str) -> String {
        let (verbs, name) = match self {
            Self::Release => ("get,list,patch", "linkerd-gate-release"),
            Self::Recreate => ("get,list,watch,create,delete", "linkerd-gate-recreate"),
            Self::Uninstall => return UNINSTALL_RIGHT.to_owned(),
        };
        format!(
            "{verbs} on pods in namespace {namespace} (kubectl create role {name} --namespace {namespace} --verb={verbs} \
             --resource=pods, and a rolebinding)"
        )
    }
}
