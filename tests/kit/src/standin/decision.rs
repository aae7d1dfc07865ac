//! What the genuine injector would do with a pod. Written from its observed behaviour, on purpose without a look at
//! linkerd-gate's own rules: the tests hold the two against each other.

use serde_json::Value;
use std::collections::BTreeMap;

/// Annotations of an object.
pub type Annotations = BTreeMap<String, String>;

/// The annotation that asks.
const INJECT: &str = "linkerd.io/inject";

/// Images that make a pod count as meshed already, by prefix: anywhere, and among init containers.
const SIDECAR_IMAGES: [&str; 2] = ["cr.l5d.io/linkerd/proxy:", "gcr.io/istio-release/proxyv2:"];
const INIT_IMAGES: [&str; 2] = ["cr.l5d.io/linkerd/proxy-init:", "gcr.io/istio-release/proxy_init:"];
/// Container names that do the same.
const SIDECAR_NAMES: [&str; 2] = ["linkerd-proxy", "istio-proxy"];
const INIT_NAMES: [&str; 2] = ["linkerd-init", "istio-init"];

/// Whether the injector patches a proxy into this pod, given its namespace's annotations. Whether it is *called* at all is the
/// API server's business (selectors), not its own.
pub(super) fn injects(pod: &Value, namespace: &Annotations) -> bool {
    pod["spec"]["hostNetwork"] != Value::Bool(true) && !has_sidecar(pod) && annotations_ask(pod, namespace)
}

fn annotations_ask(pod: &Value, namespace: &Annotations) -> bool {
    let of_namespace = namespace.get(INJECT).map_or("", String::as_str);
    let of_pod = pod["metadata"]["annotations"][INJECT].as_str().unwrap_or("");
    match (of_namespace, of_pod) {
        ("enabled" | "ingress", "" | "enabled" | "ingress") | ("" | "disabled", "enabled" | "ingress") => true,
        // Everything else, and every value that is not one of the three, exactly as written, whatever the other side says.
        _ => false,
    }
}

fn has_sidecar(pod: &Value) -> bool {
    let list = |field: &str| pod["spec"][field].as_array().map_or(&[][..], Vec::as_slice).iter();
    let named =
        |container: &Value, names: &[&str]| container["name"].as_str().is_some_and(|name| names.contains(&name));
    let imaged = |container: &Value, prefixes: &[&str]| {
        container["image"].as_str().is_some_and(|image| prefixes.iter().any(|prefix| image.starts_with(prefix)))
    };
    list("containers")
        .chain(list("initContainers"))
        .any(|container| named(container, &SIDECAR_NAMES) || imaged(container, &SIDECAR_IMAGES))
        || list("initContainers").any(|container| named(container, &INIT_NAMES) || imaged(container, &INIT_IMAGES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn namespace(value: Option<&str>) -> Annotations {
        value.map(|value| (INJECT.to_owned(), value.to_owned())).into_iter().collect()
    }

    fn pod(value: Option<&str>) -> Value {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}});
        if let Some(value) = value {
            pod["metadata"]["annotations"][INJECT] = json!(value);
        }
        pod
    }

    #[test]
    fn the_annotation_table_measured_on_the_genuine_injector() {
        let values = [
            None,
            Some("enabled"),
            Some("ingress"),
            Some("disabled"),
            Some(""),
            Some("Enabled"),
            Some("true"),
            Some(" enabled"),
        ];
        for of_namespace in values {
            for of_pod in values {
                let asking = matches!(of_pod, Some("enabled" | "ingress"));
                let expected = match of_namespace {
                    Some("enabled" | "ingress") => asking || matches!(of_pod, None | Some("")),
                    None | Some("" | "disabled") => asking,
                    _ => false,
                };
                assert_eq!(injects(&pod(of_pod), &namespace(of_namespace)), expected, "{of_namespace:?} {of_pod:?}");
            }
        }
    }

    #[test]
    fn pods_that_have_a_sidecar_or_the_hosts_network_are_skipped() {
        let asks = namespace(Some("enabled"));
        let skipped = [
            json!({"hostNetwork": true}),
            json!({"containers": [{"name": "linkerd-proxy"}]}),
            json!({"containers": [{"name": "istio-proxy"}]}),
            json!({"initContainers": [{"name": "linkerd-proxy"}]}),
            json!({"initContainers": [{"name": "linkerd-init"}]}),
            json!({"initContainers": [{"name": "istio-init"}]}),
            json!({"containers": [{"name": "a", "image": "cr.l5d.io/linkerd/proxy:edge-26.8.3"}]}),
            json!({"initContainers": [{"name": "a", "image": "gcr.io/istio-release/proxyv2:1"}]}),
            json!({"initContainers": [{"name": "a", "image": "cr.l5d.io/linkerd/proxy-init:v2"}]}),
        ];
        for spec in skipped {
            assert!(!injects(&json!({"metadata": {}, "spec": spec}), &asks), "{spec}");
        }
    }

    #[test]
    fn near_misses_are_injected_all_the_same() {
        let asks = namespace(Some("enabled"));
        let injected = [
            json!({"hostNetwork": false}),
            json!({"containers": [{"name": "linkerd-init"}]}),
            json!({"initContainers": [{"name": "linkerd-network-validator"}]}),
            json!({"containers": [{"name": "a", "image": "cr.l5d.io/linkerd/proxy@sha256:00"}]}),
            json!({"containers": [{"name": "a", "image": "mirror.example/linkerd/proxy:edge-26.8.3"}]}),
            json!({"containers": [{"name": "a", "image": "docker.io/istio/proxyv2:1"}]}),
            json!({"containers": [{"name": "a", "image": "cr.l5d.io/linkerd/proxy-init:v2"}]}),
        ];
        for spec in injected {
            assert!(injects(&json!({"metadata": {}, "spec": spec}), &asks), "{spec}");
        }
        let forged = json!({"metadata": {"labels": {"linkerd.io/control-plane-ns": "linkerd"}}, "spec": {}});
        assert!(injects(&forged, &asks));
    }
}
