//! What every meshed pod pays: the start of a `wait` that has nothing to wait for.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::gate::Gate;
use crate::process::Process;
use crate::said;
use crate::sample::Sample;
use crate::table::{GATE, Table};

const TIMES: usize = 50;

/// From the start of a process to its end, one after the other.
pub async fn pass(gate: &Gate) -> Result<Sample> {
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..TIMES {
        let started = Instant::now();
        let end = Process::start(gate.pass())?.succeeded().await?;
        times.push(end.duration_since(started));
    }
    Ok(times.into_iter().collect())
}

pub async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    said("starting: meshed pods");
    let sample = pass(gate).await?;
    let how = format!("wall clock from fork to the process's end, {TIMES} processes, one after the other");
    table.figure("a meshed pod's start, p50", "ms", &how).value(GATE, sample.median());
    table.figure("a meshed pod's start, max", "ms", &how).value(GATE, sample.max());
    Ok(())
}
