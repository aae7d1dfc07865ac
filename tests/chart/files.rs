//! The files of `deploy/manifests` and `deploy/manifests-pre-1.36` are what the chart renders, and nothing else is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::helm::{Document, Kubernetes, NAMESPACE, REPOSITORY, chart, helm, render_on, root, set};

/// A directory of files.
struct Directory {
    /// Its path below `deploy`.
    name: &'static str,
    kubernetes: Kubernetes,
    /// The files that are there only, beside [`FILES`].
    own: &'static [File],
}

/// A file of such a directory.
struct File {
    /// Its path there.
    name: &'static str,
    /// The templates that it is made of, in this order, below the chart's `templates`.
    templates: &'static [&'static str],
    /// What is not as by default there: the values' paths, and what they are, in JSON.
    settings: &'static [(&'static str, &'static str)],
}

const DIRECTORIES: [Directory; 2] = [
    Directory {
        name: "manifests",
        kubernetes: Kubernetes::Newer,
        own: &[
            File {
                name: "60-admission-hold.yaml",
                templates: &["admission/hold.yaml", "admission/hold-binding.yaml"],
                settings: &[],
            },
            File {
                name: "optional/72-admission-labelled.yaml",
                templates: &["admission/hold-binding.yaml", "admission/guard-binding.yaml"],
                settings: &[("admissionNamespaces", "\"labelled\"")],
            },
            File {
                name: "optional/73-node-born-closed.yaml",
                templates: &["admission/born-closed.yaml"],
                settings: &[("agent.bornClosed", "true")],
            },
        ],
    },
    Directory {
        name: "manifests-pre-1.36",
        kubernetes: Kubernetes::Older,
        own: &[File {
            name: "optional/72-admission-labelled.yaml",
            templates: &["admission/guard-binding.yaml"],
            settings: &[("admissionNamespaces", "\"labelled\"")],
        }],
    },
];

/// The files of every directory. Another one is another entry here, and `make manifests`: deploy/chart/README.md says how.
const FILES: &[File] = &[
    File { name: "10-namespaces.yaml", templates: &["namespaces.yaml"], settings: &[("createNamespaces", "true")] },
    File {
        name: "20-agent-policies.yaml",
        templates: &[
            "agent/confinement/nodes.yaml",
            "agent/confinement/pods.yaml",
            "agent/confinement/essential.yaml",
            "agent/confinement/lease.yaml",
            "agent/confinement/events.yaml",
            "probe.yaml",
        ],
        settings: &[],
    },
    File {
        name: "30-agent-rbac.yaml",
        templates: &[
            "agent/rights/cluster.yaml",
            "agent/rights/own-namespace.yaml",
            "agent/rights/probe-namespace.yaml",
            "agent/rights/events.yaml",
        ],
        settings: &[],
    },
    File { name: "35-flow-control.yaml", templates: &["flow-control.yaml"], settings: &[] },
    File { name: "40-agent.yaml", templates: &["agent/daemonset.yaml"], settings: &[] },
    File {
        name: "50-controller-policies.yaml",
        templates: &[
            "controller/confinement/pods.yaml",
            "controller/confinement/ungate.yaml",
            "controller/confinement/asked.yaml",
            "controller/confinement/owners.yaml",
            "controller/confinement/nodes.yaml",
            "controller/confinement/lease.yaml",
            "controller/confinement/events.yaml",
        ],
        settings: &[],
    },
    File {
        name: "51-controller-rbac.yaml",
        templates: &[
            "controller/rights/cluster.yaml",
            "controller/rights/own-namespace.yaml",
            "controller/rights/probe-namespace.yaml",
        ],
        settings: &[],
    },
    File {
        name: "52-controller.yaml",
        templates: &["controller/deployment.yaml", "controller/disruption-budget.yaml"],
        settings: &[],
    },
    File {
        name: "61-admission-guard.yaml",
        templates: &["admission/guard.yaml", "admission/guard-binding.yaml"],
        settings: &[],
    },
    File { name: "62-admission-release.yaml", templates: &["admission/release.yaml"], settings: &[] },
    File {
        name: "optional/70-controller-eviction-rbac.yaml",
        templates: &["controller/rights/eviction.yaml"],
        settings: &[("controller.eviction", "true")],
    },
    File {
        name: "optional/74-controller-successors-rbac.yaml",
        templates: &["controller/rights/successors.yaml"],
        settings: &[("controller.eviction", "true")],
    },
    File {
        name: "optional/75-check.yaml",
        templates: &["check/rights.yaml", "check/cronjob.yaml"],
        settings: &[("check.enabled", "true")],
    },
    File {
        name: "optional/76-controller-network-policy.yaml",
        templates: &["controller/network-policy.yaml"],
        settings: &[("controller.networkPolicy", "true")],
    },
    File {
        name: "optional/77-pod-monitor.yaml",
        templates: &["monitoring/pod-monitor.yaml"],
        settings: &[("monitoring.podMonitor", "true")],
    },
    File {
        name: "optional/78-alerts.yaml",
        templates: &["monitoring/rules.yaml"],
        settings: &[("monitoring.rules", "true")],
    },
    File {
        name: "optional/79-dashboard.yaml",
        templates: &["monitoring/dashboard.yaml"],
        settings: &[("monitoring.dashboard", "true")],
    },
    File {
        name: "optional/71-admission-warn.yaml",
        templates: &["admission/guard-binding.yaml"],
        settings: &[("admission", "\"warn\"")],
    },
];

// === impl Directory ===

impl Directory {
    fn path(&self) -> PathBuf {
        root().join("deploy").join(self.name)
    }

    /// Its files, in their order.
    fn files(&self) -> Vec<&'static File> {
        let mut files: Vec<&File> = FILES.iter().chain(self.own).collect();
        files.sort_by_key(|file| (file.is_optional(), file.name));
        files
    }

    /// What `kubectl apply -k` goes by.
    fn kustomization(&self) -> String {
        let mut text =
            "# Say where the image is that `make image` built and you pushed, and then: kubectl apply -k .\n\
             apiVersion: kustomize.config.k8s.io/v1beta1\n\
             kind: Kustomization\n\
             # In this order: namespaces first, and what confines rights before the rights.\n\
             sortOptions: {order: fifo}\n\
             resources:\n"
                .to_owned();
        for file in self.files().into_iter().filter(|file| !file.is_optional()) {
            writeln!(text, "- {}", file.name).unwrap();
        }
        let version = env!("CARGO_PKG_VERSION");
        write!(
            text,
            "images:\n- name: {REPOSITORY}\n  newName: registry.example.com/linkerd-gate\n  newTag: {version}\n"
        )
        .unwrap();
        text
    }

    /// All that is in it, by its path there.
    fn contents(&self) -> BTreeMap<String, String> {
        let files = self.files().into_iter().map(|file| (file.name.to_owned(), file.text(self.kubernetes)));
        files.chain([("kustomization.yaml".to_owned(), self.kustomization())]).collect()
    }
}

// === impl File ===

impl File {
    fn is_optional(&self) -> bool {
        self.name.starts_with("optional/")
    }

    fn documents(&self, kubernetes: Kubernetes) -> Vec<Document> {
        let json = |text: &str| {
            serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{}: {text}: {error}", self.name))
        };
        let settings: Vec<_> = self.settings.iter().map(|(path, value)| set(path, json(value))).collect();
        let rendered = render_on(kubernetes, NAMESPACE, &settings);
        let of = |template: &&str| {
            let documents: Vec<_> =
                rendered.iter().filter(|document| document.template == *template).cloned().collect();
            assert!(!documents.is_empty(), "{template} renders to nothing with {:?}", self.settings);
            documents
        };
        self.templates.iter().flat_map(of).collect()
    }

    /// Each document begins with its separator, so that files can be put one after another.
    fn text(&self, kubernetes: Kubernetes) -> String {
        let texts = self.documents(kubernetes).into_iter().map(|document| document.text);
        format!("---\n{}", texts.collect::<Vec<_>>().join("---\n"))
    }
}

/// The YAML files below a directory, by their paths in it.
fn yaml_below(directory: &Path) -> BTreeSet<String> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(directory, &mut found);
    found.iter().map(|path| path.strip_prefix(directory).unwrap().to_string_lossy().into_owned()).collect()
}

/// `make manifests` writes them.
#[test]
fn the_manifests_are_what_the_chart_renders() {
    let update = std::env::var_os("UPDATE_MANIFESTS").is_some();
    for directory in DIRECTORIES {
        for (name, rendered) in directory.contents() {
            let path = directory.path().join(&name);
            if update {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, rendered).unwrap();
                continue;
            }
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            let differs =
                committed.lines().zip(rendered.lines()).position(|(committed, rendered)| committed != rendered);
            assert!(
                committed == rendered,
                "deploy/{}/{name} is not what the chart renders, from line {} on: change the template and run `make manifests`",
                directory.name,
                1 + differs.unwrap_or_else(|| committed.lines().count().min(rendered.lines().count()))
            );
        }
    }
}

#[test]
fn every_template_is_in_a_file_and_no_file_has_another_origin() {
    let mut templates = BTreeSet::new();
    for directory in DIRECTORIES {
        let mut applied = BTreeSet::new();
        for file in directory.files() {
            for template in file.templates {
                let first = applied.insert((*template).to_owned());
                // Optional files may be variants of one another; the others are applied together.
                assert!(first || file.is_optional(), "{template} is in two files, {} is one", file.name);
            }
        }
        templates.extend(applied);
        let names: BTreeSet<String> = directory.contents().into_keys().collect();
        let hint = "deploy/chart/README.md says how to add one";
        assert_eq!(yaml_below(&directory.path()), names, "{}: {hint}", directory.name);
        let mut numbers: Vec<&str> = names
            .iter()
            .filter_map(|name| name.rsplit('/').next()?.split_once('-').map(|(number, _)| number))
            .collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "{}: a number is there twice: {names:?}", directory.name);
    }
    // Hooks are rendered where Helm installs, and nowhere else (`uninstall.rs`), or run where a person asks for it: `helm test`.
    let mut rendered = yaml_below(&chart().join("templates"));
    rendered.retain(|template| !template.starts_with("uninstall/") && template != "check/test.yaml");
    assert_eq!(rendered, templates);
}

/// Where a file is not `optional`, the chart has its contents without being asked, but for the namespaces, which Helm needs before.
#[test]
fn what_the_chart_installs_by_itself_is_what_is_not_optional() {
    for directory in DIRECTORIES {
        let documents = render_on(directory.kubernetes, NAMESPACE, &[]).into_iter();
        let by_itself: BTreeSet<String> = documents.map(|document| document.template).collect();
        let files = directory.files().into_iter().filter(|file| !file.is_optional() && file.settings.is_empty());
        let expected: BTreeSet<String> =
            files.flat_map(|file| file.templates).map(|template| (*template).to_owned()).collect();
        assert_eq!(by_itself, expected, "{}", directory.name);
    }
}

#[test]
fn the_chart_has_this_version_and_passes_helm_lint() {
    let text = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let about: Value = serde_saphyr::from_str(&text).unwrap();
    for field in ["version", "appVersion"] {
        assert_eq!(about[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
    for namespace in [NAMESPACE, "default"] {
        let image = format!("image.repository={REPOSITORY}");
        let output =
            helm().args(["lint", "--strict", "--set", &image, "--namespace", namespace]).arg(chart()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn an_older_kubernetes_than_the_api_types_are_for_is_refused() {
    let on = |version: &str| {
        let mut helm = helm();
        helm.args(["template", "linkerd-gate", "--namespace", NAMESPACE, "--kube-version", version]).arg(chart());
        helm.arg("--set").arg(format!("image.repository={REPOSITORY}"));
        helm.output().unwrap()
    };
    // With what providers append to it.
    for version in ["1.33.0", "v1.33.4-eks-99d6cc0", "1.36.3"] {
        assert!(on(version).status.success(), "{version}");
    }
    let refused = on("1.32.9");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("chart requires kubeVersion: >=1.33"), "{refused:?}");
}
