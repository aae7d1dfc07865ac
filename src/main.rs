//! The binary. All of it is in the library: [`linkerd_gate::main`].

use std::process::ExitCode;

fn main() -> ExitCode {
    linkerd_gate::main()
}
