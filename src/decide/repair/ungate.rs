//! When our scheduling gate comes off a pod that keeps its uid: it is scheduled as it is.

use std::time::Duration;

use super::action::{RepairPolicy, UngateReason};
use super::object::{Kind, PodView};
use super::scan::{ClusterOverride, PodState, Snapshot};
use super::tracker::Tracker;
use crate::linkerd::injection::injection_of;
use crate::linkerd::{Injection, NotCalled};

/// How much longer than `LINKERD_GATE_HOLD_MAX` a pod stays gated that is about to be replaced: it would run without a proxy a
/// moment before its successor would run with one.
pub const REPLACED_WITHIN: Duration = Duration::from_mins(1);

/// Why our gate comes off `pod`, which has it, whatever may be done about the pod; nothing where it stays on.
///
/// [`UngateReason::HeldTooLong`] is the only one that a replacement goes before: see [`REPLACED_WITHIN`].
pub fn reason(
    pod: &PodView,
    state: PodState,
    snapshot: &Snapshot<'_>,
    tracker: &Tracker,
    policy: &RepairPolicy,
) -> Option<UngateReason> {
    let gate = pod.scheduling_gate.as_ref()?;
    match state {
        PodState::Meshed => return Some(UngateReason::Meshed),
        PodState::Over | PodState::Unknown => return None,
        PodState::Skipped | PodState::Missed(_) => {}
    }
    let namespace = snapshot.namespaces.get(&pod.namespace)?;
    if gate.exempt || namespace.exempt {
        return Some(UngateReason::Exempt);
    }
    if pod.released {
        return Some(UngateReason::Released);
    }
    if snapshot.manual == Some(ClusterOverride::Open) {
        return Some(UngateReason::Opened);
    }
    let closed = snapshot.manual == Some(ClusterOverride::Closed);
    let injection = injection_of(pod.bare.as_ref()?, &namespace.input, snapshot.webhooks, snapshot.projection);
    match injection {
        Injection::Skip(_) | Injection::NotCalled(NotCalled::Excluded(_)) => return Some(UngateReason::Skipped),
        Injection::NotCalled(NotCalled::NotInstalled) if tracker.is_uninstalled() && !closed => {
            return Some(UngateReason::NotInstalled);
        }
        // Where match conditions decide, only the API server can tell: not to know releases nothing.
        Injection::NotCalled(NotCalled::NotInstalled) | Injection::Conditional(_) | Injection::Inject(_) => {}
    }
    (!closed && overdue(pod, tracker, policy, snapshot).is_some()).then_some(UngateReason::HeldTooLong)
}

/// For how long a pod has been held beyond `LINKERD_GATE_HOLD_MAX`; nothing where it has not, or where there is no such limit.
pub(super) fn overdue(
    pod: &PodView,
    tracker: &Tracker,
    policy: &RepairPolicy,
    snapshot: &Snapshot<'_>,
) -> Option<Duration> {
    let longest = policy.hold_max?;
    // Its Job was resumed because its pods had been held for too long already.
    let job = pod.owner.as_ref().filter(|owner| owner.kind == Kind::Job);
    if job.is_some_and(|job| tracker.is_resumed_overdue(&job.uid)) {
        return Some(REPLACED_WITHIN);
    }
    age(pod, snapshot)?.checked_sub(longest)
}

/// How old a gated pod is, by the wall's clock.
pub(super) fn age(pod: &PodView, snapshot: &Snapshot<'_>) -> Option<Duration> {
    let created = pod.scheduling_gate.as_ref()?.created?;
    Some(Duration::try_from(snapshot.wall.duration_since(created)).unwrap_or_default())
}
