//! Logs: one line per change of mind, to standard error, plain or as JSON.

use tracing_subscriber::fmt;

use crate::config::{LogFilter, LogFormat};

/// Installs the process-wide subscriber, for the lines that pass the filter.
pub fn install(filter: &LogFilter, format: LogFormat) {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let registry = tracing_subscriber::registry().with(filter.targets());
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
