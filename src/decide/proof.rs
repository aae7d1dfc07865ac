//! What the API server's answer to a dry-run pod says of injection.
//!
//! A server-side dry-run create exercises the whole path: API server, service, TLS, CA bundle, handler, patch. It stores
//! nothing, and the injector's webhook is declared free of side effects, so it is called for dry-runs too.

use k8s_openapi::api::core::v1::Pod;

use super::Outcome;

/// The injector's webhook, as the API server names it in refusals (linkerd2, `charts/linkerd-control-plane`).
const INJECTOR_WEBHOOK: &str = "linkerd-proxy-injector.linkerd.io";

/// The API server's answer to a dry-run create.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The pod as it would have been stored.
    Admitted(&'a Pod),
    /// A `Status`: its HTTP code and its message.
    Refused(u16, &'a str),
}

/// Three answers are told apart: injected, not injected, refused; and who refused.
pub fn outcome(answer: Answer<'_>) -> Outcome {
    match answer {
        Answer::Admitted(pod) if has_proxy(pod) => Outcome::Ready,
        Answer::Admitted(_) => Outcome::not_ready(
            "a dry-run pod came back without Linkerd's proxy: the API server could not call the injector and let it pass, \
             or neither the pod nor its namespace asks for injection",
        ),
        // The injector had patched the pod when PodSecurity saw it: only then is there a `linkerd-init` to refuse.
        Answer::Refused(403, message) if message.contains("PodSecurity") && message.contains("linkerd-init") => {
            Outcome::Ready
        }
        Answer::Refused(_, message) if message.contains(INJECTOR_WEBHOOK) => {
            Outcome::not_ready(format!("the injector did not inject a dry-run pod: {message}"))
        }
        Answer::Refused(_, message) if message.contains("ValidatingAdmissionPolicy 'linkerd-gate-guard'") => {
            Outcome::not_ready(format!("a dry-run pod was not injected: {message}"))
        }
        Answer::Refused(code, message) => {
            Outcome::unknown(format!("a dry-run pod was refused before injection could show (HTTP {code}): {message}"))
        }
    }
}

fn has_proxy(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let inits = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(inits).any(|container| container.name == "linkerd-proxy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, PodSpec};

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
        assert!(outcome(Answer::Admitted(&pod(&["linkerd-init", "linkerd-proxy"], &["proof"]))).is_ready());
        assert!(outcome(Answer::Admitted(&pod(&["linkerd-init"], &["proof", "linkerd-proxy"]))).is_ready());
    }

    #[test]
    fn a_bare_pod_is_not_injection() {
        assert!(matches!(outcome(Answer::Admitted(&pod(&["linkerd-init"], &["proof"]))), Outcome::NotReady(_)));
        assert!(matches!(outcome(Answer::Admitted(&Pod::default())), Outcome::NotReady(_)));
    }

    #[test]
    fn refusals_are_told_apart_by_who_refused() {
        let security = "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": unrestricted capabilities \
                        (container \"linkerd-init\" must set securityContext.capabilities.drop=[\"ALL\"])";
        assert!(outcome(Answer::Refused(403, security)).is_ready());

        let security_of_ours =
            "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": (container \"proof\")";
        assert!(matches!(outcome(Answer::Refused(403, security_of_ours)), Outcome::Unknown(_)));

        let handler =
            "admission webhook \"linkerd-proxy-injector.linkerd.io\" denied the request: namespaces \"x\" not found";
        assert!(matches!(outcome(Answer::Refused(400, handler)), Outcome::NotReady(_)));

        let call = "Internal error occurred: failed calling webhook \"linkerd-proxy-injector.linkerd.io\": failed to call \
                    webhook: Post \"https://linkerd-proxy-injector.linkerd.svc:443/?timeout=10s\": connection refused";
        assert!(matches!(outcome(Answer::Refused(500, call)), Outcome::NotReady(_)));

        let guard = "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding 'linkerd-gate-guard' denied \
                     request: no linkerd-proxy";
        assert!(matches!(outcome(Answer::Refused(403, guard)), Outcome::NotReady(_)));

        let stranger = "admission webhook \"policy.example.com\" denied the request: no";
        assert!(matches!(outcome(Answer::Refused(403, stranger)), Outcome::Unknown(_)));
    }
}
