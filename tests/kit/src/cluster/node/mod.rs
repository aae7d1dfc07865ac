//! Genuine nodes: kubelet, containerd, runc, network plugins and kube-proxy, each node in namespaces of its own.

mod containerd;
pub(super) mod init;
mod kubelet;

use std::{
    ffi::OsString,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Node as NodeObject, NodeCondition, Taint};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use containerd::{Container, ContainerEvent};

use super::{
    api::{Api, SERVICES},
    machine::{ip, ip_of, make_cgroups, remove_cgroups},
    process::Process,
    sandbox::{BRIDGE, MACHINE, ROLE},
    watch,
};
use crate::{
    image::{Architecture, Image, kit_binary},
    parts::{NodeParts, cache_root},
};

/// How long one of a node's programs may take to become usable. Measured: 12 s from kubelet's start to a Ready node.
const PATIENCE: Duration = Duration::from_mins(2);

/// How often something on the machine that has no event to tell of is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a node sees as its boot's identifier: mounted into a container by hostPath, it is the node's and not the machine's.
pub const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// A directory that every node has at this place, its own, which survives a reboot: for hostPath volumes of DaemonSets.
///
/// `net.d` in it is where containerd looks for the configuration of the network plugins, and `pods.conflist` beside that
/// is one that works. A node that [awaits its network](NodeOptions::network_awaited) is not Ready until a pod puts it
/// there; on the host's network, `pause copy pods.conflist net.d/10-pods.conflist` is such a pod.
pub const NODE_DIRECTORY: &str = "/run/linkerd-gate-kit";

/// What may differ from one node to another.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// What its kubelet taints it with when it registers it, which it does once.
    pub taints: Vec<Taint>,
    /// Whether a pod has to set up its network, as a CNI plugin's DaemonSet does: see [`NODE_DIRECTORY`]. Once set up, it
    /// stays so over reboots.
    pub network_awaited: bool,
}

/// A node that really runs pods.
pub struct Node {
    name: String,
    index: u8,
    /// Its "disk", which survives a reboot, and its configuration.
    directory: PathBuf,
    logs: PathBuf,
    /// Relative to the root of each hierarchy.
    cgroup: PathBuf,
    parts: Arc<NodeParts>,
    containerd: containerd::Client,
    options: NodeOptions,
    /// How many of the cluster's images it has.
    images: AtomicUsize,
    running: Mutex<Option<Running>>,
}

/// What ends with the power. The order is that of stopping.
struct Running {
    kube_proxy: Option<Process>,
    kubelet: Option<Process>,
    events: Process,
    containerd: Process,
    init: Process,
    init_pid: Pid,
}

// === impl Node ===

impl Node {
    pub(super) fn prepare(
        name: &str,
        index: u8,
        parts: Arc<NodeParts>,
        api: &Api,
        options: NodeOptions,
    ) -> Result<Self> {
        let directory = api.scratch().directory(name)?;
        for part in [init::LOG, init::KIT, "containerd", "kubelet"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let containerd = containerd::Client::new(&parts, &directory);
        Ok(Self {
            name: name.to_owned(),
            index,
            logs: api.logs(),
            cgroup: api.scratch().cgroup().join(name),
            directory,
            parts,
            containerd,
            options,
            images: AtomicUsize::default(),
            running: Mutex::default(),
        })
    }

    /// The name of its Node object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the network between machines.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, 2, self.index + 1)
    }

    /// The identifier of its current, or last, boot, as its kubelet reads it.
    pub fn boot_id(&self) -> Result<String> {
        let path = self.boot_id_file();
        let text = fs::read_to_string(&path).with_context(|| format!("no boot id in {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// The file on the machine with that identifier, for a program of the node's that runs outside of it. The node itself, and
    /// what it mounts into containers, has the same at [`BOOT_ID_FILE`].
    pub fn boot_id_file(&self) -> PathBuf {
        self.directory.join(init::BOOT_ID)
    }

    /// Whether its power is on.
    pub fn is_on(&self) -> bool {
        self.locked().is_some()
    }

    /// Switches it on: a new boot id, empty tmpfs, empty network, then containerd. Kubelet follows with
    /// [`Node::start_kubelet`].
    pub(super) async fn boot(&self) -> Result<()> {
        if self.locked().is_some() {
            bail!("{} is switched on already", self.name);
        }
        make_cgroups(&self.cgroup)?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no source of boot ids")?;
        fs::write(self.boot_id_file(), boot_id)?;
        let (init, init_pid) = self.start_init().await?;
        self.connect(init_pid)?;
        let network_awaited = self.options.network_awaited;
        let configuration = containerd::configure(&self.parts, &self.directory, &self.pod_subnet(), network_awaited)?;
        // Left by the last boot; its end is not a thing that it could clean up after.
        let _ = fs::remove_file(containerd::socket(&self.directory));
        let arguments = ["--config".into(), configuration.into_os_string()];
        let containerd = self.start_inside("containerd", init_pid, &self.parts.containerd, arguments)?;
        until("containerd answers", || {
            containerd.check()?;
            Ok(self.containerd.answers().then_some(()))
        })
        .await?;
        // Nothing can have been created yet: kubelet is off.
        let (ctr, arguments) = self.containerd.words(&["events"]);
        let events = Process::start(&format!("ctr events of {}", self.name), &ctr, arguments, &self.log(EVENTS))?;
        *self.locked() = Some(Running { kube_proxy: None, kubelet: None, events, containerd, init, init_pid });
        Ok(())
    }

    /// Starts kubelet and kube-proxy, which is when the node begins to take part in the cluster.
    pub(super) fn start_kubelet(&self, api: &Api) -> Result<()> {
        let mut running = self.locked();
        let running = running.as_mut().with_context(|| format!("{} is switched off", self.name))?;
        let credentials = api.credentials();
        let taints = &self.options.taints;
        let arguments =
            kubelet::arguments(&self.name, &self.directory, self.address(), &self.cgroup, credentials, taints)?;
        running.kubelet = Some(self.start_inside("kubelet", running.init_pid, &self.parts.kubelet, arguments)?);
        let arguments = kubelet::proxy_arguments(&self.name, PODS, credentials);
        running.kube_proxy =
            Some(self.start_inside("kube-proxy", running.init_pid, &self.parts.kube_proxy, arguments)?);
        Ok(())
    }

    /// Waits until the cluster says that this boot of the node is Ready.
    pub(super) async fn until_ready(&self, api: &Api) -> Result<()> {
        let nodes = kube::Api::<NodeObject>::all(api.client().await?);
        let boot_id = self.boot_id()?;
        let said = watch::until(&nodes, &self.name, "Ready, with this boot's id", PATIENCE, |node| {
            let Some(status) = &node.status else { return false };
            let this_boot = status.node_info.as_ref().is_some_and(|info| info.boot_id == boot_id);
            let ready = |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
            this_boot && status.conditions.iter().flatten().any(ready)
        });
        tokio::select! {
            biased;
            // What has ended will not become ready.
            () = self.any_end() => self.check(),
            ready = said => ready.map(drop),
        }
    }

    /// Cuts the power: every process of the node ends at once, as do its mounts, interfaces and cgroups. Its disk stays.
    pub async fn power_off(&self) -> Result<()> {
        let running = self.locked().take().with_context(|| format!("{} is switched off already", self.name))?;
        let ended = running.cut().await;
        // The kernel removes the other end some time after the namespace; the next boot wants the name.
        let _ = ip(["link", "delete", &self.interface()]);
        remove_cgroups(&self.cgroup);
        ended
    }

    /// Reads an image archive into the node's containerd.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        let (containerd, archive) = (self.containerd.clone(), archive.to_path_buf());
        tokio::task::spawn_blocking(move || containerd.import(&archive)).await?
    }

    /// Reads those of the cluster's images that it does not have yet.
    pub(super) async fn load_missing(&self, images: &[PathBuf]) -> Result<()> {
        for image in images.iter().skip(self.images.load(Ordering::Relaxed)) {
            self.load_image(image).await?;
            self.images.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The containers that containerd knows, other than those that hold pods' networks: the word that counts on whether
    /// an app was ever created or started. Kubelet removes ended ones some time after their pod.
    pub fn containers(&self) -> Result<Vec<Container>> {
        self.containerd.containers()
    }

    /// What containerd has reported of containers since this node was first switched on, in order: also of those that are
    /// gone. A test that gives its app an image of its own sees here whether it was ever started: another name alone is
    /// not enough, since containerd takes images of the same content for one (a label makes the difference).
    pub fn container_events(&self) -> Result<Vec<ContainerEvent>> {
        let path = self.log(EVENTS);
        let log = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(containerd::events(&log))
    }

    /// Stops kubelet alone; pods keep running.
    pub fn stop_kubelet(&self) -> Result<()> {
        let mut running = self.locked();
        let running = running.as_mut().with_context(|| format!("{} is switched off", self.name))?;
        running.kubelet.take().map(drop).context("kubelet is not running")
    }

    /// An error if one of its programs ended that should be running.
    pub(super) fn check(&self) -> Result<()> {
        self.locked().iter().flat_map(Running::processes).try_for_each(Process::check)
    }

    /// Waits until one of its programs ends.
    fn any_end(&self) -> impl Future<Output = ()> + use<> {
        let ends: Vec<_> =
            self.locked().iter().flat_map(Running::processes).map(|process| process.end().boxed()).collect();
        async move {
            if ends.is_empty() {
                std::future::pending::<()>().await;
            }
            futures::future::select_all(ends).await;
        }
    }

    /// Makes the pods of `other` reachable from here. A node that is off gets its route when it is on.
    pub(super) fn route_to(&self, other: &Self) -> Result<()> {
        let running = self.locked();
        let Some(running) = running.as_ref() else { return Ok(()) };
        ip_of(running.init_pid, ["route", "replace", &other.pod_subnet(), "via", &other.address().to_string()])
    }

    /// The network that its pods' addresses are from.
    pub(super) fn pod_subnet(&self) -> String {
        format!("10.244.{}.0/24", self.index)
    }

    fn interface(&self) -> String {
        format!("{BRIDGE}-{}", self.index)
    }

    fn locked(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, program: &str) -> PathBuf {
        self.logs.join(format!("{}.{program}.log", self.name))
    }

    /// Starts the node's first process and waits until its mounts are made.
    async fn start_init(&self) -> Result<(Process, Pid)> {
        let ready = self.directory.join(init::READY);
        let _ = fs::remove_file(&ready);
        let program = std::env::current_exe().context("cannot tell the path of this program")?;
        let arguments = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "env"];
        let role = format!("{ROLE}={}", self.name);
        let directory = format!("{}={}", init::DIRECTORY, self.directory.display());
        let arguments = arguments.map(Into::into).into_iter().chain([role.into(), directory.into(), program.into()]);
        let arguments: Vec<OsString> = arguments.collect();
        let init = Process::start(&self.name, Path::new("unshare"), arguments, &self.log("init"))?;
        until("the node's own mounts", || {
            init.check()?;
            Ok(ready.exists().then_some(()))
        })
        .await?;
        // The first process of the namespace is the one that `unshare` forked.
        let children = format!("/proc/{0}/task/{0}/children", init.pid());
        let children = fs::read_to_string(&children).with_context(|| format!("cannot read {children}"))?;
        let pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        let pid = pid.ok_or_else(|| anyhow!("the first process of {} is gone", self.name))?;
        Ok((init, Pid::from_raw(pid)))
    }

    /// Plugs the node into the network between machines.
    fn connect(&self, init: Pid) -> Result<()> {
        let (interface, own, peer) = (self.interface(), format!("{}/16", self.address()), init.to_string());
        let _ = ip(["link", "delete", &interface]);
        ip(["link", "add", &interface, "type", "veth", "peer", "name", "eth0", "netns", &peer])?;
        ip(["link", "set", &interface, "master", BRIDGE, "up"])?;
        ip_of(init, ["link", "set", "lo", "up"])?;
        ip_of(init, ["address", "add", &own, "dev", "eth0"])?;
        ip_of(init, ["link", "set", "eth0", "up"])?;
        ip_of(init, ["route", "add", "default", "via", &MACHINE.to_string()])?;
        let gateway = self.address().to_string();
        ip(["route", "replace", &self.pod_subnet(), "via", &gateway])?;
        if self.index == 0 {
            // The machine itself is no node; it reaches Service addresses by way of one.
            ip(["route", "replace", SERVICES, "via", &gateway])?;
        }
        Ok(())
    }

    /// Starts a program in the node's namespaces.
    fn start_inside<I>(&self, name: &str, init: Pid, program: &Path, arguments: I) -> Result<Process>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let target = init.to_string();
        let enter = ["--target", &target, "--mount", "--net", "--pid", "--", "setpriv", "--pdeathsig", "KILL", "--"];
        let words = enter.into_iter().map(Into::into).chain([program.into()]);
        let words: Vec<OsString> = words.chain(arguments.into_iter().map(Into::into)).collect();
        Process::start(&format!("{name} of {}", self.name), Path::new("nsenter"), words, &self.log(name))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.locked().take() {
            // Its first process before the others; the drop waits for the end of all of them.
            let _ = kill(running.init_pid, Signal::SIGKILL);
            drop(running);
            let _ = ip(["link", "delete", &self.interface()]);
            remove_cgroups(&self.cgroup);
        }
    }
}

// === impl Running ===

impl Running {
    fn processes(&self) -> impl Iterator<Item = &Process> {
        let daemons = [self.kubelet.as_ref(), self.kube_proxy.as_ref()].into_iter().flatten();
        [&self.init, &self.containerd, &self.events].into_iter().chain(daemons)
    }

    /// Kills the first process, and with it all of the namespace. It has ended when nothing of it is left.
    async fn cut(self) -> Result<()> {
        kill(self.init_pid, Signal::SIGKILL).context("cannot cut the power")?;
        tokio::time::timeout(PATIENCE, self.init.end()).await.context("processes of the node do not end")?;
        Ok(())
    }
}

/// What containerd tells, as a log of the node.
const EVENTS: &str = "containerd-events";

/// The networks of all nodes' pods.
const PODS: &str = "10.244.0.0/16";

/// Looks until there is something to see on this machine, where nothing tells.
async fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    let mut interval = tokio::time::interval(LOOK_EVERY);
    while started.elapsed() < PATIENCE {
        interval.tick().await;
        if let Some(seen) = look().with_context(|| what.to_owned())? {
            return Ok(seen);
        }
    }
    bail!("{what}: not within {} s", PATIENCE.as_secs())
}

/// The archive of an image with one static program, made once and cached.
pub(super) fn program_image(name: &str, key: &str, program: &Path) -> Result<PathBuf> {
    let path = cache_root()?.join("images").join(format!("{key}.tar"));
    if !path.is_file() {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let file = program.file_name().context("a program without a name")?.to_string_lossy();
        let inside = format!("/{file}");
        Image::new(name, Architecture::host()?)
            .with_program(&inside, program)?
            .with_entrypoint(&[&inside])
            .write(&path)?;
    }
    Ok(path)
}

/// The image of the container that holds a pod's network, as an archive in `directory`.
pub(super) fn pause_image(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("pause.tar");
    let program = kit_binary("pause")?;
    Image::new(containerd::PAUSE_IMAGE, Architecture::host()?)
        .with_program("/pause", &program)?
        .with_entrypoint(&["/pause"])
        .write(&path)?;
    Ok(path)
}
