//! A verdict that opens a thousand nodes at once: what their agents write must not keep the prover from its Lease.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use linkerd_gate::cluster::event::{self, EventSubject, Reporter};
use linkerd_gate::cluster::node::open_node;
use linkerd_gate::decide::election::lease_record::PROVER_LEASE;
use linkerd_gate::decide::node::taint::{NodeView, TAINT_KEY};
use linkerd_gate::decide::repair::WriteOutcome;
use linkerd_gate_kit::cluster::AuditedRequest;
use serde_json::json;

use super::harness::{GATE, Harness, agent_of, holder, object};
use super::rights::apply;

const NODES: usize = 1000;

const ACCOUNT: &str = "linkerd-gate-agent";

/// From the answer to one Lease request to the next.
const LEASE_READ_EVERY: Duration = Duration::from_millis(10);

/// What a thousand openings at once cost everything else.
struct Burst {
    /// From the first write to the last answer.
    took: Duration,
    /// How many nodes were not opened, or have no Event, because the API server refused the request (429). Agents try again.
    refused: usize,
    /// How long the API server took for each Lease request meanwhile, reads among them, the shortest first.
    lease_requests: Vec<Duration>,
    /// How many of these it refused.
    lease_requests_refused: usize,
    /// The same of the prover's writes, dry-runs among them.
    prover: Vec<Duration>,
}

/// With our FlowSchemas nothing is refused, and no renewal is late. With `LINKERD_GATE_TESTS_COMPARE=1` first without them, to compare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_openings_at_once_delay_no_lease() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    harness.injector.recover().await?;
    let prover = harness.start_apart(agent_of("node-0", "boot-1"), ACCOUNT).await?;
    let held = harness.until_lease("held", |lease| holder(lease).as_deref() == Some("node-0")).await;
    held.with_context(|| prover.said())?;

    let failures = async || prover.metric("linkerd_gate_lease_writes_total", "result=\"failed\"").await;
    if std::env::var_os("LINKERD_GATE_TESTS_COMPARE").is_some() {
        let without = open_at_once(&harness, "without").await?;
        println!("{NODES} nodes without FlowSchemas: {without}, {} Lease writes failed", failures().await?);
    }
    apply(&harness, "35-flow-control.yaml").await?;
    let (failed, lease) = (failures().await?, harness.until_lease("there", |_| true).await?);
    let with = open_at_once(&harness, "with").await?;
    println!("{NODES} nodes with FlowSchemas: {with}");
    ensure!(with.refused + with.lease_requests_refused == 0, "{with}");

    // It renews again, and it is the same one that has led without a break: a write that came too late would have cost it that.
    let transitions = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    let renewed_at = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
    let before = harness.until_lease("there", |_| true).await?;
    let renewed = |lease: &Lease| renewed_at(lease) != renewed_at(&before);
    let after = harness.until_lease("renewed", renewed).await.with_context(|| prover.said())?;
    ensure!(holder(&after).as_deref() == Some("node-0") && transitions(&after) == transitions(&lease));
    ensure!(failures().await? == failed, "{}", prover.said());
    Ok(())
}

/// Opens a thousand nodes as their agents would, and writes the Event of each, while a client with the agents' rights reads the Lease.
async fn open_at_once(harness: &Harness, round: &str) -> Result<Burst> {
    let nodes = harness.nodes().await?;
    let closed = try_join_all((0..NODES).map(|number| {
        let nodes = nodes.clone();
        async move {
            let taint = json!({"key": TAINT_KEY, "effect": "NoSchedule", "value": "boot1-1"});
            let node = json!({"metadata": {"name": format!("{round}-{number}")}, "spec": {"taints": [taint]}});
            let node = nodes.create(&PostParams::default(), &object(node)?).await?;
            anyhow::Ok(NodeView::of(&node))
        }
    }))
    .await?;
    // In the second over which agents spread it, through many connections.
    let clients = try_join_all((0..50).map(|_| harness.cluster.client_as(GATE, ACCOUNT))).await?;
    let leases = Api::<Lease>::namespaced(harness.cluster.client_as(GATE, ACCOUNT).await?, GATE);
    // The audit log has how long each took.
    let reads = tokio::spawn(async move {
        loop {
            let _ = leases.get(PROVER_LEASE).await; // It may be refused.
            tokio::time::sleep(LEASE_READ_EVERY).await;
        }
    });
    let since = Timestamp::now();
    let opened = join_all(closed.iter().enumerate().map(|(number, node)| {
        let client = clients[number % clients.len()].clone();
        async move {
            tokio::time::sleep(Duration::from_millis(u64::try_from(number % 1000)?)).await;
            open(client, node).await
        }
    }))
    .await;
    reads.abort();
    let until = Timestamp::now();
    let failed: Vec<String> = opened.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    let other = failed.iter().find(|error| !(error.contains("Too many requests") || error.contains("429")));
    ensure!(other.is_none(), "{} of {NODES} failed: {other:?}", failed.len());
    let requests = harness.requests_of(ACCOUNT).await?;
    let meanwhile = |request: &&AuditedRequest| request.reached >= since && request.received <= until;
    let mut lease_requests: Vec<&AuditedRequest> = requests.iter().filter(meanwhile).collect();
    let writes = |request: &AuditedRequest| request.resource == "leases" && request.verb == "patch" || request.dry_run;
    let prover = lease_requests.iter().copied().filter(|request| writes(request));
    let prover = spans(prover);
    lease_requests.retain(|request| request.resource == "leases" && matches!(request.verb.as_str(), "get" | "patch"));
    Ok(Burst {
        took: until.duration_since(since).unsigned_abs(),
        refused: failed.len(),
        lease_requests_refused: lease_requests.iter().filter(|request| request.code == Some(429)).count(),
        lease_requests: spans(lease_requests.into_iter()),
        prover,
    })
}

/// How long each took, the shortest first.
fn spans<'a>(requests: impl Iterator<Item = &'a AuditedRequest>) -> Vec<Duration> {
    let mut spans: Vec<_> =
        requests.map(|request| request.reached.duration_since(request.received).unsigned_abs()).collect();
    spans.sort_unstable();
    spans
}

/// As an agent opens its node.
async fn open(client: Client, node: &NodeView) -> Result<()> {
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

// === impl Burst ===

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, refused, lease_requests, lease_requests_refused, prover } = self;
        write!(
            f,
            "{refused} refused, in {took:.2?}; {lease_requests_refused} of {} Lease requests",
            lease_requests.len()
        )?;
        if let Some((last, most)) = lease_requests.split_last() {
            let at = |percent: usize| lease_requests[most.len() * percent / 100];
            write!(f, " refused, p50 {:.1?}, p99 {:.1?}, max {last:.1?}", at(50), at(99))?;
        }
        write!(f, "; the prover's {} writes, max {:.1?}", prover.len(), prover.last().copied().unwrap_or_default())
    }
}
