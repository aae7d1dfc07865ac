//! From SIGTERM to the process's end, whatever is in flight.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use linkerd_gate_kit::cluster::LoopbackAddress;
use linkerd_gate_kit::standin::Fault;
use nix::unistd::geteuid;
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::time::sleep;

use crate::gate::{Gate, OnMissed, bare};
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

/// A name server that hears every question and answers none, and a `resolv.conf` that names it.
struct Deaf {
    _address: LoopbackAddress,
    socket: UdpSocket,
    resolv_conf: tempfile::NamedTempFile,
}

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
    match Deaf::listen().await {
        Ok(deaf) => {
            let sample = ends(|| deaf.hears(gate)).await?;
            let mut question = [0; 512];
            let asked = deaf.socket.try_recv(&mut question).context("no DNS query was sent: this measured nothing")?;
            ensure!(asked > 0, "an empty DNS query");
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

// === impl Deaf ===

impl Deaf {
    async fn listen() -> Result<Self> {
        ensure!(geteuid().is_root(), "a resolv.conf of its own takes a mount namespace, hence root");
        let address = LoopbackAddress::claim()?;
        let socket = UdpSocket::bind((address.ip(), 53)).await?;
        let mut resolv_conf = tempfile::NamedTempFile::new()?;
        writeln!(resolv_conf, "nameserver {}\nsearch shop.svc.cluster.local svc.cluster.local", address.ip())?;
        let deaf = Self { _address: address, socket, resolv_conf };
        let tried = deaf.namespace(Path::new("/bin/true")).status().await.context("cannot run unshare")?;
        ensure!(tried.success(), "no mount namespace of one's own: unshare ended with {tried}");
        Ok(deaf)
    }

    /// A wait that asks for Linkerd by its names. Each step becomes the next by exec, so the process stays the same.
    fn hears(&self, gate: &Gate) -> Command {
        let mut command = self.namespace(gate.binary());
        command.arg("wait");
        bare(command, OnMissed::Hold)
    }

    fn namespace(&self, program: &Path) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        command
            .args(["--mount", "/bin/sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""])
            .arg(self.resolv_conf.path())
            .arg(program);
        command
    }
}
