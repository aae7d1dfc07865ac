//! The difference between two gates that is worth a line.

use std::fmt;

use super::gate::{ClosedReason, Gate};
use super::verdict::{Basis, FailedProbes};

/// A change of a gate that a role logs, once, however often it probes.
///
/// The text of a reason is compared, so reasons contain no counters, no clocks and no local port numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition<'a> {
    /// The gate was not open and is.
    Opened(Basis),

    /// The gate is open as before, by other evidence.
    Rests(Basis),

    /// The gate is open as before, but these probes had no result.
    Degraded(&'a FailedProbes),

    /// The gate is open as before, and all probes have results again.
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
            (Gate::Open { basis: before, degraded: was_degraded, .. }, Gate::Open { basis, degraded, .. }) => {
                match (was_degraded, degraded) {
                    (_, None) if before != basis => Some(Self::Rests(*basis)),
                    (Some(_), None) => Some(Self::Reassured),
                    (was_degraded, Some(failed_probes)) if was_degraded.as_ref() != Some(failed_probes) => {
                        Some(Self::Degraded(failed_probes))
                    }
                    (None | Some(_), None | Some(_)) => None,
                }
            }
        }
    }

    /// Whether a person should act: the gate closed after it had been open, or was about to be.
    pub fn is_setback(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::Relapsed(_) | Self::Degraded(_))
    }

    /// The change in words that never vary: a log line's message.
    pub const fn message(&self) -> &'static str {
        match self {
            Self::Opened(_) => "open",
            Self::Rests(_) => "still open, by other evidence",
            Self::Degraded(_) => "still open, but not confirmed",
            Self::Reassured => "still open, confirmed again",
            Self::Settling => "all probes ready; settling",
            Self::Closed(_) => "closed",
            Self::Relapsed(_) => "closed before it settled",
            Self::Awaits(_) => "waiting",
        }
    }

    /// Why: a log line's field `reason`.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Opened(basis) | Self::Rests(basis) => Some(basis.to_string()),
            Self::Degraded(failed_probes) => Some(failed_probes.to_string()),
            Self::Closed(why) | Self::Relapsed(why) | Self::Awaits(why) => Some(why.to_string()),
            Self::Reassured | Self::Settling => None,
        }
    }
}

impl fmt::Display for Transition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())?;
        self.reason().map_or(Ok(()), |reason| write!(f, ": {reason}"))
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
        let expected = [
            "waiting: injector unknown: timed out after 900 ms; identity unknown: timed out after 900 ms",
            "waiting: injector not ready: connection refused; identity unknown: timed out after 900 ms",
            "waiting: injector not ready: connection refused; identity not ready: connection refused",
            "waiting: identity not ready: connection refused",
            "all probes ready; settling",
            "closed before it settled: identity not ready: connection refused",
            "all probes ready; settling",
            "open: reachable, though not proven through the API server",
            "still open, but not confirmed: identity unknown: timed out after 900 ms",
            "still open, confirmed again",
            "closed: injector not ready: connection refused",
        ];
        assert_eq!(lines(&Policy::direct(), story), expected);
    }

    #[test]
    fn a_new_basis_of_an_open_gate_is_reported() {
        let absent =
            |millis| Evidence::at(Duration::from_millis(millis)).with_linkerd_installation(LinkerdInstallation::Absent);
        let story = [absent(0), absent(500), absent(1000), at(1500, ProbeResult::Ready, ProbeResult::Ready)];
        assert_eq!(
            lines(&Policy::direct(), story).last().map(String::as_str),
            Some("still open, by other evidence: reachable, though not proven through the API server")
        );
    }

    #[test]
    fn an_unchanged_gate_is_not_reported() {
        for gate in
            [Gate::closed(), Gate::closed().step(&Policy::direct(), &at(0, ProbeResult::Ready, ProbeResult::Ready))]
        {
            assert_eq!(Transition::between(&gate, &gate.clone()), None);
        }
    }
}
