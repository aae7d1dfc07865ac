//! `linkerd-gate install` prints what Helm makes of the chart with the same values.

use std::process::Command;

use serde_json::Value;

use crate::helm::{Kubernetes, NAMESPACE, Setting, render_on, set};

fn printed(arguments: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_linkerd-gate")).arg("install").args(arguments).env_clear().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let documents: Vec<Value> = if text.is_empty() { vec![] } else { serde_saphyr::from_multiple(&text).unwrap() };
    (output.status.code(), documents, String::from_utf8(output.stderr).unwrap())
}

fn key(object: &Value) -> String {
    format!("{} {} {}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"])
}

#[test]
fn install_prints_what_helm_renders() {
    let image: [Setting; 2] = [set("image.repository", "registry.example.com/gate"), set("image.tag", "1.2.3")];
    for (version, kubernetes) in [("1.36", Kubernetes::Newer), ("v1.35.4", Kubernetes::Older)] {
        for mode in ["enforce", "audit"] {
            for admission in ["auto", "hold", "refuse", "warn", "off"] {
                let arguments = ["--image", "registry.example.com/gate:1.2.3", "--kubernetes-version", version];
                let (code, found, said) = printed(
                    &[&arguments[..], &["--mode", mode, "--admission", admission, "--linkerd-extension"]].concat(),
                );
                if admission == "hold" && kubernetes == Kubernetes::Older {
                    assert!(code == Some(69) && found.is_empty() && said.contains("--admission auto"), "{said}");
                    continue;
                }
                assert_eq!(code, Some(0), "{said}");
                let settings = [
                    &image[..],
                    &[
                        set("createNamespaces", true),
                        set("linkerdExtension", true),
                        set("mode", mode),
                        set("admission", admission),
                    ],
                ]
                .concat();
                let rendered = render_on(kubernetes, NAMESPACE, &settings);
                let mut rendered: Vec<Value> = rendered.iter().map(|document| document.value().clone()).collect();
                let mut found = found;
                for objects in [&mut rendered, &mut found] {
                    objects.retain(|object| !object.is_null());
                    for object in objects.iter_mut() {
                        // Helm's own labels say which chart; the files are without.
                        if let Some(labels) = object["metadata"].get_mut("labels").and_then(Value::as_object_mut) {
                            labels.retain(|label, _| {
                                !label.starts_with("helm.sh/") && label != "app.kubernetes.io/managed-by"
                            });
                        }
                    }
                    objects.sort_by_key(key);
                }
                let names = |objects: &[Value]| objects.iter().map(key).collect::<Vec<_>>();
                assert_eq!(names(&found), names(&rendered), "{version} {mode} {admission}");
                for (found, rendered) in found.iter().zip(&rendered) {
                    let order = |object: &Value| order_of_env(object.clone());
                    assert_eq!(order(found), order(rendered), "{version} {mode} {admission}: {}", key(found));
                }
            }
        }
    }
}

/// The order of variables means nothing.
fn order_of_env(mut object: Value) -> Value {
    let containers = object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        if let Some(env) = container["env"].as_array_mut() {
            env.sort_by_key(|variable| variable["name"].to_string());
        }
    }
    object
}

#[test]
fn a_missing_argument_is_reported_with_an_example() {
    for (arguments, expected) in [
        (&[][..], "--image <IMAGE>"),
        (&["--image", "a b"], "--image registry.example.com/linkerd-gate:0.1.0"),
        (&["--image", "x:1", "--kubernetes-version", "new"], "--kubernetes-version 1.36"),
        (&["--image", "x:1", "--kubeconfig", "/nonexistent"], "--kubernetes-version 1.36"),
    ] {
        let (code, found, said) = printed(arguments);
        assert!(matches!(code, Some(2 | 69)) && found.is_empty(), "{arguments:?}: {code:?}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
