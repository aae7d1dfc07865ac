//! Up to a thousand agents at one API server: what a verdict costs it, and how soon all nodes are open.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use linkerd_gate_kit::cluster::{self, AuditedRequest};
use tokio::time::{Instant, sleep};

use crate::agents::{Agent, Harness, NAMESPACE, PATIENCE, ports};
use crate::gate::Gate;
use crate::growth::Growth;
use crate::said;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};

/// The fleet that is reported in detail.
const NODES: usize = 300;

/// All fleets, for how figures grow with them.
const FLEETS: [usize; 4] = [10, 100, NODES, 1000];

/// How many are started at once: this machine is not 300.
const AT_ONCE: usize = 6;

/// How long they are left alone, and then watched, at rest.
const SETTLED: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_mins(1);

/// In seconds, from the verdict to the last node.
const OPEN_AIM: f64 = 5.0;

/// How many dry-runs may be sent for each proof, and how many requests until a node is open.
const DRY_RUNS: f64 = 2.0;
const REQUESTS: f64 = 12.0;

/// Of an agent that does not prove, in MiB.
const REST_LIMIT: f64 = 12.0;

const OPEN_HOW: &str =
    "audit log, from the arrival of the Lease that says open to the answer to each node's patch; kwok plays the nodes";
const CPU_HOW: &str = "schedstat of kube-apiserver's threads, from the verdict to the last node open; nodes' and Leases' heartbeats included";

const LAST_OPEN: &str = "from the verdict to the last node open";
const REQUESTS_HOW: &str =
    "audit log, by the pod in each token, from the agent's start to the last node open, Events included";

/// What the fleet did, by the API server's audit log.
struct Deeds {
    requests: Vec<AuditedRequest>,
    /// The pods whose agents proved.
    provers: BTreeSet<String>,
}

/// What a fleet costs.
struct Cost {
    /// From the verdict until the last node is open.
    open: Duration,
    /// How many requests an agent that does not prove sent until then, on the average.
    requests: f64,
    /// The API server's CPU time until then.
    opening: Duration,
    /// The API server's and the prover's CPU time in the window at rest.
    rest: Duration,
    prover: Duration,
    /// The prover's resident memory then, in MiB.
    memory: f64,
}

/// What may grow as a fleet does, with what a busy machine adds; what should grow less; and what should not grow with it at all.
const LINEAR: f64 = 1.1;
const SLOWER: f64 = 0.7;
const FLAT: f64 = 0.3;

pub async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    let mut costs = Vec::new();
    for nodes in FLEETS {
        costs.push(fleet(&Harness::set().await?, gate, nodes, table).await?);
    }
    let mut tell = |name: &str, unit, limit, how: &str, value: fn(&Cost) -> f64| {
        let points = FLEETS.into_iter().zip(costs.iter().map(value)).collect();
        table.growth(Growth { name: name.to_owned(), unit, of: "nodes", points }, limit, how);
    };
    tell(LAST_OPEN, "s", SLOWER, OPEN_HOW, |cost| cost.open.as_secs_f64());
    tell("an agent's requests until its node is open", "", FLAT, REQUESTS_HOW, |cost| cost.requests);
    tell("the API server's CPU until then", "s", LINEAR, CPU_HOW, |cost| cost.opening.as_secs_f64());
    let how = "the same over a minute at rest, nodes' and Leases' heartbeats included";
    tell("the API server's CPU in a minute at rest", "s", LINEAR, how, |cost| cost.rest.as_secs_f64());
    let how = "schedstat of the threads of the agent that proves, over that minute";
    tell("the prover's CPU in a minute at rest", "s", FLAT, how, |cost| cost.prover.as_secs_f64());
    let how = "/proc/PID/status of the agent that proves, after that minute";
    tell("the prover's resident memory", "MiB", FLAT, how, |cost| cost.memory);
    for (nodes, cost) in FLEETS.into_iter().zip(&costs) {
        let open = cost.open.as_secs_f64();
        table.figure(&format!("{nodes} nodes: {LAST_OPEN}"), "s", "").target("≤ 5", Target::Missable(open <= OPEN_AIM));
    }
    Ok(())
}

/// What so many agents cost; of [`NODES`] of them the table gets everything.
async fn fleet(harness: &Harness, gate: &Gate, count: usize, table: &mut Table) -> Result<Cost> {
    said(&format!("fleet: making {count} nodes"));
    let nodes = harness.nodes_of_an_earlier_boot(count).await?;
    let agents = start(harness, gate, &nodes).await?;
    harness.until_nodes(true).await?;
    sleep(SETTLED).await;

    said("fleet: Linkerd answers");
    let leases: Api<Lease> = Api::namespaced(harness.client(), NAMESPACE);
    let before = harness.api_server_cpu()?;
    harness.rise().await?;
    cluster::until(&leases, "linkerd-gate", "open", PATIENCE, says_open).await?;
    let seen = Timestamp::now();
    let at_verdict = harness.api_server_cpu()?;
    harness.until_nodes(false).await?;
    let spent = harness.api_server_cpu()?;
    let deeds = Deeds::read(harness)?;
    let verdict = deeds.verdict(seen)?;
    let opened = deeds.opened(verdict);
    let last = opened.values().max().copied().unwrap_or(verdict);
    let opening = spent.saturating_sub(at_verdict);
    said(&format!(
        "fleet: {:.1} s of the API server's CPU until the verdict, {:.1} s from there; the last node open after {:.2} s",
        at_verdict.saturating_sub(before).as_secs_f64(),
        opening.as_secs_f64(),
        between(verdict, last).as_secs_f64(),
    ));
    if count == NODES {
        deeds.tell_opening(verdict, &opened, table);
        table.figure("300 nodes open: the API server's CPU", "s", CPU_HOW).value(GATE, opening.as_secs_f64());
        deeds.tell_requests(last, table);
    }

    said(&format!("fleet: at rest, {} s", WINDOW.as_secs()));
    sleep(SETTLED).await;
    let prover =
        agents.iter().zip(nodes.values()).find(|(_, pod)| deeds.provers.contains(*pod)).map(|(agent, _)| agent);
    let prover = prover.context("no agent of this fleet proved")?;
    let (began, before) = (Timestamp::now(), Instant::now());
    let (at_server, at_prover) = (harness.api_server_cpu()?, prover.process.cpu()?);
    sleep(WINDOW).await;
    let (ended, window) = (Timestamp::now(), before.elapsed());
    let rest = harness.api_server_cpu()?.saturating_sub(at_server);
    let (memory, prover) = (prover.process.memory()?.resident, prover.process.cpu()?.saturating_sub(at_prover));
    if count == NODES {
        let resident = agents.iter().map(|agent| agent.process.memory()).collect::<Result<Vec<_>>>()?;
        let median = resident.iter().map(|memory| memory.resident).collect::<Sample>().median();
        let how = "/proc/PID/status, median of 300";
        table
            .figure("a fleet's agent, resident memory at rest", "MiB", how)
            .value(GATE, median)
            .target("≤ 12", Target::Kept(median <= REST_LIMIT));
        let deeds = Deeds::read(harness)?;
        deeds.tell_rest((began, ended, window), table);
        let proofs: f64 =
            try_join_all(agents.iter().map(|agent| agent.metric("linkerd_gate_proofs_total"))).await?.iter().sum();
        deeds.tell_proofs(proofs, table);
    }
    let requests = mean(&deeds.requests_until(last));
    Ok(Cost { open: between(verdict, last), requests, opening, rest, prover, memory })
}

async fn start(harness: &Harness, gate: &Gate, nodes: &BTreeMap<String, String>) -> Result<Vec<Agent>> {
    said(&format!("fleet: starting {} agents, {AT_ONCE} at a time", nodes.len()));
    let ports = ports(nodes.len());
    let all: Vec<_> = nodes.iter().zip(ports).collect();
    let mut agents = Vec::new();
    for some in all.chunks(AT_ONCE) {
        let starting = some.iter().map(|((node, pod), port)| harness.start(gate.full(), node, pod, *port));
        agents.extend(try_join_all(starting).await?);
    }
    Ok(agents)
}

fn says_open(lease: &Lease) -> bool {
    let verdict = lease.metadata.annotations.as_ref().and_then(|all| all.get("linkerd-gate/verdict"));
    verdict.is_some_and(|verdict| verdict.contains(r#""gate":"open""#))
}

// A few thousand of anything here.
#[expect(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

// === impl Deeds ===

impl Deeds {
    fn read(harness: &Harness) -> Result<Self> {
        let requests = harness.requests()?;
        let provers = requests.iter().filter(|request| request.dry_run).filter_map(|request| request.pod.clone());
        let provers = provers.collect();
        Ok(Self { requests, provers })
    }

    fn lease_writes(&self) -> impl Iterator<Item = &AuditedRequest> {
        let write = |request: &&AuditedRequest| {
            request.resource == "leases" && ["create", "update", "patch"].contains(&request.verb.as_str())
        };
        self.requests.iter().filter(write)
    }

    /// When the API server received the word that was seen at `seen`.
    fn verdict(&self, seen: Timestamp) -> Result<Timestamp> {
        let written =
            |request: &&AuditedRequest| request.received <= seen && request.code.is_some_and(|code| code < 300);
        let last = self.lease_writes().filter(written).last();
        Ok(last.context("nobody wrote the Lease")?.received)
    }

    /// When the API server answered each node's opening.
    fn opened(&self, verdict: Timestamp) -> BTreeMap<&str, Timestamp> {
        self.requests
            .iter()
            .filter(|request| request.resource == "nodes" && request.verb == "patch" && request.received >= verdict)
            .filter(|request| request.code == Some(200))
            .map(|request| (request.name.as_str(), request.reached))
            .collect()
    }

    fn tell_opening(&self, verdict: Timestamp, opened: &BTreeMap<&str, Timestamp>, table: &mut Table) {
        let sample: Sample = opened.values().map(|at| between(verdict, *at).as_secs_f64()).collect();
        table.figure("300 nodes open, p50", "s", OPEN_HOW).value(GATE, sample.median());
        table
            .figure("300 nodes open, the last", "s", OPEN_HOW)
            .value(GATE, sample.max())
            .target("≤ 5", Target::Missable(sample.max() <= OPEN_AIM));
        let patches = self.requests.iter().filter(|request| request.resource == "nodes" && request.verb == "patch");
        let failed = patches.filter(|request| request.code != Some(200)).count();
        let how =
            "audit log, whatever but HTTP 200: a 409 for instance, where the kubelet's part wrote the node in between";
        table.figure("300 agents: patches of nodes that failed", "", how).value(GATE, number(failed));
    }

    /// How many requests each agent that does not prove sent until `last`.
    fn requests_until(&self, last: Timestamp) -> Vec<f64> {
        let mut by_pod: BTreeMap<&str, usize> = BTreeMap::new();
        for request in self.requests.iter().filter(|request| request.received <= last) {
            if let Some(pod) = request.pod.as_ref().filter(|pod| !self.provers.contains(*pod)) {
                *by_pod.entry(pod).or_default() += 1;
            }
        }
        by_pod.into_values().map(number).collect()
    }

    /// From the start of each agent to `last`, when all nodes were open.
    fn tell_requests(&self, last: Timestamp, table: &mut Table) {
        let mut of_provers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for request in self.requests.iter().filter(|request| request.received <= last) {
            match &request.pod {
                Some(pod) if self.provers.contains(pod) => *of_provers.entry(pod).or_default() += 1,
                Some(_) => *kinds.entry(kind(request)).or_default() += 1,
                None => {}
            }
        }
        for (kind, count) in &kinds {
            said(&format!("fleet: until open, of agents that do not prove: {count} × {kind}"));
        }
        let others = self.requests_until(last);
        let (mean, sample) = (mean(&others), others.into_iter().collect::<Sample>());
        table
            .figure("an agent's requests from start to open, mean", "", REQUESTS_HOW)
            .value(GATE, mean)
            .target("≤ 12", Target::Kept(mean <= REQUESTS));
        table
            .figure("an agent's requests from start to open, max", "", REQUESTS_HOW)
            .value(GATE, sample.max())
            .target("≤ 12", Target::Missable(sample.max() <= REQUESTS));
        let of_provers: Sample = of_provers.into_values().map(number).collect();
        let how = "the same, of the agent that proves: it renews the Lease, and watches for all";
        table.figure("the prover's requests from start to open", "", how).value(GATE, of_provers.max());

        let writes: Vec<&AuditedRequest> = self.lease_writes().filter(|request| request.received <= last).collect();
        let late = writes.iter().filter(|request| request.code == Some(409)).count();
        let how = "audit log, from the first agent's start to the last node open";
        table.figure("300 agents: writes of the Lease until open", "", how).value(GATE, number(writes.len()));
        table.figure("300 agents: of these, in conflict with one", "", how).value(GATE, number(late));
    }

    fn tell_rest(&self, (began, ended, window): (Timestamp, Timestamp, Duration), table: &mut Table) {
        let then = |request: &&AuditedRequest| (began..ended).contains(&request.received);
        let (provers, others): (Vec<_>, Vec<_>) = self
            .requests
            .iter()
            .filter(then)
            .partition(|request| request.pod.as_ref().is_some_and(|pod| self.provers.contains(pod)));
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for request in &others {
            *kinds.entry(kind(request)).or_default() += 1;
        }
        for (kind, count) in &kinds {
            said(&format!("fleet: at rest, of agents that do not prove: {count} × {kind}"));
        }
        let hours = window.as_secs_f64() / 3600.0;
        let (watches, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|request| request.verb == "watch");
        // A watch is begun anew when it has lasted as long as it was asked for: what a minute shows of that is chance.
        let stated = watches_an_hour(&self.requests, &self.provers);
        let agents = number(NODES) - number(self.provers.len());
        let shown = number(watches.len()) / agents / hours;
        said(&format!("fleet: watches an hour: {stated:.1} by their own word, {shown:.1} by what this minute shows"));
        let an_hour = number(rest.len()) / agents / hours + stated.max(shown);
        let how = format!(
            "audit log over {} s; watches by how long they were asked to last, or as often as they began then, if that is more",
            WINDOW.as_secs()
        );
        table.figure("an agent's requests an hour at rest", "", &how).value(GATE, an_hour);
        let of_prover = number(provers.len()) / hours;
        table.figure("the prover's requests an hour at rest", "", &how).value(GATE, of_prover);
    }

    fn tell_proofs(&self, proofs: f64, table: &mut Table) {
        let dry_runs = self.requests.iter().filter(|request| request.dry_run).count();
        let how = "dry-runs by the audit log, over linkerd_gate_proofs_total of all agents";
        table.figure("300 agents: proofs", "", how).value(GATE, proofs);
        let ratio = number(dry_runs) / proofs;
        table
            .figure("300 agents: dry-runs by proofs", "×", how)
            .value(GATE, ratio)
            .target("≤ 2", Target::Kept(ratio <= DRY_RUNS));
        let how = "agents that sent any dry-run";
        table.figure("300 agents: provers", "", how).value(GATE, number(self.provers.len()));
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / number(values.len())
}

/// A request without what differs from node to node.
fn kind(request: &AuditedRequest) -> String {
    let code = request.code.map_or_else(String::new, |code| format!(" {code}"));
    format!("{} {}{code}", request.verb, request.resource)
}

/// How often an agent that does not prove begins its watches anew in an hour, by how long each is asked to last.
fn watches_an_hour(requests: &[AuditedRequest], provers: &BTreeSet<String>) -> f64 {
    let mut lasting: BTreeMap<&str, f64> = BTreeMap::new();
    for request in requests.iter().filter(|request| request.verb == "watch") {
        if request.pod.as_ref().is_none_or(|pod| provers.contains(pod)) {
            continue;
        }
        let query = request.uri.split_once('?').map_or("", |(_, query)| query);
        let seconds = query.split('&').find_map(|pair| pair.strip_prefix("timeoutSeconds=")?.parse::<f64>().ok());
        lasting.insert(&request.resource, seconds.unwrap_or(f64::NAN));
    }
    lasting.values().map(|seconds| 3600.0 / seconds).sum()
}
