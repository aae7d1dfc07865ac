//! What auto-init is told by values, as far as it can be seen without an API server.

use std::ffi::OsString;

use linkerd_gate::config::{Wait, table};
use serde_json::json;

use crate::helm::{NAMESPACE, Setting, another, refusal, render, set, template};

fn on(mut settings: Vec<Setting>) -> Vec<Setting> {
    settings.push(set("autoInit.enabled", true));
    settings
}

/// The expression of one of the policy's variables.
fn expression(name: &str, settings: Vec<Setting>) -> String {
    let documents = render(NAMESPACE, &on(settings)).into_iter();
    let policy = documents.map(|document| document.value()).find(|value| value["kind"] == "MutatingAdmissionPolicy");
    let policy = policy.expect("a policy");
    let variable =
        policy["spec"]["variables"].as_array().unwrap().iter().find(|variable| variable["name"] == name).unwrap();
    variable["expression"].as_str().unwrap().to_owned()
}

/// What the downward API gives is the policy's own; all else may be said, and nothing that `wait` does not know.
#[test]
fn every_variable_of_wait_may_be_a_setting_but_what_tells_of_the_pod() {
    for variable in table::WAIT {
        let setting = format!("{}={}", variable.name, variable.example);
        let settings = on(vec![set("autoInit.settings", vec![setting.clone()])]);
        let taken = template(NAMESPACE, &settings).status.success();
        assert_ne!(taken, variable.accepted.contains("the downward API"), "{setting}");
    }
    let said = refusal(NAMESPACE, &on(vec![set("autoInit.settings", vec!["LINKERD_GATE_TIMEUOT=10m"])]));
    assert!(said.contains("'/autoInit/settings/0'"), "{said}");
}

#[test]
fn the_settings_are_a_list_of_texts_that_wait_takes() {
    let settings = another("autoInit.settings");
    let texts: Vec<&str> = settings.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let rendered = expression("settings", vec![("autoInit.settings".to_owned(), settings.clone())]);
    assert_eq!(rendered, "['LINKERD_GATE_TIMEOUT=10m', 'LINKERD_GATE_ON_TIMEOUT=open']");
    let variables = texts.iter().map(|text| text.split_once('=').unwrap()).chain([("LINKERD_GATE_INJECTED_BY", "")]);
    Wait::from_variables(variables.map(|(name, value)| (OsString::from(name), OsString::from(value)))).unwrap();
}

/// Text that would end the expression's or the document's own does not come that far.
#[test]
fn no_setting_ends_the_text_that_it_stands_in() {
    for value in ["it's", "\"", "\\", "a\nb"] {
        let setting = format!("LINKERD_GATE_CA_FILE={value}");
        let said = refusal(NAMESPACE, &on(vec![set("autoInit.settings", vec![setting])]));
        assert!(said.contains("'/autoInit/settings/0'"), "{said}");
    }
    for (resource, quantity) in [("c'pu", json!("1m")), ("cpu", json!("1'm")), ("cpu", json!({}))] {
        let resources = json!({"requests": {resource: quantity}, "limits": {}});
        let said = refusal(NAMESPACE, &on(vec![set("autoInit.resources", resources)]));
        assert!(said.contains("/autoInit/resources/requests"), "{said}");
    }
}

#[test]
fn what_the_entry_is_given_may_be_nothing() {
    let nothing = json!({"requests": {"cpu": null, "memory": null}, "limits": {"memory": null}});
    for name in ["requests", "limits"] {
        assert_eq!(expression(name, vec![set("autoInit.resources", nothing.clone())]), "{}");
    }
    let numbers = json!({"limits": {"cpu": 2, "memory": 33_554_432}});
    assert_eq!(expression("limits", vec![set("autoInit.resources", numbers)]), "{'cpu': '2', 'memory': '33554432'}");
}
