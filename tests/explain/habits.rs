//! What people type, and what they are answered.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::program;

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c}]}}\n";

#[test]
fn without_a_cluster_it_says_how_one_is_named() {
    for arguments in [&["explain", "pod/web", "-n", "shop"][..], &["explain", "-A", "--missed"]] {
        let (code, out, err) = program(arguments, b"");
        assert_eq!((code, out.as_str()), (Some(69), ""), "{arguments:?}");
        assert!(err.contains("KUBECONFIG"), "{arguments:?}: {err}");
    }
}

#[test]
fn folders_are_read_by_their_files_and_below_only_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("below")).unwrap();
    for (name, content) in [
        ("b.yaml", POD),
        ("a.json", POD),
        ("c.yml", POD),
        ("notes.txt", "["),
        ("empty.yaml", ""),
        ("below/d.yaml", POD),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    for (arguments, pods) in [
        (&["explain", "-f", path][..], 3),
        (&["explain", "-R", "-f", path], 4),
        (&["explain", "-f", path, "-f", "-"], 4),
    ] {
        let (code, out, _) = program(arguments, POD.as_bytes());
        assert_eq!((code, out.matches("Pod default/p ").count()), (Some(0), pods), "{arguments:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    let (code, _, err) = program(&["explain", "-f", empty.path().to_str().unwrap()], b"");
    assert!(code == Some(2) && err.contains("those below it as well: linkerd-gate explain -R -f "), "{err}");
}

#[test]
fn endless_or_too_large_input_is_refused_at_once() {
    let large = tempfile::NamedTempFile::new().unwrap();
    large.as_file().set_len(1 << 30).unwrap();
    let large = large.path().to_str().unwrap();
    for (arguments, words) in [
        (&["explain", "-f", "/dev/zero"][..], "/dev/zero: it holds a NUL byte, so it is no text"),
        (&["explain", "-f", large], "it is larger than 256 MiB, which is the most that is read of one file"),
        (&["explain", "-f", "/dev/null"], "nothing to explain"),
    ] {
        let (code, out, err) = program(arguments, b"");
        assert!(matches!(code, Some(0 | 2)) && out.is_empty(), "{arguments:?}: {code:?} {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
        assert!(!err.contains("::") && !err.contains(" { "), "Rust's own words: {err}");
    }
    // A pipe whose writer never stops.
    let mut child = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
        .args(["explain", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = "y".repeat(1 << 16);
    stdin.write_all(b"{\"a\": \"").unwrap();
    while stdin.write_all(lines.as_bytes()).is_ok() {}
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("one object is larger than 16 MiB"), "{err}");
}

#[test]
fn help_has_examples() {
    let (code, help, _) = program(&["explain", "--help"], b"");
    assert_eq!(code, Some(0));
    assert!(help.contains("Examples:") && help.contains("--fail-on missing-entry"), "{help}");
    let (_, all, _) = program(&["--help"], b"");
    let (_, commands) = all.split_once("Commands:\n").unwrap();
    let commands: Vec<_> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split_whitespace().next())
        .collect();
    assert!(commands.len() > 10, "{all}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        let (_, help, _) = program(&[command, "--help"], b"");
        assert!(help.contains("Example:\n") || help.contains("Examples:\n"), "{command}: {help}");
    }
}

#[test]
fn where_nothing_can_be_written_it_ends_by_its_exit_code() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let end = |arguments: &[&str], out: Stdio, err: Stdio| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"));
        program.args(arguments).env_clear().stdin(Stdio::null()).stdout(out).stderr(err);
        program.status().unwrap().code()
    };
    for (arguments, code) in [
        (&["explain", "-f", "/nonexistent"][..], 2),
        (&["explain"], 2),
        (&["explain", "pod/web", "-n", "shop"], 69),
        (&["open", "n1", "--for", "30m"], 69),
        (&["no-such"], 2),
    ] {
        assert_eq!(end(arguments, Stdio::null(), full().into()), Some(code), "{arguments:?}");
    }
    let pod = "tests/explain/pod.json";
    assert_eq!(end(&["explain", "-f", pod], full().into(), Stdio::null()), Some(70));
    assert_eq!(end(&["explain", "-f", pod], full().into(), full().into()), Some(70));
}
