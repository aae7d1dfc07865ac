//! Kinds of input that were once explained wrongly, each with what a genuine API server, kubectl and injector make of it.

use linkerd_gate::command::explain::Explain;
use serde_json::{Value, json};

use crate::support::{explained_as_json, of, run};

/// The entry, in one line.
const ENTRY: &str = "{name: linkerd-gate, image: 'r.example/linkerd-gate:1', args: [wait], env: [\
    {name: LINKERD_GATE_INJECTED_BY, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['linkerd.io/control-plane-ns']\"}}}, \
    {name: LINKERD_GATE_POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, \
    {name: LINKERD_GATE_POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}, \
    {name: LINKERD_GATE_POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]}";

fn pod(annotations: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop, annotations: {{linkerd.io/inject: enabled{annotations}}}}}, \
         spec: {{{spec} containers: [{{name: c, image: 'r.example/app:1'}}]}}}}\n"
    )
}

/// A namespace `shop` that asks, with more of its metadata.
fn namespace(metadata: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n{metadata}---\n")
}

/// A workload whose pods ask and hold the entry.
fn workload(version: &str, kind: &str, spec: &str, pod_spec: &str) -> String {
    format!(
        "{{apiVersion: {version}, kind: {kind}, metadata: {{name: w, namespace: shop}}, spec: {{{spec} template: {{metadata: \
         {{annotations: {{linkerd.io/inject: enabled}}}}, spec: {{{pod_spec} initContainers: [{ENTRY}], containers: [{{name: c}}]}}}}}}}}\n"
    )
}

fn only(input: &str) -> Value {
    let mut found = explained_as_json(of(&["-"]), input);
    assert_eq!(found.len(), 1, "{input}");
    found.remove(0)
}

fn texts(found: &Value, field: &str) -> String {
    found[field].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

fn remarks(found: &Value) -> Vec<&str> {
    found["wait"]["remarks"].as_array().into_iter().flatten().map(|remark| remark["key"].as_str().unwrap()).collect()
}

#[test]
fn what_an_api_server_takes_is_explained() {
    let volumes = |mode: &str| format!("volumes: [{{name: k, secret: {{secretName: k, defaultMode: {mode}}}}}],");
    for (what, input) in [
        ("octal as YAML 1.1 has it", pod("", &volumes("0400"))),
        ("octal as YAML 1.2 has it", pod("", &volumes("0o400"))),
        ("hexadecimal", pod("", &volumes("0x100"))),
        ("underscores", pod("", &volumes("2_56"))),
        ("words in mixed case are text", pod(", answer: nO, question: yEs, nothing: nULL", "")),
        ("times and dates are text", pod(", at: 12:30:45, on: 2026-01-01", "")),
        ("anchors and merge keys", pod(", a: &a b, c: *a", "")),
        ("a mark of byte order", format!("\u{feff}{}", pod("", ""))),
        ("carriage returns", pod("", "").replace('\n', "\r\n")),
        ("a comment before", format!("# a comment\n{}", pod("", ""))),
        ("a tag", pod(", port: !!str 80", "")),
    ] {
        assert_eq!(only(&input)["decision"], "inject", "{what}");
    }
}

#[test]
fn streams_and_lists_are_read_as_several_objects() {
    let one = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}"#;
    let bare = r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}"#;
    for (what, input) in [
        ("by lines", format!("{one}\n{one}\n")),
        ("without anything between", format!("{one}{one}")),
        ("by separators", format!("{one}\n---\n{one}")),
        ("JSON, then YAML", format!("{one}\n---\n{}", pod("", ""))),
        ("a mark after a separator", format!("{}---\n\u{feff}{}", pod("", ""), pod("", ""))),
        ("a list, kind last", format!(r#"{{"apiVersion":"v1","items":[{one},{one}],"kind":"List"}}"#)),
        ("a typed list, kind first", format!(r#"{{"kind":"PodList","apiVersion":"v1","items":[{bare},{bare}]}}"#)),
        ("a typed list, kind last", format!(r#"{{"items":[{bare},{bare}],"kind":"PodList","apiVersion":"v1"}}"#)),
    ] {
        assert_eq!(explained_as_json(of(&["-"]), &input).len(), 2, "{what}");
    }
}

#[test]
fn keys_that_stand_twice_are_a_warning() {
    let input = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    linkerd.io/inject: enabled\n    \
                 linkerd.io/inject: disabled\nspec: {containers: [{name: c}]}\n";
    let found = only(input);
    assert_eq!((&found["decision"], &found["warning_keys"]), (&json!("skip"), &json!(["repeated_key"])));
    assert!(texts(&found, "warnings").contains("(line 7)"), "{found:#}");
}

#[test]
fn one_bad_document_never_refuses_the_others() {
    for bad in
        ["a: [1\n", "kind: Pod\n", "just text\n", "{\"a\": ]\n", "apiVersion: v1\nkind: Pod\nmetadata: {name: 1}\n"]
    {
        let input = format!("{}---\n{bad}---\n{}", pod("", ""), pod("", ""));
        let (out, notes) = run(&of(&["-"]), &input).unwrap();
        assert_eq!(out.matches("Pod shop/p ").count(), 2, "{bad}");
        assert!(notes.starts_with("standard input, document 2, line "), "{bad}: {notes}");
    }
    let old = "apiVersion: admissionregistration.k8s.io/v1beta1\nkind: MutatingWebhookConfiguration\nmetadata: {name: other}\n---\n";
    let (_, notes) = run(&of(&["-"]), &format!("{old}{}", pod("", ""))).unwrap();
    assert!(notes.contains("passed over") && notes.lines().count() == 1, "{notes}");
}

#[test]
fn annotations_that_break_the_injectors_patch_are_no_injection() {
    let ports = "config.linkerd.io/skip-outbound-ports";
    let asks = "  annotations:\n    linkerd.io/inject: enabled\n";
    let plain = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}, spec: {containers: [{name: c}]}}\n";
    for (value, words) in [
        ("|\n      4222,5432", "a line feed"),
        ("'a\"b'", "a quote"),
        ("'a\\q'", "a backslash"),
        ("\"a\\tb\"", "a control character"),
    ] {
        let found = only(&format!("{}{plain}", namespace(&format!("{asks}    {ports}: {value}\n"))));
        assert_eq!(
            (&found["decision"], &found["reasons"]),
            (&json!("patch-fails"), &json!(["patch_is_no_json"])),
            "{value}"
        );
        let because = texts(&found, "because");
        assert!(because.contains(words) && because.contains(ports) && because.contains("Ignore"), "{because}");
        assert!(found["findings"].as_array().unwrap().contains(&json!("not-injected")), "{found:#}");
        assert!(texts(&found, "next").contains(&format!("kubectl annotate namespace shop {ports}-")), "{found:#}");
    }
    let env = format!("{asks}    config.linkerd.io/proxy-additional-env: '[{{\"name\": \"A\"}}]'\n");
    assert!(texts(&only(&format!("{}{plain}", namespace(&env))), "next").contains("on a pod it works"));
    let version = only(&pod(", config.linkerd.io/proxy-version: 'edge\"'", ""));
    assert_eq!(version["decision"], "patch-fails");

    // What the entry holds then, it holds for ever.
    let held = workload("apps/v1", "Deployment", "", "");
    let found = only(&format!("{}{held}", namespace(&format!("{asks}    {ports}: 'a\"b'\n"))));
    assert_eq!(found["never_starts"], true);

    for from in [
        pod(", config.linkerd.io/proxy-log-http-headers: enabled", ""),
        format!("{}{plain}", namespace(&format!("{asks}    config.linkerd.io/proxy-log-http-headers: all\n"))),
    ] {
        let found = only(&from);
        assert_eq!((&found["decision"], &found["reasons"]), (&json!("refused"), &json!(["injector_refuses"])));
    }
    assert_eq!(only(&pod(", config.linkerd.io/proxy-log-http-headers: insecure", ""))["decision"], "inject");
}

#[test]
fn what_refuses_the_injected_pod_is_a_warning() {
    let quota = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q, namespace: shop}, spec: {hard: {limits.cpu: 4}}}\n---\n";
    let range = "{apiVersion: v1, kind: LimitRange, metadata: {name: l, namespace: shop}, spec: {limits: [{type: Container, max: {cpu: 1}}]}}\n---\n";
    let other = quota.replace("shop", "office");
    let enforce = |level: &str| namespace(&format!("  labels: {{pod-security.kubernetes.io/enforce: {level}}}\n"));
    for (key, input) in [
        (
            "request_above_limit",
            pod(", config.linkerd.io/proxy-cpu-limit: '1', config.linkerd.io/proxy-cpu-request: '2'", ""),
        ),
        (
            "container_name",
            pod(", config.linkerd.io/enable-debug-sidecar: 'true'", "initContainers: [{name: linkerd-debug}],"),
        ),
        ("volume_name", pod("", "volumes: [{name: linkerd-identity-end-entity, emptyDir: {}}],")),
        ("windows", pod("", "os: {name: windows},")),
        ("windows_nodes", pod("", "nodeSelector: {kubernetes.io/os: windows},")),
        ("pod_security", format!("{}{}", enforce("restricted"), pod("", ""))),
        ("pod_security", format!("{}{}", enforce("baseline"), pod("", ""))),
        ("quota", format!("{quota}{}", pod("", ""))),
        ("limit_range", format!("{range}{}", pod(", config.linkerd.io/proxy-cpu-limit: '2'", ""))),
    ] {
        let found = only(&input);
        assert_eq!((&found["decision"], &found["warning_keys"]), (&json!("inject"), &json!([key])), "{input}");
        assert_eq!(found["findings"], json!(["missing-entry", "warning"]), "{input}");
    }
    for input in [
        pod(", config.linkerd.io/proxy-cpu-limit: '1', config.linkerd.io/proxy-cpu-request: 500m", ""),
        pod("", "nodeSelector: {kubernetes.io/os: linux},"),
        format!("{}{}", enforce("privileged"), pod("", "")),
        format!("{other}{}", pod("", "")),
        pod("", "nodeSelector: {kubernetes.io/os: windows},").replace("enabled", "disabled"),
    ] {
        assert_eq!(only(&input)["warning_keys"], json!([]), "{input}");
    }
}

#[test]
fn webhooks_beside_the_pods_are_judged_by() {
    let webhook = "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingWebhookConfiguration\nmetadata: {name: linkerd-proxy-injector-webhook-config}\nwebhooks:\n- name: linkerd-proxy-injector.linkerd.io\n  admissionReviewVersions: [v1]\n  sideEffects: None\n  clientConfig: {service: {name: linkerd-proxy-injector, namespace: linkerd}}\n  objectSelector: {matchExpressions: [{key: mesh, operator: Exists}]}\n  rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]\n";
    for input in [format!("{webhook}---\n{}", pod("", "")), format!("{}---\n{webhook}", pod("", ""))] {
        let found = only(&input);
        assert_eq!((&found["decision"], &found["reasons"]), (&json!("not-called"), &json!(["object_selector"])));
        assert!(!texts(&found, "assumptions").contains("webhook"), "{found:#}");
    }
    let broken = webhook.replace("operator: Exists", "operator: Is");
    let (_, notes) = run(&of(&["-"]), &format!("{broken}---\n{}", pod("", ""))).unwrap();
    assert!(notes.contains("is no operator of a label selector"), "{notes}");
}

#[test]
fn labels_that_controllers_add_count_for_selectors() {
    let folder = tempfile::tempdir().unwrap();
    let judged = |key: &str, operator: &str, input: &str| {
        let path = folder.path().join("webhook.yaml");
        let webhook = format!(
            "{{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {{name: w}}, webhooks: \
             [{{name: linkerd-proxy-injector.linkerd.io, clientConfig: {{service: {{name: i, namespace: l}}}}, objectSelector: \
             {{matchExpressions: [{{key: {key}, operator: {operator}}}]}}, rules: [{{apiGroups: [''], apiVersions: [v1], \
             operations: [CREATE], resources: [pods]}}]}}]}}"
        );
        std::fs::write(&path, webhook).unwrap();
        let arguments = Explain { webhook_file: Some(path.to_str().unwrap().to_owned()), ..of(&["-"]) };
        explained_as_json(arguments, input).remove(0)
    };
    let cron = format!(
        "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: w, namespace: shop}}, spec: {{jobTemplate: {}}}}}",
        workload("v1", "X", "", "").replace("apiVersion: v1, kind: X, metadata: {name: w, namespace: shop}, ", "")
    );
    for (key, input) in [
        ("batch.kubernetes.io/job-name", workload("batch/v1", "Job", "", "")),
        ("job-name", workload("batch/v1", "Job", "", "")),
        ("controller-uid", cron),
        ("batch.kubernetes.io/job-completion-index", workload("batch/v1", "Job", "completionMode: Indexed,", "")),
        ("pod-template-hash", workload("apps/v1", "Deployment", "", "")),
        ("controller-revision-hash", workload("apps/v1", "DaemonSet", "", "")),
        ("statefulset.kubernetes.io/pod-name", workload("apps/v1", "StatefulSet", "", "")),
        ("rollouts-pod-template-hash", workload("argoproj.io/v1alpha1", "Rollout", "", "")),
    ] {
        let without = judged(key, "DoesNotExist", &input);
        assert_eq!((&without["decision"], &without["never_starts"]), (&json!("not-called"), &json!(true)), "{key}");
        assert_eq!(judged(key, "Exists", &input)["decision"], "inject", "{key}");
    }
    let manual = workload("batch/v1", "Job", "manualSelector: true,", "");
    assert_eq!(judged("job-name", "DoesNotExist", &manual)["decision"], "inject");
}

#[test]
fn whatever_has_a_pod_template_is_explained() {
    let template =
        "template: {metadata: {annotations: {linkerd.io/inject: enabled}}, spec: {containers: [{image: i}]}}";
    for (version, kind, spec, path) in [
        ("argoproj.io/v1alpha1", "Rollout", template.to_owned(), "spec.template"),
        ("serving.knative.dev/v1", "Service", template.to_owned(), "spec.template"),
        ("apps.kruise.io/v1alpha1", "CloneSet", template.to_owned(), "spec.template"),
        ("keda.sh/v1alpha1", "ScaledJob", format!("jobTargetRef: {{{template}}}"), "spec.jobTargetRef.template"),
        ("batch.example.com/v1", "AdvancedCronJob", format!("template: {{jobTemplate: {{spec: {{{template}}}}}}}"), "spec.template.jobTemplate.spec.template"),
        ("kubeflow.org/v1", "PyTorchJob", format!("pytorchReplicaSpecs: {{Master: {{{template}}}}}"), "spec.pytorchReplicaSpecs.Master.template"),
        ("batch.volcano.sh/v1alpha1", "Job", format!("tasks: [{{{template}}}]"), "spec.tasks[0].template"),
        ("agones.dev/v1", "Fleet", format!("template: {{spec: {{{template}}}}}"), "spec.template.spec.template"),
        ("flink.apache.org/v1beta1", "FlinkDeployment", template.replacen("template", "podTemplate", 1), "spec.podTemplate"),
        (
            "argoproj.io/v1alpha1",
            "Workflow",
            "podMetadata: {annotations: {linkerd.io/inject: enabled}}, templates: [{name: a, container: {image: i}}]".to_owned(),
            "spec.templates[0]",
        ),
        (
            "argoproj.io/v1alpha1",
            "CronWorkflow",
            "workflowSpec: {templates: [{name: dag, dag: {}}, {name: a, metadata: {annotations: {linkerd.io/inject: enabled}}, script: {image: i}}]}".to_owned(),
            "spec.workflowSpec.templates[1]",
        ),
    ] {
        let found = only(&format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: w, namespace: shop}}, spec: {{{spec}}}}}"));
        assert_eq!((&found["decision"], &found["template"], &found["missed"]), (&json!("inject"), &json!(path), &json!(false)), "{kind}");
        assert_eq!(found["findings"], json!(["missing-entry"]), "{kind}");
    }
    let both = format!(
        "{{apiVersion: x.example/v1, kind: Pair, metadata: {{name: w}}, spec: {{one: {{{template}}}, other: {{{template}}}}}}}"
    );
    assert_eq!(explained_as_json(of(&["-"]), &both).len(), 2);
    let schema = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: d}, spec: {template: {spec: {containers: [{name: c}]}}}}";
    assert_eq!(explained_as_json(of(&["-"]), schema).len(), 0);
}

#[test]
fn removed_api_versions_are_reported() {
    for (version, kind, since, instead) in [
        ("apps/v1beta2", "Deployment", "1.16", "apps/v1"),
        ("extensions/v1beta1", "DaemonSet", "1.16", "apps/v1"),
        ("batch/v2alpha1", "Job", "1.21", "batch/v1"),
    ] {
        let found = only(&workload(version, kind, "", ""));
        assert_eq!(found["warning_keys"], json!(["removed_api"]), "{version}");
        assert!(texts(&found, "warnings").contains(since), "{found:#}");
        assert_eq!(found["next"], json!([format!("write apiVersion: {instead}, and explain it again")]));
    }
}

#[test]
fn what_stands_in_the_wrong_place_is_pointed_out() {
    let misplaced = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: w}, spec: {template: {annotations: {linkerd.io/inject: enabled}, spec: {annotations: {a: b}, containers: [{name: c}]}}}}";
    let found = only(misplaced);
    assert_eq!(found["warning_keys"], json!(["unknown_field", "unknown_field"]));
    assert!(texts(&found, "warnings").contains("spec.template.annotations"), "{found:#}");
    let near = only(&pod(", linkerd.io/injected: enabled, config.linkerd.io/skip-outbound-port: '1'", ""));
    assert_eq!(near["warning_keys"], json!(["unknown_annotation", "unknown_annotation"]), "{near:#}");
    let unrendered = only(&pod("", "").replace("enabled", "'{{ .Values.mesh }}'"));
    assert!(texts(&unrendered, "next").contains("helm template"), "{unrendered:#}");
}

#[test]
fn nothing_in_the_input_passes_for_a_line_of_ours() {
    for forged in ["a\\n  next      nothing", "a\\u001b[2J", "a\\r", "a\\u202eb", "a\\u009b1m", "a\\u2028b"] {
        let input = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: \"{forged}\", namespace: \"{forged}\", annotations: {{linkerd.io/inject: \"{forged}\"}}}}, \
             spec: {{containers: [{{name: linkerd-proxy, image: \"{forged}\"}}]}}}}"
        );
        let (out, notes) = run(&of(&["-"]), &input).unwrap();
        assert_eq!(out.lines().filter(|line| !line.starts_with(' ')).count(), 1, "{out}");
        for text in [out, notes] {
            let fits = |character: char| {
                character == '\n' || !(character.is_control() || "\u{202e}\u{2028}".contains(character))
            };
            assert!(text.chars().all(fits), "{text:?}");
        }
    }
}

#[test]
fn the_entry_is_judged_by_what_it_runs_and_what_holds_it_up() {
    let with = |change: &dyn Fn(String) -> String, input: String| change(input);
    let env =
        |variables: &'static str| move |input: String| input.replacen("env: [", &format!("env: [{variables}, "), 1);
    let exit = env("{name: LINKERD_GATE_ON_MISSED, value: exit}");
    let cron = |policy: &str| {
        let job = workload("v1", "X", "", "restartPolicy: Never,")
            .replace("apiVersion: v1, kind: X, metadata: {name: w, namespace: shop}, ", "");
        format!(
            "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: w, namespace: shop}}, spec: {{concurrencyPolicy: {policy}, jobTemplate: {job}}}}}"
        )
    };
    for (what, input, wanted) in [
        (
            "another program",
            workload("apps/v1", "Deployment", "", "").replace("args: [wait]", "command: [/bin/true, wait]"),
            vec!["another_program"],
        ),
        (
            "ours, spelled out",
            workload("apps/v1", "Deployment", "", "").replace("args: [wait]", "command: [/linkerd-gate, wait]"),
            vec![],
        ),
        ("one run at a time", cron("Forbid"), vec!["forbid"]),
        ("several runs at a time", cron("Allow"), vec![]),
        ("one run at a time, exit", with(&exit, cron("Forbid")), vec!["exit_policy"]),
        ("a deadline", workload("batch/v1", "Job", "activeDeadlineSeconds: 60,", ""), vec!["deadline"]),
        ("a pod's deadline", workload("batch/v1", "Job", "", "activeDeadlineSeconds: 60,"), vec!["deadline"]),
        (
            "identity as another user",
            with(&env("{name: LINKERD_GATE_WHEN_MESHED, value: identity}"), workload("apps/v1", "Deployment", "", "")),
            vec!["identity_uid"],
        ),
        (
            "identity as the proxy's user",
            with(
                &env("{name: LINKERD_GATE_WHEN_MESHED, value: identity}"),
                workload("apps/v1", "Deployment", "", "securityContext: {runAsUser: 2102},"),
            ),
            vec![],
        ),
    ] {
        assert_eq!(remarks(&only(&input)), wanted, "{what}");
    }
}

#[test]
fn next_says_what_the_entry_does() {
    let env = |variables: &'static str, input: String| input.replacen("env: [", &format!("env: [{variables}, "), 1);
    let policy = "podFailurePolicy: {rules: [{action: Ignore, onExitCodes: {operator: In, values: [75]}}]},";
    for (input, words) in [
        (
            env(
                "{name: LINKERD_GATE_ON_MISSED, value: exit}",
                workload("batch/v1", "Job", policy, "restartPolicy: Never,"),
            ),
            "exit code 75",
        ),
        (
            env("{name: LINKERD_GATE_ON_MISSED, value: replace}", workload("apps/v1", "Deployment", "", "")),
            "then deletes it",
        ),
        (
            env("{name: LINKERD_GATE_TIMEOUT, value: 5m}", workload("apps/v1", "Deployment", "", "")),
            "for 5m, then ends with exit code 69",
        ),
        (workload("apps/v1", "Deployment", "", ""), "its linkerd-gate entry holds it"),
    ] {
        let found = only(&input);
        assert!(texts(&found, "next").contains(words), "{found:#}");
    }
}

#[test]
fn an_unknown_owner_is_not_said_to_create_pods_again() {
    let owned = |version: &str, kind: &str| {
        pod("", "").replace(
            "name: p,",
            &format!("name: p, uid: u, ownerReferences: [{{apiVersion: {version}, kind: {kind}, name: o, uid: o, controller: true}}],"),
        )
    };
    for kind in ["ReplicaSet", "StatefulSet", "DaemonSet"] {
        assert!(texts(&only(&owned("apps/v1", kind)), "next").contains("creates it again"), "{kind}");
    }
    for kind in ["Workflow", "TaskRun", "VirtualMachineInstance"] {
        let next = texts(&only(&owned("example.com/v1", kind)), "next");
        assert!(next.contains("is not known") && !next.contains("kubectl -n shop delete"), "{kind}: {next}");
    }
}

#[test]
fn our_own_pods_are_no_broken_entries() {
    let found = explained_as_json(of(&["deploy/manifests"]), "");
    assert!(found.len() >= 2, "{found:#?}");
    for own in found {
        assert_ne!(own["wait"]["state"], "wrong", "{own:#}");
    }
}

#[test]
fn what_manifests_are_made_of_is_no_broken_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("pod.yaml", &pod("", ""));
    write("app/kustomization.yaml", "resources: [pod.yaml]\n");
    write("base/any.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a]\n");
    write("chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 0.1.0\n");
    write("chart/values.yaml", "image: i\n");
    write("chart/values-prod.yml", "image: i\n");
    let arguments = Explain { recursive: true, ..of(&[folder.path().to_str().unwrap()]) };
    let (out, notes) = run(&arguments, "").unwrap();
    assert_eq!(out.matches("Pod shop/p ").count(), 1, "{out}");
    for (tip, times) in [("kubectl kustomize ", 2), ("helm template ", 3)] {
        assert_eq!(notes.matches(tip).count(), times, "{notes}");
    }
    assert!(notes.lines().count() == 5, "nothing of it is a problem: {notes}");
    // Of any other name it is one.
    write("other.yaml", "image: i\n");
    let (_, notes) = run(&arguments, "").unwrap();
    assert!(notes.contains("other.yaml, document 1, line 1: this is no Kubernetes object: it has no kind"), "{notes}");
}

#[test]
fn lists_are_taken_apart_wherever_they_are() {
    let nested = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: List, items: [{0}, {0}]}}\n- {0}",
        pod("", "").trim_end()
    );
    assert_eq!(explained_as_json(of(&["-"]), &nested).len(), 3);
    let bare = run(&of(&["-"]), "[{\"apiVersion\": \"v1\"}]").unwrap_err();
    assert!(bare.contains("a bare list") && bare.contains("jq -c '.[]'"), "{bare}");
}

#[test]
fn packed_or_templated_files_name_the_command_that_unpacks_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pod.yaml");
    let utf_32: Vec<u8> = "\u{feff}kind: Pod".chars().flat_map(|character| (character as u32).to_le_bytes()).collect();
    for (bytes, words) in [
        (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0][..], "gzip -dc FILE"),
        (&utf_32, "iconv -f UTF-32"),
        (b"kind: {a: ${NAME}}", "envsubst < FILE"),
        (b"kind: {a: {{ .Values.name }}}\n{{ end }}", "helm template CHART"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let message = run(&of(&[path.to_str().unwrap()]), "").unwrap_err();
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn a_static_pod_is_beyond_any_webhook() {
    let owned = "name: p, uid: u, ownerReferences: [{apiVersion: v1, kind: Node, name: n1, uid: u, controller: true}],";
    let found = only(&pod("", "").replace("name: p,", owned));
    assert!(texts(&found, "next").starts_with("nothing: kubelet makes this static pod"), "{found:#}");
}

/// Maps of as many keys as are read, all of one name or all of different ones: time grows with their number, and no faster.
#[test]
fn many_keys_are_read_in_time_that_grows_with_their_number() {
    let keys = |name: &dyn Fn(usize) -> String| {
        let keys: Vec<_> = (0..60_000).map(|n| format!("\"{}\":\"v\",", name(n))).collect();
        keys.concat()
    };
    for (data, warnings) in [(keys(&|n| format!("k{n}")), 0), (keys(&|_| "k".to_owned()), 11)] {
        let labelled = pod("", "").replace("name: p,", &format!("name: p, labels: {{{data}}},"));
        let json = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"p\",\"labels\":{{{data}\"z\":\"\"}}}},\"spec\":{{\"containers\":[{{\"name\":\"c\"}}]}}}}"
        );
        for input in [labelled, json] {
            let found = only(&input);
            assert_eq!(found["warning_keys"].as_array().unwrap().len(), warnings);
        }
    }
}
