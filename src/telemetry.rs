//! Logs, to standard error: each line is a message that never changes, and fields. Plain or as JSON.

use std::fmt;

use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{self as layer, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFilter, LogFormat};

/// Installs the process-wide subscriber, for the lines that pass the filter.
pub fn install(filter: &LogFilter, format: LogFormat) {
    use tracing_subscriber::util::SubscriberInitExt as _;

    let registry = tracing_subscriber::registry().with(filter.targets());
    // A second installation (tests in one process) keeps the first: no test depends on which one it is.
    let _ = registry.with(lines(format, std::io::stderr)).try_init();
}

/// Writes lines in `format` to `writer`.
fn lines<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = layer::layer().with_target(false).with_ansi(false).with_writer(writer);
    match format {
        LogFormat::Plain => lines.fmt_fields(PlainFields).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).fmt_fields(JsonFields::new()).boxed(),
    }
}

/// Fields for a person: the message, after a colon the `reason` or `error`, then the others as `key=value`, without quotes.
struct PlainFields;

/// The parts of one line, in the order in which they are written.
#[derive(Default)]
struct Plain {
    message: String,
    cause: String,
    others: String,
}

// === impl PlainFields ===

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut plain = Plain::default();
        fields.record(&mut plain);
        let Plain { message, cause, others } = plain;
        let colon = if message.is_empty() || cause.is_empty() { "" } else { ": " };
        let space = if message.is_empty() && cause.is_empty() || others.is_empty() { "" } else { " " };
        write!(writer, "{message}{colon}{cause}{space}{others}")
    }
}

// === impl Plain ===

impl Visit for Plain {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;

        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "reason" | "error" => write!(self.cause, "{}{value:?}", if self.cause.is_empty() { "" } else { ": " }),
            key => write!(self.others, "{}{key}={value:?}", if self.others.is_empty() { "" } else { " " }),
        };
        // Writing to a String cannot fail.
    }
}

/// What is logged on this thread, for tests.
#[cfg(test)]
#[derive(Clone, Default)]
pub struct Captured(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

// === impl Captured ===

#[cfg(test)]
impl Captured {
    /// Captures until the guard is dropped.
    pub fn begin(format: LogFormat) -> (Self, tracing::subscriber::DefaultGuard) {
        let captured = Self::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::registry().with(lines(format, move || writer.clone()));
        (captured, tracing::subscriber::set_default(subscriber))
    }

    /// What was logged so far.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[cfg(test)]
impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    /// What is written while `body` runs.
    fn written(format: LogFormat, body: impl FnOnce()) -> String {
        let (captured, _guard) = Captured::begin(format);
        body();
        captured.text()
    }

    fn delete_fails() {
        let span = tracing::error_span!("controller", node = "node-0");
        let _entered = span.enter();
        let (namespace, pod, error) = ("shop", "web-0", "HTTP 500");
        tracing::warn!(namespace, pod, error, "pod deletion failed");
    }

    #[test]
    fn json_has_the_message_and_each_field_apart() {
        let line: serde_json::Value = serde_json::from_str(&written(LogFormat::Json, delete_fails)).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "pod deletion failed");
        assert_eq!((&line["namespace"], &line["pod"]), (&"shop".into(), &"web-0".into()));
        assert_eq!(line["error"], "HTTP 500");
        assert_eq!(line["span"], serde_json::json!({"name": "controller", "node": "node-0"}));
    }

    #[test]
    fn a_plain_line_reads_as_a_sentence() {
        let line = written(LogFormat::Plain, delete_fails);
        let expected = "WARN controller{node=node-0}: pod deletion failed: HTTP 500 namespace=shop pod=web-0\n";
        assert!(line.ends_with(expected), "{line}");
    }

    #[test]
    fn a_line_without_fields_is_its_message() {
        let line = written(LogFormat::Plain, || tracing::info!("all watches are in sync"));
        assert!(line.ends_with(" INFO all watches are in sync\n"), "{line}");
    }
}
