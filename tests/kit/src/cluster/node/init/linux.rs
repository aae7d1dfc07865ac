//! Mounts, and the reaping of orphans.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};

use super::{super::NODE_DIRECTORY, BOOT_ID, CNI_CACHE, DIRECTORY, KIT, LOG, READY};

/// Mounts what makes this namespace a machine's, then reaps orphans until it is killed.
pub(in super::super::super) fn run() -> Result<()> {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).context("a node without a directory")?);
    mount_all(&directory)?;
    // It is this node's: the namespace is.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward packets")?;
    fs::write(directory.join(READY), "")?;
    reap()
}

fn mount_all(directory: &Path) -> Result<()> {
    fresh_sysfs(&directory.join("cgroup"))?;
    // What a reboot forgets: sockets, network namespaces, leases of addresses.
    tmpfs(Path::new("/run"))?;
    fs::create_dir("/run/lock")?;
    fs::create_dir(NODE_DIRECTORY)?;
    bind(&directory.join(KIT), Path::new(NODE_DIRECTORY), MsFlags::empty())?;
    if !Path::new(CNI_CACHE).is_dir() {
        make_writable(Path::new(CNI_CACHE).parent().unwrap_or(Path::new("/")), &directory.join("aside"))?;
        fs::create_dir(CNI_CACHE)?;
    }
    tmpfs(Path::new(CNI_CACHE))?;
    bind(&directory.join(LOG), Path::new("/var/log"), MsFlags::empty())?;
    bind(&directory.join(BOOT_ID), Path::new("/proc/sys/kernel/random/boot_id"), MsFlags::empty())
}

/// Shows this network namespace's interfaces under /sys; the one that is mounted shows those of where it was mounted.
/// The cgroups, which are mounted below, are carried over by way of the directory `aside`.
fn fresh_sysfs(aside: &Path) -> Result<()> {
    let cgroups = Path::new("/sys/fs/cgroup");
    fs::create_dir_all(aside)?;
    bind(cgroups, aside, MsFlags::MS_REC)?;
    let none: Option<&str> = None;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("cannot mount sysfs")?;
    bind(aside, cgroups, MsFlags::MS_REC)?;
    umount2(aside, MntFlags::MNT_DETACH).context("cannot unmount the cgroups' other place")
}

/// Puts a directory of this namespace's own in the place of `directory`, with everything that is there.
///
/// To mount something on what does not exist, one would have to make it on the machine, for all to see; and whoever
/// removed it there later would unmount it here.
fn make_writable(directory: &Path, aside: &Path) -> Result<()> {
    fs::create_dir_all(aside)?;
    bind(directory, aside, MsFlags::MS_REC)?;
    tmpfs(directory)?;
    for entry in fs::read_dir(aside)? {
        let (entry, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let here = directory.join(entry.file_name().unwrap_or_default());
        if kind.is_symlink() {
            symlink(fs::read_link(&entry)?, &here)?;
            continue;
        }
        if kind.is_dir() { fs::create_dir(&here) } else { fs::write(&here, "") }?;
        bind(&entry, &here, MsFlags::MS_REC)?;
    }
    umount2(aside, MntFlags::MNT_DETACH).context("cannot unmount the other place")
}

fn tmpfs(path: &Path) -> Result<()> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .with_context(|| format!("cannot mount a tmpfs on {}", path.display()))
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
