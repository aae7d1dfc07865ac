//! A controller at work: how soon pods are back that were held, and owners that were refused, and what it costs a cluster of ten
//! thousand pods.

mod held;
mod retry;
mod scale;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use linkerd_gate_kit::cluster::ApiOptions;
use linkerd_gate_kit::object::namespace;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::held::Scale;
use crate::agents::{Harness, PATIENCE};
use crate::gate::Gate;
use crate::table::Table;

/// A namespace that asks, and one that does not.
const SHOP: &str = "shop";
const QUIET: &str = "quiet";

/// Requests of ours at once.
const AT_ONCE: usize = 16;

/// How often it is looked how many pods there are.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What makes pods and is nudged, by its `apiVersion`.
const KINDS: [(&str, &str); 4] =
    [("apps/v1", "ReplicaSet"), ("apps/v1", "StatefulSet"), ("apps/v1", "DaemonSet"), ("batch/v1", "Job")];

/// What lets the controller manager's clients make as many requests as it likes: by default they make 20 a second.
const HURRIED: [&str; 2] = ["--kube-api-qps=1000", "--kube-api-burst=2000"];

pub async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    scale::measure(gate, table).await
}

/// How soon held pods and refused owners are back, by the least that so many pods take.
pub async fn recovery(gate: &Gate, table: &mut Table) -> Result<()> {
    let least = [held::measure(gate, Scale(1), table).await?, held::measure(gate, Scale(2), table).await?];
    retry::measure(gate, table, least).await
}

/// A cluster with so many nodes that kwok plays, and the two namespaces.
async fn set(nodes: usize, controller_manager: &[&str]) -> Result<Harness> {
    let controller_manager = controller_manager.iter().map(|flag| (*flag).to_owned()).collect();
    let harness = Harness::set_with(ApiOptions { controller_manager, ..ApiOptions::default() }).await?;
    harness.cluster.fake_nodes(nodes).await?;
    for namespace in [namespace(SHOP).asking(), namespace(QUIET)] {
        harness.cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
    }
    Ok(harness)
}

/// An owner of so many pods, all of them for the fake node of that number.
fn owner(kind: &str, name: &str, replicas: usize, node: usize) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": name}},
        "spec": {
            // Not by way of the scheduler, which places 50 pods a second.
            "nodeName": format!("fake-{node}"),
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "app:1"}],
        },
    });
    let selector = json!({"matchLabels": {"app": name}});
    let spec = match kind {
        "Job" => {
            template["spec"]["restartPolicy"] = json!("Never");
            json!({"parallelism": replicas, "completions": replicas, "template": template})
        }
        "DaemonSet" => {
            template["spec"]["nodeName"] = Value::Null;
            template["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": format!("fake-{node}")});
            json!({"selector": selector, "template": template})
        }
        "StatefulSet" => {
            json!({"replicas": replicas, "serviceName": name, "selector": selector, "template": template})
        }
        _ => json!({"replicas": replicas, "selector": selector, "template": template}),
    };
    json!({"metadata": {"name": name}, "spec": spec})
}

/// Creates owners in a namespace, each with its kind.
async fn create(harness: &Harness, namespace: &str, owners: Vec<(&str, Value)>) -> Result<()> {
    stream::iter(owners)
        .map(|(kind, owner)| async move {
            let api: Api<DynamicObject> = Api::namespaced_with(harness.client(), namespace, &resource_of(kind));
            api.create(&PostParams::default(), &serde_json::from_value(owner)?).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

fn resource_of(kind: &str) -> ApiResource {
    let version = KINDS.iter().find(|(_, known)| *known == kind).map_or("v1", |(version, _)| version);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// How many pods a namespace has, which costs an API server little to say.
async fn pods(harness: &Harness, namespace: &str) -> Result<usize> {
    let pods: Api<DynamicObject> = Api::namespaced_with(harness.client(), namespace, &resource_of("Pod"));
    let first = pods.list_metadata(&ListParams::default().limit(1)).await?;
    let others = usize::try_from(first.metadata.remaining_item_count.unwrap_or_default())?;
    Ok(first.items.len() + others)
}

/// Waits until a namespace has so many pods, and returns when.
async fn until_pods(harness: &Harness, namespace: &str, count: usize) -> Result<Instant> {
    let began = Instant::now();
    loop {
        let now = pods(harness, namespace).await?;
        if now >= count {
            return Ok(Instant::now());
        }
        if began.elapsed() > PATIENCE {
            bail!("{now} of {count} pods in {namespace}");
        }
        sleep(LOOK_EVERY).await;
    }
}

/// An error unless so many of the namespace's pods have a proxy.
async fn check_meshed(harness: &Harness, namespace: &str, count: usize) -> Result<()> {
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(harness.client(), namespace);
    let mut meshed = 0;
    let mut page = ListParams::default().limit(500);
    loop {
        let some = pods.list(&page).await?;
        let with = |pod: &&k8s_openapi::api::core::v1::Pod| {
            let spec = pod.spec.as_ref();
            let inits = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
            inits.iter().any(|container| container.name == "linkerd-proxy")
        };
        meshed += some.items.iter().filter(with).count();
        match some.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => page = page.continue_token(&more),
            None => break,
        }
    }
    ensure!(meshed == count, "{meshed} of {count} pods in {namespace} have a proxy");
    Ok(())
}

/// The load of the machine, as it says it of the last minute.
fn load() -> Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg").context("no load")?;
    Ok(load.split(' ').next().unwrap_or_default().to_owned())
}

// A few thousand of anything here.
#[expect(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}
