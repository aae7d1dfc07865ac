//! What comes of the values `admission`, `admissionNamespaces` and `mode`, on newer and on older Kubernetes.

use serde_json::{Value, json};

use crate::helm::{
    Document, Kubernetes, NAMESPACE, Setting, chart, helm, refusal, render, render_on, set, template_on,
};

const BOTH: [Kubernetes; 2] = [Kubernetes::Newer, Kubernetes::Older];

/// What stands in the cluster of the four policies and of their bindings, and what the bindings do.
#[derive(Debug, PartialEq)]
struct Admission {
    hold: bool,
    /// The binding's actions.
    guard: Option<Value>,
    release: Option<Value>,
    born_closed: bool,
}

// === impl Admission ===

impl Admission {
    fn of(documents: &[Document]) -> Self {
        let values: Vec<Value> = documents.iter().map(Document::value).collect();
        let find = |kind: &str, name: &str| {
            values.iter().find(|value| value["kind"] == kind && value["metadata"]["name"] == name)
        };
        let mutating = |name: &str| {
            let both = [find("MutatingAdmissionPolicy", name), find("MutatingAdmissionPolicyBinding", name)];
            assert_eq!(both[0].is_some(), both[1].is_some(), "{name} is half there");
            both[0].is_some()
        };
        let validating = |name: &str| {
            let policy = find("ValidatingAdmissionPolicy", name);
            let binding = find("ValidatingAdmissionPolicyBinding", name);
            assert_eq!(policy.is_some(), binding.is_some(), "{name} is half there");
            binding.map(|binding| binding["spec"]["validationActions"].clone())
        };
        Self {
            hold: mutating("linkerd-gate-hold"),
            guard: validating("linkerd-gate-guard"),
            release: validating("linkerd-gate-release"),
            born_closed: mutating("linkerd-gate-born-closed"),
        }
    }

    fn new(hold: bool, action: Option<&str>) -> Self {
        let actions = action.map(|action| json!([action, "Audit"]));
        Self { hold, guard: actions.clone(), release: actions, born_closed: false }
    }
}

#[test]
fn each_value_of_admission_renders_its_policies() {
    for (word, kubernetes, expected) in [
        ("auto", Kubernetes::Newer, Admission::new(true, Some("Deny"))),
        ("auto", Kubernetes::Older, Admission::new(false, Some("Deny"))),
        ("hold", Kubernetes::Newer, Admission::new(true, Some("Deny"))),
        ("refuse", Kubernetes::Newer, Admission::new(false, Some("Deny"))),
        ("refuse", Kubernetes::Older, Admission::new(false, Some("Deny"))),
        ("warn", Kubernetes::Newer, Admission::new(false, Some("Warn"))),
        ("warn", Kubernetes::Older, Admission::new(false, Some("Warn"))),
        ("off", Kubernetes::Newer, Admission::new(false, None)),
        ("off", Kubernetes::Older, Admission::new(false, None)),
    ] {
        let settings = [set("admission", word)];
        assert_eq!(Admission::of(&render_on(kubernetes, NAMESPACE, &settings)), expected, "{word} on {kubernetes:?}");
        // Nothing is held or refused in audit mode.
        let settings = [set("admission", word), set("mode", "audit")];
        let expected = Admission::new(false, expected.guard.is_some().then_some("Warn"));
        assert_eq!(
            Admission::of(&render_on(kubernetes, NAMESPACE, &settings)),
            expected,
            "{word} on {kubernetes:?} in audit mode"
        );
    }
    // In a file of values, a bare `off` is false.
    assert_eq!(Admission::of(&render(NAMESPACE, &[set("admission", false)])), Admission::new(false, None));
}

#[test]
fn hold_is_refused_where_the_api_server_cannot() {
    for (path, value) in [("admission", json!("hold")), ("agent.bornClosed", json!(true))] {
        let output = template_on(Kubernetes::Older, NAMESPACE, &[set(path, value)]);
        assert!(!output.status.success(), "{path} was rendered");
        let said = String::from_utf8(output.stderr).unwrap();
        for part in [path, "Kubernetes has from 1.36 on", "--api-versions admissionregistration.k8s.io/v1/"] {
            assert!(said.contains(part), "no {part:?} in: {said}");
        }
    }
}

#[test]
fn the_guard_tells_what_was_chosen() {
    let annotations = |kubernetes, settings: &[Setting]| {
        let documents = render_on(kubernetes, NAMESPACE, settings);
        let guard = documents.iter().find(|document| document.template == "admission/guard.yaml").unwrap();
        guard.value()["metadata"]["annotations"].clone()
    };
    let said = |value: &str, chosen: &str| json!({"linkerd-gate/admission-value": value, "linkerd-gate/admission-chosen": chosen});
    assert_eq!(annotations(Kubernetes::Newer, &[]), said("auto", "hold"));
    assert_eq!(annotations(Kubernetes::Older, &[]), said("auto", "refuse"));
    assert_eq!(annotations(Kubernetes::Newer, &[set("admission", "refuse")]), said("refuse", "refuse"));
}

#[test]
fn labelled_namespaces_are_those_of_both_policies() {
    let labelled = json!({"namespaceSelector": {"matchLabels": {"linkerd-gate/admission": "enforce"}}});
    for (word, expected) in [("all", Value::Null), ("labelled", labelled)] {
        let documents = render(NAMESPACE, &[set("admissionNamespaces", word)]);
        for template in ["admission/hold-binding.yaml", "admission/guard-binding.yaml"] {
            let binding = documents.iter().find(|document| document.template == template).unwrap().value();
            assert_eq!(binding["spec"]["matchResources"], expected, "{template} with {word}");
        }
        // What is held stays held wherever it is.
        let release = documents.iter().rfind(|document| document.template == "admission/release.yaml").unwrap();
        assert_eq!(release.value()["spec"]["matchResources"], Value::Null);
    }
}

#[test]
fn both_policies_go_by_the_same_configuration() {
    let by_label = json!({
        "selector": {"matchLabels": {"linkerd.io/control-plane-component": "proxy-injector"}},
        "parameterNotFoundAction": "Allow",
    });
    let by_name = json!({"name": "renamed", "parameterNotFoundAction": "Allow"});
    for (name, expected) in [("", by_label), ("renamed", by_name)] {
        let documents = render(NAMESPACE, &[set("linkerd.webhookConfiguration", name)]);
        for template in ["admission/hold-binding.yaml", "admission/guard-binding.yaml"] {
            let binding = documents.iter().find(|document| document.template == template).unwrap().value();
            assert_eq!(binding["spec"]["paramRef"], expected, "{template}");
        }
    }
}

/// The same in both, to the letter: variables of one name, and where neither looks.
#[test]
fn hold_and_guard_ask_the_same() {
    let documents = render(NAMESPACE, &[set("linkerd.tokenProjection", false)]);
    let spec = |template: &str| {
        let found = documents.iter().find(|document| document.template == template).unwrap();
        found.value()["spec"].clone()
    };
    let (hold, guard) = (spec("admission/hold.yaml"), spec("admission/guard.yaml"));
    let variable = |policy: &Value, name: &str| {
        let variables = policy["variables"].as_array().unwrap();
        variables.iter().find(|variable| variable["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    for name in ["asked", "token", "tokenProjection", "calling", "nsLabels", "podLabels"] {
        assert_eq!(variable(&hold, name), variable(&guard, name), "{name}");
    }
    assert_eq!(variable(&hold, "tokenProjection")["expression"], "false");
    let namespaces = |policy: &Value| policy["matchConstraints"]["namespaceSelector"].clone();
    assert_eq!(namespaces(&hold), namespaces(&guard));
    assert_eq!(hold["paramKind"], guard["paramKind"]);
    // What would leave a pod unseen in one of the two rounds.
    assert_eq!((&hold["matchConditions"], &hold["matchConstraints"]["objectSelector"]), (&Value::Null, &Value::Null));
    assert_eq!(hold["reinvocationPolicy"], "IfNeeded");
}

#[test]
fn nodes_open_sooner_where_admission_enforces_everywhere() {
    let max_closed = |kubernetes, settings: &[Setting]| {
        let documents = render_on(kubernetes, NAMESPACE, settings);
        let of = |template: &str| {
            let found = documents.iter().find(|document| document.template == template).unwrap().value();
            let variables = found["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
            let found = variables.into_iter().find(|variable| variable["name"] == "LINKERD_GATE_NODE_MAX_CLOSED");
            found.map(|variable| variable["value"].as_str().unwrap().to_owned())
        };
        (of("agent/daemonset.yaml"), of("controller/deployment.yaml"))
    };
    for kubernetes in BOTH {
        let sooner = (Some("2m".to_owned()), None);
        assert_eq!(max_closed(kubernetes, &[]), sooner, "an agent that is gone for 10 minutes is another matter");
        assert_eq!(max_closed(kubernetes, &[set("admission", "refuse")]), sooner);
        for (path, value) in
            [("admission", "warn"), ("admission", "off"), ("mode", "audit"), ("admissionNamespaces", "labelled")]
        {
            assert_eq!(max_closed(kubernetes, &[set(path, value)]), (None, None), "{path}={value}");
        }
        let said = Some("30m".to_owned());
        assert_eq!(
            max_closed(kubernetes, &[set("agent.nodeMaxClosed", "30m")]),
            (said, None),
            "orphans are another matter"
        );
    }
}

#[test]
fn nodes_are_born_closed_where_an_agent_opens_them() {
    let born = |settings: &[Setting]| {
        let mut all = vec![set("agent.bornClosed", true)];
        all.extend(settings.iter().cloned());
        let documents = render(NAMESPACE, &all);
        assert_eq!(Admission::of(&documents).born_closed, documents.iter().any(|it| it.template.contains("born")));
        documents.into_iter().find(|document| document.template == "admission/born-closed.yaml")
    };
    let settings = [set("agent.taintKey", "example.com/starting"), set("agent.nodeSelector", json!({"pool": "a"}))];
    let policy = born(&settings).unwrap();
    assert!(policy.text.contains("key: \"example.com/starting\"") && !policy.text.contains("linkerd-gate/closed"));
    let selected = &policy.value()["spec"]["matchConstraints"]["objectSelector"]["matchLabels"];
    assert_eq!(*selected, json!({"kubernetes.io/os": "linux", "pool": "a"}));
    for (path, value) in [("mode", json!("audit")), ("agent.taint", json!("never")), ("agent.enabled", json!(false))] {
        assert_eq!(born(&[set(path, value)]), None, "{path}");
    }
}

/// A label selector cannot say it, and a policy that selected other nodes would close some that no agent opens.
#[test]
fn born_closed_is_refused_if_no_policy_can_select_the_nodes() {
    const TERMS: &str = "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let expression =
        |operator: &str, values: Value| json!({"key": "example.com/cores", "operator": operator, "values": values});
    let of = |expressions: Value| json!([{"matchExpressions": expressions}]);
    for (terms, found) in [
        (
            json!([of(json!([expression("In", json!(["8"]))]))[0], of(json!([expression("In", json!(["9"]))]))[0]]),
            "has 2 terms",
        ),
        (
            json!([{
                "matchExpressions": [expression("In", json!(["8"]))],
                "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}],
            }]),
            "[0] has matchFields",
        ),
        (json!([{}]), "[0] has no matchExpressions"),
        (
            of(json!([expression("In", json!(["8"])), expression("Gt", json!(["7"]))])),
            "[0].matchExpressions[1] has the operator Gt",
        ),
        (of(json!([expression("Lt", json!(["9"]))])), "[0].matchExpressions[0] has the operator Lt"),
    ] {
        let said = refusal(NAMESPACE, &[set("agent.bornClosed", true), set(TERMS, terms.clone())]);
        let accepted = "agent.bornClosed=true accepts one term, with matchExpressions only";
        for part in [TERMS, found, accepted, "In, NotIn, Exists and DoesNotExist"] {
            assert!(said.contains(part), "no {part:?} in: {said}");
        }
        // Without the policy the affinity is the DaemonSet's alone, which can say all of it.
        let documents = render(NAMESPACE, &[set(TERMS, terms.clone())]);
        let agent = documents.iter().map(Document::value).find(|value| value["kind"] == "DaemonSet").unwrap();
        let affinity = &agent["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
        assert_eq!(affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"], terms);
    }
    let all = ["In", "NotIn"].map(|operator| expression(operator, json!(["8"])));
    let all: Vec<Value> = all
        .into_iter()
        .chain(["Exists", "DoesNotExist"].map(|operator| json!({"key": "example.com/gpu", "operator": operator})))
        .collect();
    let documents = render(NAMESPACE, &[set("agent.bornClosed", true), set(TERMS, of(json!(all)))]);
    let policy = documents.iter().find(|document| document.template == "admission/born-closed.yaml").unwrap().value();
    assert_eq!(policy["spec"]["matchConstraints"]["objectSelector"]["matchExpressions"], json!(all));
}

#[test]
fn an_image_that_is_not_named_is_asked_for() {
    let output = helm().args(["template", "linkerd-gate", "--namespace", NAMESPACE]).arg(chart()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("--set image.repository="), "{said}");
}

/// `linkerd check` would look for a program of ours, and fail where there is none.
#[test]
fn the_namespace_is_an_extensions_only_where_that_is_wanted() {
    let label = |settings: &[Setting]| {
        let mut all = vec![set("createNamespaces", true)];
        all.extend(settings.iter().cloned());
        let documents = render(NAMESPACE, &all);
        let own = documents.iter().map(Document::value).find(|value| value["metadata"]["name"] == NAMESPACE).unwrap();
        own["metadata"]["labels"]["linkerd.io/extension"].clone()
    };
    assert_eq!((label(&[]), label(&[set("linkerdExtension", true)])), (Value::Null, json!("gate")));
}
