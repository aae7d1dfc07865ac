//! What `report` reads: lists, page by page. Nothing here writes.

use futures::future::{join, join4};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::Api;

use super::check::{all, each, in_namespace, uncounted, version};
use super::event::NAMESPACE;
use crate::check::labels::is_ours;
use crate::check::state::variable;
use crate::check::{Read, Unread};
use crate::decide::node::taint::TAINT_KEY;
use crate::linkerd::{TokenProjection, names};
use crate::report::facts::{ControlPlane, Events, Facts, LeaseFact, NodeFact, PodFacts, note_control_plane, seconds};

/// Where our parts are, if the cluster does not say.
const OUR_NAMESPACE: &str = "linkerd-gate";

/// Our DaemonSet, as a selector.
const AGENTS: &str = "app.kubernetes.io/name=linkerd-gate,app.kubernetes.io/component=agent";

/// What is read, and how far back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// How far back.
    pub since: SignedDuration,
    /// The namespace whose pods are reported; all of them where there is none.
    pub namespace: Option<String>,
    /// How Linkerd was installed, in the one respect that its webhook does not tell.
    pub projection: TokenProjection,
}

/// Reads everything. What cannot be read is noted in its place.
///
/// # Errors
/// An API server that does not answer.
pub async fn read(client: &Client, scope: &Scope) -> Result<Facts, Unread> {
    let now = seconds(Timestamp::now());
    if let Err(unread @ Unread::Failed(_)) = version(client).await {
        // Where this is not answered, nothing else is.
        return Err(unread);
    }
    let from = now.checked_sub(scope.since).unwrap_or(Timestamp::UNIX_EPOCH);
    let (ours, taint_key) = agents(client).await;
    let (events, nodes, leases, (pods, linkerd)) = join4(
        events(client, scope),
        nodes(client, &taint_key),
        leases(client, &ours),
        join(pods(client, scope, from), control_plane(client)),
    )
    .await;
    let namespace = scope.namespace.clone();
    Ok(Facts { now, since: scope.since, namespace, events, nodes, leases, pods, linkerd })
}

/// The namespace of the agents, and the key of their taint: as installed by default where that cannot be read.
async fn agents(client: &Client) -> (String, String) {
    let sets = Api::<DaemonSet>::all(client.clone());
    let mut found = None;
    let act = "list daemonsets.apps in all namespaces";
    let _ = each(&sets, Some(AGENTS), act, |set| {
        if is_ours(set.metadata.labels.as_ref(), "agent") && found.is_none() {
            found = Some(set);
        }
    })
    .await; // The defaults are used then.
    let spec = found.as_ref().and_then(|set| set.spec.as_ref()?.template.spec.as_ref());
    let key = spec.and_then(|spec| variable(spec, "agent", "LINKERD_GATE_TAINT_KEY"));
    let namespace = found.as_ref().and_then(|set| set.metadata.namespace.clone());
    (namespace.unwrap_or_else(|| OUR_NAMESPACE.to_owned()), key.unwrap_or_else(|| TAINT_KEY.to_owned()))
}

/// The Events; of one namespace those of nodes as well, which are in another.
async fn events(client: &Client, scope: &Scope) -> Read<Events> {
    let mut found = Events::default();
    match &scope.namespace {
        None => {
            let act = "list events in all namespaces";
            each(&Api::<Event>::all(client.clone()), None, act, |event| found.add(&event)).await?;
        }
        Some(namespace) => {
            let events = Api::<Event>::namespaced(client.clone(), namespace);
            let act = format!("list events in namespace {namespace}");
            each(&events, None, &act, |event| found.add(&event)).await?;
            if namespace != NAMESPACE {
                let events = Api::<Event>::namespaced(client.clone(), NAMESPACE);
                let act = format!("list events in namespace {NAMESPACE}");
                let of_node = |event: &Event| event.involved_object.kind.as_deref() == Some("Node");
                let take = |event: Event| {
                    if of_node(&event) {
                        found.add(&event);
                    }
                };
                let read = each(&events, None, &act, take).await;
                found.nodes_unread = read.err();
            }
        }
    }
    Ok(found)
}

async fn nodes(client: &Client, taint_key: &str) -> Read<Vec<NodeFact>> {
    let mut found = Vec::new();
    each(&Api::<Node>::all(client.clone()), None, "list nodes", |node| found.push(NodeFact::of(&node, taint_key)))
        .await?;
    Ok(found)
}

async fn leases(client: &Client, namespace: &str) -> Read<Vec<LeaseFact>> {
    let mut found = Vec::new();
    let act = format!("list leases.coordination.k8s.io in namespace {namespace}");
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    each(&leases, None, &act, |lease| found.push(LeaseFact::of(&lease))).await?;
    Ok(found)
}

async fn pods(client: &Client, scope: &Scope, from: Timestamp) -> Read<PodFacts> {
    let (mutating, namespaces) = join(
        all::<MutatingWebhookConfiguration>(client, "mutatingwebhookconfigurations"),
        all::<Namespace>(client, "namespaces"),
    )
    .await;
    let mut mutating = mutating?;
    mutating.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    let survey = uncounted(&mutating, &namespaces?, scope.projection)?;
    let mut facts = PodFacts { survey, ..PodFacts::default() };
    let (pods, act) = in_namespace(client, scope.namespace.as_deref());
    each(&pods, None, &act, |pod| facts.add(&pod, from)).await?;
    Ok(facts)
}

/// Linkerd's pods are in another namespace than those that are reported.
async fn control_plane(client: &Client) -> Read<ControlPlane> {
    let mut found = ControlPlane::new();
    let act = "list pods in all namespaces";
    let pods = Api::<Pod>::all(client.clone());
    let selector = names::label::CONTROL_PLANE_COMPONENT;
    each(&pods, Some(selector), act, |pod| note_control_plane(&mut found, &pod)).await?;
    Ok(found)
}
