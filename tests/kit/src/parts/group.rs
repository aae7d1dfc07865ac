//! The groups of programs that are built together, each from one pinned go.mod.

use std::{
    fmt::Write as _,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{cache, go::Go};

/// How often a build that takes long says that it is still at it.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Programs that are built from one module file and cached as one directory.
pub(super) struct Group {
    name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    packages: &'static [&'static str],
    /// Variables that the linker sets: path and value.
    linked: &'static [(&'static str, &'static str)],
    /// Build tags, separated by commas.
    tags: &'static str,
    /// Measured on two cores with an empty build cache.
    cold: Duration,
}

/// The release's version as a person wrote it into go.mod, and in the parts that the API server's `/version` shows.
/// Without it the API server calls itself v0.0.0 and kubelet refuses to work with it.
const KUBERNETES: &[(&str, &str)] = &[
    ("k8s.io/component-base/version.gitVersion", "v1.36.3"),
    ("k8s.io/component-base/version.gitMajor", "1"),
    ("k8s.io/component-base/version.gitMinor", "36"),
];

pub(super) const ETCD: Group = Group {
    name: "etcd",
    go_mod: include_str!("../../parts/etcd/go.mod"),
    go_sum: include_str!("../../parts/etcd/go.sum"),
    packages: &["go.etcd.io/etcd/server/v3"],
    linked: &[],
    tags: "",
    cold: Duration::from_secs(45),
};

pub(super) const CONTROL: Group = Group {
    name: "kubernetes-control",
    go_mod: include_str!("../../parts/kubernetes/go.mod"),
    go_sum: include_str!("../../parts/kubernetes/go.sum"),
    packages: &[
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubectl",
    ],
    linked: KUBERNETES,
    tags: "",
    cold: Duration::from_mins(6),
};

/// The oldest release that is supported, of which only the API server is built.
pub(super) const OLDEST: Group = Group {
    name: "kubernetes-oldest",
    go_mod: include_str!("../../parts/kubernetes-1.33/go.mod"),
    go_sum: include_str!("../../parts/kubernetes-1.33/go.sum"),
    packages: &["k8s.io/kubernetes/cmd/kube-apiserver"],
    linked: &[
        ("k8s.io/component-base/version.gitVersion", "v1.33.13"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "33"),
    ],
    tags: "",
    cold: Duration::from_mins(4),
};

/// The newest release that is tried, of which only the API server is built.
pub(super) const NEWEST: Group = Group {
    name: "kubernetes-newest",
    go_mod: include_str!("../../parts/kubernetes-1.37/go.mod"),
    go_sum: include_str!("../../parts/kubernetes-1.37/go.sum"),
    packages: &["k8s.io/kubernetes/cmd/kube-apiserver"],
    linked: &[
        ("k8s.io/component-base/version.gitVersion", "v1.37.2"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "37"),
    ],
    tags: "",
    cold: Duration::from_mins(4),
};

pub(super) const NODE: Group = Group {
    name: "kubernetes-node",
    go_mod: CONTROL.go_mod,
    go_sum: CONTROL.go_sum,
    packages: &["k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kube-proxy"],
    linked: KUBERNETES,
    tags: "",
    cold: Duration::from_secs(75),
};

pub(super) const CONTAINERD: Group = Group {
    name: "containerd",
    go_mod: include_str!("../../parts/containerd/go.mod"),
    go_sum: include_str!("../../parts/containerd/go.sum"),
    packages: &[
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
    ],
    linked: &[],
    tags: "",
    cold: Duration::from_secs(140),
};

pub(super) const COREDNS: Group = Group {
    name: "coredns",
    go_mod: include_str!("../../parts/coredns/go.mod"),
    go_sum: include_str!("../../parts/coredns/go.sum"),
    packages: &["github.com/coredns/coredns"],
    linked: &[],
    tags: "",
    cold: Duration::from_secs(150),
};

pub(super) const KWOK: Group = Group {
    name: "kwok",
    go_mod: include_str!("../../parts/kwok/go.mod"),
    go_sum: include_str!("../../parts/kwok/go.sum"),
    packages: &["sigs.k8s.io/kwok/cmd/kwok"],
    linked: &[],
    tags: "",
    cold: Duration::from_secs(75),
};

pub(super) const HELM: Group = Group {
    name: "helm",
    go_mod: include_str!("../../parts/helm/go.mod"),
    go_sum: include_str!("../../parts/helm/go.sum"),
    packages: &["helm.sh/helm/v3/cmd/helm"],
    // As Helm's own releases are built: charts ask for its version, and for the Kubernetes that it takes where no other is
    // given, which is that of its libraries. Without it that is 1.20.
    linked: &[
        ("helm.sh/helm/v3/internal/version.version", "v3.21.4"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "36"),
        ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor", "1"),
        ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor", "36"),
    ],
    tags: "",
    cold: Duration::from_secs(95),
};

pub(super) const PROMTOOL: Group = Group {
    name: "promtool",
    go_mod: include_str!("../../parts/promtool/go.mod"),
    go_sum: include_str!("../../parts/promtool/go.sum"),
    packages: &["github.com/prometheus/prometheus/cmd/promtool"],
    linked: &[],
    // Rules need no cloud's service discovery, which is most of the program.
    tags: "remove_all_sd",
    cold: Duration::from_mins(2),
};

pub(super) const ACTIONLINT: Group = Group {
    name: "actionlint",
    go_mod: include_str!("../../parts/actionlint/go.mod"),
    go_sum: include_str!("../../parts/actionlint/go.sum"),
    packages: &["github.com/rhysd/actionlint/cmd/actionlint"],
    linked: &[],
    tags: "",
    cold: Duration::from_secs(20),
};

// === impl Group ===

impl Group {
    /// The directory with the group's programs, each named after its package's directory.
    pub(super) fn build(&self) -> Result<PathBuf> {
        let go = |target: &Path| self.build_into(target).with_context(|| format!("cannot build {}", self.name));
        cache::directory_or_build(&format!("{}-{}", self.name, self.hash()), go)
    }

    /// The version of `module` that go.mod pins. The module is named there: this is for modules of the tables above.
    pub(super) fn version(&self, module: &str) -> &'static str {
        let required = self.go_mod.lines().find_map(|line| {
            let line = line.trim().strip_prefix("require ").unwrap_or(line.trim());
            line.strip_prefix(module)?.strip_prefix(' ')
        });
        required.map_or("unknown", |rest| rest.split(' ').next().unwrap_or(rest))
    }

    /// What the programs depend on, in twelve hexadecimal digits.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        let host = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
        let arguments = self.arguments().join("\0");
        for part in [self.go_mod, self.go_sum, &arguments, &host] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().take(6).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn arguments(&self) -> Vec<String> {
        let mut linker = "-s -w".to_owned();
        for (variable, value) in self.linked {
            let _ = write!(linker, " -X {variable}={value}");
        }
        let mut arguments = vec!["build".to_owned(), "-trimpath".to_owned(), format!("-ldflags={linker}")];
        if !self.tags.is_empty() {
            arguments.push(format!("-tags={}", self.tags));
        }
        arguments.extend(["-o".to_owned(), "./".to_owned()]);
        arguments.extend(self.packages.iter().map(|package| (*package).to_owned()));
        arguments
    }

    fn build_into(&self, target: &Path) -> Result<()> {
        let go = Go::find()?;
        let programs: Vec<_> = self.packages.iter().filter_map(|package| package.rsplit('/').next()).collect();
        eprintln!(
            "parts: building {} ({}) with {}: about {} s on two cores, once",
            self.name,
            programs.join(", "),
            go.version,
            self.cold.as_secs()
        );
        std::fs::write(target.join("go.mod"), self.go_mod)?;
        std::fs::write(target.join("go.sum"), self.go_sum)?;
        let arguments = self.arguments();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let started = Instant::now();
        let mut child = go.command(target, &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut stderr = child.stderr.take().context("the child's stderr was not a pipe")?;
        let (said, words) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let outcome = stderr.read_to_string(&mut text);
            // The receiver is gone only if this function has returned already.
            let _ = said.send(outcome.map(|_| text));
        });
        let words = loop {
            match words.recv_timeout(REPORT_EVERY) {
                Ok(words) => break words?,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("parts: still building {}, {} s so far", self.name, started.elapsed().as_secs());
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("lost the output of `go build`"),
            }
        };
        let status = child.wait()?;
        reader.join().ok();
        if !status.success() {
            bail!(explain(&words));
        }
        std::fs::remove_file(target.join("go.mod"))?;
        std::fs::remove_file(target.join("go.sum"))?;
        eprintln!("parts: built {} in {} s", self.name, started.elapsed().as_secs());
        Ok(())
    }
}

/// One line out of what a failed `go build` said: the reason, and what to do if it is the network.
fn explain(words: &str) -> String {
    // "go: downloading …" is progress.
    let mut reasons = words.lines().filter(|line| !line.starts_with("go: downloading") && !line.trim().is_empty());
    let network = ["dial tcp", "no such host", "i/o timeout", "connection refused", "TLS handshake", "proxyconnect"];
    match words.lines().find(|line| network.iter().any(|sign| line.contains(sign))) {
        Some(line) => format!(
            "the Go module proxy cannot be reached, and this is needed once (or set GOPROXY to one that can): {}",
            line.trim()
        ),
        None => match (reasons.next(), reasons.next_back()) {
            (Some(first), Some(last)) => format!("go build: {first} … {last}"),
            (Some(only), None) => format!("go build: {only}"),
            (None, _) => "go build failed without a word".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[&Group] =
        &[&ETCD, &CONTROL, &OLDEST, &NEWEST, &NODE, &CONTAINERD, &COREDNS, &KWOK, &HELM, &PROMTOOL, &ACTIONLINT];

    #[test]
    fn every_program_is_a_tool_of_its_pinned_module_file() {
        for group in ALL {
            for package in group.packages {
                let tool = |line: &str| line.trim().trim_start_matches("tool ") == *package;
                assert!(group.go_mod.lines().any(tool), "{package} is no tool in the go.mod of {}", group.name);
            }
        }
    }

    #[test]
    fn the_version_that_is_linked_in_is_the_one_that_is_built() {
        for group in [&CONTROL, &NODE, &OLDEST, &NEWEST] {
            let version = group.version("k8s.io/kubernetes");
            let linked = |name: &str| {
                let found = group.linked.iter().find(|(variable, _)| variable.ends_with(name));
                found.map_or("", |(_, value)| *value)
            };
            assert_eq!(linked("gitVersion"), version);
            let shown = format!("v{}.{}.", linked("gitMajor"), linked("gitMinor"));
            assert!(version.starts_with(&shown), "{version} does not start with {shown}");
            // The libraries carry the same version under 0.x.
            let library = version.replacen("v1.", "v0.", 1);
            assert!(group.go_mod.contains(&format!("k8s.io/api => k8s.io/api {library}\n")), "{version}");
        }
    }

    #[test]
    fn helm_link_flags_name_its_version_and_its_libraries_version() {
        let linked = |name: &str| {
            let found = HELM.linked.iter().filter(|(variable, _)| variable.ends_with(name));
            found.map(|(_, value)| *value).collect::<Vec<_>>()
        };
        assert_eq!(linked("version.version"), [HELM.version("helm.sh/helm/v3")]);
        assert_eq!(linked("k8sVersionMajor"), ["1", "1"]);
        for minor in linked("k8sVersionMinor") {
            let library = HELM.version("k8s.io/client-go");
            assert!(library.starts_with(&format!("v0.{minor}.")), "{minor} is linked in, {library} is built");
        }
    }

    #[test]
    fn groups_of_parts_have_different_hashes() {
        let mut hashes: Vec<_> = ALL.iter().map(|group| group.hash()).collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), ALL.len());
    }

    #[test]
    fn an_unreachable_proxy_is_one_line_that_says_so() {
        let words = "go: downloading k8s.io/kubernetes v1.36.3\n\
                     go: k8s.io/kubernetes@v1.36.3: Get \"https://proxy.golang.org/k8s.io/kubernetes/@v/v1.36.3.zip\": dial tcp: lookup proxy.golang.org: no such host\n";
        let line = explain(words);
        assert!(line.contains("Go module proxy cannot be reached"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}
