//! Essential pods: their watch, and the one toleration that they get.

use std::convert::Infallible;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, Patch, PatchParams};
use kube::core::Status;
use kube::runtime::watcher;
use kube::{Client, Error};
use serde_json::json;
use tokio::sync::watch;

use super::error::{describe, is_failed_test};
use super::watch::{Seen, follow, follow_some};
use crate::decide::node::essential::{
    AddToleration, DaemonPodView, DaemonSetView, EssentialNamespace, UnboundPod, toleration,
};
use crate::decide::node::placement::NodePlace;

/// What became of a toleration.
#[derive(Debug, PartialEq, Eq)]
pub enum Tolerated {
    /// The pod has it.
    Added,
    /// The pod is gone, or another of its name is there, or it was changed: the agent plans again.
    Conflict,
}

/// Follows all namespaces, for ever.
pub async fn follow_namespaces(client: Client, sink: watch::Sender<Seen<EssentialNamespace>>) -> Infallible {
    follow("namespaces", Api::<Namespace>::all(client), watcher::Config::default(), EssentialNamespace::of, sink).await
}

/// Follows the pods that the scheduler has refused and that do not tolerate our taint, in all namespaces, for ever. One watch: what is
/// not essential among them is sorted out later, since which namespaces are essential may change.
pub async fn follow_pods(client: Client, key: &str, sink: watch::Sender<Seen<UnboundPod>>) -> Infallible {
    let config = watcher::Config::default().fields("spec.nodeName=");
    let view = |pod: Pod| Some(UnboundPod::of(&pod)).filter(|pod| pod.wants(key));
    follow_some("pods without a node", Api::<Pod>::all(client), config, view, sink).await
}

/// Follows the pods of DaemonSets in one namespace, for ever. The label stands on every pod that a DaemonSet makes.
pub async fn follow_daemon_pods(
    client: Client,
    namespace: &str,
    sink: watch::Sender<Seen<DaemonPodView>>,
) -> Infallible {
    let config = watcher::Config::default().labels("controller-revision-hash");
    let what = format!("pods of DaemonSets in {namespace}");
    follow_some(&what, Api::<Pod>::namespaced(client, namespace), config, |pod| DaemonPodView::of(&pod), sink).await
}

/// Follows what DaemonSets can ask of nodes, for ever.
pub async fn follow_places(client: Client, sink: watch::Sender<Seen<NodePlace>>) -> Infallible {
    follow("nodes", Api::<Node>::all(client), watcher::Config::default(), NodePlace::of, sink).await
}

/// Follows all DaemonSets, for ever.
pub async fn follow_daemon_sets(client: Client, sink: watch::Sender<Seen<DaemonSetView>>) -> Infallible {
    follow("daemonsets", Api::<DaemonSet>::all(client), watcher::Config::default(), DaemonSetView::of, sink).await
}

/// Whether the pod is gone, or is not as it was read.
fn is_conflict(status: &Status) -> bool {
    matches!(status.code, 404 | 409) || is_failed_test(status)
}

/// Adds the toleration of our taint to one pod that has no node yet; of a pod's spec little more can be changed.
///
/// # Errors
/// One sentence for the log.
pub async fn tolerate(client: Client, key: &str, pod: &AddToleration) -> Result<Tolerated, String> {
    let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": pod.uid})];
    if pod.has_tolerations {
        operations.push(json!({"op": "add", "path": "/spec/tolerations/-", "value": toleration(key)}));
    } else {
        operations.push(json!({"op": "test", "path": "/spec/tolerations", "value": null}));
        operations.push(json!({"op": "add", "path": "/spec/tolerations", "value": [toleration(key)]}));
    }
    let patch = serde_json::from_value(operations.into()).map_err(|error: serde_json::Error| error.to_string())?;
    let parameters = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let pods = Api::<Pod>::namespaced(client, &pod.namespace);
    match pods.patch(&pod.name, &parameters, &Patch::<()>::Json(patch)).await {
        Ok(_) => Ok(Tolerated::Added),
        Err(Error::Api(status)) if is_conflict(&status) => Ok(Tolerated::Conflict),
        Err(error) => Err(describe(&format!("add a toleration to pod {}/{}", pod.namespace, pod.name), &error)),
    }
}
