//! `--help` is the reference that everybody has at hand.

use std::process::Command;

use linkerd_gate::config::table;

fn stdout(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_linkerd-gate")).args(arguments).env_clear().output().unwrap();
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
fn bad_usage_exits_2_on_standard_error_only() {
    for arguments in [&[][..], &["wiat"], &["wait", "now"], &["wait", "--timeout", "3s"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_linkerd-gate")).args(arguments).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
