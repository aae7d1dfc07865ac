//! `make bench`: linkerd-gate's figures, all in one run, beside other programs that wait.
//!
//! What is measured are processes of the static release binaries as they run in a pod: what the kernel says of them, and
//! when they end. Nothing is measured from inside. Linkerd's parts are the stand-ins of the test kit, in this process.
//!
//! It fails only on what does not depend on how busy a machine is: sizes, memory, and latencies as ratios within one run.

mod agents;
mod check;
mod crowd;
mod direct;
mod dns;
mod fleet;
mod gate;
mod growth;
mod guard;
mod hold;
mod holding;
mod linkerd;
mod memory;
mod page;
mod peers;
mod process;
mod release;
mod repair;
mod sample;
mod starting;
mod stopping;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use linkerd_gate_kit::image::static_binaries;

use crate::agents::Harness;
use crate::gate::Gate;
use crate::peers::{Initium, Kubectl, Peer};
use crate::table::{GATE, Table};

/// Measures linkerd-gate: size, memory, CPU and latencies, beside other programs that wait.
#[derive(Parser)]
#[command(name = "figures")]
struct Arguments {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Measure linkerd-gate alone: no other program beside it.
    #[arg(long)]
    alone: bool,
    /// Measure in three minutes what CI compares: size, memory and CPU while held, and latencies by one another.
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// Measure this only.
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Vec<What>,
    /// The full program to measure, with gate-wait beside it [default: the static release binaries, built now].
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Write the table into this page, between its two marks, and pictures of what grows with a cluster into `pictures` beside it.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// What needs neither root nor a part of Kubernetes, and is judged by ratios within the run.
const QUICK: [What; 4] = [What::Holding, What::Release, What::Starting, What::Stopping];

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Resident memory and CPU while a pod is held.
    Holding,
    /// From the instant Linkerd answers to the process's end.
    Release,
    /// What a meshed pod's start costs.
    Starting,
    /// From SIGTERM to the process's end.
    Stopping,
    /// An agent's memory, and how soon it releases a thousand waits.
    Agent,
    /// Up to a thousand agents at one API server: how soon their nodes are open, and at how many requests.
    Fleet,
    /// What the guard costs a pod's creation, beside the injector's own call.
    Guard,
    /// What hold costs a pod's creation, beside policies that do nothing.
    Hold,
    /// A controller's memory and CPU in clusters of up to 150,000 pods, and what `check` takes there.
    Memory,
    /// What a controller costs a cluster of ten thousand pods.
    Repair,
    /// How soon held pods and refused owners are back, beside pods that are created at once.
    Recovery,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let binary = if let Some(binary) = arguments.binary {
        binary
    } else {
        said("building the static release binaries (about 4 minutes when nothing of them is cached)");
        let [full, _waiting] = static_binaries("linkerd-gate", ["linkerd-gate", "gate-wait"], "release")?;
        full
    };
    let gate = Gate::new(binary);
    let only = if arguments.quick { QUICK.to_vec() } else { arguments.only };
    let alone = arguments.alone || arguments.quick;
    let wanted = |what| only.is_empty() || only.contains(&what);
    let mut table = Table::new();
    table.size(GATE, gate.waiting())?;
    table.full_size(gate.full())?;

    // Beside it what costs a machine as little as itself; a control plane would warm nobody's caches but its own.
    let mut light = Vec::new();
    if !alone {
        match Initium::find().await {
            Ok(initium) => light.push(Peer::Initium(initium)),
            Err(why) => table.without("initium", &why),
        }
    }
    measure(Some(&gate), &light, wanted, &mut table).await?;
    if wanted(What::Release) {
        for peer in &light {
            release::compare(peer, &mut table);
        }
    }
    if wanted(What::Stopping) {
        stopping::measure(&gate, &mut table).await?;
    }
    if wanted(What::Starting) {
        starting::measure(&gate, &mut table).await?;
    }
    if wanted(What::Agent) {
        match Harness::set().await {
            Ok(stage) => crowd::measure(stage, &gate, &mut table).await?,
            Err(why) => table.without("an agent", &why),
        }
    }
    if wanted(What::Fleet) {
        match fleet::measure(&gate, &mut table).await {
            Ok(()) => {}
            Err(why) => table.without("a fleet of agents", &why),
        }
    }
    if wanted(What::Guard) {
        match guard::Harness::set().await {
            Ok(stage) => guard::measure(&stage, &mut table).await?,
            Err(why) => table.without("the guard", &why),
        }
    }
    if wanted(What::Hold) {
        match guard::Harness::set().await {
            Ok(stage) => hold::measure(&stage, &mut table).await?,
            Err(why) => table.without("hold", &why),
        }
    }
    if wanted(What::Memory) {
        memory::measure(&gate, &mut table).await?;
        check::measure(&gate, &mut table).await?;
    }
    if wanted(What::Repair) {
        match repair::measure(&gate, &mut table).await {
            Ok(()) => {}
            Err(why) => table.without("a controller", &why),
        }
    }
    if wanted(What::Recovery) {
        match repair::recovery(&gate, &mut table).await {
            Ok(()) => {}
            Err(why) => table.without("recovery", &why),
        }
    }
    if !alone && [What::Holding, What::Release, What::Agent].into_iter().any(wanted) {
        match Kubectl::find().await {
            Ok(kubectl) => {
                if wanted(What::Agent) {
                    crowd::beside(&kubectl, &mut table).await?;
                }
                measure(None, &[Peer::Kubectl(Box::new(kubectl))], wanted, &mut table).await?;
            }
            Err(why) => table.without("kubectl wait", &why),
        }
    }

    if let Some(page) = &arguments.page {
        page::write(page, &table)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        println!("{table}");
    }
    Ok(if table.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is measured of several programs in the same way.
async fn measure(gate: Option<&Gate>, peers: &[Peer], wanted: impl Fn(What) -> bool, table: &mut Table) -> Result<()> {
    for peer in peers {
        table.size(peer.name(), peer.binary())?;
    }
    if wanted(What::Holding) {
        holding::measure(gate, peers, table).await?;
    }
    if wanted(What::Release) {
        release::measure(gate, peers, table).await?;
    }
    Ok(())
}

/// What goes on: a run takes minutes, and a person watches.
fn said(what: &str) {
    eprintln!("bench: {what}");
}
