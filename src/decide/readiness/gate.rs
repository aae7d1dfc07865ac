//! The readiness gate: closed, settling or open, stepped by each piece of evidence.

use std::fmt;
use std::time::Duration;

use super::evidence::{Evidence, LinkerdInstallation};
use super::policy::Policy;
use super::verdict::{Basis, FailedProbes, Verdict};

/// How long a proof counts as one. An open gate is proven again every 20 s, give or take a fifth (`Schedule::open_probe`), so an
/// older one says that its prover was stopped, or that a probe does not end.
pub const PROOF_LIFETIME: Duration = Duration::from_secs(45);

/// The state that verdicts drive: closed, then settling, then open.
///
/// A gate is moved by value through [`Gate::step`]. Instants are those of the [`Evidence`], by the caller's clock.
///
/// Three rules hold whatever the evidence: only ready evidence, [`Policy::proofs`] times in a row and over
/// [`Policy::settling`], opens; *unknown* opens nothing and closes nothing that is open; *not ready* closes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nothing may pass. No ready evidence is being counted: the next piece of it, if it is newer, is the first.
    Closed {
        /// Why.
        why: ClosedReason,

        /// When the evidence that says so was taken; nothing before any evidence. Ready evidence that is not newer does
        /// not count: it was overtaken.
        at: Option<Duration>,
    },

    /// Nothing may pass yet, but nothing is in the way: since `since`, all evidence was ready on the same basis, and there
    /// was at least one piece and less than the policy asks for, in number or in time.
    Settling {
        /// How the verdict is known.
        basis: Basis,

        /// When the first ready evidence of this run was taken.
        since: Duration,

        /// When the last one was taken: not before `since`.
        latest: Duration,

        /// How many there were, each newer than the one before.
        proofs: u32,
    },

    /// A pod created now would be injected and could get a certificate. The policy was met, and no evidence since said
    /// otherwise.
    Open {
        /// How the latest ready verdict is known.
        basis: Basis,

        /// When the evidence was taken that opened the gate.
        since: Duration,

        /// When the latest ready evidence was taken: not before `since`.
        latest: Duration,

        /// What could not be looked at in the latest evidence. It does not close the gate.
        degraded: Option<FailedProbes>,
    },
}

/// Why a gate is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClosedReason {
    /// No probe has run yet.
    NoEvidence,

    /// At least one required probe found it not ready.
    NotReady(FailedProbes),

    /// No probe found it not ready, but too few had a result.
    Unknown(FailedProbes),

    /// The gate was open, or opening, because Linkerd was not installed. It is now, and has proven nothing yet.
    Installed(FailedProbes),

    /// Ready evidence came with an instant that is not after what was known: it was overtaken, or the clock went back.
    /// Counting starts again from there.
    Outdated,
}

// === impl Gate ===

impl Default for Gate {
    fn default() -> Self {
        Self::closed()
    }
}

impl Gate {
    /// The state before any evidence: closed.
    pub fn closed() -> Self {
        Self::Closed { why: ClosedReason::NoEvidence, at: None }
    }

    /// Whether pods may pass.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// How an open gate is known to be open.
    pub fn basis(&self) -> Option<Basis> {
        match self {
            Self::Open { basis, .. } => Some(*basis),
            Self::Closed { .. } | Self::Settling { .. } => None,
        }
    }

    /// When the evidence was taken that opened the gate; nothing where it is not open.
    pub fn open_since(&self) -> Option<Duration> {
        match self {
            Self::Open { since, .. } => Some(*since),
            Self::Closed { .. } | Self::Settling { .. } => None,
        }
    }

    /// When the evidence was taken by which the gate is open for certain at `now`; nothing where it is not open, the latest
    /// evidence did not confirm it, or that was [`PROOF_LIFETIME`] ago. That Linkerd is not installed proves no injection: it may
    /// be installed in a moment, and its injector answer minutes later.
    pub fn proven_at(&self, now: Duration) -> Option<Duration> {
        match self {
            Self::Open { basis: Basis::Proven | Basis::Reachable, latest, degraded: None, .. } => {
                Some(*latest).filter(|latest| now.saturating_sub(*latest) < PROOF_LIFETIME)
            }
            Self::Open { .. } | Self::Settling { .. } | Self::Closed { .. } => None,
        }
    }

    /// The state after one more piece of evidence.
    ///
    /// The same evidence twice is one piece: stepping again with an instant that was already counted changes nothing.
    #[must_use]
    pub fn step(self, policy: &Policy, evidence: &Evidence) -> Self {
        match Verdict::of(policy, evidence) {
            Verdict::Open(basis) => self.step_ready(policy, basis, evidence.taken),
            Verdict::Closed(failed_probes) => {
                Self::Closed { why: ClosedReason::NotReady(failed_probes), at: Some(evidence.taken) }
            }
            Verdict::Undecided(failed_probes) => self.step_unknown(failed_probes, evidence),
        }
    }

    fn step_ready(self, policy: &Policy, basis: Basis, taken: Duration) -> Self {
        let first = Self::Settling { basis, since: taken, latest: taken, proofs: 1 };
        match self {
            Self::Open { since, latest, .. } => Self::Open { basis, since, latest: latest.max(taken), degraded: None },
            Self::Closed { at, .. } => match at {
                Some(at) if taken <= at => Self::outdated(taken),
                Some(_) | None => first.settle(policy),
            },
            Self::Settling { latest, .. } if taken < latest => Self::outdated(taken),
            // Two bases are two claims: what was counted for one says nothing for the other.
            Self::Settling { basis: counted, .. } if counted != basis => first.settle(policy),
            Self::Settling { since, latest, proofs, .. } => Self::Settling {
                basis,
                since,
                latest: taken,
                proofs: if taken > latest { proofs.saturating_add(1) } else { proofs },
            }
            .settle(policy),
        }
    }

    fn step_unknown(self, failed_probes: FailedProbes, evidence: &Evidence) -> Self {
        let at = Some(evidence.taken);
        match self {
            // Not an unknown that closes, but the evidence of an installation: it refutes what the gate was open for.
            Self::Open { basis: Basis::NotInstalled, .. } | Self::Settling { basis: Basis::NotInstalled, .. }
                if evidence.installation == LinkerdInstallation::Present =>
            {
                Self::Closed { why: ClosedReason::Installed(failed_probes), at }
            }
            Self::Open { basis, since, latest, .. } => {
                Self::Open { basis, since, latest, degraded: Some(failed_probes) }
            }
            // Told until something is found out, so that the line does not change while nothing does.
            Self::Closed { why: ClosedReason::Installed(_), .. } => {
                Self::Closed { why: ClosedReason::Installed(failed_probes), at }
            }
            // A run is interrupted by an unknown: "in a row" means that every look in between succeeded.
            Self::Closed { .. } | Self::Settling { .. } => {
                Self::Closed { why: ClosedReason::Unknown(failed_probes), at }
            }
        }
    }

    /// Opens a settling gate that has what the policy asks for.
    fn settle(self, policy: &Policy) -> Self {
        match self {
            Self::Settling { basis, since, latest, proofs }
                if proofs >= policy.proofs().get() && latest.saturating_sub(since) >= policy.settling() =>
            {
                Self::Open { basis, since: latest, latest, degraded: None }
            }
            gate @ (Self::Closed { .. } | Self::Settling { .. } | Self::Open { .. }) => gate,
        }
    }

    fn outdated(taken: Duration) -> Self {
        Self::Closed { why: ClosedReason::Outdated, at: Some(taken) }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { why, .. } => write!(f, "closed: {why}"),
            Self::Settling { .. } => f.write_str("settling: all probes are ready"),
            Self::Open { basis, degraded: None, .. } => write!(f, "open: {basis}"),
            Self::Open { basis, degraded: Some(failed_probes), .. } => {
                write!(f, "open: {basis}; not confirmed since: {failed_probes}")
            }
        }
    }
}

// === impl ClosedReason ===

impl ClosedReason {
    /// Which required probes are in the way, where evidence names them.
    pub fn failed_probes(&self) -> Option<&FailedProbes> {
        match self {
            Self::NotReady(failed_probes) | Self::Unknown(failed_probes) | Self::Installed(failed_probes) => {
                Some(failed_probes)
            }
            Self::NoEvidence | Self::Outdated => None,
        }
    }
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEvidence => f.write_str("no probe has run yet"),
            Self::NotReady(failed_probes) | Self::Unknown(failed_probes) => write!(f, "{failed_probes}"),
            Self::Installed(failed_probes) => {
                write!(f, "Linkerd is installed now, and injection is not proven yet: {failed_probes}")
            }
            Self::Outdated => f.write_str("the evidence was older than the previous one; counting starts again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Probe, ProbeResult};

    fn ready(millis: u64) -> Evidence {
        Probe::ALL
            .into_iter()
            .fold(Evidence::at(Duration::from_millis(millis)), |all, probe| all.with(probe, ProbeResult::Ready))
    }

    fn refused(millis: u64) -> Evidence {
        ready(millis).with(Probe::Injector, ProbeResult::not_ready("connection refused"))
    }

    fn unknown(millis: u64) -> Evidence {
        ready(millis).with(Probe::Identity, ProbeResult::unknown("timed out"))
    }

    fn absent(millis: u64) -> Evidence {
        Evidence::at(Duration::from_millis(millis)).with_linkerd_installation(LinkerdInstallation::Absent)
    }

    fn after(policy: &Policy, story: impl IntoIterator<Item = Evidence>) -> Gate {
        story.into_iter().fold(Gate::closed(), |gate, evidence| gate.step(policy, &evidence))
    }

    #[test]
    fn a_boot_closed_then_settling_then_open() {
        let policy = Policy::direct();
        let gate = after(&policy, [refused(0), ready(100)]);
        assert!(matches!(gate, Gate::Settling { proofs: 1, .. }));
        let gate = gate.step(&policy, &ready(300));
        assert!(matches!(gate, Gate::Settling { proofs: 2, .. }), "200 ms < 250 ms");
        let gate = gate.step(&policy, &ready(350));
        assert_eq!(gate.to_string(), "open: reachable, though not proven through the API server");
    }

    #[test]
    fn time_alone_does_not_replace_proofs() {
        let gate = after(&Policy::proven(), [ready(0), ready(60_000)]);
        assert!(!gate.is_open(), "two proofs where three are asked: {gate}");
    }

    #[test]
    fn one_unknown_interrupts_a_run() {
        let policy = Policy::direct();
        let gate = after(&policy, [ready(0), unknown(200), ready(400)]);
        assert!(matches!(gate, Gate::Settling { proofs: 1, .. }), "{gate:?}");
    }

    #[test]
    fn an_open_gate_stays_open_on_unknown_and_shows_the_degradation() {
        let policy = Policy::direct();
        let gate = after(&policy, [ready(0), ready(250), unknown(500)]);
        assert!(gate.is_open());
        assert!(gate.to_string().contains("identity unknown: timed out"), "{gate}");
        let gate = gate.step(&policy, &ready(750));
        assert!(!gate.to_string().contains("identity"), "{gate}");
    }

    #[test]
    fn an_open_gate_closes_at_the_first_evidence_against() {
        let policy = Policy::direct();
        let gate = after(&policy, [ready(0), ready(250), refused(500)]);
        assert_eq!(gate.to_string(), "closed: injector not ready: connection refused");
    }

    #[test]
    fn a_gate_that_is_open_without_linkerd_is_no_proof() {
        let gate = after(&Policy::proven(), [absent(0), absent(600), absent(1200)]);
        assert_eq!((gate.is_open(), gate.basis()), (true, Some(Basis::NotInstalled)));
        assert_eq!(gate.proven_at(Duration::from_millis(1200)), None);
    }

    #[test]
    fn the_same_evidence_twice_is_one_proof() {
        let policy = Policy::new([Probe::Injector], 2.try_into().unwrap(), Duration::ZERO).unwrap();
        let gate = after(&policy, [ready(5), ready(5), ready(5)]);
        assert!(!gate.is_open(), "{gate:?}");
        assert!(gate.step(&policy, &ready(6)).is_open());
    }

    #[test]
    fn evidence_older_than_the_last_does_not_count() {
        let policy = Policy::direct();
        let gate = after(&policy, [refused(1000), ready(500)]);
        assert!(matches!(gate, Gate::Closed { why: ClosedReason::Outdated, .. }), "{gate:?}");
        // The clock really did go back: the next evidence is counted from where it stands now.
        let gate = gate.step(&policy, &ready(600));
        assert!(matches!(gate, Gate::Settling { proofs: 1, .. }), "{gate:?}");
    }

    #[test]
    fn an_absent_linkerd_opens_the_gate_and_its_install_closes_it() {
        let policy = Policy::proven();
        let gate = after(&policy, [absent(0), absent(500), absent(1000)]);
        assert_eq!(gate.basis(), Some(Basis::NotInstalled));

        let blind = unknown(1500);
        assert!(gate.clone().step(&policy, &blind).is_open(), "nobody looked whether it is installed");
        let installed = blind.with_linkerd_installation(LinkerdInstallation::Present);
        let gate = gate.step(&policy, &installed);
        assert!(!gate.is_open());
        assert!(gate.to_string().contains("identity unknown: timed out"), "{gate}");
    }

    #[test]
    fn a_proof_counts_for_a_while_and_a_degraded_one_not_at_all() {
        let gate = after(&Policy::direct(), [ready(0), ready(250)]);
        let (young, old) = (Duration::from_millis(249) + PROOF_LIFETIME, Duration::from_millis(250) + PROOF_LIFETIME);
        assert_eq!(gate.proven_at(young), Some(Duration::from_millis(250)));
        assert_eq!(gate.proven_at(old), None);
        assert_eq!(gate.step(&Policy::direct(), &unknown(500)).proven_at(Duration::from_millis(500)), None);
    }

    #[test]
    fn proofs_of_absence_are_not_proofs_of_injection() {
        let policy = Policy::proven();
        let gate = after(&policy, [absent(0), absent(500), ready(1000)]);
        assert!(matches!(gate, Gate::Settling { proofs: 1, .. }), "{gate:?}");
    }
}
