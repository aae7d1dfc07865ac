//! Drawn manifests against a model of the API server and the injector, written from what was seen of them and without a look
//! at linkerd-gate's own rules.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::{explained_as_json, of};

/// What the model has to know of a pod.
#[derive(Clone, Debug)]
struct Drawn {
    kind: &'static str,
    pod: Option<&'static str>,
    namespace: Option<&'static str>,
    of_pod: Vec<(&'static str, &'static str)>,
    of_namespace: Vec<(&'static str, &'static str)>,
    host_network: bool,
    container: &'static str,
    init: Option<&'static str>,
    image: &'static str,
    component: bool,
    webhooks_off: bool,
    form: u8,
}

const VALUES: [Option<&str>; 8] = [
    None,
    Some("enabled"),
    Some("ingress"),
    Some("disabled"),
    Some(""),
    Some("Enabled"),
    Some("true"),
    Some(" enabled"),
];
const CONTAINERS: [&str; 5] = ["app", "linkerd-proxy", "istio-proxy", "linkerd-init", "istio-init"];
const IMAGES: [&str; 5] = [
    "r.example/app:1",
    "cr.l5d.io/linkerd/proxy:edge-26.8.3",
    "cr.l5d.io/linkerd/proxy@sha256:1",
    "gcr.io/istio-release/proxyv2:1",
    "cr.l5d.io/linkerd/proxy-init:v2",
];
/// Annotations that an injector hands down from a namespace: `ProxyAnnotations` and its alpha list in linkerd2's
/// `pkg/inject/inject.go`, edge-26.8.3.
const HANDED_DOWN: [&str; 51] = [
    "config.alpha.linkerd.io/proxy-enable-native-sidecar",
    "config.alpha.linkerd.io/proxy-wait-before-exit-seconds",
    "config.linkerd.io/access-log",
    "config.linkerd.io/admin-port",
    "config.linkerd.io/close-wait-timeout",
    "config.linkerd.io/control-port",
    "config.linkerd.io/debug-image",
    "config.linkerd.io/debug-image-pull-policy",
    "config.linkerd.io/debug-image-version",
    "config.linkerd.io/default-inbound-policy",
    "config.linkerd.io/enable-debug-sidecar",
    "config.linkerd.io/enable-external-profiles",
    "config.linkerd.io/enable-gateway",
    "config.linkerd.io/image-pull-policy",
    "config.linkerd.io/inbound-port",
    "config.linkerd.io/init-image",
    "config.linkerd.io/init-image-version",
    "config.linkerd.io/opaque-ports",
    "config.linkerd.io/outbound-port",
    "config.linkerd.io/pod-inbound-ports",
    "config.linkerd.io/proxy-additional-env",
    "config.linkerd.io/proxy-admin-shutdown",
    "config.linkerd.io/proxy-await",
    "config.linkerd.io/proxy-cpu-limit",
    "config.linkerd.io/proxy-cpu-ratio-limit",
    "config.linkerd.io/proxy-cpu-request",
    "config.linkerd.io/proxy-disable-inbound-protocol-detect-timeout",
    "config.linkerd.io/proxy-disable-outbound-protocol-detect-timeout",
    "config.linkerd.io/proxy-enable-hostname-labels",
    "config.linkerd.io/proxy-enable-native-sidecar",
    "config.linkerd.io/proxy-ephemeral-storage-limit",
    "config.linkerd.io/proxy-ephemeral-storage-request",
    "config.linkerd.io/proxy-gid",
    "config.linkerd.io/proxy-image",
    "config.linkerd.io/proxy-inbound-connect-timeout",
    "config.linkerd.io/proxy-inbound-discovery-cache-unused-timeout",
    "config.linkerd.io/proxy-log-format",
    "config.linkerd.io/proxy-log-http-headers",
    "config.linkerd.io/proxy-log-level",
    "config.linkerd.io/proxy-memory-limit",
    "config.linkerd.io/proxy-memory-request",
    "config.linkerd.io/proxy-outbound-connect-timeout",
    "config.linkerd.io/proxy-outbound-discovery-cache-unused-timeout",
    "config.linkerd.io/proxy-outbound-metrics-hostname-labels",
    "config.linkerd.io/proxy-require-identity-inbound-ports",
    "config.linkerd.io/proxy-uid",
    "config.linkerd.io/proxy-version",
    "config.linkerd.io/shutdown-grace-period",
    "config.linkerd.io/skip-inbound-ports",
    "config.linkerd.io/skip-outbound-ports",
    "config.linkerd.io/skip-subnets",
];
/// Annotations that an injector leaves where they are.
const OTHERS: [&str; 4] = [
    "config.beta.linkerd.io/proxy-enable-native-sidecar",
    "config.linkerd.io/no-such-setting",
    "example.com/owner",
    "linkerd.io/created-by",
];
/// Values of settings: those that JSON takes between quotes as they are, and those that it does not.
const OF_SETTINGS: [&str; 16] = [
    "100m",
    "4222,5432",
    "enabled",
    "insecure",
    "off",
    "true",
    "edge-26.8.3",
    "ü€😀",
    "a\\nb",
    "1,2\n",
    "\t5",
    "a\\b\\q",
    "edge\"",
    "\"\\",
    "warn,linkerd=\"info\"",
    "[{\"name\":\"A\"}]",
];
/// Kinds, their versions, and the path of the pod's template.
const KINDS: [(&str, &str, &str); 13] = [
    ("Pod", "v1", ""),
    ("Deployment", "apps/v1", "spec.template"),
    ("ReplicaSet", "apps/v1", "spec.template"),
    ("StatefulSet", "apps/v1", "spec.template"),
    ("DaemonSet", "apps/v1", "spec.template"),
    ("ReplicationController", "v1", "spec.template"),
    ("Job", "batch/v1", "spec.template"),
    ("CronJob", "batch/v1", "spec.jobTemplate.spec.template"),
    ("PodTemplate", "v1", "template"),
    ("Rollout", "argoproj.io/v1alpha1", "spec.template"),
    ("Service", "serving.knative.dev/v1", "spec.template"),
    ("ScaledJob", "keda.sh/v1alpha1", "spec.jobTargetRef.template"),
    ("CloneSet", "apps.kruise.io/v1alpha1", "spec.template"),
];

fn drawn() -> impl Strategy<Value = Drawn> {
    let keys: Vec<&'static str> = HANDED_DOWN.into_iter().chain(OTHERS).collect();
    let setting = (proptest::sample::select(keys), proptest::sample::select(&OF_SETTINGS[..]));
    let settings = || proptest::collection::vec(setting.clone(), 0..4);
    let often_not = |chance: u32| proptest::bool::weighted(1.0 / f64::from(chance));
    (
        (
            proptest::sample::select(&KINDS[..]),
            proptest::sample::select(&VALUES[..]),
            proptest::sample::select(&VALUES[..]),
        ),
        (settings(), settings(), often_not(6), often_not(8), often_not(8), 0..4_u8),
        (
            prop_oneof![6 => Just("app"), 1 => proptest::sample::select(&CONTAINERS[..])],
            prop_oneof![6 => Just(None), 1 => proptest::sample::select(&CONTAINERS[..]).prop_map(Some)],
            prop_oneof![6 => Just(IMAGES[0]), 1 => proptest::sample::select(&IMAGES[..])],
        ),
    )
        .prop_map(
            |(
                (kind, pod, namespace),
                (of_pod, of_namespace, host_network, component, webhooks_off, form),
                (container, init, image),
            )| {
                Drawn {
                    kind: kind.0,
                    pod,
                    namespace,
                    of_pod,
                    of_namespace,
                    host_network,
                    container,
                    init,
                    image,
                    component,
                    webhooks_off,
                    form,
                }
            },
        )
}

impl Drawn {
    fn annotations(inject: Option<&str>, settings: &[(&str, &str)]) -> Map<String, Value> {
        let mut annotations: Map<_, _> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        annotations.extend(inject.map(|value| ("linkerd.io/inject".to_owned(), json!(value))));
        annotations
    }

    fn manifest(&self) -> String {
        let annotations = Self::annotations(self.pod, &self.of_pod);
        let labels =
            if self.component { json!({"linkerd.io/control-plane-component": "x"}) } else { json!({"app": "a"}) };
        let mut pod = json!({
            "metadata": {"annotations": annotations, "labels": labels},
            "spec": {"hostNetwork": self.host_network, "containers": [{"name": self.container, "image": self.image}]},
        });
        if let Some(init) = self.init {
            pod["spec"]["initContainers"] = json!([{"name": init, "image": "r.example/init:1"}]);
        }
        let (_, version, path) = KINDS.into_iter().find(|(kind, ..)| *kind == self.kind).unwrap();
        let mut object = path.rsplit('.').filter(|part| !part.is_empty()).fold(pod, |inner, part| json!({part: inner}));
        object["apiVersion"] = json!(version);
        object["kind"] = json!(self.kind);
        object["metadata"]["name"] = json!("o");
        object["metadata"]["namespace"] = json!("shop");
        let mut labels = json!({"kubernetes.io/metadata.name": "shop"});
        if self.webhooks_off {
            labels["config.linkerd.io/admission-webhooks"] = json!("disabled");
        }
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "shop", "labels": labels, "annotations": Self::annotations(self.namespace, &self.of_namespace)},
        });
        match self.form {
            0 => format!("{namespace}\n{object}\n"),
            1 => json!({"apiVersion": "v1", "kind": "List", "items": [object, namespace]}).to_string(),
            2 => format!(
                "{}---\n{}",
                serde_saphyr::to_string(&namespace).unwrap(),
                serde_saphyr::to_string(&object).unwrap()
            ),
            _ => format!("{}\n---\n{namespace:#}\n", serde_saphyr::to_string(&object).unwrap()),
        }
    }

    /// What becomes of the pod: the API server's selectors, the injector's rules, then its patch as text.
    fn model(&self) -> &'static str {
        if self.component || self.webhooks_off {
            return "not-called";
        }
        let says = |value: Option<&'static str>| value.unwrap_or("");
        let asks = matches!(
            (says(self.namespace), says(self.pod)),
            ("enabled" | "ingress", "" | "enabled" | "ingress") | ("" | "disabled", "enabled" | "ingress")
        );
        let sidecar = ["linkerd-proxy", "istio-proxy"];
        let has_sidecar = sidecar.contains(&self.container)
            || self.image.starts_with("cr.l5d.io/linkerd/proxy:")
            || self.image.starts_with("gcr.io/istio-release/proxyv2:")
            || self.init.is_some_and(|init| sidecar.contains(&init) || ["linkerd-init", "istio-init"].contains(&init));
        if !asks || has_sidecar || self.host_network {
            return "skip";
        }
        // Of one key twice, the last of what was drawn stands in the object.
        let last = |settings: &[(&'static str, &'static str)], key: &str| {
            settings.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| *value)
        };
        let handed_down = |key: &str| last(&self.of_namespace, key).filter(|_| HANDED_DOWN.contains(&key));
        let effective = |key: &str| last(&self.of_pod, key).or_else(|| handed_down(key));
        if effective("config.linkerd.io/proxy-log-http-headers")
            .is_some_and(|value| value != "off" && value != "insecure")
        {
            return "refused";
        }
        let mut patch =
            vec![r#"{"op":"add","path":"/metadata/annotations/linkerd.io~1created-by","value":"x"}"#.to_owned()];
        let mut add = |key: &str, value: &str| {
            patch.push(format!(
                "{{\"op\":\"add\",\"path\":\"/metadata/annotations/{}\",\"value\":\"{value}\"}}",
                key.replace('/', "~1")
            ));
        };
        for (key, _) in &self.of_namespace {
            if let Some(value) = effective(key).filter(|_| HANDED_DOWN.contains(key)) {
                add(key, value);
            }
        }
        if let Some(version) = effective("config.linkerd.io/proxy-version") {
            add("linkerd.io/proxy-version", version);
        }
        match serde_json::from_str::<Value>(&format!("[{}]", patch.join(","))) {
            Ok(_) => "inject",
            Err(_) => "patch-fails",
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn drawn_manifests_are_decided_as_the_injector_decides(drawn in drawn()) {
        let manifest = drawn.manifest();
        let found = explained_as_json(of(&["-"]), &manifest);
        prop_assert_eq!(found.len(), 1, "{}", manifest);
        prop_assert_eq!(&found[0]["decision"], drawn.model(), "{}", manifest);
        prop_assert!(drawn.kind == "Pod" || found[0]["missed"] == false);
    }
}

/// Each annotation with each value, on a pod, on its namespace, and on both.
#[test]
fn every_setting_is_decided_as_the_injector_decides() {
    let mut settings = 0;
    for key in HANDED_DOWN.into_iter().chain(OTHERS) {
        for value in OF_SETTINGS {
            for (of_pod, of_namespace) in [
                (vec![(key, value)], vec![]),
                (vec![], vec![(key, value)]),
                (vec![(key, "1")], vec![(key, value)]),
                (vec![(key, value)], vec![(key, "1")]),
            ] {
                let drawn = Drawn {
                    kind: "Pod",
                    pod: None,
                    namespace: Some("enabled"),
                    of_pod,
                    of_namespace,
                    host_network: false,
                    container: "app",
                    init: None,
                    image: IMAGES[0],
                    component: false,
                    webhooks_off: false,
                    form: 0,
                };
                let manifest = drawn.manifest();
                assert_eq!(explained_as_json(of(&["-"]), &manifest)[0]["decision"], drawn.model(), "{manifest}");
                settings += 1;
            }
        }
    }
    assert_eq!(settings, 55 * 16 * 4);
}
