//! Events: what an operator looks for with `kubectl describe`.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};

use super::error::describe;
use crate::decide::node::taint::NodeView;
use crate::decide::repair::{OwnerReference, PodView};

/// Events of what has no namespace are kept in this one (client-go, `tools/record`).
pub(super) const NAMESPACE: &str = "default";

/// The longest message that the API server takes, in bytes (k8s.io/kubernetes, `pkg/apis/core/validation`).
const LONGEST: usize = 1024;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSubject {
    /// The version of its API, with its group: `apps/v1`, say.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace, where its kind has one: the Event lives there too.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its uid, by which `kubectl describe` finds its Events.
    pub uid: String,
}

/// Who tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reporter<'a> {
    /// Which of us: the name of its node or pod.
    pub instance: &'a str,
    /// The node that it is on, where that matters.
    pub node: Option<&'a str>,
}

/// Notes on the subject what became of it. `reason` is one word in CamelCase.
///
/// # Errors
/// One sentence for the log: an Event is for people, and nothing depends on it.
pub async fn note(
    client: Client,
    reporter: Reporter<'_>,
    subject: &EventSubject,
    warning: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Result<(), String> {
    let namespace = subject.namespace.as_deref().unwrap_or(NAMESPACE);
    let event = Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", subject.name)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: subject.reference(),
        type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message[..message.floor_char_boundary(LONGEST)].to_owned()),
        source: Some(EventSource {
            component: Some(super::FIELD_MANAGER.to_owned()),
            host: reporter.node.map(ToOwned::to_owned),
        }),
        reporting_component: Some(super::FIELD_MANAGER.to_owned()),
        reporting_instance: Some(reporter.instance.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    let created = Api::<Event>::namespaced(client, namespace).create(&PostParams::default(), &event).await;
    created.map(drop).map_err(|error| describe(&format!("create an event on {subject}"), &error))
}

// === impl EventSubject ===

impl EventSubject {
    /// A node.
    pub fn node(node: &NodeView) -> Self {
        Self {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            namespace: None,
            name: node.name.clone(),
            uid: node.uid.clone(),
        }
    }

    /// A pod.
    pub fn pod(pod: &PodView) -> Self {
        Self::pod_named(&pod.namespace, &pod.name, &pod.uid)
    }

    /// The same, by its name and uid.
    pub fn pod_named(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
            uid: uid.to_owned(),
        }
    }

    /// What makes pods in a namespace.
    pub fn owner(namespace: &str, owner: &OwnerReference) -> Self {
        let (api_version, kind) = owner.kind.names();
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(self.api_version.clone()),
            kind: Some(self.kind.clone()),
            namespace: self.namespace.clone(),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

impl std::fmt::Display for EventSubject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind.to_lowercase())?;
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}
