//! Bad input is reported before any I/O, with exit code 2; it never opens.

use linkerd_gate::config::table;

use super::{PROGRAM, missed};
use crate::support::Linkerd;

/// A value that this variable does not take; nothing where every text is taken, because it is somebody's name.
fn bad(variable: &str) -> Option<&'static str> {
    match &variable[table::PREFIX.len()..] {
        "INJECT" | "POD_NAME" | "POD_NAMESPACE" | "POD_UID" | "TERMINATION_LOG" => None,
        "CA_FILE" => Some("/nonexistent/ca.crt"),
        _ => Some("no such thing!"),
    }
}

#[tokio::test]
async fn every_variable_wrong_in_turn_is_exit_2_and_named() {
    // Linkerd is ready: what is not refused would open.
    let linkerd = Linkerd::start().await;
    for variable in table::WAIT {
        let Some(value) = bad(variable.name) else { continue };
        let name = &variable.name[table::PREFIX.len()..];
        let ended = missed().asking(&linkerd).with("ON_MISSED", "open").with(name, value).end().await;
        assert_eq!(ended.code, 2, "{}: {}", variable.name, ended.said);
        assert!(ended.said.contains(variable.name) && ended.said.contains(value), "{}", ended.said);
    }
    assert_eq!((linkerd.injector.connections(), linkerd.identity.connections()), (0, 0), "something was sent");
}

#[tokio::test]
async fn several_wrong_at_once_are_all_reported() {
    let ended = missed().with("TIMEOUT", "soon").with("ON_MISSED", "x").with("ONMISSED", "hold").end().await;
    assert_eq!(ended.code, 2);
    for name in ["LINKERD_GATE_TIMEOUT=\"soon\"", "LINKERD_GATE_ON_MISSED=\"x\"", "LINKERD_GATE_ONMISSED=\"hold\""] {
        assert!(ended.said.contains(name), "{}", ended.said);
    }
    assert!(ended.said.contains("did you mean LINKERD_GATE_ON_MISSED?"), "{}", ended.said);
}

#[tokio::test]
async fn an_absent_label_variable_is_exit_2_and_an_empty_one_is_held() {
    let linkerd = Linkerd::start().await;
    let absent = missed().asking(&linkerd).without("INJECTED_BY").end().await;
    assert_eq!(absent.code, 2);
    assert!(absent.said.contains("LINKERD_GATE_INJECTED_BY is not set"), "{}", absent.said);

    let mut empty = missed().asking(&linkerd).start();
    empty.until("must be created again").await;
    assert!(empty.is_running());
}

#[tokio::test]
async fn a_ca_file_that_is_no_bundle_is_exit_2() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (content, complaint) in [
        ("", "there is no CA bundle yet"),
        ("\n", "placeholder"),
        ("no PEM at all", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "does not parse"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "does not parse"),
    ] {
        std::fs::write(file.path(), content).unwrap();
        let ended = missed().with("CA_FILE", file.path().to_str().unwrap()).end().await;
        assert_eq!(ended.code, 2, "{content:?}: {}", ended.said);
        assert!(ended.said.contains("LINKERD_GATE_CA_FILE") && ended.said.contains(complaint), "{}", ended.said);
    }
}

#[tokio::test]
async fn the_last_error_is_in_the_termination_log() {
    let ended = missed().with("CA_FILE", "/nonexistent/ca.crt").end().await;
    assert!(ended.termination_log.contains("/nonexistent/ca.crt"), "{}", ended.termination_log);
}

#[tokio::test]
async fn the_value_that_a_refusal_gives_is_taken() {
    let linkerd = Linkerd::start().await;
    for (name, wrong, right) in [
        ("TIMEOUT", "10", "LINKERD_GATE_TIMEOUT=10s"),
        ("TIMEOUT", "1M", "LINKERD_GATE_TIMEOUT=1m"),
        ("ON_TIMEOUT", "Open", "LINKERD_GATE_ON_TIMEOUT=open"),
        ("LOG", "verbose", "LINKERD_GATE_LOG=debug,kube=info"),
    ] {
        let run = missed().asking(&linkerd).with("ON_MISSED", "exit").with("TIMEOUT", "1m");
        let refused = run.clone().with(name, wrong).end().await;
        assert!(refused.code == 2 && refused.said.contains(right), "{}", refused.said);
        assert_eq!(refused.said.matches("for example").count(), 1, "{}", refused.said);
        let (name, value) = right.split_once('=').unwrap();
        let taken = run.with_variable(name, value).end().await;
        assert_eq!(taken.code, 75, "{right}: {}", taken.said);
    }
}

#[test]
fn outside_a_pod_both_variables_that_are_missing_are_named() {
    let output = std::process::Command::new(PROGRAM)
        .arg("agent")
        .env_clear()
        .envs([
            ("LINKERD_GATE_NODE_NAME", "node-0"),
            ("LINKERD_GATE_POD_NAME", "linkerd-gate-x2x9z"),
            ("LINKERD_GATE_POD_NAMESPACE", "linkerd-gate"),
            ("LINKERD_GATE_TERMINATION_LOG", "/dev/null"),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"), "{said}");
    assert!(said.contains("LINKERD_GATE_KUBECONFIG=PATH"), "{said}");
}
