//! `open`, `close` and `clear` as people run them.

use std::io::Write as _;
use std::process::{Command, Output};

use super::PROGRAM;

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).env_clear().output().unwrap()
}

/// The exit code, and what was said; nothing may have been done.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(arguments);
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn bad_usage_is_refused_before_any_request_with_what_is_valid() {
    for (arguments, expected) in [
        (&["open", "worker-1"][..], "--for <TIME>"),
        (&["open", "--for", "1h"], "<NODE>"),
        (&["open", "worker-1", "--all", "--for", "1h"], "--all"),
        (&["close", "worker-1", "--for", "5s"], "from 1m to 168h"),
        (&["close", "worker-1", "--for", "8d"], "from 1m to 168h"),
        (&["close", "worker-1", "--for", "soon"], "from 1m to 168h"),
        (&["open", "worker-1/status", "--for", "1h"], "no node can have this name"),
        (&["open", "worker-1", "--for", "1h", "--as-group", "system:masters"], "--as <USER>"),
        (&["clear"], "<NODE>"),
        (&["clear", "worker-1", "--for", "1h"], "--for"),
    ] {
        let (code, said) = refused(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?} does not say {expected:?}:\n{said}");
    }
}

#[test]
fn without_a_kubeconfig_it_says_where_one_is_named() {
    let (code, said) = refused(&["open", "worker-1", "--for", "1h", "--kubeconfig", "/nonexistent"]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("/nonexistent") && said.contains("--kubeconfig") && said.contains("KUBECONFIG"), "{said}");
    let (code, said) = refused(&["open", "worker-1", "--for", "1h"]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("KUBECONFIG"), "{said}");
}

#[test]
fn a_missing_context_and_an_unreachable_api_server_are_reported() {
    // Nothing listens where a listener has just been closed.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut kubeconfig = tempfile::NamedTempFile::new().unwrap();
    let content = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\nclusters:\n- {{name: c, cluster: {{server: \
         'http://{closed}'}}}}\nusers:\n- {{name: u, user: {{token: t}}}}\ncontexts:\n- {{name: here, context: {{cluster: \
         c, user: u}}}}\n"
    );
    kubeconfig.write_all(content.as_bytes()).unwrap();
    let path = kubeconfig.path().to_str().unwrap();

    let (code, said) = refused(&["close", "--all", "--for", "1h", "--kubeconfig", path, "--context", "there"]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("there") && said.contains("kubectl config get-contexts"), "{said}");

    let (code, said) = refused(&["close", "--all", "--for", "1h", "--kubeconfig", path]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("lease/linkerd-gate in namespace linkerd-gate: the API server could not be asked"), "{said}");
    assert!(said.contains("refused"), "{said}");
}

#[test]
fn help_says_what_follows_and_how_it_ends() {
    for command in ["open", "close", "clear"] {
        let output = run(&[command, "--help"]);
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && help.contains("--kubeconfig") && help.contains("69 "), "{help}");
    }
}
