//! What was done, and what came of it.

use super::bucket::Bucket;
use super::facts::Facts;
use super::plan::{Act, Action, RepairPolicy};
use super::standing::{Standing, State};
use super::survey::Survey;
use super::view::{Kind, Life, PodView};
use crate::linkerd::{Started, WebhookView};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So many replacements that come back missed, and an owner is left alone.
pub const STRIKES: usize = 3;

/// For so long.
pub const BROKEN_FOR: Duration = Duration::from_hours(1);

/// How long a replacement may take to be there and to start before the next one is not held up any longer.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// How long an owner is remembered after the last act, if nothing came back missed. (If something did: as long as one is left
/// alone, so that strikes add up however slowly they come.)
const REMEMBERED: Duration = Duration::from_mins(10);

/// The pause after the first failure of an act; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(15);

/// And is this long at most.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What a controller remembers between two plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Pods that were seen when they were not asked for, by uid.
    came_before: BTreeSet<String>,
    owners: BTreeMap<String, OwnerMemory>,
    /// Jobs that carry our mark, by uid.
    marked: BTreeMap<String, Marked>,
    pub(super) removals: Bucket,
    pub(super) evictions: Bucket,
    /// When a replacement was seen last that came back missed.
    pub(super) missed_again_at: Option<Duration>,
    webhooks: Option<WebhookView>,
    cooldown: Duration,
}

/// A Job that carries our mark.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marked {
    /// The mark: another one is of another suspension.
    mark: String,
    /// Since when we have seen it.
    since: Duration,
    /// The version of the Job that is being resumed, and since when.
    resuming: Option<(String, Duration)>,
}

/// What is remembered of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnerMemory {
    /// Its pods that were seen since the first act, by uid: another one is somebody's successor.
    known: BTreeSet<String>,
    flights: Vec<Flight>,
    /// Replacements that came back missed, and that no outage explains.
    strikes: usize,
    /// When others came back missed, of which the next proof tells whether an outage explains them.
    unexplained: Vec<Duration>,
    broken_until: Option<Duration>,
    /// When it was last acted on.
    pub(super) acted_at: Duration,
    failures: u32,
    /// Not before.
    pub(super) again_at: Duration,
    /// The same of evictions, which a disruption budget refused: what needs none is not held up by it.
    pub(super) evict_again_at: Duration,
}

/// One removal whose replacement is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flight {
    pod: String,
    name: String,
    state: State,
    /// When it began; when the pod was last seen going, if it was.
    since: Duration,
    /// The uid of what came instead.
    successor: Option<String>,
    /// Whether its pod is gone and nothing came in time: it counts as long as the owner lacks pods.
    late: bool,
}

/// What became of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// What was looked at is gone, or has changed: it is looked at anew.
    Overtaken,
    /// A disruption budget is in the way, in the API server's words.
    Refused(String),
    /// Anything else, in words for people.
    Failed(String),
}

// === impl Memory ===

impl Memory {
    /// Remembers nothing, at `now`.
    pub fn new(policy: &RepairPolicy, now: Duration) -> Self {
        Self {
            came_before: BTreeSet::new(),
            owners: BTreeMap::new(),
            marked: BTreeMap::new(),
            removals: Bucket::empty(policy.rate, policy.burst, now),
            evictions: Bucket::empty(policy.eviction_rate, std::num::NonZeroU32::MIN, now),
            missed_again_at: None,
            webhooks: None,
            cooldown: policy.cooldown,
        }
    }

    /// Takes in what is seen at `now`. Returns the owners that are left alone from now on, by uid.
    pub fn observe(&mut self, facts: &Facts<'_>, survey: &Survey<'_>, now: Duration) -> Vec<String> {
        self.note_skipped(facts, survey);
        if self.webhooks.as_ref() != Some(facts.webhooks) {
            // What came back missed came from another webhook.
            if self.webhooks.replace(facts.webhooks.clone()).is_some() {
                self.owners.values_mut().for_each(OwnerMemory::forgive);
            }
        }
        let mut missed_again = false;
        let mut broken = Vec::new();
        for (uid, owner) in &mut self.owners {
            missed_again |= owner.note_pods(survey.siblings_of(uid), now);
            if owner.judge(facts.proven, now) {
                broken.push(uid.clone());
            }
        }
        if missed_again {
            self.missed_again_at = Some(now);
        }
        self.owners.retain(|_, owner| owner.is_needed(self.cooldown, now));
        let marks = facts.owners.jobs.values().filter_map(|job| {
            let mark = job.job()?.suspended_by_us.clone()?;
            let before = self.marked.remove(&job.reference.uid).filter(|marked| marked.mark == mark);
            let marked = before.unwrap_or(Marked { mark, since: now, resuming: None });
            Some((job.reference.uid.clone(), marked))
        });
        self.marked = marks.collect();
        broken
    }

    fn note_skipped(&mut self, facts: &Facts<'_>, survey: &Survey<'_>) {
        for pod in &survey.skipped {
            if !self.came_before.contains(&pod.uid) {
                self.came_before.insert(pod.uid.clone());
            }
        }
        // Those that are gone, now and then.
        if self.came_before.len() > 2 * facts.pods.len() + 1000 {
            let there: BTreeSet<&str> = facts.pods.values().map(|pod| pod.uid.as_str()).collect();
            self.came_before.retain(|uid| there.contains(uid.as_str()));
        }
    }

    /// Notes that `action` begins at `now`: what it takes of the rates is taken whatever becomes of it.
    ///
    /// `siblings` are the pods of its owner, as in the survey that the plan was made from.
    pub fn begin(&mut self, action: &Action, siblings: &[(&PodView, Standing)], now: Duration) {
        let (targets, evicts) = action.act.removes().unwrap_or_default();
        self.removals.take_many(targets.len(), now);
        if evicts {
            self.evictions.take_many(targets.len(), now);
        }
        if let Act::Resume { resource_version } = &action.act
            && let Some(marked) = self.marked.get_mut(&action.owner.uid)
        {
            marked.resuming = Some((resource_version.clone(), now));
        }
        let owner = self.owners.entry(action.owner.uid.clone()).or_default();
        owner.known.extend(siblings.iter().map(|(pod, _)| pod.uid.clone()));
        owner.acted_at = now;
        owner.flights.extend(targets.iter().map(|target| Flight {
            pod: target.uid.clone(),
            name: target.name.clone(),
            state: target.state,
            since: now,
            successor: None,
            late: false,
        }));
    }

    /// Notes what became of it.
    pub fn acted(&mut self, action: &Action, outcome: &Outcome, now: Duration) {
        let remembered = self.owners.get_mut(&action.owner.uid);
        match outcome {
            Outcome::Done => {
                if let Some(owner) = remembered {
                    owner.failures = 0;
                }
            }
            Outcome::Overtaken => {
                if let Some(owner) = remembered {
                    owner.land(&action.act);
                }
            }
            Outcome::Refused(_) | Outcome::Failed(_) => {
                if let Some(marked) = self.marked.get_mut(&action.owner.uid) {
                    marked.resuming = None;
                }
                let owner = self.owners.entry(action.owner.uid.clone()).or_default();
                let refused = matches!(outcome, Outcome::Refused(_));
                let again_at = if refused { &mut owner.evict_again_at } else { &mut owner.again_at };
                // What fails together fails for one reason, and counts once.
                if *again_at <= now {
                    *again_at = now + FIRST_PAUSE.saturating_mul(1 << owner.failures.min(8)).min(LONGEST_PAUSE);
                    owner.failures += 1;
                }
                if refused {
                    owner.land(&action.act);
                } else {
                    // Whoever never heard of it may have done it: if its pod is still there after the pause, nobody did.
                    let since = owner.again_at.saturating_sub(PATIENCE);
                    owner.flights_of(&action.act).for_each(|flight| flight.since = since);
                }
            }
        }
    }

    /// Whether a pod was seen when it was not asked for.
    pub fn came_before(&self, uid: &str) -> bool {
        self.came_before.contains(uid)
    }

    /// Whether an owner is left alone because its pods come back missed.
    pub fn is_broken(&self, owner: &str) -> bool {
        self.owners.get(owner).is_some_and(|owner| owner.broken_until.is_some())
    }

    /// How many owners are.
    pub fn broken(&self) -> usize {
        self.owners.values().filter(|owner| owner.broken_until.is_some()).count()
    }

    /// When a replacement was seen last that came back missed: injection has to be proven anew after that.
    pub fn missed_again_at(&self) -> Option<Duration> {
        self.missed_again_at
    }

    pub(super) fn remembers(&self, owner: &str) -> bool {
        self.owners.contains_key(owner)
    }

    pub(super) fn owner(&self, uid: &str) -> Option<&OwnerMemory> {
        self.owners.get(uid)
    }

    pub(super) fn marked_at(&self, job: &str) -> Option<Duration> {
        self.marked.get(job).map(|marked| marked.since)
    }

    /// Whether this version of a Job is being resumed: until it has changed, or that has taken too long.
    pub(super) fn resumes(&self, job: &str, resource_version: &str, now: Duration) -> bool {
        let resuming = self.marked.get(job).and_then(|marked| marked.resuming.as_ref());
        resuming.is_some_and(|(version, since)| version == resource_version && now < *since + PATIENCE)
    }

    /// When something is due only because time has passed.
    pub(super) fn wakes(&self, policy: &RepairPolicy) -> impl Iterator<Item = Duration> {
        let owners = self.owners.values().flat_map(|owner| {
            let flights = owner.flights.iter().flat_map(|flight| [flight.since + PATIENCE, flight.since + BROKEN_FOR]);
            flights.chain(owner.broken_until).chain([
                owner.again_at,
                owner.evict_again_at,
                owner.acted_at + policy.cooldown,
            ])
        });
        let marked = self.marked.values().flat_map(|marked| {
            let resuming = marked.resuming.iter().map(|(_, since)| *since + PATIENCE);
            resuming.chain([marked.since + PATIENCE])
        });
        owners.chain(marked)
    }
}

// === impl OwnerMemory ===

impl OwnerMemory {
    /// Takes in its pods as they are; whether a replacement came back missed.
    fn note_pods(&mut self, siblings: &[(&PodView, Standing)], now: Duration) -> bool {
        let mut missed_again = false;
        let mut meshed = false;
        if self.known.len() > siblings.len() {
            let there: BTreeSet<&str> = siblings.iter().map(|(pod, _)| pod.uid.as_str()).collect();
            self.known.retain(|uid| there.contains(uid.as_str()));
        }
        for (pod, standing) in siblings {
            if *standing == Standing::Unknown || self.known.contains(&pod.uid) {
                continue;
            }
            self.known.insert(pod.uid.clone());
            let by_name = pod.owner.as_ref().is_some_and(|owner| owner.kind == Kind::StatefulSet);
            let awaited = |flight: &&mut Flight| flight.successor.is_none() && (!by_name || flight.name == pod.name);
            let flight = self.flights.iter_mut().find(awaited);
            let replaces = flight.is_some();
            if let Some(flight) = flight {
                flight.successor = Some(pod.uid.clone());
            }
            match standing {
                Standing::Missed(_) => {
                    // An owner that grows, or whose pods fail, while the injector is away makes missed pods too: only what came
                    // instead of one that we removed shows a loop, which has as many of them as there were removals.
                    if !replaces {
                        continue;
                    }
                    self.unexplained.push(now);
                    // What is left alone because it always comes back missed says nothing about anybody else.
                    missed_again |= self.broken_until.is_none();
                }
                Standing::Meshed => meshed = true,
                Standing::Skipped | Standing::Over | Standing::Unknown => {}
            }
        }
        if meshed {
            self.forgive();
        }
        self.flights.retain_mut(|flight| {
            let successor = siblings.iter().find(|(pod, _)| Some(&pod.uid) == flight.successor.as_ref());
            let settled = successor.is_some_and(|(pod, standing)| {
                matches!(pod.life, Life::Ready | Life::Finished)
                    || matches!(standing, Standing::Missed(_))
                    || flight.state == State::Held && pod.started == Started::Ever
            });
            let removed = siblings.iter().find(|(pod, _)| pod.uid == flight.pod);
            if settled && removed.is_none() {
                return false;
            }
            // What goes is not done with, however long its grace period is; nor is a pod that ran as long as its successor does
            // not get ready.
            if removed.is_some_and(|(pod, _)| pod.life == Life::Going) {
                flight.since = now;
            }
            let unready = flight.state == State::Running && successor.is_some();
            let waited = now.saturating_sub(flight.since);
            flight.late = waited >= PATIENCE && removed.is_none() && flight.successor.is_none();
            unready || waited < PATIENCE || flight.late && waited < BROKEN_FOR
        });
        missed_again
    }

    /// Counts what no outage explains. Returns whether it is left alone from now on.
    ///
    /// Without proof there is an outage, and no wonder that pods came back missed. With a proof from after, there is none.
    fn judge(&mut self, proven: Option<Duration>, now: Duration) -> bool {
        if self.broken_until.is_some_and(|until| until <= now) {
            self.forgive();
        }
        let before = self.unexplained.len();
        self.unexplained.retain(|missed| proven.is_some_and(|proven| *missed >= proven));
        if proven.is_some() {
            self.strikes += before - self.unexplained.len();
        }
        let breaks = self.strikes >= STRIKES && self.broken_until.is_none();
        if breaks {
            self.broken_until = Some(now + BROKEN_FOR);
        }
        breaks
    }

    fn forgive(&mut self) {
        self.strikes = 0;
        self.unexplained.clear();
        self.broken_until = None;
    }

    /// How many removals are under way; late ones count only where the owner `lacks` pods.
    pub(super) fn under_way(&self, lacks: bool) -> usize {
        self.flights.iter().filter(|flight| lacks || !flight.late).count()
    }

    /// How many of them whose replacement nobody has seen yet.
    pub(super) fn unseen(&self, lacks: bool) -> usize {
        self.flights.iter().filter(|flight| flight.successor.is_none() && (lacks || !flight.late)).count()
    }

    /// Whether replacements have come back missed lately.
    pub(super) fn is_struck(&self) -> bool {
        self.strikes > 0 || !self.unexplained.is_empty()
    }

    /// Whether a pod is being removed by us.
    pub(super) fn removes(&self, pod: &str) -> bool {
        self.flights.iter().any(|flight| flight.pod == pod)
    }

    /// Nothing is under way for what an act was about.
    fn land(&mut self, act: &Act) {
        self.flights.retain(|flight| !flight.is_of(act));
    }

    fn flights_of(&mut self, act: &Act) -> impl Iterator<Item = &mut Flight> {
        self.flights.iter_mut().filter(|flight| flight.is_of(act))
    }

    fn is_needed(&self, cooldown: Duration, now: Duration) -> bool {
        let remembered = if self.is_struck() { BROKEN_FOR } else { REMEMBERED };
        !self.flights.is_empty()
            || self.broken_until.is_some()
            || self.again_at > now
            || self.evict_again_at > now
            || now.saturating_sub(self.acted_at) < remembered.max(cooldown)
    }
}

// === impl Flight ===

impl Flight {
    /// Whether an act was about its pod.
    fn is_of(&self, act: &Act) -> bool {
        act.removes().is_some_and(|(targets, _)| targets.iter().any(|target| target.uid == self.pod))
    }
}
