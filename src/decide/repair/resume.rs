//! When a Job goes on that we suspended.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::action::{Action, Operation, RepairPolicy};
use super::object::{JobDetail, OwnerView, Repair};
use super::scan::{ClusterOverride, Scan, Snapshot};
use super::tracker::{REPLACEMENT_DEADLINE, Tracker};
use crate::linkerd::injection::injection_of;
use crate::linkerd::{Injection, NotCalled};

/// Jobs that carry our mark and go on now, and whether their pods are made then: a mark that is left over makes none.
///
/// A Job whose pods are gone goes on as soon as what it makes will be injected: its pods would only be held again before. Where
/// nothing holds them any more, it goes on at once: in audit mode, by mode `report`, by a person's `open --all`, where the
/// injector would not inject them, or after `LINKERD_GATE_HOLD_MAX`.
pub(super) fn due(
    snapshot: &Snapshot<'_>,
    scan: &Scan<'_>,
    tracker: &Tracker,
    policy: &RepairPolicy,
    now: Duration,
) -> Vec<(Action, bool)> {
    let one = |job: &OwnerView| {
        let detail = job.job()?;
        let mark = detail.suspended_by_us.as_deref()?;
        let uid = &job.reference.uid;
        let resource_version = job.resource_version.clone()?;
        let failing = tracker.owner(uid).is_some_and(|past| past.again_at > now);
        let waits = tracker.resumes(uid, &resource_version, now) || tracker.is_stale(uid, &resource_version, now);
        if job.deleting || failing || waits {
            return None;
        }
        let overdue = is_overdue(mark, policy, snapshot);
        let gone = detail.active == 0 && scan.siblings_of(uid).iter().all(|(pod, _)| pod.is_finished());
        // A pod that does not go, by another program's finalizer say, is no reason to wait for ever.
        let waited = tracker.marked_at(uid).is_some_and(|since| since + REPLACEMENT_DEADLINE <= now);
        let replaced = (gone || waited) && snapshot.proven.is_some();
        let goes_on = !detail.suspended || replaced || overdue || is_let_go(job, detail, snapshot, tracker, policy);
        let action = Action {
            namespace: job.namespace.clone(),
            owner: job.reference.clone(),
            operation: Operation::Resume { resource_version, overdue: overdue && detail.suspended && !replaced },
        };
        goes_on.then_some((action, detail.suspended))
    };
    snapshot.owners.jobs.values().filter_map(one).collect()
}

/// Whether a Job has been suspended for as long as its pods may be held.
fn is_overdue(mark: &str, policy: &RepairPolicy, snapshot: &Snapshot<'_>) -> bool {
    let (Some(longest), Ok(since)) = (policy.hold_max, mark.parse::<Timestamp>()) else { return false };
    let held = Duration::try_from(snapshot.wall.duration_since(since)).unwrap_or_default();
    held >= longest && snapshot.manual != Some(ClusterOverride::Closed)
}

/// Whether nothing holds a Job's pods any more.
fn is_let_go(
    job: &OwnerView,
    detail: &JobDetail,
    snapshot: &Snapshot<'_>,
    tracker: &Tracker,
    policy: &RepairPolicy,
) -> bool {
    if !policy.enforces || snapshot.manual == Some(ClusterOverride::Open) {
        return true;
    }
    let Some(namespace) = snapshot.namespaces.get(&job.namespace) else { return false };
    let Some(template) = &detail.template else { return false };
    let said = template.repair.as_ref().or(namespace.repair.as_ref());
    if matches!(said, Some(Ok(Repair::Report) | Err(_))) || said.is_none() && policy.repair == Repair::Report {
        return true;
    }
    let injection = injection_of(&template.input, &namespace.input, snapshot.webhooks, snapshot.projection);
    match injection {
        Injection::Inject(_) => false,
        Injection::NotCalled(NotCalled::NotInstalled) => {
            tracker.is_uninstalled() && snapshot.manual != Some(ClusterOverride::Closed)
        }
        Injection::Skip(_) | Injection::NotCalled(NotCalled::Excluded(_)) | Injection::Conditional(_) => true,
    }
}
