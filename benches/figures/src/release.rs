//! From the instant that injector and identity answer again to the end of the process that waited for them.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use linkerd_gate_kit::standin::Fault;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::gate::{Gate, OnMissed};
use crate::linkerd::Linkerd;
use crate::peers::{self, Peer};
use crate::process::Process;
use crate::said;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};

/// How often, and how many waits of linkerd-gate at once.
const BATCHES: (u32, u32) = (4, 25);

/// Over how long the starts of a batch are spread, so that the waits do not look in step.
const SPREAD: Duration = Duration::from_millis(700);

/// How long they wait before Linkerd is back: by then every pause between looks has grown to its longest.
const OUTAGE: Duration = Duration::from_secs(4);

const P99: &str = "release, p99";

/// In milliseconds.
const AIM: f64 = 1000.0;

/// How many times the polling peer's p99 ours may be. It looks every 500 ms as well, but believes one TCP connection;
/// two looks that agree, and the time between them, are what it is worth to us.
const SLACK: f64 = 4.0;

pub async fn measure(gate: Option<&Gate>, peers: &[Peer], table: &mut Table) -> Result<()> {
    if let Some(gate) = gate {
        let linkerd = Linkerd::start().await?;
        let wait = || gate.wait(&linkerd, OnMissed::Open);
        let sample = latencies(
            GATE,
            BATCHES,
            wait,
            async || linkerd.suffer(Fault::Absent).await,
            async || linkerd.recover().await,
        );
        let sample = sample.await?;
        tell(table, GATE, &sample);
        let p99 = sample.percentile(99);
        table.figure(P99, "ms", "").target("≤ 1000", Target::Missable(p99 <= AIM));
    }
    for peer in peers {
        let wait = || peer.wait();
        let sample =
            latencies(peer.name(), peer.batches(), wait, async || peer.fall().await, async || peer.rise().await);
        tell(table, peer.name(), &sample.await?);
    }
    Ok(())
}

/// Ours, as a multiple of a program's that looks again and again as well.
pub fn compare(poller: &Peer, table: &mut Table) {
    let p99 = table.figure(P99, "ms", "");
    if let (Some(ours), Some(theirs)) = (p99.of(GATE), p99.of(poller.name())) {
        let ratio = ours / theirs;
        let figure = table.figure("release, p99 by a poller's", "×", &format!("the above, by {}'s", poller.name()));
        figure.value(GATE, ratio).target(&format!("≤ {SLACK}"), Target::Kept(ratio <= SLACK));
    }
}

fn tell(table: &mut Table, program: &'static str, sample: &Sample) {
    let how = format!(
        "wall clock, from the instant before identity listens again to the process's end, after {} s of outage; {} \
         processes in {} batches, kubectl {} in {}",
        OUTAGE.as_secs(),
        BATCHES.0 * BATCHES.1,
        BATCHES.0,
        peers::KUBECTL_BATCHES.0 * peers::KUBECTL_BATCHES.1,
        peers::KUBECTL_BATCHES.0,
    );
    for (name, percent) in [("release, p50", 50), ("release, p90", 90), (P99, 99), ("release, max", 100)] {
        table.figure(name, "ms", &how).value(program, sample.percentile(percent));
    }
}

/// How long `batches` times `size` processes took to end after what they wait for rose.
pub async fn latencies(
    program: &str,
    (batches, size): (u32, u32),
    wait: impl Fn() -> Command,
    fall: impl AsyncFn() -> Result<()>,
    rise: impl AsyncFn() -> Result<Instant>,
) -> Result<Sample> {
    said(&format!("release: {program}, {batches} times {size}"));
    let mut latencies = Vec::new();
    for _ in 0..batches {
        fall().await?;
        let mut waits = Vec::new();
        for _ in 0..size {
            waits.push(Process::start(wait())?);
            sleep(SPREAD / size).await;
        }
        sleep(OUTAGE).await;
        waits.iter_mut().try_for_each(Process::check)?;
        let instant = rise().await?;
        let ends = try_join_all(waits.into_iter().map(Process::succeeded)).await?;
        latencies.extend(ends.into_iter().map(|end| end.duration_since(instant)));
    }
    Ok(latencies.into_iter().collect())
}
