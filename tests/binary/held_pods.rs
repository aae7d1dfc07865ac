//! `release`, `recreate` and `uninstall` as people run them.

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
fn bad_usage_is_refused_before_anything_is_asked() {
    for (arguments, said) in [
        (&["release"][..], "<POD>"),
        (&["release", "pod/web", "--all"], "--all"),
        (&["release", "deployment/web"], "give pod/NAME"),
        (&["release", "pod/web/status", "-n", "shop"], "give pod/NAME"),
        (&["release", "pod/Web"], "no pod can have this name"),
        (&["release", "pod/web", "-n", "shop/pods"], "no namespace can have this name"),
        (&["release", "pod/web", "--as-group", "system:masters"], "--as <USER>"),
        (&["recreate"], "<POD>"),
        (&["recreate", "pod/web", "pod/db"], "pod/db"),
        (&["recreate", "pod/..", "-n", "shop"], "no pod can have this name"),
        (&["uninstall", "everything"], "everything"),
        (&["uninstall", "--now", "--namespace", "A"], "no namespace can have this name"),
    ] {
        let (code, message) = refused(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {message}");
        assert!(message.contains(said), "{arguments:?} does not say {said:?}:\n{message}");
    }
}

#[test]
fn without_a_kubeconfig_each_says_where_one_is_named() {
    for arguments in [
        &["release", "pod/web", "-n", "shop"][..],
        &["release", "--all", "-n", "shop"],
        &["recreate", "pod/web", "-n", "shop"],
        &["uninstall"],
        &["uninstall", "--now"],
    ] {
        let (code, said) = refused(arguments);
        assert_eq!(code, Some(69), "{said}");
        assert!(said.contains("--kubeconfig") && said.contains("KUBECONFIG"), "{said}");
    }
}

#[test]
fn help_has_an_example_and_the_exit_codes() {
    for (command, example) in [
        ("release", "linkerd-gate release pod/web-7d4b9c-x2x7p -n shop"),
        ("recreate", "linkerd-gate recreate pod/shell -n shop"),
        ("uninstall", "linkerd-gate uninstall --now && kubectl delete -k deploy/manifests"),
    ] {
        let output = run(&[command, "--help"]);
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{help}");
        for said in [example, "--kubeconfig", "--as-group", "69 "] {
            assert!(help.contains(said), "{command} does not say {said:?}:\n{help}");
        }
    }
}
