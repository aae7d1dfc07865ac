//! From value to variable to what the agent makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use linkerd_gate::config::{Agent, table};
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, Setting, another, leaves, refusal, render, set};

/// Reached by `agent.extraEnv`: an agent in a pod has a service account, and the pod itself says where its termination log is.
const BY_HAND: [&str; 2] = ["LINKERD_GATE_KUBECONFIG", "LINKERD_GATE_TERMINATION_LOG"];

fn daemon_set(settings: &[Setting]) -> Value {
    let documents = render(NAMESPACE, settings).into_iter().map(|document| document.value());
    documents.into_iter().find(|document| document["kind"] == "DaemonSet").expect("a DaemonSet")
}

/// The variables of the agent's container. What the downward API gives is the table's example.
fn variables(settings: &[Setting]) -> BTreeMap<String, String> {
    let daemon_set = daemon_set(settings);
    let entries = daemon_set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    let variables: BTreeMap<String, String> = entries
        .iter()
        .map(|entry| {
            let name = entry["name"].as_str().unwrap();
            let value = match &entry["valueFrom"] {
                Value::Null => entry["value"].as_str().unwrap_or_else(|| panic!("{name} is no text")),
                _ => table::Role::Agent.find(name).unwrap_or_else(|| panic!("{name}")).example,
            };
            (name.to_owned(), value.to_owned())
        })
        .collect();
    assert_eq!(variables.len(), entries.len(), "a variable is there twice: {entries:?}");
    variables
}

fn agent(variables: &BTreeMap<String, String>) -> Agent {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Agent::read(variables).unwrap_or_else(|problems| panic!("{problems}"))
}

/// `agent.nodeMaxClosed` is `LINKERD_GATE_NODE_MAX_CLOSED`.
fn variable_of(path: &str) -> String {
    let mut name = table::PREFIX.to_owned();
    for letter in path.rsplit('.').next().unwrap().chars() {
        if letter.is_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[test]
fn every_variable_of_the_agent_is_reached_by_a_value_and_means_what_the_value_says() {
    let by_default = variables(&[]);
    let mut reached = BTreeSet::new();
    for path in leaves() {
        let variable = variable_of(&path);
        if table::Role::Agent.find(&variable).is_none() {
            continue;
        }
        let value = another(&path);
        let with = variables(&[(path.clone(), value.clone())]);
        assert_ne!(agent(&with), agent(&by_default), "{path} is the same to the agent");
        // Nothing else changed.
        let without = |variables: &BTreeMap<String, String>| {
            let mut others = variables.clone();
            others.remove(&variable);
            others
        };
        assert_eq!(without(&with), without(&by_default), "{path}");
        let expected = match (path.as_str(), &value) {
            // The file's place on the node is mounted to this one.
            ("agent.bootIdFile", _) => "/run/linkerd-gate/boot_id".to_owned(),
            (_, Value::Array(list)) => list.iter().map(|item| item.as_str().unwrap()).collect::<Vec<_>>().join(","),
            (_, Value::String(text)) => text.clone(),
            (_, value) => value.to_string(),
        };
        assert_eq!(with[&variable], expected, "{path}");
        reached.insert(variable);
    }
    let given =
        |name: &str| table::Role::Agent.find(name).is_some_and(|found| found.accepted.starts_with("the downward API"));
    let missing: Vec<&str> = table::AGENT
        .iter()
        .map(|variable| variable.name)
        .filter(|name| !reached.contains(*name) && !BY_HAND.contains(name) && !given(name))
        .collect();
    assert!(missing.is_empty(), "no value for {missing:?}");
}

#[test]
fn what_the_chart_says_by_default_is_what_the_program_does_by_itself() {
    let by_default = variables(&[]);
    let mut alone = by_default.clone();
    alone.retain(|name, _| {
        table::Role::Agent.find(name).is_some_and(|found| found.default.starts_with("none: it must"))
    });
    assert_eq!(alone.len(), 3);
    assert_eq!(agent(&by_default), agent(&alone));
}

#[test]
fn further_variables_reach_the_agent_unless_there_is_a_value_for_them() {
    let entries: Vec<Value> = BY_HAND.iter().map(|name| json!({"name": name, "value": "/somewhere/else"})).collect();
    let with = agent(&variables(&[set("agent.extraEnv", entries)]));
    let by_default = agent(&variables(&[]));
    assert_ne!(with.kubeconfig, by_default.kubeconfig);
    assert_ne!(with.termination_log, by_default.termination_log);
    let twice = json!([{"name": "LINKERD_GATE_MODE", "value": "audit"}]);
    let said = refusal(NAMESPACE, &[set("agent.extraEnv", twice)]);
    assert!(said.contains("agent.extraEnv has LINKERD_GATE_MODE"), "{said}");
}

/// The file of the node, at the place where the agent reads.
#[test]
fn the_file_of_the_boot_id_is_mounted_where_the_agent_reads_it() {
    let settings = [set("agent.bootIdFile", "/var/lib/boot")];
    let pod = daemon_set(&settings)["spec"]["template"]["spec"].clone();
    let read = agent(&variables(&settings)).boot_id_file;
    assert_eq!(pod["containers"][0]["volumeMounts"], json!([{"name": "boot-id", "mountPath": read, "readOnly": true}]));
    assert_eq!(pod["volumes"], json!([{"name": "boot-id", "hostPath": {"path": "/var/lib/boot", "type": "File"}}]));
}

#[test]
fn the_port_that_the_agent_listens_on_is_the_one_that_kubelet_asks() {
    let container = daemon_set(&[set("agent.listen", 4321)])["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container["ports"], json!([{"name": "http", "containerPort": 4321}]));
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "http");
    }
}
