//! The difference between two gates that is worth a line.

use std::fmt;

use super::gate::{ClosedReason, Gate};
use super::verdict::{Basis, FailedProbes};

/// A change of mind: what a role tells people, once, however often it looks.
///
/// The text of a reason is part of it, so whoever words reasons keeps counters, clocks and port numbers of its own out of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition<'a> {
    /// The gate was not open and is.
    Opened(Basis),

    /// The gate is open as before, but known in another way.
    Rests(Basis),

    /// The gate is open as before, but this could not be looked at any more.
    Doubts(&'a FailedProbes),

    /// The gate is open as before, and everything could be looked at again.
    Reassured,

    /// The gate was closed and counts ready evidence now.
    Settling,

    /// The gate was open and is closed.
    Closed(&'a ClosedReason),

    /// The gate counted ready evidence and is closed again.
    Relapsed(&'a ClosedReason),

    /// The gate is closed as before, for another reason.
    Awaits(&'a ClosedReason),
}

// === impl Transition ===

impl<'a> Transition<'a> {
    /// What is new in `new`; nothing where a person would learn nothing.
    pub fn between(old: &Gate, new: &'a Gate) -> Option<Self> {
        match (old, new) {
            (Gate::Closed { why: before, .. }, Gate::Closed { why, .. }) => {
                (before != why).then_some(Self::Awaits(why))
            }
            (Gate::Settling { .. }, Gate::Closed { why, .. }) => Some(Self::Relapsed(why)),
            (Gate::Open { .. }, Gate::Closed { why, .. }) => Some(Self::Closed(why)),

            (Gate::Settling { .. }, Gate::Settling { .. }) => None,
            (Gate::Closed { .. } | Gate::Open { .. }, Gate::Settling { .. }) => Some(Self::Settling),

            (Gate::Closed { .. } | Gate::Settling { .. }, Gate::Open { basis, .. }) => Some(Self::Opened(*basis)),
            (Gate::Open { basis: before, doubt: doubted, .. }, Gate::Open { basis, doubt, .. }) => {
                match (doubted, doubt) {
                    (_, None) if before != basis => Some(Self::Rests(*basis)),
                    (Some(_), None) => Some(Self::Reassured),
                    (doubted, Some(obstacles)) if doubted.as_ref() != Some(obstacles) => Some(Self::Doubts(obstacles)),
                    (None | Some(_), None | Some(_)) => None,
                }
            }
        }
    }

    /// Whether a person should look: the gate closed after it had been open, or was about to be.
    pub fn is_setback(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::Relapsed(_) | Self::Doubts(_))
    }
}

impl fmt::Display for Transition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened(basis) => write!(f, "open: {basis}"),
            Self::Rests(basis) => write!(f, "still open, now {basis}"),
            Self::Doubts(obstacles) => write!(f, "still open, but nobody could look: {obstacles}"),
            Self::Reassured => f.write_str("still open, and everything could be looked at again"),
            Self::Settling => f.write_str("everything answers; making sure that it stays so"),
            Self::Closed(why) => write!(f, "closed: {why}"),
            Self::Relapsed(why) => write!(f, "not settled, closed again: {why}"),
            Self::Awaits(why) => write!(f, "waiting: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decide::{Evidence, LinkerdInstallation, Policy, Probe, ProbeResult};

    /// The lines that a role would log for this story.
    fn lines(policy: &Policy, story: impl IntoIterator<Item = Evidence>) -> Vec<String> {
        let mut gate = Gate::closed();
        let mut lines = Vec::new();
        for evidence in story {
            let next = gate.clone().step(policy, &evidence);
            lines.extend(Transition::between(&gate, &next).map(|change| change.to_string()));
            gate = next;
        }
        lines
    }

    fn at(millis: u64, injector: ProbeResult, identity: ProbeResult) -> Evidence {
        Evidence::at(Duration::from_millis(millis)).with(Probe::Injector, injector).with(Probe::Identity, identity)
    }

    #[test]
    fn a_long_wait_is_a_line_per_change_of_mind_and_not_per_try() {
        use ProbeResult::Ready;
        let refused = || ProbeResult::not_ready("connection refused");
        let timeout = || ProbeResult::unknown("timed out after 900 ms");
        let story = [
            at(0, timeout(), timeout()),
            at(100, timeout(), timeout()),
            at(200, refused(), timeout()),
            at(300, refused(), refused()),
            at(400, refused(), refused()),
            at(500, Ready, refused()),
            at(600, Ready, Ready),
            at(700, Ready, refused()),
            at(800, Ready, Ready),
            at(1000, Ready, Ready),
            at(1100, Ready, Ready),
            at(1200, Ready, timeout()),
            at(1300, Ready, timeout()),
            at(1400, Ready, Ready),
            at(1500, refused(), Ready),
        ];
        let told = [
            "waiting: injector unknown: timed out after 900 ms; identity unknown: timed out after 900 ms",
            "waiting: injector not ready: connection refused; identity unknown: timed out after 900 ms",
            "waiting: injector not ready: connection refused; identity not ready: connection refused",
            "waiting: identity not ready: connection refused",
            "everything answers; making sure that it stays so",
            "not settled, closed again: identity not ready: connection refused",
            "everything answers; making sure that it stays so",
            "open: reachable, though not proven through the API server",
            "still open, but nobody could look: identity unknown: timed out after 900 ms",
            "still open, and everything could be looked at again",
            "closed: injector not ready: connection refused",
        ];
        assert_eq!(lines(&Policy::direct(), story), told);
    }

    #[test]
    fn another_basis_of_an_open_gate_is_told() {
        let absent =
            |millis| Evidence::at(Duration::from_millis(millis)).with_linkerd_installation(LinkerdInstallation::Absent);
        let story = [absent(0), absent(500), absent(1000), at(1500, ProbeResult::Ready, ProbeResult::Ready)];
        assert_eq!(
            lines(&Policy::direct(), story).last().map(String::as_str),
            Some("still open, now reachable, though not proven through the API server")
        );
    }

    #[test]
    fn nothing_is_told_of_a_gate_that_did_not_move() {
        for gate in
            [Gate::closed(), Gate::closed().step(&Policy::direct(), &at(0, ProbeResult::Ready, ProbeResult::Ready))]
        {
            assert_eq!(Transition::between(&gate, &gate.clone()), None);
        }
    }
}
