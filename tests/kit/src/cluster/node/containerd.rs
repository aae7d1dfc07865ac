//! A node's containerd: its configuration, and what it says is there.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::machine::run;
use crate::parts::NodeParts;

/// The image of the container that holds a pod's network. With a registry's name, so that nothing completes it to
/// another one; with a tag, so that nobody tries to pull it.
pub(super) const PAUSE_IMAGE: &str = "kit.test/pause:1";

/// The network plugins' configuration, in the node's directory.
pub(super) const NETWORKS: &str = "kit/net.d";

/// The same as it is to be, beside it.
const NETWORK: &str = "kit/pods.conflist";

/// A container as containerd knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Container {
    /// Its identifier.
    pub id: String,
    /// The image that it was made from.
    pub image: String,
    /// The namespace of its pod.
    pub namespace: String,
    /// The name of its pod.
    pub pod: String,
    /// Its name in its pod.
    pub name: String,
    /// Whether a process was started in it: `Some` of containerd's word for its state (`RUNNING`, `STOPPED`), `None` if
    /// it was created only, or has been stopped and cleaned up.
    pub task: Option<String>,
}

/// Something that containerd reported of a container, whatever has become of it since.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ContainerEvent {
    /// It was created. Nothing runs in it yet.
    Created {
        /// Its identifier.
        id: String,
        /// The image that it was made from, with its registry: `docker.io/library/app:1` for `app:1`.
        image: String,
    },
    /// Its program was started.
    Started {
        /// Its identifier.
        id: String,
    },
    /// Its program ended, or was killed.
    Ended {
        /// Its identifier.
        id: String,
        /// 137 after SIGKILL.
        exit_code: u64,
    },
}

/// How to ask a containerd.
#[derive(Clone, Debug)]
pub(super) struct Client {
    ctr: PathBuf,
    socket: PathBuf,
    snapshotter: &'static str,
}

// === impl Client ===

impl Client {
    pub(super) fn new(parts: &NodeParts, directory: &Path) -> Self {
        Self { ctr: parts.ctr.clone(), socket: socket(directory), snapshotter: snapshotter(directory) }
    }

    /// `ctr` and its arguments, in the namespace that holds Kubernetes' containers.
    pub(super) fn words(&self, arguments: &[&str]) -> (PathBuf, Vec<OsString>) {
        let general = ["--address".into(), self.socket.clone().into_os_string(), "--namespace".into(), "k8s.io".into()];
        (self.ctr.clone(), general.into_iter().chain(arguments.iter().map(Into::into)).collect())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let (program, words) = self.words(arguments);
        let mut command = Command::new(program);
        command.args(words);
        command
    }

    /// Whether it answers.
    pub(super) fn answers(&self) -> bool {
        self.socket.exists() && run(&mut self.command(&["version"])).is_ok()
    }

    /// Loads an image archive.
    pub(super) fn import(&self, archive: &Path) -> Result<()> {
        let arguments = ["images", "import", "--snapshotter", self.snapshotter];
        run(self.command(&arguments).arg(archive)).map(drop)
    }

    /// The containers of pods, those that hold a pod's network excepted.
    pub(super) fn containers(&self) -> Result<Vec<Container>> {
        let tasks = run(&mut self.command(&["tasks", "list"]))?;
        let identifiers = run(&mut self.command(&["containers", "list", "--quiet"]))?;
        let mut containers = Vec::new();
        for id in identifiers.split_whitespace() {
            // It may have been removed since.
            let Ok(text) = run(&mut self.command(&["containers", "info", id])) else { continue };
            let information: Value = serde_json::from_str(&text).context("what ctr says of a container")?;
            let label = |name: &str| information["Labels"][name].as_str().unwrap_or_default().to_owned();
            if label("io.cri-containerd.kind") == "container" {
                containers.push(Container {
                    id: id.to_owned(),
                    image: information["Image"].as_str().unwrap_or_default().to_owned(),
                    namespace: label("io.kubernetes.pod.namespace"),
                    pod: label("io.kubernetes.pod.name"),
                    name: label("io.kubernetes.container.name"),
                    task: task(&tasks, id),
                });
            }
        }
        Ok(containers)
    }
}

/// What `ctr events` has written to `log`, as far as it tells of containers. Sandboxes are among them.
pub(super) fn events(log: &str) -> Vec<ContainerEvent> {
    log.lines().filter_map(event).collect()
}

/// One line: a date, a time, an offset, a zone, containerd's namespace, the topic, and the event in JSON.
fn event(line: &str) -> Option<ContainerEvent> {
    let (before, json) = line.split_once(" {")?;
    let topic = before.rsplit(' ').next()?;
    let event: Value = serde_json::from_str(&format!("{{{json}")).ok()?;
    let text = |key: &str| event[key].as_str().map(str::to_owned);
    match topic {
        "/containers/create" => Some(ContainerEvent::Created { id: text("id")?, image: text("image")? }),
        "/tasks/start" => Some(ContainerEvent::Started { id: text("container_id")? }),
        "/tasks/exit" => {
            // Processes that were started in it later have an identifier of their own.
            let id = text("container_id").filter(|id| text("id").as_ref() == Some(id))?;
            // Zero is left out.
            Some(ContainerEvent::Ended { id, exit_code: event["exit_status"].as_u64().unwrap_or(0) })
        }
        _ => None,
    }
}

/// The state of the task of the container `id` in what `ctr tasks list` printed: identifier, process, state.
fn task(tasks: &str, id: &str) -> Option<String> {
    tasks.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(id)).then(|| words.nth(1).map(str::to_owned)).flatten()
    })
}

/// Where it listens: not under /run, of which every node has its own, so that it can be reached from outside.
pub(super) fn socket(directory: &Path) -> PathBuf {
    directory.join("containerd.sock")
}

#[cfg(not(target_os = "linux"))]
fn snapshotter(_directory: &Path) -> &'static str {
    "native"
}

/// How image layers become root directories. An overlay cannot lie on an overlay, which is what a CI job's own
/// container often has; copies can.
#[cfg(target_os = "linux")]
fn snapshotter(directory: &Path) -> &'static str {
    use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
    match statfs(directory) {
        Ok(found) if found.filesystem_type() == OVERLAYFS_SUPER_MAGIC => "native",
        _ => "overlayfs",
    }
}

/// Writes containerd's configuration into the node's directory and returns its path. Unless the network is to be set up
/// by a pod, that of the network plugins too.
pub(super) fn configure(
    parts: &NodeParts,
    directory: &Path,
    pod_subnet: &str,
    network_awaited: bool,
) -> Result<PathBuf> {
    let shown = directory.display();
    // `restrict_oom_score_adj`: without CAP_SYS_RESOURCE, which containers on CI machines lack, no sandbox starts else.
    let configuration = format!(
        r#"version = 3
root = "{shown}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
address = "{socket}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "{snapshotter}"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
# A profile would be the kernel's, and stay there.
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{shown}/{NETWORKS}"
"#,
        socket = socket(directory).display(),
        snapshotter = snapshotter(directory),
        runc = parts.runc.display(),
        plugins = parts.cni_plugins.display(),
    );
    let path = directory.join("containerd.toml");
    std::fs::write(&path, configuration)?;

    // A veth pair for each pod, and the node routes between them. On a bridge, a pod's answer to its neighbour would go
    // there directly, past the node's translation of Service addresses.
    let networks = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": pod_subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "/run/cni",
            },
        }],
    });
    let networks_directory = directory.join(NETWORKS);
    std::fs::create_dir_all(&networks_directory)?;
    std::fs::write(directory.join(NETWORK), networks.to_string())?;
    if !network_awaited {
        std::fs::write(networks_directory.join("10-pods.conflist"), networks.to_string())?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_ctr_prints_them() {
        let log = r#"2026-11-23 19:20:01.1 +0000 UTC k8s.io /containers/create {"id":"ab12","image":"kit.test/app:1","runtime":{"name":"io.containerd.runc.v2"}}
2026-11-23 19:20:01.2 +0000 UTC k8s.io /tasks/create {"container_id":"ab12","bundle":"/run/x","pid":7}
2026-11-23 19:20:01.3 +0000 UTC k8s.io /tasks/start {"container_id":"ab12","pid":7}
2026-11-23 19:20:01.4 +0000 UTC k8s.io /tasks/exit {"container_id":"ab12","id":"probe","pid":9,"exit_status":1}
2026-11-23 19:20:01.5 +0000 UTC k8s.io /tasks/exit {"container_id":"ab12","id":"ab12","pid":7,"exit_status":75,"exited_at":{"seconds":1}}
"#;
        let id = || "ab12".to_owned();
        let expected = [
            ContainerEvent::Created { id: id(), image: "kit.test/app:1".to_owned() },
            ContainerEvent::Started { id: id() },
            ContainerEvent::Ended { id: id(), exit_code: 75 },
        ];
        assert_eq!(events(log), expected);
    }

    #[test]
    fn a_task_is_found_by_the_whole_identifier() {
        let tasks = "TASK     PID      STATUS    \nab12     4242     RUNNING\nab123    4243     STOPPED\n";
        assert_eq!(task(tasks, "ab12").as_deref(), Some("RUNNING"));
        assert_eq!(task(tasks, "ab123").as_deref(), Some("STOPPED"));
        assert_eq!(task(tasks, "ab1"), None);
    }
}
