//! `--help` is the reference that everybody has at hand.

use std::process::Command;

use linkerd_gate::config::table;

use super::PROGRAM;

fn stdout(arguments: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(arguments).env_clear().output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_each_role_lists_its_variables_and_every_exit_code() {
    for role in table::Role::ALL {
        let help = stdout(&[role.as_str(), "--help"]);
        for variable in role.variables() {
            assert!(help.contains(variable.name), "{} is not in:\n{help}", variable.name);
        }
        for exit in linkerd_gate::exit::Exit::ALL {
            assert!(help.contains(&format!("  {:<4} {}", exit.code(), exit.meaning())), "{exit:?} is not in:\n{help}");
        }
    }
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(stdout(&["--version"]).trim(), concat!("linkerd-gate ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_command_is_in_help_and_has_an_example_or_variables() {
    let help = stdout(&["help"]);
    for command in
        ["explain", "open", "close", "clear", "release", "recreate", "uninstall", "report", "version", "completion"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in:\n{help}");
        let own = stdout(&["help", command]);
        assert!(own.contains("Example") && own.contains(&format!("linkerd-gate {command}")), "{own}");
        assert_eq!(own, stdout(&[command, "--help"]), "{command}");
    }
}

#[test]
fn version_works_without_a_cluster_and_names_the_problem() {
    assert_eq!(stdout(&["version", "--client"]), concat!("client        ", env!("CARGO_PKG_VERSION"), "\n"));
    let json: serde_json::Value = serde_json::from_str(&stdout(&["version", "--client", "-o", "json"])).unwrap();
    assert_eq!(json, serde_json::json!({"client": env!("CARGO_PKG_VERSION")}));

    let output =
        Command::new(PROGRAM).args(["version", "-o", "json"]).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["servers"]["kubernetes"], serde_json::Value::Null);
    assert!(json["servers"]["problems"][0].as_str().unwrap().contains("KUBECONFIG"), "{json:#}");
}

#[test]
fn four_shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = stdout(&["completion", shell]);
        for word in ["explain", "uninstall", "report", "fail-on"] {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
    }
}

#[test]
fn a_flag_for_a_role_is_answered_by_its_variable() {
    for (arguments, tip) in [
        (&["wait", "--timeout", "5m"][..], "LINKERD_GATE_TIMEOUT=5m linkerd-gate wait"),
        (&["wait", "--on-missed=exit"], "LINKERD_GATE_ON_MISSED=exit linkerd-gate wait"),
        (&["agent", "--nothing-known"], "linkerd-gate agent --help"),
    ] {
        let output = Command::new(PROGRAM).args(arguments).env_clear().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(tip), "{arguments:?}: {said}");
    }
}

#[test]
fn bad_usage_exits_2_on_standard_error_only() {
    for arguments in [&[][..], &["wiat"], &["wait", "now"], &["wait", "--timeout", "3s"]] {
        let output = Command::new(PROGRAM).args(arguments).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
