//! Owners whose creates are refused: how that is seen, and how a nudge wakes them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ReplicationController, ResourceQuota};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::watcher;
use linkerd_gate::cluster::repair::retry_owner;
use linkerd_gate::cluster::watch::{Seen, follow};
use linkerd_gate::cluster::workloads::{
    follow_daemon_sets, follow_jobs, follow_refusals, follow_replica_sets, follow_replication_controllers,
    follow_stateful_sets,
};
use linkerd_gate::decide::repair::object::RETRIED_AT;
use linkerd_gate::decide::repair::retry::{OwnerRetry, RefusedCreate, is_ours};
use linkerd_gate::decide::repair::{Kind, OwnerReference, OwnerView, WriteOutcome};
use linkerd_gate_kit::cluster::until_any;
use linkerd_gate_kit::object::{job, pod, stateful_set};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, cluster, create, in_namespace, merge, seen};

/// The guard's name: by it a refusal is known to be ours.
const GUARD: &str = "linkerd-gate-guard";

/// How long after the first refusal the latest one has to be. Controllers double their pauses, so the next try comes no sooner
/// than as long again after it.
const REFUSED_FOR: i64 = 14;

/// In this time an owner that was nudged has its pod: less than half of what it would take without.
const AWAKE: Duration = Duration::from_secs(6);

/// Everything that is watched of owners.
struct Watched {
    by_kind: [watch::Receiver<Seen<OwnerView>>; 4],
    controllers: watch::Receiver<Seen<OwnerView>>,
    tasks: JoinSet<Infallible>,
}

#[tokio::test]
async fn a_retry_makes_refused_owners_of_all_four_kinds_create_pods() -> Result<()> {
    in_namespace("refused", async |client, namespace| {
        let mut watched = Watched::all(&client);
        let (sink, mut refusals) = watch::channel(Seen::default());
        watched.tasks.spawn(follow_refusals(client.clone(), sink));
        let full = cluster().await?.namespace("full", &[]).await?;
        refuse(&client, &namespace).await?;
        make_owners(&client, &namespace).await?;
        make_owners_refused_by_quota(&client, &full).await?;

        // All of them are reported; who is refused for another reason is not.
        let mine = |view: &OwnerView| view.namespace == namespace;
        let mut owners = Vec::new();
        for (reader, kind) in watched.by_kind.iter_mut().zip(["ReplicaSet", "StatefulSet", "DaemonSet", "Job"]) {
            let lacking = |seen: &Seen<OwnerView>| seen.iter().find(|view| mine(view) && view.wants).cloned();
            owners.push(seen(reader, &format!("a {kind} that lacks pods"), lacking).await?);
        }
        for owner in &owners {
            let named = |all: &Seen<RefusedCreate>| {
                let of_this =
                    |refusal: &&RefusedCreate| refusal.namespace == namespace && refusal.owner == owner.reference;
                all.iter().find(of_this).cloned()
            };
            let refusal = seen(&mut refusals, &format!("the refusal of {}", owner.reference), named).await?;
            ensure!(!refusal.stamp.is_empty(), "{refusal:?}");
        }
        let failure =
            |seen: &Seen<OwnerView>| seen.iter().find(|view| mine(view)).and_then(|view| view.failure.clone());
        let failure = seen(&mut watched.by_kind[0], "the ReplicaSet's condition", failure).await?;
        ensure!(is_ours(&failure), "{failure}");
        let (sink, mut quotas) = watch::channel(Seen::default());
        let events = Api::<Event>::namespaced(client.clone(), &full);
        let config = watcher::Config::default().fields("reason=FailedCreate");
        watched.tasks.spawn(follow("events", events, config, |event: &Event| event.message.clone(), sink));
        let quota = |all: &Seen<Option<String>>| all.iter().next().cloned();
        seen(&mut quotas, "the quota's Event", quota).await?;
        let taken = refusals.borrow().iter().any(|refusal| refusal.namespace == full);
        ensure!(!taken, "a quota's refusal was taken for ours");
        let controller = |seen: &Seen<OwnerView>| seen.iter().find(|view| view.namespace == full).cloned();
        seen(&mut watched.controllers, "the ReplicationController", controller).await?;

        // By now none would try again by itself for a while.
        until_refused_for_long(&client, &namespace, &owners).await?;
        admit(&client, &namespace).await?;
        let retried = Timestamp::now();
        for owner in &owners {
            another_owner_is_not_touched(&client, &namespace, owner).await?;
            let outcome = retry_owner(client.clone(), &of(owner), retried).await;
            ensure!(outcome == WriteOutcome::Done, "{}: {outcome:?}", owner.reference);
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let all = |pods: &BTreeMap<String, Pod>| {
            let has = |owner: &OwnerView| pods.values().any(|pod| belongs_to(pod, &owner.reference.uid));
            owners.iter().all(has).then_some(())
        };
        until_any(&pods, &ListParams::default(), "a pod of each", AWAKE, all).await?;
        for reader in &mut watched.by_kind {
            seen(reader, "an owner that has all it wants", |seen| {
                seen.iter().find(|view| mine(view)).filter(|view| !view.wants).map(drop)
            })
            .await?;
        }
        only_an_annotation_was_written(&client, &namespace, retried).await
    })
    .await
}

fn belongs_to(pod: &Pod, uid: &str) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

fn of(owner: &OwnerView) -> OwnerRetry {
    OwnerRetry { namespace: owner.namespace.clone(), owner: owner.reference.clone(), has: owner.has }
}

impl Watched {
    fn all(client: &Client) -> Self {
        let mut tasks = JoinSet::new();
        let channel = || watch::channel(Seen::default());
        let (sets, stateful, daemons, jobs, controllers) = (channel(), channel(), channel(), channel(), channel());
        tasks.spawn(follow_replica_sets(client.clone(), sets.0));
        tasks.spawn(follow_stateful_sets(client.clone(), stateful.0));
        tasks.spawn(follow_daemon_sets(client.clone(), daemons.0));
        tasks.spawn(follow_jobs(client.clone(), jobs.0));
        tasks.spawn(follow_replication_controllers(client.clone(), controllers.0));
        Self { by_kind: [sets.1, stateful.1, daemons.1, jobs.1], controllers: controllers.1, tasks }
    }
}

/// Refuses every pod of a namespace, under the guard's name, and waits until that is so.
async fn refuse(client: &Client, namespace: &str) -> Result<()> {
    let policy = json!({
        "metadata": {"name": GUARD},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
            ]},
            "validations": [{"expression": "false", "message": "no proxy", "reason": "Forbidden"}],
        },
    });
    create(&Api::<ValidatingAdmissionPolicy>::all(client.clone()), policy).await?;
    let label = json!({"metadata": {"labels": {"refused": "yes"}}});
    merge(&Api::<Namespace>::all(client.clone()), namespace, label).await?;
    let binding = json!({
        "metadata": {"name": GUARD},
        "spec": {
            "policyName": GUARD, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"refused": "yes"}}},
        },
    });
    create(&Api::<ValidatingAdmissionPolicyBinding>::all(client.clone()), binding).await?;
    until_admission(client, namespace, false).await
}

/// The opposite.
async fn admit(client: &Client, namespace: &str) -> Result<()> {
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone());
    bindings.delete(GUARD, &DeleteParams::default()).await?;
    until_admission(client, namespace, true).await
}

/// An API server learns of a policy a moment later, and there is nothing to watch that would tell.
async fn until_admission(client: &Client, namespace: &str, admits: bool) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let probe: Pod = serde_json::from_value(pod("probe").json())?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let ask = async {
        loop {
            match pods.create(&dry_run, &probe).await {
                Err(kube::Error::Api(status)) if status.code != 403 => bail!("{status}"),
                answer if answer.is_ok() == admits => return Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, ask).await.context("the policy has no effect")?
}

fn apps(kind: &str) -> Value {
    let mut object = stateful_set("web").of(pod("web").running("app:1")).json();
    object["kind"] = kind.into();
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("serviceName");
        if kind == "DaemonSet" {
            spec.remove("replicas");
        }
    }
    object
}

async fn make_owners(client: &Client, namespace: &str) -> Result<()> {
    create(&Api::<ReplicaSet>::namespaced(client.clone(), namespace), apps("ReplicaSet")).await?;
    let stateful = stateful_set("web").of(pod("web").running("app:1")).json();
    create(&Api::<StatefulSet>::namespaced(client.clone(), namespace), stateful).await?;
    create(&Api::<DaemonSet>::namespaced(client.clone(), namespace), apps("DaemonSet")).await?;
    let once = job("web").of(pod("web").running("app:1")).json();
    create(&Api::<Job>::namespaced(client.clone(), namespace), once).await?;
    Ok(())
}

async fn make_owners_refused_by_quota(client: &Client, namespace: &str) -> Result<()> {
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}});
    create(&Api::<ResourceQuota>::namespaced(client.clone(), namespace), quota).await?;
    create(&Api::<ReplicaSet>::namespaced(client.clone(), namespace), apps("ReplicaSet")).await?;
    let template =
        json!({"metadata": {"labels": {"app": "rc"}}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}});
    let controller =
        json!({"metadata": {"name": "rc"}, "spec": {"replicas": 1, "selector": {"app": "rc"}, "template": template}});
    create(&Api::<ReplicationController>::namespaced(client.clone(), namespace), controller).await?;
    Ok(())
}

/// Waits for a refusal of each that is long after its first one.
async fn until_refused_for_long(client: &Client, namespace: &str, owners: &[OwnerView]) -> Result<()> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let long = |events: &BTreeMap<String, Event>| {
        let refused_for = |owner: &OwnerView| {
            let of = events.values().filter(|event| {
                event.involved_object.uid.as_ref() == Some(&owner.reference.uid)
                    && event.message.as_deref().is_some_and(is_ours)
            });
            let first = of.clone().filter_map(|event| event.first_timestamp.as_ref()).map(|time| time.0).min()?;
            let last = of.filter_map(|event| event.last_timestamp.as_ref()).map(|time| time.0).max()?;
            Some(last.as_second() - first.as_second())
        };
        owners.iter().all(|owner| refused_for(owner) >= Some(REFUSED_FOR)).then_some(())
    };
    until_any(&events, &ListParams::default().fields("reason=FailedCreate"), "refused for long", PATIENCE, long).await
}

async fn another_owner_is_not_touched(client: &Client, namespace: &str, owner: &OwnerView) -> Result<()> {
    let annotations = async || match owner.reference.kind {
        Kind::ReplicaSet => annotation::<ReplicaSet>(client, namespace).await,
        Kind::StatefulSet => annotation::<StatefulSet>(client, namespace).await,
        Kind::DaemonSet => annotation::<DaemonSet>(client, namespace).await,
        _ => annotation::<Job>(client, namespace).await,
    };
    let OwnerRetry { namespace: place, owner: reference, has } = of(owner);
    let another = OwnerReference { uid: "00000000-0000-0000-0000-000000000000".to_owned(), ..reference.clone() };
    let gone = OwnerReference { name: "gone".to_owned(), ..reference };
    for owner in [another, gone] {
        let named = owner.to_string();
        let outcome =
            retry_owner(client.clone(), &OwnerRetry { namespace: place.clone(), owner, has }, Timestamp::now()).await;
        ensure!(outcome == WriteOutcome::Conflict, "{named}: {outcome:?}");
    }
    ensure!(annotations().await?.is_none(), "{}: it was touched", owner.reference);
    Ok(())
}

async fn annotation<K>(client: &Client, namespace: &str) -> Result<Option<String>>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let metadata = Api::<K>::namespaced(client.clone(), namespace).get_metadata("web").await?.metadata;
    Ok(metadata.annotations.and_then(|all| all.get(RETRIED_AT).cloned()))
}

async fn only_an_annotation_was_written(client: &Client, namespace: &str, retried: Timestamp) -> Result<()> {
    let expected = Some(retried.to_string());
    ensure!(annotation::<ReplicaSet>(client, namespace).await? == expected, "the ReplicaSet has no mark");
    ensure!(annotation::<StatefulSet>(client, namespace).await? == expected, "the StatefulSet has no mark");
    ensure!(annotation::<Job>(client, namespace).await? == expected, "the Job has no mark");
    let daemon_set = Api::<DaemonSet>::namespaced(client.clone(), namespace).get("web").await?;
    ensure!(daemon_set.metadata.generation == Some(1), "a spec was touched");
    ensure!(annotation::<DaemonSet>(client, namespace).await? == expected, "the DaemonSet has no mark");
    let entries = daemon_set.metadata.managed_fields.unwrap_or_default().into_iter();
    let fields: Vec<Value> = entries
        .filter(|entry| entry.manager.as_deref() == Some("linkerd-gate"))
        .filter_map(|entry| Some(entry.fields_v1?.0))
        .collect();
    let ours = json!({"f:metadata": {"f:annotations": {format!("f:{RETRIED_AT}"): {}}}});
    ensure!(fields == [ours], "{fields:?}");
    Ok(())
}
