//! What must be able to run on a closed node, so that nothing the gate waits for waits for the gate.
//!
//! Essential are Linkerd's own namespace, every namespace that its live webhook does not select (kube-system, cert-manager,
//! our own, …: their pods are never injected, so holding them proves nothing), and what the operator adds by a label or a variable.

use super::node::TAINT_EFFECT;
use crate::linkerd::{WebhookView, names::label, webhook::Endpoint};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace, Pod, Toleration},
};
use std::collections::{BTreeMap, BTreeSet};

/// The label, with the value `true`, by which an operator calls a namespace essential: it counts for the agent and for the
/// policy that confines it alike.
pub const LABEL: &str = "linkerd-gate/essential";

/// A namespace, reduced to what decides whether it is essential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceView {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A pod that has no node yet, reduced likewise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its tolerations; nothing where the list is absent.
    pub tolerations: Option<Vec<Toleration>>,
    /// Nothing is to be done for it: the scheduler has not refused it, or it has a node, or is going away.
    pub settled: bool,
}

/// A DaemonSet, reduced likewise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DaemonSetView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The tolerations of its pods.
    pub tolerations: Vec<Toleration>,
}

/// One toleration to add to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tolerate {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid: another of the same name is not meant.
    pub uid: String,
    /// Whether it has a list to add to.
    pub has_tolerations: bool,
}

// === impl NamespaceView ===

impl NamespaceView {
    /// What decisions need of a Namespace.
    pub fn of(namespace: &Namespace) -> Self {
        let metadata = &namespace.metadata;
        Self { name: metadata.name.clone().unwrap_or_default(), labels: metadata.labels.clone().unwrap_or_default() }
    }
}

// === impl PodView ===

impl PodView {
    /// What decisions need of a Pod.
    pub fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        // The reason is part of the API; the message is not, and no longer names the taints.
        let refused = conditions.into_iter().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.reason.as_deref() == Some("Unschedulable")
        });
        let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            tolerations: pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()),
            settled: !refused || has_node || metadata.deletion_timestamp.is_some(),
        }
    }
}

// === impl DaemonSetView ===

impl DaemonSetView {
    /// What decisions need of a DaemonSet.
    pub fn of(daemon_set: &DaemonSet) -> Self {
        let metadata = &daemon_set.metadata;
        let template = daemon_set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            tolerations: template.and_then(|spec| spec.tolerations.clone()).unwrap_or_default(),
        }
    }
}

/// The names of the essential namespaces among these. Where Linkerd is not installed nothing is gated, and nothing is
/// essential.
pub fn namespaces<'a>(
    webhooks: &WebhookView,
    all: impl IntoIterator<Item = &'a NamespaceView>,
    added: &BTreeSet<String>,
) -> BTreeSet<String> {
    if webhooks.is_empty() {
        return BTreeSet::new();
    }
    let is_linkerds = |name: &str| {
        webhooks
            .webhooks
            .iter()
            .any(|webhook| matches!(&webhook.endpoint, Endpoint::Service { namespace, .. } if namespace == name))
    };
    let is_labelled = |namespace: &NamespaceView| namespace.labels.get(LABEL).is_some_and(|value| value == "true");
    let is_excluded = |namespace: &NamespaceView| {
        let mut labels = namespace.labels.clone();
        labels.insert(label::METADATA_NAME.to_owned(), namespace.name.clone());
        webhooks.webhooks.iter().all(|webhook| !webhook.namespace_selector.matches(&labels))
    };
    all.into_iter()
        .filter(|namespace| {
            is_linkerds(&namespace.name)
                || added.contains(&namespace.name)
                || is_labelled(namespace)
                || is_excluded(namespace)
        })
        .map(|namespace| namespace.name.clone())
        .collect()
}

/// The essential pods that wait for a node and could not go to a closed one.
pub fn tolerate<'a>(
    taint_key: &str,
    essential: &BTreeSet<String>,
    pods: impl IntoIterator<Item = &'a PodView>,
) -> Vec<Tolerate> {
    pods.into_iter()
        .filter(|pod| essential.contains(&pod.namespace) && !pod.settled)
        .filter(|pod| !pod.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint_key)))
        .map(|pod| Tolerate {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            has_tolerations: pod.tolerations.is_some(),
        })
        .collect()
}

/// The essential DaemonSets (`namespace/name`, sorted) whose pods do not tolerate our taint. A DaemonSet's controller makes
/// no pod at all for a node with such a taint, so there is no pod to add a toleration to.
pub fn yield_to<'a>(
    taint_key: &str,
    essential: &BTreeSet<String>,
    daemon_sets: impl IntoIterator<Item = &'a DaemonSetView>,
) -> Vec<String> {
    let mut names: Vec<String> = daemon_sets
        .into_iter()
        .filter(|set| essential.contains(&set.namespace))
        .filter(|set| !set.tolerations.iter().any(|toleration| tolerates(toleration, taint_key)))
        .map(|set| format!("{}/{}", set.namespace, set.name))
        .collect();
    names.sort_unstable();
    names
}

/// The toleration that an essential pod gets.
pub fn toleration(taint_key: &str) -> Toleration {
    Toleration {
        key: Some(taint_key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(TAINT_EFFECT.to_owned()),
        ..Toleration::default()
    }
}

/// Whether a toleration covers our taint, whatever value it has: `ToleratesTaint` of k8s.io/component-helpers. `Equal` does
/// not, because the value changes with each boot.
fn tolerates(toleration: &Toleration, taint_key: &str) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    toleration.operator.as_deref() == Some("Exists")
        && (key.is_empty() || key == taint_key)
        && (effect.is_empty() || effect == TAINT_EFFECT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::node::TAINT_KEY;
    use crate::linkerd::names::inject;

    fn namespace(name: &str, labels: &[(&str, &str)]) -> NamespaceView {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        NamespaceView { name: name.to_owned(), labels }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn exists(key: Option<&str>, effect: Option<&str>) -> Toleration {
        Toleration {
            key: key.map(str::to_owned),
            operator: Some("Exists".to_owned()),
            effect: effect.map(str::to_owned),
            ..Toleration::default()
        }
    }

    fn pod(namespace: &str, tolerations: Vec<Toleration>) -> PodView {
        PodView {
            namespace: namespace.to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            tolerations: Some(tolerations),
            settled: false,
        }
    }

    #[test]
    fn essential_is_linkerds_own_namespace_what_the_webhook_excludes_and_what_is_added() {
        let all = [
            namespace("default", &[]),
            namespace("kube-system", &[]),
            namespace("cert-manager", &[]),
            namespace("linkerd", &[]),
            namespace("linkerd-gate", &[(label::ADMISSION_WEBHOOKS, inject::DISABLED)]),
            namespace("shop", &[]),
            namespace("storage", &[]),
            namespace("network", &[(LABEL, "true")]),
            namespace("not-so", &[(LABEL, "yes")]),
        ];
        assert_eq!(
            namespaces(&WebhookView::chart_default(), &all, &set(&["storage", "not-there"])),
            set(&["kube-system", "cert-manager", "linkerd", "linkerd-gate", "network", "storage"])
        );
        assert_eq!(namespaces(&WebhookView::default(), &all, &set(&["storage"])), set(&[]), "nothing is gated");
    }

    #[test]
    fn only_an_essential_pod_without_a_node_that_does_not_tolerate_the_taint_gets_the_toleration() {
        let essential = set(&["kube-system"]);
        let wanting = pod("kube-system", vec![exists(Some("node.kubernetes.io/not-ready"), None)]);
        let bound = PodView { settled: true, ..wanting.clone() };
        let bare = PodView { tolerations: None, ..wanting.clone() };
        let pods = [
            wanting,
            bound,
            bare,
            pod("shop", vec![]),
            pod("kube-system", vec![exists(None, None)]),
            pod("kube-system", vec![exists(Some(TAINT_KEY), Some("NoSchedule"))]),
        ];
        let found = tolerate(TAINT_KEY, &essential, &pods);
        assert_eq!(found.iter().map(|pod| pod.has_tolerations).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn only_a_pod_that_the_scheduler_has_refused_wants_anything() {
        let pod = |reason: &str, node: Option<&str>| {
            PodView::of(
                &serde_json::from_value(serde_json::json!({
                    "metadata": {"name": "p"},
                    "spec": {"containers": [], "nodeName": node},
                    "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": reason}]},
                }))
                .unwrap(),
            )
        };
        assert!(!pod("Unschedulable", None).settled);
        assert!(pod("Unschedulable", Some("node-0")).settled);
        assert!(pod("SchedulingGated", None).settled);
    }

    #[test]
    fn a_toleration_counts_as_the_scheduler_counts_it() {
        for (toleration, counts) in [
            (exists(None, None), true),
            (exists(None, Some("NoSchedule")), true),
            (exists(None, Some("NoExecute")), false),
            (exists(Some(TAINT_KEY), None), true),
            (exists(Some("another"), None), false),
            (
                Toleration { key: Some(TAINT_KEY.to_owned()), value: Some("x".to_owned()), ..Toleration::default() },
                false,
            ),
            (toleration(TAINT_KEY), true),
        ] {
            assert_eq!(tolerates(&toleration, TAINT_KEY), counts, "{toleration:?}");
        }
    }

    #[test]
    fn a_daemon_set_that_could_not_run_on_a_closed_node_is_named() {
        let daemon_set = |namespace: &str, name: &str, tolerations| DaemonSetView {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            tolerations,
        };
        let sets = [
            daemon_set("kube-system", "kube-proxy", vec![exists(None, None)]),
            daemon_set("kube-system", "cni", vec![exists(Some("node.kubernetes.io/not-ready"), None)]),
            daemon_set("kube-system", "a", vec![]),
            daemon_set("shop", "logs", vec![]),
        ];
        assert_eq!(yield_to(TAINT_KEY, &set(&["kube-system"]), &sets), ["kube-system/a", "kube-system/cni"]);
    }
}
