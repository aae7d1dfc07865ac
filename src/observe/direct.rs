//! Direct mode: `wait` asks Linkerd itself, by cluster DNS, with no rights at all.

use std::time::Duration;

use super::admin::Admin;
use super::dns::Dns;
use super::identity::Identity;
use super::injector::Injector;
use crate::config::{Component, Linkerd};
use crate::decide::{Evidence, Probe, ProbeResult};

/// How long the word of a part that was not asked again is passed on, while another part keeps the gate closed.
const PASSED_ON: Duration = Duration::from_secs(5);

/// The parts in the order in which they are asked alone: what costs a TLS handshake comes last.
const CHEAPEST_FIRST: [Probe; 4] = [Probe::Destination, Probe::Policy, Probe::Identity, Probe::Injector];

/// Looks at the parts of Linkerd that are required, and at no others.
///
/// One part that is not ready closes a gate whatever the others say. So it is asked alone until it is ready, and then all
/// are: that halves what a held pod costs itself and the cluster's DNS. What the others were last seen as is passed on
/// meanwhile, for people to read; in a look that finds every part ready, every part was asked.
pub struct Direct {
    names: Dns,
    injector: Option<Injector>,
    identity: Option<Identity>,
    destination: Option<Admin>,
    policy: Option<Admin>,
    last: Option<Last>,
}

/// What was found before.
struct Last {
    evidence: Evidence,
    /// When all parts were asked, by the clock of [`Evidence::taken`].
    all_asked: Duration,
}

/// How the issuer of the injector's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuer {
    /// Against the bundle in `LINKERD_GATE_CA_FILE`.
    Bundle,
    /// Not at all: there is no bundle.
    Unchecked,
}

// === impl Direct ===

impl Direct {
    /// Prepares to look at what `linkerd` requires. Sends nothing, and reads the CA bundle only when it looks.
    pub fn new(linkerd: &Linkerd, require: impl Fn(Component) -> bool) -> Self {
        let injector = || Injector::new(linkerd.injector.clone(), &linkerd.injector_name, linkerd.ca_file.clone());
        Self {
            names: Dns::default(),
            injector: require(Component::Injector).then(injector),
            identity: require(Component::Identity).then(|| Identity::new(linkerd.identity.clone())),
            destination: require(Component::Destination).then(|| Admin::new(linkerd.destination.clone())),
            policy: require(Component::Policy).then(|| Admin::new(linkerd.policy.clone())),
            last: None,
        }
    }

    /// How the injector's issuer is checked; nothing where the injector is not asked.
    pub fn injectors_issuer(&self) -> Option<Issuer> {
        let injector = self.injector.as_ref()?;
        Some(if injector.verifies_issuer() { Issuer::Bundle } else { Issuer::Unchecked })
    }

    /// One look; `taken` is the caller's clock. Ends by its own limits within seconds; dropping the future ends it at once,
    /// DNS queries and TLS handshakes included.
    pub async fn look(&mut self, taken: Duration) -> Evidence {
        let last = self.last.take().filter(|last| taken.saturating_sub(last.all_asked) < PASSED_ON);
        let last = match last.and_then(|last| Some((failed_probe(&last.evidence)?, last))) {
            None => Last { evidence: self.ask(|_| true, Evidence::at(taken)).await, all_asked: taken },
            Some((failed_probe, last)) => {
                let mut evidence = self.ask(|probe| probe == failed_probe, last.evidence).await;
                evidence.taken = taken;
                if evidence.result(failed_probe).is_ready() {
                    Last { evidence: self.ask(|probe| probe != failed_probe, evidence).await, all_asked: taken }
                } else {
                    Last { evidence, ..last }
                }
            }
        };
        self.last.insert(last).evidence.clone()
    }

    /// Asks those of the required parts that are `wanted`, all at once, and notes in `evidence` what they answer.
    async fn ask(&mut self, wanted: impl Fn(Probe) -> bool, evidence: Evidence) -> Evidence {
        let names = &self.names;
        let (injector, identity, destination, policy) = tokio::join!(
            async { Some(self.injector.as_mut().filter(|_| wanted(Probe::Injector))?.look(names).await) },
            async { Some(self.identity.as_ref().filter(|_| wanted(Probe::Identity))?.look(names).await) },
            async { Some(self.destination.as_ref().filter(|_| wanted(Probe::Destination))?.look(names).await) },
            async { Some(self.policy.as_ref().filter(|_| wanted(Probe::Policy))?.look(names).await) },
        );
        let found: [(Probe, Option<ProbeResult>); 4] = [
            (Probe::Injector, injector),
            (Probe::Identity, identity),
            (Probe::Destination, destination),
            (Probe::Policy, policy),
        ];
        found.into_iter().fold(evidence, |evidence, (probe, outcome)| match outcome {
            Some(outcome) => evidence.with(probe, outcome),
            None => evidence,
        })
    }
}

/// The part that alone keeps a gate closed: the cheapest of those that looked and are not ready. One that could not be
/// looked at says nothing, so then all are asked.
fn failed_probe(evidence: &Evidence) -> Option<Probe> {
    CHEAPEST_FIRST.into_iter().find(|probe| matches!(evidence.result(*probe), ProbeResult::NotReady(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_part_that_is_not_ready_is_probed_alone() {
        let evidence = Evidence::at(Duration::ZERO)
            .with(Probe::Injector, ProbeResult::not_ready("refused"))
            .with(Probe::Identity, ProbeResult::unknown("no DNS"));
        assert_eq!(failed_probe(&evidence), Some(Probe::Injector));
        assert_eq!(
            failed_probe(&evidence.with(Probe::Identity, ProbeResult::not_ready("refused"))),
            Some(Probe::Identity)
        );
        assert_eq!(failed_probe(&Evidence::at(Duration::ZERO)), None);
    }
}
