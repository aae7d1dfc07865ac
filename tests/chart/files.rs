//! The files of `deploy/manifests` are what the chart renders, and nothing else is in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::helm::{Document, NAMESPACE, chart, helm, render, root, set};

/// A file of `deploy/manifests`.
struct File {
    /// Its path there.
    name: &'static str,
    /// The templates that it is made of, in this order, below the chart's `templates`.
    templates: &'static [&'static str],
    /// What is not as by default there: the values' paths, and what they are, in JSON.
    settings: &'static [(&'static str, &'static str)],
}

/// Every file. Another one is another entry here, and `make manifests`: deploy/chart/README.md says how.
const FILES: &[File] = &[
    File { name: "10-namespaces.yaml", templates: &["namespaces.yaml"], settings: &[("createNamespaces", "true")] },
    File {
        name: "20-confinement.yaml",
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
        name: "30-rights.yaml",
        templates: &[
            "agent/rights/cluster.yaml",
            "agent/rights/own-namespace.yaml",
            "agent/rights/probe-namespace.yaml",
            "agent/rights/events.yaml",
        ],
        settings: &[],
    },
    File { name: "40-daemonset.yaml", templates: &["agent/daemonset.yaml"], settings: &[] },
    File {
        name: "50-controller-confinement.yaml",
        templates: &[
            "controller/confinement/pods.yaml",
            "controller/confinement/asked.yaml",
            "controller/confinement/owners.yaml",
            "controller/confinement/nodes.yaml",
            "controller/confinement/lease.yaml",
            "controller/confinement/events.yaml",
        ],
        settings: &[],
    },
    File {
        name: "51-controller-rights.yaml",
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
        name: "optional/51-eviction.yaml",
        templates: &["controller/rights/eviction.yaml"],
        settings: &[("controller.eviction", "\"on\"")],
    },
    File {
        name: "optional/50-guard.yaml",
        templates: &["guard/policy.yaml", "guard/binding.yaml"],
        settings: &[("guard.enabled", "true")],
    },
    File {
        name: "optional/51-guard-warn.yaml",
        templates: &["guard/binding.yaml"],
        settings: &[("guard.enabled", "true"), ("guard.action", "\"warn\"")],
    },
    File {
        name: "optional/52-guard-labelled.yaml",
        templates: &["guard/binding.yaml"],
        settings: &[("guard.enabled", "true"), ("guard.namespaces", "\"labelled\"")],
    },
    File {
        name: "optional/60-auto-init.yaml",
        templates: &["auto-init/policy.yaml"],
        settings: &[("autoInit.enabled", "true")],
    },
];

// === impl File ===

impl File {
    fn documents(&self) -> Vec<Document> {
        let json = |text: &str| {
            serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{}: {text}: {error}", self.name))
        };
        let settings: Vec<_> = self.settings.iter().map(|(path, value)| set(path, json(value))).collect();
        let rendered = render(NAMESPACE, &settings);
        let of = |template: &&str| {
            let documents: Vec<_> =
                rendered.iter().filter(|document| document.template == *template).cloned().collect();
            assert!(!documents.is_empty(), "{template} renders to nothing with {:?}", self.settings);
            documents
        };
        self.templates.iter().flat_map(of).collect()
    }

    fn text(&self) -> String {
        let texts: Vec<String> = self.documents().into_iter().map(|document| document.text).collect();
        texts.join("---\n")
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

/// `make manifests` writes them anew.
#[test]
fn the_manifests_are_what_the_chart_renders() {
    let manifests = root().join("deploy/manifests");
    let update = std::env::var_os("UPDATE_MANIFESTS").is_some();
    for file in FILES {
        let (path, rendered) = (manifests.join(file.name), file.text());
        if update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, rendered).unwrap();
            continue;
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = committed.lines().zip(rendered.lines()).position(|(committed, rendered)| committed != rendered);
        assert!(
            committed == rendered,
            "deploy/manifests/{} is not what the chart renders, from line {} on: change the template and run `make manifests`",
            file.name,
            1 + differs.unwrap_or_else(|| committed.lines().count().min(rendered.lines().count()))
        );
    }
}

#[test]
fn every_template_is_in_a_file_and_no_file_has_another_origin() {
    let mut templates = BTreeSet::new();
    for file in FILES {
        for template in file.templates {
            let first = templates.insert((*template).to_owned());
            // Optional files may be variants of one another; the others are applied together.
            assert!(first || file.name.starts_with("optional/"), "{template} is in two files, {} is one", file.name);
        }
    }
    assert_eq!(yaml_below(&chart().join("templates")), templates);
    let names: BTreeSet<String> = FILES.iter().map(|file| file.name.to_owned()).collect();
    assert_eq!(yaml_below(&root().join("deploy/manifests")), names, "deploy/chart/README.md says how to add one");
}

/// Where a file is not `optional`, the chart has its contents without being asked, but for the namespaces, which Helm needs before.
#[test]
fn what_the_chart_installs_by_itself_is_what_is_not_optional() {
    let by_itself: BTreeSet<String> = render(NAMESPACE, &[]).into_iter().map(|document| document.template).collect();
    let files = FILES.iter().filter(|file| !file.name.starts_with("optional/") && file.settings.is_empty());
    let expected: BTreeSet<String> =
        files.flat_map(|file| file.templates).map(|template| (*template).to_owned()).collect();
    assert_eq!(by_itself, expected);
}

#[test]
fn the_chart_is_of_this_version_and_helm_finds_nothing_wrong_with_it() {
    let text = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let about: Value = serde_saphyr::from_str(&text).unwrap();
    for field in ["version", "appVersion"] {
        assert_eq!(about[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
    for namespace in [NAMESPACE, "default"] {
        let output = helm().args(["lint", "--strict", "--namespace", namespace]).arg(chart()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn an_older_kubernetes_than_the_api_types_are_for_is_refused() {
    let on = |version: &str| {
        let mut helm = helm();
        helm.args(["template", "linkerd-gate", "--namespace", NAMESPACE, "--kube-version", version]).arg(chart());
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
