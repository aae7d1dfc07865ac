//! Pods, namespaces and webhook configurations, as an API server that validates nothing would pass them on.

use std::fs;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use linkerd_gate::linkerd::webhook::chart_default;
use linkerd_gate::linkerd::{
    Surroundings, TokenProjection, WebhookView, held, injection, meshed, missed, patch_problems, refusals,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::broken::broken;
use super::{hold, is_harmless};

/// The pods of the corpus that Rust, CEL and the injector are held to, and one with everything.
fn pods() -> Vec<String> {
    let text = fs::read_to_string("tests/corpus/pod.yaml").unwrap();
    let corpus: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let full = json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}, "annotations": {
            "linkerd.io/inject": "enabled", "config.linkerd.io/proxy-cpu-request": "100m", "config.linkerd.io/skip-outbound-ports": "1-3,5"}},
        "spec": {"hostNetwork": false, "containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"memory": "1Gi"}}, "volumeMounts": [{"name": "a", "mountPath": "/a"}]}],
            "initContainers": [{"name": "migrate", "image": "m:1"}], "volumes": [{"name": "a", "emptyDir": {}}],
            "schedulingGates": [{"name": "linkerd-gate/injected"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "app", "state": {"running": {}}}]},
    });
    corpus.into_iter().filter(Value::is_object).chain([full]).map(|pod| pod.to_string()).collect()
}

fn namespace() -> Namespace {
    serde_json::from_value(json!({"metadata": {"name": "shop", "annotations": {"linkerd.io/inject": "enabled"}}}))
        .unwrap()
}

#[test]
fn any_pod_is_meshed_missed_or_neither_and_never_two() {
    let (namespace, webhooks) = (namespace(), WebhookView::chart_default());
    hold("pod", broken(pods()), |text| {
        let Ok(pod) = serde_json::from_str::<Pod>(text) else { return Ok(()) };
        for projection in [TokenProjection::Enabled, TokenProjection::Disabled] {
            let (is_missed, is_held) =
                (missed(&pod, &namespace, &webhooks, projection), held(&pod, &namespace, &webhooks, projection));
            prop_assert!(!(is_missed && meshed(&pod)), "meshed and missed");
            prop_assert!(!is_held || is_missed, "held and not missed");
            prop_assert_eq!(is_missed && !injection(&pod, &namespace, &webhooks, projection).is_inject(), false);
        }
        for problem in patch_problems(&pod.metadata, &namespace.metadata) {
            is_harmless(&format!("{problem:?}"))?;
        }
        let _ = refusals(&pod, &namespace.metadata, Surroundings::default());
        Ok(())
    });
}

#[test]
fn any_webhook_configuration_is_read_or_refused() {
    let pod: Pod = serde_json::from_str(pods().last().unwrap()).unwrap();
    let genuine = serde_json::to_value(chart_default()).unwrap();
    hold("webhook", broken(vec![genuine.to_string()]), |text| {
        let Ok(configuration) = serde_json::from_str::<MutatingWebhookConfiguration>(text) else { return Ok(()) };
        match WebhookView::new([&configuration]) {
            Ok(webhooks) => {
                let said = injection(&pod, &namespace(), &webhooks, TokenProjection::Enabled);
                if webhooks.is_empty() {
                    prop_assert!(!said.is_inject(), "no webhook, and injected");
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        Ok(())
    });
}
