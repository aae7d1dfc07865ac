//! The shutdown signal, as a future.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Completes at the first SIGTERM or SIGINT, with its name.
///
/// The handlers are installed before this returns, not when the future is first polled: as process 1 of a container a
/// program without handlers does not even die of SIGTERM.
///
/// # Errors
/// When the kernel refuses a signal handler.
pub fn signalled() -> io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
