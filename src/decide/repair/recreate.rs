//! Making an ownerless held pod again: which pods may be, from which manifest, and what its dry run has to show.
//!
//! A pod without a controller exists once. Whatever of a stored pod an API server would not take again has to be left out before
//! the stored one is deleted (seen: `kubectl replace --force` of a pod with an ephemeral container deletes it, and is refused then).

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::decide::hold;
use crate::linkerd::mesh_state::{has_proxy, meshed, started};
use crate::linkerd::{Started, names};

/// The beginning of the names of the volumes that the API server adds for a token
/// (k8s.io/kubernetes, `plugin/pkg/admission/serviceaccount`, `ServiceAccountVolumeName`).
const TOKEN_VOLUME: &str = "kube-api-access-";

/// Why a pod is not made again. Nothing was done to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRecreated {
    /// Its controller makes it again.
    #[error(
        "its {kind} {name} creates it again: once the injector answers, `kubectl delete pod {pod} -n {namespace}` is enough, and \
         linkerd-gate's controller does that by itself (a Job counts a deletion as a failure: leave that one to the controller)"
    )]
    Owned {
        /// What its controller is.
        kind: String,
        /// That one's name.
        name: String,
        /// The pod.
        pod: String,
        /// Where both are.
        namespace: String,
    },
    /// It is in the mesh.
    #[error("it has a {}: it is in the mesh, and nothing is to be done", names::container::PROXY)]
    Meshed,
    /// Something of it has started, or may have.
    #[error(
        "it is not held: it has started, or its node has not told that it has not; a pod that runs is recreated by deleting it \
         and applying its manifest again"
    )]
    Started,
    /// It is going away.
    #[error("it is being deleted since {0}: apply its manifest again once it is gone")]
    Going(String),
    /// It would not go away.
    #[error(
        "the finalizers {0} keep it from going away: have their owners take them off first; \
         `kubectl get pod -o yaml` shows them"
    )]
    Finalizers(String),
    /// A file on a node makes it.
    #[error("it is a static pod: its node's kubelet makes it from a file")]
    Static,
}

/// Whether the pod may be made again: it is held, and no controller makes it again.
///
/// # Errors
/// Why not.
pub fn check(pod: &Pod) -> Result<(), NotRecreated> {
    let metadata = &pod.metadata;
    if metadata.annotations.as_ref().is_some_and(|all| all.contains_key("kubernetes.io/config.mirror")) {
        return Err(NotRecreated::Static);
    }
    if let Some(OwnerReference { kind, name, .. }) = controller(pod) {
        return Err(NotRecreated::Owned {
            kind: kind.clone(),
            name: name.clone(),
            pod: metadata.name.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
        });
    }
    if let Some(since) = &metadata.deletion_timestamp {
        return Err(NotRecreated::Going(since.0.to_string()));
    }
    if meshed(pod) {
        return Err(NotRecreated::Meshed);
    }
    if started(pod) != Started::Never {
        return Err(NotRecreated::Started);
    }
    match metadata.finalizers.as_deref().unwrap_or_default() {
        [] => Ok(()),
        finalizers => Err(NotRecreated::Finalizers(finalizers.join(", "))),
    }
}

/// The pod's controller, if it has one.
pub fn controller(pod: &Pod) -> Option<&OwnerReference> {
    pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The stored pod as an API server takes it again: without what it alone writes, without what admission adds again, without our
/// gate. Other gates stay.
pub fn manifest(stored: &Pod) -> Pod {
    let ObjectMeta { name, namespace, labels, annotations, owner_references, .. } = stored.metadata.clone();
    let annotations = annotations.map(|mut all| {
        all.remove(hold::RELEASE);
        all
    });
    Pod {
        metadata: ObjectMeta { name, namespace, labels, annotations, owner_references, ..ObjectMeta::default() },
        spec: stored.spec.clone().map(|spec| self::spec(spec, hold::other_gates(stored))),
        status: None,
    }
}

/// The same pod for a dry run, while its own name is taken.
pub fn trial(manifest: &Pod, uid: &str) -> Pod {
    let mut trial = manifest.clone();
    trial.metadata.name = Some(format!("linkerd-gate-recreate-{uid}"));
    trial
}

/// Whether the created pod, or the one of a dry run, is what is wanted: in the mesh, and not held by us.
///
/// # Errors
/// What it is instead.
pub fn judge(created: &Pod) -> Result<(), &'static str> {
    if !has_proxy(created) && hold::is_gated(created) {
        return Err("it comes back held again: the injector was not called, or did not answer; \
                    `kubectl get pods -n linkerd` shows whether it runs");
    }
    if !has_proxy(created) {
        return Err("it comes back without Linkerd's proxy: the injector was not called for it or left it alone; \
                    `linkerd-gate explain -f` of its manifest says why");
    }
    if hold::is_gated(created) {
        return Err(
            "it comes back with the proxy and with our gate as well: a webhook or policy after Linkerd's adds it",
        );
    }
    Ok(())
}

fn spec(stored: PodSpec, gates: Vec<k8s_openapi::api::core::v1::PodSchedulingGate>) -> PodSpec {
    let mut spec = PodSpec {
        // The scheduler's to say.
        node_name: None,
        // Only to be added to a pod that is there.
        ephemeral_containers: None,
        // Admission computes them from classes, and refuses other values than its own.
        priority: None,
        preemption_policy: None,
        overhead: None,
        scheduling_gates: Some(gates).filter(|gates| !gates.is_empty()),
        ..stored
    };
    let added: Vec<String> =
        spec.volumes.iter().flatten().filter(|volume| is_token(volume)).map(|volume| volume.name.clone()).collect();
    spec.volumes = spec.volumes.map(|mut all| {
        all.retain(|volume| !added.contains(&volume.name));
        all
    });
    let unmount = |container: &mut Container| {
        if let Some(mounts) = &mut container.volume_mounts {
            mounts.retain(|mount| !added.contains(&mount.name));
        }
    };
    spec.containers.iter_mut().for_each(unmount);
    spec.init_containers.iter_mut().flatten().for_each(unmount);
    spec
}

/// Whether admission added the volume, for the service account's token. It does so again.
fn is_token(volume: &Volume) -> bool {
    let sources = volume.projected.as_ref().and_then(|projected| projected.sources.as_deref());
    volume.name.starts_with(TOKEN_VOLUME)
        && sources.is_some_and(|sources| sources.iter().any(|source| source.service_account_token.is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    /// As a genuine API server stores an ownerless pod that hold gated, with an ephemeral container added.
    fn stored() -> Value {
        json!({
            "metadata": {
                "name": "shell", "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z", "generateName": "she",
                "labels": {"app": "shell"}, "annotations": {"linkerd.io/inject": "enabled", "linkerd-gate/release": "false"},
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": {
                "containers": [{"name": "app", "image": "app:1", "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "kube-api-access-x2k4p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                ]}],
                "initContainers": [{"name": "first", "image": "app:1", "volumeMounts": [
                    {"name": "kube-api-access-x2k4p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                ]}],
                "ephemeralContainers": [{"name": "debug", "image": "shell:1"}],
                "volumes": [
                    {"name": "data", "emptyDir": {}},
                    {"name": "kube-api-access-x2k4p", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
                ],
                "priority": 0, "preemptionPolicy": "PreemptLowerPriority", "priorityClassName": "usual",
                "schedulingGates": [{"name": "example.com/quota"}, {"name": "linkerd-gate/injected"}],
                "serviceAccountName": "shell",
            },
            "status": {"phase": "Pending"},
        })
    }

    #[test]
    fn what_an_api_server_would_not_take_again_is_left_out() {
        let expected = json!({
            "metadata": {
                "name": "shell", "namespace": "shop",
                "labels": {"app": "shell"}, "annotations": {"linkerd.io/inject": "enabled"},
            },
            "spec": {
                "containers": [{"name": "app", "image": "app:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                "initContainers": [{"name": "first", "image": "app:1", "volumeMounts": []}],
                "volumes": [{"name": "data", "emptyDir": {}}],
                "priorityClassName": "usual",
                "schedulingGates": [{"name": "example.com/quota"}],
                "serviceAccountName": "shell",
            },
        });
        assert_eq!(manifest(&pod(stored())), pod(expected));
    }

    #[test]
    fn a_volume_that_is_only_named_like_a_token_stays() {
        let mut named = stored();
        named["spec"]["volumes"][1] = json!({"name": "kube-api-access-x2k4p", "emptyDir": {}});
        let made = manifest(&pod(named)).spec.unwrap();
        assert_eq!(made.volumes.unwrap().len(), 2);
        assert_eq!(made.containers[0].volume_mounts.as_ref().unwrap().len(), 2);
    }

    #[test]
    fn an_ownerless_held_pod_may_be_made_again() {
        assert_eq!(check(&pod(stored())), Ok(()));
        // An owner that is no controller makes nothing.
        let mut owned = stored();
        owned["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"}]);
        assert_eq!(check(&pod(owned)), Ok(()));
    }

    #[test]
    fn every_other_pod_is_refused_with_what_to_do() {
        type Case = (&'static str, fn(&mut Value), &'static str);
        let cases: [Case; 6] = [
            (
                "owned",
                |pod| {
                    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o", "controller": true}]);
                },
                "its ReplicaSet web creates it again: once the injector answers, `kubectl delete pod shell -n shop`",
            ),
            (
                "meshed",
                |pod| {
                    pod["metadata"]["labels"]["linkerd.io/control-plane-ns"] = json!("linkerd");
                    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "linkerd-proxy"}));
                },
                "it is in the mesh",
            ),
            ("running", |pod| pod["status"]["phase"] = json!("Running"), "it is not held"),
            (
                "going",
                |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z"),
                "being deleted since 2026-01-01T01:00:00Z",
            ),
            (
                "kept",
                |pod| pod["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]),
                "the finalizers example.com/a, example.com/b keep it",
            ),
            (
                "static",
                |pod| pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("x"),
                "it is a static pod",
            ),
        ];
        for (name, change, said) in cases {
            let mut value = stored();
            change(&mut value);
            let refused = check(&pod(value)).unwrap_err().to_string();
            assert!(refused.contains(said), "{name}: {refused}");
        }
    }

    #[test]
    fn only_a_pod_with_a_proxy_and_without_our_gate_is_good() {
        let created = |inits: Value, gates: Value| {
            pod(json!({"spec": {"containers": [], "initContainers": inits, "schedulingGates": gates}}))
        };
        let proxy = json!([{"name": "linkerd-proxy"}]);
        let ours = json!([{"name": hold::GATE}]);
        assert_eq!(judge(&created(proxy.clone(), json!([{"name": "example.com/quota"}]))), Ok(()));
        for (inits, gates, said) in [
            (json!([]), ours.clone(), "held again"),
            (json!([]), json!([]), "without Linkerd's proxy"),
            (proxy, ours, "our gate as well"),
        ] {
            let why = judge(&created(inits, gates)).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }
}
