//! The control plane, and what a test needs of it.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use linkerd_gate::cluster::watch::Seen;
use linkerd_gate::decide::repair::{MissedState, Target};
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};

/// How long anything here may take that is awaited.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A node without a kubelet: what is bound to it stays until somebody says that it is gone. Only DaemonSets and tests bind to it.
pub const NODE: &str = "node-0";

/// The control plane.
pub async fn cluster() -> Result<&'static Cluster> {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER
        .get_or_try_init(|| async {
            // Nobody takes the node for broken, and its pods for unready, while a test looks.
            let patient = ["--node-monitor-grace-period=1h", "--node-startup-grace-period=1h"];
            let controller_manager = patient.map(ToOwned::to_owned).to_vec();
            let cluster = Cluster::start_with(ApiOptions { controller_manager, ..ApiOptions::default() }).await?;
            let nodes: Api<Node> = Api::all(cluster.client().await?);
            let room = json!({"cpu": "4", "memory": "8Gi", "pods": "100"});
            let node = json!({
                "metadata": {"name": NODE},
                "spec": {"unschedulable": true},
                "status": {"allocatable": room, "capacity": room},
            });
            create(&nodes, node).await?;
            Ok(cluster)
        })
        .await
}

/// Runs a test in a namespace of its own, with a report where it fails.
pub async fn in_namespace<F>(prefix: &str, test: impl FnOnce(Client, String) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let cluster = cluster().await?;
    let namespace = cluster.namespace(prefix, &[]).await?;
    cluster.reported(&[&namespace], test(cluster.client().await?, namespace.clone())).await
}

/// Makes an object.
pub async fn create<K>(api: &Api<K>, json: Value) -> Result<K>
where
    K: Clone + DeserializeOwned + Serialize + Debug,
{
    let object = serde_json::from_value(json).context("no such object")?;
    Ok(api.create(&PostParams::default(), &object).await?)
}

/// Changes an object as a person would.
pub async fn merge<K>(api: &Api<K>, name: &str, json: Value) -> Result<K>
where
    K: Clone + DeserializeOwned + Debug,
{
    Ok(api.patch(name, &PatchParams::default(), &Patch::Merge(json)).await?)
}

/// A pod as it was looked at.
pub fn target(pod: &Pod) -> Target {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Target {
        name: text(&pod.metadata.name),
        uid: text(&pod.metadata.uid),
        resource_version: text(&pod.metadata.resource_version),
        state: MissedState::Held,
        held_since: None,
    }
}

/// Waits until a watch has seen something.
pub async fn seen<V, T>(
    reader: &mut watch::Receiver<Seen<V>>,
    what: &str,
    mut found: impl FnMut(&Seen<V>) -> Option<T>,
) -> Result<T> {
    let wait = async {
        loop {
            if let Some(found) = found(&reader.borrow_and_update()) {
                return Ok(found);
            }
            reader.changed().await.context("the watch has ended")?;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("not seen: {what}"))?
}
