//! Which acts are due now.

use super::bucket::Rate;
use super::disposition::{Disposition, disposition};
use super::facts::Facts;
use super::memory::{Memory, OwnerMemory, PATIENCE, STRIKES};
use super::standing::{Standing, State};
use super::survey::Survey;
use super::view::{Detail, Kind, Life, OwnerReference, OwnerView, PodView, Repair};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairPolicy {
    /// What is replaced where no annotation says otherwise.
    pub repair: Repair,
    /// Whether pods may be evicted.
    pub evicts: bool,
    /// How many removals at most.
    pub rate: Rate,
    /// How many of them at once.
    pub burst: NonZeroU32,
    /// How many evictions at most, one at a time.
    pub eviction_rate: Rate,
    /// How long an owner is left alone after an eviction, and after a replacement that came back missed.
    pub cooldown: Duration,
}

/// What is done with a missed pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It is deleted, with its own grace period.
    Delete,
    /// It is evicted, so that disruption budgets hold.
    Evict,
    /// Its Job is suspended and resumed.
    Suspend,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The namespace.
    pub namespace: String,
    /// Whose pods it is about.
    pub owner: OwnerReference,
    /// What.
    pub act: Act,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Delete a pod.
    Delete([Target; 1]),
    /// Evict a pod.
    Evict([Target; 1]),
    /// Suspend a Job, which ends its active pods.
    Suspend {
        /// The Job's version that was looked at.
        resource_version: String,
        /// Those pods.
        pods: Vec<Target>,
    },
    /// Resume a Job that we suspended, and take our mark away.
    Resume {
        /// The Job's version that was looked at.
        resource_version: String,
    },
}

/// A pod that is to go, as it was looked at: a changed one is not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// What it has done so far.
    pub state: State,
}

/// What is due, and what is to be told.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What is due now, in this order: no more than the rates allow.
    pub actions: Vec<Action>,
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
    pub state: State,
    /// What may become of it.
    pub disposition: Disposition,
}

/// What an owner's pods wait for: [`due`].
struct Candidates<'a> {
    owner: &'a OwnerReference,
    view: Option<&'a OwnerView>,
    /// In the order in which they are to go.
    pods: Vec<(&'a PodView, State, Way)>,
}

/// What is due at `now`.
///
/// `memory` has [observed](Memory::observe) the same facts and survey at the same instant.
pub fn plan<'a>(
    facts: &Facts<'a>,
    survey: &Survey<'a>,
    memory: &Memory,
    policy: &RepairPolicy,
    now: Duration,
) -> Plan<'a> {
    let missed = dispositions(facts, survey, memory, policy);
    let mut actions = resumptions(facts, survey, memory, now);
    let mut wakes: Vec<Duration> = memory.wakes(policy).filter(|wake| *wake > now).collect();
    // Not on a proof from before a replacement came back missed.
    let proven = facts.proven.is_some_and(|proven| memory.missed_again_at.is_none_or(|missed| proven > missed));
    if proven {
        let mut due: Vec<(usize, Action)> = candidates(facts, &missed)
            .into_values()
            .flat_map(|candidates| due(&candidates, survey, memory, policy, now).into_iter().enumerate())
            .collect();
        // One of each owner before the second of any; first of the one that was not acted on for the longest time, so that those
        // that are refused again and again do not take everybody's turn.
        due.sort_by_key(|(turn, action)| (*turn, memory.owner(&action.owner.uid).map(|past| past.acted_at)));
        let (mut removals, mut evictions) = (memory.removals.clone(), memory.evictions.clone());
        for (_, action) in due {
            let Some((targets, evicts)) = action.act.removes() else { continue };
            if removals.available(now) < removals.needs(targets.len()) {
                wakes.push(removals.when(targets.len(), now));
                break;
            }
            if evicts && evictions.available(now) == 0 {
                wakes.push(evictions.next(now));
                continue;
            }
            removals.take_many(targets.len(), now);
            if evicts {
                evictions.take_many(targets.len(), now);
            }
            actions.push(action);
        }
    }
    Plan { actions, missed, again: wakes.into_iter().min() }
}

fn dispositions<'a>(facts: &Facts<'a>, survey: &Survey<'a>, memory: &Memory, policy: &RepairPolicy) -> Vec<Missed<'a>> {
    let of = |(pod, state): &(&'a PodView, State)| {
        let siblings = pod.owner.as_ref().map_or(&[] as &[_], |owner| survey.siblings_of(&owner.uid));
        Missed { pod, state: *state, disposition: disposition(pod, *state, siblings, facts, memory, policy) }
    };
    survey.missed.iter().map(of).collect()
}

/// What may go, by owner.
fn candidates<'a>(facts: &Facts<'a>, missed: &[Missed<'a>]) -> BTreeMap<&'a str, Candidates<'a>> {
    let mut owners: BTreeMap<&str, Candidates<'_>> = BTreeMap::new();
    for Missed { pod, state, disposition } in missed {
        let (Disposition::Replace(way), Some(owner)) = (disposition, &pod.owner) else { continue };
        let view = || facts.owners.get(&pod.namespace, owner);
        let entry = owners.entry(&owner.uid).or_insert_with(|| Candidates { owner, view: view(), pods: Vec::new() });
        entry.pods.push((pod, *state, *way));
    }
    for candidates in owners.values_mut() {
        // What never ran first; of a StatefulSet the last first, as it does itself.
        candidates.pods.sort_by_key(|(pod, state, _)| (*state, std::cmp::Reverse(ordinal(&pod.name))));
    }
    owners
}

/// The number at the end of a StatefulSet's pod's name.
fn ordinal(name: &str) -> Option<u64> {
    name.rsplit_once('-')?.1.parse().ok()
}

/// What is due of one owner, whatever the rates.
fn due(
    candidates: &Candidates<'_>,
    survey: &Survey<'_>,
    memory: &Memory,
    policy: &RepairPolicy,
    now: Duration,
) -> Vec<Action> {
    let Candidates { owner, view, pods } = candidates;
    let siblings = survey.siblings_of(&owner.uid);
    let remembered = memory.owner(&owner.uid);
    let nothing = OwnerMemory::default();
    let past = remembered.unwrap_or(&nothing);
    if past.again_at > now {
        return Vec::new();
    }
    let cooled = remembered.is_none() || past.acted_at + policy.cooldown <= now;
    let lacks = view.is_some_and(|view| view.wants);
    let idle = past.under_way(lacks) == 0;
    // A loop costs no more than three pods before anybody has seen what comes instead of them; one at a time once it looks like one.
    let mut room =
        if past.is_struck() { usize::from(cooled && idle) } else { STRIKES.saturating_sub(past.unseen(lacks)) };
    // What somebody else removes counts as well: another controller's act, or that of this one before it began anew.
    let going = siblings.iter().filter(|(pod, _)| pod.life == Life::Going && !past.removes(&pod.uid)).count();
    match owner.kind {
        Kind::StatefulSet => room = room.min(usize::from(idle && going == 0)),
        Kind::DaemonSet => room = room.min(budget(*view).saturating_sub(past.under_way(lacks) + going)),
        Kind::Job | Kind::ReplicaSet | Kind::ReplicationController | Kind::Other(_) => {}
    }
    let mut actions = Vec::new();
    for (pod, state, way) in pods {
        if actions.len() >= room {
            break;
        }
        if past.removes(&pod.uid) {
            continue;
        }
        let Some(target) = Target::of(pod, *state) else { continue };
        let act = match way {
            Way::Delete => Act::Delete([target]),
            Way::Evict => {
                if past.evict_again_at > now {
                    continue;
                }
                if *state == State::Running
                    && !(cooled && idle && actions.is_empty() && spares(owner, *view, pod, siblings))
                {
                    continue;
                }
                Act::Evict([target])
            }
            Way::Suspend => {
                let held = pods.iter().filter_map(|(pod, state, _)| Target::of(pod, *state)).collect();
                let version = view.and_then(|view| view.resource_version.clone());
                let Some(resource_version) = version.filter(|_| idle) else { continue };
                actions.push(Action {
                    namespace: pod.namespace.clone(),
                    owner: (*owner).clone(),
                    act: Act::Suspend { resource_version, pods: held },
                });
                break;
            }
        };
        actions.push(Action { namespace: pod.namespace.clone(), owner: (*owner).clone(), act });
    }
    actions
}

/// Whether the others of an owner can spare a pod that runs. A disruption budget may say more; it is the API server's to hold.
fn spares(owner: &OwnerReference, view: Option<&OwnerView>, pod: &PodView, siblings: &[(&PodView, Standing)]) -> bool {
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

/// Jobs that carry our mark and have no pod left: resumed as soon as what they make will be injected, and after a moment in any
/// case. A Job that stays suspended is worse than a pod that is held.
fn resumptions(facts: &Facts<'_>, survey: &Survey<'_>, memory: &Memory, now: Duration) -> Vec<Action> {
    let due = |job: &&OwnerView| {
        let Some(detail) = job.job().filter(|job| job.suspended_by_us.is_some()) else { return false };
        let siblings = survey.siblings_of(&job.reference.uid);
        let gone = detail.active == 0 && siblings.iter().all(|(pod, _)| pod.is_finished());
        let waited = memory.marked_at(&job.reference.uid).is_some_and(|since| since + PATIENCE <= now);
        let failing = memory.owner(&job.reference.uid).is_some_and(|past| past.again_at > now);
        let resuming =
            job.resource_version.as_ref().is_some_and(|version| memory.resumes(&job.reference.uid, version, now));
        !job.deleting && !failing && !resuming && (!detail.suspended || gone && facts.proven.is_some() || waited)
    };
    let resume = |job: &OwnerView| {
        Some(Action {
            namespace: job.namespace.clone(),
            owner: job.reference.clone(),
            act: Act::Resume { resource_version: job.resource_version.clone()? },
        })
    };
    facts.owners.jobs.values().filter(due).filter_map(resume).collect()
}

// === impl Act ===

impl Act {
    /// The pods that go by it, and whether by eviction; nothing where none goes.
    pub fn removes(&self) -> Option<(&[Target], bool)> {
        match self {
            Self::Delete(target) => Some((target, false)),
            Self::Evict(target) => Some((target, true)),
            Self::Suspend { pods, .. } => Some((pods, false)),
            Self::Resume { .. } => None,
        }
    }

    /// One word, for metrics and logs.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Delete(_) => "delete",
            Self::Evict(_) => "evict",
            Self::Suspend { .. } => "suspend",
            Self::Resume { .. } => "resume",
        }
    }
}

// === impl Target ===

impl Target {
    fn of(pod: &PodView, state: State) -> Option<Self> {
        Some(Self {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            resource_version: pod.resource_version.clone()?,
            state,
        })
    }
}
