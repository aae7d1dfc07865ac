//! What `uninstall` reads and writes: our own objects by name, pods that our gate holds, Jobs and nodes that carry our marks.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Error, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::held_pod::{self, Purpose, UNINSTALL_RIGHT, until_gone};
use super::refused::Refused;
use super::repair;
use crate::decide::hold;
use crate::decide::repair::object::JOB_TRACKING;
use crate::decide::repair::{Kind, OwnerReference, WriteOutcome, recreate};
use crate::decide::uninstall::{self, OnNode, is_suspended_by_us};

/// How many objects of a kind are in memory at a time while all of them are looked through.
const PAGE: u32 = 500;

/// How often a node is read again that has changed between the read and the write: kubelets write often.
const TRIES: u32 = 5;

/// What runs our parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The controller's.
    Deployment,
    /// The agents'.
    DaemonSet,
}

/// What binds an admission policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// MutatingAdmissionPolicyBinding, on Kubernetes 1.36 and newer.
    Mutating,
    /// ValidatingAdmissionPolicyBinding.
    Validating,
}

/// Whether a dry-run copy of a held pod is still taken by our admission policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StillHeld {
    /// It comes back with our gate, or our guard refuses it.
    Yes,
    /// It comes back without our gate.
    No,
    /// Other admission refuses it, or it could not be asked.
    Unknown(String),
}

// === impl Workload ===

impl Workload {
    /// As kubectl names it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::DaemonSet => "daemonset",
        }
    }

    /// Its uid; nothing where there is none of that name.
    pub async fn find(self, client: &Client, namespace: &str, name: &str) -> Result<Option<String>, Refused> {
        match self {
            Self::Deployment => find::<Deployment>(client, namespace, name).await,
            Self::DaemonSet => find::<DaemonSet>(client, namespace, name).await,
        }
    }

    /// Deletes it, its pods first.
    pub async fn delete(self, client: &Client, namespace: &str, name: &str, uid: &str) -> Result<(), Refused> {
        match self {
            Self::Deployment => delete::<Deployment>(client, namespace, name, uid).await,
            Self::DaemonSet => delete::<DaemonSet>(client, namespace, name, uid).await,
        }
    }

    /// Waits until it and its pods are gone, for `limit` at most. Returns whether they are.
    pub async fn until_gone(self, client: &Client, namespace: &str, name: &str, uid: &str, limit: Duration) -> bool {
        let client = client.clone();
        match self {
            Self::Deployment => until_gone(Api::<Deployment>::namespaced(client, namespace), name, uid, limit).await,
            Self::DaemonSet => until_gone(Api::<DaemonSet>::namespaced(client, namespace), name, uid, limit).await,
        }
    }
}

// === impl Binding ===

impl Binding {
    /// As kubectl names it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Mutating => "mutatingadmissionpolicybinding",
            Self::Validating => "validatingadmissionpolicybinding",
        }
    }

    /// Whether it is there. An API server that does not know the kind has none.
    pub async fn is_there(self, client: &Client, name: &str) -> Result<bool, Refused> {
        let found = self.api(client).get_metadata_opt(name).await;
        found.map(|found| found.is_some()).map_err(|error| Refused::of(&error, UNINSTALL_RIGHT))
    }

    /// Deletes it. Returns whether it was there.
    pub async fn delete(self, client: &Client, name: &str) -> Result<bool, Refused> {
        gone_or(self.api(client).delete(name, &DeleteParams::default()).await.map(drop))
    }

    fn api(self, client: &Client) -> Api<DynamicObject> {
        let (kind, plural) = match self {
            Self::Mutating => ("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"),
            Self::Validating => ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
        };
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind),
            plural,
        );
        Api::all_with(client.clone(), &resource)
    }
}

/// Whether the Lease is there.
pub async fn find_lease(client: &Client, namespace: &str, name: &str) -> Result<bool, Refused> {
    Ok(find::<Lease>(client, namespace, name).await?.is_some())
}

/// Deletes a Lease of ours. Returns whether it was there.
pub async fn delete_lease(client: &Client, namespace: &str, name: &str) -> Result<bool, Refused> {
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    gone_or(leases.delete(name, &DeleteParams::default()).await.map(drop))
}

/// All pods of the cluster with our gate, in the order in which the API server lists them.
pub async fn gated_pods(client: &Client) -> Result<Vec<Pod>, Refused> {
    list_all(&Api::<Pod>::all(client.clone()), |pod: &Pod| hold::is_gated(pod)).await
}

/// All Jobs that we suspended.
pub async fn suspended_jobs(client: &Client) -> Result<Vec<Job>, Refused> {
    list_all(&Api::<Job>::all(client.clone()), is_suspended_by_us).await
}

/// All nodes with anything of ours.
pub async fn marked_nodes(client: &Client, taint_key: &str) -> Result<Vec<Node>, Refused> {
    list_all(&Api::<Node>::all(client.clone()), |node: &Node| !uninstall::on_node(node, taint_key).is_empty()).await
}

/// Sends a dry-run copy of a held pod: it shows whether our admission still counts. Stores nothing.
pub async fn is_still_held(client: &Client, pod: &Pod) -> StillHeld {
    let uid = pod.metadata.uid.as_deref().unwrap_or("pod");
    let mut copy = recreate::trial(&recreate::manifest(pod), uid);
    // The injector would write an Event on an owner.
    copy.metadata.owner_references = None;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match held_pod::try_create(client, Purpose::Uninstall, namespace, &copy).await {
        Ok(created) if hold::is_gated(&created) => StillHeld::Yes,
        Ok(_) => StillHeld::No,
        Err(Refused::Denied { message, .. }) if message.contains("'linkerd-gate-guard'") => StillHeld::Yes,
        Err(refused) => StillHeld::Unknown(refused.to_string()),
    }
}

/// Deletes a held pod as it was read, so that its owner creates it again. Where a Job must not count that, its finalizer goes first.
pub async fn delete_held(client: &Client, pod: &Pod, uncounted: bool) -> Result<(), Refused> {
    let finalizers = pod.metadata.finalizers.as_deref().unwrap_or_default();
    if !uncounted || !finalizers.iter().any(|finalizer| finalizer == JOB_TRACKING) {
        return held_pod::delete(client, Purpose::Uninstall, pod).await;
    }
    let others: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != JOB_TRACKING).collect();
    let document = json!([
        {"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid},
        {"op": "test", "path": "/spec/schedulingGates", "value": hold::gates(pod)},
        {"op": "test", "path": "/metadata/finalizers", "value": finalizers},
        {"op": "replace", "path": "/metadata/finalizers", "value": others},
    ]);
    held_pod::patch(client, Purpose::Uninstall, pod, document).await?;
    // The patch has given it another resource version; its uid is what it was.
    let mut pod = pod.clone();
    pod.metadata.resource_version = None;
    held_pod::delete(client, Purpose::Uninstall, &pod).await
}

/// Takes our gate off the pod as it was read: marked as released where it starts outside the mesh.
pub async fn ungate(client: &Client, pod: &Pod, released: bool) -> Result<(), Refused> {
    let purpose = Purpose::Uninstall;
    if released { held_pod::release(client, purpose, pod).await } else { held_pod::ungate(client, purpose, pod).await }
}

/// Resumes a Job that we suspended.
///
/// # Errors
/// One sentence.
pub async fn resume(client: &Client, job: &Job) -> Result<(), String> {
    let metadata = &job.metadata;
    let reference = OwnerReference {
        kind: Kind::Job,
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
    };
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let resource_version = metadata.resource_version.as_deref().unwrap_or_default();
    match repair::resume(client.clone(), namespace, &reference, resource_version).await {
        WriteOutcome::Done => Ok(()),
        WriteOutcome::Conflict => Err("it has changed in the same moment: run this command again".to_owned()),
        WriteOutcome::Refused(why) | WriteOutcome::Failed(why) => Err(why),
    }
}

/// Takes our taint and our annotations off a node. A node that changes in the same moment is read again.
pub async fn free_node(client: &Client, node: &Node, taint_key: &str) -> Result<(), Refused> {
    let nodes = Api::<Node>::all(client.clone());
    let parameters = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let mut node = node.clone();
    for tried in 1.. {
        let left = uninstall::on_node(&node, taint_key);
        if left.is_empty() {
            break;
        }
        let document = serde_json::from_value(node_patch(&node, taint_key, &left));
        let document = document.map_err(|error| Refused::of(&Error::SerdeError(error), UNINSTALL_RIGHT))?;
        match nodes.patch_metadata(name, &parameters, &Patch::<()>::Json(document)).await {
            Ok(_) => break,
            // It is gone, and its marks with it.
            Err(Error::Api(status)) if status.code == 404 => break,
            Err(error) => match Refused::of(&error, UNINSTALL_RIGHT) {
                Refused::Conflict(_) if tried < TRIES => {}
                refused => return Err(refused),
            },
        }
        match nodes.get_opt(name).await.map_err(|error| Refused::of(&error, UNINSTALL_RIGHT))? {
            Some(read) => node = read,
            None => break,
        }
    }
    Ok(())
}

/// Guarded by what was read: the taints, and each annotation by being there.
fn node_patch(node: &Node, taint_key: &str, left: &OnNode) -> Value {
    let mut operations = Vec::new();
    if left.taint {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let others: Vec<_> = taints.iter().filter(|taint| !uninstall::is_ours(taint, taint_key)).collect();
        operations.push(json!({"op": "test", "path": "/spec/taints", "value": taints}));
        operations.push(if others.is_empty() {
            json!({"op": "remove", "path": "/spec/taints"})
        } else {
            json!({"op": "replace", "path": "/spec/taints", "value": others})
        });
    }
    for key in &left.annotations {
        // A slash within a name is `~1` in a path, and a tilde `~0` (RFC 6901).
        let path = format!("/metadata/annotations/{}", key.replace('~', "~0").replace('/', "~1"));
        operations.push(json!({"op": "remove", "path": path}));
    }
    operations.into()
}

async fn find<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<String>, Refused>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let found = Api::<K>::namespaced(client.clone(), namespace).get_metadata_opt(name).await;
    let found = found.map_err(|error| Refused::of(&error, UNINSTALL_RIGHT))?;
    Ok(found.map(|found| found.metadata.uid.unwrap_or_default()))
}

async fn delete<K>(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<(), Refused>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default().preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None })
    };
    let deleted = Api::<K>::namespaced(client.clone(), namespace).delete(name, &parameters).await;
    gone_or(deleted.map(drop)).map(drop)
}

/// Whether it was there; that it was not is no error.
fn gone_or(deleted: Result<(), Error>) -> Result<bool, Refused> {
    match deleted {
        Ok(()) => Ok(true),
        Err(Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(Refused::of(&error, UNINSTALL_RIGHT)),
    }
}

/// Looks through all objects of a kind, page by page, and keeps those that `keep` takes.
async fn list_all<K>(api: &Api<K>, keep: impl Fn(&K) -> bool) -> Result<Vec<K>, Refused>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut kept = Vec::new();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await.map_err(|error| Refused::of(&error, UNINSTALL_RIGHT))?;
        kept.extend(page.items.into_iter().filter(|object| keep(object)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_loses_what_is_ours_and_keeps_the_rest() {
        let node = json!({
            "metadata": {"annotations": {"linkerd-gate/opened-boot": "b", "example.com/x": "1"}},
            "spec": {"taints": [
                {"key": "example.com/x", "effect": "NoSchedule"},
                {"key": "linkerd-gate/closed", "value": "b", "effect": "NoSchedule"},
            ]},
        });
        let mut node: Node = serde_json::from_value(node).unwrap();
        let key = "linkerd-gate/closed";
        let others = json!([{"key": "example.com/x", "effect": "NoSchedule"}]);
        assert_eq!(
            node_patch(&node, key, &uninstall::on_node(&node, key)),
            json!([
                {"op": "test", "path": "/spec/taints", "value": node.spec.as_ref().unwrap().taints},
                {"op": "replace", "path": "/spec/taints", "value": others},
                {"op": "remove", "path": "/metadata/annotations/linkerd-gate~1opened-boot"},
            ])
        );
        node.spec.as_mut().unwrap().taints.as_mut().unwrap().remove(0);
        let patch = node_patch(&node, key, &uninstall::on_node(&node, key));
        assert_eq!(patch[1], json!({"op": "remove", "path": "/spec/taints"}));
    }
}
