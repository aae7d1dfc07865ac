//! Logs: one line per change of mind, to standard error, plain or as JSON.

use tracing_subscriber::fmt;

use crate::config::{LogFormat, LogLevel};

/// Installs the process-wide subscriber. Only our own crate's events pass: what a library has to say at `debug` about
/// each connection is noise to whoever reads a held pod's log.
pub fn install(level: LogLevel, format: LogFormat) {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let ours = tracing_subscriber::filter::Targets::new().with_target("linkerd_gate", tracing::Level::from(level));
    let registry = tracing_subscriber::registry().with(ours);
    // A second installation (tests in one process) keeps the first: nothing depends on which one it is.
    let _already_installed = match format {
        LogFormat::Plain => {
            registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false)).try_init()
        }
        LogFormat::Json => registry
            .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_target(false))
            .try_init(),
    };
}
