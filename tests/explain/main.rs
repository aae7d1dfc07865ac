//! `linkerd-gate explain`: what it prints, for people and for programs, and what it says of bad input.

mod alike;
mod cases;
mod drawn;
mod findings;
#[path = "../front/mod.rs"]
mod front;
mod habits;
mod input;
#[path = "../corpus/load.rs"]
mod load;
mod refusals;
mod support;

use std::fs;

use linkerd_gate::command::explain::{Explain, Output};
use linkerd_gate::linkerd::TokenProjection;
use load::Expect;
use serde_json::{Value, json};
use support::{assert_expected, explained_as_json, of, run};

#[test]
fn every_kind_of_workload_in_one_file_with_its_namespace() {
    let (out, notes) = run(&of(&["tests/explain/shop.yaml"]), "").unwrap();
    assert_expected("shop.txt", &out);
    let lines: Vec<_> = notes.lines().collect();
    assert_eq!(lines[0], "tests/explain/shop.yaml, document 5, line 51: Service cart makes no pods: passed over");
    assert!(lines.len() == 2 && lines[1].starts_with("explained 6: 3 inject, 3 skip; findings: "), "{notes}");
}

#[test]
fn pods_that_exist_are_missed_held_meshed_or_left_out() {
    let (out, notes) = run(&of(&["tests/explain/live.yaml"]), "").unwrap();
    assert_expected("live.txt", &out);
    assert!(notes.lines().count() == 1 && notes.starts_with("explained 6: "), "{notes}");

    let found = explained_as_json(of(&["tests/explain/live.yaml"]), "");
    let found: Vec<_> = found
        .iter()
        .map(|pod| (pod["name"].as_str().unwrap(), pod["missed"] == true, pod["held"] == true, pod["meshed"] == true))
        .collect();
    assert_eq!(
        found,
        [
            ("cart-7d4b9c-x2x7p", true, true, false),
            ("by-hand", true, false, false),
            ("stock-0", false, false, true),
            ("coredns-0", false, false, false),
            ("forged", true, true, false),
            ("import-1", true, false, false),
        ]
    );
}

#[test]
fn likely_mistakes_in_manifests_are_pointed_out() {
    let arguments = Explain {
        namespace_file: Some("tests/explain/namespaces.yaml".to_owned()),
        ..of(&["tests/explain/traps.yaml"])
    };
    let (out, _) = run(&arguments, "").unwrap();
    assert_expected("traps.txt", &out);
}

#[test]
fn json_is_an_array_in_the_order_given() {
    let arguments = Explain {
        namespace_file: Some("tests/explain/one-namespace.json".to_owned()),
        webhook_file: Some("tests/explain/webhook.yaml".to_owned()),
        output: Output::Json,
        ..of(&["-", "tests/explain/pod.json"])
    };
    let stdin = "{apiVersion: v1, kind: Pod, metadata: {name: first, namespace: mesh, annotations: {linkerd.io/inject: disabled}}, spec: {containers: [{name: app}]}}";
    let (out, _) = run(&arguments, stdin).unwrap();
    assert_expected("two.json", &out);
}

#[test]
fn all_of_the_corpus_is_explained_as_it_is_decided() {
    let corpus = load::load().unwrap_or_else(|error| panic!("{error:?}"));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &Value| {
        let path = folder.path().join(name);
        fs::write(&path, content.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut explained = 0;
    for case in &corpus.cases {
        let arguments = Explain {
            namespace_file: Some(file("namespace.json", &json!(case.namespace))),
            webhook_file: Some(file(
                "webhooks.json",
                &json!({
                    "apiVersion": "v1", "kind": "List", "items": corpus.webhooks[&case.webhook],
                }),
            )),
            token_projection: if case.token_projection { TokenProjection::Enabled } else { TokenProjection::Disabled },
            ..of(&["-"])
        };
        let pod = json!(case.pod).to_string();
        if case.api_server.refuses.is_some() {
            assert!(run(&arguments, &pod).is_err(), "{}", case.name);
            continue;
        }
        let found = explained_as_json(arguments, &pod);
        let [found] = found.as_slice() else { panic!("{}: {}: {found:?}", case.file, case.name) };
        if case.api_server.changes.is_some() {
            // What the API server would change is changed before the decision, as it would be: a token is mounted.
            assert_eq!(found["decision"], "inject", "{}", case.name);
            continue;
        }
        let decision = match case.expect {
            Expect::Inject => "inject",
            Expect::Skip => "skip",
            Expect::NotCalled => "not-called",
            Expect::Conditional => "conditional",
        };
        assert_eq!(found["decision"], decision, "{}", case.name);
        assert_eq!(found["reasons"], json!(case.reasons), "{}", case.name);
        assert_eq!(found["meshed"], case.meshed, "{}", case.name);
        assert_eq!(found["missed"], case.expect == Expect::Inject && !case.meshed, "{}", case.name);
        if case.api_server.refuses_injected.is_some() {
            assert_ne!(found["warnings"], json!([]), "{}: the API server's refusal is not foretold", case.name);
        }
        explained += 1;
    }
    assert!(explained > 180, "{explained} of the corpus");
}

#[test]
fn every_example_holds_the_entry_as_it_should_be() {
    let mut examples = 0;
    for file in fs::read_dir("examples").unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for found in explained_as_json(of(&[path.to_str().unwrap()]), "") {
            assert_eq!((&found["decision"], &found["wait"]["state"]), (&json!("inject"), &json!("ok")), "{found:#}");
            assert_eq!((&found["wait"]["remarks"], &found["warnings"]), (&json!([]), &json!([])), "{found:#}");
            examples += 1;
        }
    }
    assert!(examples > 0);
}

#[test]
fn yaml_and_json_are_explained_alike() {
    let yaml = fs::read_to_string("tests/explain/pod.json").unwrap();
    let value: Value = serde_json::from_str(&yaml).unwrap();
    let flow = value.to_string();
    let block =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: app\n    image: web:1\n";
    assert_eq!(run(&of(&["-"]), &flow), run(&of(&["-"]), block));
}

#[test]
fn namespaces_are_found_beside_the_pods_or_assumed_and_said() {
    let pod = |namespace: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a{namespace}}}, spec: {{containers: [{{name: app}}]}}}}\n"
        )
    };
    let enabled = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, annotations: {{linkerd.io/inject: enabled}}}}}}\n"
        )
    };
    let (mesh, here) = (enabled("mesh"), pod(", namespace: mesh"));
    let nowhere = pod("");
    for (what, input, namespace, decision, assumed) in [
        ("beside, before", format!("{mesh}---\n{here}"), "mesh", "inject", false),
        ("beside, after", format!("{here}---\n{mesh}"), "mesh", "inject", false),
        ("elsewhere", here.clone(), "mesh", "skip", true),
        ("none named", nowhere.clone(), "default", "skip", true),
        ("none named, another beside", format!("{nowhere}---\n{mesh}"), "default", "skip", true),
        ("none named, default beside", format!("{nowhere}---\n{}", enabled("default")), "default", "inject", false),
    ] {
        let found = explained_as_json(of(&["-"]), &input);
        assert_eq!(
            (found[0]["namespace"].as_str(), found[0]["decision"].as_str()),
            (Some(namespace), Some(decision)),
            "{what}"
        );
        // The chart's webhook is assumed in every case.
        assert_eq!(found[0]["assumptions"].as_array().unwrap().len(), 1 + usize::from(assumed), "{what}");
    }

    let given = |stdin: &str| {
        let file = Some("tests/explain/one-namespace.json".to_owned());
        explained_as_json(Explain { namespace_file: file, ..of(&["-"]) }, stdin).remove(0)
    };
    assert_eq!(given(&nowhere)["namespace"], "mesh", "the only one that is given is the command's");
    assert_eq!(
        given(&here)["because"],
        json!(["the namespace's annotation linkerd.io/inject says ingress, and the pod itself has none"])
    );
    let other = given(&pod(", namespace: other"));
    assert_eq!((&other["namespace"], &other["decision"]), (&json!("other"), &json!("skip")));
    assert!(
        other["assumptions"][0].as_str().unwrap().contains("which tests/explain/one-namespace.json does not describe")
    );
}

#[test]
fn the_last_namespace_object_counts_after_the_namespace_file() {
    let says = |value: &str| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: mesh, annotations: {{linkerd.io/inject: {value}}}}}}}\n---\n"
        )
    };
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: mesh}, spec: {containers: [{name: app}]}}";
    let input = format!("{}{}{pod}", says("enabled"), says("disabled"));
    assert_eq!(explained_as_json(of(&["-"]), &input)[0]["decision"], "skip");
    let file = Some("tests/explain/one-namespace.json".to_owned());
    assert_eq!(explained_as_json(Explain { namespace_file: file, ..of(&["-"]) }, &input)[0]["decision"], "inject");
}

#[test]
fn a_pod_without_uid_is_not_held_and_a_deleted_one_is_left() {
    let pod = |metadata: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a, annotations: {{linkerd.io/inject: enabled}}{metadata}}}, \
             spec: {{containers: [{{name: app}}]}}}}"
        )
    };
    let found = explained_as_json(of(&["-"]), &pod(""));
    assert_eq!((&found[0]["missed"], &found[0]["held"]), (&json!(true), &json!(false)));
    let found = explained_as_json(of(&["-"]), &pod(", uid: u"));
    assert_eq!((&found[0]["missed"], &found[0]["held"]), (&json!(true), &json!(true)));
    let found = explained_as_json(of(&["-"]), &pod(", uid: u, deletionTimestamp: 2026-01-01T00:00:00Z"));
    assert_eq!(found[0]["next"], json!(["nothing: it was missed, and is being deleted"]));
}

/// A pod with the entry as it is documented, but for `namespace`, `annotation`, and what stands in its spec and the entry's env.
fn pod_with_entry(namespace: &str, annotation: Option<&str>, spec: &str, env: &str) -> String {
    let annotations = annotation.map_or_else(String::new, |value| format!("linkerd.io/inject: '{value}'"));
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: a, namespace: {namespace}, annotations: {{{annotations}}}}}, \
         spec: {{{spec} initContainers: [{{name: linkerd-gate, image: 'linkerd-gate:1', args: [wait], env: [\
         {{name: LINKERD_GATE_INJECTED_BY, valueFrom: {{fieldRef: {{fieldPath: \"metadata.labels['linkerd.io/control-plane-ns']\"}}}}}}\
         {env}]}}], containers: [{{name: app}}]}}}}"
    )
}

const INJECT: &str =
    ", {name: LINKERD_GATE_INJECT, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['linkerd.io/inject']\"}}}";
const ADDRESSES: &str = ", {name: LINKERD_GATE_POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, \
                         {name: LINKERD_GATE_HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}";
const ON_HOST: &str = "hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet,";

#[test]
fn a_pod_with_the_entry_that_linkerd_leaves_alone_never_starts() {
    let never = "its linkerd-gate entry holds it for ever, because Linkerd would not inject the next one either";
    let later = "its linkerd-gate entry waits until Linkerd is ready, and then lets it start outside the mesh";
    let ends = "its linkerd-gate entry ends it and never lets one in its place start";
    let outside = "{apiVersion: v1, kind: Namespace, metadata: {name: out, labels: {config.linkerd.io/admission-webhooks: disabled}}}\n---\n";
    let exit = ", {name: LINKERD_GATE_ON_MISSED, value: exit}";
    let open = ", {name: LINKERD_GATE_ON_MISSED, value: open}";
    let patience = ", {name: LINKERD_GATE_TIMEOUT, value: 5m}, {name: LINKERD_GATE_ON_TIMEOUT, value: open}";
    let five = "its linkerd-gate entry holds it for 5m, and then lets it start outside the mesh";
    for (what, pod, never_starts, first) in [
        ("nobody asks", pod_with_entry("shop", None, "", ""), true, never),
        ("kube-system", pod_with_entry("kube-system", Some("enabled"), "", ""), true, never),
        ("webhooks off", format!("{outside}{}", pod_with_entry("out", Some("enabled"), "", "")), true, never),
        ("invalid", pod_with_entry("shop", Some("true"), "", ""), true, never),
        ("disabled, not wired", pod_with_entry("shop", Some("disabled"), "", ""), true, never),
        ("host, not wired", pod_with_entry("shop", Some("enabled"), ON_HOST, ""), true, never),
        ("exit", pod_with_entry("shop", None, "", exit), true, ends),
        ("disabled", pod_with_entry("shop", Some("disabled"), "", INJECT), false, later),
        ("host", pod_with_entry("shop", Some("enabled"), ON_HOST, ADDRESSES), false, later),
        ("open", pod_with_entry("shop", None, "", open), false, later),
        ("open after a time", pod_with_entry("shop", None, "", patience), false, five),
        ("asked", pod_with_entry("shop", Some("enabled"), "", ""), false, "apply it; "),
    ] {
        let found = explained_as_json(of(&["-"]), &pod).pop().unwrap();
        assert_eq!(found["never_starts"], never_starts, "{what}: {found:#}");
        let next = found["next"].as_array().unwrap();
        assert!(next[0].as_str().unwrap().starts_with(first), "{what}: {next:#?}");
        assert!(!never_starts || next.iter().all(|next| !next.as_str().unwrap().starts_with("nothing")), "{what}");
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("webhooks.yaml");
    fs::write(&path, "{apiVersion: v1, kind: List, items: []}").unwrap();
    let uninstalled = Explain { webhook_file: Some(path.to_str().unwrap().to_owned()), ..of(&["-"]) };
    for pod in [pod_with_entry("shop", None, "", ""), pod_with_entry("shop", Some("disabled"), "", INJECT)] {
        let found = explained_as_json(uninstalled.clone(), &pod);
        assert_eq!(found[0]["never_starts"], true);
        assert_eq!(
            found[0]["next"][0],
            "its linkerd-gate entry holds it for ever, as long as Linkerd is not installed"
        );
    }

    let gone = pod_with_entry("shop", None, "", "")
        .replace("name: a,", "name: a, uid: u, deletionTimestamp: 2026-01-01T00:00:00Z,");
    assert_eq!(explained_as_json(of(&["-"]), &gone)[0]["never_starts"], false);
}

#[test]
fn who_creates_a_missed_pod_again_decides_whether_to_delete_it() {
    let delete = "kubectl -n default delete pod a: its ";
    let none = "no controller owns it, so it is not created again";
    let owner = |version: &str, kind: &str, controller: bool| {
        format!("[{{apiVersion: {version}, kind: {kind}, name: o, uid: o, controller: {controller}}}]")
    };
    for (owners, wanted) in [
        ("[]".to_owned(), none.to_owned()),
        (owner("v1", "ConfigMap", false), none.to_owned()),
        (owner("apps/v1", "ReplicaSet", true), format!("{delete}ReplicaSet creates it again")),
        (
            owner("batch/v1", "Job", true),
            format!("{delete}Job creates it again, but counts the deletion against backoffLimit"),
        ),
    ] {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a, uid: u, annotations: {{linkerd.io/inject: enabled}}, \
             ownerReferences: {owners}}}, spec: {{containers: [{{name: app}}]}}}}"
        );
        let found = explained_as_json(of(&["-"]), &pod);
        let next = found[0]["next"][0].as_str().unwrap();
        assert!(next.contains(&wanted), "{owners}: {next}");
    }
}

#[test]
fn in_its_hosts_network_nothing_else_is_worth_mending() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {hostNetwork: true, containers: [{name: istio-proxy}]}}";
    let found = explained_as_json(of(&["-"]), pod);
    assert_eq!(found[0]["reasons"].as_array().unwrap().len(), 3);
    assert_eq!(found[0]["next"].as_array().unwrap().len(), 1);
}

#[test]
fn kinds_of_other_groups_are_not_kubernetes_own() {
    let pod = fs::read_to_string("tests/explain/pod.json").unwrap();
    let input =
        format!("{{apiVersion: example.com/v1, kind: Deployment, metadata: {{name: stage}}, spec: {{}}}}\n---\n{pod}");
    let (out, notes) = run(&of(&["-"]), &input).unwrap();
    assert!(out.starts_with("Pod default/web "), "{out}");
    assert_eq!(
        notes,
        "standard input, document 1, line 1: Deployment (example.com/v1) has no pod template that linkerd-gate finds: stage is \
         passed over; if it makes pods, give one of them: kubectl get pod NAME -o yaml\n"
    );
}

#[test]
fn linkerds_absence_is_an_answer_and_an_unrelated_file_is_not() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: app}]}}";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("webhooks.yaml");
    let mut arguments = of(&["-"]);
    arguments.webhook_file = Some(path.to_str().unwrap().to_owned());

    fs::write(&path, "{apiVersion: v1, kind: List, items: []}").unwrap();
    let found = explained_as_json(arguments.clone(), pod);
    assert_eq!((&found[0]["decision"], &found[0]["reasons"]), (&json!("not-called"), &json!(["not_installed"])));

    fs::write(&path, "{apiVersion: v1, kind: Service, metadata: {name: linkerd-proxy-injector}}").unwrap();
    assert!(
        run(&arguments, pod)
            .unwrap_err()
            .contains("webhooks.yaml: there is no MutatingWebhookConfiguration in it; this prints them: kubectl get")
    );

    fs::write(
        &path,
        "{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: a}, webhooks: [\
         {name: linkerd-proxy-injector.linkerd.io, clientConfig: {service: {name: a, namespace: b}}, \
         objectSelector: {matchExpressions: [{key: k, operator: Is}]}}]}",
    )
    .unwrap();
    assert!(run(&arguments, pod).unwrap_err().contains("objectSelector: \"Is\" of \"k\" is no operator"));
}
