//! The log of a held pod: a line when the state changes, and one every 30 s otherwise. `kubectl describe pod` shows the last line too.

use std::collections::VecDeque;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

/// How long a held pod's log has no line at most.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(30);

/// Kubelet keeps this many bytes of a termination message:
/// <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.
const TERMINATION_MESSAGE_LIMIT: usize = 4096;

/// The level of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// As expected.
    Info,
    /// A person should act.
    Warn,
    /// The process ends because of it.
    Error,
}

/// A message that never varies, and the reason, which may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    message: &'static str,
    reason: String,
}

/// Logs what `wait` waits for.
#[derive(Debug)]
pub(super) struct StatusLog {
    started: Instant,
    termination_log: PathBuf,
    /// The current state.
    current: Option<(Level, Line)>,
    /// When the last line of any kind was logged.
    last_line: Instant,
    /// The lines of the last 30 s: a reason that comes and goes twice a second is logged once in that time.
    recent: VecDeque<(Line, Instant)>,
}

// === impl Line ===

impl Line {
    pub(super) fn new(message: &'static str, reason: impl Into<String>) -> Self {
        Self { message, reason: reason.into() }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, reason } = self;
        if reason.is_empty() { f.write_str(message) } else { write!(f, "{message}: {reason}") }
    }
}

// === impl StatusLog ===

impl StatusLog {
    pub(super) fn new(termination_log: PathBuf) -> Self {
        let now = Instant::now();
        Self { started: now, termination_log, current: None, last_line: now, recent: VecDeque::new() }
    }

    /// The time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Logs a line once. The current state stays.
    pub(super) fn note(&mut self, level: Level, line: &Line) {
        self.emit(level, line, None);
    }

    /// Sets the current state. It is logged at once, unless the same line was logged in the last 30 s.
    pub(super) fn state(&mut self, level: Level, line: Line) {
        if self.current.as_ref().is_some_and(|(_, current)| *current == line) {
            return;
        }
        self.recent.retain(|(_, at)| at.elapsed() < HEARTBEAT);
        if !self.recent.iter().any(|(recent, _)| *recent == line) {
            self.emit(level, &line, None);
            self.recent.push_back((line.clone(), Instant::now()));
        }
        self.current = Some((level, line));
    }

    /// Logs the current state again, if no line was logged for 30 s.
    pub(super) fn heartbeat(&mut self) {
        if self.last_line.elapsed() < HEARTBEAT {
            return;
        }
        if let Some((level, line)) = self.current.clone() {
            let elapsed = humantime::format_duration(whole_seconds(self.elapsed())).to_string();
            self.emit(level, &line, Some(&elapsed));
        }
    }

    fn emit(&mut self, level: Level, line: &Line, elapsed: Option<&str>) {
        let message = line.message;
        let reason = (!line.reason.is_empty()).then_some(line.reason.as_str());
        match level {
            Level::Info => info!(reason, elapsed, "{message}"),
            Level::Warn => warn!(reason, elapsed, "{message}"),
            Level::Error => error!(reason, elapsed, "{message}"),
        }
        self.last_line = Instant::now();
        let elapsed = elapsed.map(|elapsed| format!(" (for {elapsed})")).unwrap_or_default();
        write_termination_message(&self.termination_log, &format!("{line}{elapsed}"));
    }
}

/// Keeps `line` where `kubectl describe pod` shows it once the container has ended. Only where kubelet made the file:
/// anywhere else it would be litter.
pub fn write_termination_message(path: &std::path::Path, line: &str) {
    let line = &line[..line.floor_char_boundary(TERMINATION_MESSAGE_LIMIT)];
    if let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(path) {
        let _ = file.write_all(line.as_bytes()); // The log has the line too.
    }
}

pub(super) fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line passes through the termination log, which keeps the last one: emptied between steps, it shows whether
    /// a step logged anything.
    struct Report {
        file: tempfile::NamedTempFile,
    }

    impl Report {
        fn take(&self) -> String {
            let lines = std::fs::read_to_string(self.file.path()).unwrap();
            std::fs::write(self.file.path(), "").unwrap();
            lines
        }
    }

    fn status_log() -> (StatusLog, Report) {
        let file = tempfile::NamedTempFile::new().unwrap();
        (StatusLog::new(file.path().to_owned()), Report { file })
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_state_is_logged_once_and_then_every_thirty_seconds() {
        let (mut log, lines) = status_log();
        log.state(Level::Info, Line::new("waiting", "x"));
        assert_eq!(lines.take(), "waiting: x");
        for _ in 0..29 {
            tokio::time::advance(Duration::from_secs(1)).await;
            log.state(Level::Info, Line::new("waiting", "x"));
            log.heartbeat();
            assert_eq!(lines.take(), "");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        log.heartbeat();
        assert_eq!(lines.take(), "waiting: x (for 30s)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flapping_reason_is_logged_once_in_thirty_seconds() {
        let (mut log, lines) = status_log();
        let mut logged = 0;
        for turn in 0..100 {
            let line = if turn % 2 == 0 { "one" } else { "other" };
            log.state(Level::Info, Line::new(line, ""));
            log.heartbeat();
            logged += usize::from(!lines.take().is_empty());
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!((2..=6).contains(&logged), "{logged} lines in 50 s");
    }

    #[test]
    fn no_file_is_made_where_kubelet_made_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("termination-log");
        write_termination_message(&path, "x");
        assert!(!path.exists());
    }
}
