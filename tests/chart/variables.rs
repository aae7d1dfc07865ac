//! From value to variable to what the agent and the controller make of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use linkerd_gate::config::{AgentSettings, ControllerSettings, table};
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, Setting, another, leaves, refusal, render, set};

/// Reached by `extraEnv`: what runs in a pod has a service account, and the pod itself says where its termination log is.
const WITHOUT_VALUE: [&str; 2] = ["LINKERD_GATE_KUBECONFIG", "LINKERD_GATE_TERMINATION_LOG"];

/// What runs, and what it goes by.
struct Program {
    role: table::Role,
    kind: &'static str,
    /// Where its own values are.
    section: &'static str,
    /// Values elsewhere, which others go by as well.
    shared: &'static [&'static str],
}

const AGENT: Program = Program {
    role: table::Role::Agent,
    kind: "DaemonSet",
    section: "agent",
    shared: &["probeNamespace", "probeLabels", "mode"],
};

/// The agent's depends on what the chart has for admission as well: `tests/chart/admission.rs`.
const NODE_MAX_CLOSED: &str = "LINKERD_GATE_NODE_MAX_CLOSED";

const CONTROLLER: Program = Program {
    role: table::Role::Controller,
    kind: "Deployment",
    section: "controller",
    shared: &[
        "probeNamespace",
        "probeLabels",
        "mode",
        "admission",
        "linkerd.tokenProjection",
        "agent.taintKey",
        "agent.require",
        "agent.identity",
        "agent.apiServers",
    ],
};

// === impl Program ===

impl Program {
    fn pod(&self, settings: &[Setting]) -> Value {
        let documents = render(NAMESPACE, settings).into_iter().map(|document| document.value());
        let found = documents.into_iter().find(|document| document["kind"] == self.kind);
        found.unwrap_or_else(|| panic!("a {}", self.kind))["spec"]["template"]["spec"].take()
    }

    /// The variables of its container. What the downward API gives is the table's example.
    fn variables(&self, settings: &[Setting]) -> BTreeMap<String, String> {
        let pod = self.pod(settings);
        let entries = pod["containers"][0]["env"].as_array().unwrap();
        let variables: BTreeMap<String, String> = entries
            .iter()
            .map(|entry| {
                let name = entry["name"].as_str().unwrap();
                let value = match &entry["valueFrom"] {
                    Value::Null => entry["value"].as_str().unwrap_or_else(|| panic!("{name} is no text")),
                    _ => self.role.find(name).unwrap_or_else(|| panic!("{name}")).example,
                };
                (name.to_owned(), value.to_owned())
            })
            .collect();
        assert_eq!(variables.len(), entries.len(), "a variable is there twice: {entries:?}");
        variables
    }

    /// What it makes of its variables.
    fn makes_of(&self, variables: &BTreeMap<String, String>) -> String {
        match self.role {
            table::Role::Controller => format!("{:?}", controller(variables)),
            _ => format!("{:?}", agent(variables)),
        }
    }

    /// Whether the value is one that it goes by.
    fn goes_by(&self, path: &str) -> bool {
        self.shared.contains(&path) || path.split_once('.').is_some_and(|(section, _)| section == self.section)
    }
}

fn os(variables: &BTreeMap<String, String>) -> impl Iterator<Item = (OsString, OsString)> {
    variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)))
}

fn agent(variables: &BTreeMap<String, String>) -> AgentSettings {
    AgentSettings::read(os(variables)).unwrap_or_else(|problems| panic!("{problems}"))
}

fn controller(variables: &BTreeMap<String, String>) -> ControllerSettings {
    ControllerSettings::read(os(variables)).unwrap_or_else(|problems| panic!("{problems}"))
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

fn reaches_every_variable(program: &Program) {
    let by_default = program.variables(&[]);
    let mut reached = BTreeSet::new();
    for path in leaves() {
        // What takes it away altogether, and what `extraEnv` says, is another's test.
        if path == format!("{}.enabled", program.section) || path == format!("{}.extraEnv", program.section) {
            continue;
        }
        let variable = variable_of(&path);
        let value = another(&path);
        let with = program.variables(&[(path.clone(), value.clone())]);
        let mut by_default = by_default.clone();
        if ["mode", "admissionNamespaces"].contains(&path.as_str()) {
            by_default.remove(NODE_MAX_CLOSED);
        }
        if !program.goes_by(&path) || program.role.find(&variable).is_none() {
            assert_eq!(with, by_default, "{path} is not for the {}", program.section);
            continue;
        }
        assert_ne!(program.makes_of(&with), program.makes_of(&by_default), "{path} is the same to it");
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
        |name: &str| program.role.find(name).is_some_and(|found| found.accepted.starts_with("the downward API"));
    let missing: Vec<&str> = program
        .role
        .variables()
        .iter()
        .map(|variable| variable.name)
        .filter(|name| !reached.contains(*name) && !WITHOUT_VALUE.contains(name) && !given(name))
        .collect();
    assert!(missing.is_empty(), "no value for {missing:?}");
}

#[test]
fn every_agent_variable_follows_from_a_chart_value() {
    reaches_every_variable(&AGENT);
}

#[test]
fn every_controller_variable_follows_from_a_chart_value() {
    reaches_every_variable(&CONTROLLER);
}

#[test]
fn the_charts_defaults_equal_the_programs_defaults() {
    for (program, needed) in [(AGENT, 3), (CONTROLLER, 4)] {
        let mut by_default = program.variables(&[]);
        by_default.remove(NODE_MAX_CLOSED);
        let mut alone = by_default.clone();
        alone.retain(|name, _| program.role.find(name).is_some_and(|found| found.default.starts_with("none: it must")));
        assert_eq!(alone.len(), needed);
        assert_eq!(program.makes_of(&by_default), program.makes_of(&alone));
    }
}

#[test]
fn extra_variables_reach_a_program_unless_a_value_sets_them() {
    for program in [AGENT, CONTROLLER] {
        let path = format!("{}.extraEnv", program.section);
        for name in WITHOUT_VALUE {
            let entry = json!([{"name": name, "value": "/somewhere/else"}]);
            let with = program.makes_of(&program.variables(&[set(&path, entry)]));
            assert!(with.contains("/somewhere/else"), "{name}: {with}");
        }
        let twice = json!([{"name": "LINKERD_GATE_MODE", "value": "audit"}]);
        let said = refusal(NAMESPACE, &[set(&path, twice)]);
        assert!(said.contains(&format!("{path} has LINKERD_GATE_MODE")), "{said}");
    }
}

#[test]
fn the_eviction_right_exists_only_if_the_controller_evicts() {
    let has_right = |settings: &[Setting]| {
        render(NAMESPACE, settings).iter().any(|document| document.text.contains("resources: [pods/eviction]"))
    };
    for repair in ["", "report", "held", "running"] {
        for eviction in [json!(""), json!(true), json!(false)] {
            let mut settings = vec![set("controller.repair", repair), set("controller.eviction", eviction)];
            let evicts = controller(&CONTROLLER.variables(&settings)).repair.evicts;
            assert_eq!(has_right(&settings), evicts, "{settings:?}");
            settings.push(set("controller.enabled", false));
            assert!(!has_right(&settings), "{settings:?}");
        }
    }
}

/// The file of the node, at the place where the agent reads.
#[test]
fn the_file_of_the_boot_id_is_mounted_where_the_agent_reads_it() {
    let settings = [set("agent.bootIdFile", "/var/lib/boot")];
    let pod = AGENT.pod(&settings);
    let read = agent(&AGENT.variables(&settings)).boot_id_file;
    assert_eq!(pod["containers"][0]["volumeMounts"], json!([{"name": "boot-id", "mountPath": read, "readOnly": true}]));
    assert_eq!(pod["volumes"], json!([{"name": "boot-id", "hostPath": {"path": "/var/lib/boot", "type": "File"}}]));
}

#[test]
fn kubelet_probes_the_port_that_the_program_listens_on() {
    for program in [AGENT, CONTROLLER] {
        let pod = program.pod(&[set(&format!("{}.listenPort", program.section), 4321)]);
        let container = &pod["containers"][0];
        assert_eq!(container["ports"], json!([{"name": "http", "containerPort": 4321}]));
        for probe in ["readinessProbe", "livenessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "http");
        }
    }
}
