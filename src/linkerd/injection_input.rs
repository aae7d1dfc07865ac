//! What the injector reads of a pod and of a namespace, and nothing else of them: what a controller keeps of thousands.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::names;

/// A pod as the injector would see it before it injects, reduced to what decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodInput {
    /// Its labels, which webhooks select by.
    pub(super) labels: BTreeMap<String, String>,
    /// Its annotation; empty where it has none.
    pub(super) inject: String,
    /// What its spec says; nothing where it has none.
    pub(super) spec: Option<SpecInput>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpecInput {
    pub(super) host_network: bool,
    pub(super) sidecar: bool,
    pub(super) token: bool,
}

/// A namespace, reduced likewise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceInput {
    /// Its labels, and its name as one of them.
    pub(super) labels: BTreeMap<String, String>,
    /// Its annotation; empty where it has none.
    pub(super) inject: String,
}

// === impl PodInput ===

impl PodInput {
    /// What decides of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            inject: inject_annotation(&pod.metadata).to_owned(),
            spec: pod.spec.as_ref().map(|spec| SpecInput {
                host_network: spec.host_network.unwrap_or(false),
                sidecar: has_sidecar(spec),
                token: has_token(spec),
            }),
        }
    }
}

// === impl NamespaceInput ===

impl NamespaceInput {
    /// What decides of a namespace.
    pub fn of(namespace: &Namespace) -> Self {
        Self {
            labels: namespace_labels(&namespace.metadata),
            inject: inject_annotation(&namespace.metadata).to_owned(),
        }
    }
}

/// The labels by which a namespace is selected: its own, and its name under the key that the API server always sets.
pub(super) fn namespace_labels(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    let mut labels = metadata.labels.clone().unwrap_or_default();
    if let Some(name) = &metadata.name {
        labels.insert(names::label::METADATA_NAME.to_owned(), name.clone());
    }
    labels
}

/// The value of the annotation that asks for injection; empty where there is none, which Linkerd does not tell apart.
pub fn inject_annotation(metadata: &ObjectMeta) -> &str {
    metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(names::annotation::INJECT))
        .map_or("", String::as_str)
}

/// Whether the pod has a proxy, or what prepares for one, by `HasExistingSidecars` in `pkg/healthcheck/sidecar.go`.
pub(super) fn has_sidecar(spec: &PodSpec) -> bool {
    all_containers(spec).any(is_sidecar) || init_containers(spec).any(is_sidecar_init)
}

/// Whether the injector takes this container, wherever it stands in a pod, for a sidecar.
pub fn is_sidecar(container: &Container) -> bool {
    [names::container::PROXY, names::container::ISTIO_PROXY].contains(&container.name.as_str())
        || has_image(container, &[names::image_prefix::PROXY, names::image_prefix::ISTIO_PROXY])
}

/// Whether the injector takes this container, among a pod's init containers, for one that prepares for a sidecar.
pub fn is_sidecar_init(container: &Container) -> bool {
    [names::container::INIT, names::container::ISTIO_INIT].contains(&container.name.as_str())
        || has_image(container, &[names::image_prefix::PROXY_INIT, names::image_prefix::ISTIO_PROXY_INIT])
}

fn has_image(container: &Container, prefixes: &[&str]) -> bool {
    container.image.as_deref().is_some_and(|image| prefixes.iter().any(|prefix| image.starts_with(prefix)))
}

/// Whether the API server mounted a service account's token where the proxy would look for it: in the first container.
pub(super) fn has_token(spec: &PodSpec) -> bool {
    spec.automount_service_account_token != Some(false)
        && spec.containers.first().is_some_and(|container| {
            let mut mounts = container.volume_mounts.iter().flatten();
            mounts.any(|mount| mount.mount_path == names::path::SERVICE_ACCOUNT)
        })
}

fn init_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten()
}

/// Init containers, then containers.
pub(super) fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    init_containers(spec).chain(&spec.containers)
}
