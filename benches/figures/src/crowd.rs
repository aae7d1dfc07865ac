//! A thousand pods of one node wait for its agent, and it opens.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::agents::{Agent, Harness, ports};
use crate::direct;
use crate::gate::Gate;
use crate::peers::Kubectl;
use crate::process::{Process, evict_pages};
use crate::release::latencies;
use crate::said;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};

/// How many wait at once: nine times the pods that a node runs by default.
const WAITS: usize = 1000;

/// The pods that a node runs by default.
const PODS: usize = 110;

/// A thousand of them would take 47 GB.
const KUBECTL: (u32, u32) = (1, 100);

/// How long an agent, or a crowd of waits, is left alone before it is measured.
const SETTLED: Duration = Duration::from_secs(4);

/// How long a crowd's CPU is watched: each of them polls once in it.
const WINDOW: Duration = Duration::from_secs(30);

/// In milliseconds.
const AIM: f64 = 100.0;

/// How many times as long a thousand waits may take to end by themselves as by SIGKILL, which takes nothing of ours. The kernel
/// needs a quarter of a millisecond of CPU to end one, so on two cores a thousand take longer than [`AIM`] in any case.
const SLACK: f64 = 4.0;

/// In MiB: a wait's, an agent's, and an agent's with a thousand waits on it.
const WAIT_LIMIT: f64 = 3.2;
const REST_LIMIT: f64 = 12.0;
const CROWD_LIMIT: f64 = 32.0;

/// What kubectl shares.
const RELEASED: [(&str, usize); 2] = [("1,000 waits on an agent released, p50", 50), (RELEASED_P99, 99)];
const RELEASED_P99: &str = "1,000 waits on an agent released, p99";

pub async fn measure(harness: Harness, gate: &Gate, table: &mut Table) -> Result<()> {
    said("agent: alone, at rest");
    let nodes = harness.nodes_of_an_earlier_boot(1).await?;
    let (node, pod) = nodes.first_key_value().context("no node")?;
    let port = *ports(1).first().context("no port is free")?;
    harness.rise().await?;
    evict_pages(gate.full())?;
    let mut agent = harness.start(gate.full(), node, pod, port).await?;
    agent.until_open().await?;
    harness.until_nodes(false).await?;
    sleep(SETTLED).await;
    let how = "/proc/PID/status; one agent, which proves as well, open, the program read from disk";
    let rest = agent.process.memory()?.resident;
    table
        .figure("an agent's resident memory at rest", "MiB", how)
        .value(GATE, rest)
        .target("≤ 12", Target::Kept(rest <= REST_LIMIT));

    polls(&harness, &mut agent, table).await?;
    let waits = crowd(&harness, gate, &mut agent, PODS).await?;
    let sample = release(&harness, &agent, waits).await?;
    let p99 = sample.percentile(99);
    let how = "wall clock, from the agent's log line that its gate is open to each process's end";
    table.figure("110 waits on an agent released, p50", "ms", how).value(GATE, sample.median());
    table
        .figure("110 waits on an agent released, p99", "ms", how)
        .value(GATE, p99)
        .target("≤ 100", Target::Missable(p99 <= AIM));

    let waits = crowd(&harness, gate, &mut agent, WAITS).await?;
    hold(&waits, &agent, table).await?;
    let released = release(&harness, &agent, waits).await?;
    let how = format!("{how}; kubectl {} processes, from the instant before the API server gets the change", KUBECTL.1);
    for (name, percent) in RELEASED {
        table.figure(name, "ms", &how).value(GATE, released.percentile(percent));
    }
    let p99 = released.percentile(99);
    table.figure(RELEASED_P99, "ms", "").target("≤ 100", Target::Missable(p99 <= AIM));
    let how = "VmHWM after all of the above: the most that it ever had";
    let most = agent.process.memory()?.most;
    table
        .figure("an agent's resident memory with 1,000 waits", "MiB", how)
        .value(GATE, most)
        .target("≤ 32", Target::Kept(most <= CROWD_LIMIT));

    let waits = crowd(&harness, gate, &mut agent, WAITS).await?;
    let killed = kill(waits).await?;
    let how = "wall clock, from the first SIGKILL to each process's end: what the machine needs to end them";
    table.figure("1,000 waits ended by SIGKILL, p99", "ms", how).value(GATE, killed.percentile(99));
    let ratio = p99 / killed.percentile(99);
    table
        .figure("1,000 waits, released by killed, p99", "×", "the two above, of the same run")
        .value(GATE, ratio)
        .target(&format!("≤ {SLACK}"), Target::Kept(ratio <= SLACK));
    drop((agent, harness));
    direct::measure(gate, table).await
}

/// A client that holds a thousand long polls: the agent's part alone, without that of processes that end.
async fn polls(harness: &Harness, agent: &mut Agent, table: &mut Table) -> Result<()> {
    said("agent: 1,000 long polls");
    harness.fall().await?;
    agent.until_closed().await?;
    let mut polls = JoinSet::new();
    for _ in 0..WAITS {
        let mut stream = TcpStream::connect(agent.address()).await?;
        stream.write_all(b"GET /gate?wait=60s HTTP/1.1\r\nHost: agent\r\n\r\n").await?;
        polls.spawn(async move {
            let mut answer = [0; 256];
            let read = stream.read(&mut answer).await?;
            let answered = Instant::now();
            ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..read]));
            Ok(answered)
        });
    }
    agent.until_waiters(WAITS).await?;
    harness.rise().await?;
    let answered = polls.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let opened = agent.opened()?;
    let sample: Sample = answered.into_iter().map(|at| at.duration_since(opened)).collect();
    let how = "wall clock, from the agent's log line that its gate is open to the answer's arrival at one client that holds all";
    for (name, percent) in [("1,000 long polls answered, p50", 50), ("1,000 long polls answered, p99", 99)] {
        let value = sample.percentile(percent);
        let figure = table.figure(name, "ms", how).value(GATE, value);
        if percent == 99 {
            figure.target("≤ 100", Target::Missable(value <= AIM));
        }
    }
    Ok(())
}

/// Processes that wait for an agent that is closed.
async fn crowd(harness: &Harness, gate: &Gate, agent: &mut Agent, count: usize) -> Result<Vec<Process>> {
    said(&format!("agent: {count} waits"));
    harness.fall().await?;
    agent.until_closed().await?;
    evict_pages(gate.waiting())?;
    let wait = |_| Process::start(gate.wait_on_agent(agent.address()));
    let waits = (0..count).map(wait).collect::<Result<Vec<_>>>()?;
    agent.until_waiters(count).await?;
    sleep(SETTLED).await;
    Ok(waits)
}

/// What a thousand cost while they wait.
async fn hold(waits: &[Process], agent: &Agent, table: &mut Table) -> Result<()> {
    let resident = waits.iter().map(Process::memory).collect::<Result<Vec<_>>>()?;
    let resident = resident.into_iter().map(|memory| memory.resident).collect::<Sample>().median();
    let how =
        "/proc/PID/status, median of 1,000 processes that wait for their node's agent, the program read from disk";
    table
        .figure("resident memory while holding, by an agent", "MiB", how)
        .value(GATE, resident)
        .target("≤ 3.2, aim 2", Target::Kept(resident <= WAIT_LIMIT));

    let used = || waits.iter().map(Process::cpu).sum::<Result<Duration>>();
    let (began, waits_before, agent_before) = (Instant::now(), used()?, agent.process.cpu()?);
    sleep(WINDOW).await;
    let (waits_after, agent_after) = (used()?, agent.process.cpu()?);
    let window = began.elapsed().as_secs_f64();
    let percent = |used: Duration| used.as_secs_f64() / window * 100.0;
    let how =
        format!("/proc/PID/task/*/schedstat over {} s, in which each of 1,000 waits polls once", WINDOW.as_secs());
    // Lossless: a thousand.
    #[expect(clippy::cast_precision_loss)]
    let each = percent(waits_after.saturating_sub(waits_before)) / waits.len() as f64;
    table.figure("CPU while holding, by an agent", "% of a CPU", &how).value(GATE, each);
    let all = percent(agent_after.saturating_sub(agent_before));
    table.figure("CPU of an agent with 1,000 waits", "% of a CPU", &how).value(GATE, all);
    Ok(())
}

/// Lets the agent open, and returns how long after that each of them took to end.
async fn release(harness: &Harness, agent: &Agent, mut waits: Vec<Process>) -> Result<Sample> {
    waits.iter_mut().try_for_each(Process::check)?;
    harness.rise().await?;
    let ends = try_join_all(waits.into_iter().map(Process::succeeded)).await?;
    let opened = agent.opened()?;
    Ok(ends.into_iter().map(|end| end.duration_since(opened)).collect())
}

/// What it takes this machine to end such processes.
async fn kill(waits: Vec<Process>) -> Result<Sample> {
    let sent = Instant::now();
    waits.iter().try_for_each(Process::kill)?;
    let ends = try_join_all(waits.into_iter().map(Process::ended)).await?;
    Ok(ends.into_iter().map(|end| end.duration_since(sent)).collect())
}

/// What `kubectl wait` makes of the same.
pub async fn beside(kubectl: &Kubectl, table: &mut Table) -> Result<()> {
    let (fall, rise) = (async || kubectl.fall().await, async || kubectl.rise().await);
    let sample = latencies("kubectl wait", KUBECTL, || kubectl.wait(), fall, rise).await?;
    for (name, percent) in RELEASED {
        table.figure(name, "ms", "").value("kubectl wait", sample.percentile(percent));
    }
    Ok(())
}
