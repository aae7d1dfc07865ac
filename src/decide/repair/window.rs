//! How many pods may be asked for at a time, by what becomes of those that were.
//!
//! A thousand creates at once would be a thousand calls of an injector that has just come back. So a window of them is under
//! way at a time. As long as all succeed it grows by two with each, which triples it from one round to the next: a round takes as
//! long as a pod takes to be made again, and five hundred pods would otherwise take six. It shrinks to half when one fails, and grows
//! by one with each from then on. What an outage explains says nothing: once injection is proven again, it begins from its first size.

use std::time::Duration;

/// The first size of the window.
const FIRST: usize = 10;

/// The largest size of the window.
const WIDEST: usize = 500;

/// How long a replacement takes a place in the window, if nothing comes of it.
pub const SLOT_TIMEOUT: Duration = Duration::from_secs(10);

/// The window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    size: usize,
    /// Whether one has failed since it had its first size.
    failed: bool,
    /// When it shrank last: what began before is no reason to shrink it once more.
    narrowed: Option<Duration>,
}

// === impl Window ===

impl Default for Window {
    fn default() -> Self {
        Self { size: FIRST, failed: false, narrowed: None }
    }
}

impl Window {
    /// How many may be under way.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Begins from the first size.
    pub fn reset(&mut self) {
        (self.size, self.failed) = (FIRST, false);
    }

    /// So many succeeded.
    pub fn widen(&mut self, succeeded: usize) {
        let each = if self.failed { 1 } else { 2 };
        self.size = self.size.saturating_add(succeeded.saturating_mul(each)).min(WIDEST);
    }

    /// One failed at `now` that began at `since`. Those that began together fail for one reason, and count once.
    pub fn narrow(&mut self, since: Duration, now: Duration) {
        if self.narrowed.is_none_or(|narrowed| since >= narrowed) {
            self.size = (self.size / 2).max(1);
            self.failed = true;
            self.narrowed = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Its sizes from one round to the next, each of which succeeds.
    fn rounds(window: &mut Window, count: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        for _ in 0..count {
            sizes.push(window.size());
            window.widen(window.size());
        }
        sizes
    }

    #[test]
    fn it_triples_with_each_round_that_succeeds_up_to_its_widest() {
        assert_eq!(rounds(&mut Window::default(), 5), [10, 30, 90, 270, 500]);
    }

    #[test]
    fn it_doubles_once_one_has_failed_until_it_begins_again() {
        let mut window = Window::default();
        rounds(&mut window, 2);
        window.narrow(second(1), second(2));
        assert_eq!(rounds(&mut window, 5), [45, 90, 180, 360, 500]);
        window.reset();
        assert_eq!(rounds(&mut window, 2), [10, 30]);
    }

    #[test]
    fn what_began_together_narrows_it_once_and_never_to_nothing() {
        let mut window = Window::default();
        window.narrow(second(1), second(2));
        window.narrow(second(1), second(3));
        assert_eq!(window.size(), 5);
        for later in 2..9 {
            window.narrow(second(later), second(later));
        }
        assert_eq!(window.size(), 1);
        window.reset();
        assert_eq!(window.size(), 10);
    }
}
