use super::super::table;
use super::*;
use crate::config::{AgentSettings, ControllerSettings};

fn read(variables: &[(&str, &str)]) -> Result<Wait, Problems> {
    Wait::from_variables(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

fn read_with_label(variables: &[(&str, &str)]) -> Result<Wait, Problems> {
    read(&[&[("LINKERD_GATE_INJECTED_BY", "")], variables].concat())
}

fn complaints(result: Result<Wait, Problems>) -> Vec<String> {
    result.unwrap_err().iter().map(|problem| problem.variable.clone()).collect()
}

#[test]
fn the_label_alone_is_enough_and_the_rest_is_the_default() {
    let wait = read_with_label(&[]).unwrap();
    assert_eq!(wait.on_missed, OnMissed::Hold);
    assert_eq!(wait.when_meshed, WhenMeshed::Pass);
    assert_eq!((wait.timeout, wait.on_timeout), (None, OnTimeout::Fail));
    assert_eq!(wait.linkerd.injector.to_string(), "linkerd-proxy-injector.linkerd.svc:443");
    assert_eq!(wait.linkerd.injector_name.to_string(), "linkerd-proxy-injector.linkerd.svc");
    assert_eq!(wait.linkerd.identity.to_string(), "linkerd-identity-headless.linkerd.svc:8080");
    assert_eq!(wait.linkerd.require, BTreeSet::from([Component::Injector, Component::Identity]));
}

#[test]
fn an_absent_label_variable_is_an_error_and_an_empty_one_is_not() {
    assert_eq!(complaints(read(&[])), ["LINKERD_GATE_INJECTED_BY"]);
    assert!(read_with_label(&[]).is_ok());
}

#[test]
fn every_example_in_the_table_is_taken() {
    let all: Vec<_> = table::WAIT.iter().map(|variable| (variable.name, variable.example)).collect();
    read(&all).unwrap();
}

#[test]
fn every_row_of_the_table_is_read() {
    for variable in table::WAIT {
        let mut all: Vec<_> = table::WAIT.iter().map(|variable| (variable.name, variable.example)).collect();
        let whole = read(&all).unwrap();
        all.retain(|(name, _)| *name != variable.name);
        match read(&all) {
            Ok(without) if variable.example == variable.default || variable.name == "LINKERD_GATE_TERMINATION_LOG" => {
                assert_eq!(without, whole, "{}", variable.name);
            }
            Ok(without) if variable.name == "LINKERD_GATE_INJECTOR_ADDRESS" => {
                assert_ne!(without.linkerd.injector, whole.linkerd.injector);
            }
            Ok(without) => assert_ne!(without, whole, "{} makes no difference", variable.name),
            // Required: always, and by `LINKERD_GATE_ON_TIMEOUT=open`.
            Err(_) => assert!(["LINKERD_GATE_INJECTED_BY", "LINKERD_GATE_TIMEOUT"].contains(&variable.name)),
        }
    }
}

#[test]
fn an_empty_optional_variable_is_its_default() {
    for variable in table::WAIT.iter().filter(|variable| variable.name != "LINKERD_GATE_INJECTED_BY") {
        assert_eq!(
            read_with_label(&[(variable.name, "")]).unwrap(),
            read_with_label(&[]).unwrap(),
            "{}",
            variable.name
        );
    }
}

#[test]
fn every_bad_value_is_reported_all_at_once() {
    let found = complaints(read(&[
        ("LINKERD_GATE_POD_IP", "here"),
        ("LINKERD_GATE_ON_MISSED", "restart"),
        ("LINKERD_GATE_TIMEOUT", "soon"),
        ("LINKERD_GATE_REQUIRE", "injector,dns"),
        ("LINKERD_GATE_IDENTITY_ADDRESS", "identity"),
        ("LINKERD_GATE_LOGLEVEL", "debug"),
    ]));
    assert_eq!(
        found.into_iter().collect::<BTreeSet<_>>(),
        [
            "LINKERD_GATE_INJECTED_BY",
            "LINKERD_GATE_POD_IP",
            "LINKERD_GATE_ON_MISSED",
            "LINKERD_GATE_TIMEOUT",
            "LINKERD_GATE_REQUIRE",
            "LINKERD_GATE_IDENTITY_ADDRESS",
            "LINKERD_GATE_LOGLEVEL",
        ]
        .map(str::to_owned)
        .into()
    );
}

#[test]
fn a_config_problem_names_variable_value_choices_and_example() {
    let text = read_with_label(&[("LINKERD_GATE_ON_MISSED", "restart")]).unwrap_err().to_string();
    assert_eq!(
        text,
        "the configuration is wrong, nothing was done: LINKERD_GATE_ON_MISSED=\"restart\": is not a valid value; \
         accepted: hold, exit, replace, open (for example LINKERD_GATE_ON_MISSED=exit)"
    );
}

#[test]
fn replace_needs_to_know_its_own_pod() {
    let found = complaints(read_with_label(&[("LINKERD_GATE_ON_MISSED", "replace")]));
    assert_eq!(found, ["LINKERD_GATE_POD_NAME", "LINKERD_GATE_POD_NAMESPACE", "LINKERD_GATE_POD_UID"]);
}

#[test]
fn only_a_namespace_name_is_accepted_as_injected_by() {
    for pasted in ["metadata.labels['linkerd.io/control-plane-ns']", " ", "$(NAMESPACE)", "Linkerd", "a.b"] {
        assert_eq!(complaints(read(&[("LINKERD_GATE_INJECTED_BY", pasted)])), ["LINKERD_GATE_INJECTED_BY"], "{pasted}");
    }
    assert_eq!(read(&[("LINKERD_GATE_INJECTED_BY", "linkerd")]).unwrap().pod.injected_by, "linkerd");
}

#[test]
fn the_agent_address_defaults_to_the_host_ip() {
    let agent =
        |variables: &[(&str, &str)]| read_with_label(variables).unwrap().agent.map(|address| address.to_string());
    assert_eq!(agent(&[]), None);
    assert_eq!(agent(&[("LINKERD_GATE_HOST_IP", "192.0.2.7")]).as_deref(), Some("192.0.2.7:4192"));
    assert_eq!(agent(&[("LINKERD_GATE_HOST_IP", "fd00::7")]).as_deref(), Some("[fd00::7]:4192"));
    let host = ("LINKERD_GATE_HOST_IP", "192.0.2.7");
    assert_eq!(agent(&[host, ("LINKERD_GATE_AGENT_ADDRESS", "none")]), None);
    assert_eq!(agent(&[host, ("LINKERD_GATE_AGENT_ADDRESS", "agent:1")]).as_deref(), Some("agent:1"));
    assert_eq!(complaints(read_with_label(&[("LINKERD_GATE_AGENT_ADDRESS", "None")])), ["LINKERD_GATE_AGENT_ADDRESS"]);
}

#[test]
fn opening_after_a_time_needs_a_time() {
    assert_eq!(complaints(read_with_label(&[("LINKERD_GATE_ON_TIMEOUT", "open")])), ["LINKERD_GATE_TIMEOUT"]);
    read_with_label(&[("LINKERD_GATE_ON_TIMEOUT", "open"), ("LINKERD_GATE_TIMEOUT", "1s")]).unwrap();
}

#[test]
fn a_bad_bundle_is_reported_along_with_the_other_problems() {
    let variables =
        [("LINKERD_GATE_CA_FILE", "/nope"), ("LINKERD_GATE_TIMEOUT", "soon"), ("LINKERD_GATE_INJECTED_BY", "")];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let found = complaints(Wait::read(variables, |path| Err(format!("{} is not there", path.display()))));
    assert_eq!(found, ["LINKERD_GATE_TIMEOUT", "LINKERD_GATE_CA_FILE"]);
}

#[test]
fn a_timeout_is_a_second_or_more_in_seconds_minutes_and_hours() {
    for bad in ["0s", "1ms", "5M", "5", "1d", "-5s", "5months", "s"] {
        assert_eq!(complaints(read_with_label(&[("LINKERD_GATE_TIMEOUT", bad)])), ["LINKERD_GATE_TIMEOUT"], "{bad}");
    }
    let wait = read_with_label(&[("LINKERD_GATE_TIMEOUT", "1h30m")]).unwrap();
    assert_eq!(wait.timeout, Some(Duration::from_mins(90)));
}

#[test]
fn the_namespace_moves_every_default_address() {
    let linkerd = read_with_label(&[("LINKERD_GATE_LINKERD_NAMESPACE", "edge")]).unwrap().linkerd;
    for address in [linkerd.injector, linkerd.identity, linkerd.destination, linkerd.policy] {
        assert!(address.host.ends_with(".edge.svc"), "{address}");
    }
    assert_eq!(linkerd.injector_name.as_str(), "linkerd-proxy-injector.edge.svc");
}

#[test]
fn what_kubernetes_sets_for_a_service_of_our_name_is_left_alone() {
    read_with_label(&[
        ("LINKERD_GATE_SERVICE_HOST", "10.96.3.7"),
        ("LINKERD_GATE_SERVICE_PORT", "4192"),
        ("LINKERD_GATE_SERVICE_PORT_HTTP", "4192"),
        ("LINKERD_GATE_PORT", "tcp://10.96.3.7:4192"),
        ("LINKERD_GATE_PORT_4192_TCP", "tcp://10.96.3.7:4192"),
        ("LINKERD_GATE_PORT_4192_TCP_PROTO", "tcp"),
        ("LINKERD_GATE_PORT_4192_TCP_PORT", "4192"),
        ("LINKERD_GATE_PORT_4192_TCP_ADDR", "10.96.3.7"),
        ("LINKERD_GATE_METRICS_PORT", "tcp://10.96.3.8:80"),
        ("LINKERD_GATE_METRICS_SERVICE_HOST", "10.96.3.8"),
        ("LINKERD_GATE_METRICS_PORT_80_TCP_PORT", "80"),
    ])
    .unwrap();
}

#[test]
fn what_only_resembles_a_services_variable_is_not_left_alone() {
    for (name, value) in [
        ("LINKERD_GATE_PORT", "4192"),
        ("LINKERD_GATE_SERVICE_HOST", "linkerd"),
        ("LINKERD_GATE_IDENTITY_PORT", "8080"),
        ("LINKERD_GATE_PORT_4192", "x"),
    ] {
        assert_eq!(complaints(read_with_label(&[(name, value)])), [name]);
    }
}

#[test]
fn a_value_that_is_not_text_is_reported() {
    use std::os::unix::ffi::OsStringExt as _;
    let variables = [
        ("LINKERD_GATE_INJECTED_BY".into(), OsString::new()),
        ("LINKERD_GATE_TIMEOUT".into(), OsString::from_vec(vec![0xff])),
    ];
    assert_eq!(complaints(Wait::from_variables(variables)), ["LINKERD_GATE_TIMEOUT"]);
}

#[test]
fn each_refusal_gives_one_value_that_is_taken() {
    let refusals = |role: Role, variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let problems = match role {
            Role::Wait => Wait::from_variables(variables).err(),
            Role::Agent => AgentSettings::read(variables).err(),
            Role::Controller => ControllerSettings::read(variables).err(),
        };
        problems.iter().flat_map(Problems::iter).map(|it| (it.variable.clone(), it.to_string())).collect::<Vec<_>>()
    };
    let wrong = ["10", "0", "5min", "2d", "Hold", "TRUE", "no such thing!", "a.b", "host:0", "running,", "-1s", "1/0"];
    let mut refused = 0;
    for role in Role::ALL {
        for variable in role.variables() {
            for value in wrong {
                let mut all: Vec<_> = role.variables().iter().map(|other| (other.name, other.example)).collect();
                all.retain(|(name, _)| *name != variable.name);
                let given = [all.as_slice(), &[(variable.name, value)]].concat();
                for (name, text) in refusals(*role, &given).into_iter().filter(|(name, _)| name == variable.name) {
                    refused += 1;
                    let start = format!("(for example {name}=");
                    assert_eq!(text.matches("for example").count(), 1, "{text}");
                    let (_, fix) = text.split_once(&start).unwrap_or_else(|| panic!("{text}"));
                    let fix = fix.strip_suffix(')').unwrap_or_else(|| panic!("{text}"));
                    let mended = [all.as_slice(), &[(variable.name, fix)]].concat();
                    assert_eq!(refusals(*role, &mended), [], "{text}");
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}
