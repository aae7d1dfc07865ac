//! The controller: one replica, which leads while it can renew its Lease, and the pure steps of repair.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use linkerd_gate_core::decide::election::lease_record::RENEW_DEADLINE;
use linkerd_gate_core::decide::repair::object::OwnersOfAKind;
use linkerd_gate_core::decide::repair::{
    Action, Due, NamespaceView, Owners, Permit, PodView, RepairPolicy, Room, Scan, Snapshot, Tracker, Ungate,
    WriteOutcome, plan, step,
};
use linkerd_gate_core::decide::{Evidence, Gate, PendingRepair, Policy, Probe};
use linkerd_gate_core::linkerd::{TokenProjection, WebhookView};

use crate::agent::Found;
use crate::form::Form;

/// What the operator configured, and what does not change.
pub struct Rules {
    pub repair: RepairPolicy,
    pub webhooks: WebhookView,
    pub namespaces: BTreeMap<String, NamespaceView>,
    pub wall: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Replica {
    gate: Gate,
    tracker: Tracker,
    look_at: Duration,
    /// When its Lease was renewed last.
    renewed: Duration,
    reprove: Duration,
    pub pending: PendingRepair,
}

/// What it asks for in one turn.
#[derive(Clone, Debug, Default)]
pub struct Asks {
    pub looks: bool,
    pub actions: Vec<Action>,
    pub ungates: Vec<Ungate>,
}

// === impl Replica ===

impl Replica {
    pub fn new(rules: &Rules, now: Duration) -> Self {
        Self {
            gate: Gate::closed(),
            tracker: Tracker::new(&rules.repair, now),
            look_at: now,
            renewed: now,
            reprove: Duration::ZERO,
            pending: PendingRepair::uncounted(),
        }
    }

    /// One turn, with the watches' contents; nothing where they show nothing.
    pub fn step(
        &mut self,
        seen: Option<(BTreeMap<String, PodView>, OwnersOfAKind)>,
        rules: &Rules,
        now: Duration,
    ) -> Asks {
        let mut asks = Asks { looks: now >= self.look_at, ..Asks::default() };
        let leads = now < self.renewed + RENEW_DEADLINE;
        let Some((pods, replica_sets)) = seen else {
            self.tracker.note_watches_lost();
            return asks;
        };
        let none = OwnersOfAKind::new();
        let snapshot = Snapshot {
            pods: &pods,
            others: 0,
            namespaces: &rules.namespaces,
            owners: Owners {
                replica_sets: &replica_sets,
                stateful_sets: &none,
                daemon_sets: &none,
                replication_controllers: &none,
                jobs: &none,
            },
            webhooks: &rules.webhooks,
            projection: TokenProjection::Enabled,
            proven: self.gate.proven_at(now).filter(|_| leads),
            manual: None,
            wall: rules.wall,
        };
        let tracker = &mut self.tracker;
        let scan = Scan::of(&snapshot, |owner| tracker.remembers(owner));
        tracker.observe(&snapshot, &scan, now);
        let plan = plan(&snapshot, &scan, tracker, &rules.repair, now);
        self.pending = PendingRepair::new(plan.pending);
        let permit = Permit { leads, in_sync: true, closed: false };
        let Due { actions, ungates, .. } =
            step::begin(plan, &scan, tracker, permit, Room { actions: 64, ungates: 64 }, now);
        if let Some(at) = tracker.missed_again_at().filter(|at| *at > self.reprove) {
            (self.reprove, self.look_at) = (at, self.look_at.min(now));
        }
        (asks.actions, asks.ungates) = (actions, ungates);
        asks
    }

    pub fn renewed(&mut self, now: Duration) {
        self.renewed = now;
    }

    pub fn acted(&mut self, action: &Action, outcome: &WriteOutcome, now: Duration) {
        self.tracker.acted(action, outcome, now);
    }

    pub fn ungated(&mut self, ungate: &Ungate, outcome: &WriteOutcome, now: Duration) {
        self.tracker.ungated(ungate, outcome, now);
    }

    /// A look ended.
    pub fn found(&mut self, found: &Found, now: Duration) {
        let evidence = Evidence::at(now)
            .with_linkerd_installation(found.installation)
            .with(Probe::Webhook, found.webhook.clone())
            .with(Probe::Injector, found.injector.clone())
            .with(Probe::Injection, found.injection.clone())
            .with(Probe::Identity, found.identity.clone());
        self.gate = std::mem::take(&mut self.gate).step(&Policy::proven(), &evidence);
        let again = if matches!(self.gate, Gate::Open { degraded: None, .. }) { 10 } else { 1 };
        self.look_at = now + Duration::from_secs(again);
    }
}

/// One part of a state, with its form.
pub struct Part<T> {
    pub value: T,
    pub form: Form,
}

// === impl Part ===

impl<T: std::fmt::Debug> Part<T> {
    pub fn new(value: T) -> Rc<Self> {
        let form = Form::of(&value);
        Rc::new(Self { value, form })
    }

    pub fn of_agent(value: T) -> Rc<Self> {
        let form = Form::of_agent(&value);
        Rc::new(Self { value, form })
    }
}
