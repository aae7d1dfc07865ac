//! From SIGTERM to the process's end, whatever is in flight.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use linkerd_gate_kit::standin::Fault;
use tokio::process::Command;
use tokio::time::sleep;

use crate::dns::{Manner, NameServer};
use crate::gate::{Gate, OnMissed};
use crate::linkerd::Linkerd;
use crate::process::Process;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};
use crate::{said, starting};

/// How many processes in each situation, each signalled at a moment of its own.
const POINTS: u32 = 25;

/// The first of these moments, after a process's start, and how far the last is from it: every limit of a look (3 s) has
/// fired by then.
const FIRST: Duration = Duration::from_millis(30);
const SPREAD: Duration = Duration::from_millis(3500);

/// In milliseconds.
const AIM: f64 = 100.0;

/// How many times a whole life of a process without anything to wait for its end may take.
const SLACK: f64 = 50.0;

pub async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    let linkerd = Linkerd::start().await?;
    let mut worst: f64 = 0.0;
    for (name, fault) in [
        ("SIGTERM, both refuse, max", Some(Fault::Absent)),
        ("SIGTERM, TLS and HTTP/2 handshakes in flight, max", Some(Fault::Hang)),
        ("SIGTERM, requests in flight, max", Some(Fault::HangAfterHandshake)),
        ("SIGTERM, pod to be replaced, max", None),
    ] {
        said(name);
        match fault {
            Some(fault) => linkerd.suffer(fault).await?,
            None => drop(linkerd.recover().await?),
        }
        let sample = ends(|| gate.wait(&linkerd, OnMissed::Hold)).await?;
        worst = worst.max(tell(table, name, &sample));
    }

    let name = "SIGTERM, DNS queries in flight, max";
    said(name);
    match NameServer::start(Manner::Deaf).await {
        Ok(server) => {
            let sample = ends(|| server.wait(gate, OnMissed::Hold)).await?;
            ensure!(server.questions() > 0, "no DNS query was sent: this measured nothing");
            worst = worst.max(tell(table, name, &sample));
        }
        Err(why) => table.without(name, &why),
    }

    let ratio = worst / starting::pass(gate).await?.median();
    let how = "the greatest of the above, by the p50 of a meshed pod's start";
    let figure = table.figure("SIGTERM, as a multiple of a start", "×", how).value(GATE, ratio);
    figure.target(&format!("≤ {SLACK}"), Target::Kept(ratio <= SLACK));
    Ok(())
}

/// Starts one process for each moment, and signals each at its own.
async fn ends(wait: impl Fn() -> Command) -> Result<Sample> {
    let ends = (0..POINTS).map(|point| {
        let process = Process::start(wait());
        async move {
            sleep(FIRST + SPREAD * point / (POINTS - 1)).await;
            process?.terminate().await
        }
    });
    Ok(try_join_all(ends).await?.into_iter().collect())
}

fn tell(table: &mut Table, name: &str, sample: &Sample) -> f64 {
    let how = format!(
        "wall clock from kill(2) to the process's end, {POINTS} processes, at as many moments of {SPREAD:?} that \
         begin {FIRST:?} after their start"
    );
    let max = sample.max();
    table.figure(name, "ms", &how).value(GATE, max).target("≤ 100", Target::Missable(max <= AIM));
    max
}
