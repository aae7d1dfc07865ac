//! What the chart has for Prometheus and Grafana: every metric that it names exists, every alert has a runbook, and each fires on
//! the series that it is for.

use std::collections::BTreeSet;
use std::process::Command;

use linkerd_gate::metrics::{PREFIX, Row, TABLE};
use linkerd_gate_kit::parts::find_promtool;
use serde_json::{Value, json};

use crate::helm::{Document, NAMESPACE, chart, render, root, set};

/// What it has, each by a value.
pub const SWITCHES: [&str; 3] = ["monitoring.podMonitor", "monitoring.rules", "monitoring.dashboard"];

fn rules() -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(chart().join("files/rules.yaml")).unwrap()).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(chart().join("files/dashboard.json")).unwrap()).unwrap()
}

fn alerts() -> Vec<Value> {
    rules()["groups"][0]["rules"].as_array().unwrap().clone()
}

fn panel_queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn queries() -> Vec<String> {
    let rules = alerts();
    let rules = rules.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned());
    rules.chain(panel_queries()).collect()
}

/// The table's row that a series belongs to.
fn row(series: &str) -> Option<&'static Row> {
    let name = series.strip_prefix(PREFIX)?.strip_prefix('_')?;
    TABLE.iter().find(|row| {
        let ends: &[&str] = if row.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        ends.iter().any(|end| name.strip_suffix(end) == Some(row.name))
    })
}

/// The series of a query, each with what stands in its braces.
fn series(query: &str) -> Vec<(String, String)> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
    query
        .match_indices(PREFIX)
        .map(|(at, _)| {
            let name: String = query[at..].chars().take_while(|char| is_part(*char)).collect();
            let rest = &query[at + name.len()..];
            let braces = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            (name, braces.to_owned())
        })
        .collect()
}

#[test]
fn every_metric_and_label_of_a_query_exists() {
    let mut named = BTreeSet::new();
    for query in queries() {
        let found = series(&query);
        assert!(!found.is_empty(), "{query} asks for no metric");
        for (name, matchers) in found {
            let row = row(&name).unwrap_or_else(|| panic!("{query}: no metric is called {name}"));
            for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
                let (label, value) = matcher.split_once(['=', '!']).unwrap();
                let known = row.labels.iter().find(|(known, _)| *known == label);
                let (_, values) = known.unwrap_or_else(|| panic!("{query}: {name} has no label {label}"));
                let wanted = value.trim_matches(['=', '~', '"']).split('|');
                let unknown: Vec<_> = wanted.filter(|value| !values.contains(value)).collect();
                assert!(unknown.is_empty(), "{query}: {label} is never {unknown:?}");
            }
            named.insert(name);
        }
    }
    assert!(named.len() > 15, "{named:?}");
    assert_eq!(series("max(linkerd_gate_open{a=\"b\"}) > 0"), [("linkerd_gate_open".to_owned(), "a=\"b\"".to_owned())]);
}

#[test]
fn every_alert_has_a_runbook_and_no_runbook_is_of_another() {
    let page = std::fs::read_to_string(root().join("docs/monitoring.md")).unwrap();
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap().to_owned();
        for text in ["summary", "description"] {
            assert!(alert["annotations"][text].as_str().is_some_and(|text| text.len() > 10), "{name} has no {text}");
        }
        assert!(["warning", "critical"].map(Value::from).contains(&alert["labels"]["severity"]), "{name}");
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert!(runbook.ends_with(&format!("/docs/monitoring.md#{}", name.to_lowercase())), "{name}: {runbook}");
        names.insert(name);
    }
    assert_eq!(names.iter().map(String::as_str).collect::<BTreeSet<_>>(), headings);
    assert_eq!(names.len(), 12);
}

/// By promtool: on recorded series, at the minute at which each should, and not before.
#[test]
fn each_alert_fires_on_what_it_is_for() {
    let promtool = find_promtool().unwrap_or_else(|error| panic!("{error:#}"));
    let cases = std::fs::read_to_string(root().join("tests/chart/rules_test.yaml")).unwrap();
    let text = std::fs::read_to_string(chart().join("files/rules.yaml")).unwrap();
    let run = |rules: &str| {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("rules.yaml"), rules).unwrap();
        std::fs::write(directory.path().join("cases.yaml"), &cases).unwrap();
        Command::new(&promtool).args(["test", "rules", "cases.yaml"]).current_dir(&directory).output().unwrap()
    };
    let output = run(&text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(cases.contains(&format!("alertname: {name}\n")), "no case of {name}");
        // One that never fires is found.
        let query = alert["expr"].as_str().unwrap();
        let silenced = text.replace(query, &format!("({query}) and on () vector(0) > 1"));
        assert!(silenced != text && !run(&silenced).status.success(), "{name} need not fire");
    }
}

/// Series of a metric over 20 minutes, one for each value of each label. The PodMonitor adds `pod`.
fn recorded(row: &Row) -> Vec<Value> {
    let mut all = vec!["pod=\"p\"".to_owned()];
    for (label, values) in row.labels {
        let values = if values.is_empty() { &["any"] } else { *values };
        let with = |labels: &String| {
            values.iter().map(move |value| format!("{labels},{label}=\"{value}\"")).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(with).collect();
    }
    let grows = "0+10x20";
    let named = |end: &str, labels: &str, values: &str| json!({"series": format!("{PREFIX}_{}{end}{{{labels}}}", row.name), "values": values});
    let of = |labels: &String| match row.kind {
        "histogram" => ["0.1", "+Inf"].map(|le| named("_bucket", &format!("{labels},le=\"{le}\""), grows)).to_vec(),
        "counter" => vec![named("", labels, grows)],
        _ => vec![named("", labels, "1x20")],
    };
    all.iter().flat_map(of).collect()
}

/// By promtool: no query is misspelt, joins what has no label in common, or asks for what no series has.
#[test]
fn each_panel_draws_something() {
    let promtool = find_promtool().unwrap_or_else(|error| panic!("{error:#}"));
    let run = |queries: &[String]| {
        let drawn = |query: &String| {
            let query = query.replace("$__rate_interval", "5m");
            json!({"expr": format!("count({query}) > bool 0"), "eval_time": "15m", "exp_samples": [{"labels": "{}", "value": 1}]})
        };
        let series: Vec<Value> = TABLE.iter().flat_map(recorded).collect();
        let cases = json!({"evaluation_interval": "1m", "tests": [{
            "interval": "1m", "input_series": series, "promql_expr_test": queries.iter().map(drawn).collect::<Vec<_>>(),
        }]});
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cases.yaml"), cases.to_string()).unwrap();
        Command::new(&promtool).args(["test", "rules", "cases.yaml"]).current_dir(&directory).output().unwrap()
    };
    let panels = panel_queries();
    assert!(panels.len() > 20, "{panels:?}");
    let output = run(&panels);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for wrong in ["sum(linkerd_gate_open", "linkerd_gate_leader{pod=\"q\"}"] {
        assert!(!run(&[wrong.to_owned()]).status.success(), "{wrong} draws something");
    }
}

#[test]
fn nothing_of_it_is_there_unless_it_is_switched_on() {
    let of = |settings: &[_]| -> Vec<Document> {
        let all = render(NAMESPACE, settings).into_iter();
        all.filter(|document| document.template.starts_with("monitoring/")).collect()
    };
    assert_eq!(of(&[]), []);
    for switch in SWITCHES {
        assert_eq!(of(&[set(switch, true)]).len(), 1, "{switch}");
    }
    let labels = set("monitoring.labels", json!({"release": "prometheus"}));
    let all: Vec<Value> = of(&[SWITCHES.map(|switch| set(switch, true)).as_slice(), &[labels]].concat())
        .iter()
        .map(Document::value)
        .collect();
    let of_kind = |kind: &str| all.iter().find(|document| document["kind"] == kind).unwrap();
    // Helm's own braces and Prometheus' are the same: what is in the file is what Prometheus reads.
    assert_eq!(of_kind("PrometheusRule")["spec"], rules());
    let json = of_kind("ConfigMap")["data"]["linkerd-gate.json"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(json).unwrap(), dashboard());
    for kind in ["PodMonitor", "PrometheusRule"] {
        assert_eq!(of_kind(kind)["metadata"]["labels"]["release"], "prometheus");
    }
}

#[test]
fn the_pod_monitor_selects_our_pods_and_their_port() {
    let documents: Vec<Value> =
        render(NAMESPACE, &[set("monitoring.podMonitor", true)]).iter().map(Document::value).collect();
    let monitor = &documents.iter().find(|document| document["kind"] == "PodMonitor").unwrap()["spec"];
    let endpoint = &monitor["podMetricsEndpoints"][0];
    // Else the pods that a controller counts would be said to be in its own namespace.
    assert_eq!(endpoint["honorLabels"], true);
    let components = &monitor["selector"]["matchExpressions"][0];
    assert_eq!(components["operator"], "In");
    for kind in ["DaemonSet", "Deployment"] {
        let workload = documents.iter().find(|document| document["kind"] == kind).unwrap();
        let pod = &workload["spec"]["template"];
        let labels = &pod["metadata"]["labels"];
        for (label, value) in monitor["selector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(&labels[label], value, "{kind}");
        }
        let component = &labels[components["key"].as_str().unwrap()];
        assert!(components["values"].as_array().unwrap().contains(component), "{kind}");
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["name"], endpoint["port"], "{kind}");
    }
}

#[test]
fn no_two_panels_are_in_one_place() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut cells = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(x < 24 && cells.insert((x, y)), "{} is in the way", panel["title"]);
            }
        }
        assert!(ids.insert(panel["id"].as_u64()), "{}", panel["title"]);
    }
}
