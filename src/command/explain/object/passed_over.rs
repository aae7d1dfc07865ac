//! What makes no pods, or none that are found.

use std::fmt;
use std::path::Path;

use crate::command::explain::read::Place;
use crate::command::explain::{plain, template};

/// An object that is neither a pod, nor makes pods, nor says anything about them.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct PassedOver {
    pub(super) place: Place,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) name: String,
    /// Why a pod's template in it could not be read.
    pub(super) unread: Option<String>,
    /// What renders it, where it is what manifests are made of.
    pub(super) tip: Option<String>,
}

/// What to do with a file that is no manifest, but what manifests are made of; nothing where its name does not tell.
pub(super) fn tip_for_file(file: &str) -> Option<String> {
    let path = Path::new(file);
    let name = path.file_name()?.to_str()?;
    if ["kustomization.yaml", "kustomization.yml"].contains(&name) {
        return Some(kustomize(path));
    }
    let is_charts = ["Chart.yaml", "Chart.lock", "values.schema.json"].contains(&name)
        || name.starts_with("values") && [".yaml", ".yml"].iter().any(|ending| name.ends_with(ending));
    is_charts.then(|| {
        format!("it is a file of a Helm chart; render that: helm template {} | linkerd-gate explain -f -", folder(path))
    })
}

/// The same of an object of a kind.
pub(super) fn tip_for_kind(version: &str, kind: &str, file: &str) -> Option<String> {
    (version.starts_with("kustomize.config.k8s.io/") && ["Kustomization", "Component"].contains(&kind))
        .then(|| kustomize(Path::new(file)))
}

fn kustomize(path: &Path) -> String {
    format!("it is a kustomization; render it: kubectl kustomize {} | linkerd-gate explain -f -", folder(path))
}

fn folder(path: &Path) -> String {
    match path.parent().map(|folder| folder.to_string_lossy().into_owned()) {
        Some(folder) if !folder.is_empty() => folder,
        _ => ".".to_owned(),
    }
}

// === impl PassedOver ===

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, version, kind, name, unread, tip } = self;
        if let Some(tip) = tip {
            return write!(f, "{place}: passed over: {}", plain(tip));
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let [version, kind_text, name] = [version, kind, name].map(|text| plain(text));
        if template::makes_no_pods(group, kind) {
            return write!(f, "{place}: {kind_text} {name} makes no pods: passed over");
        }
        if let Some(unread) = unread {
            let unread = plain(unread);
            return write!(
                f,
                "{place}: {kind_text} {name}: the pod template in it cannot be read: {unread}: passed over"
            );
        }
        write!(
            f,
            "{place}: {kind_text} ({version}) has no pod template that linkerd-gate finds: {name} is passed over; \
             if it makes pods, give one of them: kubectl get pod NAME -o yaml"
        )
    }
}
