//! Plays the same cluster boot twice, without and with linkerd-gate, and draws what happened.
//!
//! No cluster, no network, no container engine. **Real**: the process `linkerd-gate controller` of the program that you just
//! built. It lists and watches, proves injection by dry-run pods, decides for itself, and deletes the held pods. **Played by this
//! process**:
//!
//! - Linkerd's injector and identity, by the test kit's stand-ins, on loopback;
//! - an API server that keeps objects in memory. It calls the injector over HTTPS and, `failurePolicy: Ignore`, admits the pod as
//!   it is when the call fails. In the second boot it also holds the pod, by the same rules as the hold policy;
//! - the owners, which create a pod whenever theirs is deleted, and a kubelet, which starts a pod that is not held.
//!
//! ```text
//! cluster-boot [LINKERD_GATE_BINARY] [PICTURE.svg]
//! ```

mod admission;
mod boot;
mod controller;
mod kubelet;
mod narrator;
mod picture;
mod story;
mod timeline;

use crate::{
    story::Variant,
    timeline::{Timeline, table},
};
use anyhow::{Context as _, Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster-boot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let program = gate_program(arguments.next())?;
    let picture = arguments.next().map_or_else(default_picture, Ok)?;

    println!("The same boot twice, about {} s each.", story::END.as_secs());
    println!("Real: the process {} controller. Played by this program: everything else.", program.display());
    println!("{}", story::SCALE);
    let mut timelines = Vec::new();
    for variant in [Variant::WithoutGate, Variant::WithGate] {
        println!("\n{}", variant.heading());
        timelines.push(boot::play(variant, &program).await?);
    }
    let [without, with] = &timelines[..] else { bail!("two boots, two timelines") };

    let (shown, _, _) = story::WORKLOADS[0];
    println!("\nWhat the controller logged, word for word, without the lines of workloads other than {shown}:");
    let one_or_all = |line: &&String| line.contains(&format!(" {shown}-")) || !line.contains(" owner=");
    for line in with.logged.iter().filter(one_or_all) {
        println!("  | {line}");
    }
    println!("\n{}", table(without, with));
    std::fs::write(&picture, picture::draw(without, with)).with_context(|| picture.display().to_string())?;
    println!("Both boots as a picture: {}", picture.display());
    check(without, with)
}

/// What the demo claims, checked against what it saw.
fn check(without: &Timeline, with: &Timeline) -> Result<()> {
    let (outside, gated) = (without.started_outside(), with.started_outside());
    if gated != 0 {
        bail!("{gated} pods started outside the mesh although linkerd-gate was installed");
    }
    if with.last_early_pod_inside().is_none() {
        bail!("not every pod that was held ended up in the mesh");
    }
    if outside == 0 {
        bail!("no pod started outside the mesh without the gate: there was nothing to show");
    }
    Ok(())
}

/// The binary under demonstration: as an argument, in a variable, or beside this program.
fn gate_program(argument: Option<PathBuf>) -> Result<PathBuf> {
    let beside = || env::current_exe().ok().map(|program| program.with_file_name("linkerd-gate"));
    let program = argument.or_else(|| env::var_os("LINKERD_GATE_BINARY").map(PathBuf::from)).or_else(beside);
    match program {
        Some(program) if program.is_file() => Ok(program),
        Some(program) => bail!("{} is not there; build it: cargo build --bin linkerd-gate", program.display()),
        None => bail!("say which linkerd-gate to run: cluster-boot PATH"),
    }
}

/// `target/boot.svg`, found from this program, which cargo puts two levels deeper at least.
fn default_picture() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let target = program.ancestors().find(|directory| directory.file_name().is_some_and(|name| name == "target"));
    Ok(target.unwrap_or(Path::new(".")).join("boot.svg"))
}
