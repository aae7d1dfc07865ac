//! The waiting program: `wait`, and nothing else. What it cannot do, it hands over to the full program.
//!
//! It is what runs in users' pods, so it is small: no Kubernetes client, no command line. Everything that it reaches is linked
//! into it, so this file and `process` use neither `cli` nor `cluster`'s functions.

use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::process::{refuse, run as run_role, termination_log};
use crate::cluster::Replacing;
use crate::config::{OwnPod, Problems, Wait};
use crate::exit::Exit;
use crate::observe;
use crate::role::wait::{self, Replacer};

/// The file name of the full program, which is beside the waiting program.
const FULL_PROGRAM: &str = "linkerd-gate";

/// Where the image has it.
const IMAGE_ROOT: &str = "/";

/// The whole waiting program: waits as `linkerd-gate wait` does, where that is what the arguments ask for and all that the
/// variables need. Else the full program takes this process's place, with the same arguments and variables.
pub fn main() -> ExitCode {
    let exit = if let Some(settings) = only_wait() {
        run(&settings, HandOver)
    } else {
        let error = hand_over();
        refuse(termination_log(), Exit::Internal, &error.to_string())
    };
    exit.into()
}

/// The settings, where all that there is to do is to wait. It is the full program that says what is wrong with them.
fn only_wait() -> Option<Wait> {
    if !env::args_os().skip(1).eq(["wait"]) {
        return None;
    }
    settings().ok().filter(|settings| !wait::replaces_itself(settings))
}

/// The settings of `wait`, out of this process's environment.
///
/// # Errors
/// Everything that is wrong with them.
pub(super) fn settings() -> Result<Wait, Problems> {
    Wait::read(env::vars_os(), |path: &Path| observe::check_ca_file(path).map_err(|error| error.to_string()))
}

/// Waits.
pub(super) fn run(settings: &Wait, replacer: impl Replacer) -> Exit {
    run_role(&settings.termination_log, &settings.log, settings.log_format, async |signalled| {
        wait::run(settings, replacer, signalled).await.map_err(|error| error.to_string())
    })
}

/// Why the full program did not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot hand over to {}, which does what this program does not: {source}; both belong into one directory, as in the image",
    path.display()
)]
struct NotHandedOver {
    path: PathBuf,
    source: io::Error,
}

/// Makes this process the full program. Returns only where that failed.
fn hand_over() -> NotHandedOver {
    let path = full_program();
    let source = Command::new(&path).args(env::args_os().skip(1)).exec();
    NotHandedOver { path, source }
}

/// Beside this program. Where it is not known where that is (no `/proc`), as in the image.
fn full_program() -> PathBuf {
    let own = env::current_exe().ok();
    let directory = own.as_deref().and_then(Path::parent).unwrap_or(Path::new(IMAGE_ROOT));
    directory.join(FULL_PROGRAM)
}

/// The full program replaces the pod.
struct HandOver;

// === impl HandOver ===

impl Replacer for HandOver {
    async fn replace(&self, _pod: &OwnPod) -> Result<Replacing, String> {
        Err(hand_over().to_string())
    }
}
