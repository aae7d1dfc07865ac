//! A thousand pods of one node wait without an agent: each looks for itself, by an address or by a name.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use linkerd_gate_kit::standin::Fault;
use tokio::time::sleep;

use crate::dns::{CoreDns, IDENTITY, INJECTOR};
use crate::gate::{Gate, OnMissed, bare};
use crate::linkerd::Linkerd;
use crate::release::latencies;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};

/// All in one batch.
const DIRECT: (u32, u32) = (1, 1000);

/// In milliseconds.
const DIRECT_AIM: f64 = 1500.0;

/// How long CoreDNS is watched while they are held.
const HELD: Duration = Duration::from_secs(10);

/// What CoreDNS did so far.
#[derive(Clone, Copy, Default)]
struct Load {
    /// Seconds of CPU time.
    cpu: f64,
    questions: f64,
}

/// As many without an agent, by addresses and by names.
pub async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    let linkerd = Linkerd::start().await?;
    let (fall, rise) = (async || linkerd.suffer(Fault::Absent).await, async || linkerd.recover().await);
    let wait = || gate.wait(&linkerd, OnMissed::Open);
    let sample = latencies("1,000 direct waits", DIRECT, wait, fall, rise).await?;
    let how = "as release, p50, but 1,000 processes at once, none of which asks an agent";
    tell_direct(table, ["1,000 direct waits released, p50", "1,000 direct waits released, p99"], how, &sample);
    let dns = match CoreDns::start().await {
        Ok(dns) => dns,
        Err(why) => {
            table.without("1,000 direct waits by name", &why);
            return Ok(());
        }
    };
    by_name(gate, &linkerd, &dns, table).await
}

fn tell_direct(table: &mut Table, names: [&str; 2], how: &str, sample: &Sample) {
    let p99 = sample.percentile(99);
    table.figure(names[0], "ms", how).value(GATE, sample.median());
    table.figure(names[1], "ms", how).value(GATE, p99).target("≤ 1500", Target::Missable(p99 <= DIRECT_AIM));
}

/// What a thousand direct waits take of a cluster's name server while they are held, and until they are released.
async fn by_name(gate: &Gate, linkerd: &Linkerd, dns: &CoreDns, table: &mut Table) -> Result<()> {
    let named = |name: &str, address: SocketAddr| format!("{name}:{}", address.port());
    let wait = || {
        let mut command = dns.command(gate.waiting());
        command.arg("wait");
        let mut command = bare(command, OnMissed::Open);
        command
            .env("LINKERD_GATE_INJECTOR_ADDRESS", named(INJECTOR, linkerd.injector.address()))
            .env("LINKERD_GATE_IDENTITY_ADDRESS", named(IDENTITY, linkerd.identity.address()));
        command
    };
    // The latter half of the outage and the release are looked at apart: a start is neither.
    let (before, after) = (Cell::new(Load::default()), Cell::new(Load::default()));
    let rise = async || {
        before.set(Load::of(dns).await?);
        sleep(HELD).await;
        after.set(Load::of(dns).await?);
        linkerd.recover().await
    };
    let fall = async || linkerd.suffer(Fault::Absent).await;
    let sample = latencies("1,000 direct waits by name", DIRECT, wait, fall, rise).await?;
    let released = Load::of(dns).await?.since(after.get());
    let held = after.get().since(before.get());
    let how = "the same, by the names of Linkerd's services, looked up at a CoreDNS that shares the machine";
    tell_direct(
        table,
        ["1,000 direct waits by name released, p50", "1,000 direct waits by name released, p99"],
        how,
        &sample,
    );
    let how = "coredns_dns_requests_total and schedstat of CoreDNS over 10 s in which 1,000 direct waits are held";
    let a_second = |value: f64| value / HELD.as_secs_f64();
    table.figure("1,000 direct waits held: questions a second", "", how).value(GATE, a_second(held.questions));
    table.figure("1,000 direct waits held: CPU of CoreDNS", "% of a CPU", how).value(GATE, a_second(held.cpu) * 100.0);
    let how = "the same, from the instant before Linkerd answers until all waits have ended";
    table.figure("1,000 direct waits released: questions", "", how).value(GATE, released.questions);
    table.figure("1,000 direct waits released: CPU of CoreDNS", "s", how).value(GATE, released.cpu);
    Ok(())
}

// === impl Load ===

impl Load {
    async fn of(dns: &CoreDns) -> Result<Self> {
        Ok(Self { cpu: dns.cpu()?.as_secs_f64(), questions: dns.questions().await? })
    }

    fn since(self, earlier: Self) -> Self {
        Self { cpu: self.cpu - earlier.cpu, questions: self.questions - earlier.questions }
    }
}
