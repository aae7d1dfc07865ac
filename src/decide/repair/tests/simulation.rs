//! What holds for every story of a small cluster, not only for those that somebody thought of.

use std::collections::{BTreeSet, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::action::Target;
use super::super::object::ordinal;
use super::super::{
    Action, Decision, Kind, Life, MissedState, Repair, RepairPolicy, Scan, Tracker, WriteOutcome, plan,
};
use super::model::{Cluster, policy, seconds, words};
use super::world::{Injector, World};

/// The prober looks so often, in seconds.
const PROOFS: u64 = 3;

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    Injector(Injector),
    /// Somebody deletes all pods of an owner.
    Sweep(usize),
    /// Somebody refuses what an owner makes, or no more.
    Refuse(usize, bool),
    /// A disruption budget refuses evictions, or no more.
    Protect(usize, bool),
    /// The pods of an owner take so long to go.
    Grace(usize, u64),
    /// The API server fails, or no more; whether what it was asked for happens all the same.
    Fail(Option<bool>),
    /// The controller begins anew.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let injector = prop_oneof![2 => Just(Injector::Up), 1 => Just(Injector::Down), 1 => Just(Injector::Skips)];
    prop_oneof![
        6 => injector.prop_map(Event::Injector),
        3 => (0_usize..10).prop_map(Event::Sweep),
        1 => (0_usize..10, any::<bool>()).prop_map(|(team, refuse)| Event::Refuse(team, refuse)),
        1 => (0_usize..10, any::<bool>()).prop_map(|(team, protect)| Event::Protect(team, protect)),
        1 => (0_usize..10, 0_u64..150).prop_map(|(team, grace)| Event::Grace(team, grace)),
        1 => any::<Option<bool>>().prop_map(Event::Fail),
        1 => Just(Event::Restart),
    ]
}

#[derive(Clone, Debug)]
struct Story {
    repair: Repair,
    begins: Injector,
    waits: u16,
    gates: u16,
    /// How old what is seen is, in seconds.
    lag: usize,
    /// How long an act takes, in seconds.
    takes: u64,
    events: Vec<(u64, Event)>,
}

fn story() -> impl Strategy<Value = Story> {
    let begins = prop_oneof![Just(Injector::Down), Just(Injector::Skips)];
    let repair = prop_oneof![Just(Repair::Held), Just(Repair::Running)];
    (repair, begins, any::<u16>(), any::<u16>(), 0_usize..3, 0_u64..3, vec((1_u64..40, event()), 0..12)).prop_map(
        |(repair, begins, waits, gates, lag, takes, events)| Story { repair, begins, waits, gates, lag, takes, events },
    )
}

/// A removal that began.
#[derive(Debug)]
struct Removal {
    at: u64,
    team: usize,
    pods: usize,
    evicts: bool,
}

/// The world, the controller in it, and what is held against it.
struct Harness {
    world: World,
    story: Story,
    policy: RepairPolicy,
    tracker: Tracker,
    history: VecDeque<Cluster>,
    seen: Option<Cluster>,
    again: Option<std::time::Duration>,
    proven: Option<u64>,
    fails: Option<bool>,
    under_way: Vec<(u64, Action)>,
    gone: BTreeSet<String>,
    removals: Vec<Removal>,
    /// Removals that happened, since the controller began.
    happened: Vec<Removal>,
    /// Pods of StatefulSets that were removed and are not back.
    awaited: Vec<(usize, String)>,
    restarted: u64,
    skips_since: Option<u64>,
    /// Whether every missed pod that may go has gone, as far as the latest plan sees.
    at_rest: bool,
}

impl Harness {
    fn new(story: Story) -> Self {
        let world = World::new(story.begins, story.waits, story.gates);
        let policy =
            RepairPolicy { eviction_rate: "30/m".parse().unwrap(), cooldown: seconds(15), ..policy(story.repair) };
        let tracker = Tracker::new(&policy, seconds(world.now));
        Self {
            skips_since: (story.begins == Injector::Skips).then_some(world.now),
            restarted: world.now,
            world,
            policy,
            tracker,
            history: VecDeque::new(),
            seen: None,
            again: None,
            proven: None,
            fails: None,
            under_way: Vec::new(),
            gone: BTreeSet::new(),
            removals: Vec::new(),
            happened: Vec::new(),
            awaited: Vec::new(),
            at_rest: false,
            story,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Injector(injector) => {
                self.world.injector = injector;
                let skips = injector == Injector::Skips;
                self.skips_since = self.skips_since.filter(|_| skips).or(skips.then_some(self.world.now));
            }
            Event::Sweep(team) => self.world.sweep(team),
            Event::Refuse(team, refused) => self.world.teams[team].refused = refused,
            Event::Protect(team, protected) => self.world.teams[team].protected = protected,
            Event::Grace(team, grace) => self.world.teams[team].grace = grace,
            Event::Fail(fails) => self.fails = fails,
            Event::Restart => {
                self.restarted = self.world.now;
                self.tracker = Tracker::new(&self.policy, seconds(self.world.now));
                self.under_way.clear();
                self.gone.clear();
                self.happened.clear();
                self.awaited.clear();
                // It lists everything anew.
                self.history.clear();
                self.seen = None;
            }
        }
    }

    fn tick(&mut self) -> Result<(), TestCaseError> {
        self.world.tick();
        let world = &self.world;
        let is_back = |team, name: &str| world.of(team).any(|body| body.view.name == name && !body.is_going());
        self.awaited.retain(|(team, name)| !is_back(*team, name.as_str()));
        let now = self.world.now;
        if now.is_multiple_of(PROOFS) {
            self.proven = (self.world.injector != Injector::Down).then_some(now);
        }
        let (due, later) = std::mem::take(&mut self.under_way).into_iter().partition(|(ends, _)| *ends <= now);
        self.under_way = later;
        self.end(due);
        self.history.push_back(self.world.cluster(None));
        while self.history.len() > self.story.lag + 1 {
            self.history.pop_front();
        }
        let mut cluster = self.history[0].clone();
        cluster.proven = self.proven.map(seconds);
        let woken = self.again.is_some_and(|again| again <= seconds(now));
        let changed = self.seen.as_ref().is_none_or(|seen| {
            (&seen.pods, &seen.owners, seen.proven) != (&cluster.pods, &cluster.owners, cluster.proven)
        });
        if changed || woken {
            self.think(&cluster)?;
        }
        self.seen = Some(cluster);
        Ok(())
    }

    /// What was begun ends.
    fn end(&mut self, due: Vec<(u64, Action)>) {
        for (_, action) in due {
            let happens = if self.fails == Some(false) { None } else { Some(self.world.apply(&action)) };
            let team = self.world.teams.iter().position(|team| team.reference == action.owner).unwrap();
            let targets = action.operation.removes().unwrap_or_default().0;
            if happens == Some(WriteOutcome::Done) {
                self.gone.extend(targets.iter().map(|target| target.uid.clone()));
                self.happened.push(Removal { at: self.world.now, team, pods: targets.len(), evicts: false });
                if action.owner.kind == Kind::StatefulSet {
                    self.awaited.extend(targets.iter().map(|target| (team, target.name.clone())));
                }
            }
            let outcome = happens.filter(|_| self.fails.is_none());
            let outcome = outcome.unwrap_or_else(|| WriteOutcome::Failed("no answer".to_owned()));
            self.tracker.acted(&action, &outcome, seconds(self.world.now));
        }
    }

    fn think(&mut self, cluster: &Cluster) -> Result<(), TestCaseError> {
        let now = seconds(self.world.now);
        let snapshot = cluster.snapshot();
        let scan = Scan::of(&snapshot, |owner| self.tracker.remembers(owner));
        self.tracker.observe(&snapshot, &scan, now);
        let plan = plan(&snapshot, &scan, &self.tracker, &self.policy, now);
        prop_assert!(plan.again.is_none_or(|again| again > now), "a busy loop");
        self.again = plan.again;
        let replaced = |missed: &super::super::Missed<'_>| matches!(missed.decision, Decision::Replace(_));
        let marked = cluster.owners[4].values().any(|job| job.job().is_some_and(|job| job.suspended_by_us.is_some()));
        self.at_rest = !marked && !plan.missed.iter().any(replaced);
        for action in plan.actions {
            self.check(cluster, &action)?;
            self.tracker.begin(&action, scan.siblings_of(&action.owner.uid), now);
            self.under_way.push((self.world.now + self.story.takes, action));
        }
        Ok(())
    }

    /// Holds an act that is about to begin against every rule.
    fn check(&mut self, cluster: &Cluster, action: &Action) -> Result<(), TestCaseError> {
        let now = self.world.now;
        let what = words(action);
        let place = self.world.teams.iter().position(|team| team.reference == action.owner);
        let Some(place) = place else { return Err(TestCaseError::fail(format!("{what}: nobody's"))) };
        let Some((targets, evicts)) = action.operation.removes() else {
            prop_assert_eq!(action.operation.key(), "resume");
            let suspended = cluster.owners[4].values().find(|job| job.reference == action.owner);
            let suspended = suspended.and_then(|job| job.job()).is_some_and(|job| job.suspended);
            prop_assert!(self.proven.is_some() || !suspended, "{} without proof", what);
            return Ok(());
        };
        prop_assert!(self.proven.is_some() || !action.operation.needs_proof(), "{} without proof", what);
        prop_assert!(!targets.is_empty(), "{}", what);
        for target in targets {
            let under_way = self.under_way.iter().filter_map(|(_, action)| action.operation.removes());
            let twice = under_way.flat_map(|(targets, _)| targets).any(|other| other.uid == target.uid);
            prop_assert!(!twice && !self.gone.contains(&target.uid), "{} twice", what);
            // One that is gone meanwhile is safe by its uid.
            let body = self.world.bodies.iter().find(|body| body.view.uid == target.uid);
            let running = self.story.repair == Repair::Running;
            let body = body.filter(|body| body.view.resource_version.as_ref() == Some(&target.resource_version));
            prop_assert!(body.is_none_or(|body| body.may_go(&self.world, running)), "{} may not go", what);
            let untracks = matches!(action.operation, super::super::Operation::Untrack { .. });
            prop_assert!(
                !untracks || body.is_none_or(|body| body.view.scheduling_gate.is_some()),
                "{} is not gated",
                what
            );
        }
        let evicts_running = evicts && targets.iter().any(|target| target.state == MissedState::Running);
        self.check_owner(cluster, place, targets, evicts_running, &what)?;
        self.removals.push(Removal { at: now, team: place, pods: targets.len(), evicts });
        Ok(())
    }

    fn check_owner(
        &self,
        cluster: &Cluster,
        place: usize,
        targets: &[Target],
        evicts_running: bool,
        what: &str,
    ) -> Result<(), TestCaseError> {
        let pods = targets.len();
        let has_node = |target: &Target| {
            self.world.bodies.iter().any(|body| body.view.uid == target.uid && body.view.node.is_some())
        };
        let bound = targets.iter().any(has_node);
        let now = self.world.now;
        let team = &self.world.teams[place];
        let before: Vec<&Removal> =
            self.removals.iter().filter(|removal| removal.team == place && removal.at > self.restarted).collect();
        // Ours, and what is seen of others'.
        let ours = |uid: &str| self.is_under_way(uid) || self.gone.contains(uid);
        let mut going: BTreeSet<&str> =
            self.world.of(place).map(|body| body.view.uid.as_str()).filter(|uid| ours(uid)).collect();
        let own = going.len();
        let seen = cluster.pods.values().filter(|pod| pod.owner.as_ref() == Some(&team.reference));
        going.extend(seen.filter(|pod| pod.life == Life::Going).map(|pod| pod.uid.as_str()));
        let going = going.len();
        match team.reference.kind {
            Kind::StatefulSet if bound => {
                prop_assert_eq!(going, 0, "{}: another goes", what);
                // But for one that may be made only once the removed one is ready.
                let waits = |name: &str| targets.iter().all(|target| ordinal(name) > ordinal(&target.name));
                let absent = self.awaited.iter().find(|(team, name)| *team == place && !waits(name));
                prop_assert!(absent.is_none(), "{}: {:?} is not back", what, absent);
            }
            Kind::DaemonSet if bound => prop_assert!(going + pods <= 2, "{}: {} of its budget go", what, going),
            _ => {}
        }
        if evicts_running {
            prop_assert_eq!(own, 0, "{}: another goes", what);
            let rested = before.last().is_none_or(|last| last.at + self.policy.cooldown.as_secs() <= now);
            prop_assert!(rested, "{}: no rest after {:?}", what, before.last());
        }
        // A webhook that skips, whatever the proof says: three, and no more. What came a moment before may still be seen.
        if let Some(since) = self.skips_since {
            let lately = self.happened.iter().filter(|removal| removal.team == place && removal.at > since + 10);
            let begun = self.under_way.iter().filter(|(_, action)| action.owner == team.reference);
            let removed = lately.map(|removal| removal.pods).sum::<usize>() + begun.count();
            prop_assert!(removed < 3, "{}: after {} since {}", what, removed, since);
        }
        Ok(())
    }

    fn is_under_way(&self, uid: &str) -> bool {
        let mut targets =
            self.under_way.iter().filter_map(|(_, action)| action.operation.removes()).flat_map(|(all, _)| all);
        targets.any(|target| target.uid == uid)
    }

    /// Over any span of time no more evictions than their rate gives.
    fn check_rate(&self) -> Result<(), TestCaseError> {
        let evictions: Vec<u64> = self.removals.iter().filter(|removal| removal.evicts).map(|one| one.at).collect();
        for (first, from) in evictions.iter().enumerate() {
            for (last, to) in evictions.iter().enumerate().skip(first) {
                let share = 1 + usize::try_from(to - from).unwrap().div_ceil(2);
                prop_assert!(last - first < share, "{} evicted from {} to {}", last - first + 1, from, to);
            }
        }
        Ok(())
    }
}

fn play(story: Story) -> Result<(), TestCaseError> {
    let events = story.events.clone();
    let mut harness = Harness::new(story);
    for (pause, event) in events {
        for _ in 0..pause {
            harness.tick()?;
        }
        harness.happen(event);
    }
    // From now on everything works.
    harness.happen(Event::Injector(Injector::Up));
    harness.happen(Event::Fail(None));
    for team in &mut harness.world.teams {
        (team.refused, team.protected, team.grace) = (false, false, 2);
    }
    let mut waited = 0;
    while !(harness.at_rest && harness.tracker.open_breakers() == 0 && waited > 20) {
        if harness.at_rest && harness.tracker.open_breakers() > 0 {
            // The hour in which owners are left alone.
            harness.world.now += 600;
        }
        harness.tick()?;
        waited += 1;
        prop_assert!(waited < 1_500, "it does not come to rest: {:?}", harness.again);
    }
    harness.check_rate()?;
    for team in &harness.world.teams {
        prop_assert_eq!(team.failures, 0, "a Job failed by us: {:?}", team);
        prop_assert_eq!(&team.mark, &None, "a Job is still suspended: {:?}", team);
    }
    for (place, team) in harness.world.teams.iter().enumerate().filter(|(_, team)| team.waits && team.wants > 0) {
        // Strict Jobs can have pods that are meshed beside held ones: only those that our gate holds are ended then.
        let counted = team.reference.kind == Kind::Job && !team.gates;
        let exempt = matches!(team.reference.kind, Kind::Other(_)) || team.declines || counted;
        let meshed = harness.world.of(place).all(|body| body.view.bare.is_none() || body.is_going());
        prop_assert!(exempt || meshed, "a pod of {:?} is missed for ever", team);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_repair_rules_hold_and_all_pods_are_meshed_in_the_end(story in story()) {
        play(story)?;
    }
}
