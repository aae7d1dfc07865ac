//! What may become of a missed pod, and why not.

use std::fmt;

use super::action::{Method, RepairPolicy, UngateReason};
use super::object::{Ignores, JobDetail, Kind, Life, NamespaceView, OwnerReference, OwnerView, PodView, Repair};
use super::scan::{MissedState, PodState, Snapshot};
use super::tracker::Tracker;
use super::ungate::{self, REPLACED_WITHIN};

/// What may become of a missed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is replaced when its turn comes.
    Replace(Method),
    /// Our gate comes off it.
    Ungate(UngateReason),
    /// It stays as it is, until something changes.
    Leave(KeepReason),
}

/// Why a missed pod stays as it is, or is not replaced yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepReason {
    /// The mode, or whose annotation says so.
    Reported,
    /// The mode is `held`, and it has started.
    Started,
    /// The annotation has a value that is none.
    BadAnnotation(String),
    /// A person lets it run without a proxy.
    Released,
    /// A finalizer of another program would keep it there when it is deleted.
    ForeignFinalizer(String),
    /// No owner creates it again.
    Ownerless,
    /// It is not known what its owner does after a deletion.
    UnknownOwner(String),
    /// Its owner is gone, or going.
    OwnerGone(OwnerReference),
    /// It is a file on a node.
    Mirror,
    /// Its namespace is going away.
    NamespaceTerminating,
    /// It was there before its namespace asked.
    CameBefore,
    /// The controller does not evict.
    NoEviction,
    /// Its Job would count it as a failure, and some of the Job's pods have started.
    JobWouldCount,
    /// Its Job would count it as a failure, and another client manages `suspend`.
    JobManaged(String),
    /// Its Job is suspended, by another client or already by us.
    JobSuspended,
    /// Its Job is over.
    JobOver,
    /// Its owner's pods came back missed, again and again.
    Broken,
}

/// What may become of `pod`, which is missed.
pub fn decision(
    pod: &PodView,
    state: MissedState,
    siblings: &[(&PodView, PodState)],
    snapshot: &Snapshot<'_>,
    tracker: &Tracker,
    policy: &RepairPolicy,
) -> Decision {
    let method = method(pod, state, siblings, snapshot, tracker, policy);
    match (ungate::reason(pod, PodState::Missed(state), snapshot, tracker, policy), method) {
        (Some(UngateReason::HeldTooLong), Ok(method))
            if snapshot.proven.is_some() && is_in_time(pod, snapshot, tracker, policy) =>
        {
            Decision::Replace(method)
        }
        (Some(reason), _) => Decision::Ungate(reason),
        (None, Ok(method)) => Decision::Replace(method),
        (None, Err(because)) => Decision::Leave(because),
    }
}

/// Whether a replacement may still come before our gate comes off.
fn is_in_time(pod: &PodView, snapshot: &Snapshot<'_>, tracker: &Tracker, policy: &RepairPolicy) -> bool {
    ungate::overdue(pod, tracker, policy, snapshot).is_some_and(|overdue| overdue < REPLACED_WITHIN)
}

/// `siblings`: what else its owner has, itself among them, and how each stands.
fn method(
    pod: &PodView,
    state: MissedState,
    siblings: &[(&PodView, PodState)],
    snapshot: &Snapshot<'_>,
    tracker: &Tracker,
    policy: &RepairPolicy,
) -> Result<Method, KeepReason> {
    if pod.mirror {
        return Err(KeepReason::Mirror);
    }
    if pod.released {
        return Err(KeepReason::Released);
    }
    if let Some(finalizer) = pod.scheduling_gate.as_ref().and_then(|gate| gate.foreign_finalizer.clone()) {
        return Err(KeepReason::ForeignFinalizer(finalizer));
    }
    let reference = pod.owner.as_ref().ok_or(KeepReason::Ownerless)?;
    let namespace = snapshot.namespaces.get(&pod.namespace);
    if namespace.is_some_and(|namespace| namespace.terminating) {
        return Err(KeepReason::NamespaceTerminating);
    }
    let mode = mode_of(pod, namespace, policy)?;
    let owner = match &reference.kind {
        Kind::Other(kind) if pod.repair.is_none() => return Err(KeepReason::UnknownOwner(kind.clone())),
        // It is not known whether it exists: the pod's own annotation answers for it.
        Kind::Other(_) => None,
        _ => Some(snapshot.owners.get(&pod.namespace, reference).filter(|owner| !owner.deleting)),
    };
    let owner = match owner {
        Some(None) => return Err(KeepReason::OwnerGone(reference.clone())),
        Some(Some(owner)) => Some(owner),
        None => None,
    };
    match (mode, state) {
        (Repair::Report, _) => return Err(KeepReason::Reported),
        (Repair::Held, MissedState::Running) => return Err(KeepReason::Started),
        (Repair::Running, MissedState::Running) if tracker.came_before(&pod.uid) => return Err(KeepReason::CameBefore),
        (Repair::Held, MissedState::Held) | (Repair::Running, _) => {}
    }
    if tracker.is_breaker_open(&reference.uid) {
        return Err(KeepReason::Broken);
    }
    if let Some(job) = owner.and_then(OwnerView::job) {
        // By us, if its Job is suspended: it waits for nothing, and its end loses nothing.
        let may_end = |pod: &PodView, state| {
            state == PodState::Missed(MissedState::Held)
                && (pod.scheduling_gate.is_some() || pod.waits && !pod.wait_opens)
                && ungate::reason(pod, state, snapshot, tracker, policy).is_none()
                && mode_of(pod, namespace, policy).is_ok_and(|mode| mode >= Repair::Held)
        };
        // One that was resumed because its pods had been held for too long is not suspended again, unless what it makes then is
        // injected: `wait` would hold its pods for ever.
        let suspends = !tracker.is_resumed_overdue(&reference.uid) || snapshot.proven.is_some();
        return method_of_job(pod, state, job, siblings, policy, suspends, may_end);
    }
    match state {
        MissedState::Held => Ok(Method::Delete),
        MissedState::Running if policy.evicts => Ok(Method::Evict),
        MissedState::Running => Err(KeepReason::NoEviction),
    }
}

/// The pod's own word, else its namespace's, else the controller's.
fn mode_of(pod: &PodView, namespace: Option<&NamespaceView>, policy: &RepairPolicy) -> Result<Repair, KeepReason> {
    let said = pod.repair.as_ref().or_else(|| namespace?.repair.as_ref());
    match said {
        Some(Ok(repair)) => Ok(*repair),
        Some(Err(text)) => Err(KeepReason::BadAnnotation(text.clone())),
        None => Ok(policy.repair),
    }
}

/// A Job counts a pod that goes as a failure, unless it is suspended, or it does not know of the pod, or its policy ignores that.
fn method_of_job(
    pod: &PodView,
    state: MissedState,
    job: &JobDetail,
    siblings: &[(&PodView, PodState)],
    policy: &RepairPolicy,
    suspends: bool,
    may_end: impl Fn(&PodView, PodState) -> bool,
) -> Result<Method, KeepReason> {
    // Whoever took its finalizer off never came to delete it: the Job no longer counts it, whatever becomes of it.
    if pod.scheduling_gate.as_ref().is_some_and(|gate| !gate.tracked) {
        return Ok(Method::Delete);
    }
    if job.finished {
        return Err(KeepReason::JobOver);
    }
    // Where only our mark is left, that goes first.
    if job.suspended || job.suspended_by_us.is_some() {
        return Err(KeepReason::JobSuspended);
    }
    // Suspending ends every active pod of the Job, and no precondition spares one that has started meanwhile: all of them have
    // to be ones that our gate or `wait` holds and that may go, and the Job must have no other that is not seen yet.
    let active = siblings.iter().filter(|(pod, _)| !matches!(pod.life, Life::Finished | Life::Going));
    let held = active.clone().all(|(pod, state)| may_end(pod, *state))
        && usize::try_from(job.active).is_ok_and(|count| count <= active.count());
    if held && suspends && job.managed.is_none() {
        return Ok(Method::Suspend);
    }
    if pod.scheduling_gate.is_some() {
        return Ok(Method::Untrack);
    }
    let ignored = match state {
        // Only of `wait` is it known with which code it ends, and only if the app cannot have started meanwhile.
        MissedState::Held if pod.waits && !pod.wait_opens => job.ignores_eviction >= Ignores::Held,
        MissedState::Held | MissedState::Running => job.ignores_eviction >= Ignores::Everything,
    };
    if ignored && policy.evicts {
        return Ok(Method::Evict);
    }
    match &job.managed {
        Some(by) if held => Err(KeepReason::JobManaged(by.clone())),
        _ if ignored => Err(KeepReason::NoEviction),
        _ => Err(KeepReason::JobWouldCount),
    }
}

// === impl KeepReason ===

impl KeepReason {
    /// One word, for metrics and logs.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Reported => "mode_report",
            Self::Started => "mode_held",
            Self::BadAnnotation(_) => "bad_annotation",
            Self::Released => "released",
            Self::ForeignFinalizer(_) => "foreign_finalizer",
            Self::Ownerless => "ownerless",
            Self::UnknownOwner(_) => "unknown_owner",
            Self::OwnerGone(_) => "owner_gone",
            Self::Mirror => "mirror",
            Self::NamespaceTerminating => "namespace_terminating",
            Self::CameBefore => "came_before",
            Self::NoEviction => "no_eviction",
            Self::JobWouldCount => "job_would_count",
            Self::JobManaged(_) => "job_managed",
            Self::JobSuspended => "job_suspended",
            Self::JobOver => "job_over",
            Self::Broken => "broken",
        }
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported => f.write_str("repair is `report` here: the controller only reports"),
            Self::Started => f.write_str("repair is `held` here, and this pod has started"),
            Self::BadAnnotation(text) => {
                write!(f, "the annotation linkerd-gate/repair is {text:?}: accepted are report, held and running")
            }
            Self::Released => f.write_str("it has the annotation linkerd-gate/release=true: it may run without a proxy"),
            Self::ForeignFinalizer(finalizer) => {
                write!(f, "it has the finalizer {finalizer}, with which it would stay there after it is deleted")
            }
            Self::Ownerless => f.write_str("no controller owns it, so nothing would create it again"),
            Self::UnknownOwner(kind) => write!(
                f,
                "its owner is of kind {kind}; it is replaced only where the pod itself is annotated \
                 linkerd-gate/repair=held or =running"
            ),
            Self::OwnerGone(owner) => write!(f, "its owner, {owner}, is gone or going away"),
            Self::Mirror => f.write_str("it is a static pod (mirror), which Linkerd cannot inject"),
            Self::NamespaceTerminating => f.write_str("its namespace is going away"),
            Self::CameBefore => f.write_str("it is older than the request for injection: restart its workload to mesh it"),
            Self::NoEviction => f.write_str("it would have to be evicted, which this controller may not (LINKERD_GATE_EVICTION)"),
            Self::JobWouldCount => f.write_str(
                "its Job would count it as a failure; give the Job a podFailurePolicy that ignores DisruptionTarget, or its pods an \
                 entry of `wait` that never lets them start (without `open`), or delete the pod yourself",
            ),
            Self::JobManaged(by) => {
                write!(f, "its Job would count it as a failure, and the controller cannot suspend the Job: {by}")
            }
            Self::JobSuspended => f.write_str("its Job is suspended"),
            Self::JobOver => f.write_str("its Job has finished, and would not create it again"),
            Self::Broken => f.write_str(
                "three replacements of its owner had no proxy: the controller pauses this owner for an hour, or until Linkerd's \
                 webhook changes",
            ),
        }
    }
}
