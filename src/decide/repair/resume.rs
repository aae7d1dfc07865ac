//! When a Job goes on that we suspended.

use super::facts::{Facts, ManualOverride};
use super::memory::{Memory, PATIENCE};
use super::plan::{Act, Action, RepairPolicy};
use super::survey::Survey;
use super::view::{JobDetail, OwnerView, Repair};
use crate::linkerd::{Injection, NotCalled};
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// Jobs that carry our mark and go on now, and whether their pods are made then: a mark that is left over makes none.
///
/// A Job whose pods are gone goes on as soon as what it makes will be injected: its pods would only be held again before. Where
/// nothing holds them any more, it goes on at once: in audit mode, by mode `report`, by a person's `open --all`, where the
/// injector would not inject them, or after `LINKERD_GATE_HOLD_MAX`.
pub(super) fn due(
    facts: &Facts<'_>,
    survey: &Survey<'_>,
    memory: &Memory,
    policy: &RepairPolicy,
    now: Duration,
) -> Vec<(Action, bool)> {
    let one = |job: &OwnerView| {
        let detail = job.job()?;
        let mark = detail.suspended_by_us.as_deref()?;
        let uid = &job.reference.uid;
        let resource_version = job.resource_version.clone()?;
        let failing = memory.owner(uid).is_some_and(|past| past.again_at > now);
        if job.deleting || failing || memory.resumes(uid, &resource_version, now) {
            return None;
        }
        let overdue = is_overdue(mark, policy, facts);
        let gone = detail.active == 0 && survey.siblings_of(uid).iter().all(|(pod, _)| pod.is_finished());
        // A pod that does not go, by another program's finalizer say, is no reason to wait for ever.
        let waited = memory.marked_at(uid).is_some_and(|since| since + PATIENCE <= now);
        let replaced = (gone || waited) && facts.proven.is_some();
        let goes_on = !detail.suspended || replaced || overdue || is_let_go(job, detail, facts, memory, policy);
        let action = Action {
            namespace: job.namespace.clone(),
            owner: job.reference.clone(),
            act: Act::Resume { resource_version, overdue: overdue && detail.suspended && !replaced },
        };
        goes_on.then_some((action, detail.suspended))
    };
    facts.owners.jobs.values().filter_map(one).collect()
}

/// Whether a Job has been suspended for as long as its pods may be held.
fn is_overdue(mark: &str, policy: &RepairPolicy, facts: &Facts<'_>) -> bool {
    let (Some(longest), Ok(since)) = (policy.hold_max, mark.parse::<Timestamp>()) else { return false };
    let held = Duration::try_from(facts.wall.duration_since(since)).unwrap_or_default();
    held >= longest && facts.manual != Some(ManualOverride::Closed)
}

/// Whether nothing holds a Job's pods any more.
fn is_let_go(job: &OwnerView, detail: &JobDetail, facts: &Facts<'_>, memory: &Memory, policy: &RepairPolicy) -> bool {
    if !policy.enforces || facts.manual == Some(ManualOverride::Open) {
        return true;
    }
    let Some(namespace) = facts.namespaces.get(&job.namespace) else { return false };
    let Some(template) = &detail.template else { return false };
    let said = template.repair.as_ref().or(namespace.repair.as_ref());
    if matches!(said, Some(Ok(Repair::Report) | Err(_))) || said.is_none() && policy.repair == Repair::Report {
        return true;
    }
    let injection = template.outline.injection(&namespace.outline, facts.webhooks, facts.projection);
    match injection {
        Injection::Inject(_) => false,
        Injection::NotCalled(NotCalled::NotInstalled) => {
            memory.is_uninstalled() && facts.manual != Some(ManualOverride::Closed)
        }
        Injection::Skip(_) | Injection::NotCalled(NotCalled::Excluded(_)) | Injection::Conditional(_) => true,
    }
}
