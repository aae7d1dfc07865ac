use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::check::certificate::Served;
use crate::check::policy::{Admission, Binding, Parameter, Policy, PolicyKind};
use crate::check::state::Version;
use crate::decide::election::lease_record;
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};
use crate::linkerd::{TokenProjection, WebhookView, names};

#[test]
fn every_code_stands_once_and_is_explained() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/check.md")).unwrap();
    let mut ids: Vec<_> = code::ALL.iter().map(|code| code.id).collect();
    for code in code::ALL {
        let heading = format!("### {}\n", code.id);
        let (_, text) = page.split_once(&heading).unwrap_or_else(|| panic!("docs/check.md has no heading {}", code.id));
        let text = text.split("\n#").next().unwrap_or_default();
        for part in ["**Cause.**", "**Fix.**"] {
            assert!(text.contains(part), "{}: {part}", code.id);
        }
        assert!(text.contains(code.description), "{}: {}", code.id, code.description);
        assert!(code.url().ends_with(&format!("#{}", code.id.to_lowercase())));
    }
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert_eq!(page.matches("\n### LG").count(), count, "docs/check.md explains a code that is none");
}

/// A cluster with Linkerd's webhook, a namespace `shop` that asks, and these pods.
pub(super) fn state(pods: &[Value]) -> State {
    let of = |value: Value| serde_json::from_value(value).unwrap();
    let mutating = vec![of(json!({
        "metadata": {
            "name": "linkerd-proxy-injector-webhook-config",
            "labels": {names::label::CONTROL_PLANE_COMPONENT: names::component::PROXY_INJECTOR},
        },
        "webhooks": [{
            "name": "linkerd-proxy-injector.linkerd.io", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore",
            "clientConfig": {"service": {"name": "linkerd-proxy-injector", "namespace": "linkerd", "path": "/"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        }],
    }))];
    let namespace = json!({"metadata": {"name": "shop", "annotations": {"linkerd.io/inject": "enabled"}}});
    let namespaces = vec![serde_json::from_value(namespace).unwrap()];
    let view = WebhookView::new(&mutating).unwrap();
    let mut survey = Survey::new(view, None, TokenProjection::Enabled, &namespaces);
    for pod in pods {
        survey.add(&serde_json::from_value(pod.clone()).unwrap());
    }
    State {
        pre: false,
        projection: TokenProjection::Enabled,
        now: "2026-01-01T12:00:00Z".parse().unwrap(),
        version: Ok(Version::read("v1.36.0").unwrap()),
        mutating: Ok(mutating),
        validating: Ok(Vec::new()),
        admission: Ok(Admission::default()),
        namespaces: Ok(namespaces),
        daemon_sets: Ok(Vec::new()),
        deployments: Ok(Vec::new()),
        leases: Ok(Vec::new()),
        nodes: Ok(Vec::new()),
        pods: Ok(survey),
        proof: Proof::Skipped("not here".to_owned()),
        injectors: Ok(Vec::new()),
        served: Served::NotDialled,
        asker: None,
    }
}

/// A policy of this version.
pub(super) fn policy(kind: PolicyKind, name: &str) -> Policy {
    let manifest = if name == HOLD_POLICY {
        include_str!("../../deploy/manifests/60-admission-hold.yaml")
    } else {
        include_str!("../../deploy/manifests/61-admission-guard.yaml")
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
    let object = serde_json::from_value(documents[0].clone()).unwrap();
    let policy = crate::cluster::admission::policy(kind, &object).unwrap();
    assert_eq!(policy.name, name);
    policy
}

/// Its binding.
pub(super) fn bound(kind: PolicyKind, name: &str) -> Binding {
    let labels = json!({"matchLabels": {"linkerd.io/control-plane-component": "proxy-injector"}});
    Binding {
        kind,
        name: name.to_owned(),
        policy: name.to_owned(),
        actions: if kind == PolicyKind::Validating { vec!["Deny".to_owned()] } else { Vec::new() },
        parameter: Parameter::Labels(serde_json::from_value(labels).unwrap()),
        refuses_without: false,
        matches: serde_json::from_value(json!({})).unwrap(),
    }
}

pub(super) fn both() -> Admission {
    let all = [(PolicyKind::Mutating, HOLD_POLICY), (PolicyKind::Validating, GUARD_POLICY)];
    Admission {
        offers_mutating: true,
        policies: all.map(|(kind, name)| policy(kind, name)).into(),
        bindings: all.map(|(kind, name)| bound(kind, name)).into(),
    }
}

/// A pod without a proxy, in this phase.
pub(super) fn bare(name: &str, phase: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": phase},
    })
}

pub(super) fn owned(mut pod: Value, api_version: &str, kind: &str, name: &str) -> Value {
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": "1", "controller": true}]);
    pod
}

pub(super) fn one(state: &State, code: Code) -> Check {
    let report = check(state);
    let mut found = report.checks().filter(|check| check.code == code);
    let one = found.next().unwrap_or_else(|| panic!("{} is not told: {report:?}", code.id)).clone();
    assert_eq!(found.next(), None);
    one
}

pub(super) fn error(state: &State, code: Code) -> String {
    one(state, code).error.unwrap_or_default()
}

fn commands(pods: &[Value]) -> Vec<String> {
    let survey = state(pods).pods.unwrap();
    survey.rows.iter().flat_map(|(owner, row)| row.commands(owner)).map(|(_, command)| command).collect()
}

#[test]
fn what_a_tenant_writes_is_no_command() {
    let harm = "x; touch /tmp/pwned #\nreboot\u{1b}]0;owned\u{7}";
    for (api_version, kind, name) in [
        ("apps/v1", "StatefulSet", harm),
        ("apps/v1", "ReplicaSet", harm),
        ("batch/v1", "Job", harm),
        ("v1", "Deployment", "web"),
        ("example.com/v1", "StatefulSet", "web"),
        ("apps/v1", "Deployment\nreboot", "web"),
    ] {
        let pods = [bare("a", "Pending"), bare("b", "Running")].map(|pod| owned(pod, api_version, kind, name));
        let commands = commands(&pods);
        assert!(!commands.is_empty());
        for command in commands {
            assert!(command.starts_with("# ") && !command.contains(char::is_control), "{command:?}");
        }
    }
    let pods = [bare("a", "Pending"), bare("b", "Running")].map(|pod| owned(pod, "apps/v1", "StatefulSet", "db"));
    assert_eq!(commands(&pods), ["kubectl delete pod -n shop a", "kubectl rollout restart statefulset/db -n shop"]);
}

#[test]
fn held_is_what_something_holds() {
    let waiting = [bare("a", "Pending"), bare("b", "Pending")];
    assert_eq!(one(&state(&waiting), code::MESHED).result, Level::Error);
    assert_eq!(one(&state(&waiting), code::HELD).result, Level::Success);
    let mut gated = bare("a", "Pending");
    gated["spec"]["schedulingGates"] = json!([{"name": crate::decide::hold::GATE}]);
    let mut waits = bare("b", "Pending");
    waits["spec"]["initContainers"] = json!([{"name": crate::linkerd::mesh_state::WAIT, "image": "gate"}]);
    let held = state(&[gated, waits]);
    assert_eq!(one(&held, code::MESHED).result, Level::Success);
    assert!(error(&held, code::HELD).starts_with("held without a proxy: 2 pods, 1 by"));
}

#[test]
fn the_control_planes_own_label_is_not_forged() {
    let mut pod = bare("linkerd-identity-0", "Running");
    pod["metadata"]["labels"] = json!({names::label::CONTROL_PLANE_NS: "linkerd"});
    assert_eq!(one(&state(&[pod.clone()]), code::FORGED).result, Level::Error);
    // Linkerd's chart puts both on its own pods, and its heartbeat's have no proxy.
    pod["metadata"]["labels"][names::label::CONTROL_PLANE_COMPONENT] = json!("identity");
    assert_eq!(one(&state(&[pod]), code::FORGED).result, Level::Success);
}

#[test]
fn a_power_cut_meets_what_is_bare_today_as_well() {
    let check_of = |pods: &[Value]| one(&state(pods), code::AFTER_A_CUT);
    assert!(check_of(&[bare("a", "Running")]).error.unwrap().starts_with("nothing holds 1 pod of 1 owner"));
    assert!(check_of(&[]).description.starts_with("there is no meshed pod"));
    let mut waits = bare("b", "Pending");
    waits["spec"]["initContainers"] = json!([{"name": crate::linkerd::mesh_state::WAIT, "image": "gate"}]);
    assert_eq!(check_of(&[waits.clone()]).result, Level::Success);
    waits["spec"]["initContainers"][0]["env"] = json!([{"name": "LINKERD_GATE_ON_TIMEOUT", "value": "open"}]);
    assert!(check_of(&[waits]).error.unwrap().starts_with("nothing holds 1 pod"), "it may let its pod start");
}

#[test]
fn what_objects_say_acts_on_no_terminal() {
    let harm = "\u{1b}]0;owned\u{7}";
    let mut state = state(&[owned(bare("a", "Running"), "example.com/v1", "Thing", harm)]);
    let holder = json!({
        "metadata": {"name": lease_record::PROVER_LEASE},
        "spec": {"holderIdentity": harm, "renewTime": "2020-01-01T00:00:00.000000Z"},
    });
    state.leases = Ok(vec![serde_json::from_value(holder).unwrap()]);
    state.daemon_sets = Ok(vec![ours("agent")]);
    state.proof = Proof::Skipped(format!("refused: {harm}{}", "x".repeat(5000)));
    let report = check(&state);
    for check in report.checks() {
        let texts = check.error.iter().chain(&check.fix).chain(&check.objects).chain([&check.description]);
        for text in texts {
            let ours = text.replace("\n\t* ", "");
            assert!(!ours.contains(char::is_control) && ours.chars().count() < 20_000, "{check:?}");
        }
    }
    assert!(error(&state, code::PROVER).contains("]0;owned"));
    assert!(error(&state, code::PROVEN).chars().count() < 1100);
}

pub(super) fn ours<T: serde::de::DeserializeOwned>(component: &str) -> T {
    let labels = json!({"app.kubernetes.io/name": "linkerd-gate", "app.kubernetes.io/component": component});
    let object = json!({
        "metadata": {"name": "linkerd-gate", "namespace": "linkerd-gate", "labels": labels},
        "spec": {"selector": {}, "template": {}},
    });
    serde_json::from_value(object).unwrap()
}

#[test]
fn an_old_verdict_proves_nothing() {
    let lease = |renewed: &str| -> Lease {
        let verdict = r#"{"version":1,"gate":"open","basis":"proven","proof":1}"#;
        let lease = json!({
            "metadata": {"name": lease_record::PROVER_LEASE, "annotations": {lease_record::VERDICT: verdict}},
            "spec": {"holderIdentity": "n1", "renewTime": renewed},
        });
        serde_json::from_value(lease).unwrap()
    };
    let mut state = state(&[]);
    state.leases = Ok(vec![lease("2026-01-01T11:59:50.000000Z")]);
    assert_eq!(one(&state, code::PROVEN_EVERYWHERE).result, Level::Success);
    state.leases = Ok(vec![lease("2020-01-01T00:00:00.000000Z")]);
    let from: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(error(&state, code::PROVEN_EVERYWHERE), format!("not looked at: the verdict is from {from}"));
}

#[test]
fn a_check_without_the_right_is_reported_as_not_run() {
    let forbidden = || Unread::Forbidden("get policies".to_owned());
    let mut state = state(&[bare("a", "Running")]);
    state.admission = Err(forbidden());
    for code in [code::FAILURE_POLICY, code::AFTER_A_CUT] {
        assert_eq!(error(&state, code), "not looked at: you may not get policies");
    }
    state.deployments = Err(forbidden());
    assert_eq!(error(&state, code::INSTALLED), "not looked at: you may not get policies");
    state.daemon_sets = Ok(vec![ours("agent")]);
    assert_eq!(one(&state, code::INSTALLED).result, Level::Success);
}

#[test]
fn linkerds_own_extensions_make_no_pod_ask() {
    let mut state = state(&[]);
    let later = |labels: Value| {
        let mut other = state.mutating.as_ref().unwrap()[0].clone();
        other.metadata.name = Some("zz-tap-injector".to_owned());
        other.metadata.labels = serde_json::from_value(labels).unwrap();
        other.webhooks.as_mut().unwrap()[0].name = "other.example.com".to_owned();
        other
    };
    let (viz, other) = (later(json!({"linkerd.io/extension": "viz"})), later(json!({"app": "x"})));
    let first = state.mutating.as_ref().unwrap()[0].clone();
    state.mutating = Ok(vec![first.clone(), viz]);
    assert_eq!(one(&state, code::LATER_WEBHOOKS).result, Level::Success);
    state.mutating = Ok(vec![first, other]);
    assert_eq!(one(&state, code::LATER_WEBHOOKS).result, Level::Warning);
}
