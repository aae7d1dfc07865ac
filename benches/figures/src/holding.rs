//! What it costs to hold a pod.

use std::time::Duration;

use anyhow::Result;
use linkerd_gate_kit::standin::Fault;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::dns::{Manner, NameServer};
use crate::gate::{Gate, OnMissed};
use crate::linkerd::Linkerd;
use crate::peers::Peer;
use crate::process::{Memory, Process, evict_pages};
use crate::said;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};

/// How many processes of each kind. Their median counts: a neighbour on the same machine disturbs some of them.
const COPIES: usize = 5;

/// How long after its start a process is left alone: what a start costs is another figure.
const SETTLED: Duration = Duration::from_secs(4);

/// How long it is watched.
const WINDOW: Duration = Duration::from_secs(20);

/// In MiB: the aim, and what an init container's memory limit has to leave room for.
const MEMORY_AIM: f64 = 3.2;
const MEMORY_LIMIT: f64 = 4.0;

/// In percent of one CPU.
const CPU_AIM: f64 = 0.1;

/// Nothing listens at either address.
const REFUSED: &str = "CPU while holding, both refuse";

/// The injector answers over TLS, nothing listens at identity's address.
const HALF: &str = "CPU, injector answers, identity refuses";

/// Both answer, and the pod is held until it is replaced.
const HELD: &str = "CPU, both answer, pod to be replaced";

/// As the first, where the addresses are found out by DNS each time, as in a pod.
const NAMED: &str = "CPU, both refuse, by name";

/// Processes of one kind that wait.
struct Herd {
    program: &'static str,
    /// What they meet.
    state: &'static str,
    processes: Vec<Process>,
    used: Vec<Duration>,
}

/// What they use.
struct Usage {
    program: &'static str,
    state: &'static str,
    /// MiB.
    resident: f64,
    /// MiB.
    anonymous: f64,
    /// Percent of one CPU.
    cpu: f64,
}

/// All states and programs at once, in one window.
pub async fn measure(gate: Option<&Gate>, peers: &[Peer], table: &mut Table) -> Result<()> {
    said(&format!("holding: memory and CPU over {} s", WINDOW.as_secs()));
    let (gone, half, back) = (Linkerd::start().await?, Linkerd::start().await?, Linkerd::start().await?);
    gone.suffer(Fault::Absent).await?;
    half.identity.suffer(Fault::Absent).await?;
    let names = NameServer::start(Manner::Answers).await;
    let mut herds = Vec::new();
    if let Some(gate) = gate {
        evict_pages(gate.waiting())?;
        herds.push(Herd::start(GATE, REFUSED, || gate.wait(&gone, OnMissed::Hold))?);
        herds.push(Herd::start(GATE, HALF, || gate.wait(&half, OnMissed::Hold))?);
        herds.push(Herd::start(GATE, HELD, || gate.wait(&back, OnMissed::Hold))?);
        match &names {
            Ok(server) => herds.push(Herd::start(GATE, NAMED, || server.wait(gate, OnMissed::Hold))?),
            Err(why) => table.without(NAMED, why),
        }
    }
    for peer in peers {
        evict_pages(peer.binary())?;
        peer.fall().await?;
        herds.push(Herd::start(peer.name(), REFUSED, || peer.wait())?);
    }

    sleep(SETTLED).await;
    herds.iter_mut().try_for_each(Herd::begin)?;
    let began = Instant::now();
    sleep(WINDOW).await;
    let window = began.elapsed();
    let usages = herds.iter_mut().map(|herd| herd.usage(window)).collect::<Result<Vec<_>>>()?;
    for process in herds.into_iter().flat_map(|herd| herd.processes) {
        process.terminate().await?;
    }
    tell(table, &usages);
    Ok(())
}

fn tell(table: &mut Table, usages: &[Usage]) {
    let (ours, of_peers): (Vec<&Usage>, Vec<&Usage>) = usages.iter().partition(|usage| usage.program == GATE);
    let worst = |of: fn(&Usage) -> f64| ours.iter().copied().map(of).reduce(f64::max);
    let how = format!(
        "/proc/PID/status, median of {COPIES} processes, the program read from disk, the worst of the states below"
    );
    let figure = table.figure("resident memory while holding", "MiB", &how);
    if let Some(resident) = worst(|usage| usage.resident) {
        let aim = Target::Missable(resident <= MEMORY_AIM);
        let target = if resident > MEMORY_LIMIT { Target::Kept(false) } else { aim };
        figure.value(GATE, resident).target("≤ 3.2, never 4", target);
    }
    for usage in &of_peers {
        figure.value(usage.program, usage.resident);
    }

    let how = "RssAnon of the same: several pods of one node share the rest, which is the program file's";
    let figure = table.figure("of it not shared by a node's pods", "MiB", how);
    if let Some(anonymous) = worst(|usage| usage.anonymous) {
        figure.value(GATE, anonymous);
    }
    for usage in &of_peers {
        figure.value(usage.program, usage.anonymous);
    }

    let how = format!(
        "/proc/PID/task/*/schedstat over {} s, median of {COPIES} processes, from {} s after their start",
        WINDOW.as_secs(),
        SETTLED.as_secs()
    );
    for usage in usages {
        let figure = table.figure(usage.state, "% of a CPU", &how).value(usage.program, usage.cpu);
        if usage.program == GATE {
            figure.target("≤ 0.1", Target::Missable(usage.cpu <= CPU_AIM));
        }
    }
}

// === impl Herd ===

impl Herd {
    fn start(program: &'static str, state: &'static str, command: impl Fn() -> Command) -> Result<Self> {
        let processes = (0..COPIES).map(|_| Process::start(command())).collect::<Result<_>>()?;
        Ok(Self { program, state, processes, used: Vec::new() })
    }

    /// The window begins.
    fn begin(&mut self) -> Result<()> {
        self.used = self.processes.iter().map(Process::cpu).collect::<Result<_>>()?;
        Ok(())
    }

    /// The window ends.
    fn usage(&mut self, window: Duration) -> Result<Usage> {
        let used = self.processes.iter().map(Process::cpu).collect::<Result<Vec<_>>>()?;
        self.processes.iter_mut().try_for_each(Process::check)?;
        let memory = self.processes.iter().map(Process::memory).collect::<Result<Vec<Memory>>>()?;
        let percent = |(before, after): (&Duration, &Duration)| {
            (*after).saturating_sub(*before).as_secs_f64() / window.as_secs_f64() * 100.0
        };
        Ok(Usage {
            program: self.program,
            state: self.state,
            resident: memory.iter().map(|memory| memory.resident).collect::<Sample>().median(),
            anonymous: memory.iter().map(|memory| memory.anonymous).collect::<Sample>().median(),
            cpu: self.used.iter().zip(&used).map(percent).collect::<Sample>().median(),
        })
    }
}
