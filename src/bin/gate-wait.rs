//! The waiting program, which runs in users' pods. All of it is in the library: [`linkerd_gate::wait_main`].

use std::process::ExitCode;

fn main() -> ExitCode {
    linkerd_gate::wait_main()
}
