//! Nodes: an agent's own, with the one patch that it ever gets; and all of them, for a controller that opens one whose agent is
//! gone.

use std::convert::Infallible;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Client, Error};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::error::{describe, is_failed_test};
use super::watch::{Seen, follow};
use crate::decide::node::taint::{Edit, LEFT_OPEN_BOOT, NodeChange, NodeView, OPENED_BOOT};
use crate::decide::repair::WriteOutcome;

/// Why a Node was not patched.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// Another client wrote first: the watch will show it, and the agent plans again.
    #[error("another client changed it at the same time")]
    Conflict,
    /// The API server took it for wrong: a policy denies it.
    #[error("{0}")]
    Denied(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Follows the Node of that name, for ever.
pub async fn follow_node(client: Client, name: &str, sink: watch::Sender<Seen<NodeView>>) -> Infallible {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    follow("nodes", Api::<Node>::all(client), config, NodeView::of, sink).await
}

/// Follows all Nodes, for ever. One without our taint has no resource version: kubelets change theirs all the time, and no loop
/// need be woken by that.
pub async fn follow_nodes(client: Client, key: &str, sink: watch::Sender<Seen<NodeView>>) -> Infallible {
    let view = |node: &Node| {
        let mut view = NodeView::of(node);
        if view.taint(key).is_none() {
            view.resource_version.clear();
        }
        view
    };
    follow("nodes", Api::<Node>::all(client), watcher::Config::default(), view, sink).await
}

/// Writes `change`, if the Node still is as `node` says. Returns it as it is then.
pub async fn patch(client: Client, key: &str, node: &NodeView, change: &NodeChange) -> Result<NodeView, PatchError> {
    match send(client, key, node, change).await {
        Ok(patched) => Ok(NodeView::of(&patched)),
        Err(error) if is_conflict(&error) => Err(PatchError::Conflict),
        Err(error) => {
            let description = describe(&format!("patch node {}", node.name), &error);
            // A policy denies it. It is sent again like what failed, since policies change, and counted apart.
            Err(if matches!(&error, Error::Api(status) if status.code == 422) {
                PatchError::Denied(description)
            } else {
                PatchError::Failed(description)
            })
        }
    }
}

/// Lifts our taint, if the Node still is as `node` says, and touches nothing else: which boot was opened is the agent's to say.
pub async fn open_node(client: Client, key: &str, node: &NodeView) -> WriteOutcome {
    if node.taint(key).is_none() {
        return WriteOutcome::Done;
    }
    match send(client, key, node, &NodeChange { taint: Edit::Remove, ..NodeChange::NOTHING }).await {
        Ok(_) => WriteOutcome::Done,
        Err(error) if is_conflict(&error) || matches!(&error, Error::Api(status) if status.code == 404) => {
            WriteOutcome::Conflict
        }
        Err(error) => WriteOutcome::Failed(describe(&format!("open node {}", node.name), &error)),
    }
}

async fn send(client: Client, key: &str, node: &NodeView, change: &NodeChange) -> Result<Node, Error> {
    let patch = serde_json::from_value(document(key, node, change)).map_err(Error::SerdeError)?;
    let parameters = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    Api::<Node>::all(client).patch(&node.name, &parameters, &Patch::<()>::Json(patch)).await
}

/// Whether another client wrote first. Operations come before the resource version: a race that is lost over the taints themselves
/// ends at their `test`.
fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.is_conflict() || is_failed_test(status))
}

/// The JSON patch. Replacing the resource version makes a lost race a conflict, after which the agent plans again; `test` holds the taints
/// to what was read, whatever becomes of that.
fn document(key: &str, node: &NodeView, change: &NodeChange) -> Value {
    let mut operations =
        vec![json!({"op": "replace", "path": "/metadata/resourceVersion", "value": node.resource_version})];
    let taints = match &change.taint {
        Edit::Keep => None,
        Edit::Set(value) => Some(node.with_taint(key, Some(value))),
        Edit::Remove => Some(node.with_taint(key, None)),
    };
    if let Some(taints) = taints {
        // An absent list is `null` to a test.
        operations.push(json!({"op": "test", "path": "/spec/taints", "value": node.taints}));
        if !taints.is_empty() {
            operations.push(json!({"op": "add", "path": "/spec/taints", "value": taints}));
        } else if node.taints.is_some() {
            operations.push(json!({"op": "remove", "path": "/spec/taints"}));
        }
    }
    let notes = [(OPENED_BOOT, &change.opened_boot), (LEFT_OPEN_BOOT, &change.left_open_boot)];
    if !node.has_annotations && notes.iter().any(|(_, edit)| matches!(edit, Edit::Set(_))) {
        operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    for (annotation, edit) in notes {
        // A slash within a name is `~1` in a path (RFC 6901).
        let path = format!("/metadata/annotations/{}", annotation.replace('/', "~1"));
        match edit {
            Edit::Set(boot) => operations.push(json!({"op": "add", "path": path, "value": boot})),
            Edit::Remove => operations.push(json!({"op": "remove", "path": path})),
            Edit::Keep => {}
        }
    }
    operations.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::node::taint::TAINT_KEY;

    #[test]
    fn the_first_taint_of_a_node_without_any_is_tested_against_null() {
        let node = NodeView { resource_version: "7".to_owned(), ..NodeView::default() };
        assert_eq!(
            document(TAINT_KEY, &node, &NodeChange { taint: Edit::Set("b-1".to_owned()), ..NodeChange::NOTHING }),
            json!([
                {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "test", "path": "/spec/taints", "value": null},
                {"op": "add", "path": "/spec/taints", "value": [{"key": "linkerd-gate/closed", "value": "b-1", "effect": "NoSchedule"}]},
            ])
        );
    }

    #[test]
    fn a_node_is_opened_by_one_patch_of_taint_and_boot() {
        let node = NodeView { resource_version: "8".to_owned(), ..NodeView::default() };
        let tainted = NodeView { taints: Some(node.with_taint(TAINT_KEY, Some("b-1"))), ..node };
        assert_eq!(
            document(
                TAINT_KEY,
                &tainted,
                &NodeChange { taint: Edit::Remove, opened_boot: Edit::Set("b".to_owned()), ..NodeChange::NOTHING }
            ),
            json!([
                {"op": "replace", "path": "/metadata/resourceVersion", "value": "8"},
                {"op": "test", "path": "/spec/taints", "value": [{"key": "linkerd-gate/closed", "value": "b-1", "effect": "NoSchedule"}]},
                {"op": "remove", "path": "/spec/taints"},
                {"op": "add", "path": "/metadata/annotations", "value": {}},
                {"op": "add", "path": "/metadata/annotations/linkerd-gate~1opened-boot", "value": "b"},
            ])
        );
    }
}
