//! What `linkerd-gate check` takes in clusters of up to 150,000 pods, beside an API server that makes their pods up.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::many::{Many, Size};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::gate::Gate;
use crate::growth::Growth;
use crate::memory::PODS;
use crate::process::Process;
use crate::said;
use crate::table::Table;

/// How often the process is looked at. What it uses after the last look is missing.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Longer than it takes; nothing waits for it but a run that fails.
const PATIENCE: Duration = Duration::from_mins(5);

/// What may grow as a cluster does, with what a busy machine adds.
const LINEAR: f64 = 1.1;

/// What one run costs.
struct Cost {
    took: Duration,
    cpu: Duration,
    /// In MiB, the most that it ever had.
    memory: f64,
}

pub async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    let mut costs = Vec::new();
    for pods in PODS {
        costs.push(run(gate, Size { pods, missed: pods / 100, essential: 0 }).await?);
    }
    let mut tell = |name: &str, unit, how, value: fn(&Cost) -> f64| {
        let points = PODS.into_iter().zip(costs.iter().map(value)).collect();
        table.growth(Growth { name: name.to_owned(), unit, of: "pods", points }, LINEAR, how);
    };
    let how = "wall clock from its start to its end, with nothing of linkerd-gate installed; the API server that makes the pods up \
               shares the machine";
    tell("time of check", "s", how, |cost| cost.took.as_secs_f64());
    let how = "schedstat of its threads and VmHWM, looked at every 5 ms until it ends";
    tell("CPU of check", "s", how, |cost| cost.cpu.as_secs_f64());
    tell("memory of check", "MiB", how, |cost| cost.memory);
    Ok(())
}

async fn run(gate: &Gate, size: Size) -> Result<Cost> {
    said(&format!("check: {} pods, {} missed", size.pods, size.missed));
    let many = Many::start(size).await?;
    let kubeconfig = tempfile::NamedTempFile::new()?;
    std::fs::write(kubeconfig.path(), many.kubeconfig())?;
    let mut report = tempfile::tempfile()?;
    let mut command = Command::new(gate.full());
    command.arg("check").args(["--output", "json"]).env_clear().env("KUBECONFIG", kubeconfig.path());
    let began = Instant::now();
    let mut process = Process::start_with_output(command, report.try_clone()?)?;
    let (mut cpu, mut memory) = (Duration::ZERO, 0.0);
    while !process.has_ended()? {
        // It may end between these two.
        if let (Ok(used), Ok(resident)) = (process.cpu(), process.memory()) {
            (cpu, memory) = (cpu.max(used), resident.most);
        }
        ensure!(began.elapsed() < PATIENCE, "check does not end");
        sleep(LOOK_EVERY).await;
    }
    let took = began.elapsed();
    std::io::Seek::rewind(&mut report)?;
    let mut text = String::new();
    report.read_to_string(&mut text).context("cannot read what check found")?;
    let found = format!("outside the mesh, running or about to start: {} pods", size.missed);
    ensure!(text.contains(&found), "check did not find {} missed pods: {text}", size.missed);
    Ok(Cost { took, cpu, memory })
}
