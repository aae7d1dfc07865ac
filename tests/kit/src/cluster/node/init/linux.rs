//! Mounts, and the reaping of orphans.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};

use super::{BOOT_ID, DIRECTORY, LOG, READY};
use crate::cluster::sandbox::CNI_CACHE;

/// Mounts what makes this namespace a machine's, then reaps orphans until it is killed.
pub(in super::super::super) fn run() -> Result<()> {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).context("a node without a directory")?);
    mount_all(&directory)?;
    // It is this node's: the namespace is.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward packets")?;
    std::fs::write(directory.join(READY), "")?;
    reap()
}

fn mount_all(directory: &Path) -> Result<()> {
    fresh_sysfs(&directory.join("cgroup"))?;
    // What a reboot forgets: sockets, network namespaces, leases of addresses.
    tmpfs("/run")?;
    std::fs::create_dir_all("/run/lock")?;
    tmpfs(CNI_CACHE)?;
    bind(&directory.join(LOG), Path::new("/var/log"), MsFlags::empty())?;
    bind(&directory.join(BOOT_ID), Path::new("/proc/sys/kernel/random/boot_id"), MsFlags::empty())
}

/// Shows this network namespace's interfaces under /sys; the one that is mounted shows those of where it was mounted.
/// The cgroups, which are mounted below, are carried over by way of the directory `aside`.
fn fresh_sysfs(aside: &Path) -> Result<()> {
    let cgroups = Path::new("/sys/fs/cgroup");
    std::fs::create_dir_all(aside)?;
    bind(cgroups, aside, MsFlags::MS_REC)?;
    let none: Option<&str> = None;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("cannot mount sysfs")?;
    bind(aside, cgroups, MsFlags::MS_REC)?;
    umount2(aside, MntFlags::MNT_DETACH).context("cannot unmount the cgroups' other place")
}

fn tmpfs(path: &str) -> Result<()> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .with_context(|| format!("cannot mount a tmpfs on {path}"))
}

fn bind(source: &Path, target: &Path, flags: MsFlags) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND | flags, none)
        .with_context(|| format!("cannot mount {} on {}", source.display(), target.display()))
}

/// Waits for whatever process of the node has lost its parent, for ever.
fn reap() -> Result<()> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(_) => {}
            }
        }
        children.wait()?;
    }
}
