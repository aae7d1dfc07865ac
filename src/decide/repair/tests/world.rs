//! A small cluster that lives: owners make pods, an injector is there or not, pods start and go.

use serde_json::json;

use super::super::object::{Detail, SchedulingGateView};
use super::super::{Action, Kind, Life, MissedState, Operation, OwnerReference, OwnerView, PodView, WriteOutcome};
use super::fixtures::{Draft, daemon_set, job, pod, replica_set, replication_controller, rollout, stateful_set};
use super::model::{Cluster, seconds};
use crate::linkerd::Started;

/// What becomes of a pod that is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injector {
    Up,
    Down,
    /// It answers, and injects nothing of what it should.
    Skips,
}

/// An owner and what it makes.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is set by an event of its own")]
pub struct Team {
    pub reference: OwnerReference,
    /// As it was made; nothing where nobody knows its kind.
    base: Option<OwnerView>,
    /// How many pods it wants.
    pub wants: usize,
    /// Whether its pods have the entry of `wait`: a bare one is held then, else it runs.
    pub waits: bool,
    /// Whether a bare pod of its is created with our gate.
    pub gates: bool,
    /// Whether its pods decline injection.
    pub declines: bool,
    /// Whether somebody refuses what it makes, whatever the injector says.
    pub refused: bool,
    /// Whether a disruption budget refuses evictions.
    pub protected: bool,
    /// How long its pods take to go.
    pub grace: u64,
    /// Of a Job: whether an evicted pod counts.
    pub counts: bool,
    suspended: bool,
    pub mark: Option<String>,
    version: usize,
    /// Of a Job: how many of its pods counted as failures, or were ended although they ran.
    pub failures: usize,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Body {
    pub view: PodView,
    pub team: Option<usize>,
    /// Its ordinal, or its node.
    pub slot: usize,
    born: u64,
    goes: Option<u64>,
}

#[derive(Debug)]
pub struct World {
    pub now: u64,
    pub injector: Injector,
    pub teams: Vec<Team>,
    pub bodies: Vec<Body>,
    cluster: Cluster,
    bare: PodView,
    meshed: PodView,
    declining: PodView,
    serial: usize,
}

impl Team {
    fn new(draft: &Draft, wants: usize) -> Self {
        let reference = pod("any").of(draft).view().owner.unwrap();
        Self {
            base: Some(draft).filter(|_| !matches!(reference.kind, Kind::Other(_))).map(Draft::owner_view),
            reference,
            wants,
            waits: true,
            gates: false,
            declines: false,
            refused: false,
            protected: false,
            grace: 2,
            counts: true,
            suspended: false,
            mark: None,
            version: 1,
            failures: 0,
        }
    }
}

impl World {
    /// One of each kind and then some; `waits` says by its bits whose pods wait, and `gates` whose are held at creation.
    pub fn new(injector: Injector, waits: u16, gates: u16) -> Self {
        let ignore = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
        let budget = "/spec/updateStrategy/rollingUpdate/maxUnavailable";
        let mut teams: Vec<Team> = [
            (replica_set("web"), 4),
            (stateful_set("db"), 3),
            (stateful_set("queue"), 3),
            (daemon_set("log").and(budget, 2.into()), 5),
            (replication_controller("old"), 2),
            (job("lenient").and("/spec/podFailurePolicy", json!({"rules": ignore})), 2),
            (job("strict"), 2),
            (job("managed").labelled("kueue.x-k8s.io/queue-name", "night"), 2),
            (rollout("blue"), 2),
            (replica_set("plain"), 2),
        ]
        .into_iter()
        .map(|(draft, wants)| Team::new(&draft, wants))
        .collect();
        teams[5].counts = false;
        teams[9].declines = true;
        for (place, team) in teams.iter_mut().enumerate() {
            team.waits = (waits >> place) & 1 == 1;
            team.gates = (gates >> place) & 1 == 1;
        }
        let loose = |view| Body { view, team: None, slot: 0, born: 0, goes: None };
        let mut world = Self {
            now: 10_000,
            injector,
            teams,
            bodies: Vec::new(),
            cluster: Cluster::asking(),
            bare: pod("any").view(),
            meshed: pod("any").meshed().view(),
            declining: pod("any").declining().view(),
            serial: 0,
        };
        world.bodies.extend(
            [
                pod("lonely").view(),
                pod("file").annotated("kubernetes.io/config.mirror", "hash").view(),
                pod("done").of(&replica_set("web")).finished().view(),
                pod("quiet").of(&replica_set("web")).repaired("report").view(),
            ]
            .map(loose),
        );
        world.make();
        world
    }

    /// A second passes.
    pub fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        self.bodies.retain(|body| body.goes.is_none_or(|goes| goes > now));
        for body in &mut self.bodies {
            let Some(team) = body.team.map(|team| &self.teams[team]) else { continue };
            let held = team.waits || body.view.scheduling_gate.is_some();
            let starts = body.view.bare.is_none() || !held || team.declines;
            if starts && body.view.life == Life::Unready && now >= body.born + 2 {
                body.view.life = Life::Ready;
                body.view.started = Started::Ever;
                body.changed();
            }
        }
        self.make();
    }

    /// What controllers do.
    fn make(&mut self) {
        for team in 0..self.teams.len() {
            if self.teams[team].refused || self.teams[team].suspended {
                continue;
            }
            let mine: Vec<(usize, Life)> = self.of(team).map(|body| (body.slot, body.view.life)).collect();
            let wants = self.teams[team].wants;
            match self.teams[team].reference.kind {
                Kind::ReplicaSet | Kind::ReplicationController | Kind::Other(_) => {
                    let active = mine.iter().filter(|(_, life)| *life != Life::Going).count();
                    (active..wants).for_each(|_| self.create(team, 0));
                }
                Kind::Job if mine.iter().any(|(_, life)| *life == Life::Going) => {}
                Kind::Job => (mine.len()..wants).for_each(|_| self.create(team, 0)),
                Kind::DaemonSet => {
                    (0..wants)
                        .filter(|slot| !mine.iter().any(|(its, _)| its == slot))
                        .for_each(|slot| self.create(team, slot));
                }
                Kind::StatefulSet => {
                    // `queue` makes the next only when this one is ready.
                    let ordered = self.teams[team].reference.name == "queue";
                    for slot in 0..wants {
                        let life = mine.iter().find(|(its, _)| *its == slot).map(|(_, life)| *life);
                        if life.is_none() {
                            self.create(team, slot);
                        }
                        if ordered && life != Some(Life::Ready) {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn create(&mut self, team: usize, slot: usize) {
        self.serial += 1;
        self.teams[team].version += 1;
        let Team { reference, declines, waits, gates, .. } = &self.teams[team];
        let name = match reference.kind {
            Kind::StatefulSet => format!("{}-{slot}", reference.name),
            _ => format!("{}-x{}", reference.name, self.serial),
        };
        let mut view = match self.injector {
            _ if *declines => self.declining.clone(),
            Injector::Up => self.meshed.clone(),
            Injector::Down | Injector::Skips => self.bare.clone(),
        };
        view.owner = Some(reference.clone());
        view.uid = format!("{name}/{}", self.serial);
        view.name = name;
        view.waits = *waits;
        if *gates && !*declines && view.bare.is_some() {
            let tracked = reference.kind == Kind::Job;
            view.scheduling_gate = Some(Box::new(SchedulingGateView { tracked, ..SchedulingGateView::default() }));
            view.node = None;
        }
        self.bodies.push(Body { view, team: Some(team), slot, born: self.now, goes: None });
    }

    pub fn of(&self, team: usize) -> impl Iterator<Item = &Body> {
        self.bodies.iter().filter(move |body| body.team == Some(team))
    }

    /// What the API server makes of an act.
    pub fn apply(&mut self, action: &Action) -> WriteOutcome {
        let team = self.teams.iter().position(|team| team.reference == action.owner).expect("an owner of ours");
        match &action.operation {
            Operation::Delete([target]) | Operation::Untrack { target: [target], .. } | Operation::Evict([target]) => {
                let evicts = matches!(action.operation, Operation::Evict(_));
                let Some(body) = self.bodies.iter_mut().find(|body| body.view.uid == target.uid) else {
                    return WriteOutcome::Conflict;
                };
                if body.view.resource_version.as_ref() != Some(&target.resource_version) {
                    return WriteOutcome::Conflict;
                }
                let team = &mut self.teams[team];
                if evicts && team.protected {
                    return WriteOutcome::Refused("a budget".to_owned());
                }
                let counts =
                    !matches!(action.operation, Operation::Untrack { .. }) || body.view.scheduling_gate.is_none();
                if action.owner.kind == Kind::Job && counts && (team.counts || !evicts) {
                    team.failures += 1;
                }
                // What no kubelet has goes at once.
                let grace = if body.view.node.is_none() { 0 } else { team.grace };
                body.go(self.now + grace);
                WriteOutcome::Done
            }
            Operation::Suspend { resource_version, .. } => {
                let version = self.teams[team].version.to_string();
                if version != *resource_version {
                    return WriteOutcome::Conflict;
                }
                let ran = self.of(team).any(|body| !body.is_going() && body.state() == MissedState::Running);
                let (now, its) = (self.now, &mut self.teams[team]);
                its.failures += usize::from(ran);
                its.version += 1;
                its.suspended = true;
                its.mark = Some(now.to_string());
                let goes = now + its.grace;
                self.bodies.iter_mut().filter(|body| body.team == Some(team)).for_each(|body| body.go(goes));
                WriteOutcome::Done
            }
            Operation::Resume { resource_version, .. } => {
                let its = &mut self.teams[team];
                if its.version.to_string() != *resource_version {
                    return WriteOutcome::Conflict;
                }
                its.version += 1;
                its.suspended = false;
                its.mark = None;
                WriteOutcome::Done
            }
        }
    }

    /// Somebody deletes all pods of an owner.
    pub fn sweep(&mut self, team: usize) {
        self.teams[team].version += 1;
        let goes = self.now + self.teams[team].grace;
        self.bodies.iter_mut().filter(|body| body.team == Some(team)).for_each(|body| body.go(goes));
    }

    /// As a controller sees it.
    pub fn cluster(&self, proven: Option<u64>) -> Cluster {
        let mut cluster = self.cluster.clone();
        cluster.proven = proven.map(seconds);
        cluster.pods = self.bodies.iter().map(|body| (body.view.path(), body.view.clone())).collect();
        for (place, team) in self.teams.iter().enumerate() {
            let active = self.of(place).filter(|body| body.view.life != Life::Going).count();
            if let Some(view) = team.view(active) {
                cluster.put_owner(view);
            }
        }
        cluster
    }
}

impl Team {
    fn view(&self, active: usize) -> Option<OwnerView> {
        let mut view = self.base.clone()?;
        view.has = i32::try_from(active).unwrap();
        view.wants = active < self.wants && !self.suspended;
        view.resource_version = view.resource_version.map(|_| self.version.to_string());
        if let Detail::Job(job) = &mut view.detail {
            job.suspended = self.suspended;
            job.suspended_by_us.clone_from(&self.mark);
            job.active = if self.suspended { 0 } else { view.has };
        }
        Some(view)
    }
}

impl Body {
    fn go(&mut self, goes: u64) {
        if self.goes.is_none() {
            self.goes = Some(goes);
            self.view.life = Life::Going;
            self.changed();
        }
    }

    fn changed(&mut self) {
        let version = self.view.resource_version.as_ref().map(|version| version.parse::<u64>().unwrap() + 1);
        self.view.resource_version = version.map(|version| version.to_string());
    }

    pub fn is_going(&self) -> bool {
        self.goes.is_some()
    }

    /// Whether it should have a proxy, and may be removed in this state.
    pub fn may_go(&self, world: &World, running: bool) -> bool {
        let team = self.team.map(|team| &world.teams[team]);
        self.view.bare.is_some()
            && team.is_some_and(|team| !team.declines && !matches!(team.reference.kind, Kind::Other(_)))
            && (running || self.state() == MissedState::Held)
    }

    pub fn state(&self) -> MissedState {
        if self.view.started == Started::Never { MissedState::Held } else { MissedState::Running }
    }
}
