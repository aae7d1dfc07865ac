//! Whether a node waits for the controller before it opens.
//!
//! While nodes are closed, missed pods are Pending. A node that opens before the controller has replaced them lets the scheduler bind them, and
//! their apps start outside the mesh. So a node that could open waits while the leading controller says that it still replaces pods
//! ([`crate::decide::election::pending_repair`]): for [`NodePolicy::repair_grace`](super::taint::NodePolicy::repair_grace) at most, and only while that controller
//! renews its Lease.

use std::fmt;
use std::time::Duration;

use crate::decide::election::lease_record::{LeaseObserver, LeaseRecord};
use crate::decide::election::pending_repair::PendingRepair;
use crate::decide::readiness::gate::Gate;

/// The controllers' Lease, as one agent saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerLease {
    observer: LeaseObserver,
    pods: usize,
    listed: bool,
    /// Whether a person has closed the node or everything, and when that was seen last: nothing is replaced meanwhile.
    overridden: bool,
    overridden_at: Option<Duration>,
}

/// What a node that could open waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairWait {
    /// Nothing.
    Nothing,
    /// The agent has not seen the controllers' Lease yet.
    Unseen,
    /// The controller still replaces so many pods.
    Pods(usize),
    /// It still replaces so many pods, and the node has waited for as long as it may.
    Over(usize),
}

// === impl ControllerLease ===

impl ControllerLease {
    /// Notes that the Lease was listed, and how it looks at `now`; `None` where there is none.
    pub fn note(&mut self, record: Option<&LeaseRecord>, now: Duration) {
        self.listed = true;
        self.observer.note(record, now);
        let published = record.and_then(|record| record.pending_repair.as_deref()).map(PendingRepair::read);
        // A controller that publishes nothing, or in a format that is not known, holds no node.
        self.pods = published.and_then(Result::ok).map_or(0, PendingRepair::pods);
    }

    /// Notes whether a person's `close` is in force at `now`. The controller replaces nothing while it is, so the grace begins when
    /// it ends.
    pub fn note_override(&mut self, closed: bool, now: Duration) {
        if closed || self.overridden {
            self.overridden_at = Some(now);
        }
        self.overridden = closed;
    }

    /// What was seen of the Lease before a pause says nothing of now.
    pub fn clear(&mut self) {
        let Self { overridden, overridden_at, .. } = *self;
        *self = Self { overridden, overridden_at, ..Self::default() };
    }

    /// When the grace is over of a node whose gate is `gate`; nothing while that is closed.
    fn over_at(&self, gate: &Gate, grace: Duration) -> Option<Duration> {
        let since = gate.open_since()?;
        Some(self.overridden_at.map_or(since, |at| at.max(since)).saturating_add(grace))
    }

    /// What a node waits for at `now`, whose gate is `gate`. Both by the clock of that gate.
    pub fn wait(&self, gate: &Gate, grace: Duration, now: Duration) -> RepairWait {
        let over = self.over_at(gate, grace).is_some_and(|at| at <= now);
        if !self.listed {
            return if over { RepairWait::Nothing } else { RepairWait::Unseen };
        }
        // A Lease that was seen only once may be from before a power cut: it counts for as long as a controller would need to renew it.
        let renewed = self.observer.valid_until().is_some_and(|until| now < until);
        match self.pods {
            0 => RepairWait::Nothing,
            _ if !renewed => RepairWait::Nothing,
            pods if over => RepairWait::Over(pods),
            pods => RepairWait::Pods(pods),
        }
    }

    /// When [`Self::wait`] may have another answer although the Lease does not change.
    pub fn next(&self, gate: &Gate, grace: Duration, now: Duration) -> Option<Duration> {
        let over = self.over_at(gate, grace);
        [over, self.observer.valid_until()].into_iter().flatten().filter(|at| *at > now).min()
    }
}

// === impl RepairWait ===

impl RepairWait {
    /// Whether the node stays closed for it.
    pub const fn holds(self) -> bool {
        matches!(self, Self::Unseen | Self::Pods(_))
    }
}

impl fmt::Display for RepairWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no pod is to be replaced"),
            Self::Unseen => f.write_str("the Lease linkerd-gate-controller has not been seen yet"),
            Self::Pods(1) | Self::Over(1) => f.write_str("the controller still replaces 1 pod"),
            Self::Pods(pods) | Self::Over(pods) => write!(f, "the controller still replaces {pods} pods"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Basis;
    use crate::decide::election::lease_record::LeaseHolder;

    const GRACE: Duration = Duration::from_secs(30);

    const fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn open_since(seconds: u64) -> Gate {
        Gate::Open { basis: Basis::Proven, since: second(seconds), latest: second(seconds), degraded: None }
    }

    fn record(renewal: u32, pending: Option<&str>) -> LeaseRecord {
        LeaseRecord {
            holder: Some(LeaseHolder::read("node-1/controller/uid")),
            renewed: Some(renewal.to_string()),
            pending_repair: pending.map(str::to_owned),
            ..LeaseRecord::default()
        }
    }

    fn pods(renewal: u32, pods: usize) -> LeaseRecord {
        record(renewal, Some(&PendingRepair::new(pods).write()))
    }

    #[test]
    fn a_node_waits_only_while_the_controller_replaces_pods() {
        let mut lease = ControllerLease::default();
        lease.note(Some(&pods(1, 3)), second(0));
        lease.note(Some(&pods(2, 3)), second(5));
        assert_eq!(lease.wait(&open_since(6), GRACE, second(7)), RepairWait::Pods(3));
        lease.note(Some(&pods(3, 0)), second(8));
        assert_eq!(lease.wait(&open_since(6), GRACE, second(8)), RepairWait::Nothing);
    }

    #[test]
    fn a_node_waits_no_longer_than_the_grace() {
        let mut lease = ControllerLease::default();
        for renewal in 0..10 {
            lease.note(Some(&pods(renewal, 3)), second(u64::from(renewal) * 5));
        }
        assert_eq!(lease.next(&open_since(20), GRACE, second(49)), Some(second(50)));
        assert_eq!(lease.wait(&open_since(20), GRACE, second(49)), RepairWait::Pods(3));
        assert_eq!(lease.wait(&open_since(20), GRACE, second(50)), RepairWait::Over(3));
    }

    #[test]
    fn the_grace_begins_when_an_override_that_closes_ends() {
        let mut lease = ControllerLease::default();
        lease.note_override(true, second(30));
        for renewal in 0..30 {
            lease.note(Some(&pods(renewal, 3)), second(u64::from(renewal) * 5));
        }
        lease.note_override(false, second(120));
        assert_eq!(lease.wait(&open_since(10), GRACE, second(149)), RepairWait::Pods(3));
        assert_eq!(lease.next(&open_since(10), GRACE, second(149)), Some(second(150)));
        assert_eq!(lease.wait(&open_since(10), GRACE, second(150)), RepairWait::Over(3));
        lease.clear();
        assert_eq!(lease.wait(&open_since(10), GRACE, second(149)), RepairWait::Unseen, "the override is remembered");
        lease.note_override(false, second(200));
        assert_eq!(lease.wait(&open_since(10), GRACE, second(200)), RepairWait::Nothing, "and begins nothing again");
    }

    #[test]
    fn a_lease_without_renewals_holds_no_node() {
        let mut lease = ControllerLease::default();
        // What etcd remembers from before a power cut.
        lease.note(Some(&pods(1, 3)), second(2));
        lease.note(Some(&pods(1, 3)), second(16));
        assert_eq!(lease.wait(&open_since(10), GRACE, second(16)), RepairWait::Pods(3));
        assert_eq!(lease.next(&open_since(10), GRACE, second(16)), Some(second(17)));
        assert_eq!(lease.wait(&open_since(10), GRACE, second(17)), RepairWait::Nothing);
    }

    #[test]
    fn no_lease_and_no_readable_count_hold_no_node() {
        let mut lease = ControllerLease::default();
        assert_eq!(lease.wait(&open_since(0), GRACE, second(1)), RepairWait::Unseen, "not listed is not absent");
        assert_eq!(lease.wait(&open_since(0), GRACE, second(30)), RepairWait::Nothing, "nor for ever");
        lease.note(None, second(1));
        assert_eq!(lease.wait(&open_since(0), GRACE, second(1)), RepairWait::Nothing);
        for unreadable in [None, Some(""), Some(r#"{"version":9,"pods":3}"#)] {
            lease.note(Some(&record(1, unreadable)), second(2));
            assert_eq!(lease.wait(&open_since(0), GRACE, second(3)), RepairWait::Nothing, "{unreadable:?}");
        }
    }

    #[test]
    fn a_gate_that_closes_and_opens_begins_the_grace_again() {
        let mut lease = ControllerLease::default();
        lease.note(Some(&pods(1, 3)), second(40));
        assert_eq!(lease.wait(&open_since(0), GRACE, second(41)), RepairWait::Over(3));
        assert_eq!(lease.wait(&open_since(41), GRACE, second(41)), RepairWait::Pods(3));
        assert!(lease.wait(&Gate::closed(), GRACE, second(41)).holds(), "nothing is over before it began");
    }
}
