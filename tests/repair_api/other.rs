//! Nodes whose agent is gone, Events, the controllers' Lease, and the watches of pods and namespaces.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams};
use linkerd_gate::cluster::event::{self, EventSubject, Reporter};
use linkerd_gate::cluster::lease::{LeaseError, follow_lease, give_up, write};
use linkerd_gate::cluster::node::{follow_nodes, open_node};
use linkerd_gate::cluster::watch::Seen;
use linkerd_gate::cluster::workloads::{follow_namespaces, follow_pods};
use linkerd_gate::decide::election::lease_record::{CONTROLLER_LEASE, LeaseHolder};
use linkerd_gate::decide::node::taint::{NodeView, TAINT_KEY};
use linkerd_gate::decide::repair::{Kind, OwnerReference, PodView, Repair, WriteOutcome};
use linkerd_gate_kit::object::pod;
use serde_json::json;
use tokio::sync::watch;

use crate::harness::{create, in_namespace, merge, seen};

#[tokio::test]
async fn a_node_without_an_agent_is_opened_and_keeps_everything_else() -> Result<()> {
    in_namespace("nodes", async |client, _| {
        let nodes: Api<Node> = Api::all(client.clone());
        let ours = json!({"key": TAINT_KEY, "value": "boot1-5", "effect": "NoSchedule"});
        let stranger = json!({"key": "example.com/mine", "effect": "NoExecute"});
        create(&nodes, json!({"metadata": {"name": "left"}, "spec": {"taints": [stranger, ours]}})).await?;
        let (sink, mut reader) = watch::channel(Seen::default());
        let following = tokio::spawn({
            let client = client.clone();
            async move { follow_nodes(client, TAINT_KEY, sink).await }
        });
        let closed = |all: &Seen<_>| {
            all.iter().find(|view: &&NodeView| view.name == "left" && view.taint(TAINT_KEY).is_some()).cloned()
        };
        let stale = seen(&mut reader, "a closed node", closed).await?;
        let outcome = loop {
            // The node's own controllers write it too.
            merge(&nodes, "left", json!({"metadata": {"labels": {"touched": stale.resource_version}}})).await?;
            ensure!(
                open_node(client.clone(), TAINT_KEY, &stale).await == WriteOutcome::Conflict,
                "it was changed since"
            );
            let view = NodeView::of(&nodes.get("left").await?);
            ensure!(view.taint(TAINT_KEY).is_some(), "it was opened all the same");
            match open_node(client.clone(), TAINT_KEY, &view).await {
                WriteOutcome::Conflict => {}
                other => break other,
            }
        };
        ensure!(outcome == WriteOutcome::Done, "{outcome:?}");
        let open = |all: &Seen<_>| {
            all.iter().find(|view: &&NodeView| view.name == "left" && view.taint(TAINT_KEY).is_none()).cloned()
        };
        let opened = seen(&mut reader, "an open node", open).await?;
        ensure!(opened.resource_version.is_empty(), "its changes would wake readers");
        let taints = nodes.get("left").await?.spec.and_then(|spec| spec.taints).unwrap_or_default();
        ensure!(taints.iter().any(|taint| taint.key == "example.com/mine"), "{taints:?}");
        nodes.delete("left", &DeleteParams::default()).await?;
        ensure!(open_node(client, TAINT_KEY, &stale).await == WriteOutcome::Conflict, "it is gone");
        following.abort();
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_event_about_anything_in_a_namespace_is_taken() -> Result<()> {
    in_namespace("events", async |client, namespace| {
        let owner = |kind| OwnerReference { kind, name: "web".to_owned(), uid: "o-1".to_owned() };
        let held: Pod = create(&Api::namespaced(client.clone(), &namespace), pod("held").json()).await?;
        let subjects = [
            EventSubject::pod(&PodView::of(&held)),
            EventSubject::owner(&namespace, &owner(Kind::StatefulSet)),
            EventSubject::owner(&namespace, &owner(Kind::Other("argoproj.io/v1alpha1 Rollout".to_owned()))),
        ];
        for subject in &subjects {
            let reporter = Reporter { instance: "controller-0", node: None };
            let noted =
                event::note(client.clone(), reporter, subject, true, "PodsMissed", "why", Timestamp::now()).await;
            ensure!(noted.is_ok(), "{noted:?}");
        }
        let events = Api::<Event>::namespaced(client, &namespace).list(&ListParams::default()).await?;
        let about: BTreeSet<_> = events
            .iter()
            .filter(|event| event.reason.as_deref() == Some("PodsMissed"))
            .filter_map(|event| Some((event.involved_object.kind.clone()?, event.involved_object.uid.clone()?)))
            .collect();
        ensure!(about == subjects.map(|subject| (subject.kind, subject.uid)).into(), "{about:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_controllers_lease_is_followed_taken_and_given_up() -> Result<()> {
    in_namespace("lease", async |client, namespace| {
        let (sink, mut reader) = watch::channel(Seen::default());
        let following = tokio::spawn({
            let (client, namespace) = (client.clone(), namespace.clone());
            async move { follow_lease(client, &namespace, CONTROLLER_LEASE, sink).await }
        });
        let [one, other] = ["a/controller-a/1", "b/controller-b/1"].map(LeaseHolder::read);
        let write = async |record: Option<&_>, holder: &LeaseHolder| {
            write(client.clone(), &namespace, CONTROLLER_LEASE, record, holder, None, Timestamp::now()).await
        };
        let made = write(None, &one).await?;
        ensure!(write(None, &other).await == Err(LeaseError::Conflict), "there is one");
        let renewed = write(Some(&made), &one).await?;
        ensure!(write(Some(&made), &other).await == Err(LeaseError::Conflict), "it was renewed since");
        seen(&mut reader, "the renewal", |seen| seen.only().filter(|record| **record == renewed).map(drop)).await?;
        let free = give_up(client.clone(), &namespace, CONTROLLER_LEASE, &renewed, Timestamp::now()).await?;
        ensure!(free.holder.is_none() && free.verdict.is_none(), "{free:?}");
        ensure!(write(Some(&free), &other).await?.holder == Some(other), "it was free");
        following.abort();
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_and_namespaces_are_seen_as_what_decides() -> Result<()> {
    in_namespace("watched", async |client, namespace| {
        let (_awaited, none_awaited) = watch::channel(BTreeSet::new());
        let (pods_sink, mut pods) = watch::channel(Seen::default());
        let (namespaces_sink, mut namespaces) = watch::channel(Seen::default());
        let following = [
            tokio::spawn(follow_pods(client.clone(), none_awaited, pods_sink)),
            tokio::spawn(follow_namespaces(client.clone(), namespaces_sink)),
        ];
        let held = pod("held").annotated("linkerd-gate/repair", "held").json();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let created = create(&api, held).await?;
        let key = format!("{namespace}/held");
        let view = seen(&mut pods, "the pod", |seen| seen.objects.as_deref()?.get(&key).cloned()).await?;
        ensure!(Some(&view.uid) == created.metadata.uid.as_ref() && view.repair == Some(Ok(Repair::Held)), "{view:?}");
        let here =
            seen(&mut namespaces, "its namespace", |seen| seen.objects.as_deref()?.get(&namespace).cloned()).await?;
        ensure!(!here.terminating, "{here:?}");
        api.delete("held", &DeleteParams::default()).await?;
        let gone =
            |seen: &Seen<PodView>| seen.objects.as_deref().context("no list").ok()?.get(&key).is_none().then_some(());
        seen(&mut pods, "that it is gone", gone).await?;
        following.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(())
    })
    .await
}
