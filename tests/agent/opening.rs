//! A verdict that opens a thousand nodes at once: what their agents write must not keep the prover from its Lease.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use linkerd_gate::cluster::event::{self, EventSubject, Reporter};
use linkerd_gate::cluster::node::open_node;
use linkerd_gate::decide::node::taint::{NodeView, TAINT_KEY};
use linkerd_gate::decide::repair::WriteOutcome;
use serde_json::json;

use super::harness::{GATE, Harness, agent_of, holder, object};
use super::rights::apply;

const NODES: usize = 1000;

const ACCOUNT: &str = "linkerd-gate-agent";

#[tokio::test]
async fn a_thousand_openings_at_once_delay_no_lease() -> Result<()> {
    let harness = Harness::set().await?;
    apply(&harness, "35-flow-control.yaml").await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    harness.injector.recover().await?;
    let prover = harness.start_apart(agent_of("node-0", "boot-1"), ACCOUNT).await?;
    let lease = harness.until_lease("held", |lease| holder(lease).as_deref() == Some("node-0")).await;
    let lease = lease.with_context(|| prover.said())?;

    let nodes = harness.nodes().await?;
    let closed = try_join_all((0..NODES).map(|number| {
        let nodes = nodes.clone();
        async move {
            let taint = json!({"key": TAINT_KEY, "effect": "NoSchedule", "value": "boot1-1"});
            let node = json!({"metadata": {"name": format!("many-{number}")}, "spec": {"taints": [taint]}});
            let node = nodes.create(&PostParams::default(), &object(node)?).await?;
            anyhow::Ok(NodeView::of(&node))
        }
    }))
    .await?;

    // In the second over which agents spread it, through many connections.
    let clients = try_join_all((0..50).map(|_| harness.cluster.client_as(GATE, ACCOUNT))).await?;
    let since = Timestamp::now();
    let opened = join_all(closed.iter().enumerate().map(|(number, node)| {
        let client = clients[number % clients.len()].clone();
        async move {
            tokio::time::sleep(Duration::from_millis(u64::try_from(number % 1000)?)).await;
            // New nodes are written to by Kubernetes' own controllers as well. An agent learns of that by its watch.
            let mut seen = node.clone();
            loop {
                match open_node(client.clone(), TAINT_KEY, &seen).await {
                    WriteOutcome::Done => break,
                    WriteOutcome::Conflict => {
                        seen = NodeView::of(&Api::<Node>::all(client.clone()).get(&node.name).await?);
                    }
                    failed => bail!("{}: {failed:?}", node.name),
                }
            }
            let reporter = Reporter { instance: &node.name, node: Some(&node.name) };
            let message = "open: proven by an injected dry-run pod";
            event::note(client, reporter, &EventSubject::node(node), false, "GateOpened", message, Timestamp::now())
                .await
                .map_err(anyhow::Error::msg)
        }
    }))
    .await;
    let failed: Vec<String> = opened.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    ensure!(failed.is_empty(), "{} of {NODES} failed: {}", failed.len(), failed[0]);
    println!("{NODES} nodes opened, with their Events, in {:?}", Timestamp::now().duration_since(since).unsigned_abs());

    // Twice more it renews, and it is the same one that has led without a break: a write that came too late would have cost it that.
    let transitions = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    let renewed_at = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
    let mut before = lease.clone();
    for _ in 0..2 {
        let renewed = |lease: &Lease| renewed_at(lease) != renewed_at(&before);
        before = harness.until_lease("renewed", renewed).await.with_context(|| prover.said())?;
    }
    ensure!(holder(&before).as_deref() == Some("node-0") && transitions(&before) == transitions(&lease));
    ensure!(prover.metric("linkerd_gate_lease_writes_total", "result=\"failed\"").await? == 0, "{}", prover.said());
    Ok(())
}
