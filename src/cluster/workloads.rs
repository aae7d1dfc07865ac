//! Pods, what makes them and where they live, in the whole cluster; and what was refused. Only what decides is kept of them.

use std::collections::BTreeSet;
use std::convert::Infallible;

use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Namespace, ReplicationController};
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::sync::watch;

use super::pods::Sieve;
use super::reduced::Reduced;
use super::watch::{Seen, follow, follow_kept, follow_some};
use crate::decide::repair::retry::{RefusedCreate, is_ours};
use crate::decide::repair::{Kind, NamespaceView, OwnerReference, OwnerView, PodView};

/// How many objects are asked for at a time while a list is read. Of real pods that is 1 to 2 MB of text, twice for a moment, beside
/// what is kept of those before.
const PAGE: u32 = 100;

/// Follows all pods, for ever. Seen are those outside the mesh, what else their owners have, and all pods of the owners whose uids are
/// `awaited`; of the others there is only a number, [`Seen::hidden`].
pub async fn follow_pods(
    client: Client,
    awaited: watch::Receiver<BTreeSet<String>>,
    sink: watch::Sender<Seen<PodView>>,
) -> Infallible {
    follow_kept("pods", Api::<Reduced<PodView>>::all(client), config(), Sieve::new(awaited), sink).await
}

/// Follows all namespaces, for ever.
pub async fn follow_namespaces(client: Client, sink: watch::Sender<Seen<NamespaceView>>) -> Infallible {
    follow("namespaces", Api::<Namespace>::all(client), config(), NamespaceView::of, sink).await
}

/// Follows all ReplicaSets, for ever; but those that have nothing and want nothing, as a Deployment keeps ten of by default.
pub async fn follow_replica_sets(client: Client, sink: watch::Sender<Seen<OwnerView>>) -> Infallible {
    let view = |set: ReplicaSet| {
        let view = OwnerView::of_replica_set(&set);
        (view.has > 0 || view.wants || view.failure.is_some()).then_some(view)
    };
    follow_some("replicasets", Api::<ReplicaSet>::all(client), config(), view, sink).await
}

/// Follows all StatefulSets, for ever.
pub async fn follow_stateful_sets(client: Client, sink: watch::Sender<Seen<OwnerView>>) -> Infallible {
    follow("statefulsets", Api::<StatefulSet>::all(client), config(), OwnerView::of_stateful_set, sink).await
}

/// Follows all DaemonSets, for ever.
pub async fn follow_daemon_sets(client: Client, sink: watch::Sender<Seen<OwnerView>>) -> Infallible {
    follow("daemonsets", Api::<DaemonSet>::all(client), config(), OwnerView::of_daemon_set, sink).await
}

/// Follows all ReplicationControllers, for ever.
pub async fn follow_replication_controllers(client: Client, sink: watch::Sender<Seen<OwnerView>>) -> Infallible {
    let controllers = Api::<ReplicationController>::all(client);
    follow("replicationcontrollers", controllers, config(), OwnerView::of_replication_controller, sink).await
}

/// Follows all Jobs, for ever.
pub async fn follow_jobs(client: Client, sink: watch::Sender<Seen<OwnerView>>) -> Infallible {
    follow("jobs", Api::<Job>::all(client), config(), OwnerView::of_job, sink).await
}

/// Follows the Events that tell of refused creates, for ever. Those that are not about injection are not kept: who may create
/// Events can create many.
pub async fn follow_refusals(client: Client, sink: watch::Sender<Seen<RefusedCreate>>) -> Infallible {
    let config = config().fields("reason=FailedCreate");
    follow_some("events", Api::<Event>::all(client), config, |event| refusal(&event), sink).await
}

fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// What an Event says of a refused create, if the reason is missing injection, and of an owner that a retry reaches.
fn refusal(event: &Event) -> Option<RefusedCreate> {
    if !event.message.as_deref().is_some_and(is_ours) {
        return None;
    }
    let about = &event.involved_object;
    let kind = Kind::of(about.api_version.as_deref()?, about.kind.as_deref()?);
    match kind {
        Kind::ReplicaSet | Kind::StatefulSet | Kind::DaemonSet | Kind::Job => {}
        Kind::ReplicationController | Kind::Other(_) => return None,
    }
    let owner = OwnerReference { kind, name: about.name.clone()?, uid: about.uid.clone()? };
    Some(RefusedCreate {
        namespace: event.metadata.namespace.clone()?,
        owner,
        stamp: event.metadata.resource_version.clone()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OURS: &str = "Error creating: pods \"web-x\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding \
                        'linkerd-gate-guard' denied request: not injected";

    fn refused_create(api_version: &str, kind: &str, message: &str) -> Option<RefusedCreate> {
        let event = json!({
            "metadata": {"name": "web.1", "namespace": "shop", "resourceVersion": "9"},
            "reason": "FailedCreate", "message": message,
            "involvedObject": {"apiVersion": api_version, "kind": kind, "namespace": "shop", "name": "web", "uid": "o-1"},
        });
        refusal(&serde_json::from_value(event).unwrap())
    }

    #[test]
    fn an_injection_refusal_is_reported_for_the_four_retried_kinds() {
        for (api_version, kind, expected) in [
            ("apps/v1", "ReplicaSet", Kind::ReplicaSet),
            ("apps/v1", "StatefulSet", Kind::StatefulSet),
            ("apps/v1", "DaemonSet", Kind::DaemonSet),
            ("batch/v1", "Job", Kind::Job),
        ] {
            let owner = OwnerReference { kind: expected, name: "web".to_owned(), uid: "o-1".to_owned() };
            let expected = RefusedCreate { namespace: "shop".to_owned(), owner, stamp: "9".to_owned() };
            assert_eq!(refused_create(api_version, kind, OURS), Some(expected));
        }
        for (api_version, kind) in
            [("v1", "ReplicationController"), ("example.com/v1", "Job"), ("apps/v1", "Deployment")]
        {
            assert_eq!(refused_create(api_version, kind, OURS), None, "{api_version} {kind}");
        }
    }

    #[test]
    fn a_refusal_by_another_policy_is_not_ours() {
        for message in ["", "Error creating: pods \"web-x\" is forbidden: exceeded quota: small"] {
            assert_eq!(refused_create("apps/v1", "ReplicaSet", message), None, "{message}");
        }
    }
}
