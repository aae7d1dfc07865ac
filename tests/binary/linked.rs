//! What is linked into the waiting program, by its symbols: every workload's pod carries it.

use std::process::Command;

/// The crates of which the program has a function, by its symbol table.
fn crates_in(program: &str, crates: &[&'static str]) -> Vec<&'static str> {
    let output = Command::new("nm").args(["--defined-only", "--no-demangle", program]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let symbols = String::from_utf8(output.stdout).unwrap();
    crates.iter().copied().filter(|name| symbols.contains(name)).collect()
}

#[test]
fn the_waiting_program_links_no_client_and_no_command_line() {
    let absent = [
        "kube_client",
        "kube_core",
        "kube_runtime",
        "k8s_openapi",
        "clap_builder",
        "granit_parser",
        "prometheus_client",
    ];
    assert_eq!(
        crates_in(env!("CARGO_BIN_EXE_linkerd-gate"), &absent),
        absent,
        "these are the names that are looked for"
    );
    assert_eq!(crates_in(env!("CARGO_BIN_EXE_gate-wait"), &absent), [] as [&str; 0]);
    let present = ["tokio", "reqwest", "backoff", "tracing_subscriber", "envy"];
    assert_eq!(crates_in(env!("CARGO_BIN_EXE_gate-wait"), &present), present);
}
