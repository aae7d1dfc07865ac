//! The verdict as the prover publishes it, in the annotation `linkerd-gate/verdict` of its Lease.
//!
//! It is a format between programs of different versions: an agent of the previous release reads what the next one's prover
//! writes, and the other way round, for as long as an update rolls. Fields may be added; what cannot be understood is
//! *unknown*, which opens nothing and closes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::format::{self, Unreadable};
use crate::decide::readiness::evidence::{Evidence, LinkerdInstallation, Probe};
use crate::decide::readiness::gate::{ClosedReason, Gate};
use crate::decide::readiness::policy::Policy;
use crate::decide::readiness::probe_result::ProbeResult;
use crate::decide::readiness::verdict::{Basis, FailedProbe, of_any_release};

/// On which nodes which DaemonSets (`namespace/name`) lack their pod because of our taint.
pub type TaintSuppressions = BTreeMap<String, BTreeSet<String>>;

/// In the place of a node's name: too many to name them, so that every node yields.
pub const EVERY_NODE: &str = "*";

/// The format that this program writes.
pub const VERSION: u32 = 1;

/// The oldest format that this program reads. There is no older one yet.
pub const OLDEST_READ: u32 = 1;

/// At most this many names or addresses are published: an annotation is no place for a thousand.
const AT_MOST: usize = 16;

/// At most this many names of nodes in all.
const NODES_AT_MOST: usize = 80;

/// What the prover knows, for all agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedVerdict {
    /// The format: see [`VERSION`].
    pub version: u32,

    /// What the prover's gate says.
    #[serde(flatten)]
    pub verdict: WireVerdict,

    /// Essential DaemonSets (`namespace/name`) that do not tolerate our taint, and the nodes that lack a pod of theirs: those are not
    /// tainted meanwhile. At most 16 DaemonSets; where more than 80 nodes would be named, it is `*`, which is every node.
    #[serde(default, skip_serializing_if = "TaintSuppressions::is_empty")]
    pub taint_suppressed_by: TaintSuppressions,

    /// Where identity can be asked, so that a thousand agents need not watch its endpoints. At most 16 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<SocketAddr>,
}

/// The prover's gate, in the words of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum WireVerdict {
    /// A pod created now would be injected and certified.
    Open {
        /// How that is known.
        basis: Basis,
        /// Tells one proof from the next: it is another number after each look of the prover's that found everything ready.
        /// Never compared with a clock.
        #[serde(default)]
        proof: u64,
        /// What could not be looked at lately.
        #[serde(default, deserialize_with = "of_any_release", skip_serializing_if = "Vec::is_empty")]
        degraded: Vec<FailedProbe>,
    },
    /// Everything answers, but not for long enough yet.
    Settling,
    /// A probe failed, or too little is known.
    Closed {
        /// What is in the way; empty where the prover has not looked yet.
        #[serde(default, deserialize_with = "of_any_release")]
        failed_probes: Vec<FailedProbe>,
    },
}

// === impl PublishedVerdict ===

impl PublishedVerdict {
    /// What a prover with this gate publishes.
    pub fn new(gate: &Gate, suppressions: TaintSuppressions, mut identity: Vec<SocketAddr>) -> Self {
        identity.truncate(AT_MOST);
        Self { version: VERSION, verdict: WireVerdict::of(gate), taint_suppressed_by: cut(suppressions), identity }
    }

    /// The DaemonSets that a node yields to.
    pub fn suppressed_by(&self, node: &str) -> Vec<String> {
        let concerned = |nodes: &BTreeSet<String>| nodes.contains(node) || nodes.contains(EVERY_NODE);
        self.taint_suppressed_by.iter().filter(|(_, nodes)| concerned(nodes)).map(|(set, _)| set.clone()).collect()
    }

    /// Reads the annotation.
    ///
    /// # Errors
    /// A format that is not ours to read, or no such JSON.
    pub fn read(annotation: &str) -> Result<Self, Unreadable> {
        format::read(annotation, OLDEST_READ..=VERSION)
    }

    /// The annotation.
    pub fn write(&self) -> String {
        // Strings, numbers and lists of them: there is nothing that JSON could refuse.
        serde_json::to_string(self).unwrap_or_else(|error| unreachable!("a verdict is no JSON: {error}"))
    }

    /// The evidence in it, for one who requires what `policy` does: as much as the prover knew, and no more.
    ///
    /// A gate that is closed because no probe has run, or still settling, says *unknown* and not *not ready*: a prover that begins
    /// again must not close what evidence had opened.
    pub fn evidence(&self, policy: &Policy, evidence: Evidence) -> Evidence {
        let present =
            |evidence: Evidence| all_ready(policy, evidence.with_linkerd_installation(LinkerdInstallation::Present));
        let unknown = |why| ProbeResult::unknown(why);
        match &self.verdict {
            WireVerdict::Open { basis: Basis::NotInstalled, degraded, .. } if degraded.is_empty() => {
                evidence.with_linkerd_installation(LinkerdInstallation::Absent)
            }
            // It was absent at the last probe: whether it still is, is not known.
            WireVerdict::Open { basis: Basis::NotInstalled, degraded, .. } => {
                with_failed(all_ready(policy, evidence), degraded)
            }
            // A prover that does not prove is no prover of ours.
            WireVerdict::Open { basis: Basis::Reachable, .. } => {
                undecided(policy, evidence, unknown("the published verdict is not a proven one"))
            }
            WireVerdict::Open { basis: Basis::Proven, degraded, .. } => with_failed(present(evidence), degraded),
            WireVerdict::Settling => undecided(policy, evidence, unknown("the prover's gate is settling")),
            WireVerdict::Closed { failed_probes } if failed_probes.is_empty() => {
                undecided(policy, evidence, unknown("the prover has not probed yet"))
            }
            WireVerdict::Closed { failed_probes } => with_failed(present(evidence), failed_probes),
        }
    }
}

/// As much as an annotation has room for. What is left out errs on the side of yielding: nothing must wait for itself.
fn cut(all: TaintSuppressions) -> TaintSuppressions {
    let mut left = NODES_AT_MOST;
    let everywhere = || BTreeSet::from([EVERY_NODE.to_owned()]);
    let mut cut: TaintSuppressions = TaintSuppressions::new();
    for (place, (set, nodes)) in all.into_iter().enumerate() {
        if place == AT_MOST {
            // The last that has room speaks for all the others.
            if let Some(mut last) = cut.last_entry() {
                last.insert(everywhere());
            }
            break;
        }
        let nodes = if nodes.len() > left { everywhere() } else { nodes };
        left -= nodes.len().min(left);
        cut.insert(set, nodes);
    }
    cut
}

/// Evidence that is not known to be in the way of anything, for what is known to be to be noted in it.
fn all_ready(policy: &Policy, evidence: Evidence) -> Evidence {
    policy.required().iter().fold(evidence, |evidence, probe| evidence.with(*probe, ProbeResult::Ready))
}

/// Evidence without a result. One probe stands for all of them, so that a line has one reason and not the same
/// one four times.
pub(super) fn undecided(policy: &Policy, evidence: Evidence, outcome: ProbeResult) -> Evidence {
    all_ready(policy, evidence).with(Probe::Injection, outcome)
}

/// Of two results of one probe the one that closes counts: that of another release's probe stands beside our own.
fn with_failed(evidence: Evidence, failed_probes: &[FailedProbe]) -> Evidence {
    failed_probes.iter().fold(evidence, |evidence, FailedProbe { probe, result }| match evidence.result(*probe) {
        ProbeResult::NotReady(_) => evidence,
        ProbeResult::Ready | ProbeResult::Unknown(_) => evidence.with(*probe, result.clone()),
    })
}

// === impl WireVerdict ===

impl WireVerdict {
    fn of(gate: &Gate) -> Self {
        let list = |failed_probes: &crate::decide::FailedProbes| failed_probes.iter().cloned().collect::<Vec<_>>();
        match gate {
            Gate::Open { basis, latest, degraded, .. } => Self::Open {
                basis: *basis,
                proof: u64::try_from(latest.as_micros()).unwrap_or(u64::MAX),
                degraded: degraded.as_ref().map(list).unwrap_or_default(),
            },
            Gate::Settling { .. } => Self::Settling,
            Gate::Closed { why: ClosedReason::NoEvidence | ClosedReason::Outdated, .. } => {
                Self::Closed { failed_probes: Vec::new() }
            }
            Gate::Closed { why, .. } => {
                Self::Closed { failed_probes: why.failed_probes().map(list).unwrap_or_default() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn proven(millis: u64) -> Evidence {
        let evidence =
            Evidence::at(Duration::from_millis(millis)).with_linkerd_installation(LinkerdInstallation::Present);
        Probe::ALL.into_iter().fold(evidence, |evidence, probe| evidence.with(probe, ProbeResult::Ready))
    }

    fn gate(story: impl IntoIterator<Item = Evidence>) -> Gate {
        story.into_iter().fold(Gate::closed(), |gate, evidence| gate.step(&Policy::proven(), &evidence))
    }

    /// What a follower's evidence says of a gate that was published.
    fn followed(gate: &Gate) -> Evidence {
        let published = PublishedVerdict::new(gate, TaintSuppressions::new(), Vec::new());
        let read = PublishedVerdict::read(&published.write()).unwrap();
        assert_eq!(read, published);
        read.evidence(&Policy::proven(), Evidence::at(Duration::ZERO))
    }

    fn says(gate: &Gate) -> String {
        crate::decide::Verdict::of(&Policy::proven(), &followed(gate)).to_string()
    }

    #[test]
    fn what_is_published_is_what_a_follower_learns() {
        let open = gate([proven(0), proven(600), proven(1200)]);
        assert_eq!(says(&open), "open: proven by an injected dry-run pod");
        let refused =
            open.clone().step(&Policy::proven(), &proven(1300).with(Probe::Injector, ProbeResult::not_ready("no")));
        assert_eq!(says(&refused), "closed: injector not ready: no");
        let absent = gate((0..3).map(|second| {
            Evidence::at(Duration::from_secs(second)).with_linkerd_installation(LinkerdInstallation::Absent)
        }));
        assert!(says(&absent).contains("Linkerd is not installed"), "{}", says(&absent));
    }

    #[test]
    fn a_new_prover_publishes_undecided() {
        for beginning in [gate([]), gate([proven(0)]), gate([Evidence::at(Duration::ZERO)])] {
            assert!(says(&beginning).starts_with("undecided: "), "{}", says(&beginning));
        }
    }

    #[test]
    fn a_degraded_prover_publishes_undecided() {
        let open = gate([proven(0), proven(600), proven(1200)]);
        let degraded = open.step(&Policy::proven(), &Evidence::at(Duration::from_secs(2)));
        assert!(degraded.is_open());
        assert!(says(&degraded).starts_with("undecided: "), "{}", says(&degraded));
    }

    #[test]
    fn a_degraded_absence_is_published_as_undecided() {
        let absent =
            |second| Evidence::at(Duration::from_secs(second)).with_linkerd_installation(LinkerdInstallation::Absent);
        let open = gate((0..3).map(absent));
        let degraded = open.step(&Policy::proven(), &Evidence::at(Duration::from_secs(3)));
        assert_eq!(degraded.basis(), Some(Basis::NotInstalled));
        assert!(says(&degraded).starts_with("undecided: "), "{}", says(&degraded));
    }

    #[test]
    fn a_reachable_basis_opens_no_follower() {
        let published = r#"{"version":1,"gate":"open","basis":"reachable"}"#;
        let read = PublishedVerdict::read(published).unwrap();
        let evidence = read.evidence(&Policy::proven(), Evidence::at(Duration::ZERO));
        assert!(!crate::decide::Verdict::of(&Policy::proven(), &evidence).is_open());
    }

    #[test]
    fn the_format_is_what_it_is_documented_to_be() {
        let refused = gate([proven(0).with(Probe::Identity, ProbeResult::not_ready("refused"))]);
        let published =
            PublishedVerdict::new(&refused, lacking("kube-system/cni", 1), vec!["10.1.0.7:8080".parse().unwrap()]);
        assert_eq!(
            published.write(),
            r#"{"version":1,"gate":"closed","failedProbes":[{"probe":"identity","result":"not-ready","reason":"refused"}],"taintSuppressedBy":{"kube-system/cni":["node-0"]},"identity":["10.1.0.7:8080"]}"#
        );
        let open = gate([proven(0), proven(600), proven(1200)]);
        assert_eq!(
            PublishedVerdict::new(&open, TaintSuppressions::new(), Vec::new()).write(),
            r#"{"version":1,"gate":"open","basis":"proven","proof":1200000}"#
        );
    }

    #[test]
    fn a_published_verdict_ignores_new_fields_and_refuses_versions() {
        let more = r#"{"version":1,"gate":"open","basis":"proven","since":"yesterday"}"#;
        assert!(PublishedVerdict::read(more).is_ok());
        assert_eq!(
            PublishedVerdict::read(r#"{"version":2,"verdict":"yes"}"#),
            Err(Unreadable::Version { found: 2, read: OLDEST_READ..=VERSION })
        );
        assert_eq!(
            PublishedVerdict::read(r#"{"version":0}"#),
            Err(Unreadable::Version { found: 0, read: OLDEST_READ..=VERSION })
        );
        for broken in ["", "open", r#"{"gate":"open"}"#, r#"{"version":1}"#, r#"{"version":1,"gate":"ajar"}"#] {
            assert!(matches!(PublishedVerdict::read(broken), Err(Unreadable::Content(_))), "{broken}");
        }
    }

    #[test]
    fn a_probe_that_a_later_release_adds_closes_and_never_opens() {
        let closed = r#"{"version":1,"gate":"closed","failedProbes":[{"probe":"trust","result":"not-ready","reason":"expired"}]}"#;
        let read = PublishedVerdict::read(closed).unwrap();
        let says = |read: &PublishedVerdict| {
            let evidence = read.evidence(&Policy::proven(), Evidence::at(Duration::ZERO));
            crate::decide::Verdict::of(&Policy::proven(), &evidence).to_string()
        };
        assert_eq!(says(&read), "closed: injection not ready: trust, a probe of another release: expired");
        let degraded = r#"{"version":1,"gate":"open","basis":"proven","degraded":[{"probe":"trust","result":"lost"}]}"#;
        let read = PublishedVerdict::read(degraded).unwrap();
        assert!(
            says(&read).starts_with("undecided: injection unknown: trust, a probe of another release"),
            "{}",
            says(&read)
        );
        let two = r#"{"version":1,"gate":"closed","failedProbes":[
            {"probe":"injection","result":"not-ready","reason":"bare"},{"probe":"trust","result":"unknown","reason":"no"}]}"#;
        assert_eq!(says(&PublishedVerdict::read(two).unwrap()), "closed: injection not ready: bare");
    }

    fn lacking(set: &str, nodes: usize) -> TaintSuppressions {
        TaintSuppressions::from([(set.to_owned(), (0..nodes).map(|node| format!("node-{node}")).collect())])
    }

    #[test]
    fn a_nodes_taint_is_suppressed_only_by_daemons_it_lacks() {
        let published = PublishedVerdict::new(&Gate::closed(), lacking("kube-system/cni", 2), Vec::new());
        assert_eq!(published.suppressed_by("node-1"), ["kube-system/cni"]);
        assert!(published.suppressed_by("node-2").is_empty());
    }

    #[test]
    fn a_suppression_list_that_is_too_long_applies_everywhere() {
        let many = PublishedVerdict::new(&Gate::closed(), lacking("kube-system/cni", 1000), Vec::new());
        assert_eq!(many.suppressed_by("node-999"), ["kube-system/cni"]);
        assert!(many.write().len() < 200, "{}", many.write());
        let sets = (0..100).flat_map(|set| lacking(&format!("kube-system/{set:03}"), 1)).collect();
        let sets = PublishedVerdict::new(&Gate::closed(), sets, Vec::new());
        assert_eq!(sets.taint_suppressed_by.len(), AT_MOST);
        assert_eq!(
            sets.suppressed_by("node-of-the-last"),
            ["kube-system/015"],
            "those that are left out are somewhere"
        );
        // A name of a node or a DaemonSet has 253 characters at most, and the annotation 32 KiB (20-agent-policies.yaml).
        let longest = |set: u32| format!("kube-system/{set:0253}");
        let nodes = |set: u32| (0..5).map(|node| format!("{:0253}", set * 5 + node)).collect();
        let wide = (0..16).map(|set| (longest(set), nodes(set))).collect();
        assert!(PublishedVerdict::new(&Gate::closed(), wide, Vec::new()).write().len() < 28 * 1024);
    }
}
