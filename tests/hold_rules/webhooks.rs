//! Other programs' webhooks and policies, which run before Linkerd's webhook, after it, and again: whatever they do to a pod that
//! asks, none is admitted bare and ungated, and where the injector answers, none keeps the gate.

use anyhow::{Result, ensure};
use linkerd_gate_kit::cluster::ApiOptions;
use linkerd_gate_kit::object::pod;
use linkerd_gate_kit::standin::patch_annotation;
use serde_json::{Value, json};

use crate::harness::{CHANGED, GATE, Harness, Outcome, QUIET, SHOP, asking, gates, repository};

/// A pod, and what other programs make of it on its way.
struct Case {
    what: &'static str,
    pod: Value,
    /// With the injector up.
    up: Outcome,
    /// With the injector down.
    down: Outcome,
}

#[tokio::test]
async fn no_other_webhook_or_policy_lets_a_missed_pod_through() -> Result<()> {
    let harness = Harness::with_admission(ApiOptions::default()).await?;
    let exercise = async {
        webhooks_before_after_and_again(&harness).await?;
        other_gates_stay(&harness).await?;
        a_second_policy_that_clears_gates(&harness).await?;
        two_configurations_make_one_gate(&harness).await?;
        a_configuration_that_lost_its_label(&harness).await
    };
    harness.cluster.reported(&[SHOP, QUIET], exercise).await
}

async fn webhooks_before_after_and_again(harness: &Harness) -> Result<()> {
    let mut wrong = Vec::new();
    for down in [true, false] {
        if down {
            harness.injector_is_down().await?;
        } else {
            harness.injector_is_up().await?;
        }
        for case in cases() {
            let outcome = harness.ask(&case.pod).await?;
            let expected = if down { &case.down } else { &case.up };
            if outcome != *expected {
                let injector = if down { "down" } else { "up" };
                wrong.push(format!("{}, injector {injector}: {outcome}, expected {expected}", case.what));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn cases() -> Vec<Case> {
    use Outcome::{Bare, Held, Meshed, Missed};
    let enable = || json!({"op": "add", "path": "/metadata/annotations/linkerd.io~1inject", "value": "enabled"});
    let disable = || json!({"op": "add", "path": "/metadata/annotations/linkerd.io~1inject", "value": "disabled"});
    let exempt = || json!({"op": "add", "path": "/metadata/labels/linkerd-gate~1admission", "value": "exempt"});
    let label = |key: &str| json!({"op": "add", "path": format!("/metadata/labels/{key}"), "value": "any"});
    let gate = || json!({"op": "add", "path": "/spec/schedulingGates", "value": [{"name": "example.com/other"}]});
    let node = || json!({"op": "add", "path": "/spec/nodeName", "value": "node-a"});
    let case = |what, namespace, says: Option<&str>, changes: &[(&str, Value)], up, down| Case {
        what,
        pod: changed(namespace, says, changes),
        up,
        down,
    };
    vec![
        // Rule 1: match conditions would have passed this pod over in the first round, and for good.
        case("before: disabled becomes enabled", SHOP, Some("disabled"), &[("a-before", enable())], Meshed, Held),
        case("before: a namespace that does not ask", QUIET, None, &[("a-before", enable())], Meshed, Held),
        case("before: enabled becomes disabled", SHOP, Some("enabled"), &[("a-before", disable())], Bare, Bare),
        // Rule 5: Linkerd was not called for a pod that asks, and will not be: held, whether or not the injector is there.
        case("after: disabled becomes enabled", SHOP, Some("disabled"), &[("z-after", enable())], Held, Held),
        case("after: enabled becomes disabled", SHOP, Some("enabled"), &[("z-after", disable())], Meshed, Bare),
        case("before: exempt", SHOP, None, &[("a-before", exempt())], Meshed, Bare),
        case("after: exempt", SHOP, None, &[("z-after", exempt())], Meshed, Bare),
        // Rule 2: the gate does not go off because a parameter does not call.
        case(
            "before: a label that Linkerd's selector leaves out",
            SHOP,
            None,
            &[("a-before", label("linkerd.io~1control-plane-component"))],
            Held,
            Held,
        ),
        case("before: a label that says nothing", SHOP, None, &[("a-before", label("any"))], Meshed, Held),
        // Rule 4: what is overwritten once comes back; what is overwritten again is the guard's.
        case("before: gates overwritten", SHOP, None, &[("a-before", gate())], Meshed, Held),
        case("after: gates overwritten", SHOP, None, &[("z-after", gate())], Meshed, Held),
        case("again: gates overwritten", SHOP, None, &[("z-again", gate())], Meshed, Missed),
        case("before: a node", SHOP, None, &[("a-before", node())], Meshed, Missed),
        case("after: a node", SHOP, None, &[("z-after", node())], Meshed, Missed),
        case(
            "before and after: enabled, then a node",
            QUIET,
            None,
            &[("a-before", enable()), ("z-after", node())],
            Meshed,
            Missed,
        ),
    ]
}

/// A pod that says what the other program's webhooks do to it.
fn changed(namespace: &str, says: Option<&str>, changes: &[(&str, Value)]) -> Value {
    let mut pod = pod("changed").in_namespace(namespace).running("app:1").labelled(CHANGED.0, CHANGED.1);
    if let Some(says) = says {
        pod = pod.annotated("linkerd.io/inject", says);
    }
    let of_webhook = |(webhook, change): &(&str, Value)| {
        (patch_annotation(&format!("/{webhook}")), Value::from(vec![change.clone()]).to_string())
    };
    // A patch adds to annotations: there is at least this one.
    changes.iter().map(of_webhook).fold(pod, |pod, (key, patch)| pod.annotated(&key, &patch)).json()
}

/// Gates of other programs are nothing of ours, whatever becomes of our own.
async fn other_gates_stay(harness: &Harness) -> Result<()> {
    let others = ["example.com/first", "example.com/second"];
    let mut pod = asking("gated");
    pod["spec"]["schedulingGates"] = json!([{"name": others[0]}, {"name": others[1]}]);
    harness.injector_is_down().await?;
    let held = harness.send(&pod, "?dryRun=All").await?.map_err(|outcome| anyhow::anyhow!("{outcome}"))?;
    ensure!(gates(&held) == [others[0], others[1], GATE], "{:?}", gates(&held));
    harness.injector_is_up().await?;
    let injected = harness.send(&pod, "?dryRun=All").await?.map_err(|outcome| anyhow::anyhow!("{outcome}"))?;
    ensure!(Outcome::of(&injected) == Outcome::Meshed && gates(&injected) == others, "{:?}", gates(&injected));
    // A user's own copy of our gate goes off a pod that has its proxy, and off one that does not ask.
    pod["spec"]["schedulingGates"] = json!([{"name": others[0]}, {"name": GATE}, {"name": others[1]}]);
    let injected = harness.send(&pod, "?dryRun=All").await?.map_err(|outcome| anyhow::anyhow!("{outcome}"))?;
    ensure!(Outcome::of(&injected) == Outcome::Meshed && gates(&injected) == others, "{:?}", gates(&injected));
    pod["metadata"]["namespace"] = QUIET.into();
    let bare = harness.send(&pod, "?dryRun=All").await?.map_err(|outcome| anyhow::anyhow!("{outcome}"))?;
    ensure!(Outcome::of(&bare) == Outcome::Bare && gates(&bare) == others, "{:?}", gates(&bare));
    Ok(())
}

/// Whatever the order of policies is: a pod is held, or refused, and never bare.
async fn a_second_policy_that_clears_gates(harness: &Harness) -> Result<()> {
    let mut objects = Vec::new();
    for name in ["a-clears", "z-clears"] {
        objects.push(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "matchConstraints": {
                    "objectSelector": {"matchLabels": {"cleared-by": name}},
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
                    ],
                },
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
                    "[JSONPatch{op: \"add\", path: \"/metadata/labels/cleared\", value: \"yes\"}] + \
                     (has(object.spec.schedulingGates) ? [JSONPatch{op: \"remove\", path: \"/spec/schedulingGates\"}] : [])",
                }}],
            },
        }));
        objects.push(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        }));
    }
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(file.path(), json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    harness.apply(file.path()).await?;
    for name in ["a-clears", "z-clears"] {
        let cleared = pod("cleared").in_namespace(SHOP).running("app:1").labelled("cleared-by", name).json();
        let by_policy = async {
            loop {
                match harness.send(&cleared, "?dryRun=All").await? {
                    Ok(pod) if !pod.metadata.labels.iter().flatten().any(|(key, _)| key == "cleared") => {}
                    _ => return anyhow::Ok(()),
                }
            }
        };
        tokio::time::timeout(crate::harness::PATIENCE, by_policy).await??;
        harness.injector_is_down().await?;
        let outcome = harness.ask(&cleared).await?;
        ensure!(matches!(outcome, Outcome::Held | Outcome::Missed), "{name}: {outcome}");
        harness.injector_is_up().await?;
        let outcome = harness.ask(&cleared).await?;
        ensure!(outcome == Outcome::Meshed, "{name}, injector up: {outcome}");
    }
    harness.kubectl(&["delete", "mutatingadmissionpolicybindings", "a-clears", "z-clears"]).await?;
    harness.kubectl(&["delete", "mutatingadmissionpolicies", "a-clears", "z-clears"]).await?;
    Ok(())
}

/// A second Linkerd, or a revision of the first: two parameters for one policy.
async fn two_configurations_make_one_gate(harness: &Harness) -> Result<()> {
    let first = "linkerd-proxy-injector-webhook-config";
    let text = harness.kubectl(&["get", "mutatingwebhookconfiguration", first, "--output=json"]).await?;
    let mut second: Value = serde_json::from_str(&text)?;
    second["metadata"] = json!({"name": "linkerd-second", "labels": second["metadata"]["labels"]});
    // It calls for another namespace than the pod's: it may not take off what the first one put on.
    second["webhooks"][0]["namespaceSelector"]["matchLabels"] = json!({"second": "true"});
    harness.configure(second).await?;
    for says in [None, Some("enabled"), Some("disabled")] {
        let twice = changed(SHOP, says, &[]);
        for down in [true, false] {
            if down {
                harness.injector_is_down().await?;
            } else {
                harness.injector_is_up().await?;
            }
            let pod = harness.send(&twice, "?dryRun=All").await?.map_err(|outcome| anyhow::anyhow!("{outcome}"))?;
            let expected = match (says, down) {
                (Some("disabled"), _) => Outcome::Bare,
                (_, true) => Outcome::Held,
                (_, false) => Outcome::Meshed,
            };
            ensure!(Outcome::of(&pod) == expected, "{says:?}, down {down}: {}", Outcome::of(&pod));
            ensure!(gates(&pod).len() == usize::from(expected == Outcome::Held), "{:?}", gates(&pod));
        }
    }
    harness.kubectl(&["delete", "mutatingwebhookconfiguration", "linkerd-second"]).await?;
    Ok(())
}

/// Rule 3: by label nothing is found any more, and hold and guard are silently off; by name it is found all the same.
async fn a_configuration_that_lost_its_label(harness: &Harness) -> Result<()> {
    let name = "linkerd-proxy-injector-webhook-config";
    harness.injector_is_down().await?;
    let label = "linkerd.io/control-plane-component";
    harness.kubectl(&["label", "mutatingwebhookconfiguration", name, &format!("{label}-")]).await?;
    harness.until("hold has lost sight of Linkerd", &asking("web"), |outcome| *outcome == Outcome::Bare).await?;
    let chart = repository("deploy/chart");
    let mut helm =
        tokio::process::Command::new(tokio::task::spawn_blocking(linkerd_gate_kit::parts::find_helm).await??);
    helm.args(["template", "linkerd-gate"]).arg(chart).args(["--namespace", "linkerd-gate"]);
    helm.args(["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"]);
    helm.args(["--set", "image.repository=registry.test/linkerd-gate"]);
    helm.args(["--set", &format!("linkerd.webhookConfiguration={name}")]);
    for template in ["hold", "hold-binding", "guard", "guard-binding"] {
        helm.args(["--show-only", &format!("templates/admission/{template}.yaml")]);
    }
    let rendered = helm.output().await?;
    ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(file.path(), rendered.stdout)?;
    harness.apply(file.path()).await?;
    harness.until("hold finds it by name", &asking("web"), |outcome| *outcome == Outcome::Held).await?;
    harness.injector_is_up().await?;
    let outcome = harness.ask(&asking("web")).await?;
    ensure!(outcome == Outcome::Meshed, "{outcome}");
    Ok(())
}
