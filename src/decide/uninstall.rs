//! Uninstalling: in which order, and what becomes of each held pod.
//!
//! A pod that our gate holds stays held for ever once the policy and the controller are gone (seen). So they go first, then what is
//! held is let go, and at the end nothing of ours is left on pods, Jobs and nodes.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::hold;
use super::node::taint;
use super::repair::object::SUSPENDED;
use super::repair::recreate::controller;
use crate::linkerd::mesh_state::has_proxy;

/// The beginning of the keys of all our annotations.
const PREFIX: &str = "linkerd-gate/";

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The controller goes: otherwise it would replace, suspend and gate pods against us.
    StopController,
    /// The admission bindings go: from then on no pod is held or refused.
    Unbind,
    /// Held pods are deleted or released.
    LetGo,
    /// Jobs that we suspended go on.
    ResumeJobs,
    /// The agents go: otherwise they would put their taints back.
    StopAgents,
    /// Taints and annotations come off nodes.
    FreeNodes,
    /// The Leases go, which no chart and no manifest knows.
    DropLeases,
}

/// What becomes of a pod with our gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is deleted: its owner creates it again, in the mesh.
    Delete {
        /// The owner, as `ReplicaSet web`.
        owner: String,
        /// Whether a Job must not count the deletion: its tracking finalizer goes first.
        uncounted: bool,
    },
    /// The gate comes off, and it starts outside the mesh.
    Release(Why),
    /// The gate comes off a pod that has a proxy: it starts in the mesh.
    Ungate,
    /// It is going away by itself.
    Leave,
}

/// Why a pod is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A pod that is created now would be bare, too.
    NotProven,
    /// No controller creates it again.
    Ownerless,
    /// What its owner does is not known.
    Owner(String),
}

/// What of ours is on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnNode {
    /// Whether it has our taint.
    pub taint: bool,
    /// The keys of our annotations, in order.
    pub annotations: Vec<String>,
}

/// The steps, in order. Each holds on its own: one that fails does not keep the next ones from being taken.
pub const ORDER: [Step; 7] = [
    Step::StopController,
    Step::Unbind,
    Step::LetGo,
    Step::ResumeJobs,
    Step::StopAgents,
    Step::FreeNodes,
    Step::DropLeases,
];

/// What becomes of the pod; nothing where our gate is not on it. `proven`: a pod that is created now gets a proxy.
pub fn treatment(pod: &Pod, proven: bool) -> Option<Treatment> {
    if !hold::is_gated(pod) {
        return None;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(Treatment::Leave);
    }
    if has_proxy(pod) {
        return Some(Treatment::Ungate);
    }
    let Some(owner) = controller(pod) else { return Some(Treatment::Release(Why::Ownerless)) };
    let kind = (owner.api_version.as_str(), owner.kind.as_str());
    let uncounted = kind == ("batch/v1", "Job");
    let shown = format!("{} {}", owner.kind, owner.name);
    Some(if !uncounted && !hold::RECREATING_OWNERS.contains(&kind) {
        Treatment::Release(Why::Owner(format!("{shown} ({})", owner.api_version)))
    } else if proven {
        Treatment::Delete { owner: shown, uncounted }
    } else {
        Treatment::Release(Why::NotProven)
    })
}

/// What of ours is on the node; `taint_key` is the key of our taint.
pub fn on_node(node: &Node, taint_key: &str) -> OnNode {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let annotations = node.metadata.annotations.iter().flat_map(|all| all.keys());
    OnNode {
        taint: taints.iter().any(|taint| is_ours(taint, taint_key)),
        annotations: annotations.filter(|key| key.starts_with(PREFIX)).cloned().collect(),
    }
}

/// Whether the taint is ours. Another effect of the same key is not.
pub fn is_ours(taint: &Taint, taint_key: &str) -> bool {
    taint.key == taint_key && taint.effect == taint::TAINT_EFFECT
}

/// Whether we suspended the Job.
pub fn is_suspended_by_us(job: &Job) -> bool {
    job.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(SUSPENDED))
}

// === impl OnNode ===

impl OnNode {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        !self.taint && self.annotations.is_empty()
    }
}

// === impl Why ===

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotProven => f.write_str("injection is not proven"),
            Self::Ownerless => f.write_str("no controller creates it again"),
            Self::Owner(owner) => write!(f, "whether its {owner} creates it again is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn gated(owner: Option<(&str, &str)>) -> Value {
        let owners: Vec<Value> = owner
            .into_iter()
            .map(|(version, kind)| {
                json!({"apiVersion": version, "kind": kind, "name": "web", "uid": "o-1", "controller": true})
            })
            .collect();
        json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "ownerReferences": owners},
            "spec": {"containers": [{"name": "app"}], "schedulingGates": [{"name": "linkerd-gate/injected"}]},
        })
    }

    fn treated(pod: Value, proven: bool) -> Option<Treatment> {
        treatment(&serde_json::from_value(pod).unwrap(), proven)
    }

    fn place(step: Step) -> usize {
        ORDER.iter().position(|other| *other == step).unwrap()
    }

    #[test]
    fn each_step_comes_after_what_would_undo_it() {
        assert!(place(Step::StopController) < place(Step::Unbind));
        assert!(place(Step::Unbind) < place(Step::LetGo), "what is deleted would be held again");
        assert!(place(Step::Unbind) < place(Step::ResumeJobs), "its pods would be held again");
        assert!(place(Step::StopController) < place(Step::ResumeJobs), "it would be suspended again");
        assert!(place(Step::StopAgents) < place(Step::FreeNodes), "agents would put their taints back");
        assert!(place(Step::StopAgents) < place(Step::DropLeases), "the prover would make its Lease again");
    }

    #[test]
    fn gated_pods_of_known_owners_are_deleted_if_proven_or_released() {
        for (version, kind, uncounted) in [
            ("apps/v1", "ReplicaSet", false),
            ("apps/v1", "StatefulSet", false),
            ("apps/v1", "DaemonSet", false),
            ("v1", "ReplicationController", false),
            ("batch/v1", "Job", true),
        ] {
            let pod = gated(Some((version, kind)));
            let owner = format!("{kind} web");
            assert_eq!(treated(pod.clone(), true), Some(Treatment::Delete { owner, uncounted }), "{kind}");
            assert_eq!(treated(pod, false), Some(Treatment::Release(Why::NotProven)), "{kind}");
        }
    }

    #[test]
    fn a_pod_that_may_not_come_back_is_never_deleted() {
        for proven in [true, false] {
            assert_eq!(treated(gated(None), proven), Some(Treatment::Release(Why::Ownerless)));
            let other = Treatment::Release(Why::Owner("Workflow web (argoproj.io/v1)".to_owned()));
            assert_eq!(treated(gated(Some(("argoproj.io/v1", "Workflow"))), proven), Some(other));
        }
    }

    #[test]
    fn a_meshed_pod_loses_only_its_gate_and_a_deleted_one_is_left() {
        let mut meshed = gated(Some(("apps/v1", "ReplicaSet")));
        meshed["spec"]["initContainers"] = json!([{"name": "linkerd-proxy"}]);
        assert_eq!(treated(meshed, true), Some(Treatment::Ungate));
        let mut going = gated(None);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(treated(going, true), Some(Treatment::Leave));
        let mut other = gated(None);
        other["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
        assert_eq!(treated(other, true), None);
    }

    #[test]
    fn of_a_node_only_what_is_ours_is_named() {
        let node = json!({
            "metadata": {"name": "a", "annotations": {
                "example.com/x": "1", "linkerd-gate/opened-boot": "b", "linkerd-gate/override": "open …"}},
            "spec": {"taints": [
                {"key": "linkerd-gate/closed", "effect": "NoExecute"},
                {"key": "linkerd-gate/closed", "effect": "NoSchedule"},
                {"key": "example.com/x", "effect": "NoSchedule"},
            ]},
        });
        let node: Node = serde_json::from_value(node).unwrap();
        let annotations = vec!["linkerd-gate/opened-boot".to_owned(), "linkerd-gate/override".to_owned()];
        assert_eq!(on_node(&node, "linkerd-gate/closed"), OnNode { taint: true, annotations: annotations.clone() });
        assert_eq!(on_node(&node, "example.com/closed"), OnNode { taint: false, annotations });
        assert!(on_node(&Node::default(), "linkerd-gate/closed").is_empty());
    }

    #[test]
    fn only_our_mark_says_that_we_suspended_a_job() {
        let job = |annotations: Value| -> Job {
            serde_json::from_value(
                json!({"metadata": {"annotations": annotations}, "spec": {"template": {}, "suspend": true}}),
            )
            .unwrap()
        };
        assert!(is_suspended_by_us(&job(json!({SUSPENDED: "x"}))));
        assert!(!is_suspended_by_us(&job(json!({"example.com/suspended": "x"}))));
    }
}
