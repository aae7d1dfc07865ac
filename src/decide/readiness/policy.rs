//! What a role asks of the evidence before it opens.

use std::num::NonZeroU32;
use std::time::Duration;

use super::evidence::Probe;

/// Which probes must be ready, how often in a row, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    // Never empty: a policy that requires nothing would open on no evidence at all.
    required: Vec<Probe>,
    proofs: NonZeroU32,
    settling: Duration,
}

/// A policy that requires no probe was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a policy has to require at least one probe: one that requires none would be open before any probe ran")]
pub struct NothingRequired;

// === impl Policy ===

impl Policy {
    /// A policy of one's own. Naming a probe twice requires it once; `settling` may be zero.
    pub fn new(
        required: impl IntoIterator<Item = Probe>,
        proofs: NonZeroU32,
        settling: Duration,
    ) -> Result<Self, NothingRequired> {
        let mut required: Vec<_> = required.into_iter().collect();
        required.sort_unstable();
        required.dedup();
        if required.is_empty() {
            return Err(NothingRequired);
        }
        Ok(Self { required, proofs, settling })
    }

    /// What `wait` asks when it looks for itself, without rights: injector and identity, twice in a row, for 250 ms.
    ///
    /// Fewer proofs than [`Policy::proven`], because each of them is a real answer of the two services, and because a pod is
    /// waiting: more would only add to its start.
    pub fn direct() -> Self {
        const PROOFS: NonZeroU32 = NonZeroU32::new(2).unwrap();
        Self { required: vec![Probe::Injector, Probe::Identity], proofs: PROOFS, settling: Duration::from_millis(250) }
    }

    /// What the prover asks: a webhook, an injector, an injected dry-run and an identity, three times in a row, for 1 s.
    ///
    /// One such verdict opens every node, so one lucky dry-run in the middle of a roll-out must not be enough.
    pub fn proven() -> Self {
        const PROOFS: NonZeroU32 = NonZeroU32::new(3).unwrap();
        Self {
            required: vec![Probe::Webhook, Probe::Injector, Probe::Injection, Probe::Identity],
            proofs: PROOFS,
            settling: Duration::from_secs(1),
        }
    }

    /// The same policy, requiring `probe` as well.
    #[must_use]
    pub fn and(mut self, probe: Probe) -> Self {
        if let Err(place) = self.required.binary_search(&probe) {
            self.required.insert(place, probe);
        }
        self
    }

    /// The probes that must be ready: at least one, each once, in the order of [`Probe::ALL`].
    pub fn required(&self) -> &[Probe] {
        &self.required
    }

    /// Whether `probe` must be ready.
    pub fn requires(&self, probe: Probe) -> bool {
        self.required.contains(&probe)
    }

    /// How many ready pieces of evidence in a row open a gate.
    pub fn proofs(&self) -> NonZeroU32 {
        self.proofs
    }

    /// How long, at least, lies between the first of them and the last.
    pub fn settling(&self) -> Duration {
        self.settling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_requires_nothing_cannot_be_made() {
        assert_eq!(Policy::new([], NonZeroU32::MIN, Duration::ZERO), Err(NothingRequired));
    }

    #[test]
    fn required_probes_are_kept_once_and_in_order() {
        let policy = Policy::new([Probe::Policy, Probe::Injector, Probe::Policy], NonZeroU32::MIN, Duration::ZERO)
            .unwrap()
            .and(Probe::Identity)
            .and(Probe::Injector);
        assert_eq!(policy.required(), [Probe::Injector, Probe::Identity, Probe::Policy]);
    }

    #[test]
    fn only_the_provers_policy_requires_an_injected_dry_run() {
        assert!(Policy::proven().requires(Probe::Injection));
        assert!(!Policy::direct().requires(Probe::Injection));
    }
}
