//! What owners make of held pods. kwok plays the nodes: a pod that is scheduled is Running and ready; a held one never is.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::{ApiOptions, until, until_any};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::{Harness, Outcome, PATIENCE, SHOP};

/// One pod of a DaemonSet for each.
const NODES: usize = 3;

type Pods = BTreeMap<String, Pod>;

#[tokio::test]
async fn rollouts_of_every_kind_stop_while_held_and_go_on_afterwards() -> Result<()> {
    let harness = Harness::with_admission(ApiOptions::default()).await?;
    let exercise = async {
        harness.cluster.start_kwok().await?;
        harness.cluster.fake_nodes(NODES).await?;
        a_deployment_stops_at_max_unavailable_and_can_be_undone(&harness).await?;
        a_daemon_set_stops_at_max_unavailable(&harness).await?;
        for policy in ["OrderedReady", "Parallel"] {
            a_stateful_set_stops_at_its_last_pod(&harness, policy).await?;
        }
        for (version, kind) in [("apps/v1", "ReplicaSet"), ("v1", "ReplicationController")] {
            scaling_down_takes_held_pods_first(&harness, version, kind).await?;
        }
        Ok(())
    };
    harness.cluster.reported(&[SHOP], exercise).await
}

async fn a_deployment_stops_at_max_unavailable_and_can_be_undone(harness: &Harness) -> Result<()> {
    harness.injector_is_up().await?;
    let mut web = owner("apps/v1", "Deployment", "web");
    web["spec"]["replicas"] = 4.into();
    web["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
    web["spec"]["progressDeadlineSeconds"] = 3.into();
    let deployments: Api<Deployment> = make(harness, web).await?;
    harness.until_pods("web", "all meshed and ready", |pods| count(pods) == (4, 0) && all_ready(pods, 4)).await?;

    harness.injector_is_down().await?;
    change_template(&deployments, "web", "second").await?;
    let stopped = |pods: &Pods| count(pods) == (3, 1) && all_ready(pods, 3);
    harness.until_pods("web", "one is held, and three run on", stopped).await?;
    harness.stays_so("web", stopped).await?;

    // Back, with the injector still down: what runs stays, and the one that is missing is held again.
    harness.kubectl(&["rollout", "undo", "deployment/web", "--namespace", SHOP]).await?;
    let undone = |pods: &Pods| stopped(pods) && pods.values().all(|pod| version(pod) == Some("first"));
    harness.until_pods("web", "undone, one held", undone).await?;
    change_template(&deployments, "web", "third").await?;
    let again = |pods: &Pods| {
        stopped(pods) && pods.values().any(|pod| Outcome::of(pod) == Outcome::Held && version(pod) == Some("third"))
    };
    harness.until_pods("web", "the next rollout's is held", again).await?;
    // A rollout that is late goes on all the same.
    let late = |web: &Deployment| progress(web) == Some("ProgressDeadlineExceeded");
    until(&deployments, "web", "its deadline has passed", PATIENCE, late).await?;

    harness.injector_is_up().await?;
    harness.replace_held("web").await?;
    harness
        .until_pods("web", "rolled out", |pods| {
            count(pods) == (4, 0) && all_ready(pods, 4) && pods.values().all(|pod| version(pod) == Some("third"))
        })
        .await?;
    let done = |web: &Deployment| progress(web) == Some("NewReplicaSetAvailable");
    until(&deployments, "web", "in time again", PATIENCE, done).await?;
    harness.kubectl(&["rollout", "status", "deployment/web", "--namespace", SHOP, "--timeout=60s"]).await?;
    remove(&deployments, "web").await
}

/// Why a Deployment progresses, or does not.
fn progress(deployment: &Deployment) -> Option<&str> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Progressing")?.reason.as_deref()
}

async fn a_daemon_set_stops_at_max_unavailable(harness: &Harness) -> Result<()> {
    harness.injector_is_up().await?;
    let daemon_sets: Api<DaemonSet> = make(harness, owner("apps/v1", "DaemonSet", "daemons")).await?;
    let all = |pods: &Pods| count(pods) == (NODES, 0) && all_ready(pods, NODES);
    harness.until_pods("daemons", "all meshed and ready", all).await?;
    harness.injector_is_down().await?;
    change_template(&daemon_sets, "daemons", "second").await?;
    let stopped = |pods: &Pods| count(pods) == (NODES - 1, 1) && all_ready(pods, NODES - 1);
    harness.until_pods("daemons", "one is held, and the others run on", stopped).await?;
    harness.stays_so("daemons", stopped).await?;
    harness.injector_is_up().await?;
    harness.replace_held("daemons").await?;
    harness
        .until_pods("daemons", "rolled out", |pods| {
            all(pods) && pods.values().all(|pod| version(pod) == Some("second"))
        })
        .await?;
    remove(&daemon_sets, "daemons").await
}

async fn a_stateful_set_stops_at_its_last_pod(harness: &Harness, policy: &str) -> Result<()> {
    harness.injector_is_up().await?;
    let name = format!("store-{}", policy.to_lowercase());
    let mut store = owner("apps/v1", "StatefulSet", &name);
    store["spec"]["replicas"] = 3.into();
    store["spec"]["serviceName"] = name.as_str().into();
    store["spec"]["podManagementPolicy"] = policy.into();
    let sets: Api<StatefulSet> = make(harness, store).await?;
    let all = |pods: &Pods| count(pods) == (3, 0) && all_ready(pods, 3);
    harness.until_pods(&name, "all meshed and ready", all).await?;
    harness.injector_is_down().await?;
    change_template(&sets, &name, "second").await?;
    let last = format!("{name}-2");
    let stopped = |pods: &Pods| {
        let is_last = |pod: &Pod| pod.metadata.name.as_ref() == Some(&last);
        let held = pods.values().find(|pod| Outcome::of(pod) == Outcome::Held);
        count(pods) == (2, 1) && all_ready(pods, 2) && held.is_some_and(is_last)
    };
    harness.until_pods(&name, "its last pod is held, and the others run on", stopped).await?;
    harness.stays_so(&name, stopped).await?;
    harness.injector_is_up().await?;
    harness.replace_held(&name).await?;
    harness
        .until_pods(&name, "rolled out", |pods| all(pods) && pods.values().all(|pod| version(pod) == Some("second")))
        .await?;
    remove(&sets, &name).await
}

async fn scaling_down_takes_held_pods_first(harness: &Harness, api_version: &str, kind: &str) -> Result<()> {
    harness.injector_is_up().await?;
    let name = kind.to_lowercase();
    let mut set = owner(api_version, kind, &name);
    set["spec"]["replicas"] = 2.into();
    if kind == "ReplicationController" {
        set["spec"]["selector"] = json!({"app": name});
    }
    let resource = format!("{name}/{name}");
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(file.path(), set.to_string())?;
    harness.apply(file.path()).await?;
    let two = |pods: &Pods| count(pods) == (2, 0) && all_ready(pods, 2);
    let before = harness.until_pods(&name, "both meshed and ready", two).await?;
    harness.injector_is_down().await?;
    harness.kubectl(&["scale", &resource, "--replicas=4", "--namespace", SHOP]).await?;
    harness.until_pods(&name, "two more are held", |pods| count(pods) == (2, 2)).await?;
    harness.kubectl(&["scale", &resource, "--replicas=2", "--namespace", SHOP]).await?;
    let after = harness.until_pods(&name, "the held ones are gone", two).await?;
    ensure!(after.keys().eq(before.keys()), "{:?} went to {:?}", before.keys(), after.keys());
    harness.kubectl(&["delete", &resource, "--namespace", SHOP]).await.map(drop)
}

// === impl Stage ===

impl Harness {
    /// Waits until the living pods of an app are like that.
    async fn until_pods(&self, app: &str, what: &str, condition: impl Fn(&Pods) -> bool) -> Result<Pods> {
        let labelled = ListParams::default().labels(&format!("app={app}"));
        let found = |pods: &Pods| {
            let living = living(pods.clone());
            condition(&living).then_some(living)
        };
        until_any(&self.pods(SHOP), &labelled, &format!("{app}: {what}"), PATIENCE, found).await
    }

    /// That the owner's controller has nothing more to do: it has seen everything, since it has seen a change that was made just
    /// now, and the pods are as they were.
    async fn stays_so(&self, app: &str, condition: impl Fn(&Pods) -> bool) -> Result<()> {
        let labelled = ListParams::default().labels(&format!("app={app}"));
        let before: Vec<String> = self.pods(SHOP).list(&labelled).await?.items.iter().filter_map(uid).collect();
        // A pod of another owner, of the same controllers: made after everything above, and acted on after it.
        let marker = format!("after-{app}");
        let deployments: Api<Deployment> = make(self, owner("apps/v1", "Deployment", &marker)).await?;
        self.until_pods(&marker, "made", |pods| pods.len() == 1).await?;
        remove(&deployments, &marker).await?;
        let pods = self.pods(SHOP).list(&labelled).await?.items;
        let after: Vec<String> = pods.iter().filter_map(uid).collect();
        let named = pods.into_iter().filter_map(|pod| Some((pod.metadata.name.clone()?, pod))).collect();
        ensure!(condition(&living(named)) && before == after, "{app}: it did not stop: {before:?}, {after:?}");
        Ok(())
    }

    /// Removes the held pods of an app, as linkerd-gate's controller does.
    async fn replace_held(&self, app: &str) -> Result<()> {
        let pods = self.pods(SHOP);
        for pod in pods.list(&ListParams::default().labels(&format!("app={app}"))).await? {
            if Outcome::of(&pod) == Outcome::Held {
                let name = pod.metadata.name.as_deref().context("a name")?;
                pods.delete(name, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }
}

/// An owner of one pod, or of one for each node.
fn owner(api_version: &str, kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": {"version": "first"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "app", "image": "app:1"}],
                },
            },
        },
    })
}

async fn make<K>(harness: &Harness, object: Value) -> Result<Api<K>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(harness.admin.clone(), SHOP);
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(api)
}

async fn change_template<K>(owners: &Api<K>, name: &str, version: &str) -> Result<()>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"version": version}}}}});
    owners.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

async fn remove<K>(owners: &Api<K>, name: &str) -> Result<()>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    owners.delete(name, &DeleteParams::background()).await?;
    Ok(())
}

fn living(pods: Pods) -> Pods {
    pods.into_iter().filter(|(_, pod)| pod.metadata.deletion_timestamp.is_none()).collect()
}

/// How many are meshed, and how many are held, where there are no others.
fn count(pods: &Pods) -> (usize, usize) {
    let of = |wanted: Outcome| pods.values().filter(|pod| Outcome::of(pod) == wanted).count();
    (of(Outcome::Meshed), of(Outcome::Held))
}

/// That so many are ready, each of them meshed, and that no held pod has a node.
fn all_ready(pods: &Pods, wanted: usize) -> bool {
    let ready = pods.values().filter(|pod| is_ready(pod) && meshed(pod)).count();
    let held = |pod: &&Pod| Outcome::of(pod) == Outcome::Held;
    ready == wanted
        && pods.values().filter(held).all(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn version(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get("version").map(String::as_str)
}

fn uid(pod: &Pod) -> Option<String> {
    pod.metadata.uid.clone()
}
