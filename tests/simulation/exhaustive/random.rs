//! Where the program draws a pause: at ticks of seconds all lengths but one are the same, and that one is a choice of the search.

use std::time::Duration;

/// How a leader writes what it publishes: by this version of the program.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    Ours,
}

/// Whether a candidate leaves a free Lease to others for a while, and whether that mattered.
#[derive(Debug, Default)]
pub struct Random {
    pub late: bool,
    pub asked: bool,
}

// === impl Format ===

impl Format {
    #[expect(clippy::unused_self, reason = "the stories have others")]
    pub fn apply(self, text: String) -> String {
        text
    }
}

// === impl Random ===

impl Random {
    pub fn between(&mut self, shortest_millis: u64, longest_millis: u64) -> Duration {
        if (shortest_millis, longest_millis) == (0, 5000) {
            self.asked = true;
            return Duration::from_millis(if self.late { longest_millis } else { 0 });
        }
        Duration::from_millis(shortest_millis)
    }
}
