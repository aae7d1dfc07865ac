//! Network, mount and process namespaces of the suite's own, in which clusters with nodes run.
//!
//! Everything that a node does to a machine (interfaces, routes, nftables, mounts, processes) happens in there, and is
//! gone with it. What namespaces do not cover, cgroups and files, lies under one name and is removed by whoever made the
//! sandbox, after a failure and after SIGKILL too.

use std::{
    ffi::OsStr,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use super::{
    machine::ip,
    node::init,
    scratch::{PARENT, Scratch},
};
use crate::{image::kit_binary, parts::NodeParts};

/// Asks for less than all tests: `no-node` leaves out those that need root and namespaces.
const TESTS: &str = "LINKERD_GATE_TESTS";

/// Set within the sandbox, to what the process is there for: [`SUITE`], or a node's first process.
pub(super) const ROLE: &str = "LINKERD_GATE_TESTS_ROLE";

const SUITE: &str = "suite";

/// The bridge that stands for the network between machines.
pub(super) const BRIDGE: &str = "lg0";

/// The machine's end of that network: the control plane's address.
pub(super) const MACHINE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// Where a process finds itself after [`enter`].
#[derive(Debug)]
pub enum Entered {
    /// In the sandbox, or asked to list tests only, for which it needs none: go on.
    Inside,
    /// Not in it, and there is nothing more to do: the suite has run in there, or was not to be run, or cannot be.
    Outside(ExitCode),
}

/// Enters the sandbox. To be called first in `main` of a test program without the standard harness.
///
/// Outside, it checks that this is possible, makes sure that the cluster parts are built (which needs the network, and
/// the sandbox has none), lets `prepare` do what else is to be done before, runs this very program with the same
/// arguments inside, and comes back with its exit code.
///
/// ```no_run
/// use linkerd_gate_kit::cluster::sandbox::{self, Entered};
///
/// fn main() -> std::process::ExitCode {
///     match sandbox::enter(|| Ok(())) {
///         Entered::Inside => { /* run the tests */ std::process::ExitCode::SUCCESS }
///         Entered::Outside(code) => code,
///     }
/// }
/// ```
pub fn enter(prepare: impl FnOnce() -> Result<()>) -> Entered {
    let role = std::env::var(ROLE).ok();
    let outcome = match role.as_deref() {
        Some(SUITE) => make_network().map(|()| Entered::Inside),
        Some(_) => init::run().map(|()| Entered::Outside(ExitCode::SUCCESS)),
        None if std::env::args().any(|argument| argument == "--list") => Ok(Entered::Inside),
        None if std::env::var(TESTS).is_ok_and(|tests| tests == "no-node") => {
            eprintln!("node-size tests skipped, as {TESTS}=no-node asks");
            Ok(Entered::Outside(ExitCode::SUCCESS))
        }
        None => asked().and_then(|()| run_inside(prepare)).map(Entered::Outside),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("node-size tests cannot run: {error:#} ({TESTS}=no-node leaves them out)");
        Entered::Outside(ExitCode::FAILURE)
    })
}

/// Fails where something else is asked for than there is: a typing error must not decide which tests run.
fn asked() -> Result<()> {
    match std::env::var(TESTS) {
        Ok(tests) if !tests.is_empty() => bail!("{TESTS}={tests:?} is not known; accepted: no-node, or nothing"),
        _ => Ok(()),
    }
}

/// Fails unless this process is in the sandbox.
pub(super) fn check() -> Result<()> {
    match std::env::var(ROLE) {
        Ok(role) if role == SUITE => Ok(()),
        _ => bail!("not in the sandbox: main has to call cluster::sandbox::enter() first"),
    }
}

/// An address that no other server of this process has, on the machine's end of the nodes' network. Pods reach it, and so
/// does the API server.
pub fn new_address() -> Result<Ipv4Addr> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    check()?;
    // From 172.31.16.1 on, away from the machine's and the nodes' own.
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let address = Ipv4Addr::new(172, 31, 16 + high, low);
    ip(["address", "add", &format!("{address}/32"), "dev", BRIDGE])?;
    Ok(address)
}

/// The first things to do inside.
fn make_network() -> Result<()> {
    ip(["link", "set", "lo", "up"])?;
    ip(["link", "add", BRIDGE, "type", "bridge"]).context("this kernel has no network bridges")?;
    ip(["address", "add", &format!("{MACHINE}/16"), "dev", BRIDGE])?;
    ip(["link", "set", BRIDGE, "up"])
}

fn run_inside(prepare: impl FnOnce() -> Result<()>) -> Result<ExitCode> {
    if !cfg!(target_os = "linux") {
        bail!("they need Linux");
    }
    if !geteuid().is_root() {
        bail!("they need root, to make network, mount and process namespaces: try sudo -E");
    }
    let parts = NodeParts::find()?;
    try_namespaces()?;
    kit_binary("pause")?;
    prepare()?;
    let scratch = Scratch::new()?;
    let program = std::env::current_exe().context("cannot tell the path of this program")?;
    // The tests run programs by absolute path, but the daemons look for their own helpers.
    let path = parts_on_path(&parts)?;
    let status = in_namespaces(program.as_os_str())
        .args(std::env::args_os().skip(1))
        .env(ROLE, SUITE)
        .env(PARENT, scratch.path())
        .env("PATH", path)
        .status()
        .context("cannot start setpriv and unshare, of util-linux")?;
    Ok(match status.code().map(u8::try_from) {
        Some(Ok(code)) => ExitCode::from(code),
        _ => ExitCode::FAILURE,
    })
}

/// `program` in namespaces of its own, which end with this process.
fn in_namespaces(program: &OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--"])
        .arg(program);
    command
}

fn try_namespaces() -> Result<()> {
    let output = in_namespaces(OsStr::new("true")).stdin(Stdio::null()).output().context("cannot start setpriv")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("namespaces cannot be made here: {}", words.lines().last().unwrap_or("unshare does not say why"));
    }
    Ok(())
}

/// The `PATH` that daemons need: the shim beside containerd, then `runc`, `nft`, `ip` and what else administrators have.
fn parts_on_path(parts: &NodeParts) -> Result<std::ffi::OsString> {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let own = parts.containerd.parent().map(Path::to_path_buf);
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let directories = own.into_iter().chain(std::env::split_paths(&inherited)).chain(system);
    std::env::join_paths(directories).context("a directory of PATH has a colon in its name")
}
