//! `kit`: what the Makefile and a person need of the test kit outside a test run.

use std::process::ExitCode;

use linkerd_gate_kit::parts::{ApiParts, NodeParts};

const USAGE: &str =
    "usage: kit parts [api|node]    fetch and build the genuine cluster parts that tests need (default: node)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["parts", "api"] => ApiParts::find().map(|parts| println!("{parts:#?}")),
        ["parts"] | ["parts", "node"] => NodeParts::find().map(|parts| println!("{parts:#?}")),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kit: {error:#}");
            ExitCode::FAILURE
        }
    }
}
