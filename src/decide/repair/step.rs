//! One turn of repair: what of a plan is begun now, and whether a write that waited for its turn may still be sent.

use std::time::Duration;

use super::action::{Action, Dropped, Operation, Ungate};
use super::plan::RepairPlan;
use super::scan::Scan;
use super::tracker::Tracker;
use crate::decide::Gate;

/// How soon a turn is repeated that may not do everything: what that depends on is seen by more watches than a turn waits for.
pub const RECHECK: Duration = Duration::from_secs(1);

/// What a replica may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Whether its Lease was renewed in time.
    pub leads: bool,
    /// Whether its watches are in sync.
    pub in_sync: bool,
    /// Whether a person's `close --all` is in force.
    pub closed: bool,
}

/// How many more writes may wait for their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Actions.
    pub actions: usize,
    /// Removals of our gate.
    pub ungates: usize,
}

/// What is begun, as far as the tracker knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Pods and Jobs to write to.
    pub actions: Vec<Action>,
    /// Gates to remove.
    pub ungates: Vec<Ungate>,
    /// When to plan again at the latest; nothing where time alone changes nothing.
    pub again: Option<Duration>,
}

/// Begins, at `now`, what of `plan` is permitted and finds room. What finds none is planned again when there is some.
pub fn begin(
    plan: RepairPlan<'_>,
    scan: &Scan<'_>,
    tracker: &mut Tracker,
    permit: Permit,
    room: Room,
    now: Duration,
) -> Due {
    let permitted = plan.actions.into_iter().filter(|action| permit.allows(&action.operation));
    let actions: Vec<_> = permitted.take(room.actions).collect();
    for action in &actions {
        tracker.begin(action, scan.siblings_of(&action.owner.uid), now);
    }
    // A person's `close` is about what waits for injection; the plan knows whose gate that is.
    let ungates = plan.ungates.into_iter().filter(|_| permit.in_sync && permit.leads);
    let ungates: Vec<_> = ungates.take(room.ungates).collect();
    for ungate in &ungates {
        tracker.begin_ungating(ungate, now);
    }
    let recheck = (!permit.is_free()).then_some(now + RECHECK);
    Due { actions, ungates, again: plan.again.into_iter().chain(recheck).min() }
}

/// Whether an operation that waited for its turn is sent now; `free` is what the last turn's permit said.
///
/// # Errors
/// Why it is not sent.
pub fn may_send(operation: &Operation, leads: bool, free: bool, proven: bool) -> Result<(), Dropped> {
    if !leads {
        Err(Dropped::NotLeading)
    } else if !free && !operation.reverts() {
        Err(Dropped::Paused)
    } else if operation.needs_proof() && !proven {
        Err(Dropped::Unproven)
    } else {
        Ok(())
    }
}

// === impl Permit ===

impl Permit {
    /// Whether everything may be done.
    pub const fn is_free(self) -> bool {
        self.leads && self.in_sync && !self.closed
    }

    /// Whether this may be begun. What reverts our own write may be, whatever else may not.
    pub const fn allows(self, operation: &Operation) -> bool {
        self.is_free() || self.leads && operation.reverts()
    }

    /// When the evidence was taken by which refused owners may be retried at `now`; nothing if none may.
    pub fn proven(self, gate: &Gate, now: Duration) -> Option<Duration> {
        gate.proven_at(now).filter(|_| self.is_free())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Permit = Permit { leads: true, in_sync: true, closed: false };

    fn resume() -> Operation {
        Operation::Resume { resource_version: "1".to_owned(), overdue: false }
    }

    fn suspend() -> Operation {
        Operation::Suspend { resource_version: "1".to_owned(), pods: Vec::new() }
    }

    #[test]
    fn each_lack_forbids_all_but_resuming_a_job() {
        assert!(FREE.is_free() && FREE.allows(&suspend()));
        for permit in [Permit { in_sync: false, ..FREE }, Permit { closed: true, ..FREE }] {
            assert!(!permit.allows(&suspend()) && permit.allows(&resume()), "{permit:?}");
        }
        let follows = Permit { leads: false, ..FREE };
        assert!(!follows.allows(&suspend()) && !follows.allows(&resume()));
    }

    #[test]
    fn what_waited_is_dropped_for_the_first_reason() {
        let delete = || {
            let target = super::super::Target {
                name: String::new(),
                uid: String::new(),
                resource_version: String::new(),
                state: super::super::MissedState::Held,
                held_since: None,
            };
            Operation::Delete([target])
        };
        assert_eq!(may_send(&delete(), false, false, false), Err(Dropped::NotLeading));
        assert_eq!(may_send(&delete(), true, false, false), Err(Dropped::Paused));
        assert_eq!(may_send(&delete(), true, true, false), Err(Dropped::Unproven));
        assert_eq!(may_send(&delete(), true, true, true), Ok(()));
        assert_eq!(may_send(&suspend(), true, true, false), Ok(()));
        assert_eq!(may_send(&suspend(), true, false, false), Err(Dropped::Paused));
        assert_eq!(may_send(&resume(), true, false, false), Ok(()));
        assert_eq!(may_send(&resume(), false, true, true), Err(Dropped::NotLeading));
    }
}
