//! What a held pod's log says: a line when the reason changes, and one every 30 s otherwise; the last of them also where
//! `kubectl describe pod` shows it.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

/// How long a held pod's log may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Kubelet keeps this many bytes of a termination message:
/// <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.
const TERMINATION_MESSAGE_LIMIT: usize = 4096;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// As expected.
    Info,
    /// A person should look.
    Warn,
    /// The process ends on it.
    Error,
}

/// Tells people what `wait` waits for.
#[derive(Debug)]
pub(super) struct StatusLog {
    started: Instant,
    termination_log: PathBuf,
    /// What holds now.
    current: Option<(Level, String)>,
    /// When the last line of any kind was told.
    last_told: Instant,
    /// What was told lately: a reason that comes and goes twice a second is one piece of news, not a thousand.
    recent: VecDeque<(String, Instant)>,
}

// === impl StatusLog ===

impl StatusLog {
    pub(super) fn new(termination_log: PathBuf) -> Self {
        let now = Instant::now();
        Self { started: now, termination_log, current: None, last_told: now, recent: VecDeque::new() }
    }

    /// How long this has been going on.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Something to know once; it does not replace what is awaited.
    pub(super) fn note(&mut self, tone: Level, line: &str) {
        self.emit(tone, line);
    }

    /// What holds from now on. Told at once, unless it was told in the last 30 s.
    pub(super) fn state(&mut self, tone: Level, line: String) {
        if self.current.as_ref().is_some_and(|(_, current)| *current == line) {
            return;
        }
        self.recent.retain(|(_, told)| told.elapsed() < SILENCE);
        if !self.recent.iter().any(|(recent, _)| *recent == line) {
            self.emit(tone, &line);
            self.recent.push_back((line.clone(), Instant::now()));
        }
        self.current = Some((tone, line));
    }

    /// Repeats what holds, when nothing was said for 30 s.
    pub(super) fn breathe(&mut self) {
        if self.last_told.elapsed() < SILENCE {
            return;
        }
        if let Some((tone, line)) = self.current.clone() {
            let elapsed = humantime::format_duration(whole_seconds(self.elapsed()));
            self.emit(tone, &format!("{line} (for {elapsed})"));
        }
    }

    fn emit(&mut self, tone: Level, line: &str) {
        match tone {
            Level::Info => info!("{line}"),
            Level::Warn => warn!("{line}"),
            Level::Error => error!("{line}"),
        }
        self.last_told = Instant::now();
        write_termination_message(&self.termination_log, line);
    }
}

/// Keeps `line` where `kubectl describe pod` shows it once the container has ended. Only where kubelet made the file:
/// anywhere else it would be litter.
pub fn write_termination_message(path: &std::path::Path, line: &str) {
    let line = &line[..line.floor_char_boundary(TERMINATION_MESSAGE_LIMIT)];
    if let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(path) {
        // There is nobody left to tell, and the line is in the log all the same.
        let _told_in_the_log = file.write_all(line.as_bytes());
    }
}

pub(super) fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line passes through the termination log, which keeps the last one: emptied between steps, it tells whether
    /// a step told anything.
    struct Report {
        file: tempfile::NamedTempFile,
    }

    impl Report {
        fn take(&self) -> String {
            let heard = std::fs::read_to_string(self.file.path()).unwrap();
            std::fs::write(self.file.path(), "").unwrap();
            heard
        }
    }

    fn narrator() -> (StatusLog, Report) {
        let file = tempfile::NamedTempFile::new().unwrap();
        (StatusLog::new(file.path().to_owned()), Report { file })
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_state_is_told_once_and_then_every_thirty_seconds() {
        let (mut narrator, heard) = narrator();
        narrator.state(Level::Info, "waiting: x".to_owned());
        assert_eq!(heard.take(), "waiting: x");
        for _ in 0..29 {
            tokio::time::advance(Duration::from_secs(1)).await;
            narrator.state(Level::Info, "waiting: x".to_owned());
            narrator.breathe();
            assert_eq!(heard.take(), "");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        narrator.breathe();
        assert_eq!(heard.take(), "waiting: x (for 30s)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reason_that_comes_and_goes_is_told_once_in_thirty_seconds() {
        let (mut narrator, heard) = narrator();
        let mut told = 0;
        for turn in 0..100 {
            let line = if turn % 2 == 0 { "one" } else { "other" };
            narrator.state(Level::Info, line.to_owned());
            narrator.breathe();
            told += usize::from(!heard.take().is_empty());
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!((2..=6).contains(&told), "{told} lines in 50 s");
    }

    #[test]
    fn no_file_is_made_where_kubelet_made_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("termination-log");
        write_termination_message(&path, "x");
        assert!(!path.exists());
    }
}
