//! `make demo`, as a person runs it: what it claims it checks itself, and fails where it is not so.

use std::path::Path;
use std::process::Command;

#[test]
fn the_demo_shows_what_it_claims_and_draws_it() {
    let demo = Path::new(env!("CARGO_BIN_EXE_cluster-boot"));
    let program = demo.with_file_name("linkerd-gate");
    assert!(program.is_file(), "{} is not built: cargo build --bin linkerd-gate", program.display());
    let directory = tempfile::tempdir().unwrap();
    let picture = directory.path().join("boot.svg");
    let output = Command::new(demo).arg(program).arg(&picture).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}\n{out}");
    let row = |name: &str| {
        let line = out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {out}"));
        line.split_whitespace().rev().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("apps in the mesh at the end")[0], "12");
    assert_eq!(row("apps started outside the mesh")[0], "0");
    assert!(row("pods held, deleted and created again")[0].parse::<usize>().unwrap() > 0);
    assert!(out.contains("proof: open: proven by an injected dry-run pod"), "{out}");
    // Whatever the controller cannot do here, a reader would take for a fault of it.
    assert!(!out.contains(" WARN ") && !out.contains(" ERROR "), "{out}");
    assert!(std::fs::read_to_string(picture).unwrap().contains("12 of 12 apps run in the mesh"));
}
