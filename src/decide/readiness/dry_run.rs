//! What the API server's answer to a dry-run pod says of injection.
//!
//! A server-side dry-run create exercises the whole path: API server, service, TLS, CA bundle, handler, patch. It stores
//! nothing, and the injector's webhook is declared free of side effects, so it is called for dry-runs too.

use k8s_openapi::api::core::v1::Pod;

use crate::decide::ProbeResult;
use crate::linkerd::Injection;
use crate::linkerd::mesh_state::has_proxy;

/// The injector's webhook, as the API server names it in refusals (linkerd2, `charts/linkerd-control-plane`).
pub const INJECTOR_WEBHOOK: &str = "linkerd-proxy-injector.linkerd.io";

/// The API server's answer to a dry-run create.
#[derive(Clone, Copy, Debug)]
pub enum DryRunResponse<'a> {
    /// The pod as it would have been stored.
    Admitted(&'a Pod),
    /// A `Status`: its HTTP code and its message.
    Refused(u16, &'a str),
}

/// There are three answers: injected, not injected, refused; and who refused.
pub fn result(answer: DryRunResponse<'_>) -> ProbeResult {
    match answer {
        DryRunResponse::Admitted(pod) if has_proxy(pod) => ProbeResult::Ready,
        DryRunResponse::Admitted(_) => ProbeResult::not_ready(
            "a dry-run pod came back without Linkerd's proxy: the API server could not call the injector and let it pass, \
             or neither the pod nor its namespace asks for injection",
        ),
        // The injector had patched the pod when PodSecurity saw it: only then is there a `linkerd-init` to refuse.
        DryRunResponse::Refused(403, message)
            if message.contains("PodSecurity") && message.contains("linkerd-init") =>
        {
            ProbeResult::Ready
        }
        DryRunResponse::Refused(_, message) if message.contains(INJECTOR_WEBHOOK) => {
            ProbeResult::not_ready(format!("the injector did not inject a dry-run pod: {message}"))
        }
        DryRunResponse::Refused(_, message) if message.contains("ValidatingAdmissionPolicy 'linkerd-gate-guard'") => {
            ProbeResult::not_ready(format!("a dry-run pod was not injected: {message}"))
        }
        DryRunResponse::Refused(code, message) => ProbeResult::unknown(format!(
            "a dry-run pod was refused before injection could show (HTTP {code}): {message}"
        )),
    }
}

/// What a dry-run pod's way back bare says where the injector leaves such a pod alone by the rules; nothing where it injects it.
pub fn unasked(namespace: &str, injection: &Injection) -> Option<ProbeResult> {
    let why = match injection {
        Injection::Inject(_) | Injection::Conditional(_) => return None,
        Injection::Skip(reasons) => {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            format!(
                "the injector leaves dry-run pods alone: {}; annotate namespace {namespace} as in 10-namespaces.yaml",
                reasons.join(", ")
            )
        }
        Injection::NotCalled(why) => format!(
            "the injector is not called for dry-run pods: {why}; give namespace {namespace} the labels that it wants of namespaces, and \
             LINKERD_GATE_PROBE_LABELS those that it wants of pods"
        ),
    };
    Some(ProbeResult::not_ready(why))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;

    fn container(name: &str) -> Container {
        Container { name: name.to_owned(), ..Container::default() }
    }

    fn pod(inits: &[&str], containers: &[&str]) -> Pod {
        let spec = PodSpec {
            init_containers: Some(inits.iter().copied().map(container).collect()),
            containers: containers.iter().copied().map(container).collect(),
            ..PodSpec::default()
        };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    #[test]
    fn a_proxy_among_containers_or_init_containers_is_injection() {
        assert!(result(DryRunResponse::Admitted(&pod(&["linkerd-init", "linkerd-proxy"], &["proof"]))).is_ready());
        assert!(result(DryRunResponse::Admitted(&pod(&["linkerd-init"], &["proof", "linkerd-proxy"]))).is_ready());
    }

    #[test]
    fn a_bare_pod_is_not_injection() {
        assert!(matches!(
            result(DryRunResponse::Admitted(&pod(&["linkerd-init"], &["proof"]))),
            ProbeResult::NotReady(_)
        ));
        assert!(matches!(result(DryRunResponse::Admitted(&Pod::default())), ProbeResult::NotReady(_)));
    }

    #[test]
    fn a_dry_run_refusal_is_classified_by_who_refused() {
        let security = "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": unrestricted capabilities \
                        (container \"linkerd-init\" must set securityContext.capabilities.drop=[\"ALL\"])";
        assert!(result(DryRunResponse::Refused(403, security)).is_ready());

        let security_of_ours =
            "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": (container \"proof\")";
        assert!(matches!(result(DryRunResponse::Refused(403, security_of_ours)), ProbeResult::Unknown(_)));

        let handler =
            "admission webhook \"linkerd-proxy-injector.linkerd.io\" denied the request: namespaces \"x\" not found";
        assert!(matches!(result(DryRunResponse::Refused(400, handler)), ProbeResult::NotReady(_)));

        let call = "Internal error occurred: failed calling webhook \"linkerd-proxy-injector.linkerd.io\": failed to call \
                    webhook: Post \"https://linkerd-proxy-injector.linkerd.svc:443/?timeout=10s\": connection refused";
        assert!(matches!(result(DryRunResponse::Refused(500, call)), ProbeResult::NotReady(_)));

        let guard = "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding 'linkerd-gate-guard' denied \
                     request: no linkerd-proxy";
        assert!(matches!(result(DryRunResponse::Refused(403, guard)), ProbeResult::NotReady(_)));

        let stranger = "admission webhook \"policy.example.com\" denied the request: no";
        assert!(matches!(result(DryRunResponse::Refused(403, stranger)), ProbeResult::Unknown(_)));
    }

    #[test]
    fn a_pod_that_no_webhook_matches_names_the_missing_label() {
        use k8s_openapi::api::core::v1::Namespace;

        use crate::linkerd::webhook::chart_default;
        use crate::linkerd::{TokenProjection, WebhookView, injection};
        let says = |namespace_selector: serde_json::Value, object_selector: serde_json::Value, inject: &str| {
            let mut configuration = chart_default();
            let webhook = configuration.webhooks.as_mut().unwrap().first_mut().unwrap();
            webhook.namespace_selector = Some(serde_json::from_value(namespace_selector).unwrap());
            webhook.object_selector = Some(serde_json::from_value(object_selector).unwrap());
            let view = WebhookView::new([&configuration]).unwrap();
            let namespace: Namespace = serde_json::from_value(serde_json::json!({
                "metadata": {"name": "probes", "annotations": {"linkerd.io/inject": inject}},
            }))
            .unwrap();
            let outcome =
                unasked("probes", &injection(&pod(&[], &["probe"]), &namespace, &view, TokenProjection::Enabled));
            outcome.map(|outcome| outcome.to_string()).unwrap_or_default()
        };
        let all = serde_json::json!({});
        let mesh = serde_json::json!({"matchLabels": {"mesh": "on"}});
        assert_eq!(says(all.clone(), all.clone(), "enabled"), "");
        let of_namespaces = says(mesh.clone(), all.clone(), "enabled");
        assert!(of_namespaces.contains("it wants of the namespace's labels: mesh is \"on\""), "{of_namespaces}");
        let of_pods = says(all.clone(), mesh, "enabled");
        assert!(of_pods.contains("it wants of the pod's labels: mesh is \"on\""), "{of_pods}");
        assert!(of_pods.contains("LINKERD_GATE_PROBE_LABELS"), "{of_pods}");
        let skipped = says(all.clone(), all, "disabled");
        assert!(skipped.contains("annotate namespace probes"), "{skipped}");
    }
}
