//! What one piece of evidence says under a policy.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::evidence::{Evidence, LinkerdInstallation, Probe};
use super::policy::Policy;
use super::probe_result::ProbeResult;

/// Would a pod created now be injected, and could its proxy get a certificate?
///
/// A verdict is drawn from one piece of evidence and remembers nothing; [`Gate`](crate::decide::Gate) adds memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, as far as the basis goes.
    Open(Basis),

    /// No: at least one required probe looked and found it not ready.
    Closed(FailedProbes),

    /// Not known: no required probe found it not ready, but at least one had no result.
    Undecided(FailedProbes),
}

/// How an open verdict is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// A dry-run pod came back injected: the path that a real pod takes was taken.
    Proven,

    /// What had to answer, answered. The API server's own way to the injector was not tried.
    Reachable,

    /// There is no webhook configuration of Linkerd's injector, by a successful list: nothing is gated.
    NotInstalled,
}

/// The required probes that are in the way, each with its outcome: at least one, in the order of [`Probe::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FailedProbes(Vec<FailedProbe>);

/// One required probe that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedProbe {
    /// Which one.
    pub probe: Probe,

    /// What it found: never [`ProbeResult::Ready`].
    #[serde(flatten)]
    pub result: ProbeResult,
}

/// Reads failed probes as this or another release wrote them. A probe or a result that this release does not know stands as one of
/// [`Probe::Injection`], which every proof requires: it can close a gate, and opens none.
///
/// # Errors
/// No list of objects with the name of a probe.
pub fn of_any_release<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FailedProbe>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Ours(FailedProbe),
        Other {
            probe: String,
            #[serde(default)]
            result: String,
            #[serde(default)]
            reason: String,
        },
    }
    let ours = |entry| match entry {
        Entry::Ours(failed_probe) => failed_probe,
        Entry::Other { probe, result, reason } => {
            let why = format!("{probe}, a probe of another release: {reason}");
            let result = if result == "not-ready" { ProbeResult::not_ready(why) } else { ProbeResult::unknown(why) };
            FailedProbe { probe: Probe::Injection, result }
        }
    };
    Ok(Vec::<Entry>::deserialize(deserializer)?.into_iter().map(ours).collect())
}

// === impl Verdict ===

impl Verdict {
    /// What `evidence` says under `policy`.
    ///
    /// Linkerd's absence, where a list proved it, comes before every probe: with no injector no pod can be missed.
    pub fn of(policy: &Policy, evidence: &Evidence) -> Self {
        if evidence.installation == LinkerdInstallation::Absent {
            return Self::Open(Basis::NotInstalled);
        }

        let failed_probes: Vec<_> = policy
            .required()
            .iter()
            .map(|&probe| (probe, evidence.result(probe)))
            .filter(|(_, outcome)| !outcome.is_ready())
            .map(|(probe, outcome)| FailedProbe { probe, result: outcome.clone() })
            .collect();

        if failed_probes.is_empty() {
            // Only a policy that *requires* the dry-run may call its verdict proven: no other policy counts its answers.
            return Self::Open(if policy.requires(Probe::Injection) { Basis::Proven } else { Basis::Reachable });
        }
        if failed_probes.iter().any(|failed_probe| matches!(failed_probe.result, ProbeResult::NotReady(_))) {
            Self::Closed(FailedProbes(failed_probes))
        } else {
            Self::Undecided(FailedProbes(failed_probes))
        }
    }

    /// Whether this is [`Verdict::Open`], on whatever basis.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// What is in the way; nothing where the verdict is open.
    pub fn failed_probes(&self) -> Option<&FailedProbes> {
        match self {
            Self::Open(_) => None,
            Self::Closed(failed_probes) | Self::Undecided(failed_probes) => Some(failed_probes),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(basis) => write!(f, "open: {basis}"),
            Self::Closed(failed_probes) => write!(f, "closed: {failed_probes}"),
            Self::Undecided(failed_probes) => write!(f, "undecided: {failed_probes}"),
        }
    }
}

// === impl Basis ===

impl Basis {
    /// One word for metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Reachable => "reachable",
            Self::NotInstalled => "not-installed",
        }
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proven => "proven by an injected dry-run pod",
            Self::Reachable => "reachable, though not proven through the API server",
            Self::NotInstalled => {
                "Linkerd is not installed (there is no webhook configuration of its injector), so nothing is held"
            }
        })
    }
}

// === impl FailedProbes ===

impl FailedProbes {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &FailedProbe> {
        self.0.iter()
    }
}

impl fmt::Display for FailedProbes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, failed_probe) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{failed_probe}")?;
        }
        Ok(())
    }
}

// === impl FailedProbe ===

impl fmt::Display for FailedProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, result: outcome } = self;
        write!(f, "{probe} {outcome}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn evidence(outcomes: impl IntoIterator<Item = (Probe, ProbeResult)>) -> Evidence {
        outcomes
            .into_iter()
            .fold(Evidence::at(Duration::ZERO), |evidence, (probe, outcome)| evidence.with(probe, outcome))
    }

    #[test]
    fn with_all_required_probes_ready_the_verdict_names_its_basis() {
        let all = evidence(Probe::ALL.map(|probe| (probe, ProbeResult::Ready)));
        assert_eq!(Verdict::of(&Policy::proven(), &all), Verdict::Open(Basis::Proven));
        assert_eq!(
            Verdict::of(&Policy::direct(), &all),
            Verdict::Open(Basis::Reachable),
            "a dry-run that the policy does not require proves nothing for it"
        );
    }

    #[test]
    fn a_probe_that_is_not_required_closes_nothing() {
        let evidence = evidence([
            (Probe::Injector, ProbeResult::Ready),
            (Probe::Identity, ProbeResult::Ready),
            (Probe::Destination, ProbeResult::not_ready("503")),
        ]);
        assert!(Verdict::of(&Policy::direct(), &evidence).is_open());
        assert_eq!(
            Verdict::of(&Policy::direct().and(Probe::Destination), &evidence).to_string(),
            "closed: destination not ready: 503"
        );
    }

    #[test]
    fn the_reason_names_every_failed_probe_on_one_line() {
        let evidence = evidence([
            (Probe::Identity, ProbeResult::unknown("timed out after 900 ms")),
            (Probe::Injector, ProbeResult::not_ready("connection\nrefused")),
            (Probe::Webhook, ProbeResult::Ready),
        ]);
        assert_eq!(
            Verdict::of(&Policy::proven(), &evidence).to_string(),
            "closed: injector not ready: connection refused; injection unknown: it has not run; \
             identity unknown: timed out after 900 ms"
        );
    }

    #[test]
    fn nothing_but_unknowns_is_undecided() {
        let evidence = evidence([(Probe::Injector, ProbeResult::Ready)]);
        assert_eq!(
            Verdict::of(&Policy::direct(), &evidence).to_string(),
            "undecided: identity unknown: it has not run"
        );
    }

    #[test]
    fn no_linkerd_by_a_successful_list_gates_nothing_and_says_so() {
        let evidence = Evidence::at(Duration::ZERO).with_linkerd_installation(LinkerdInstallation::Absent);
        let verdict = Verdict::of(&Policy::proven(), &evidence);
        assert_eq!(verdict, Verdict::Open(Basis::NotInstalled));
        assert!(verdict.to_string().contains("Linkerd is not installed"));
    }

    #[test]
    fn a_list_that_failed_is_not_an_absence() {
        let evidence = Evidence::at(Duration::ZERO).with_linkerd_installation(LinkerdInstallation::Unseen);
        assert!(!Verdict::of(&Policy::proven(), &evidence).is_open());
    }
}
