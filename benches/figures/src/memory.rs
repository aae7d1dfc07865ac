//! A controller's memory and CPU in clusters of up to 150,000 pods, beside an API server that makes their pods up: kwok cannot play so many.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::many::{Many, Size};
use linkerd_gate_kit::standin::client;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::agents::ports;
use crate::gate::Gate;
use crate::growth::Growth;
use crate::process::Process;
use crate::said;
use crate::table::{GATE, Table, Target};

/// Longer than anything here takes; nothing waits for it but a run that fails.
const PATIENCE: Duration = Duration::from_mins(15);

/// How often it is asked how many missed pods it knows.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// So many pods, in all.
pub const PODS: [usize; 4] = [1000, 10_000, 60_000, 150_000];

/// What is measured of clusters in which one pod in a hundred is missed.
const MEMORY: &str = "a controller's memory";

/// So many of them are deleted and made again, twice, while it watches.
const REPLACED: usize = 5000;

/// So many essential namespaces has the agent's cluster.
const ESSENTIAL: usize = 1200;

/// In MiB.
const AGENT_LIMIT: f64 = 16.0;

/// How long an agent has to list what it follows.
const SETTLES: Duration = Duration::from_secs(10);

/// In MiB, with one pod in a hundred missed.
const LIMIT: f64 = 64.0;

const HOW: &str = "VmHWM of the controller's process after it listed all pods, received 20,000 changes, listed all again after a 410, \
                   and received as many changes; ten pods of each ReplicaSet, three empty ones beside each, 300 namespaces, a node for 30 pods; some 9 kB \
                   for each pod on the wire";

/// What may grow as a cluster does, with what a busy machine adds; and what should not grow with it at all.
const LINEAR: f64 = 1.1;
const CHANGES: f64 = 0.3;

/// What a controller costs.
struct Cost {
    /// In MiB, the most that it ever had.
    memory: f64,
    /// From its start until it has looked at all pods, and its CPU time until then.
    took: Duration,
    looked: Duration,
    /// What it was sent until then, in MB.
    listed: f64,
    /// The CPU time of 20,000 changes, and what it was sent for them, in MB.
    changed: Duration,
    sent: f64,
}

pub async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    let most = agent(gate).await?;
    let how = "VmHWM of the agent that proves, ten seconds after it took the Lease";
    let name = format!("{ESSENTIAL} essential namespaces: the agent's memory");
    table.figure(&name, "MiB", how).value(GATE, most).target("≤ 16", Target::Kept(most <= AGENT_LIMIT));
    let mut few = Vec::new();
    for pods in PODS {
        let cost = controller(gate, Size { pods, missed: pods / 100, essential: 0 }).await?;
        few.push(cost);
    }
    tell_growth(&few, table);
    for (pods, cost) in PODS.into_iter().zip(&few) {
        let kept = Target::Kept(cost.memory <= LIMIT);
        table.figure(&format!("{pods} pods: {MEMORY}"), "MiB", HOW).target("≤ 64", kept);
    }
    // All missed are those of an installation by a mesh that never injected: it must be known what they would cost. In the smallest
    // cluster that is lost in what a controller costs without any pod.
    for (pods, few) in PODS.into_iter().zip(few).skip(1) {
        let (most, few) = (controller(gate, Size { pods, missed: pods, essential: 0 }).await?.memory, few.memory);
        table.figure(&format!("{pods} pods, all missed: the controller's memory"), "MiB", HOW).value(GATE, most);
        let each = (most - few) * 1024.0 / (number(pods) * 0.99);
        let how = "the difference between the two above, by the number of pods that are missed in the one and not in the other";
        table.figure(&format!("{pods} pods: what each that is missed costs"), "KiB", how).value(GATE, each);
    }
    Ok(())
}

/// How each of what one controller costs grows with the number of pods.
fn tell_growth(costs: &[Cost], table: &mut Table) {
    let mut tell = |name: &str, unit, limit, how, value: fn(&Cost) -> f64| {
        let points = PODS.into_iter().zip(costs.iter().map(value)).collect();
        table.growth(Growth { name: name.to_owned(), unit, of: "pods", points }, limit, how);
    };
    tell(MEMORY, "MiB", 1.0, HOW, |cost| cost.memory);
    let how = "schedstat of its threads, from its start until /metrics shows all missed pods, one in a hundred";
    tell("CPU until all are looked at", "s", LINEAR, how, |cost| cost.looked.as_secs_f64());
    let how = "wall clock of the same, asked every 200 ms; the API server that makes the pods up shares the machine";
    tell("time until all are looked at", "s", LINEAR, how, |cost| cost.took.as_secs_f64());
    let how = "what the API server sent meanwhile: lists, and no change";
    tell("bytes until all are looked at", "MB", LINEAR, how, |cost| cost.listed);
    let how = "schedstat of its threads while it receives 20,000 changes, until it has looked at all of them";
    tell("CPU of 20,000 changes", "s", CHANGES, how, |cost| cost.changed.as_secs_f64());
    let how = "what the API server sent for 20,000 changes";
    tell("bytes of 20,000 changes", "MB", CHANGES, how, |cost| cost.sent);
}

/// The most that a prover takes of 1,200 essential namespaces, in MiB.
async fn agent(gate: &Gate) -> Result<f64> {
    said(&format!("memory: an agent with {ESSENTIAL} essential namespaces"));
    let many = Many::start(Size { pods: 30, missed: 0, essential: ESSENTIAL }).await?;
    let kubeconfig = tempfile::NamedTempFile::new()?;
    std::fs::write(kubeconfig.path(), many.kubeconfig())?;
    let port = *ports(1).first().context("no port is free")?;
    let mut command = Command::new(gate.full());
    command.arg("agent").env_clear().envs([
        ("LINKERD_GATE_KUBECONFIG", kubeconfig.path().to_str().context("a strange path")?),
        ("LINKERD_GATE_TERMINATION_LOG", "/nonexistent"),
        ("LINKERD_GATE_IDENTITY", "endpoints"),
        ("LINKERD_GATE_NODE_NAME", "node-0"),
        ("LINKERD_GATE_POD_NAME", "linkerd-gate-x2x9z"),
        ("LINKERD_GATE_POD_NAMESPACE", "linkerd-gate"),
        ("LINKERD_GATE_LISTEN_PORT", &port.to_string()),
    ]);
    let mut process = Process::start(command)?;
    until(&mut process, port, "linkerd_gate_prover ", 1).await?;
    ensure!(many.narrow_lists().await == 1, "more than one list of pods");
    sleep(SETTLES).await;
    Ok(process.memory()?.most)
}

/// What one costs: it lists all pods, receives changes, lists them again after a 410, and receives changes once more.
async fn controller(gate: &Gate, size: Size) -> Result<Cost> {
    said(&format!("memory: {} pods, {} missed", size.pods, size.missed));
    let many = Many::start(size).await?;
    let kubeconfig = tempfile::NamedTempFile::new()?;
    std::fs::write(kubeconfig.path(), many.kubeconfig())?;
    let port = *ports(1).first().context("no port is free")?;
    let mut command = Command::new(gate.full());
    command.arg("controller").env_clear().envs([
        ("LINKERD_GATE_KUBECONFIG", kubeconfig.path().to_str().context("a strange path")?),
        ("LINKERD_GATE_TERMINATION_LOG", "/nonexistent"),
        ("LINKERD_GATE_NODE_NAME", "node-0"),
        ("LINKERD_GATE_POD_NAME", "linkerd-gate-controller-x2x9z"),
        ("LINKERD_GATE_POD_NAMESPACE", "linkerd-gate"),
        ("LINKERD_GATE_POD_UID", "0b6f9e52-9b1f-4e0a-8d5a-0d2f3b3f9c11"),
        ("LINKERD_GATE_LISTEN_PORT", &port.to_string()),
    ]);
    let began = Instant::now();
    let mut process = Process::start(command)?;
    until_missed(&mut process, port, size.missed).await?;
    let (took, looked, listed) = (began.elapsed(), process.cpu()?, many.sent());
    many.replace(REPLACED).await;
    until_missed(&mut process, port, size.missed).await?;
    let (changed, sent) = (process.cpu()?.saturating_sub(looked), many.sent() - listed);
    many.list_again().await;
    many.replace(REPLACED).await;
    until_missed(&mut process, port, size.missed).await?;
    let memory = process.memory()?.most;
    // A run takes long, and its table comes last.
    said(&format!("memory: {memory:.1} MiB at most, {:.2} s of CPU until all were looked at", looked.as_secs_f64()));
    Ok(Cost { memory, took, looked, listed: megabytes(listed), changed, sent: megabytes(sent) })
}

async fn until_missed(process: &mut Process, port: u16, count: usize) -> Result<()> {
    until(process, port, "linkerd_gate_missed_pods{", count).await
}

async fn until(process: &mut Process, port: u16, metric: &str, count: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        process.check()?;
        let answer = client::get(([127, 0, 0, 1], port).into(), "/metrics").await;
        let text = answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned()).unwrap_or_default();
        let missed = text.lines().filter(|line| line.starts_with(metric));
        let sum: usize = missed.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        if sum == count {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{metric}: {sum} of {count}");
        sleep(ASK_EVERY).await;
    }
}

// Lossless up to 2⁵³ bytes.
#[expect(clippy::cast_precision_loss)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

// At most 150,000 here.
#[expect(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}
