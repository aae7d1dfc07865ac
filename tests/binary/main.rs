//! The programs as boxes: what goes in by environment and network, what comes out by exit code, log and signals.
//!
//! Whatever the full program does, the waiting program does too, or hands over: every test runs against both.

mod hand_over;
mod linked;
mod support;

/// The tests, against one of the programs. The compiler reads their files once for each.
macro_rules! tests_of {
    ($module:ident, $program:literal) => {
        #[path = "."]
        #[expect(clippy::duplicate_mod, reason = "each test runs against both programs")]
        mod $module {
            #[path = "agent.rs"]
            mod agent;
            #[path = "cases.rs"]
            mod cases;
            #[path = "configuration.rs"]
            mod configuration;
            #[path = "faults.rs"]
            mod faults;
            #[path = "held_pods.rs"]
            mod held_pods;
            #[path = "help.rs"]
            mod help;
            #[path = "manual_override.rs"]
            mod manual_override;
            #[path = "signals.rs"]
            mod signals;

            /// The program that these tests run.
            const PROGRAM: &str = env!(concat!("CARGO_BIN_EXE_", $program));

            fn missed() -> crate::support::Wait {
                crate::support::missed_by(PROGRAM)
            }
        }
    };
}

tests_of!(full, "linkerd-gate");
tests_of!(waiting, "gate-wait");
