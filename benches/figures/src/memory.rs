//! A controller's memory in very large clusters, beside an API server that makes their pods up: kwok cannot play so many.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::many::{Many, Size};
use linkerd_gate_kit::standin::client;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::agents::ports;
use crate::gate::Gate;
use crate::process::Process;
use crate::said;
use crate::table::{GATE, Table, Target};

/// Longer than anything here takes; nothing waits for it but a run that fails.
const PATIENCE: Duration = Duration::from_mins(15);

/// How often it is asked how many missed pods it knows.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// So many pods, in all.
const PODS: [usize; 3] = [10_000, 60_000, 150_000];

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

const HOW: &str = "VmHWM of the controller's process after it listed all pods, listed them again after a 410, and was told of 20,000 \
                   changes; ten pods of each ReplicaSet, three empty ones beside each, 300 namespaces, a node for 30 pods; some 9 kB \
                   for each pod on the wire";

pub async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    let most = agent(gate).await?;
    let how = "VmHWM of the agent that proves, ten seconds after it took the Lease";
    let name = format!("{ESSENTIAL} essential namespaces: the agent's memory");
    table.figure(&name, "MiB", how).value(GATE, most).target("≤ 16", Target::Kept(most <= AGENT_LIMIT));
    let mut few = Vec::new();
    for pods in PODS {
        let most = controller(gate, Size { pods, missed: pods / 100, essential: 0 }).await?;
        let kept = Target::Kept(most <= LIMIT);
        let name = format!("{pods} pods, 1 % missed: the controller's memory");
        table.figure(&name, "MiB", HOW).value(GATE, most).target("≤ 64", kept);
        few.push(most);
    }
    // All missed are those of an installation by a mesh that never injected: it must be known what they would cost.
    for (pods, few) in PODS.into_iter().zip(few) {
        let most = controller(gate, Size { pods, missed: pods, essential: 0 }).await?;
        table.figure(&format!("{pods} pods, all missed: the controller's memory"), "MiB", HOW).value(GATE, most);
        let each = (most - few) * 1024.0 / (number(pods) * 0.99);
        let how = "the difference between the two above, by the number of pods that are missed in the one and not in the other";
        table.figure(&format!("{pods} pods: what each that is missed costs"), "KiB", how).value(GATE, each);
    }
    Ok(())
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

/// The most that one takes.
async fn controller(gate: &Gate, size: Size) -> Result<f64> {
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
    let mut process = Process::start(command)?;
    until_missed(&mut process, port, size.missed).await?;
    many.list_again().await;
    many.replace(REPLACED).await;
    until_missed(&mut process, port, size.missed).await?;
    let most = process.memory()?.most;
    // A run takes long, and its table comes last.
    said(&format!("memory: {most:.1} MiB at most"));
    Ok(most)
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

// At most 150,000 here.
#[expect(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}
