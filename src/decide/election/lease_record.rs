//! The two Leases. The agents' one carries the prover's verdict, the controllers' one the number of pods that still wait for repair.
//! Here: who holds one, whether it is fresh, who may take it.
//!
//! Nothing here compares clocks: an instant in the Lease says only that it *changed*, and when we saw it change is by our own
//! monotonic clock. So whatever etcd remembers from before a reboot is stale until its holder renews it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use crate::decide::election::pending_repair;
use crate::decide::manual_override;

/// The name of the prover's Lease, in the namespace of the agents.
pub const PROVER_LEASE: &str = "linkerd-gate";

/// The name of the Lease that says which controller acts, in the same namespace.
pub const CONTROLLER_LEASE: &str = "linkerd-gate-controller";

/// The annotation that carries the [`PublishedVerdict`](crate::decide::PublishedVerdict).
pub const VERDICT: &str = "linkerd-gate/verdict";

/// How long after its last change a Lease counts as vacant, and its verdict as stale.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How often a prover renews it.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// A prover that has not renewed for this long no longer begins anything as one: others may soon take over. What it has begun
/// by then may still arrive; each of its writes has a precondition for that.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// The Lease, reduced to what decisions need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseRecord {
    /// For the precondition of the next write.
    pub resource_version: String,
    /// Who proves; nothing where it was given up.
    pub holder: Option<LeaseHolder>,
    /// What tells one renewal from the next: `spec.renewTime` as it is written. Never compared with a clock.
    pub renewed: Option<String>,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
    /// The annotation [`VERDICT`].
    pub verdict: Option<String>,
    /// The annotation [`manual_override::ANNOTATION`].
    pub manual_override: Option<String>,
    /// The annotation [`pending_repair::ANNOTATION`], on the controllers' Lease.
    pub pending_repair: Option<String>,
}

/// Who holds a Lease, as `spec.holderIdentity` names it: `NAME/DETAIL/INCARNATION`. That of an agent is `NODE/POD/BOOT`, that of a
/// controller `POD/NODE/UID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// What stays the same when it starts again: an agent's node, a controller's pod.
    pub name: String,
    /// For people: an agent's pod, a controller's node.
    pub detail: String,
    /// What is another one when it starts again: the boot id of an agent's node, the uid of a controller's pod.
    pub incarnation: String,
}

/// The changes of a Lease as one observer saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseObserver {
    latest: Option<Observation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Observation {
    holder: Option<LeaseHolder>,
    renewed: Option<String>,
    transitions: i32,
    /// When it was first seen like this.
    at: Duration,
    /// Whether it was seen to become like this. What was there at the first look may be as old as the last boot.
    changed: bool,
}

/// What an agent may do about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It is ours.
    Lead,
    /// It has a holder, until then at the latest unless the holder renews it.
    Follow {
        /// When it would be vacant, by the observer's clock.
        until: Duration,
    },
    /// It has no holder.
    Vacant(VacancyReason),
}

/// Why a Lease is vacant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VacancyReason {
    /// There is none.
    Absent,
    /// Its holder gave it up.
    GivenUp,
    /// Its holder was an agent of our node in an earlier boot: it cannot live.
    OfAnEarlierBoot,
    /// It was not renewed in time.
    Expired,
}

// === impl LeaseRecord ===

impl LeaseRecord {
    /// What decisions need of a Lease.
    pub fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let annotation = |key| lease.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        Self {
            resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()).map(|holder| LeaseHolder::read(&holder)),
            renewed: spec.renew_time.map(|time| time.0.to_string()),
            transitions: spec.lease_transitions.unwrap_or_default(),
            verdict: annotation(VERDICT),
            manual_override: annotation(manual_override::ANNOTATION),
            pending_repair: annotation(pending_repair::ANNOTATION),
        }
    }
}

// === impl LeaseHolder ===

impl LeaseHolder {
    /// Reads a `holderIdentity`. One that was not written by an agent is a node's name and nothing else.
    pub fn read(identity: &str) -> Self {
        let mut parts = identity.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { name: next(), detail: next(), incarnation: next() }
    }
}

impl std::fmt::Display for LeaseHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.name, self.detail, self.incarnation)
    }
}

// === impl LeaseObserver ===

impl LeaseObserver {
    /// Notes how the Lease looks at `now`; nothing where there is none.
    pub fn note(&mut self, record: Option<&LeaseRecord>, now: Duration) {
        let Some(LeaseRecord { holder, renewed, transitions, .. }) = record else {
            self.latest = None;
            return;
        };
        let same =
            |seen: &Observation| (&seen.holder, &seen.renewed, seen.transitions) == (holder, renewed, *transitions);
        if self.latest.as_ref().is_some_and(same) {
            return;
        }
        let changed = self.latest.is_some();
        let (holder, renewed) = (holder.clone(), renewed.clone());
        self.latest = Some(Observation { holder, renewed, transitions: *transitions, at: now, changed });
    }

    /// Whether the holder's verdict counts at `now`: the Lease has a holder, which was seen renewing it within [`LEASE_DURATION`].
    pub fn fresh(&self, now: Duration) -> bool {
        self.latest
            .as_ref()
            .is_some_and(|seen| seen.changed && seen.holder.is_some() && now.saturating_sub(seen.at) < LEASE_DURATION)
    }

    /// When the word that is fresh now would become stale.
    pub fn stale_at(&self) -> Option<Duration> {
        self.latest.as_ref().filter(|seen| seen.changed).map(|seen| seen.at.saturating_add(LEASE_DURATION))
    }

    /// Until when a holder may live that wrote what was seen last, whether it was seen to change or not; nothing where there is no Lease.
    pub fn valid_until(&self) -> Option<Duration> {
        self.latest.as_ref().map(|seen| seen.at.saturating_add(LEASE_DURATION))
    }

    /// Who was seen holding it last.
    pub fn holder(&self) -> Option<&LeaseHolder> {
        self.latest.as_ref()?.holder.as_ref()
    }

    /// What `me` may do about it at `now`.
    pub fn state(&self, me: &LeaseHolder, now: Duration) -> LeaseState {
        let Some(seen) = &self.latest else { return LeaseState::Vacant(VacancyReason::Absent) };
        match &seen.holder {
            None => LeaseState::Vacant(VacancyReason::GivenUp),
            Some(holder) if holder == me => LeaseState::Lead,
            Some(holder)
                if holder.name == me.name && !holder.incarnation.is_empty() && holder.incarnation != me.incarnation =>
            {
                LeaseState::Vacant(VacancyReason::OfAnEarlierBoot)
            }
            Some(_) if now.saturating_sub(seen.at) >= LEASE_DURATION => LeaseState::Vacant(VacancyReason::Expired),
            Some(_) => LeaseState::Follow { until: seen.at.saturating_add(LEASE_DURATION) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(node: &str, boot: &str) -> LeaseHolder {
        LeaseHolder { name: node.to_owned(), detail: format!("linkerd-gate-{node}"), incarnation: boot.to_owned() }
    }

    fn record(holder: Option<LeaseHolder>, renewed: &str) -> LeaseRecord {
        LeaseRecord { holder, renewed: Some(renewed.to_owned()), ..LeaseRecord::default() }
    }

    const fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_seen_first_is_not_fresh_until_it_is_renewed() {
        let mut seen = LeaseObserver::default();
        let before = record(Some(holder("b", "1")), "yesterday");
        seen.note(Some(&before), second(0));
        assert!(!seen.fresh(second(0)));
        // A person's annotation changes the object, but renews nothing.
        let touched =
            LeaseRecord { manual_override: Some("open …".to_owned()), resource_version: "2".to_owned(), ..before };
        seen.note(Some(&touched), second(1));
        assert!(!seen.fresh(second(1)));
        seen.note(Some(&record(Some(holder("b", "1")), "now")), second(2));
        assert!(seen.fresh(second(2)) && seen.fresh(second(16)));
        assert!(!seen.fresh(second(17)), "and is stale again when its holder falls silent");
    }

    #[test]
    fn a_released_lease_is_vacant_and_not_fresh() {
        let mut seen = LeaseObserver::default();
        seen.note(Some(&record(Some(holder("b", "1")), "1")), second(0));
        seen.note(Some(&record(None, "2")), second(1));
        assert!(!seen.fresh(second(1)));
        assert_eq!(seen.state(&holder("a", "1"), second(1)), LeaseState::Vacant(VacancyReason::GivenUp));
    }

    #[test]
    fn a_silent_holder_is_replaced_only_after_the_lease_duration() {
        let me = holder("a", "1");
        let mut seen = LeaseObserver::default();
        assert_eq!(seen.state(&me, second(0)), LeaseState::Vacant(VacancyReason::Absent));
        seen.note(Some(&record(Some(holder("b", "1")), "1")), second(10));
        assert_eq!(seen.state(&me, second(24)), LeaseState::Follow { until: second(25) });
        assert_eq!(seen.state(&me, second(25)), LeaseState::Vacant(VacancyReason::Expired));
        seen.note(Some(&record(Some(holder("b", "1")), "2")), second(25));
        assert_eq!(seen.state(&me, second(26)), LeaseState::Follow { until: second(40) });
    }

    #[test]
    fn a_holder_of_our_node_from_before_its_reboot_is_dead() {
        let mut seen = LeaseObserver::default();
        seen.note(Some(&record(Some(holder("a", "1")), "1")), second(0));
        assert_eq!(seen.state(&holder("a", "2"), second(0)), LeaseState::Vacant(VacancyReason::OfAnEarlierBoot));
        // Another pod of the same boot may well live: two agents on one node during an update.
        let beside = LeaseHolder { detail: "another".to_owned(), ..holder("a", "1") };
        assert_eq!(seen.state(&beside, second(0)), LeaseState::Follow { until: second(15) });
        assert_eq!(seen.state(&holder("a", "1"), second(99)), LeaseState::Lead, "its own, whatever the time");
    }

    #[test]
    fn a_holder_converts_to_text_and_back_and_a_bare_name_is_a_node() {
        let one = holder("node-0.example.com", "3f2a9c1e-…");
        assert_eq!(LeaseHolder::read(&one.to_string()), one);
        assert_eq!(LeaseHolder::read("somebody").name, "somebody");
    }

    #[test]
    fn a_recreated_lease_is_not_fresh_until_it_is_renewed() {
        let mut seen = LeaseObserver::default();
        seen.note(Some(&record(Some(holder("b", "1")), "1")), second(0));
        seen.note(None, second(1));
        assert_eq!(seen.state(&holder("a", "1"), second(1)), LeaseState::Vacant(VacancyReason::Absent));
        seen.note(Some(&record(Some(holder("b", "1")), "2")), second(2));
        assert!(!seen.fresh(second(2)), "the next renewal makes it so");
    }

    #[test]
    fn a_leader_stops_before_another_may_take_the_lease() {
        assert!(RENEW_DEADLINE < LEASE_DURATION && RENEW_INTERVAL * 2 <= RENEW_DEADLINE);
    }

    #[test]
    fn a_lease_is_read_as_written_and_is_free_without_a_holder() {
        let read = |holder: &str| {
            LeaseRecord::of(
                &serde_json::from_value(serde_json::json!({
                    "metadata": {"resourceVersion": "7", "annotations": {
                        VERDICT: "{}", manual_override::ANNOTATION: "open", pending_repair::ANNOTATION: "3",
                    }},
                    "spec": {"holderIdentity": holder, "leaseTransitions": 2, "renewTime": "2026-01-01T00:00:00.000005Z"},
                }))
                .unwrap(),
            )
        };
        let expected = LeaseRecord {
            resource_version: "7".to_owned(),
            holder: Some(holder("node-1", "boot")),
            renewed: Some("2026-01-01T00:00:00.000005Z".to_owned()),
            transitions: 2,
            verdict: Some("{}".to_owned()),
            manual_override: Some("open".to_owned()),
            pending_repair: Some("3".to_owned()),
        };
        assert_eq!(read("node-1/linkerd-gate-node-1/boot"), expected);
        assert_eq!(read("").holder, None);
        assert_eq!(LeaseRecord::of(&Lease::default()), LeaseRecord::default());
    }
}
