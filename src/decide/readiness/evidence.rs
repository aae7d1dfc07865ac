//! The answers of all probes at one instant.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::EnumCount;

use super::probe_result::ProbeResult;

/// One thing that can be looked at to learn whether a pod created now would be injected and certified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, EnumCount)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// The injector's webhook configuration exists, with a CA bundle that can be used.
    Webhook,

    /// The proxy injector answers, or the endpoints of its service are ready.
    Injector,

    /// A dry-run pod, sent through the API server, came back with a proxy. The only probe that *proves* injection.
    Injection,

    /// Linkerd's identity service answers: a new proxy could get its certificate.
    Identity,

    /// Linkerd's destination service answers.
    Destination,

    /// Linkerd's policy controller answers.
    Policy,
}

/// Whether Linkerd is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LinkerdInstallation {
    /// The probe has not run, or had no result.
    #[default]
    Unseen,

    /// A webhook configuration of the injector was seen.
    Present,

    /// A *successful* list returned no webhook configuration of the injector. A failed list is [`LinkerdInstallation::Unseen`].
    Absent,
}

/// What was found, and when.
///
/// A probe that has not run is `Unknown`, so leaving one out can never open a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When the evidence was taken, since an epoch that the caller chooses and keeps: a monotonic clock, please.
    pub taken: Duration,

    /// Whether Linkerd is there at all.
    pub installation: LinkerdInstallation,

    outcomes: [ProbeResult; Probe::ALL.len()],
}

/// A name that is none of the probes'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no probe is called {0:?}: the probes are webhook, injector, injection, identity, destination, policy")]
pub struct UnknownProbe(pub String);

// === impl Probe ===

impl Probe {
    /// All probes, in the order in which people read them: what a pod meets first comes first.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Webhook, Self::Injector, Self::Injection, Self::Identity, Self::Destination, Self::Policy];

    /// The name in logs, metrics and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Injector => "injector",
            Self::Injection => "injection",
            Self::Identity => "identity",
            Self::Destination => "destination",
            Self::Policy => "policy",
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Probe {
    type Err = UnknownProbe;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|probe| probe.as_str() == name).ok_or_else(|| UnknownProbe(name.to_owned()))
    }
}

// === impl Evidence ===

impl Evidence {
    /// Evidence taken at `taken` that says nothing yet: every probe is unknown, and so is the installation.
    pub fn at(taken: Duration) -> Self {
        Self {
            taken,
            installation: LinkerdInstallation::Unseen,
            outcomes: std::array::from_fn(|_| ProbeResult::unknown("it has not run")),
        }
    }

    /// The same evidence, with this outcome for `probe`.
    #[must_use]
    pub fn with(mut self, probe: Probe, outcome: ProbeResult) -> Self {
        self.outcomes[probe as usize] = outcome;
        self
    }

    /// The same evidence, with this knowledge of the installation.
    #[must_use]
    pub fn with_linkerd_installation(mut self, installation: LinkerdInstallation) -> Self {
        self.installation = installation;
        self
    }

    /// What `probe` found.
    pub fn result(&self, probe: Probe) -> &ProbeResult {
        &self.outcomes[probe as usize]
    }

    /// Every probe with what it found, in the order of [`Probe::ALL`].
    pub fn results(&self) -> impl Iterator<Item = (Probe, &ProbeResult)> {
        Probe::ALL.into_iter().zip(&self.outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_has_its_own_place_and_a_name_that_reads_back() {
        for (place, probe) in Probe::ALL.into_iter().enumerate() {
            assert_eq!(probe as usize, place, "{probe} is not where `outcome` looks");
            assert_eq!(probe.to_string().parse(), Ok(probe));
            assert_eq!(serde_json::to_value(probe).unwrap(), probe.as_str());
        }
    }

    #[test]
    fn an_unknown_probe_is_refused_with_the_names_of_all() {
        let error = "Identity".parse::<Probe>().unwrap_err().to_string();
        for probe in Probe::ALL {
            assert!(error.contains(probe.as_str()), "{error} does not offer {probe}");
        }
    }

    #[test]
    fn evidence_starts_out_knowing_nothing() {
        let evidence = Evidence::at(Duration::ZERO);
        assert_eq!(evidence.installation, LinkerdInstallation::Unseen);
        assert!(evidence.results().all(|(_, outcome)| matches!(outcome, ProbeResult::Unknown(_))));
    }
}
