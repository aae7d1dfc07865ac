//! Every value does something, and a wrong one is refused by its name.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::helm::{
    NAMESPACE, Setting, all_on, another, chart, default_of, leaves, refusal, render, root, schema, set, values,
};

/// With everything on but what is looked at: what a part that is off makes of a value shows nothing.
#[test]
fn every_value_changes_what_comes_of_the_chart() {
    let mut on = all_on();
    on.push(set("createNamespaces", true));
    on.extend(crate::monitoring::SWITCHES.map(|switch| set(switch, true)));
    let with_all_on = render(NAMESPACE, &on);
    for path in leaves() {
        let mut settings = on.clone();
        settings.retain(|(switch, _)| *switch != path);
        let is_switch = settings.len() < on.len();
        let value = if is_switch { Value::Bool(false) } else { another(&path) };
        settings.push((path.clone(), value));
        assert_ne!(render(NAMESPACE, &settings), with_all_on, "{path} makes no difference");
    }
}

#[test]
fn every_value_has_a_comment_above_it() {
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut section = String::new();
    let mut commented = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some((name, _)) = line.split_once(':').filter(|_| !line.trim_start().starts_with('#')) else { continue };
        let path = match name.strip_prefix("  ") {
            None => {
                name.clone_into(&mut section);
                name.to_owned()
            }
            Some(name) => format!("{section}.{name}"),
        };
        if number > 0 && lines[number - 1].trim_start().starts_with('#') {
            commented.push(path);
        }
    }
    let without: Vec<String> = leaves().into_iter().filter(|path| !commented.contains(path)).collect();
    assert!(without.is_empty(), "{without:?}");
}

/// The comment above each value, by its path, and above each section.
fn comments() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let (mut comments, mut above, mut section) = (BTreeMap::new(), Vec::new(), String::new());
    for line in text.lines() {
        if let Some(comment) = line.trim_start().strip_prefix('#') {
            above.push(comment.trim_end());
            continue;
        }
        if let Some((name, _)) = line.split_once(':').filter(|(name, _)| !name.trim_start().starts_with(['-', '{'])) {
            let path = match name.strip_prefix("  ").filter(|name| !name.starts_with(' ')) {
                Some(name) => format!("{section}.{name}"),
                None if name.starts_with(' ') => continue,
                None => {
                    name.clone_into(&mut section);
                    section.clone()
                }
            };
            comments.insert(path, paragraph(&above));
        }
        above.clear();
    }
    comments
}

/// Lines of a comment as one, but for a list of words and what each does.
fn paragraph(lines: &[&str]) -> String {
    let is_item = |line: &str| line.trim_start().split_once("  ").is_some_and(|(word, _)| !word.contains(' '));
    let line = |line: &&str| {
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if is_item(line) {
            format!("<br>{}: {}", words.split(' ').next().unwrap(), words.split_once(' ').unwrap().1)
        } else {
            words
        }
    };
    lines.iter().map(line).collect::<Vec<_>>().join(" ").replace(" <br>", "<br>").replace('|', "\\|")
}

/// Every value as a page: `docs/values.md` below its mark.
fn page() -> String {
    let comments = comments();
    let mut page = String::new();
    let mut section = String::new();
    let mut leaves = leaves();
    // What is in no section comes first.
    leaves.sort_by_key(|path| path.split_once('.').map(|(of, _)| of.to_owned()));
    for path in leaves {
        let of = path.split_once('.').map_or("", |(of, _)| of);
        if page.is_empty() || of != section {
            of.clone_into(&mut section);
            if !of.is_empty() {
                write!(page, "\n## {of}\n\n{}\n", comments[of]).unwrap();
            }
            page += "\n| value | default | what it does |\n|---|---|---|\n";
        }
        let default = default_of(&path);
        let default =
            if default == "" { "empty".to_owned() } else { format!("`{}`", default.to_string().trim_matches('"')) };
        writeln!(page, "| `{path}` | {default} | {} |", comments[&path]).unwrap();
    }
    page
}

/// `make docs` writes it.
#[test]
fn the_page_of_values_is_the_table() {
    const MARK: &str = "<!-- values -->\n";
    let path = root().join("docs/values.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, found) = text.split_once(MARK).expect("a mark");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{MARK}{}", page())).unwrap();
    } else {
        assert!(found == page(), "docs/values.md is out of date: run `make docs`");
    }
}

/// As the schema names it: `/agent/mode`.
fn as_named(path: &str) -> String {
    format!("'/{}'", path.replace('.', "/"))
}

#[test]
fn a_value_of_another_kind_is_refused_by_its_name() {
    for path in leaves() {
        let wrong = if default_of(&path).is_object() { json!("text") } else { json!({"of": "another kind"}) };
        let said = refusal(NAMESPACE, &[(path.clone(), wrong)]);
        assert!(said.contains(&as_named(&path)), "{path}: {said}");
    }
}

#[test]
fn a_text_that_is_not_accepted_is_refused_by_its_name() {
    let checked: Vec<String> = leaves()
        .into_iter()
        .filter(|path| schema(path).get("enum").is_some() || schema(path).get("pattern").is_some())
        .collect();
    assert!(checked.len() >= 14, "{checked:?}");
    for path in checked {
        // What would end a string of the policies' expressions, and of YAML.
        let said = refusal(NAMESPACE, &[set(&path, "no' such\" value ")]);
        assert!(said.contains(&as_named(&path)), "{path}: {said}");
    }
    let item = refusal(NAMESPACE, &[set("agent.essentialNamespaces", vec!["storage", "Not A Name"])]);
    assert!(item.contains("'/agent/essentialNamespaces/1'"), "{item}");
}

#[test]
fn an_unknown_value_is_refused_by_its_name() {
    let sections = values().as_object().unwrap().clone().into_iter().filter(|(_, value)| value.is_object());
    // A map of labels has any names.
    let sections = sections.filter(|(section, _)| schema(section).get("properties").is_some());
    let unknown = sections.map(|(section, _)| format!("{section}.mod")).chain(["agents".to_owned()]);
    for path in unknown {
        let name = path.rsplit('.').next().unwrap();
        let said = refusal(NAMESPACE, &[set(&path, "audit")]);
        assert!(said.contains(&format!("'{name}' not allowed")), "{path}: {said}");
    }
}

#[test]
fn a_required_value_cannot_be_null() {
    for path in [
        "probeNamespace",
        "mode",
        "admission",
        "image.repository",
        "agent.taintKey",
        "agent.listenPort",
        "controller.listenPort",
    ] {
        let said = refusal(NAMESPACE, &[(path.to_owned(), Value::Null)]);
        assert!(said.contains(path.rsplit('.').next().unwrap()), "{path}: {said}");
    }
}

#[test]
fn a_namespace_that_is_not_its_own_is_refused() {
    for namespace in ["default", "kube-system"] {
        let said = refusal(namespace, &[]);
        assert!(said.contains("--namespace linkerd-gate"), "{said}");
    }
    let said = refusal("gate-proofs", &[set("probeNamespace", "gate-proofs")]);
    assert!(said.contains("probeNamespace is gate-proofs"), "{said}");
}

/// The users of agent and controller, their namespaces and the taint stand in the policies, in the rights and in their own variables.
#[test]
fn another_namespace_and_another_taint_are_named_everywhere() {
    let mut settings = all_on();
    settings.extend([
        set("createNamespaces", true),
        set("probeNamespace", "gate-proofs"),
        set("agent.taintKey", "example.com/starting"),
    ]);
    let documents = render("mesh-gate", &settings);
    for document in &documents {
        for name in ["linkerd-gate-probe", "linkerd-gate/closed", "system:serviceaccount:linkerd-gate:"] {
            // The policy for the probe namespace is called that, whatever the namespace's own name.
            let policy =
                |line: &str| ["name: linkerd-gate-probe", "policyName: linkerd-gate-probe"].contains(&line.trim());
            let found = document.text.lines().find(|line| line.contains(name) && !policy(line));
            assert_eq!(found, None, "{}", document.template);
        }
        let value = document.value();
        let mut namespaces = vec![&value["metadata"]["namespace"]];
        namespaces.extend(value["subjects"].as_array().into_iter().flatten().map(|subject| &subject["namespace"]));
        for namespace in namespaces.into_iter().filter_map(Value::as_str) {
            assert!(["mesh-gate", "gate-proofs", "default"].contains(&namespace), "{}: {namespace}", document.template);
        }
    }
    for template in ["admission/hold.yaml", "admission/guard.yaml"] {
        assert!(documents.iter().any(|document| {
            let selector = &document.value()["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"][0];
            document.template == template && selector["values"] == json!(["kube-system", "mesh-gate", "gate-proofs"])
        }));
    }
    for (account, count) in [("agent", 5), ("controller", 8)] {
        let user = format!("'system:serviceaccount:mesh-gate:linkerd-gate-{account}'");
        assert_eq!(documents.iter().filter(|document| document.text.contains(&user)).count(), count, "{user}");
    }
}

#[test]
fn the_image_is_chosen_by_digest_then_tag_then_chart_version() {
    let image = |settings: &[Setting]| {
        let pods: Vec<Value> =
            render(NAMESPACE, settings).iter().map(|document| document.value()["spec"]["template"].clone()).collect();
        let containers = pods.iter().filter(|pod| !pod.is_null()).map(|pod| &pod["spec"]["containers"][0]);
        let mut images: Vec<&str> = containers.map(|container| container["image"].as_str().unwrap()).collect();
        assert_eq!(images.len(), 2, "agent and controller");
        images.dedup();
        assert_eq!(images.len(), 1, "{images:?}");
        images[0].to_owned()
    };
    let digest = another("image.digest");
    let repository = set("image.repository", "registry.example.com:5000/gate");
    assert_eq!(
        image(std::slice::from_ref(&repository)),
        concat!("registry.example.com:5000/gate:", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(image(&[repository.clone(), set("image.tag", "1.2.3")]), "registry.example.com:5000/gate:1.2.3");
    assert_eq!(
        image(&[repository, set("image.tag", "1.2.3"), set("image.digest", digest.clone())]),
        format!("registry.example.com:5000/gate@{}", digest.as_str().unwrap())
    );
}

/// A scheduler's word on it: one agent for each machine, and none for a node that is none.
#[test]
fn virtual_nodes_get_no_agent() {
    use linkerd_gate::decide::node::placement::{NodePlace, Placement};
    let documents = render(NAMESPACE, &all_on());
    let found = documents.into_iter().map(|document| document.value()).find(|document| document["kind"] == "DaemonSet");
    let spec = found.expect("a DaemonSet")["spec"]["template"]["spec"].clone();
    let placement = Placement::of(&serde_json::from_value(spec).unwrap());
    let gets_one = |label: Option<(&str, &str)>| {
        let labels = [("kubernetes.io/os", "linux")].into_iter().chain(label);
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        placement.fits(&NodePlace { name: "n".to_owned(), labels, taints: Vec::new() }, "linkerd-gate/closed")
    };
    assert!(
        gets_one(None)
            && gets_one(Some(("type", "worker")))
            && gets_one(Some(("eks.amazonaws.com/compute-type", "ec2")))
    );
    for label in [
        ("eks.amazonaws.com/compute-type", "fargate"),
        ("type", "virtual-kubelet"),
        ("kubernetes.io/role", "virtual-kubelet"),
    ] {
        assert!(!gets_one(Some(label)), "{label:?}");
    }
}
