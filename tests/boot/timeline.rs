//! What happened when, after a cut of power: for people, printed by the test.

use std::fmt;
use std::time::Instant;

/// The story of one boot.
pub struct Timeline {
    title: String,
    began: Instant,
    events: Vec<(f64, String)>,
}

// === impl Timeline ===

impl Timeline {
    /// Begins now: the power is back.
    pub fn begin(title: &str) -> Self {
        Self { title: title.to_owned(), began: Instant::now(), events: Vec::new() }
    }

    /// This is so now.
    pub fn mark(&mut self, what: impl Into<String>) {
        self.events.push((self.began.elapsed().as_secs_f64(), what.into()));
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "timeline: {}", self.title)?;
        self.events.iter().try_for_each(|(seconds, what)| writeln!(f, "  {seconds:>6.1} s  {what}"))
    }
}
