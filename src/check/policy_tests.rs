//! Admission policies against Linkerd's live webhook, and the injector's certificate against its bundle.

use serde_json::json;

use super::certificate::Served;
use super::policy::{Admission, Parameter, Policy, PolicyKind};
use super::tests::{bare, both, bound, error, one, policy, state};
use super::*;
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};
use crate::linkerd::names;

#[test]
fn a_binding_without_its_policy_holds_nothing() {
    let binding = bound(PolicyKind::Mutating, HOLD_POLICY);
    let mut state = state(&[bare("a", "Running")]);
    state.admission = Ok(Admission { offers_mutating: true, policies: Vec::new(), bindings: vec![binding.clone()] });
    for code in [code::FAILURE_POLICY, code::AFTER_A_CUT] {
        assert_eq!(one(&state, code).result, Level::Warning, "{code:?}");
    }
    let policies = vec![policy(PolicyKind::Mutating, HOLD_POLICY)];
    state.admission = Ok(Admission { offers_mutating: true, policies, bindings: vec![binding] });
    for code in [code::FAILURE_POLICY, code::AFTER_A_CUT] {
        assert_eq!(one(&state, code).result, Level::Success, "{code:?}");
    }
}

#[test]
fn a_guard_alone_is_a_choice() {
    let guard = policy(PolicyKind::Validating, GUARD_POLICY);
    let mut state = state(&[]);
    let admission = |policies, bindings| Ok(Admission { offers_mutating: true, policies, bindings });
    let mut chosen = guard.clone();
    chosen.chosen = Some(("refuse".to_owned(), "refuse".to_owned()));
    state.admission = admission(vec![chosen.clone()], vec![bound(PolicyKind::Validating, GUARD_POLICY)]);
    assert_eq!(one(&state, code::POLICIES).result, Level::Success);
    chosen.chosen = Some(("auto".to_owned(), "refuse".to_owned()));
    state.admission = admission(vec![chosen], vec![bound(PolicyKind::Validating, GUARD_POLICY)]);
    assert!(error(&state, code::POLICIES).contains("cannot hold pods: this one can"));
    state.admission = admission(
        vec![guard, policy(PolicyKind::Mutating, HOLD_POLICY)],
        vec![bound(PolicyKind::Validating, GUARD_POLICY)],
    );
    assert!(error(&state, code::POLICIES).contains("linkerd-gate-hold is not bound"));
}

#[test]
fn a_parameter_that_is_not_linkerds_live_webhook_is_reported() {
    let mut state = state(&[]);
    let mut seen = |parameter: Option<Parameter>, others: &[(&str, &str)]| {
        let mut admission = both();
        if let Some(parameter) = parameter {
            admission.bindings[0].parameter = parameter;
        }
        let first = state.mutating.as_ref().unwrap()[0].clone();
        let mut all = vec![first.clone()];
        for (name, component) in others {
            let mut other = first.clone();
            other.metadata.name = Some((*name).to_owned());
            other.metadata.labels =
                Some([(names::label::CONTROL_PLANE_COMPONENT.to_owned(), (*component).to_owned())].into());
            if *component != "proxy-injector" {
                other.webhooks.as_mut().unwrap()[0].name = "other.example.com".to_owned();
            }
            all.push(other);
        }
        state.mutating = Ok(all);
        state.admission = Ok(admission);
        let found = one(&state, code::PARAMETER);
        state.mutating = Ok(vec![first]);
        found
    };
    let name = |name: &str| Some(Parameter::Name(name.to_owned()));
    let linkerds = "linkerd-proxy-injector-webhook-config";
    assert_eq!(seen(None, &[]).result, Level::Success);
    assert_eq!(seen(name(linkerds), &[]).result, Level::Success);
    let found = seen(name("old"), &[]);
    assert_eq!(found.result, Level::Error);
    assert!(found.error.unwrap().contains("takes old as its parameter, which does not exist"));
    assert!(found.fix.unwrap().contains(&format!(",linkerd.webhookConfiguration={linkerds} --api-versions ")));
    let found = seen(name("tap"), &[("tap", "tap")]);
    assert!(
        found.error.unwrap().contains("takes tap as its parameter, which is no configuration of Linkerd's webhook")
    );
    let found = seen(Some(Parameter::Missing), &[]);
    assert!(found.error.unwrap().contains("has no paramRef"));
    // A second one that is called for the same pods adds nothing.
    assert_eq!(seen(name(linkerds), &[("second", "proxy-injector")]).result, Level::Success);
}

#[test]
fn a_namespace_without_a_policy_is_reported_with_its_label() {
    let mut state = state(&[]);
    state.admission = Ok(both());
    assert_eq!(one(&state, code::COVERAGE).result, Level::Success);
    let mut labelled = |key: &str, value: &str| {
        state.namespaces.as_mut().unwrap()[0].metadata.labels = Some([(key.to_owned(), value.to_owned())].into());
        one(&state, code::COVERAGE)
    };
    for (key, value) in [("linkerd-gate/admission", "exempt"), ("linkerd-gate/essential", "true")] {
        let found = labelled(key, value);
        assert_eq!((found.result, &found.objects[..]), (Level::Warning, &["namespace/shop".to_owned()][..]), "{key}");
        assert_eq!(found.fix.unwrap(), format!("kubectl label namespace shop {key}-"));
    }
    // Linkerd's webhook leaves it out as well: that is another finding.
    assert_eq!(labelled("config.linkerd.io/admission-webhooks", "disabled").result, Level::Success);
    let only = json!({"namespaceSelector": {"matchLabels": {"linkerd-gate/admission": "enforce"}}});
    let mut admission = both();
    for binding in &mut admission.bindings {
        binding.matches = serde_json::from_value(only.clone()).unwrap();
    }
    state.admission = Ok(admission);
    state.namespaces.as_mut().unwrap()[0].metadata.labels = None;
    let found = one(&state, code::COVERAGE);
    assert_eq!(found.fix.unwrap(), "kubectl label --overwrite namespace shop linkerd-gate/admission=enforce");
    // One of the two is enough.
    if let Ok(admission) = &mut state.admission {
        admission.bindings[1].matches = serde_json::from_value(json!({})).unwrap();
    }
    assert_eq!(one(&state, code::COVERAGE).result, Level::Success);
}

#[test]
fn rules_of_another_version_are_reported() {
    let mut state = state(&[]);
    state.admission = Ok(both());
    assert_eq!(one(&state, code::RULES).result, Level::Success);
    let mut changed = |change: &dyn Fn(&mut Policy), expected: &str| {
        let mut admission = both();
        change(&mut admission.policies[0]);
        state.admission = Ok(admission);
        let found = one(&state, code::RULES);
        assert!(found.error.clone().unwrap().contains(expected), "{found:?}");
    };
    changed(&|policy| policy.expressions[3].push_str(" && true"), "linkerd-gate-hold: 1 of its");
    changed(&|policy| drop(policy.expressions.pop()), "linkerd-gate-hold: 0 of its");
    // Linkerd's value that no webhook configuration has.
    let literal = |policy: &mut Policy| {
        let found = policy.expressions.iter_mut().find(|it| *it == "true").unwrap();
        *found = "false".to_owned();
    };
    changed(&literal, "judges for another value of Linkerd's identity.serviceAccountTokenProjection");
    changed(&|policy| policy.on_failure = "Ignore".to_owned(), "failurePolicy is Ignore");
    changed(&|policy| policy.reinvocation = "Never".to_owned(), "reinvocationPolicy is Never");
}

#[test]
fn a_served_certificate_is_reported_by_its_fingerprint() {
    use crate::check::certificate::{Found, ServedBy};
    let print = |letter: &str| vec![letter.repeat(2); 32].join(":");
    let address = |last: u8| std::net::SocketAddr::from(([10, 0, 0, last], 8443));
    let mut state = state(&[]);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&key).unwrap();
    let bundle = k8s_openapi::ByteString(certificate.pem().into_bytes());
    state.mutating.as_mut().unwrap()[0].webhooks.as_mut().unwrap()[0].client_config.ca_bundle = Some(bundle);

    let found = one(&state, code::CA_BUNDLE);
    assert!(found.result == Level::Warning && found.error.unwrap().contains("this machine is not in the cluster"));
    let good = ServedBy { address: address(1), found: Found::Trusted { fingerprint: print("A") } };
    state.served = Served::Dialled(vec![good.clone(), good.clone()]);
    let found = one(&state, code::CA_BUNDLE);
    assert_eq!(found.result, Level::Success);
    assert!(found.description.ends_with(&format!("(SHA-256 {})", print("A"))), "{found:?}");

    let bad = Found::NotTrusted { fingerprint: print("B"), why: "it does not chain to the caBundle".to_owned() };
    state.served = Served::Dialled(vec![good, ServedBy { address: address(2), found: bad }]);
    let found = one(&state, code::CA_BUNDLE);
    assert_eq!(found.result, Level::Error);
    let expected = found.error.unwrap();
    assert!(
        expected.contains(&format!("10.0.0.2:8443 serves SHA-256 {}: it does not chain", print("B"))),
        "{expected}"
    );
    assert!(expected.contains(&certificate::fingerprint(certificate.der())), "{expected}");
    assert!(found.fix.unwrap().contains("kubectl get secret linkerd-proxy-injector-k8s-tls -n linkerd"));

    let silent = ServedBy { address: address(3), found: Found::Nothing("refused".to_owned()) };
    state.served = Served::Dialled(vec![silent]);
    assert!(error(&state, code::CA_BUNDLE).contains("10.0.0.3:8443: refused"));
    // An API server that fails closed says why.
    state.served = Served::NotDialled;
    let why =
        "failed calling webhook: tls: failed to verify certificate: x509: certificate signed by unknown authority";
    state.proof = Proof::Answered { namespace: "shop".to_owned(), outcome: crate::decide::ProbeResult::not_ready(why) };
    let found = one(&state, code::CA_BUNDLE);
    assert_eq!(found.result, Level::Error);
    assert!(found.error.unwrap().contains("serves: certificate signed by unknown authority"));
}
