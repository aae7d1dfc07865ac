//! What must be able to run on a closed node, so that nothing the gate waits for waits for the gate.
//!
//! Essential are Linkerd's own namespace, every namespace that its live webhook does not select (kube-system, cert-manager,
//! our own, …: their pods are never injected, so holding them proves nothing), and what the operator adds by a label or a variable.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec, Toleration};

use super::placement::{NodePlace, Placement};
use super::taint::TAINT_EFFECT;
use crate::decide::election::published_verdict::{EVERY_NODE, TaintSuppressions};
use crate::linkerd::WebhookView;
use crate::linkerd::names::label;
use crate::linkerd::webhook::Endpoint;

/// The label, with the value `true`, by which an operator calls a namespace essential: it counts for the agent and for the
/// policy that confines it alike.
pub const LABEL: &str = "linkerd-gate/essential";

/// A namespace, reduced to what decides whether it is essential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EssentialNamespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A pod that has no node yet, reduced likewise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnboundPod {
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
    /// Its uid: its pods name it as their owner.
    pub uid: String,
    /// Where it wants pods.
    pub placement: Placement,
    /// Whether an operator says, by the label [`LABEL`] with the value `false`, that no node need wait for it; or it is going away.
    pub optional: bool,
}

/// A pod of a DaemonSet, reduced to where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonPodView {
    /// The uid of its DaemonSet.
    pub owner: String,
    /// The name of its node.
    pub node: String,
}

/// One toleration to add to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddToleration {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid: another of the same name is not meant.
    pub uid: String,
    /// Whether it has a list to add to.
    pub has_tolerations: bool,
}

// === impl EssentialNamespace ===

impl EssentialNamespace {
    /// What decisions need of a Namespace.
    pub fn of(namespace: &Namespace) -> Self {
        let metadata = &namespace.metadata;
        Self { name: metadata.name.clone().unwrap_or_default(), labels: metadata.labels.clone().unwrap_or_default() }
    }
}

// === impl UnboundPod ===

impl UnboundPod {
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

impl UnboundPod {
    /// Whether it would want a toleration of our taint, if its namespace is essential.
    pub fn wants(&self, taint_key: &str) -> bool {
        !self.settled && !self.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint_key))
    }
}

// === impl DaemonSetView ===

impl DaemonSetView {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What decisions need of a DaemonSet.
    pub fn of(daemon_set: &DaemonSet) -> Self {
        let metadata = &daemon_set.metadata;
        let template = daemon_set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            placement: template.map(Placement::of).unwrap_or_default(),
            optional: metadata.deletion_timestamp.is_some()
                || metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).is_some_and(|value| value == "false"),
        }
    }
}

// === impl DaemonPodView ===

impl DaemonPodView {
    /// A pod of a DaemonSet that is there or comes: nothing of any other, of one that is going away, and of one that has ended.
    pub fn of(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if metadata.deletion_timestamp.is_some() || matches!(ended, Some("Failed" | "Succeeded")) {
            return None;
        }
        let mut owners = metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet")?.uid.clone();
        let spec = pod.spec.as_ref()?;
        let node = spec.node_name.clone().or_else(|| wanted_node(spec))?;
        Some(Self { owner, node })
    }
}

/// Where the DaemonSet's controller wants a pod that the scheduler has not bound yet (`ReplaceDaemonSetPodNodeNameNodeAffinity`).
fn wanted_node(spec: &PodSpec) -> Option<String> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.find(|field| field.key == "metadata.name" && field.operator == "In")?.values.as_ref()?.first().cloned()
}

/// The names of the essential namespaces among these. Where Linkerd is not installed nothing is gated, and nothing is
/// essential.
pub fn namespaces<'a>(
    webhooks: &WebhookView,
    all: impl IntoIterator<Item = &'a EssentialNamespace>,
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
    let is_labelled = |namespace: &EssentialNamespace| namespace.labels.get(LABEL).is_some_and(|value| value == "true");
    let is_excluded = |namespace: &EssentialNamespace| {
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
pub fn missing_tolerations<'a>(
    taint_key: &str,
    essential: &BTreeSet<String>,
    pods: impl IntoIterator<Item = &'a UnboundPod>,
) -> Vec<AddToleration> {
    pods.into_iter()
        .filter(|pod| essential.contains(&pod.namespace) && pod.wants(taint_key))
        .map(|pod| AddToleration {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            has_tolerations: pod.tolerations.is_some(),
        })
        .collect()
}

/// The essential DaemonSets whose pods do not tolerate our taint. A DaemonSet's controller makes no pod for a node with such a taint, so
/// there is no pod to add a toleration to. `ignored` are names of DaemonSets that no node waits for, `NAMESPACE/NAME` with an optional final `*`.
pub fn intolerant<'a>(
    taint_key: &str,
    essential: &BTreeSet<String>,
    ignored: &[String],
    daemon_sets: impl IntoIterator<Item = &'a DaemonSetView>,
) -> Vec<&'a DaemonSetView> {
    daemon_sets
        .into_iter()
        .filter(|set| essential.contains(&set.namespace) && !set.optional && !is_ignored(set, ignored))
        .filter(|set| !set.placement.tolerations.iter().any(|toleration| tolerates(toleration, taint_key)))
        .collect()
}

/// Whether a DaemonSet is in a list of `namespace/name`, of which each may end in `*`.
fn is_ignored(set: &DaemonSetView, ignored: &[String]) -> bool {
    let name = set.full_name();
    ignored.iter().any(|listed| match listed.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => *listed == name,
    })
}

/// The nodes that lack a pod of one of these DaemonSets because of our taint.
///
/// The controller of a DaemonSet ends no pod for a `NoSchedule` taint, so a node that has its pod stays closed. A node that yields has no
/// taint of ours any more: it is remembered from `before` until it has its pod.
pub fn suppressions<'a>(
    taint_key: &str,
    daemon_sets: &[&DaemonSetView],
    nodes: impl IntoIterator<Item = &'a NodePlace>,
    pods: impl IntoIterator<Item = &'a DaemonPodView>,
    before: &TaintSuppressions,
) -> TaintSuppressions {
    let nodes: Vec<&NodePlace> = nodes.into_iter().collect();
    let there: BTreeSet<(&str, &str)> = pods.into_iter().map(|pod| (pod.owner.as_str(), pod.node.as_str())).collect();
    let lacking = |set: &DaemonSetView| {
        let suppressed = before.get(&set.full_name());
        let concerned = |node: &NodePlace| {
            node.is_closed(taint_key)
                || suppressed.is_some_and(|nodes| nodes.contains(&node.name) || nodes.contains(EVERY_NODE))
        };
        let lacks = |node: &NodePlace| {
            !there.contains(&(set.uid.as_str(), node.name.as_str())) && set.placement.fits(node, taint_key)
        };
        let lacking = nodes.iter().filter(|node| concerned(node) && lacks(node));
        lacking.map(|node| node.name.clone()).collect()
    };
    let found = daemon_sets.iter().map(|set| (set.full_name(), lacking(set)));
    found.filter(|(_, nodes): &(String, BTreeSet<String>)| !nodes.is_empty()).collect()
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
    use k8s_openapi::api::core::v1::Taint;

    use super::*;
    use crate::decide::node::taint::TAINT_KEY;
    use crate::linkerd::names::inject;

    fn namespace(name: &str, labels: &[(&str, &str)]) -> EssentialNamespace {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        EssentialNamespace { name: name.to_owned(), labels }
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

    fn pod(namespace: &str, tolerations: Vec<Toleration>) -> UnboundPod {
        UnboundPod {
            namespace: namespace.to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            tolerations: Some(tolerations),
            settled: false,
        }
    }

    #[test]
    fn linkerd_excluded_and_added_namespaces_are_essential() {
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
    fn only_unbound_intolerant_essential_pods_get_the_toleration() {
        let essential = set(&["kube-system"]);
        let wanting = pod("kube-system", vec![exists(Some("node.kubernetes.io/not-ready"), None)]);
        let bound = UnboundPod { settled: true, ..wanting.clone() };
        let bare = UnboundPod { tolerations: None, ..wanting.clone() };
        let pods = [
            wanting,
            bound,
            bare,
            pod("shop", vec![]),
            pod("kube-system", vec![exists(None, None)]),
            pod("kube-system", vec![exists(Some(TAINT_KEY), Some("NoSchedule"))]),
        ];
        let found = missing_tolerations(TAINT_KEY, &essential, &pods);
        assert_eq!(found.iter().map(|pod| pod.has_tolerations).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn only_a_pod_that_the_scheduler_has_refused_wants_anything() {
        let pod = |reason: &str, node: Option<&str>| {
            UnboundPod::of(
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

    fn daemon_set(namespace: &str, name: &str, tolerations: Vec<Toleration>) -> DaemonSetView {
        DaemonSetView {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            placement: Placement::anywhere(tolerations),
            optional: false,
        }
    }

    fn place(name: &str, closed: bool) -> NodePlace {
        let taint = Taint { key: TAINT_KEY.to_owned(), effect: TAINT_EFFECT.to_owned(), ..Taint::default() };
        let taints = if closed { vec![taint] } else { Vec::new() };
        NodePlace { name: name.to_owned(), taints, ..NodePlace::default() }
    }

    fn pod_of(set: &str, node: &str) -> DaemonPodView {
        DaemonPodView { owner: format!("uid-of-{set}"), node: node.to_owned() }
    }

    #[test]
    fn a_daemon_set_that_could_not_run_on_a_closed_node_is_found() {
        let optional = DaemonSetView { optional: true, ..daemon_set("kube-system", "optional", vec![]) };
        let sets = [
            daemon_set("kube-system", "kube-proxy", vec![exists(None, None)]),
            daemon_set("kube-system", "cni", vec![exists(Some("node.kubernetes.io/not-ready"), None)]),
            daemon_set("kube-system", "svclb-web-1a2b", vec![]),
            optional,
            daemon_set("shop", "logs", vec![]),
        ];
        let found = |ignored: &[&str]| -> Vec<String> {
            let ignored: Vec<String> = ignored.iter().map(|name| (*name).to_owned()).collect();
            let essential = set(&["kube-system"]);
            intolerant(TAINT_KEY, &essential, &ignored, &sets).into_iter().map(|set| set.name.clone()).collect()
        };
        assert_eq!(found(&[]), ["cni", "svclb-web-1a2b"]);
        assert_eq!(found(&["kube-system/svclb-*"]), ["cni"]);
        assert_eq!(found(&["kube-system/cni", "other/svclb-*"]), ["svclb-web-1a2b"]);
    }

    #[test]
    fn a_taint_is_suppressed_only_while_a_daemon_pod_is_missing() {
        let cni = daemon_set("kube-system", "cni", vec![]);
        let sets = [&cni];
        let nodes = [place("a", true), place("b", true), place("open", false)];
        let suppressions =
            |pods: &[DaemonPodView], before: &TaintSuppressions| suppressions(TAINT_KEY, &sets, &nodes, pods, before);
        let on = |nodes: &[&str]| TaintSuppressions::from([("kube-system/cni".to_owned(), set(nodes))]);

        assert_eq!(
            suppressions(&[pod_of("cni", "a")], &TaintSuppressions::new()),
            on(&["b"]),
            "a pod that is there is not ended"
        );
        assert_eq!(suppressions(&[pod_of("cni", "a"), pod_of("cni", "b")], &on(&["b"])), TaintSuppressions::new());
        assert_eq!(suppressions(&[pod_of("another", "a")], &TaintSuppressions::new()), on(&["a", "b"]));
        // It has no taint while it yields, and yields until it has its pod.
        assert_eq!(suppressions(&[pod_of("cni", "a"), pod_of("cni", "b")], &on(&["open"])), on(&["open"]));
        assert_eq!(suppressions(&[pod_of("cni", "a"), pod_of("cni", "b")], &on(&[EVERY_NODE])), on(&["open"]));
    }

    #[test]
    fn a_daemon_set_that_does_not_want_the_node_opens_nothing() {
        let nowhere: PodSpec =
            serde_json::from_value(serde_json::json!({"containers": [], "nodeSelector": {"no": "where"}})).unwrap();
        let leftover = DaemonSetView { placement: Placement::of(&nowhere), ..daemon_set("kube-system", "old", vec![]) };
        let closed = [place("a", true)];
        assert_eq!(
            suppressions(TAINT_KEY, &[&leftover], &closed, &[], &TaintSuppressions::new()),
            TaintSuppressions::new()
        );
        let taint = Taint { key: "gpu".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        let mut kept_away = place("a", true);
        kept_away.taints.push(taint);
        let cni = daemon_set("kube-system", "cni", vec![]);
        assert_eq!(
            suppressions(TAINT_KEY, &[&cni], &[kept_away], &[], &TaintSuppressions::new()),
            TaintSuppressions::new()
        );
    }

    #[test]
    fn a_daemon_sets_pod_counts_where_it_is_or_is_to_be() {
        let pod = |node: Option<&str>, more: serde_json::Value| {
            let affinity = serde_json::json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["wanted"]}]}],
            }}});
            let owner = serde_json::json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "cni", "uid": "u", "controller": true,
            });
            let mut pod = serde_json::json!({
                "metadata": {"name": "p", "ownerReferences": [owner]},
                "spec": {"containers": [], "nodeName": node, "affinity": affinity},
            });
            for (key, value) in more.as_object().unwrap() {
                pod[key] = value.clone();
            }
            DaemonPodView::of(&serde_json::from_value(pod).unwrap()).map(|pod| pod.node)
        };
        assert_eq!(pod(Some("bound"), serde_json::json!({})).as_deref(), Some("bound"));
        assert_eq!(pod(None, serde_json::json!({})).as_deref(), Some("wanted"));
        assert_eq!(pod(Some("bound"), serde_json::json!({"status": {"phase": "Failed"}})), None);
        assert_eq!(pod(Some("bound"), serde_json::json!({"metadata": {"name": "p"}})), None);
    }

    #[test]
    fn a_daemon_set_is_optional_by_its_label_or_on_its_way_out() {
        let view = |metadata: serde_json::Value| {
            let set = serde_json::json!({
                "metadata": metadata,
                "spec": {"selector": {}, "template": {"spec": {"containers": [], "nodeSelector": {"disk": "ssd"}}}},
            });
            DaemonSetView::of(&serde_json::from_value(set).unwrap())
        };
        let names = serde_json::json!({"namespace": "kube-system", "name": "cni", "uid": "u"});
        let plain = view(names.clone());
        assert_eq!((plain.full_name().as_str(), plain.uid.as_str(), plain.optional), ("kube-system/cni", "u", false));
        assert_ne!(plain.placement, Placement::default(), "its template says where it runs");
        for (field, value, optional) in [
            ("labels", serde_json::json!({LABEL: "false"}), true),
            ("labels", serde_json::json!({LABEL: "true"}), false),
            ("deletionTimestamp", serde_json::json!("2026-01-01T00:00:00Z"), true),
        ] {
            let mut metadata = names.clone();
            metadata[field] = value;
            assert_eq!(view(metadata.clone()).optional, optional, "{metadata}");
        }
    }
}
