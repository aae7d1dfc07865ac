//! Every finding of every code, in states that have it: each has a command to paste, or says why there is none.

use serde_json::{Value, json};

use super::certificate::{Found, Served, ServedBy};
use super::policy::{Parameter, PolicyKind};
use super::tests::{bare, both, bound, ours, owned, policy, state};
use super::*;
use crate::decide::ProbeResult;
use crate::decide::election::lease_record;
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};

/// The programs that a command may begin with: those that an operator of Linkerd has, and this one.
const PROGRAMS: [&str; 4] = ["kubectl", "linkerd", "linkerd-gate", "helm"];

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn namespace(name: &str, labels: &Value, annotations: &Value) -> k8s_openapi::api::core::v1::Namespace {
    object(json!({"metadata": {"name": name, "labels": labels, "annotations": annotations}}))
}

fn lease(name: &str, renewed: &str, verdict: &str) -> k8s_openapi::api::coordination::v1::Lease {
    object(json!({
        "metadata": {"name": name, "annotations": {lease_record::VERDICT: verdict}},
        "spec": {"holderIdentity": "n1", "renewTime": renewed},
    }))
}

fn daemon_set(namespace: &str, name: &str, tolerations: &Value) -> k8s_openapi::api::apps::v1::DaemonSet {
    object(json!({
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {}, "template": {"spec": {"tolerations": tolerations, "containers": []}}},
    }))
}

fn control_plane(part: &str) -> k8s_openapi::api::apps::v1::Deployment {
    object(json!({
        "metadata": {
            "name": format!("linkerd-{part}"), "namespace": "linkerd",
            "labels": {"linkerd.io/control-plane-component": part},
            "annotations": {"linkerd.io/created-by": "linkerd/helm edge-26.8.3"},
        },
        "spec": {"replicas": 1, "selector": {}, "template": {}},
    }))
}

fn role(component: &str, image: &str, mode: &str) -> Value {
    json!({"containers": [{
        "name": component, "image": image, "args": [component],
        "env": [{"name": "LINKERD_GATE_MODE", "value": mode}],
    }]})
}

/// Agents and a controller, of these images, in this mode.
fn with_parts(state: &mut State, agent: &str, controller: &str, mode: &str) {
    let mut agents: k8s_openapi::api::apps::v1::DaemonSet = ours("agent");
    agents.spec.as_mut().unwrap().template.spec = Some(object(role("agent", agent, mode)));
    let mut deployment: k8s_openapi::api::apps::v1::Deployment = ours("controller");
    deployment.spec.as_mut().unwrap().template.spec = Some(object(role("controller", controller, mode)));
    state.daemon_sets = Ok(vec![agents]);
    state.deployments = Ok(vec![deployment]);
}

/// States, each with a name; together they have every finding.
fn states() -> Vec<(&'static str, State)> {
    let mut all: Vec<(&'static str, State)> = Vec::new();
    let mut one = |name: &'static str, pods: &[Value], change: &dyn Fn(&mut State)| {
        let mut state = state(pods);
        change(&mut state);
        all.push((name, state));
    };
    let forbidden = |what: &str| Unread::Forbidden(what.to_owned());
    let failed = || Unread::Failed("the API server did not answer".to_owned());

    one("nothing installed", &[bare("a", "Running")], &|_| {});
    one("unreachable", &[], &|state| state.version = Err(failed()));
    one("nothing may be read", &[], &|state| {
        state.mutating = Err(forbidden("list mutatingwebhookconfigurations"));
        state.validating = Err(forbidden("list validatingwebhookconfigurations"));
        state.admission = Err(forbidden("get mutatingadmissionpolicies linkerd-gate-hold"));
        state.namespaces = Err(forbidden("list namespaces"));
        state.daemon_sets = Err(forbidden("list daemonsets.apps in all namespaces"));
        state.deployments = Err(forbidden("list deployments.apps in all namespaces"));
        state.nodes = Err(forbidden("list nodes"));
        state.pods = Err(Unread::Needs("Linkerd's webhooks"));
        state.asker = Some("--user=jane o'neill".to_owned());
    });
    one("nothing is answered", &[], &|state| {
        state.mutating = Err(failed());
        state.admission = Err(failed());
        state.namespaces = Err(failed());
        state.daemon_sets = Err(failed());
        state.deployments = Err(failed());
        state.nodes = Err(failed());
        state.pods = Err(failed());
        state.leases = Err(failed());
    });
    for (name, proof) in [
        ("not injected", Proof::Answered { namespace: "shop".to_owned(), outcome: ProbeResult::not_ready("bare") }),
        ("not known", Proof::Answered { namespace: "shop".to_owned(), outcome: ProbeResult::unknown("refused") }),
        ("not sent", Proof::Forbidden("create pods in namespace shop (in a dry run)".to_owned())),
        ("not trusted", Proof::Answered { namespace: "shop".to_owned(), outcome: ProbeResult::not_ready("x509: no") }),
    ] {
        one(name, &[], &|state| state.proof = proof.clone());
    }
    one("no Linkerd", &[], &|state| state.mutating = Ok(Vec::new()));
    one("a stranger's certificate", &[], &|state| {
        let found = Found::NotTrusted { fingerprint: "AB".to_owned(), why: "it does not chain".to_owned() };
        state.served = Served::Dialled(vec![ServedBy { address: ([10, 0, 0, 1], 8443).into(), found }]);
    });
    for gone in [true, false] {
        one("two Linkerds", &[], &|state| {
            let mut second = state.mutating.as_ref().unwrap()[0].clone();
            second.metadata.name = Some("a-stale-one".to_owned());
            state.mutating.as_mut().unwrap().push(second);
            if !gone {
                state.namespaces.as_mut().unwrap().push(namespace("linkerd", &json!({}), &json!({})));
            }
        });
    }
    one("webhooks around Linkerd's", &[], &|state| {
        let mut later = state.mutating.as_ref().unwrap()[0].clone();
        later.metadata.name = Some("zz-other".to_owned());
        later.metadata.labels = None;
        let hook = &mut later.webhooks.as_mut().unwrap()[0];
        hook.name = "other.example.com".to_owned();
        hook.failure_policy = Some("Fail".to_owned());
        let conditions = json!([{"name": "some", "expression": "true"}]);
        state.mutating.as_mut().unwrap()[0].webhooks.as_mut().unwrap()[0].match_conditions = Some(object(conditions));
        state.mutating.as_mut().unwrap().push(later);
        state.namespaces.as_mut().unwrap().push(namespace("linkerd", &json!({}), &json!({})));
    });
    one("namespaces", &[], &|state| {
        // The chart's selector, in short.
        let selector = json!({"matchExpressions": [
            {"key": "config.linkerd.io/admission-webhooks", "operator": "NotIn", "values": ["disabled"]},
            {"key": "odd", "operator": "DoesNotExist"},
        ]});
        state.mutating.as_mut().unwrap()[0].webhooks.as_mut().unwrap()[0].namespace_selector = Some(object(selector));
        let enabled = json!({"linkerd.io/inject": "enabled"});
        let off = json!({"config.linkerd.io/admission-webhooks": "disabled"});
        state.namespaces.as_mut().unwrap().extend([
            namespace("out", &off, &enabled),
            namespace("odd", &json!({"odd": "x"}), &enabled),
            namespace("broken", &json!({}), &json!({"config.linkerd.io/proxy-log-level": "a\"b"})),
            namespace("invalid", &json!({}), &json!({"linkerd.io/inject": "Enabled"})),
        ]);
    });
    policies(&mut one);
    parts(&mut one);
    pods_and_nodes(&mut one);
    all
}

type Add<'a> = dyn FnMut(&'static str, &[Value], &dyn Fn(&mut State)) + 'a;

fn policies(one: &mut Add<'_>) {
    one("nothing bound", &[], &|state| {
        let mut admission = both();
        admission.bindings.clear();
        state.admission = Ok(admission);
    });
    for (parameter, refuses_without) in [
        (Parameter::Missing, false),
        (Parameter::Name("old".to_owned()), false),
        (Parameter::Labels(object(json!({"matchLabels": {"a": "b"}}))), true),
    ] {
        one("no parameter", &[], &|state| {
            let mut admission = both();
            admission.bindings[0].parameter = parameter.clone();
            admission.bindings[0].refuses_without = refuses_without;
            state.admission = Ok(admission);
        });
    }
    for matches in [
        json!({"namespaceSelector": {"matchLabels": {"linkerd-gate/admission": "enforce"}}}),
        json!({"namespaceSelector": {"matchLabels": {"other": "x"}}}),
        json!({"objectSelector": {"matchLabels": {"other": "x"}}}),
    ] {
        one("left out", &[], &|state| {
            let mut binding = bound(PolicyKind::Mutating, HOLD_POLICY);
            binding.matches = object(matches.clone());
            let mut admission = both();
            admission.bindings = vec![binding];
            state.admission = Ok(admission);
        });
    }
    for (key, value) in [("linkerd-gate/admission", "exempt"), ("linkerd-gate/essential", "true")] {
        one("exempt", &[], &|state| {
            state.admission = Ok(both());
            let labels = [(key.to_owned(), value.to_owned())].into();
            state.namespaces.as_mut().unwrap()[0].metadata.labels = Some(labels);
        });
    }
    one("other rules", &[], &|state| {
        let mut other = policy(PolicyKind::Validating, GUARD_POLICY);
        other.on_failure = "Ignore".to_owned();
        let mut admission = both();
        admission.policies[1] = other;
        state.admission = Ok(admission);
    });
}

fn parts(one: &mut Add<'_>) {
    for helm in [true, false] {
        one("parts of two versions, in audit", &[], &|state| {
            with_parts(state, "r.example:5000/gate:1", "r.example:5000/gate:2", "audit");
            if helm {
                let note = [("meta.helm.sh/release-name".to_owned(), "gate".to_owned())].into();
                state.daemon_sets.as_mut().unwrap()[0].metadata.annotations = Some(note);
            }
            let nodes = json!({"metadata": {"name": "n1", "labels": {"karpenter.sh/nodepool": "a"}}});
            state.nodes = Ok(vec![object(nodes)]);
        });
    }
    one("no controller", &[], &|state| state.daemon_sets = Ok(vec![ours("agent")]));
    one("no agents", &[], &|state| state.deployments = Ok(vec![ours("controller")]));
    for verdict in [
        r#"{"version":1,"gate":"closed","failedProbes":[{"probe":"identity","result":"not-ready","reason":"refused"}]}"#,
        r#"{"version":1,"gate":"closed"}"#,
        r#"{"version":1,"gate":"settling"}"#,
        r#"{"version":9,"gate":"open"}"#,
        r#"{"version":1,"gate":"open","basis":"not-installed"}"#,
        r#"{"version":1,"gate":"open","basis":"proven","taintSuppressedBy":{"kube-system/cni":["n1"]}}"#,
    ] {
        for renewed in ["2026-01-01T11:59:50.000000Z", "2020-01-01T00:00:00.000000Z"] {
            for there in [true, false] {
                one("a verdict", &[], &|state| {
                    with_parts(state, "gate:1", "gate:1", "enforce");
                    let leases = [lease_record::PROVER_LEASE, lease_record::CONTROLLER_LEASE];
                    state.leases = Ok(leases.map(|name| lease(name, renewed, verdict)).into());
                    if there {
                        let tolerates = json!([{"key": "a", "operator": "Exists"}]);
                        let sets =
                            [daemon_set("kube-system", "cni", &tolerates), daemon_set("linkerd", "x", &json!(null))];
                        state.daemon_sets.as_mut().unwrap().extend(sets);
                        state.namespaces.as_mut().unwrap().extend([
                            namespace("linkerd", &json!({}), &json!({})),
                            namespace("kube-system", &json!({"linkerd-gate/essential": "true"}), &json!({})),
                        ]);
                    }
                });
            }
        }
    }
}

fn pods_and_nodes(one: &mut Add<'_>) {
    let mut gated = bare("gated", "Pending");
    gated["spec"]["schedulingGates"] = json!([{"name": crate::decide::hold::GATE}]);
    let marked = |mut pod: Value, what: &str, key: &str, value: &str| {
        pod["metadata"][what] = json!({key: value});
        pod
    };
    let proxied = |name: &str| {
        let mut pod = marked(bare(name, "Running"), "annotations", "linkerd.io/proxy-version", "edge-1");
        pod["metadata"]["labels"] = json!({"linkerd.io/control-plane-ns": "linkerd"});
        pod["spec"]["containers"] = json!([{"name": "linkerd-proxy", "image": "cr.l5d.io/linkerd/proxy:edge-1"}]);
        pod
    };
    let control = |name: &str| {
        let mut pod = marked(bare(name, "Running"), "labels", "linkerd.io/control-plane-component", "identity");
        pod["metadata"]["namespace"] = "linkerd".into();
        pod["spec"]["nodeName"] = "n1".into();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        pod
    };
    for owner in [None, Some(("apps/v1", "StatefulSet", "db")), Some(("batch/v1", "Job", "import"))] {
        let of = |pod: Value| match owner {
            Some((version, kind, name)) => owned(pod, version, kind, name),
            None => pod,
        };
        let pods = [
            of(bare("a", "Running")),
            of(gated.clone()),
            of(marked(bare("forged", "Running"), "labels", "linkerd.io/control-plane-ns", "linkerd")),
            of(marked(bare("broken", "Running"), "annotations", "config.linkerd.io/proxy-version", "a\"b")),
            of(proxied("old")),
            control("one"),
            control("two"),
        ];
        one("pods", &pods, &|state| {
            state.deployments =
                Ok(["proxy-injector", "identity", "destination"].map(control_plane).into_iter().collect());
        });
    }
    one("nodes", &[], &|state| {
        with_parts(state, "gate:1", "gate:1", "enforce");
        let word = "open 2026-01-01T13:00:00Z";
        let taint = json!([{"key": "linkerd-gate/closed", "effect": "NoSchedule"}]);
        let annotations = json!({crate::decide::manual_override::ANNOTATION: word});
        let node =
            |name: &str| json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"taints": taint}});
        state.nodes = Ok(["n1", "n2"].map(|name| object(node(name))).into());
        let mut all =
            lease(lease_record::PROVER_LEASE, "2026-01-01T11:59:50.000000Z", r#"{"version":1,"gate":"settling"}"#);
        let annotations = all.metadata.annotations.as_mut().unwrap();
        annotations.insert(crate::decide::manual_override::ANNOTATION.to_owned(), word.to_owned());
        state.leases = Ok(vec![all]);
    });
}

#[test]
fn every_code_is_found_and_every_finding_has_a_command() {
    let mut found = BTreeSet::new();
    let mut wrong = Vec::new();
    for (name, mut state) in states() {
        for pre in [false, true] {
            state.pre = pre;
            let report = check(&state);
            for check in report.checks().filter(|check| check.result > Level::Success) {
                found.insert(check.code.id);
                if let Err(why) = is_a_command(check.fix.as_deref()) {
                    wrong.push(format!("{name}: {} {:?}: {why}", check.code.id, check.fix));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let missing: Vec<_> = code::ALL.iter().map(|code| code.id).filter(|id| !found.contains(id)).collect();
    assert_eq!(missing, [] as [&str; 0], "no state has these");
}

/// A line to paste: programs that are there, and nothing to fill in but what the comment behind it explains.
fn is_a_command(fix: Option<&str>) -> Result<(), String> {
    let fix = fix.filter(|fix| !fix.is_empty()).ok_or("there is none")?;
    let (command, comment) = fix.split_once("   # ").unwrap_or((fix, ""));
    if fix.contains('\n') || comment.trim() != comment {
        return Err("it is no line".to_owned());
    }
    for part in command.split(" && ").flat_map(|part| part.split(" | ")) {
        let program = part.split_whitespace().next().unwrap_or_default();
        if !PROGRAMS.contains(&program) {
            return Err(format!("{program:?} is no program of an operator's"));
        }
    }
    let is_placeholder = |word: &&str| {
        word.len() > 2 && word.chars().all(|character| character.is_ascii_uppercase() || character == '_')
    };
    for word in command.split(|character: char| !character.is_ascii_alphanumeric() && character != '_') {
        if is_placeholder(&word) && !comment.contains(word) {
            return Err(format!("{word} is left to fill in, and not explained"));
        }
    }
    if command.contains('…') || command.contains(['<', '\u{1b}']) {
        return Err("something is left to fill in".to_owned());
    }
    Ok(())
}

#[test]
fn what_a_user_is_called_is_one_word_of_the_shell() {
    let (_, state) = states().into_iter().find(|(name, _)| *name == "nothing may be read").unwrap();
    let report = check(&state);
    let fix = report.checks().find(|check| check.code == code::RIGHTS).unwrap().fix.clone().unwrap();
    assert!(fix.contains(r"'--user=jane o'\''neill'"), "{fix}");
}
