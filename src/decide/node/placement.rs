//! On which nodes a DaemonSet's controller wants pods: what its pods' template asks of a node, beside what the node is.
//!
//! As `NodeShouldRunDaemonPod` of the DaemonSet controller decides it (k8s.io/kubernetes, `pkg/controller/daemon`): the node's name, its
//! labels by selector and required affinity, and its taints of the effects `NoSchedule` and `NoExecute`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

use super::taint::TAINT_EFFECT;

/// What a pod's template asks of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    node_name: Option<String>,
    labels: BTreeMap<String, String>,
    /// One of these; `None` where nothing is required.
    terms: Option<Vec<NodeSelectorTerm>>,
    /// Its own tolerations.
    pub tolerations: Vec<Toleration>,
    host_network: bool,
}

/// A node, reduced to what a template can ask of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodePlace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
}

// === impl NodePlace ===

impl NodePlace {
    /// What a template can ask of a Node.
    pub fn of(node: &Node) -> Self {
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default(),
        }
    }

    /// Whether it has our taint.
    pub fn is_closed(&self, taint_key: &str) -> bool {
        self.taints.iter().any(|taint| is_ours(taint, taint_key))
    }
}

// === impl Placement ===

impl Placement {
    /// Of a template that asks nothing of a node, with these tolerations.
    pub fn anywhere(tolerations: Vec<Toleration>) -> Self {
        Self { tolerations, ..Self::default() }
    }

    /// What a template asks of a node.
    pub fn of(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
            labels: spec.node_selector.clone().unwrap_or_default(),
            terms: required.map(|required| required.node_selector_terms.clone()),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            host_network: spec.host_network.unwrap_or_default(),
        }
    }

    /// Whether a DaemonSet's controller would want a pod there, were it not for our taint.
    pub fn fits(&self, node: &NodePlace, taint_key: &str) -> bool {
        self.node_name.as_ref().is_none_or(|name| *name == node.name)
            && self.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| matches(term, node)))
            && node.taints.iter().all(|taint| is_ours(taint, taint_key) || self.tolerates(taint))
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        if taint.effect != "NoSchedule" && taint.effect != "NoExecute" {
            return true;
        }
        self.is_tolerated_by_every_daemon_pod(taint)
            || self.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    }

    /// What the DaemonSet controller adds to each of its pods (`AddOrUpdateDaemonPodTolerations`).
    fn is_tolerated_by_every_daemon_pod(&self, taint: &Taint) -> bool {
        let Some(condition) = taint.key.strip_prefix("node.kubernetes.io/") else { return false };
        match (condition, taint.effect.as_str()) {
            ("not-ready" | "unreachable", "NoExecute")
            | ("disk-pressure" | "memory-pressure" | "pid-pressure" | "unschedulable", "NoSchedule") => true,
            ("network-unavailable", "NoSchedule") => self.host_network,
            _ => false,
        }
    }
}

fn is_ours(taint: &Taint, taint_key: &str) -> bool {
    taint.key == taint_key && taint.effect == TAINT_EFFECT
}

/// `ToleratesTaint` of k8s.io/component-helpers.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// Whether a node meets a term: every requirement of it. A term without any meets no node (k8s.io/component-helpers, `nodeaffinity`).
fn matches(term: &NodeSelectorTerm, node: &NodePlace) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    // The only field that there is.
    let field = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
    expressions.iter().all(|wanted| meets(wanted, node.labels.get(&wanted.key).map(String::as_str)))
        && fields.iter().all(|wanted| meets(wanted, field(&wanted.key)))
}

fn meets(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let is_listed = |value: &str| values.iter().any(|listed| listed == value);
    let compares = |compare: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(|bound| bound.parse().ok());
        value.and_then(|value| value.parse().ok()).zip(bound).is_some_and(|(value, bound)| compare(&value, &bound))
    };
    match wanted.operator.as_str() {
        "In" => value.is_some_and(is_listed),
        "NotIn" => !value.is_some_and(is_listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compares(i64::gt),
        "Lt" => compares(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "what `json!` makes is given away")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decide::node::taint::TAINT_KEY;

    fn fits(spec: Value, node: Value) -> bool {
        let mut template = json!({"containers": []});
        template.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let node = serde_json::from_value(node).unwrap();
        Placement::of(&serde_json::from_value(template).unwrap()).fits(&NodePlace::of(&node), TAINT_KEY)
    }

    fn node(labels: Value, taints: Value) -> Value {
        json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}})
    }

    #[test]
    fn a_plain_template_fits_every_node_without_foreign_taints() {
        let ours = json!({"key": TAINT_KEY, "effect": "NoSchedule", "value": "b-1"});
        assert!(fits(json!({}), node(json!({}), json!([ours]))), "our own taint is not what keeps it away");
        let others = json!({"key": "gpu", "effect": "NoSchedule", "value": "yes"});
        assert!(!fits(json!({}), node(json!({}), json!([ours, others]))));
        for toleration in [
            json!({"key": "gpu", "operator": "Exists"}),
            json!({"key": "gpu", "value": "yes"}),
            json!({"operator": "Exists"}),
        ] {
            assert!(fits(json!({"tolerations": [toleration]}), node(json!({}), json!([ours, others]))), "{toleration}");
        }
        for toleration in [
            json!({"key": "gpu", "value": "no"}),
            json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}),
            json!({"operator": "Equal", "value": "yes"}),
        ] {
            assert!(!fits(json!({"tolerations": [toleration]}), node(json!({}), json!([others]))), "{toleration}");
        }
        let soft = json!([{"key": "gpu", "effect": "PreferNoSchedule"}]);
        assert!(fits(json!({}), node(json!({}), soft)));
    }

    #[test]
    fn what_the_controller_adds_to_every_pod_is_tolerated() {
        let at = |key: &str, effect: &str, host_network: bool| {
            let taints = json!([{"key": format!("node.kubernetes.io/{key}"), "effect": effect}]);
            fits(json!({"hostNetwork": host_network}), node(json!({}), taints))
        };
        assert!(at("not-ready", "NoExecute", false) && at("unschedulable", "NoSchedule", false));
        assert!(!at("not-ready", "NoSchedule", false), "it waits until the node is ready");
        assert!(at("network-unavailable", "NoSchedule", true) && !at("network-unavailable", "NoSchedule", false));
    }

    #[test]
    fn labels_names_and_affinity_choose_nodes() {
        let labels = json!({"pool": "a", "size": "7"});
        let selects = |spec: Value| fits(spec, node(labels.clone(), json!([])));
        assert!(selects(json!({"nodeSelector": {"pool": "a"}})) && !selects(json!({"nodeSelector": {"pool": "b"}})));
        assert!(selects(json!({"nodeName": "n"})) && !selects(json!({"nodeName": "m"})));
        let affinity = |terms: Value| {
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            selects(json!({"affinity": {"nodeAffinity": required}}))
        };
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (term, expected) in [
            (expression("pool", "In", json!(["a", "b"])), true),
            (expression("pool", "NotIn", json!(["a"])), false),
            (expression("zone", "NotIn", json!(["a"])), true),
            (expression("zone", "Exists", json!(null)), false),
            (expression("zone", "DoesNotExist", json!(null)), true),
            (expression("size", "Gt", json!(["6"])), true),
            (expression("size", "Lt", json!(["7"])), false),
            (expression("pool", "Gt", json!(["6"])), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}), true),
            (json!({}), false),
        ] {
            assert_eq!(affinity(json!([term])), expected, "{term}");
        }
        let either = json!([expression("pool", "In", json!(["b"])), expression("size", "Exists", json!(null))]);
        assert!(affinity(either), "one term is enough");
        assert!(!affinity(json!([])), "none is not");
    }
}
