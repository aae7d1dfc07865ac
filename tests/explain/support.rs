//! Running `explain`, in the test's own process or as the program.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use linkerd_gate::command::explain::{Explain, Output, explain};
use serde_json::Value;

/// `explain -f FILE…` and nothing else.
pub fn of(files: &[&str]) -> Explain {
    Explain { files: files.iter().map(ToString::to_string).collect(), ..Explain::default() }
}

/// What it wrote, and what it noted; an error must not have written anything.
pub fn run(arguments: &Explain, stdin: &str) -> Result<(String, String), String> {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    match explain(arguments, &mut stdin.as_bytes(), &mut out, &mut notes) {
        Ok(_) => Ok((String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap())),
        Err(error) => {
            assert!(out.is_empty() && notes.is_empty(), "an error was returned after output");
            Err(error.to_string())
        }
    }
}

pub fn explained_as_json(arguments: Explain, stdin: &str) -> Vec<Value> {
    let (out, _) = run(&Explain { output: Output::Json, ..arguments }, stdin).unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&out).unwrap()
}

/// Holds `found` against a committed file. To change what is expected: `UPDATE_EXPECTED=1 cargo test --test explain`, which
/// rewrites the file and fails, then read the difference.
pub fn assert_expected(file: &str, found: &str) {
    let path = Path::new("tests/explain/expected").join(file);
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if found == expected {
        return;
    }
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::create_dir_all("tests/explain/expected").unwrap();
        fs::write(&path, found).unwrap();
        panic!("{} was rewritten: read the difference", path.display());
    }
    panic!("{} expects\n{expected}\nbut found\n{found}", path.display());
}

/// The program's exit code, standard output and standard error.
pub fn program(arguments: &[&str], stdin: &[u8]) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}
