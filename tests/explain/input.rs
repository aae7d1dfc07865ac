//! What is said of bad input, and what is no reason to refuse.

use std::io::Write;
use std::{fs, io};

use linkerd_gate::command::explain::{Explain, ExplainError, Output, explain};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{explained_as_json, of, program, run};

#[test]
fn bad_input_is_reported_at_once_by_file_document_and_line() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: app}]}\n";
    for (input, expected) in [
        (
            "just text",
            "standard input, document 1, line 1: this is no Kubernetes object, but a bare value; it takes apiVersion, kind and metadata, as this prints them: \
             kubectl create deployment web --image=IMAGE --dry-run=client -o yaml",
        ),
        (
            "a: 1\n---\n- b\n",
            "standard input, document 1, line 1: this is no Kubernetes object: it has no kind; it takes apiVersion, kind and metadata, as this prints them: \
             kubectl create deployment web --image=IMAGE --dry-run=client -o yaml\n\
             standard input, document 2, line 3: this is no Kubernetes object, but a bare list; its items one by one: \
             jq -c '.[]' FILE | linkerd-gate explain -f -",
        ),
        (
            "kind: Pod",
            "standard input, document 1, line 1: this is no Kubernetes object: it has no apiVersion; it takes apiVersion, kind and metadata, as this prints them: \
             kubectl create deployment web --image=IMAGE --dry-run=client -o yaml",
        ),
        (
            "apiVersion: 1\nkind: Pod\n",
            "standard input, document 1, line 1: this is no Kubernetes object: apiVersion is a number, and text is wanted; it takes apiVersion, kind and metadata, as this prints them: \
             kubectl create deployment web --image=IMAGE --dry-run=client -o yaml",
        ),
        (
            "apiVersion: v1\nkind: [Pod]\n",
            "standard input, document 1, line 1: this is no Kubernetes object: kind is a list, and text is wanted; it takes apiVersion, kind and metadata, as this prints them: \
             kubectl create deployment web --image=IMAGE --dry-run=client -o yaml",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    linkerd.io/inject: on\n",
            "standard input, document 1, line 5: this is no Pod: metadata.annotations.linkerd.io/inject: \
             it is the boolean true, and text is wanted: YAML takes on for more than text, so write \"on\", in quotes",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  template:\n    metadata:\n      labels: {v: 1}\n",
            "standard input, document 1, line 7: this is no Deployment: spec.template.metadata.labels.v: \
             it is the number 1, and text is wanted: YAML takes 1 for more than text, so write \"1\", in quotes",
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: [a]}}\n",
            "standard input, document 1, line 4: this is no Pod: items[0].metadata.name: it is a list, and text is wanted; kubectl explain pod.metadata.name says what it takes",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: {}\n",
            "standard input, document 1, line 1: this is no List: items is no list; as kubectl get pods -o yaml prints it, it is one",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
            "standard input, document 1, line 1: this is no Pod: spec.containers is empty, and one container is the least; \
             kubectl explain pod.spec.containers says what it takes",
        ),
        (
            "apiVersion: batch/v1\nkind: CronJob\nspec: {jobTemplate: {spec: {}}}\n",
            "standard input, document 1, line 1: this is no CronJob: it has no spec.jobTemplate.spec.template; \
             kubectl explain cronjob.spec.jobTemplate.spec.template says what it takes",
        ),
    ] {
        assert_eq!(run(&of(&["-"]), input).unwrap_err(), expected, "{input}");
    }

    let (out, both) = run(&of(&["nowhere.yaml", "-", "-"]), &format!("{pod}---\nb: [\n")).unwrap();
    assert!(out.starts_with("Pod default/a "), "what can be read is explained: {out}");
    let both: Vec<_> = both.lines().collect();
    assert!(both[0].starts_with("nowhere.yaml: it cannot be read: "), "{both:?}");
    assert!(both[1].starts_with("standard input, document 2, line "), "{both:?}");
    assert_eq!(both[2], "standard input: the standard input can be read once");
}

#[test]
fn files_without_pods_are_reported_and_are_no_error() {
    for (input, expected) in [
        ("", ""),
        ("# nothing\n---\n", ""),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
            "standard input, document 1, line 1: Service a makes no pods: passed over\n",
        ),
        (
            "apiVersion: apps/v1\nkind: deployment\nmetadata: {name: a}\n",
            "standard input, document 1, line 1: deployment (apps/v1) has no pod template that linkerd-gate finds: \
             a is passed over; if it makes pods, give one of them: kubectl get pod NAME -o yaml\n",
        ),
    ] {
        let (out, notes) = run(&of(&["-"]), input).unwrap();
        assert_eq!(out, "", "{input}");
        let wanted = format!("{expected}there is neither a pod nor anything that makes pods: nothing to explain\n");
        assert_eq!(notes, wanted, "{input}");
        assert_eq!(explained_as_json(of(&["-"]), input), Vec::<Value>::new());
    }
}

#[test]
fn an_unrendered_chart_is_recognized_and_broken_yaml_is_not() {
    let hint = "render it first: helm template CHART | linkerd-gate explain -f -";
    for template in [
        "{{- if .Values.on }}\napiVersion: v1\nkind: Pod\n{{- end }}\n",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    {{- include \"labels\" . | nindent 4 }}\n",
    ] {
        assert!(run(&of(&["-"]), template).unwrap_err().ends_with(hint), "{template}");
    }
    assert!(!run(&of(&["-"]), "a: [1").unwrap_err().contains("helm"));
}

#[test]
fn an_empty_list_is_nothing_to_explain_and_no_error() {
    for list in [
        "{apiVersion: v1, kind: List, items: []}",
        "{apiVersion: v1, kind: PodList}",
        "{\"apiVersion\": \"v1\", \"kind\": \"PodList\"}",
    ] {
        let (out, notes) = run(&Explain { output: Output::Json, ..of(&["-"]) }, list).unwrap();
        assert_eq!(out, "[]\n", "{list}");
        assert!(notes.contains("nothing to explain"), "{list}: {notes}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    for output in [Output::Text, Output::Json] {
        let arguments = Explain { output, ..of(&["tests/explain/pod.json"]) };
        let error = explain(&arguments, &mut io::empty(), &mut Full, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, ExplainError::Write(_)), "{error}");
    }
}

#[test]
fn explain_prints_what_it_can_and_exits_2_on_bad_input() {
    let pod = fs::read("tests/explain/pod.json").unwrap();
    let (code, out, err) = program(&["explain", "-f", "-", "--no-token-projection", "-o", "json"], &pod);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let found: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(found[0]["reasons"], json!(["injection_enable_annotation_absent"]));

    let (code, out, err) = program(&["explain", "-f", "-", "-f", "nowhere.yaml"], &pod);
    assert_eq!(code, Some(2));
    assert!(out.starts_with("Pod default/web "), "{out}");
    assert!(err.starts_with("nowhere.yaml: it cannot be read: "), "{err}");

    let (code, out, _) = program(&["explain"], b"");
    assert_eq!((code, out.as_str()), (Some(2), ""));
}

#[test]
fn a_kind_of_several_lines_does_not_pass_for_a_line_of_ours() {
    let (out, notes) = run(&of(&["-"]), "apiVersion: v1\nkind: Pod\n\n 0\na: ---\n").unwrap();
    assert_eq!((out.as_str(), notes.lines().count()), ("", 2), "{notes}");
    assert!(notes.starts_with("standard input, document 1, line 1: Pod\u{fffd}0 (v1) has no pod template"), "{notes}");
}

proptest! {
    /// Nothing that can be typed or piped in brings it down, and whatever fails says where.
    #[test]
    fn no_input_panics(text in "(apiVersion: v1\nkind: (Pod|List|Deployment|Namespace)\n)?([a-z]{1,3}: ?|- |---\n|[\\[\\]{}&*!|>'\"%#,]|[a-z0-9 ~]{1,4}|\n|\t|\u{feff}|é){0,24}") {
        for output in [Output::Text, Output::Json] {
            if let Err(error) = run(&Explain { output, ..of(&["-"]) }, &text) {
                prop_assert!(!error.is_empty());
                for line in error.lines() {
                    prop_assert!(line.starts_with("standard input"), "{}", line);
                }
            }
        }
    }
}
