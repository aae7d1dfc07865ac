//! Remembers between two plans: each owner's replacements, failures, pauses and breaker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::action::{ABSENT_FOR, Action, Operation, RepairPolicy, Ungate};
use super::late::LateReplacement;
use super::object::{Kind, Life, OwnerView, PodView, ordinal};
use super::scan::{MissedState, PodState, Scan, Snapshot};
use super::token_bucket::TokenBucket;
use crate::decide::repair::window;
use crate::decide::repair::window::Window;
use crate::linkerd::{Started, WebhookView};

/// After so many replacements without a proxy the controller pauses an owner.
pub const MAX_FAILURES: usize = 3;

/// How long an owner stays paused.
pub const BREAKER_OPEN_FOR: Duration = Duration::from_hours(1);

/// How long a replacement may take to be there and to start before the next one is not held up any longer.
pub const REPLACEMENT_DEADLINE: Duration = Duration::from_mins(1);

/// For so long an owner one of whose replacements came with its proxy is trusted with more than [`MAX_FAILURES`] removals.
pub const TRUST: Duration = Duration::from_secs(5);

/// How long an owner is remembered after the last act, if nothing came back missed. (If something did: as long as one is left
/// alone, so that failures add up however slowly they come.)
const REMEMBERED: Duration = Duration::from_mins(10);

/// The pause after the first failure of an act; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(15);

/// The longest pause after a failure of an act.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What a controller remembers between two plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracker {
    /// Pods that were seen when they were not asked for, by uid.
    came_before: BTreeSet<String>,
    owners: BTreeMap<String, OwnerTracker>,
    /// Jobs that carry our mark, by uid.
    marked: BTreeMap<String, Marked>,
    /// Jobs that were resumed because their pods had been held for too long, by uid.
    resumed_overdue: BTreeSet<String>,
    /// Our gates that are being taken off, by the pod's uid.
    ungating: BTreeMap<String, Ungating>,
    /// How many removals may be under way.
    pub(super) window: Window,
    pub(super) evictions: TokenBucket,
    /// Since when no injector configuration has been there, by lists that succeeded.
    absent_since: Option<Duration>,
    /// Whether that is long enough.
    uninstalled: bool,
    /// Versions of pods and Jobs to which a write conflicted, by uid, and when: the same write to the same version would conflict
    /// again, and again, until the watch shows another.
    stale: BTreeMap<String, (String, Duration)>,
    /// When a replacement was seen last that came back missed.
    pub(super) missed_again_at: Option<Duration>,
    webhooks: Option<WebhookView>,
    cooldown: Duration,
    /// When injection was last seen unproven.
    unproven_at: Duration,
    /// Owners whose replacements turned out to be late in the latest observation.
    late: Vec<LateReplacement>,
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

/// A gate that is being taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ungating {
    /// The version of the pod that was looked at.
    resource_version: String,
    /// Not again before, unless the pod has changed since.
    again_at: Duration,
    failures: u32,
}

/// What is remembered of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnerTracker {
    /// Its pods that were seen since the first act, by uid: another one is a replacement.
    known: BTreeSet<String>,
    replacements: Vec<Replacement>,
    /// Replacements that came back missed, and that no outage explains.
    missed_replacements: usize,
    /// When others came back missed, of which the next proof tells whether an outage explains them.
    unexplained: Vec<Duration>,
    breaker_open_until: Option<Duration>,
    /// When a replacement of its came with its proxy last.
    meshed_at: Option<Duration>,
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
#[expect(clippy::struct_excessive_bools, reason = "each is seen apart from the others")]
struct Replacement {
    pod: String,
    name: String,
    state: MissedState,
    /// When it began; when the pod was last seen going, if it was.
    since: Duration,
    /// Whether the API server has answered: before that, the owner's own growth cannot be told from what came instead.
    answered: bool,
    /// The uid of what came instead.
    successor: Option<String>,
    /// When that was seen to be missed, before the answer.
    missed_at: Option<Duration>,
    /// Whether its pod is gone and nothing came in time: it counts as long as the owner lacks pods.
    late: bool,
    /// Whether its pod was seen going away: its replacement may have to wait for that.
    going: bool,
    /// Whether it takes a place in the window: a suspended Job makes nothing before it is resumed.
    paced: bool,
    /// Whether the window shrank because it showed nothing.
    silent: bool,
    /// Whether its pod is gone and none has come instead.
    absent: bool,
    /// After which of [`window::SLOT_TIMEOUT`] and [`REPLACEMENT_DEADLINE`] this was asked about last.
    reason_asked_after: Duration,
}

/// What was seen of an owner's replacements.
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    /// How many came with a proxy, or without and should have none.
    good: usize,
    /// When the latest removal began whose replacement came missed, of an owner that is not left alone.
    missed: Option<Duration>,
    /// When the latest removal began whose replacement has not come in time.
    silent: Option<Duration>,
}

/// What became of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is done.
    Done,
    /// What was looked at is gone, or has changed: the controller plans again.
    Conflict,
    /// A disruption budget is in the way, or what would refuse the pod that is made instead, in the API server's words.
    Refused(String),
    /// Anything else, in words for people.
    Failed(String),
}

// === impl Tracker ===

impl Tracker {
    /// Remembers nothing, at `now`.
    pub fn new(policy: &RepairPolicy, now: Duration) -> Self {
        Self {
            came_before: BTreeSet::new(),
            owners: BTreeMap::new(),
            marked: BTreeMap::new(),
            resumed_overdue: BTreeSet::new(),
            ungating: BTreeMap::new(),
            window: Window::default(),
            evictions: TokenBucket::empty(policy.eviction_rate, std::num::NonZeroU32::MIN, now),
            absent_since: None,
            uninstalled: false,
            stale: BTreeMap::new(),
            missed_again_at: None,
            webhooks: None,
            cooldown: policy.cooldown,
            unproven_at: now,
            late: Vec::new(),
        }
    }

    /// Notes that the injector's configuration cannot be seen: what is not seen says nothing of what is there.
    pub fn note_watches_lost(&mut self) {
        (self.absent_since, self.uninstalled) = (None, false);
    }

    /// Takes in what is seen at `now`. Returns the owners that are left alone from now on, by uid.
    pub fn observe(&mut self, snapshot: &Snapshot<'_>, scan: &Scan<'_>, now: Duration) -> Vec<String> {
        self.note_skipped(snapshot, scan);
        if self.webhooks.as_ref() != Some(snapshot.webhooks) {
            // What came back missed came from another webhook.
            if self.webhooks.replace(snapshot.webhooks.clone()).is_some() {
                self.owners.values_mut().for_each(OwnerTracker::forgive);
                self.window.reset();
            }
        }
        self.absent_since = snapshot.webhooks.is_empty().then(|| self.absent_since.unwrap_or(now));
        self.uninstalled = self.absent_since.is_some_and(|since| now.saturating_sub(since) >= ABSENT_FOR);
        let mut arrivals = Arrivals::default();
        let mut broken = Vec::new();
        let lacking = snapshot.owners.iter().filter(|owner| owner.wants);
        let lacking: BTreeMap<&str, &OwnerView> = lacking.map(|owner| (owner.reference.uid.as_str(), owner)).collect();
        self.late.clear();
        if snapshot.proven.is_none() {
            self.unproven_at = now;
        }
        for (uid, owner) in &mut self.owners {
            let view = lacking.get(uid.as_str());
            arrivals.add(owner.note_pods(scan.siblings_of(uid), view.is_some(), now));
            if let Some(view) = view.filter(|_| snapshot.proven.is_some())
                && owner.note_late(now)
            {
                self.late.push(LateReplacement {
                    namespace: view.namespace.clone(),
                    owner: view.reference.clone(),
                    since: owner.acted_at,
                    proven_since: self.unproven_at,
                });
            }
            if owner.judge(snapshot.proven, now) {
                broken.push(uid.clone());
            }
        }
        if arrivals.missed.is_some() {
            self.missed_again_at = Some(now);
        }
        match arrivals.missed.max(arrivals.silent) {
            _ if snapshot.proven.is_none() => self.window.reset(),
            Some(since) => self.window.narrow(since, now),
            None => self.window.widen(arrivals.good),
        }
        self.owners.retain(|_, owner| owner.is_needed(self.cooldown, now));
        self.stale.retain(|_, (_, since)| now < *since + REPLACEMENT_DEADLINE);
        let gated: BTreeSet<&str> = scan.gated.iter().map(|(pod, _)| pod.uid.as_str()).collect();
        self.ungating.retain(|uid, _| gated.contains(uid.as_str()));
        if !self.resumed_overdue.is_empty() {
            let there: BTreeSet<&str> = snapshot.owners.jobs.values().map(|job| job.reference.uid.as_str()).collect();
            self.resumed_overdue.retain(|uid| there.contains(uid.as_str()));
        }
        let marks = snapshot.owners.jobs.values().filter_map(|job| {
            let mark = job.job()?.suspended_by_us.clone()?;
            let before = self.marked.remove(&job.reference.uid).filter(|marked| marked.mark == mark);
            let marked = before.unwrap_or(Marked { mark, since: now, resuming: None });
            Some((job.reference.uid.clone(), marked))
        });
        self.marked = marks.collect();
        broken
    }

    fn note_skipped(&mut self, snapshot: &Snapshot<'_>, scan: &Scan<'_>) {
        for pod in &scan.skipped {
            if !self.came_before.contains(&pod.uid) {
                self.came_before.insert(pod.uid.clone());
            }
        }
        // Those that are gone, now and then.
        if self.came_before.len() > 2 * snapshot.pods.len() + 1000 {
            let there: BTreeSet<&str> = snapshot.pods.values().map(|pod| pod.uid.as_str()).collect();
            self.came_before.retain(|uid| there.contains(uid.as_str()));
        }
    }

    /// Notes that `action` begins at `now`: what it takes of the rates is taken whatever becomes of it.
    ///
    /// `siblings` are the pods of its owner, as in the scan that the plan was made from.
    pub fn begin(&mut self, action: &Action, siblings: &[(&PodView, PodState)], now: Duration) {
        let (targets, evicts) = action.operation.removes().unwrap_or_default();
        let paced = !matches!(action.operation, Operation::Suspend { .. });
        if evicts {
            self.evictions.take_many(targets.len(), now);
        }
        if let Operation::Resume { resource_version, overdue } = &action.operation {
            if *overdue {
                self.resumed_overdue.insert(action.owner.uid.clone());
            }
            if let Some(marked) = self.marked.get_mut(&action.owner.uid) {
                marked.resuming = Some((resource_version.clone(), now));
            }
        }
        let owner = self.owners.entry(action.owner.uid.clone()).or_default();
        owner.known.extend(siblings.iter().map(|(pod, _)| pod.uid.clone()));
        owner.acted_at = now;
        owner.replacements.extend(targets.iter().map(|target| Replacement {
            pod: target.uid.clone(),
            name: target.name.clone(),
            state: target.state,
            since: now,
            answered: false,
            successor: None,
            missed_at: None,
            late: false,
            going: false,
            paced,
            silent: false,
            absent: false,
            reason_asked_after: Duration::ZERO,
        }));
    }

    /// Notes that a gate is being taken off, at `now`.
    pub fn begin_ungating(&mut self, ungate: &Ungate, now: Duration) {
        let failures = self.ungating.get(&ungate.uid).map_or(0, |before| before.failures);
        let resource_version = ungate.resource_version.clone();
        let ungating = Ungating { resource_version, again_at: now + REPLACEMENT_DEADLINE, failures };
        self.ungating.insert(ungate.uid.clone(), ungating);
    }

    /// Notes what became of that.
    pub fn ungated(&mut self, ungate: &Ungate, outcome: &WriteOutcome, now: Duration) {
        match outcome {
            // Not again for this version of the pod, until that has taken too long.
            WriteOutcome::Done | WriteOutcome::Conflict => {}
            WriteOutcome::Refused(_) | WriteOutcome::Failed(_) => self.ungating_not_executed(ungate, now),
        }
    }

    /// Notes that a gate was not taken off, in audit mode for instance: it is due again after a pause that grows.
    pub fn ungating_not_executed(&mut self, ungate: &Ungate, now: Duration) {
        if let Some(ungating) = self.ungating.get_mut(&ungate.uid) {
            ungating.again_at = now + pause(ungating.failures);
            ungating.failures += 1;
        }
    }

    /// Notes that a gate is not being taken off after all: nothing was sent.
    pub fn ungating_dropped(&mut self, ungate: &Ungate) {
        self.ungating.remove(&ungate.uid);
    }

    /// Notes that nothing was sent for an action that had begun: it may be planned again at once.
    pub fn dropped(&mut self, action: &Action) {
        if let Some(marked) = self.marked.get_mut(&action.owner.uid) {
            marked.resuming = None;
        }
        if let Some(owner) = self.owners.get_mut(&action.owner.uid) {
            owner.discard(&action.operation);
        }
    }

    /// Notes that audit mode did not send `action`: its owner is planned for again after a pause that grows.
    pub fn not_executed(&mut self, action: &Action, now: Duration) {
        let owner = self.owners.entry(action.owner.uid.clone()).or_default();
        // What one plan has of an owner counts once.
        if owner.again_at <= now {
            owner.again_at = now + pause(owner.failures);
            owner.failures += 1;
        }
        owner.discard(&action.operation);
    }

    /// Notes what became of it.
    pub fn acted(&mut self, action: &Action, outcome: &WriteOutcome, now: Duration) {
        let remembered = self.owners.get_mut(&action.owner.uid);
        match outcome {
            WriteOutcome::Done => {
                if let Some(owner) = remembered {
                    owner.failures = 0;
                    owner.note_answer(&action.operation);
                }
            }
            WriteOutcome::Conflict => {
                if let Some(owner) = remembered {
                    owner.discard(&action.operation);
                }
                let versions = action.written_versions();
                self.stale.extend(versions.map(|(uid, version)| (uid.to_owned(), (version.to_owned(), now))));
            }
            WriteOutcome::Refused(_) | WriteOutcome::Failed(_) => {
                if let Some(marked) = self.marked.get_mut(&action.owner.uid) {
                    marked.resuming = None;
                }
                let owner = self.owners.entry(action.owner.uid.clone()).or_default();
                let refused = matches!(outcome, WriteOutcome::Refused(_));
                let again_at = if refused { &mut owner.evict_again_at } else { &mut owner.again_at };
                // What fails together fails for one reason, and counts once.
                if *again_at <= now {
                    *again_at = now + pause(owner.failures);
                    owner.failures += 1;
                }
                if !refused {
                    self.window.narrow(now, now);
                }
                if refused {
                    owner.discard(&action.operation);
                } else {
                    // An unanswered write may have happened: if the pod still exists after the pause, it did not.
                    let since = owner.again_at.saturating_sub(REPLACEMENT_DEADLINE);
                    owner.replacements_of(&action.operation).for_each(|replacement| replacement.since = since);
                    owner.note_answer(&action.operation);
                }
            }
        }
    }

    /// Whether a write to this version of an object conflicted lately: what is seen of it is old.
    pub(super) fn is_stale(&self, uid: &str, resource_version: &str, now: Duration) -> bool {
        let stale = self.stale.get(uid);
        stale.is_some_and(|(version, since)| version == resource_version && now < *since + REPLACEMENT_DEADLINE)
    }

    /// Whether a pod was seen when it was not asked for.
    pub fn came_before(&self, uid: &str) -> bool {
        self.came_before.contains(uid)
    }

    /// Whether an owner is left alone because its pods come back missed.
    pub fn is_breaker_open(&self, owner: &str) -> bool {
        self.owners.get(owner).is_some_and(|owner| owner.breaker_open_until.is_some())
    }

    /// How many owners are.
    pub fn open_breakers(&self) -> usize {
        self.owners.values().filter(|owner| owner.breaker_open_until.is_some()).count()
    }

    /// When a replacement was seen last that came back missed: injection must be proven again after that.
    pub fn missed_again_at(&self) -> Option<Duration> {
        self.missed_again_at
    }

    /// Whether a Job was resumed because its pods had been held for too long.
    pub fn is_resumed_overdue(&self, job: &str) -> bool {
        self.resumed_overdue.contains(job)
    }

    /// Since when no injector configuration has been there, as far as lists that succeeded tell.
    pub fn absent_since(&self) -> Option<Duration> {
        self.absent_since
    }

    /// Whether no injector configuration has been there for [`ABSENT_FOR`].
    pub fn is_uninstalled(&self) -> bool {
        self.uninstalled
    }

    /// How many removals may be under way.
    pub fn window(&self) -> usize {
        self.window.size()
    }

    /// How many pods are on their way to be made again, or Jobs to make theirs.
    pub fn under_way(&self, now: Duration) -> usize {
        let recent = |since: Duration| now < since + window::SLOT_TIMEOUT;
        let replacements = self.owners.values().flat_map(|owner| &owner.replacements);
        let removals =
            replacements.filter(|replacement| replacement.takes_a_place() && recent(replacement.since)).count();
        let resumptions = self.marked.values().filter_map(|marked| marked.resuming.as_ref());
        removals + resumptions.filter(|(_, since)| recent(*since)).count()
    }

    /// Whether a gate may be taken off at `now`: it is not being, or that has taken too long, or the pod has changed since.
    pub(super) fn may_ungate(&self, uid: &str, resource_version: &str, now: Duration) -> bool {
        self.ungating.get(uid).is_none_or(|before| {
            before.again_at <= now || before.failures == 0 && before.resource_version != resource_version
        })
    }

    /// Owners that have not created a pod again in time, as the latest observation found them; each is returned once after
    /// [`window::SLOT_TIMEOUT`], and once more after [`REPLACEMENT_DEADLINE`].
    pub fn take_late(&mut self) -> Vec<LateReplacement> {
        std::mem::take(&mut self.late)
    }

    /// The owners of which all pods have to be seen, whatever these are, by uid: something was done of which more is to come.
    pub fn awaited(&self) -> BTreeSet<String> {
        self.owners.keys().chain(self.marked.keys()).cloned().collect()
    }

    /// Whether this owner, by its uid, had missed pods or a replacement lately.
    pub fn remembers(&self, owner: &str) -> bool {
        self.owners.contains_key(owner)
    }

    pub(super) fn owner(&self, uid: &str) -> Option<&OwnerTracker> {
        self.owners.get(uid)
    }

    pub(super) fn marked_at(&self, job: &str) -> Option<Duration> {
        self.marked.get(job).map(|marked| marked.since)
    }

    /// Whether this version of a Job is being resumed: until it has changed, or that has taken too long.
    pub(super) fn resumes(&self, job: &str, resource_version: &str, now: Duration) -> bool {
        let resuming = self.marked.get(job).and_then(|marked| marked.resuming.as_ref());
        resuming.is_some_and(|(version, since)| version == resource_version && now < *since + REPLACEMENT_DEADLINE)
    }

    /// When something is due only because time has passed.
    pub(super) fn wakes(&self, policy: &RepairPolicy) -> impl Iterator<Item = Duration> {
        let owners = self.owners.values().flat_map(|owner| {
            let replacements = owner.replacements.iter().flat_map(|replacement| {
                [
                    replacement.since + window::SLOT_TIMEOUT,
                    replacement.since + REPLACEMENT_DEADLINE,
                    replacement.since + BREAKER_OPEN_FOR,
                ]
            });
            replacements.chain(owner.breaker_open_until).chain([
                owner.again_at,
                owner.evict_again_at,
                owner.acted_at + policy.cooldown,
            ])
        });
        let marked = self.marked.values().flat_map(|marked| {
            let resuming = marked.resuming.iter().map(|(_, since)| *since + REPLACEMENT_DEADLINE);
            resuming.chain([marked.since + REPLACEMENT_DEADLINE])
        });
        let ungating = self.ungating.values().map(|ungating| ungating.again_at);
        let absent = self.absent_since.iter().map(|since| *since + ABSENT_FOR);
        let stale = self.stale.values().map(|(_, since)| *since + REPLACEMENT_DEADLINE);
        owners.chain(marked).chain(ungating).chain(absent).chain(stale)
    }
}

/// The pause after so many failures.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE)
}

// === impl Arrivals ===

impl Arrivals {
    fn add(&mut self, other: Self) {
        self.good += other.good;
        self.missed = self.missed.max(other.missed);
        self.silent = self.silent.max(other.silent);
    }
}

// === impl OwnerTracker ===

impl OwnerTracker {
    /// Takes in its pods as they are; `lacks` says whether it wants more. Returns what its replacements show.
    fn note_pods(&mut self, siblings: &[(&PodView, PodState)], lacks: bool, now: Duration) -> Arrivals {
        let mut arrivals = Arrivals::default();
        let mut meshed = false;
        if self.known.len() > siblings.len() {
            let there: BTreeSet<&str> = siblings.iter().map(|(pod, _)| pod.uid.as_str()).collect();
            self.known.retain(|uid| there.contains(uid.as_str()));
        }
        for (pod, state) in siblings {
            if *state == PodState::Unknown || self.known.contains(&pod.uid) {
                continue;
            }
            self.known.insert(pod.uid.clone());
            let by_name = pod.owner.as_ref().is_some_and(|owner| owner.kind == Kind::StatefulSet);
            let awaited = |replacement: &&mut Replacement| {
                replacement.successor.is_none() && (!by_name || replacement.name == pod.name)
            };
            let replacement = self.replacements.iter_mut().find(awaited);
            let replaces = replacement.is_some();
            let began = replacement.as_ref().map(|replacement| replacement.since);
            let mut answered = true;
            if let Some(replacement) = replacement {
                replacement.successor = Some(pod.uid.clone());
                answered = replacement.answered;
                replacement.missed_at = (!answered && matches!(state, PodState::Missed(_))).then_some(now);
            }
            match state {
                PodState::Missed(_) => {
                    // An owner that grows, or whose pods fail, while the injector is away makes missed pods too: only what came
                    // instead of one that we removed shows a loop, which has as many of them as there were removals.
                    if !replaces {
                        continue;
                    }
                    if answered {
                        self.unexplained.push(now);
                    }
                    // What is left alone because it always comes back missed says nothing about other owners.
                    arrivals.missed = arrivals.missed.max(began.filter(|_| self.breaker_open_until.is_none()));
                }
                PodState::Meshed => {
                    meshed = true;
                    arrivals.good += usize::from(replaces);
                    if replaces {
                        self.meshed_at = Some(now);
                    }
                }
                PodState::Skipped | PodState::Over => arrivals.good += usize::from(replaces),
                PodState::Unknown => {}
            }
        }
        if meshed {
            self.forgive();
        }
        self.replacements.retain_mut(|replacement| {
            let successor = siblings.iter().find(|(pod, _)| Some(&pod.uid) == replacement.successor.as_ref());
            let settled = successor.is_some_and(|(pod, state)| {
                matches!(pod.life, Life::Ready | Life::Finished)
                    || matches!(state, PodState::Missed(_))
                    || replacement.state == MissedState::Held && pod.started == Started::Ever
            });
            let removed = siblings.iter().find(|(pod, _)| pod.uid == replacement.pod);
            if settled && removed.is_none() && replacement.answered {
                return false;
            }
            // What goes is not done with, however long its grace period is; nor is a pod that ran as long as its successor does
            // not get ready.
            replacement.going = removed.is_some_and(|(pod, _)| pod.life == Life::Going);
            if replacement.going {
                replacement.since = now;
            }
            let unready = replacement.state == MissedState::Running && successor.is_some();
            let waited = now.saturating_sub(replacement.since);
            replacement.absent = removed.is_none() && replacement.successor.is_none();
            replacement.late = waited >= REPLACEMENT_DEADLINE && replacement.absent;
            // Where the owner wants nothing more, nothing is to come.
            if lacks && replacement.takes_a_place() && waited >= window::SLOT_TIMEOUT && !replacement.silent {
                replacement.silent = true;
                arrivals.silent = arrivals.silent.max(Some(replacement.since));
            }
            unready || waited < REPLACEMENT_DEADLINE || replacement.late && waited < BREAKER_OPEN_FOR
        });
        arrivals
    }

    /// Whether it is to be asked now why no pod has come: of each removal once after either deadline.
    fn note_late(&mut self, now: Duration) -> bool {
        let mut news = false;
        for replacement in self.replacements.iter_mut().filter(|replacement| replacement.absent && replacement.paced) {
            let waited = now.saturating_sub(replacement.since);
            let passed = [REPLACEMENT_DEADLINE, window::SLOT_TIMEOUT].into_iter().find(|deadline| waited >= *deadline);
            news |= passed.is_some_and(|passed| passed > replacement.reason_asked_after);
            replacement.reason_asked_after = replacement.reason_asked_after.max(passed.unwrap_or_default());
        }
        news
    }

    /// Counts what no outage explains. Returns whether it is left alone from now on.
    ///
    /// Without proof there is an outage, and no wonder that pods came back missed. With a proof from after, there is none.
    fn judge(&mut self, proven: Option<Duration>, now: Duration) -> bool {
        if self.breaker_open_until.is_some_and(|until| until <= now) {
            self.forgive();
        }
        let before = self.unexplained.len();
        self.unexplained.retain(|missed| proven.is_some_and(|proven| *missed >= proven));
        if proven.is_some() {
            self.missed_replacements += before - self.unexplained.len();
        }
        let breaks = self.missed_replacements >= MAX_FAILURES && self.breaker_open_until.is_none();
        if breaks {
            self.breaker_open_until = Some(now + BREAKER_OPEN_FOR);
        }
        breaks
    }

    fn forgive(&mut self) {
        self.missed_replacements = 0;
        self.unexplained.clear();
        self.breaker_open_until = None;
    }

    /// How many removals are under way; late ones count only where the owner `lacks` pods. Of a StatefulSet whose pod of the number
    /// `waits_after` is not ready, those do not count whose replacement has a higher number and is still to come.
    pub(super) fn under_way(&self, lacks: bool, waits_after: Option<u64>) -> usize {
        let waits = |replacement: &Replacement| {
            replacement.absent
                && waits_after.is_some_and(|first| ordinal(&replacement.name).is_some_and(|place| place > first))
        };
        self.replacements.iter().filter(|replacement| (lacks || !replacement.late) && !waits(replacement)).count()
    }

    /// How many of them whose replacement has not been seen yet.
    pub(super) fn unseen(&self, lacks: bool) -> usize {
        self.replacements
            .iter()
            .filter(|replacement| replacement.successor.is_none() && (lacks || !replacement.late))
            .count()
    }

    /// Whether some replacement has not come in time, of an owner that `lacks` pods.
    pub(super) fn is_late(&self, lacks: bool) -> bool {
        lacks && self.replacements.iter().any(|replacement| replacement.late)
    }

    /// Whether replacements have come back missed lately.
    pub(super) fn has_failures(&self) -> bool {
        self.missed_replacements > 0 || !self.unexplained.is_empty()
    }

    /// Whether it makes pods with a proxy, as far as the last few seconds tell.
    pub(super) fn is_trusted(&self, now: Duration) -> bool {
        !self.has_failures() && self.meshed_at.is_some_and(|at| now < at + TRUST)
    }

    /// Whether a pod is being removed by us.
    pub(super) fn removes(&self, pod: &str) -> bool {
        self.replacements.iter().any(|replacement| replacement.pod == pod)
    }

    /// The act has been done, or may have been: what came meanwhile came instead of what it removed.
    fn note_answer(&mut self, act: &Operation) {
        for replacement in self.replacements.iter_mut().filter(|replacement| replacement.is_of(act)) {
            replacement.answered = true;
            self.unexplained.extend(replacement.missed_at.take());
        }
    }

    /// Nothing is under way for what an act was about.
    fn discard(&mut self, act: &Operation) {
        self.replacements.retain(|replacement| !replacement.is_of(act));
    }

    fn replacements_of(&mut self, act: &Operation) -> impl Iterator<Item = &mut Replacement> {
        self.replacements.iter_mut().filter(|replacement| replacement.is_of(act))
    }

    fn is_needed(&self, cooldown: Duration, now: Duration) -> bool {
        let remembered = if self.has_failures() { BREAKER_OPEN_FOR } else { REMEMBERED };
        !self.replacements.is_empty()
            || self.breaker_open_until.is_some()
            || self.again_at > now
            || self.evict_again_at > now
            || now.saturating_sub(self.acted_at) < remembered.max(cooldown)
    }
}

// === impl Replacement ===

impl Replacement {
    /// Whether the window counts it, as long as it is recent.
    fn takes_a_place(&self) -> bool {
        self.paced && !self.going && self.successor.is_none()
    }

    /// Whether an act was about its pod.
    fn is_of(&self, act: &Operation) -> bool {
        act.removes().is_some_and(|(targets, _)| targets.iter().any(|target| target.uid == self.pod))
    }
}
