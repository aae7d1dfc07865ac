//! What an API server refuses of a pod that the injector patched, and where the patched pod can never start.
//!
//! The injector does not look at any of it: it patches, and the pod as patched is then refused (*measured*, Linkerd's own patch
//! of edge-26.8.3 given to kube-apiserver 1.36.3). Such a pod never comes into being as long as the injector answers.

use super::{
    annotation::{CONFIG, effective},
    names,
    quantity::billionths,
};
use k8s_openapi::{
    api::core::v1::{LimitRange, NodeSelectorTerm, Pod, PodSpec, ResourceQuota},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use std::{collections::BTreeMap, fmt};

/// The names of volumes that the injector adds (`charts/patch/templates/patch.json`).
const VOLUMES: [&str; 3] = ["linkerd-identity-end-entity", "linkerd-identity-token", "linkerd-proxy-init-xtables-lock"];

/// What the proxy can be given of, and what quotas call it.
const RESOURCES: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// What else of the namespace decides about an injected pod, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// The quotas of the pod's namespace.
    pub quotas: &'a [&'a ResourceQuota],
    /// Its limit ranges.
    pub limits: &'a [&'a LimitRange],
}

/// One reason why an injected pod never starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// One of its containers is called as the one is that the injector adds.
    ContainerName(&'static str),

    /// One of its volumes is.
    VolumeName(&'static str),

    /// It is for Windows, by `spec.os`: what the injector adds is not.
    Windows,

    /// It is for Windows nodes, by its node selector: it is admitted, and Linkerd's containers never start there.
    WindowsNodes,

    /// The proxy's request is above its limit.
    RequestAboveLimit {
        /// `cpu`, `memory` or `ephemeral-storage`.
        resource: &'static str,
        /// What the annotation, or a LimitRange, says.
        request: String,
        /// What the annotation, or a LimitRange, says.
        limit: String,
    },

    /// Its namespace enforces a level of PodSecurity that `linkerd-init` does not meet.
    PodSecurity(String),

    /// A quota counts what the proxy does not say.
    Quota {
        /// The quota's name.
        quota: String,
        /// What it counts: `limits.cpu`, `requests.memory`, ….
        counts: Vec<String>,
    },

    /// A LimitRange does not allow what the proxy says.
    LimitRange {
        /// Its name.
        name: String,
        /// What it says.
        says: String,
    },
}

/// Every reason why `pod`, once injected in `namespace`, is refused or can never start.
pub fn refusals(pod: &Pod, namespace: &ObjectMeta, surroundings: Surroundings<'_>) -> Vec<Refusal> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut refusals = Vec::new();
    if spec.containers.iter().any(|container| container.name == names::container::INIT) {
        refusals.push(Refusal::ContainerName(names::container::INIT));
    }
    let debugged = effective(&pod.metadata, namespace, &format!("{CONFIG}enable-debug-sidecar"));
    // As Go's `strconv.ParseBool` reads it.
    if debugged.is_some_and(|(value, _)| ["1", "t", "T", "true", "True", "TRUE"].contains(&value)) {
        let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        if all.any(|container| container.name == names::container::DEBUG) {
            refusals.push(Refusal::ContainerName(names::container::DEBUG));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(name) = VOLUMES.into_iter().find(|name| *name == volume.name) {
            refusals.push(Refusal::VolumeName(name));
        }
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        refusals.push(Refusal::Windows);
    } else if is_for_windows_nodes(spec) {
        refusals.push(Refusal::WindowsNodes);
    }
    refusals.extend(resources(&pod.metadata, namespace, surroundings));
    let level = namespace.labels.as_ref().and_then(|labels| labels.get("pod-security.kubernetes.io/enforce"));
    if let Some(level @ ("baseline" | "restricted")) = level.map(String::as_str) {
        refusals.push(Refusal::PodSecurity(level.to_owned()));
    }
    refusals
}

/// Whether only Windows nodes can take the pod: most pods for Windows say it so, and not by `spec.os`.
fn is_for_windows_nodes(spec: &PodSpec) -> bool {
    const KEYS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
    let selected = spec
        .node_selector
        .as_ref()
        .is_some_and(|selector| KEYS.iter().any(|key| selector.get(*key).is_some_and(|system| system == "windows")));
    let only_windows = |term: &NodeSelectorTerm| {
        term.match_expressions.iter().flatten().any(|expression| {
            let values = expression.values.as_deref().unwrap_or_default();
            KEYS.contains(&expression.key.as_str()) && expression.operator == "In" && values == ["windows"]
        })
    };
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        || required.is_some_and(|required| {
            !required.node_selector_terms.is_empty() && required.node_selector_terms.iter().all(only_windows)
        })
}

/// What becomes of the proxy's requests and limits: annotations say them, LimitRanges fill in, quotas want them said.
fn resources(pod: &ObjectMeta, namespace: &ObjectMeta, surroundings: Surroundings<'_>) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut said: Vec<String> = Vec::new();
    for resource in RESOURCES {
        // What is no amount, the injector passes over with a line in its log.
        let annotated = |what: &str| {
            let (value, _) = effective(pod, namespace, &format!("{CONFIG}proxy-{resource}-{what}"))?;
            billionths(value).map(|_| value.to_owned())
        };
        let of_container = surroundings.limits.iter().flat_map(|range| {
            let name = range.metadata.name.as_deref().unwrap_or_default();
            let items = range.spec.iter().flat_map(|spec| &spec.limits);
            items.filter(|item| item.type_ == "Container").map(move |item| (name, item))
        });
        let of_container: Vec<_> = of_container.collect();
        let amount = |map: &Option<BTreeMap<String, Quantity>>| {
            map.as_ref().and_then(|map| map.get(resource)).map(|Quantity(amount)| amount.clone())
        };
        let filled_in = |limit: bool| {
            of_container.iter().find_map(|(_, item)| {
                if limit { amount(&item.default).or_else(|| amount(&item.max)) } else { amount(&item.default_request) }
            })
        };
        let limit = annotated("limit").or_else(|| filled_in(true));
        let request = annotated("request").or_else(|| filled_in(false)).or_else(|| limit.clone());
        if let (Some(request), Some(limit)) = (&request, &limit)
            && billionths(request) > billionths(limit)
        {
            let (request, limit) = (request.clone(), limit.clone());
            refusals.push(Refusal::RequestAboveLimit { resource, request, limit });
        }
        for (name, item) in &of_container {
            let mut against =
                |bound: Option<String>, amount: &Option<String>, what: &str, breaks: fn(i128, i128) -> bool| {
                    if let (Some(bound), Some(amount)) = (bound, amount)
                        && let (Some(bound_of), Some(amount_of)) = (billionths(&bound), billionths(amount))
                        && breaks(amount_of, bound_of)
                    {
                        let says = format!("{what} {resource} per container is {bound}, and the proxy's is {amount}");
                        refusals.push(Refusal::LimitRange { name: (*name).to_owned(), says });
                    }
                };
            against(amount(&item.max), &limit, "the most", |amount, bound| amount > bound);
            against(amount(&item.min), &request, "the least", |amount, bound| amount < bound);
        }
        said.extend(limit.map(|_| format!("limits.{resource}")));
        said.extend(request.map(|_| format!("requests.{resource}")));
    }
    for quota in surroundings.quotas {
        let Some(spec) = &quota.spec else { continue };
        // Which pods a scope takes in depends on more than is known here.
        if spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty()) || spec.scope_selector.is_some() {
            continue;
        }
        let counts = spec.hard.iter().flatten().filter_map(|(key, _)| match key.as_str() {
            "cpu" | "memory" => Some(format!("requests.{key}")),
            "requests.cpu" | "requests.memory" | "limits.cpu" | "limits.memory" => Some(key.clone()),
            _ => None,
        });
        let mut counts: Vec<_> = counts.filter(|counted| !said.contains(counted)).collect();
        counts.sort();
        counts.dedup();
        if !counts.is_empty() {
            refusals.push(Refusal::Quota { quota: quota.metadata.name.clone().unwrap_or_default(), counts });
        }
    }
    refusals
}

// === impl Refusal ===

impl Refusal {
    /// A word for programs.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::ContainerName(_) => "container_name",
            Self::VolumeName(_) => "volume_name",
            Self::Windows => "windows",
            Self::WindowsNodes => "windows_nodes",
            Self::RequestAboveLimit { .. } => "request_above_limit",
            Self::PodSecurity(_) => "pod_security",
            Self::Quota { .. } => "quota",
            Self::LimitRange { .. } => "limit_range",
        }
    }

    /// Whether it holds however Linkerd is installed: with Linkerd's CNI plug-in there is no `linkerd-init`.
    pub const fn is_certain(&self) -> bool {
        !matches!(self, Self::PodSecurity(_) | Self::Quota { .. } | Self::LimitRange { .. })
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        let annotation = |name: &str| format!("{CONFIG}{name}");
        match self {
            Self::ContainerName(name) => format!("give the container {name} another name"),
            Self::VolumeName(name) => format!("give the volume {name} another name"),
            Self::Windows | Self::WindowsNodes => {
                format!(
                    "set {}: {} on the pod: Linkerd has no proxy for Windows here",
                    names::annotation::INJECT,
                    names::inject::DISABLED
                )
            }
            Self::RequestAboveLimit { resource, .. } => format!(
                "set {} to no more than {}",
                annotation(&format!("proxy-{resource}-request")),
                annotation(&format!("proxy-{resource}-limit"))
            ),
            Self::PodSecurity(_) => "install Linkerd's CNI plug-in, or let the namespace enforce privileged".to_owned(),
            Self::Quota { counts, .. } => {
                let annotations = counts.iter().map(|counted| {
                    let (what, resource) = counted.split_once('.').unwrap_or(("requests", counted));
                    annotation(&format!("proxy-{resource}-{}", what.trim_end_matches('s')))
                });
                format!("set {}", annotations.collect::<Vec<_>>().join(" and "))
            }
            Self::LimitRange { .. } => {
                format!("set {}, … to what it allows", annotation("proxy-cpu-limit"))
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REFUSES: &str = "the injector patches the pod, and the API server then refuses it";
        match self {
            Self::ContainerName(name) => {
                write!(f, "a container is called {name}, as the one is that Linkerd adds: {REFUSES}")
            }
            Self::VolumeName(name) => {
                write!(f, "a volume is called {name}, as the one is that Linkerd adds: {REFUSES}")
            }
            Self::Windows => write!(f, "this is a pod for Windows: {REFUSES}"),
            Self::WindowsNodes => f.write_str(
                "its node selector takes Windows nodes only: the injector patches the pod, the API server admits it, \
                 and Linkerd's containers, which are for Linux, never start there",
            ),
            Self::RequestAboveLimit { resource, request, limit } => {
                write!(f, "the proxy's {resource} request {request} is above its limit {limit}: {REFUSES}")
            }
            Self::PodSecurity(level) => write!(
                f,
                "its namespace enforces the PodSecurity level {level}, which allows neither NET_ADMIN nor NET_RAW, and \
                 {} needs both: unless Linkerd's CNI plug-in is installed, {REFUSES}",
                names::container::INIT
            ),
            Self::Quota { quota, counts } => write!(
                f,
                "the ResourceQuota {quota} counts {}, which the proxy does not say unless Linkerd was installed with it: \
                 else {REFUSES}",
                counts.join(", ")
            ),
            Self::LimitRange { name, says } => write!(f, "by the LimitRange {name} {says}: {REFUSES}"),
        }
    }
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
