//! The verdict as the prover publishes it, in the annotation `linkerd-gate/verdict` of its Lease.
//!
//! It is a format between programs of different versions: an agent of the previous release reads what the next one's prover
//! writes, and the other way round, for as long as an update rolls. Fields may be added; what cannot be understood is
//! *unknown*, which opens nothing and closes nothing.

use super::{
    evidence::{Evidence, Installation, Probe},
    gate::{Closure, Gate},
    outcome::Outcome,
    policy::Policy,
    verdict::{Basis, Obstacle},
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The format that this program writes.
pub const VERSION: u32 = 1;

/// The oldest format that this program reads. There is no older one yet.
pub const OLDEST_READ: u32 = 1;

/// At most this many names or addresses are published: an annotation is no place for a thousand.
const AT_MOST: usize = 16;

/// What the prover knows, for everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publication {
    /// The format: see [`VERSION`].
    pub version: u32,

    /// What the prover's gate says.
    #[serde(flatten)]
    pub word: Word,

    /// DaemonSets (`namespace/name`) that must run on every node and do not tolerate our taint: while there is one, no node
    /// is tainted. At most 16 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub yield_to: Vec<String>,

    /// Where identity can be asked, so that a thousand agents need not watch its endpoints. At most 16 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<SocketAddr>,
}

/// The prover's gate, in the words of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "kebab-case")]
pub enum Word {
    /// A pod created now would be injected and certified.
    Open {
        /// How that is known.
        basis: Basis,
        /// Tells one proof from the next: it is another number after each look of the prover's that found everything ready.
        /// Never compared with a clock.
        #[serde(default)]
        proof: u64,
        /// What could not be looked at lately.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        doubt: Vec<Obstacle>,
    },
    /// Everything answers, but not for long enough yet.
    Settling,
    /// Something is in the way, or nobody knows enough.
    Closed {
        /// What is in the way; empty where the prover has not looked yet.
        #[serde(default)]
        obstacles: Vec<Obstacle>,
    },
}

/// Why a published verdict cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Its format is of another time.
    #[error("it is in format {0}, and this version reads {OLDEST_READ} to {VERSION}")]
    Version(u32),
    /// It is no such JSON.
    #[error("it cannot be read: {0}")]
    Content(String),
}

// === impl Publication ===

impl Publication {
    /// What a prover with this gate publishes.
    pub fn new(gate: &Gate, mut yield_to: Vec<String>, mut identity: Vec<SocketAddr>) -> Self {
        yield_to.truncate(AT_MOST);
        identity.truncate(AT_MOST);
        Self { version: VERSION, word: Word::of(gate), yield_to, identity }
    }

    /// Reads the annotation.
    ///
    /// # Errors
    /// A format that is not ours to read, or no such JSON.
    pub fn read(annotation: &str) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Format {
            version: u32,
        }
        let content = |error: serde_json::Error| Unreadable::Content(error.to_string());
        // The version first: another format may have other words for everything else.
        let Format { version } = serde_json::from_str(annotation).map_err(content)?;
        if !(OLDEST_READ..=VERSION).contains(&version) {
            return Err(Unreadable::Version(version));
        }
        serde_json::from_str(annotation).map_err(content)
    }

    /// The annotation.
    pub fn write(&self) -> String {
        // Strings, numbers and lists of them: there is nothing that JSON could refuse.
        serde_json::to_string(self).unwrap_or_else(|error| unreachable!("a verdict is no JSON: {error}"))
    }

    /// The evidence in it, for one who requires what `policy` does: as much as the prover knew, and no more.
    ///
    /// A gate that is closed for want of looks, or still settling, says *unknown* and not *not ready*: a prover that begins
    /// anew must not close what evidence had opened.
    pub fn evidence(&self, policy: &Policy, evidence: Evidence) -> Evidence {
        let present = |evidence: Evidence| all_ready(policy, evidence.with_installation(Installation::Present));
        let unknown = |why| Outcome::unknown(why);
        match &self.word {
            Word::Open { basis: Basis::NotInstalled, doubt, .. } if doubt.is_empty() => {
                evidence.with_installation(Installation::Absent)
            }
            // It was absent when somebody looked last: whether it still is nobody knows.
            Word::Open { basis: Basis::NotInstalled, doubt, .. } => told(all_ready(policy, evidence), doubt),
            // A prover that does not prove is no prover of ours.
            Word::Open { basis: Basis::Reachable, .. } => {
                undecided(policy, evidence, unknown("the published verdict is not a proven one"))
            }
            Word::Open { basis: Basis::Proven, doubt, .. } => told(present(evidence), doubt),
            Word::Settling => undecided(policy, evidence, unknown("the prover makes sure that it stays so")),
            Word::Closed { obstacles } if obstacles.is_empty() => {
                undecided(policy, evidence, unknown("the prover has not looked yet"))
            }
            Word::Closed { obstacles } => told(present(evidence), obstacles),
        }
    }
}

/// Evidence that is not known to be in the way of anything, for what is known to be to be noted in it.
fn all_ready(policy: &Policy, evidence: Evidence) -> Evidence {
    policy.required().iter().fold(evidence, |evidence, probe| evidence.with(*probe, Outcome::Ready))
}

/// Evidence of somebody who cannot tell. One probe speaks for all of them, so that people are told one reason and not the same
/// one four times.
pub(super) fn undecided(policy: &Policy, evidence: Evidence, outcome: Outcome) -> Evidence {
    all_ready(policy, evidence).with(Probe::Injection, outcome)
}

fn told(evidence: Evidence, obstacles: &[Obstacle]) -> Evidence {
    obstacles.iter().fold(evidence, |evidence, Obstacle { probe, outcome }| evidence.with(*probe, outcome.clone()))
}

// === impl Word ===

impl Word {
    fn of(gate: &Gate) -> Self {
        let list = |obstacles: &super::Obstacles| obstacles.iter().cloned().collect::<Vec<_>>();
        match gate {
            Gate::Open { basis, latest, doubt, .. } => Self::Open {
                basis: *basis,
                proof: u64::try_from(latest.as_micros()).unwrap_or(u64::MAX),
                doubt: doubt.as_ref().map(list).unwrap_or_default(),
            },
            Gate::Settling { .. } => Self::Settling,
            Gate::Closed { why: Closure::NoEvidence | Closure::Overtaken, .. } => {
                Self::Closed { obstacles: Vec::new() }
            }
            Gate::Closed { why, .. } => Self::Closed { obstacles: why.obstacles().map(list).unwrap_or_default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn proven(millis: u64) -> Evidence {
        let evidence = Evidence::at(Duration::from_millis(millis)).with_installation(Installation::Present);
        Probe::ALL.into_iter().fold(evidence, |evidence, probe| evidence.with(probe, Outcome::Ready))
    }

    fn gate(story: impl IntoIterator<Item = Evidence>) -> Gate {
        story.into_iter().fold(Gate::closed(), |gate, evidence| gate.step(&Policy::proven(), &evidence))
    }

    /// What a follower's evidence says of a gate that was published.
    fn followed(gate: &Gate) -> Evidence {
        let published = Publication::new(gate, Vec::new(), Vec::new());
        let read = Publication::read(&published.write()).unwrap();
        assert_eq!(read, published);
        read.evidence(&Policy::proven(), Evidence::at(Duration::ZERO))
    }

    fn says(gate: &Gate) -> String {
        super::super::Verdict::of(&Policy::proven(), &followed(gate)).to_string()
    }

    #[test]
    fn what_is_published_is_what_a_follower_learns() {
        let open = gate([proven(0), proven(600), proven(1200)]);
        assert_eq!(says(&open), "open: proven by an injected dry-run pod");
        let refused =
            open.clone().step(&Policy::proven(), &proven(1300).with(Probe::Injector, Outcome::not_ready("no")));
        assert_eq!(says(&refused), "closed: injector not ready: no");
        let absent = gate(
            (0..3).map(|second| Evidence::at(Duration::from_secs(second)).with_installation(Installation::Absent)),
        );
        assert!(says(&absent).contains("Linkerd is not installed"), "{}", says(&absent));
    }

    #[test]
    fn a_prover_that_begins_anew_closes_nothing() {
        for beginning in [gate([]), gate([proven(0)]), gate([Evidence::at(Duration::ZERO)])] {
            assert!(says(&beginning).starts_with("undecided: "), "{}", says(&beginning));
        }
    }

    #[test]
    fn a_doubt_of_the_provers_is_a_doubt_of_the_followers() {
        let open = gate([proven(0), proven(600), proven(1200)]);
        let doubted = open.step(&Policy::proven(), &Evidence::at(Duration::from_secs(2)));
        assert!(doubted.is_open());
        assert!(says(&doubted).starts_with("undecided: "), "{}", says(&doubted));
    }

    #[test]
    fn a_doubted_absence_opens_for_nobody_who_is_not_open() {
        let absent = |second| Evidence::at(Duration::from_secs(second)).with_installation(Installation::Absent);
        let open = gate((0..3).map(absent));
        let doubted = open.step(&Policy::proven(), &Evidence::at(Duration::from_secs(3)));
        assert_eq!(doubted.basis(), Some(Basis::NotInstalled));
        assert!(says(&doubted).starts_with("undecided: "), "{}", says(&doubted));
    }

    #[test]
    fn what_is_merely_reachable_opens_for_nobody() {
        let published = r#"{"version":1,"gate":"open","basis":"reachable"}"#;
        let read = Publication::read(published).unwrap();
        let evidence = read.evidence(&Policy::proven(), Evidence::at(Duration::ZERO));
        assert!(!super::super::Verdict::of(&Policy::proven(), &evidence).is_open());
    }

    #[test]
    fn the_format_is_what_it_is_documented_to_be() {
        let refused = gate([proven(0).with(Probe::Identity, Outcome::not_ready("refused"))]);
        let published =
            Publication::new(&refused, vec!["kube-system/cni".to_owned()], vec!["10.1.0.7:8080".parse().unwrap()]);
        assert_eq!(
            published.write(),
            r#"{"version":1,"gate":"closed","obstacles":[{"probe":"identity","outcome":"not-ready","reason":"refused"}],"yieldTo":["kube-system/cni"],"identity":["10.1.0.7:8080"]}"#
        );
        let open = gate([proven(0), proven(600), proven(1200)]);
        assert_eq!(
            Publication::new(&open, Vec::new(), Vec::new()).write(),
            r#"{"version":1,"gate":"open","basis":"proven","proof":1200000}"#
        );
    }

    #[test]
    fn a_field_that_a_later_release_adds_does_no_harm_and_a_later_format_is_not_guessed_at() {
        let more = r#"{"version":1,"gate":"open","basis":"proven","since":"yesterday"}"#;
        assert!(Publication::read(more).is_ok());
        assert_eq!(Publication::read(r#"{"version":2,"verdict":"yes"}"#), Err(Unreadable::Version(2)));
        assert_eq!(Publication::read(r#"{"version":0}"#), Err(Unreadable::Version(0)));
        for broken in ["", "open", r#"{"gate":"open"}"#, r#"{"version":1}"#, r#"{"version":1,"gate":"ajar"}"#] {
            assert!(matches!(Publication::read(broken), Err(Unreadable::Content(_))), "{broken}");
        }
    }

    #[test]
    fn a_thousand_names_are_cut() {
        let many = (0..1000).map(|number| format!("kube-system/{number}")).collect();
        assert_eq!(Publication::new(&Gate::closed(), many, Vec::new()).yield_to.len(), AT_MOST);
    }
}
