//! Which acts are due now.

use std::collections::BTreeMap;
use std::time::Duration;

use super::action::{Action, Method, Operation, RepairPolicy, Target, Ungate, UngateReason};
use super::decision::{Decision, decision};
use super::object::{Detail, Kind, Life, OwnerReference, OwnerView, PodView, ordinal};
use super::scan::{MissedState, PodState, Scan, Snapshot};
use super::tracker::{MAX_FAILURES, OwnerTracker, Tracker};
use super::{resume, ungate};

/// What is due, and what is to be reported.
#[derive(Debug)]
pub struct RepairPlan<'a> {
    /// What is due now, in this order: no more than the window and the rate of evictions allow.
    pub actions: Vec<Action>,
    /// Gates that come off now.
    pub ungates: Vec<Ungate>,
    /// How many pods have our gate, by namespace.
    pub held: BTreeMap<&'a str, usize>,
    /// How many pods that no gate keeps from a node have none yet, and will be replaced: see
    /// [`PendingRepair`](crate::decide::PendingRepair).
    pub pending: usize,
    /// Every missed pod, and what may become of it.
    pub missed: Vec<Missed<'a>>,
    /// When to plan again at the latest, if nothing changes before; nothing where time alone changes nothing.
    pub again: Option<Duration>,
}

/// One missed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed<'a> {
    /// The pod.
    pub pod: &'a PodView,
    /// What it has done so far.
    pub state: MissedState,
    /// What may become of it.
    pub decision: Decision,
}

/// What an owner's pods wait for: [`due`].
struct Candidates<'a> {
    owner: &'a OwnerReference,
    view: Option<&'a OwnerView>,
    /// In the order in which they are to go.
    pods: Vec<(&'a PodView, MissedState, Method)>,
}

/// What is due at `now`.
///
/// `tracker` has [observed](Tracker::observe) the same snapshot and scan at the same instant.
pub fn plan<'a>(
    snapshot: &Snapshot<'a>,
    scan: &Scan<'a>,
    tracker: &Tracker,
    policy: &RepairPolicy,
    now: Duration,
) -> RepairPlan<'a> {
    let missed = decisions(snapshot, scan, tracker, policy);
    let mut wakes: Vec<Duration> = tracker.wakes(policy).filter(|wake| *wake > now).collect();
    wakes.extend(overdue(snapshot, scan, policy, now));
    // Not on a proof from before a replacement came back missed.
    let proven = snapshot.proven.is_some_and(|proven| tracker.missed_again_at.is_none_or(|missed| proven > missed));
    let mut room = tracker.window().saturating_sub(tracker.under_way(now));
    let mut actions = Vec::new();
    for (action, makes_pods) in resume::due(snapshot, scan, tracker, policy, now) {
        if makes_pods && room == 0 {
            continue;
        }
        room -= usize::from(makes_pods);
        actions.push(action);
    }
    let due = candidates(snapshot, &missed)
        .into_values()
        .flat_map(|candidates| due(&candidates, scan, tracker, policy, now).into_iter().enumerate());
    // What a Job loses by being suspended is its clock: that waits for no proof.
    let (suspensions, mut due): (Vec<_>, Vec<_>) =
        due.partition(|(_, action)| matches!(action.operation, Operation::Suspend { .. }));
    if snapshot.manual.is_none() {
        actions.extend(suspensions.into_iter().map(|(_, action)| action));
    }
    if proven {
        // One of each owner before the second of any; first of the one that was not acted on for the longest time, so that those
        // that are refused again and again do not take the turn of all others.
        due.sort_by_key(|(turn, action)| (*turn, tracker.owner(&action.owner.uid).map(|past| past.acted_at)));
        let mut evictions = tracker.evictions.clone();
        for (_, action) in due {
            let Some((targets, evicts)) = action.operation.removes() else { continue };
            // Something comes, or does not come in time: either way it is planned again then.
            if room < targets.len() {
                break;
            }
            if evicts && evictions.available(now) == 0 {
                wakes.push(evictions.next(now));
                continue;
            }
            room -= targets.len();
            if evicts {
                evictions.take_many(targets.len(), now);
            }
            actions.push(action);
        }
    }
    let ungates = ungates(snapshot, scan, &missed, tracker, policy, now);
    let pending = if policy.enforces { missed.iter().filter(|missed| missed.is_pending()).count() } else { 0 };
    let mut held = BTreeMap::new();
    for (pod, _) in &scan.gated {
        *held.entry(pod.namespace.as_str()).or_default() += 1;
    }
    RepairPlan { actions, ungates, held, pending, missed, again: wakes.into_iter().min() }
}

/// Gates that come off.
fn ungates(
    snapshot: &Snapshot<'_>,
    scan: &Scan<'_>,
    missed: &[Missed<'_>],
    tracker: &Tracker,
    policy: &RepairPolicy,
    now: Duration,
) -> Vec<Ungate> {
    let of_missed = missed.iter().filter_map(|missed| match missed.decision {
        Decision::Ungate(reason) => Some((missed.pod, reason)),
        Decision::Replace(_) | Decision::Leave(_) => None,
    });
    let others = scan.gated.iter().filter(|(_, state)| !matches!(state, PodState::Missed(_)));
    let others =
        others.filter_map(|(pod, state)| Some((*pod, ungate::reason(pod, *state, snapshot, tracker, policy)?)));
    let ungate = |(pod, reason): (&PodView, UngateReason)| {
        let (gate, resource_version) = (pod.scheduling_gate.as_ref()?, pod.resource_version.clone()?);
        let may = tracker.may_ungate(&pod.uid, &resource_version, now);
        may.then(|| Ungate {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            resource_version,
            index: gate.index,
            owner: pod.owner.clone(),
            reason,
        })
    };
    of_missed.chain(others).filter_map(ungate).collect()
}

/// When gated pods will have been held for as long as they may be.
fn overdue(snapshot: &Snapshot<'_>, scan: &Scan<'_>, policy: &RepairPolicy, now: Duration) -> Vec<Duration> {
    let Some(longest) = policy.hold_max else { return Vec::new() };
    let ages = scan.gated.iter().filter_map(|(pod, _)| ungate::age(pod, snapshot));
    let limits = [longest, longest.saturating_add(ungate::REPLACED_WITHIN)];
    let left = ages.flat_map(|age| limits.map(|limit| limit.saturating_sub(age))).filter(|left| !left.is_zero());
    // A limit of years is looked at once a day.
    left.map(|left| now + left.min(Duration::from_hours(24))).collect()
}

fn decisions<'a>(
    snapshot: &Snapshot<'a>,
    scan: &Scan<'a>,
    tracker: &Tracker,
    policy: &RepairPolicy,
) -> Vec<Missed<'a>> {
    let of = |(pod, state): &(&'a PodView, MissedState)| {
        let siblings = pod.owner.as_ref().map_or(&[] as &[_], |owner| scan.siblings_of(&owner.uid));
        Missed { pod, state: *state, decision: decision(pod, *state, siblings, snapshot, tracker, policy) }
    };
    scan.missed.iter().map(of).collect()
}

/// What may go, by owner.
fn candidates<'a>(snapshot: &Snapshot<'a>, missed: &[Missed<'a>]) -> BTreeMap<&'a str, Candidates<'a>> {
    let mut owners: BTreeMap<&str, Candidates<'_>> = BTreeMap::new();
    for Missed { pod, state, decision } in missed {
        let (Decision::Replace(method), Some(owner)) = (decision, &pod.owner) else { continue };
        let view = || snapshot.owners.get(&pod.namespace, owner);
        let entry = owners.entry(&owner.uid).or_insert_with(|| Candidates { owner, view: view(), pods: Vec::new() });
        entry.pods.push((pod, *state, *method));
    }
    for candidates in owners.values_mut() {
        // First what was begun and not ended: a Job no longer counts it. Then what has no node, and what never ran. Of those that ran a
        // StatefulSet's last first, as it does itself; of those that never ran its first, because it makes none before that is ready.
        candidates.pods.sort_by_key(|(pod, state, _)| {
            let tracked = pod.scheduling_gate.as_ref().is_none_or(|gate| gate.tracked);
            let untracked = pod.owner.as_ref().is_some_and(|owner| owner.kind == Kind::Job) && !tracked;
            let place = ordinal(&pod.name);
            let first = place.filter(|_| *state == MissedState::Held);
            (!untracked, pod.node.is_some(), *state, first, std::cmp::Reverse(place))
        });
    }
    owners
}

/// What is due of one owner, whatever the rates.
fn due(
    candidates: &Candidates<'_>,
    scan: &Scan<'_>,
    tracker: &Tracker,
    policy: &RepairPolicy,
    now: Duration,
) -> Vec<Action> {
    let Candidates { owner, view, pods } = candidates;
    let siblings = scan.siblings_of(&owner.uid);
    let remembered = tracker.owner(&owner.uid);
    let nothing = OwnerTracker::default();
    let past = remembered.unwrap_or(&nothing);
    if past.again_at > now {
        return Vec::new();
    }
    let cooled = remembered.is_none() || past.acted_at + policy.cooldown <= now;
    let lacks = view.is_some_and(|view| view.wants);
    // A StatefulSet makes no pod before those of a lower number are ready: what it has not made again may wait for this one.
    let first_held = pods.iter().find(|(_, state, _)| *state == MissedState::Held && owner.kind == Kind::StatefulSet);
    let waits_after = first_held.and_then(|(pod, _, _)| ordinal(&pod.name));
    let idle = past.under_way(lacks, waits_after) == 0;
    // A loop costs no more than three pods before anything is seen of what comes instead of them; one at a time once it looks
    // like one. Whoever was just seen to make pods with a proxy is held up by the window alone.
    let room = if past.has_failures() {
        usize::from(cooled && idle)
    } else if past.is_trusted(now) && !past.is_late(lacks) {
        usize::MAX
    } else {
        MAX_FAILURES.saturating_sub(past.unseen(lacks))
    };
    // Removals by other clients count too: by another controller, or by this one before its restart.
    let going = siblings.iter().filter(|(pod, _)| pod.life == Life::Going && !past.removes(&pod.uid)).count();
    // What has no node holds nothing up by going, and is not one that the owner could count on.
    let mut bound_room = match owner.kind {
        Kind::StatefulSet => usize::from(idle && going == 0),
        Kind::DaemonSet => budget(*view).saturating_sub(past.under_way(lacks, None) + going),
        Kind::Job | Kind::ReplicaSet | Kind::ReplicationController | Kind::Other(_) => usize::MAX,
    };
    let mut actions = Vec::new();
    for (pod, state, method) in pods {
        if actions.len() >= room {
            break;
        }
        if past.removes(&pod.uid) || pod.node.is_some() && bound_room == 0 {
            continue;
        }
        let Some(target) = Target::of(pod, *state) else { continue };
        if tracker.is_stale(&target.uid, &target.resource_version, now) {
            continue;
        }
        let operation = match method {
            Method::Delete => Operation::Delete([target]),
            Method::Untrack => {
                let Some(gate) = &pod.scheduling_gate else { continue };
                Operation::Untrack { target: [target], gate_index: gate.index }
            }
            Method::Evict => {
                if past.evict_again_at > now {
                    continue;
                }
                if *state == MissedState::Running
                    && !(cooled && idle && actions.is_empty() && spares(owner, *view, pod, siblings))
                {
                    continue;
                }
                Operation::Evict([target])
            }
            Method::Suspend => {
                let held = pods.iter().filter_map(|(pod, state, _)| Target::of(pod, *state)).collect();
                let version = view.and_then(|view| view.resource_version.clone());
                let fresh = |version: &String| !tracker.is_stale(&owner.uid, version, now);
                let Some(resource_version) = version.filter(fresh).filter(|_| idle) else { continue };
                actions.push(Action {
                    namespace: pod.namespace.clone(),
                    owner: (*owner).clone(),
                    operation: Operation::Suspend { resource_version, pods: held },
                });
                break;
            }
        };
        if pod.node.is_some() {
            bound_room -= 1;
        }
        actions.push(Action { namespace: pod.namespace.clone(), owner: (*owner).clone(), operation });
    }
    actions
}

/// Whether the others of an owner can spare a pod that runs. A disruption budget may say more; it is the API server's to hold.
fn spares(owner: &OwnerReference, view: Option<&OwnerView>, pod: &PodView, siblings: &[(&PodView, PodState)]) -> bool {
    let others = siblings.iter().filter(|(other, _)| other.uid != pod.uid && !other.is_finished());
    let unready = others.filter(|(other, _)| other.life != Life::Ready).count();
    // Who cannot make what it lacks already would lack one more.
    let lacks = view.is_some_and(|view| view.wants);
    match owner.kind {
        Kind::StatefulSet => unready == 0 && !lacks,
        Kind::DaemonSet => unready + usize::from(lacks) < budget(view),
        Kind::ReplicaSet | Kind::ReplicationController => !lacks,
        Kind::Job | Kind::Other(_) => true,
    }
}

/// How many pods of a DaemonSet may be on their way at a time.
fn budget(view: Option<&OwnerView>) -> usize {
    match view.map(|view| &view.detail) {
        Some(Detail::DaemonSet { max_unavailable }) => *max_unavailable,
        Some(Detail::Plain | Detail::Job(_)) | None => 1,
    }
}

// === impl Missed ===

impl Missed<'_> {
    /// Whether a node that opens could let it start outside the mesh before it is replaced.
    fn is_pending(&self) -> bool {
        matches!(self.decision, Decision::Replace(_)) && self.pod.node.is_none() && self.pod.scheduling_gate.is_none()
    }
}

// === impl Target ===

impl Target {
    fn of(pod: &PodView, state: MissedState) -> Option<Self> {
        Some(Self {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            resource_version: pod.resource_version.clone()?,
            state,
            held_since: pod.scheduling_gate.as_ref().and_then(|gate| gate.created),
        })
    }
}
