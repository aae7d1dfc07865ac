//! Hold: the scheduling gate by which a pod that asks and has no proxy is admitted without a start, and how it comes off.
//!
//! The gate is put on by a MutatingAdmissionPolicy (`deploy/chart`), not by a process of ours. Here are its wire names, which
//! the chart and the program share.

use k8s_openapi::api::core::v1::{Container, Pod, PodSchedulingGate};

use crate::linkerd::mesh_state::WAIT;

/// The scheduling gate of a held pod. It is removed once the pod, or rather the one that replaces it, is injected.
pub const GATE: &str = "linkerd-gate/injected";

/// The admission policy that puts the gate on, and its binding.
pub const HOLD_POLICY: &str = "linkerd-gate-hold";

/// The admission policy that refuses what cannot be held, and its binding.
pub const GUARD_POLICY: &str = "linkerd-gate-guard";

/// The kinds of owners that create a pod again whenever one is deleted, and count nothing: API version and kind.
pub const RECREATING_OWNERS: [(&str, &str); 4] =
    [("apps/v1", "ReplicaSet"), ("apps/v1", "StatefulSet"), ("apps/v1", "DaemonSet"), ("v1", "ReplicationController")];

/// The annotation on a pod, with the value `true`, by which a person lets it start outside the mesh.
pub const RELEASE: &str = "linkerd-gate/release";

/// Whether our gate is on the pod.
pub fn is_gated(pod: &Pod) -> bool {
    gates(pod).iter().any(|gate| gate.name == GATE)
}

/// Whether a person has released the pod.
pub fn is_released(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().and_then(|all| all.get(RELEASE)).is_some_and(|value| value == "true")
}

/// The pod's entry of `wait`.
pub fn wait_of(pod: &Pod) -> Option<&Container> {
    let inits = pod.spec.as_ref()?.init_containers.as_ref()?;
    inits.iter().find(|container| container.name == WAIT)
}

/// Whether this entry of `wait` may let a pod without a proxy start, by its variables. A value that comes from elsewhere, or from another
/// variable, can be any.
pub fn may_open(wait: &Container) -> bool {
    let from_elsewhere = wait.env_from.as_ref().is_some_and(|sources| !sources.is_empty());
    let can_be_open = |value: &str| value == "open" || value.contains("$(");
    from_elsewhere
        || wait.env.iter().flatten().any(|variable| {
            ["LINKERD_GATE_ON_MISSED", "LINKERD_GATE_ON_TIMEOUT"].contains(&variable.name.as_str())
                && (variable.value_from.is_some() || variable.value.as_deref().is_some_and(can_be_open))
        })
}

/// All scheduling gates of the pod, ours and other ones.
pub fn gates(pod: &Pod) -> &[PodSchedulingGate] {
    pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_deref()).unwrap_or_default()
}

/// The scheduling gates of the pod other than ours: they stay whatever becomes of ours.
pub fn other_gates(pod: &Pod) -> Vec<PodSchedulingGate> {
    gates(pod).iter().filter(|gate| gate.name != GATE).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn our_gate_among_others_is_found_and_the_others_are_kept() {
        let both = pod(
            json!({"spec": {"containers": [], "schedulingGates": [{"name": "example.com/quota"}, {"name": GATE}]}}),
        );
        assert!(is_gated(&both));
        assert_eq!(other_gates(&both), [PodSchedulingGate { name: "example.com/quota".to_owned() }]);
        let other = pod(json!({"spec": {"containers": [], "schedulingGates": [{"name": "example.com/quota"}]}}));
        assert!(!is_gated(&other) && !is_gated(&Pod::default()));
    }

    #[test]
    fn only_the_value_true_releases() {
        for (value, released) in [("true", true), ("True", false), ("", false), ("false", false)] {
            let pod = pod(json!({"metadata": {"annotations": {RELEASE: value}}}));
            assert_eq!(is_released(&pod), released, "{value}");
        }
        assert!(!is_released(&Pod::default()));
    }
}
