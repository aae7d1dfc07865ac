//! Events on a Node: what an operator looks for with `kubectl describe node`.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};

use super::failure::describe;
use crate::decide::node::NodeView;

/// Events of what has no namespace are kept in this one (client-go, `tools/record`).
const NAMESPACE: &str = "default";

/// The longest message that the API server takes, in bytes (k8s.io/kubernetes, `pkg/apis/core/validation`).
const LONGEST: usize = 1024;

/// Notes on the Node what became of it. `reason` is one word in CamelCase.
///
/// # Errors
/// One sentence for the log: an Event is for people, and nothing depends on it.
pub async fn note(
    client: Client,
    node: &NodeView,
    warning: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Result<(), String> {
    let event = Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", node.name)),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.name.clone()),
            uid: Some(node.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message[..message.floor_char_boundary(LONGEST)].to_owned()),
        source: Some(EventSource { component: Some(super::FIELD_MANAGER.to_owned()), host: Some(node.name.clone()) }),
        reporting_component: Some(super::FIELD_MANAGER.to_owned()),
        reporting_instance: Some(node.name.clone()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    let created = Api::<Event>::namespaced(client, NAMESPACE).create(&PostParams::default(), &event).await;
    created.map(drop).map_err(|error| describe(&format!("create an event on node {}", node.name), &error))
}
