//! From the instant that injector and identity answer again to the end of the process that waited for them.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use linkerd_gate_kit::standin::Fault;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::gate::{Gate, OnMissed};
use crate::linkerd::Linkerd;
use crate::peers::Peers;
use crate::process::Process;
use crate::said;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};

/// How many waits of linkerd-gate at once, and how often.
const BATCH: usize = 25;
const BATCHES: u32 = 4;

/// A peer says less about us, so it is asked less often.
const PEER_BATCHES: u32 = 2;

/// How long they wait before Linkerd is back: by then every pause between looks has grown to its longest.
const OUTAGE: Duration = Duration::from_secs(4);

/// Added to each batch's outage, so that its end falls elsewhere in the pauses between looks.
const SHIFT: Duration = Duration::from_millis(137);

/// In milliseconds.
const AIM: f64 = 1000.0;

/// How many times the polling peer's p99 ours may be. It looks every 500 ms as well, but believes one TCP connection;
/// two looks that agree, and the time between them, are what it is worth to us.
const SLACK: f64 = 4.0;

pub async fn measure(gate: &Gate, peers: &Peers, table: &mut Table) -> Result<()> {
    said(&format!("release: {} waits, in batches of {BATCH}", BATCHES as usize * BATCH));
    let linkerd = Linkerd::start().await?;
    let ours = latencies(
        BATCHES,
        BATCH,
        || gate.wait(&linkerd, OnMissed::Open),
        async || linkerd.suffer(Fault::Absent).await,
        async || linkerd.recover().await,
    )
    .await?;
    let mut of_peers = Vec::new();
    for peer in peers.iter() {
        said(&format!("release: {} beside it", peer.name()));
        let sample = latencies(
            PEER_BATCHES,
            peer.batch(),
            || peer.wait(),
            async || peer.fall().await,
            async || peer.rise().await,
        );
        of_peers.push((peer.name(), sample.await?));
    }

    let how = format!(
        "wall clock, from the instant before identity listens again to the process's end, {} processes, after {} s of outage; \
         peers: {PEER_BATCHES} batches",
        ours.len(),
        OUTAGE.as_secs()
    );
    for (name, percent) in [("release, p50", 50), ("release, p90", 90), ("release, p99", 99), ("release, max", 100)] {
        let figure = table.figure(name, "ms", &how).value(GATE, ours.percentile(percent));
        for (peer, sample) in &of_peers {
            figure.value(peer, sample.percentile(percent));
        }
        if percent == 99 {
            figure.target("≤ 1000", Target::Missable(ours.percentile(percent) <= AIM));
        }
    }
    if let Some((peer, sample)) = of_peers.iter().find(|(peer, _)| *peer == "initium") {
        let ratio = ours.percentile(99) / sample.percentile(99);
        let figure = table.figure("release, p99 as a multiple of a poller's", "×", &format!("the same, by {peer}'s"));
        figure.value(GATE, ratio).target(&format!("≤ {SLACK}"), Target::Kept(ratio <= SLACK));
    }
    Ok(())
}

async fn latencies(
    batches: u32,
    size: usize,
    wait: impl Fn() -> Command,
    fall: impl AsyncFn() -> Result<()>,
    rise: impl AsyncFn() -> Result<Instant>,
) -> Result<Sample> {
    let mut latencies = Vec::new();
    for batch in 0..batches {
        fall().await?;
        let mut waits = (0..size).map(|_| Process::start(wait())).collect::<Result<Vec<_>>>()?;
        sleep(OUTAGE + SHIFT * batch).await;
        waits.iter_mut().try_for_each(Process::check)?;
        let instant = rise().await?;
        let ends = try_join_all(waits.into_iter().map(Process::succeeded)).await?;
        latencies.extend(ends.into_iter().map(|end| end.duration_since(instant)));
    }
    Ok(latencies.into_iter().collect())
}
