//! The machine's programs for network interfaces and the like.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;

/// Runs `ip` of iproute2.
pub(super) fn ip<I>(arguments: I) -> Result<()>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    run(Command::new("ip").args(arguments)).map(drop)
}

/// Runs `ip` in the network namespace of the process `pid`.
pub(super) fn ip_of<'a>(pid: Pid, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    run(Command::new("nsenter").args(["--target", &pid.to_string(), "--net", "--", "ip"]).args(arguments)).map(drop)
}

/// Runs a short command to its end and returns what it wrote; its own words are the error.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let shown = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    };
    let shown = shown();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}", words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where cgroups are: one hierarchy for all controllers in version 2, one below it for each in version 1.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Makes the cgroup `name`, and those above it, in every hierarchy.
pub(super) fn make_cgroups(name: &Path) -> Result<()> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.controllers").is_file() {
        return make_unified(root, name);
    }
    for hierarchy in fs::read_dir(root).with_context(|| format!("no cgroups in {CGROUPS}"))? {
        let path = hierarchy?.path();
        // `cpu` and the like are links to `cpu,cpuacct` on some machines.
        if path.is_dir() && path.join("cgroup.procs").is_file() {
            let cgroup = path.join(name);
            fs::create_dir_all(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        }
    }
    Ok(())
}

/// In version 2 a cgroup has the controllers that those above it pass on.
fn make_unified(root: &Path, name: &Path) -> Result<()> {
    let mut cgroup = root.to_path_buf();
    for part in name.components().map(Some).chain([None]) {
        for controller in fs::read_to_string(cgroup.join("cgroup.controllers"))?.split_whitespace() {
            // Some cannot be passed on everywhere; kubelet says which one it misses.
            let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        if let Some(part) = part {
            cgroup.push(part);
            fs::create_dir_all(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        }
    }
    Ok(())
}

/// Removes the cgroup `name` and those below it, from every hierarchy. Its processes have ended.
pub(super) fn remove_cgroups(name: &Path) {
    let hierarchies = Path::new(CGROUPS);
    let below = fs::read_dir(hierarchies).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in std::iter::once(hierarchies.to_path_buf()).chain(below) {
        remove_cgroup(&hierarchy.join(name));
    }
}

fn remove_cgroup(path: &Path) {
    // Files in a cgroup's directory are the kernel's and go with it.
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // What cannot be removed now is removed by the janitor of the whole directory.
    let _ = fs::remove_dir(path);
}
