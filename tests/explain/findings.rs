//! `--fail-on`, and the forms of output for programs.

use linkerd_gate::command::explain::{Explain, Finding, Output, VERSION};
use serde_json::{Value, json};

use crate::support::{explained_as_json, of, program, run};

const PODS: &str = "{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: shop, annotations: {linkerd.io/inject: enabled}}, spec: {containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: out, namespace: shop}, spec: {containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: broken, namespace: shop, annotations: {linkerd.io/inject: enabled}}, spec: {initContainers: [{name: linkerd-gate, args: [wait]}], containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: odd, namespace: shop, labels: {linkerd.io/inject: enabled}, annotations: {linkerd.io/inject: enabled}}, spec: {containers: [{name: c}]}}
";

#[test]
fn each_finding_fails_only_what_has_it() {
    let pods: Vec<_> = PODS.split("---\n").collect();
    for (finding, wanted) in [
        ("missing-entry", [1, 0, 0, 1]),
        ("not-injected", [0, 1, 0, 0]),
        ("broken-entry", [0, 0, 1, 0]),
        ("warning", [0, 0, 0, 1]),
    ] {
        for (pod, code) in pods.iter().zip(wanted) {
            let (found, out, err) = program(&["explain", "-f", "-", "--fail-on", finding], pod.as_bytes());
            assert_eq!(found, Some(code), "{finding}: {pod}");
            assert!(out.starts_with("Pod shop/") && err.starts_with("explained 1: "), "{out}\n{err}");
        }
    }
    let several = ["explain", "-f", "-", "--fail-on", "broken-entry,warning"];
    assert_eq!(program(&several, pods[0].as_bytes()).0, Some(0));
    assert_eq!(program(&several, PODS.as_bytes()).0, Some(1));
    // What could not be read is worse than what was found.
    assert_eq!(program(&several, format!("{PODS}---\na: [\n").as_bytes()).0, Some(2));
    let (code, _, err) = program(&["explain", "-f", "-", "--fail-on", "anything"], b"");
    assert!(code == Some(2) && err.contains("missing-entry, broken-entry, not-injected, warning"), "{err}");
}

#[test]
fn names_are_those_of_what_was_asked_for() {
    let named = |fail_on: Vec<Finding>| run(&Explain { output: Output::Name, fail_on, ..of(&["-"]) }, PODS).unwrap().0;
    assert_eq!(named(vec![]), "shop pod/bare\nshop pod/out\nshop pod/broken\nshop pod/odd\n");
    assert_eq!(named(vec![Finding::BrokenEntry, Finding::NotInjected]), "shop pod/out\nshop pod/broken\n");
}

#[test]
fn the_summary_counts_what_was_said() {
    let (_, notes) = run(&of(&["-"]), PODS).unwrap();
    assert_eq!(
        notes,
        "explained 4: 3 inject, 1 skip; findings: 2 missing-entry, 1 broken-entry, 1 not-injected, 1 warning\n"
    );
}

#[test]
fn sarif_is_one_document_with_a_result_for_each_finding() {
    for (input, results) in [(PODS, 5), ("", 0)] {
        let (out, _) = run(&Explain { output: Output::Sarif, ..of(&["-"]) }, input).unwrap();
        let sarif: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(sarif["version"], "2.1.0");
        let run = &sarif["runs"][0];
        let rules: Vec<_> = run["tool"]["driver"]["rules"].as_array().unwrap().iter().map(|rule| &rule["id"]).collect();
        let found = run["results"].as_array().unwrap();
        assert_eq!(found.len(), results, "{out}");
        for result in found {
            assert!(rules.contains(&&result["ruleId"]), "{result:#}");
            let place = &result["locations"][0]["physicalLocation"];
            assert!(
                place["artifactLocation"]["uri"].is_string() && place["region"]["startLine"].as_u64() > Some(0),
                "{result:#}"
            );
            assert!(result["message"]["text"].as_str().unwrap().contains("Next: "), "{result:#}");
        }
    }
}

/// The fields of the JSON, which other programs read, as `docs/explain.md` lists them.
#[test]
fn json_has_the_fields_that_are_documented() {
    let documented = std::fs::read_to_string("docs/explain.md").unwrap();
    let found = explained_as_json(of(&["-"]), PODS);
    let fields: Vec<_> = found[0].as_object().unwrap().keys().cloned().collect();
    let listed: Vec<_> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name)
        .collect();
    for field in &fields {
        assert!(listed.contains(&field.as_str()), "{field} is not in docs/explain.md");
    }
    let mut known = [
        "version",
        "decision",
        "reasons",
        "meshed",
        "missed",
        "held",
        "never_starts",
        "kind",
        "name",
        "namespace",
        "template",
        "source",
        "findings",
        "because",
        "wait",
        "warnings",
        "warning_keys",
        "assumptions",
        "next",
    ];
    known.sort_unstable();
    assert_eq!(fields, known, "a field that is renamed or goes away is another version");
    assert_eq!(found[0]["version"], json!(VERSION));
    assert!(documented.contains(&format!("version {VERSION}")), "docs/explain.md is about another version");
    for finding in Finding::ALL {
        assert!(documented.contains(&format!("`{finding}`")), "{finding} is not in docs/explain.md");
    }
    for pod in &found {
        assert!(pod["source"]["line"].is_u64() && pod["wait"]["state"].is_string(), "{pod:#}");
        assert_eq!(pod["warnings"].as_array().unwrap().len(), pod["warning_keys"].as_array().unwrap().len());
    }
}

#[test]
fn templates_are_never_missed() {
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: w}, spec: {template: {metadata: {annotations: {linkerd.io/inject: enabled}}, spec: {containers: [{name: c}]}}}}";
    let found = explained_as_json(of(&["-"]), deployment);
    assert_eq!((&found[0]["decision"], &found[0]["missed"]), (&json!("inject"), &json!(false)));
}
