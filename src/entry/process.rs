//! How a role runs as a process: its logs, its one thread, its signals, and its last line.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::config::{LogFilter, LogFormat, Problems};
use crate::exit::Exit;
use crate::role::wait::write_termination_message;
use crate::{shutdown, telemetry};

/// Runs a role on one thread until it ends, or until SIGTERM has ended it.
pub(super) fn run(
    termination_log: &Path,
    filter: &LogFilter,
    format: LogFormat,
    role: impl AsyncFnOnce(Signalled) -> Result<Exit, String>,
) -> Exit {
    telemetry::install(filter, format);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(termination_log, Exit::Internal, &format!("cannot start: {error}")),
    };
    let ended = runtime.block_on(async {
        let signalled =
            shutdown::signalled().map_err(|error| (Exit::Internal, format!("cannot catch SIGTERM: {error}")))?;
        role(Box::pin(signalled)).await.map_err(|why| (Exit::Usage, why))
    });
    // A look that was dropped may leave a blocking task behind; the process does not wait for it.
    runtime.shutdown_background();
    ended.unwrap_or_else(|(exit, why)| refuse(termination_log, exit, &why))
}

/// The shutdown signal.
pub(super) type Signalled = std::pin::Pin<Box<dyn Future<Output = &'static str>>>;

pub(super) fn misconfigured(problems: &Problems) -> Exit {
    refuse(termination_log(), Exit::Usage, &problems.to_string())
}

/// Where the last line is kept, also where the settings cannot be read.
pub(super) fn termination_log() -> PathBuf {
    let log = std::env::var_os("LINKERD_GATE_TERMINATION_LOG").filter(|path| !path.is_empty());
    log.map_or_else(|| "/dev/termination-log".into(), PathBuf::from)
}

/// The last line, where people look: standard error, and what `kubectl describe pod` shows.
pub(super) fn refuse(termination_log: impl AsRef<Path>, exit: Exit, why: &str) -> Exit {
    write_termination_message(termination_log.as_ref(), why);
    // Not `eprintln`, which panics where standard error is closed.
    let _ = writeln!(std::io::stderr(), "linkerd-gate: {why}"); // Standard error may be closed.
    exit
}
