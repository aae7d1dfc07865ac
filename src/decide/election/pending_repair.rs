//! How many pods the leading controller will still replace, as it publishes it in an annotation of the controllers' Lease.
//!
//! Agents read it: a node that opens while such a pod is Pending lets the scheduler bind it, and its app starts outside the
//! mesh. So a node waits until none is left, for a limited time. Only *ungated*, unscheduled missed pods count: a pod with our
//! scheduling gate cannot be bound, whatever a node does.
//!
//! A controller that takes the Lease has not seen every pod yet: until it has, it publishes [`PendingRepair::uncounted`], for
//! which a reader waits as for one pod. In audit mode the count is always 0.
//!
//! It is a format between programs of different versions, as [the verdict](crate::decide::election::published_verdict) is: fields may be added.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::format::{self, Unreadable};

/// The annotation of the Lease [`linkerd-gate-controller`](crate::decide::election::lease_record::CONTROLLER_LEASE).
pub const ANNOTATION: &str = "linkerd-gate/pending-repair";

/// The format that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// The least pause between two renewals of which the second only carries another number of pending pods: every agent watches
/// the Lease, and to an agent some pods are as many as none are few.
const RECOUNTED: Duration = Duration::from_secs(1);

/// What the leading controller still has to do before a node may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRepair {
    /// The format: see [`VERSION`].
    version: u32,
    /// So many pods.
    pods: usize,
    /// Whether they were counted.
    #[serde(default = "counted", skip_serializing_if = "Clone::clone")]
    counted: bool,
}

const fn counted() -> bool {
    true
}

// === impl PendingRepair ===

impl PendingRepair {
    /// `pods` are ungated, unscheduled, missed, and will still be replaced. A pod that has our scheduling gate, that has no
    /// owner, whose mode is `report` or whose owner's breaker has tripped never counts; in audit mode none does.
    pub const fn new(pods: usize) -> Self {
        Self { version: VERSION, pods, counted: true }
    }

    /// What a controller publishes that has not seen every pod yet.
    pub const fn uncounted() -> Self {
        Self { version: VERSION, pods: 1, counted: false }
    }

    /// How many pods the controller will still replace.
    pub const fn pods(self) -> usize {
        self.pods
    }

    /// How long after the last renewal, at the earliest, this has to be in the Lease, which carries `written`.
    pub const fn renewed_after(self, written: Self) -> Duration {
        if (self.pods > 0) == (written.pods > 0) { RECOUNTED } else { Duration::ZERO }
    }

    /// Reads the annotation's value.
    ///
    /// # Errors
    /// Another format, or not such JSON.
    pub fn read(annotation: &str) -> Result<Self, Unreadable> {
        format::read(annotation, VERSION..=VERSION)
    }

    /// The annotation's value.
    pub fn write(self) -> String {
        // Two numbers: there is nothing that JSON could refuse.
        serde_json::to_string(&self).unwrap_or_else(|error| unreachable!("two numbers are not JSON: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_as_documented_and_is_read_back() {
        assert_eq!(PendingRepair::new(7).write(), r#"{"version":1,"pods":7}"#);
        assert_eq!(PendingRepair::read(&PendingRepair::new(7).write()), Ok(PendingRepair::new(7)));
        let uncounted = PendingRepair::uncounted();
        assert_eq!(uncounted.write(), r#"{"version":1,"pods":1,"counted":false}"#);
        assert_eq!(PendingRepair::read(&uncounted.write()), Ok(uncounted));
    }

    #[test]
    fn a_first_or_last_pending_pod_is_published_at_once() {
        let renewed = |pods, written| PendingRepair::new(pods).renewed_after(PendingRepair::new(written));
        assert_eq!((renewed(0, 3), renewed(3, 0)), (Duration::ZERO, Duration::ZERO));
        assert_eq!((renewed(2, 3), renewed(3, 2)), (RECOUNTED, RECOUNTED));
    }

    #[test]
    fn pending_repair_ignores_new_fields_and_refuses_other_versions() {
        assert_eq!(PendingRepair::read(r#"{"version":1,"pods":0,"since":"x"}"#), Ok(PendingRepair::new(0)));
        assert_eq!(
            PendingRepair::read(r#"{"version":2,"left":[]}"#),
            Err(Unreadable::Version { found: 2, read: VERSION..=VERSION })
        );
        for broken in ["", "0", "{}", r#"{"version":1}"#, r#"{"version":1,"pods":-1}"#, r#"{"version":1,"pods":"3"}"#] {
            assert!(matches!(PendingRepair::read(broken), Err(Unreadable::Content(_))), "{broken}");
        }
    }
}
