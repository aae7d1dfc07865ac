//! Retry schedules, all of them, by the `backoff` crate; nothing else in this program decides how long to pause.
//!
//! `backoff` is the user's choice though it is no longer maintained (RUSTSEC-2025-0012): it stays behind this one file.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// How long to pause before the next try. Never ends by itself: every hold has its own end.
#[derive(Debug)]
pub struct Schedule(ExponentialBackoff);

// === impl Schedule ===

impl Schedule {
    /// `wait` looking directly, while closed: 100 ms, growing to 560 ms, ±10 %.
    ///
    /// The longest pause decides how late a release can be, the mean one what holding costs: hence less jitter than
    /// elsewhere. With it and the settling time a pod is released 0.9 s after Linkerd answers, at the latest; a look that is
    /// refused costs 0.4 ms of CPU (docs/figures.md).
    pub fn direct_probe() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_millis(560), 0.1)
    }

    /// `wait` holding a pod that only its own replacement can help: nothing is released any more, so once in 5 s is
    /// enough to say what Linkerd is doing meanwhile.
    pub fn held_status() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(5), 0.2)
    }

    /// Requests to the API server that were refused or failed: 500 ms, growing to 30 s.
    pub fn api_retry() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30), 0.2)
    }

    /// How long a pod is held at least before it replaces itself: 15 s, ±20 %.
    pub fn self_replacement() -> Self {
        Self::new(Duration::from_secs(15), Duration::from_secs(15), 0.2)
    }

    /// `wait` looking for its node's agent again, once there was none: 15 s, ±20 %.
    pub fn agent_recheck() -> Self {
        Self::new(Duration::from_secs(15), Duration::from_secs(15), 0.2)
    }

    /// The HTTP server where the kernel gives it no more connections, or its port is taken: 50 ms, growing to 1 s. The former
    /// pause also ends with the first connection that does.
    pub fn accept_retry() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(1), 0.2)
    }

    /// Watches that failed: 500 ms, growing to 8 s. A thousand agents must not meet at an API server that has just come back.
    pub fn watch_restart() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(8), 0.5)
    }

    /// Before a vacant Lease is taken: 0 to 5 s, so that of a thousand agents one takes it and the others see that
    /// before they try.
    pub fn lease_acquisition() -> Self {
        Self::new(Duration::from_millis(2500), Duration::from_millis(2500), 1.0)
    }

    /// Before a node is opened by a verdict that opens all of them: 0 to 1 s, so that a thousand agents do not write at one instant.
    pub fn node_opening() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_millis(500), 1.0)
    }

    /// Proofs and looks at identity while closed: 100 ms, growing to 5 s.
    pub fn closed_probe() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5), 0.2)
    }

    /// The same while open: every 20 s. A node that boots alone stays closed until the next proof: one that was made before its
    /// boot says nothing.
    pub fn open_probe() -> Self {
        Self::new(Duration::from_secs(20), Duration::from_secs(20), 0.2)
    }

    /// An agent's own looks at identity, once it answered: every 60 s. A thousand agents ask the same few pods.
    pub fn open_identity_probe() -> Self {
        Self::new(Duration::from_mins(1), Duration::from_mins(1), 0.2)
    }

    fn new(initial: Duration, cap: Duration, jitter: f64) -> Self {
        let mut backoff = ExponentialBackoff {
            initial_interval: initial,
            max_interval: cap,
            multiplier: 1.5,
            randomization_factor: jitter,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        // `Default` has already set the current interval to its own initial one.
        backoff.reset();
        Self(backoff)
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Back to the first, short pause.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings that are thrown away by a builder are a known trap: what counts is the pauses that come out.
    fn assert_grows(mut schedule: Schedule, initial: Duration, cap: Duration) {
        let first = schedule.next_pause();
        assert!(first >= initial.mul_f64(0.79) && first <= initial.mul_f64(1.21), "{first:?}");
        let pauses: Vec<Duration> = (0..200).map(|_| schedule.next_pause()).collect();
        assert!(pauses.iter().all(|pause| *pause <= cap.mul_f64(1.21)), "{pauses:?}");
        assert!(pauses[100..].iter().all(|pause| *pause >= cap.mul_f64(0.79)), "{pauses:?}");
        let distinct: std::collections::BTreeSet<_> = pauses[100..].iter().collect();
        assert!(distinct.len() > 50, "a thousand pods must not look in step");
        schedule.reset();
        assert!(schedule.next_pause() <= initial.mul_f64(1.21));
    }

    #[test]
    fn the_pause_between_probes_is_well_under_a_second() {
        let mut looking = Schedule::direct_probe();
        let longest = (0..1000).map(|_| looking.next_pause()).max().unwrap();
        // The settling time of `wait` comes on top.
        assert!(longest < Duration::from_millis(650), "{longest:?}");
    }

    #[test]
    fn a_thousand_agents_spread_their_lease_writes_over_5_seconds() {
        let mut pauses: Vec<Duration> = (0..1000).map(|_| Schedule::lease_acquisition().next_pause()).collect();
        pauses.sort_unstable();
        assert!(pauses[999] <= Duration::from_secs(5), "{:?}", pauses[999]);
        // As long as the first needs to be seen by the others: a hundred in half a second, not a thousand.
        assert!(pauses.iter().filter(|pause| **pause < Duration::from_millis(500)).count() < 200);
    }

    #[test]
    fn each_schedule_starts_short_grows_to_its_cap_and_is_jittered() {
        assert_grows(Schedule::direct_probe(), Duration::from_millis(100), Duration::from_millis(560));
        assert_grows(Schedule::held_status(), Duration::from_secs(1), Duration::from_secs(5));
        assert_grows(Schedule::self_replacement(), Duration::from_secs(15), Duration::from_secs(15));
        assert_grows(Schedule::api_retry(), Duration::from_millis(500), Duration::from_secs(30));
        assert_grows(Schedule::agent_recheck(), Duration::from_secs(15), Duration::from_secs(15));
        assert_grows(Schedule::accept_retry(), Duration::from_millis(50), Duration::from_secs(1));
        assert_grows(Schedule::closed_probe(), Duration::from_millis(100), Duration::from_secs(5));
        assert_grows(Schedule::open_identity_probe(), Duration::from_mins(1), Duration::from_mins(1));
        assert_grows(Schedule::open_probe(), Duration::from_secs(20), Duration::from_secs(20));
    }
}
