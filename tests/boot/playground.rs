//! `make playground`: this suite's cluster of two nodes for a person, with the default install, a small shop, and a shell. What cannot be
//! typed elsewhere is a command of the playground: a power cut, a reboot, an injector that stops, an API server that is killed.
//!
//! The shell's commands are scripts. Each writes its words into one pipe, and prints what comes out of another.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use linkerd_gate_kit::cluster::{BOOT_ID_FILE, ClusterOptions, Node};
use linkerd_gate_kit::parts::find_helm;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::spawn_blocking;

use super::admission::INJECTOR;
use super::harness::{Harness, LINKERD, images};
use super::release::Admission;
use super::workloads;

/// Says that a person wants the shell: whatever its value is.
pub const VARIABLE: &str = "LINKERD_GATE_PLAYGROUND";

/// The control plane is back for so long before the first node boots: the order in which pods start outside the mesh.
const ALONE: Duration = Duration::from_secs(10);

/// The commands of the playground: a name, its arguments, and what it does.
const COMMANDS: [(&str, &str, &str); 5] = [
    ("cut-power", "", "Cut the power of everything. The control plane is back first, the nodes 10 s later"),
    ("reboot", "NODE", "Switch one node off and on"),
    ("injector", "off|on", "Stop Linkerd's injectors, or start them again"),
    ("kill-api-server", "", "Kill the API server and start it again"),
    ("playground", "", "Print this list"),
];

/// Opens the playground for a person, until the shell ends.
pub async fn open() -> Result<()> {
    let options = ClusterOptions { nodes: 2, ..ClusterOptions::default() };
    eprintln!("playground: starting two nodes, Linkerd's stand-ins, linkerd-gate and a shop (about a minute)");
    let harness = Harness::set(options, |linkerd| linkerd).await?;
    harness.upgrade(Admission::Auto).await?;
    harness.until_all_nodes_are_open().await?;
    workloads::open(&harness, true).await?;
    eprintln!("{}", help());
    let shell = ["bash", "--noprofile", "--norc", "-i"];
    let ended = session(&harness, &shell).await?;
    eprintln!("playground: the shell ended with {ended}; removing everything");
    Ok(())
}

fn help() -> String {
    let commands = COMMANDS.map(|(name, arguments, what)| format!("  {:<22} {what}\n", format!("{name} {arguments}")));
    format!(
        "The default install of linkerd-gate, and a shop in namespace shop. kubectl, helm and linkerd-gate are on your path.\n\n\
         Commands of the playground:\n{}\n\
         Try:\n  linkerd-gate check\n  injector off && kubectl rollout restart deployment/web -n shop && kubectl get pods -n shop\n  \
         injector on && kubectl get pods -n shop --watch\n  cut-power && sleep 30 && linkerd-gate report --since 5m\n\n\
         The nodes share one kernel: a `helm install` of your own needs --set agent.bootIdFile={BOOT_ID_FILE}\n\n\
         `exit` removes everything.",
        commands.concat()
    )
}

/// Runs a program with everything that the shell has, beside what carries its commands out. Returns how it ended.
pub async fn session(harness: &Harness, program: &[&str]) -> Result<std::process::ExitStatus> {
    let place = Place::make(harness)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .env("PATH", format!("{}:{path}", place.directory.path().display()))
        .env("KUBECONFIG", harness.cluster.kubeconfig())
        .env("HOME", place.directory.path())
        .env("PS1", "playground$ ")
        .kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program[0]))?;
    loop {
        let (ask, answer) = (place.ask.clone(), place.answer.clone());
        tokio::select! {
            ended = child.wait() => {
                // A writer ends the read that waits for the next command.
                drop(fs::OpenOptions::new().read(true).write(true).open(&place.ask)?);
                return Ok(ended?);
            }
            words = spawn_blocking(move || fs::read_to_string(ask)) => {
                let words = words??;
                let said = match carry_out(harness, words.trim()).await {
                    Ok(said) => said,
                    Err(error) => format!("not done: {error:#}"),
                };
                deliver(&answer, &(said + "\n")).await?;
            }
        }
    }
}

/// Writes the answer into its pipe, once the script that asked opens it; not at all where a person has interrupted that.
async fn deliver(pipe: &Path, answer: &str) -> Result<()> {
    for _ in 0..250 {
        // Without a reader this fails instead of waiting for one.
        let opened = fs::OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(pipe);
        match opened {
            Ok(mut pipe) => return Ok(pipe.write_all(answer.as_bytes())?),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(())
}

/// Does what a command of the playground says, and tells what was done.
async fn carry_out(harness: &Harness, words: &str) -> Result<String> {
    let node = |name: &str| -> Result<&Node> {
        let nodes = harness.cluster.nodes();
        let names = || nodes.iter().map(Node::name).collect::<Vec<_>>().join(", ");
        nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("no node {name:?}; there are {}", names()))
    };
    match words.split_whitespace().collect::<Vec<_>>()[..] {
        ["playground"] => Ok(help()),
        ["cut-power"] => {
            harness.cluster.cut_power().await?;
            harness.cluster.power_on_control_plane().await?;
            tokio::time::sleep(ALONE).await;
            for node in harness.cluster.nodes() {
                harness.cluster.power_on(node).await?;
            }
            Ok(format!(
                "all power was lost; the control plane is back, and the nodes followed {} s later",
                ALONE.as_secs()
            ))
        }
        ["reboot", name] => {
            harness.cluster.reboot(node(name)?).await?;
            Ok(format!("{name} was off, and is Ready again in another boot"))
        }
        ["injector", "off"] => {
            harness.scale(LINKERD, INJECTOR, 0).await?;
            harness.until_not_injected().await?;
            Ok("no injector runs: a pod that is created now is not injected".to_owned())
        }
        ["injector", "on"] => {
            harness.scale(LINKERD, INJECTOR, 1).await?;
            harness.until_linkerd_is_ready().await?;
            Ok("an injector is ready".to_owned())
        }
        ["kill-api-server"] => {
            harness.cluster.kill_api_server()?;
            harness.cluster.start_api_server().await?;
            Ok("the API server was killed, and is ready again".to_owned())
        }
        _ => bail!("{words:?} is not a command of the playground; `playground` lists them"),
    }
}

/// The directory that comes first on the shell's path, and the pipes.
struct Place {
    directory: TempDir,
    ask: PathBuf,
    answer: PathBuf,
}

// === impl Place ===

impl Place {
    fn make(harness: &Harness) -> Result<Self> {
        let directory = TempDir::new()?;
        let at = |name: &str| directory.path().join(name);
        let (ask, answer) = (at(".ask"), at(".answer"));
        for pipe in [&ask, &answer] {
            mkfifo(pipe, Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        symlink(harness.cluster.kubectl(), at("kubectl"))?;
        symlink(find_helm()?, at("helm"))?;
        let program = images::program()?;
        ensure!(program.is_file(), "{} is not built", program.display());
        symlink(program, at("linkerd-gate"))?;
        for (name, ..) in COMMANDS {
            let script = format!("#!/bin/sh\necho {name} \"$@\" > '{}' && cat '{}'\n", ask.display(), answer.display());
            write_script(&at(name), &script)?;
        }
        Ok(Self { directory, ask, answer })
    }
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
