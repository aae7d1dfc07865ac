//! Fetches, builds and caches the genuine parts of a cluster.
//!
//! Everything comes by name from the Go module proxy, at the versions that `tests/kit/parts/*/go.mod` pins and `go.sum`
//! checks, and from Debian's packages; nothing is downloaded prebuilt. A first build of everything takes about a quarter
//! of an hour on two cores; after that a call costs milliseconds.
//!
//! There are two sets, so that a test of API size does not wait for a container runtime: [`ApiParts`] and [`NodeParts`]. Who
//! asks for fake nodes needs [kwok](find_kwok) too, who renders the chart [Helm](find_helm), who tests alerts
//! [promtool](find_promtool), [actionlint](find_actionlint).

mod cache;
mod debian;
mod go;
mod group;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use cache::cache_root;

/// Where the parts of a cluster without nodes are: a store, an API server and the controllers that act on it.
#[derive(Clone, Debug)]
pub struct ApiParts {
    /// etcd's server.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// The controllers: ReplicaSets, Jobs, service accounts, garbage and so on.
    pub kube_controller_manager: PathBuf,
    /// The scheduler.
    pub kube_scheduler: PathBuf,
    /// What users type; it also serves as a peer to measure against (`kubectl wait`).
    pub kubectl: PathBuf,
}

/// A Kubernetes release that tests run an API server of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Release {
    /// The one that everything else of a cluster is of too.
    #[default]
    Current,
    /// The oldest that linkerd-gate supports. Only its API server is built.
    Oldest,
    /// The newest that linkerd-gate is tried on. Only its API server is built.
    Newest,
}

/// Where the parts of a cluster with genuine nodes are.
#[derive(Clone, Debug)]
pub struct NodeParts {
    /// The control plane.
    pub api: ApiParts,
    /// The agent that runs pods.
    pub kubelet: PathBuf,
    /// Routes Service addresses.
    pub kube_proxy: PathBuf,
    /// The cluster's DNS server.
    pub coredns: PathBuf,
    /// The container runtime. Its shim (`containerd-shim-runc-v2`) lies beside it and must be on its `PATH`.
    pub containerd: PathBuf,
    /// containerd's command line: what it says is running is running.
    pub ctr: PathBuf,
    /// The directory with the CNI plugins (`bridge`, `host-local`, `loopback`, …).
    pub cni_plugins: PathBuf,
    /// The program that starts containers.
    pub runc: PathBuf,
}

// === impl Release ===

impl Release {
    /// Every release, the oldest first.
    pub const ALL: [Self; 3] = [Self::Oldest, Self::Current, Self::Newest];

    /// Its version, for instance `v1.36.3`: what its API server's `/version` shows.
    pub fn version(self) -> &'static str {
        self.group().version("k8s.io/kubernetes")
    }

    fn group(self) -> &'static group::Group {
        match self {
            Self::Current => &group::CONTROL,
            Self::Oldest => &group::OLDEST,
            Self::Newest => &group::NEWEST,
        }
    }
}

// === impl ApiParts ===

impl ApiParts {
    /// Finds the parts, and fetches and builds those that are not cached yet.
    ///
    /// `KUBEBUILDER_ASSETS`, where it is set, gives etcd and kube-apiserver (and kubectl, where it has one).
    ///
    /// This blocks, for minutes when the cache is cold, and says so on stderr.
    pub fn find() -> Result<Self> {
        Self::find_with(Release::Current)
    }

    /// The same with an API server of this release. `KUBEBUILDER_ASSETS` says nothing about one of another release than
    /// [`Release::Current`].
    pub fn find_with(release: Release) -> Result<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let asset = |name: &str| assets.as_deref().map(|dir| dir.join(name)).filter(|path| path.is_file());
        let etcd = match asset("etcd") {
            Some(path) => path,
            // The program is named after the directory of its package.
            None => group::ETCD.build()?.join("server"),
        };
        let control = group::CONTROL.build()?;
        let kube_apiserver = match release {
            Release::Current => asset("kube-apiserver").unwrap_or_else(|| control.join("kube-apiserver")),
            Release::Oldest | Release::Newest => release.group().build()?.join("kube-apiserver"),
        };
        Ok(Self {
            etcd,
            kube_apiserver,
            kube_controller_manager: control.join("kube-controller-manager"),
            kube_scheduler: control.join("kube-scheduler"),
            kubectl: asset("kubectl").unwrap_or_else(|| control.join("kubectl")),
        })
    }
}

// === impl NodeParts ===

impl NodeParts {
    /// Finds the parts, fetches and builds those that are not cached yet, and installs what Debian packages.
    ///
    /// This blocks, for minutes when the cache is cold, and says so on stderr.
    pub fn find() -> Result<Self> {
        // The quick failure first: nobody should learn after ten minutes of building that runc cannot be had.
        let debian = debian::Installed::find()?;
        let api = ApiParts::find()?;
        let node = group::NODE.build()?;
        let runtime = group::CONTAINERD.build()?;
        let dns = group::COREDNS.build()?;
        Ok(Self {
            api,
            kubelet: node.join("kubelet"),
            kube_proxy: node.join("kube-proxy"),
            coredns: dns.join("coredns"),
            containerd: runtime.join("containerd"),
            ctr: runtime.join("ctr"),
            cni_plugins: debian.cni_plugins,
            runc: debian.runc,
        })
    }
}

/// Finds `CoreDNS`, the name server of clusters, or fetches and builds it.
///
/// This blocks, for minutes when the cache is cold, and says so on stderr.
pub fn find_coredns() -> Result<PathBuf> {
    Ok(group::COREDNS.build()?.join("coredns"))
}

/// Finds kwok, which plays the kubelets of any number of nodes, or fetches and builds it.
///
/// This blocks, for more than a minute when the cache is cold, and says so on stderr. In a
/// [sandbox](crate::cluster::sandbox) nothing can be fetched: a test that needs it there finds it before.
pub fn find_kwok() -> Result<PathBuf> {
    Ok(group::KWOK.build()?.join("kwok"))
}

/// Finds Helm, which renders the chart, or fetches and builds it.
///
/// This blocks, for a minute and a half when the cache is cold, and says so on stderr.
pub fn find_helm() -> Result<PathBuf> {
    Ok(group::HELM.build()?.join("helm"))
}

/// Finds promtool, which runs alerting rules over recorded series, or fetches and builds it.
///
/// This blocks, for two minutes when the cache is cold, and says so on stderr.
pub fn find_promtool() -> Result<PathBuf> {
    Ok(group::PROMTOOL.build()?.join("promtool"))
}

/// Finds actionlint, which checks GitHub's workflows, or fetches and builds it.
///
/// This blocks, for twenty seconds when the cache is cold, and says so on stderr.
pub fn find_actionlint() -> Result<PathBuf> {
    Ok(group::ACTIONLINT.build()?.join("actionlint"))
}

/// The Kubernetes release that the parts are built from, for instance `v1.36.3`.
pub fn kubernetes_version() -> &'static str {
    Release::Current.version()
}

/// Whether a program of this name is on the `PATH`, and where.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps administrators' programs out of a plain user's `PATH`.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// The directory `path`, made if it is not there.
fn directory(path: &Path) -> Result<&Path> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make the directory {}", path.display()))?;
    Ok(path)
}
