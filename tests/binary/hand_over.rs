//! The waiting program waits, and hands everything else over to the full program beside it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{Linkerd, missed_by};

const FULL: &str = env!("CARGO_BIN_EXE_linkerd-gate");
const WAITING: &str = env!("CARGO_BIN_EXE_gate-wait");

/// The waiting program where no full program is beside it.
struct Alone {
    directory: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&OsStr], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("LINKERD_GATE_TERMINATION_LOG", "/dev/null");
    command.envs(variables.iter().copied()).output().unwrap()
}

fn assert_same(arguments: &[&OsStr], variables: &[(&str, &str)]) {
    let [full, waiting] = [FULL, WAITING].map(|program| run(program, arguments, variables));
    assert_ne!(full.status.code(), Some(70), "{arguments:?}, {variables:?}: {full:?}");
    assert_eq!(waiting, full, "{arguments:?}, {variables:?}");
}

#[test]
fn any_arguments_but_wait_do_what_the_full_program_does() {
    for arguments in [
        &[][..],
        &["--help"],
        &["help", "wait"],
        &["--version"],
        &["wait", "--help"],
        &["wait", "wait"],
        &["wait", ""],
        &["wiat"],
        &["wait", "--timeout", "5m"],
        &["wait", "--context=prod"],
        &["agent"],
        &["controller"],
        &["status", "--kubeconfig", "/nonexistent"],
        &["version", "--client", "--output", "json"],
        &["explain"],
        &["_extension-metadata"],
    ] {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        assert_same(&arguments, &[]);
    }
    assert_same(&[OsStr::from_bytes(b"wait\xff")], &[]);
}

#[test]
fn a_wrong_configuration_is_refused_in_the_same_words() {
    for variables in [
        &[][..],
        &[("LINKERD_GATE_INJECTED_BY", "a b")],
        &[("LINKERD_GATE_INJECTED_BY", ""), ("LINKERD_GATE_TIMEOUT", "soon"), ("LINKERD_GATE_ONMISSED", "hold")],
        &[("LINKERD_GATE_INJECTED_BY", ""), ("LINKERD_GATE_ON_MISSED", "replace")],
        &[("LINKERD_GATE_INJECTED_BY", "linkerd"), ("LINKERD_GATE_CA_FILE", "/nonexistent")],
    ] {
        assert_same(&[OsStr::new("wait")], variables);
    }
}

#[tokio::test]
async fn a_pod_that_replaces_itself_is_handed_over_and_no_other() {
    let linkerd = Linkerd::start().await;
    let wait = || {
        let wait = missed_by(WAITING).asking(&linkerd).with("POD_NAME", "web-0").with("POD_NAMESPACE", "shop");
        wait.with("POD_UID", "0b5e6d9c")
    };
    for (on_missed, program) in [("hold", "gate-wait"), ("replace", "linkerd-gate")] {
        let mut run = wait().with("ON_MISSED", on_missed).start();
        run.until("created without Linkerd's proxy").await;
        assert_eq!(run.program(), program, "{on_missed}");
    }
    // What no replacement would help waits here: on the host network, and where Linkerd refuses the annotation.
    for (name, value, text) in
        [("INJECT", "disabled", "linkerd.io/inject: disabled"), ("INJECT", "Enabled", "Linkerd's proxy")]
    {
        let mut run = wait().with("ON_MISSED", "replace").with(name, value).start();
        run.until(text).await;
        assert_eq!(run.program(), "gate-wait", "{value}");
    }
}

// === impl Alone ===

impl Alone {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::copy(WAITING, directory.path().join("gate-wait")).unwrap();
        Self { directory }
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("gate-wait")
    }
}

#[tokio::test]
async fn waiting_needs_no_full_program() {
    let linkerd = Linkerd::start().await;
    let alone = Alone::new();
    assert_eq!(missed_by(alone.program()).asking(&linkerd).with("ON_MISSED", "exit").end().await.code, 75);
    // A meshed pod starts, whatever it would do if it were not.
    let meshed = missed_by(alone.program()).meshed().with("ON_MISSED", "replace");
    let meshed = meshed.with("POD_NAME", "web-0").with("POD_NAMESPACE", "shop").with("POD_UID", "0b5e6d9c").end().await;
    assert_eq!(meshed.code, 0, "{}", meshed.said);
}

#[tokio::test]
async fn a_missing_full_program_is_named() {
    let alone = Alone::new();
    let full = alone.directory.path().join("linkerd-gate");
    let expected =
        format!("cannot hand over to {}, which does what this program does not: No such file", full.display());

    let refused = missed_by(alone.program()).with("TIMEOUT", "soon").end().await;
    assert_eq!(refused.code, 70, "{}", refused.said);
    for said in [&refused.said, &refused.termination_log] {
        assert!(said.contains(&expected), "{said}");
    }
    let status = run(alone.program().to_str().unwrap(), &[OsStr::new("status")], &[]);
    let said = String::from_utf8(status.stderr).unwrap();
    assert!(status.status.code() == Some(70) && said.contains(&expected), "{said}");
}
