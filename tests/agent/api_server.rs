//! An API server that is slow, gone, silent, forgetful, or one of two.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, WatchEvent, WatchParams};
use linkerd_gate_kit::standin::{Fault, Relay};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::harness::{BARE, Harness, agent_of, holder, is_closed, logs_of, opened};

const DEGRADED: &str = "gate: still open, but not confirmed: injection unknown: ";
const REASSURED: &str = "gate: still open, confirmed again";

/// The prover's way to the API server is bad in every way, and then that of an agent that only follows.
#[tokio::test]
async fn an_unreliable_api_server_is_reported_and_changes_nothing() -> Result<()> {
    let harness = Harness::set().await?;
    harness.injector.recover().await?;
    for node in ["node-0", "node-1"] {
        harness.node_of_an_earlier_boot(node).await?;
    }
    let way = harness.cluster.relay().start().await?;
    let kubeconfig = harness.account("far").await?;
    let kubeconfig = harness.cluster.kubeconfig_at(&kubeconfig, way.address())?;
    let settings = agent_of("node-0", "boot-1").with("API_SERVERS", &way.address().to_string());
    let far = harness.start_as(settings, &kubeconfig)?;
    far.until_says("gate: open: proven").await.with_context(|| far.said())?;
    let mut near = harness.start_apart(agent_of("node-1", "boot-1"), "near").await?;
    let story = async {
        near.until_says("gate: open: proven").await?;

        // Every answer 5 s late: it still proves for all, and says what it cannot do.
        way.suffer(Fault::Slow(Duration::from_secs(5))).await?;
        harness.move_injector(true).await?;
        let line = far.until_says(DEGRADED).await?;
        ensure!(line.contains("dry-run pod"), "{line}");
        far.answers(200).await?;
        near.until_says(DEGRADED).await?;
        near.answers(200).await?;
        way.recover().await?;
        far.until_says(REASSURED).await?;
        near.until_says(REASSURED).await?;
        ensure!(far.times_said("no longer the prover") == 0);

        // Gone: another proves, and its log says at once that the node stays as it is.
        way.suffer(Fault::Refuse).await?;
        far.until_says("node watch not in sync").await?;
        let line = far.until_says(DEGRADED).await?;
        ensure!(line.contains("the verdict cannot be read: the API server cannot be asked to"), "{line}");
        far.answers(200).await?;
        harness.until_lease("the other's", |lease| holder(lease).as_deref() == Some("node-1")).await?;
        ensure!(far.times_said("no longer the prover") == 1, "two act as provers");
        near.answers(200).await?;
        way.recover().await?;
        far.until_says(REASSURED).await?;

        // Silent.
        way.suffer(Fault::Hang).await?;
        let line = far.until_says(DEGRADED).await?;
        ensure!(line.contains("the prover on node node-1 stopped renewing the Lease"), "{line}");
        far.answers(200).await?;
        way.recover().await?;
        far.until_says(REASSURED).await?;
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&far, &near]))?;

    // Silent to the only agent, which proves: it stops to act, and goes on when it can.
    ensure!(near.terminate().await? == 0);
    let story = async {
        far.until_says("this agent is the prover: the Lease was free").await?;
        way.suffer(Fault::Hang).await?;
        far.until_says("no longer the prover: the Lease was not renewed").await?;
        far.answers(200).await?;
        way.recover().await?;
        far.until_says("this agent is the prover").await?;
        far.until_says(REASSURED).await?;
        let node = harness.nodes().await?.get("node-0").await?;
        ensure!(!is_closed(&node) && opened(&node).as_deref() == Some("boot-1"), "{node:?}");
        ensure!(far.times_said("gate: closed") == 0);
        anyhow::Ok(())
    };
    story.await.with_context(|| far.said())
}

/// The API server begins anew while the agent cannot reach it, and etcd has forgotten what the agent's watches stand at.
#[tokio::test]
async fn an_expired_watch_is_started_again() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    let way = harness.cluster.relay().start().await?;
    let kubeconfig = harness.account("agent").await?;
    let kubeconfig = harness.cluster.kubeconfig_at(&kubeconfig, way.address())?;
    let settings = agent_of("node-0", "boot-1").with("API_SERVERS", &way.address().to_string());
    let agent = harness.start_as(settings, &kubeconfig)?;
    let story = async {
        agent.until_says("gate: waiting: injection not ready").await?;
        let stood_at =
            harness.until_node("node-0", "closed", is_closed).await?.metadata.resource_version.unwrap_or_default();
        way.suffer(Fault::Refuse).await?;
        agent.until_says("node watch not in sync").await?;
        for round in 0..10 {
            harness.annotate_node("node-0", "example.com/round", Some(&round.to_string())).await?;
        }
        let version = harness.nodes().await?.get("node-0").await?.metadata.resource_version.unwrap_or_default();
        compact(&harness, &version).await?;
        harness.cluster.stop_api_server().await?;
        harness.cluster.start_api_server().await?;
        expired(&harness, &stood_at).await?;

        let back = Timestamp::now();
        harness.injector.recover().await?;
        way.recover().await?;
        agent.until_says("gate: open: proven").await?;
        harness.until_node("node-0", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;
        let requests = harness.requests_of("agent").await?;
        let listed = requests.iter().filter(|request| request.received > back && request.verb == "list");
        let listed: Vec<String> = listed.map(|request| request.resource.clone()).collect();
        ensure!(listed.iter().any(|resource| resource == "nodes"), "not begun anew: {listed:?}");
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}

/// Lets etcd forget everything before this revision.
async fn compact(harness: &Harness, revision: &str) -> Result<()> {
    let body = json!({"revision": revision, "physical": true}).to_string();
    let host = format!("{}:2379", harness.cluster.address());
    let mut stream = TcpStream::connect(&host).await?;
    let length = body.len();
    let head = format!(
        "POST /v3/kv/compaction HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "etcd says: {answer}");
    Ok(())
}

/// A watch from there is answered 410.
async fn expired(harness: &Harness, version: &str) -> Result<()> {
    let nodes: Api<Node> = harness.nodes().await?;
    let mut events = std::pin::pin!(nodes.watch(&WatchParams::default(), version).await?);
    match events.try_next().await? {
        Some(WatchEvent::Error(status)) if status.code == 410 => Ok(()),
        other => bail!("not expired: {other:?}"),
    }
}

#[tokio::test]
async fn an_agent_reconnects_to_a_restarted_api_server() -> Result<()> {
    let harness = Harness::set().await?;
    harness.injector.recover().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    let agent = harness.start(agent_of("node-0", "boot-1"))?;
    let story = async {
        agent.until_says("gate: open: proven").await?;
        harness.cluster.stop_api_server().await?;
        agent.until_says("node watch not in sync").await?;
        agent.answers(200).await?;
        harness.cluster.start_api_server().await?;
        // What happens from then on is seen.
        harness.injector.suffer(Fault::Absent).await?;
        harness.move_injector(true).await?;
        agent.until_says(&format!("gate: closed: {BARE}")).await?;
        harness.injector.recover().await?;
        agent.until_says("gate: open: proven").await?;
        agent.answers(200).await?;
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}

#[tokio::test]
async fn injection_needs_a_proof_through_every_api_server() -> Result<()> {
    let harness = Harness::set().await?;
    harness.injector.recover().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    let way = Relay::to_anywhere().start().await?;
    way.suffer(Fault::Refuse).await?;
    let second = harness.cluster.second_server(Some(way.address())).await?;
    let servers = format!("{}:6443,{}:6443", harness.cluster.address(), second.address());
    let agent = harness.start(agent_of("node-0", "boot-1").with("API_SERVERS", &servers))?;
    let story = async {
        let line = agent.until_says("gate: waiting: injection not ready: through API server ").await?;
        ensure!(
            line.contains(&format!("through API server {}:6443: a dry-run pod came back without", second.address())),
            "{line}"
        );
        agent.answers(503).await?;
        way.recover().await?;
        agent.until_says("gate: open: proven").await?;
        agent.answers(200).await?;

        // Silent, and not refused: the server waits for the webhook's whole timeout, and has a say all the same.
        way.suffer(Fault::Hang).await?;
        let line = agent.until_says("gate: closed: injection not ready: through API server ").await?;
        ensure!(line.contains(&second.address().to_string()), "{line}");
        way.recover().await?;
        agent.until_says("gate: open: proven").await?;
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}
