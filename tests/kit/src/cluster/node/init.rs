//! The first process of a node: what a machine's own would do before and beside the daemons, and nothing else.

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub(in super::super) use linux::run;

/// Names the node's directory to its first process.
pub(super) const DIRECTORY: &str = "LINKERD_GATE_TESTS_NODE";

/// The file, in the node's directory, that says that everything is mounted.
pub(super) const READY: &str = "ready";

/// What a node sees as `/proc/sys/kernel/random/boot_id`.
pub(super) const BOOT_ID: &str = "boot_id";

/// Its `/var/log`: pods' logs, kept over a reboot.
pub(super) const LOG: &str = "log";

/// The node's directory, and where the node itself sees it: what is at the same place on every node, for DaemonSets.
pub(super) const KIT: &str = "kit";

/// Where libcni caches results, whatever its configuration says.
#[cfg(target_os = "linux")]
const CNI_CACHE: &str = "/var/lib/cni";

/// Elsewhere there are no such namespaces, and nothing gets as far as this.
#[cfg(not(target_os = "linux"))]
pub(in super::super) fn run() -> anyhow::Result<()> {
    anyhow::bail!("nodes need Linux")
}
