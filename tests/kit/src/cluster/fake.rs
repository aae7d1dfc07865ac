//! Nodes that are nothing but objects, whose kubelets kwok plays: for tests of size.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;

use super::{credentials::Credentials, process::Process, scratch::Scratch, watch};

/// The mark of a node that kwok plays, in a label to select it by and in an annotation for kwok.
const MARK: (&str, &str) = ("kwok.x-k8s.io/node", "fake");

/// How many nodes are created at once.
const AT_ONCE: usize = 16;

/// What happens to the nodes and their pods.
const STAGES: &str = include_str!("fake_stages.yaml");

/// Starts kwok.
pub(super) fn start(
    program: &Path,
    address: Ipv4Addr,
    credentials: &Credentials,
    scratch: &Scratch,
    log: &Path,
) -> Result<Process> {
    // Instead of the one that its user may have in the home directory.
    let configuration = scratch.path().join("kwok.yaml");
    std::fs::write(&configuration, STAGES).with_context(|| format!("cannot write {}", configuration.display()))?;
    let arguments = [
        format!("--kubeconfig={}", credentials.file("kwok.kubeconfig").display()),
        format!("--config={}", configuration.display()),
        format!("--manage-nodes-with-annotation-selector={}={}", MARK.0, MARK.1),
        "--node-lease-duration-seconds=40".to_owned(),
        // Where it would serve logs, if there were any.
        format!("--server-address={address}:10247"),
        // Large enough for what tests of size make of it.
        "--cidr=10.128.0.0/9".to_owned(),
    ];
    Process::start("kwok", program, arguments, log)
}

/// Makes nodes and waits until they are Ready.
pub(super) async fn make(client: &kube::Client, count: usize, patience: Duration) -> Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let marked = ListParams::default().labels(&format!("{}={}", MARK.0, MARK.1));
    let known = nodes.list_metadata(&marked).await?.items.len();
    let names: Vec<String> = (known..known + count).map(|index| format!("fake-{index}")).collect();
    let parameters = PostParams::default();
    stream::iter(&names)
        .map(|name| {
            let (nodes, parameters) = (&nodes, &parameters);
            async move {
                nodes.create(parameters, &node(name)?).await.with_context(|| format!("cannot create node {name}"))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| futures::future::ok(()))
        .await?;
    let ready = |found: &BTreeMap<String, Node>| {
        let ready = found.values().filter(|node| is_ready(node)).count();
        (ready >= known + count).then_some(())
    };
    watch::until_any(&nodes, &marked, "fake nodes Ready", patience, ready).await?;
    Ok(names)
}

fn node(name: &str) -> Result<Node> {
    let room = json!({"cpu": "32", "memory": "256Gi", "pods": "250"});
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "annotations": {MARK.0: MARK.1},
            "labels": {MARK.0: MARK.1, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        },
        "status": {"allocatable": room, "capacity": room},
    }))?)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
