//! What a replica is while it leads: its watches' contents, its proof, and the steps of repair.

mod plans;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use linkerd_gate_core::decide::election::lease_record::RENEW_DEADLINE;
use linkerd_gate_core::decide::node::orphan::Orphans;
use linkerd_gate_core::decide::node::taint::NodeView;
use linkerd_gate_core::decide::repair::object::OwnersOfAKind;
use linkerd_gate_core::decide::repair::retry::{OwnerRetries, RefusedCreate};
use linkerd_gate_core::decide::repair::step;
use linkerd_gate_core::decide::repair::{
    Action, NamespaceView, Pace, Permit, PodView, RepairPolicy, Tracker, WriteOutcome,
};
use linkerd_gate_core::decide::{
    Evidence, Gate, LinkerdInstallation, ManualOverride, PendingRepair, Policy, Probe, Verdict,
};
use linkerd_gate_core::linkerd::WebhookView;

use crate::agent::Found;
use crate::controller::{Around, Ask, Current, Reply, Said};
use crate::objects::{Change, Channel};
use crate::render;

/// The least pause between two plans.
const PAUSE: Duration = Duration::from_millis(50);

/// What one stream has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    listed: bool,
    trouble: bool,
    /// How much of its log is known.
    end: usize,
}

pub struct Leader {
    streams: BTreeMap<Channel, Stream>,
    pods: BTreeMap<String, PodView>,
    owners: BTreeMap<Channel, OwnersOfAKind>,
    refusals: BTreeMap<String, RefusedCreate>,
    namespaces: BTreeMap<String, NamespaceView>,
    webhooks: WebhookView,
    nodes: BTreeMap<String, NodeView>,
    manual_override: Option<String>,
    pub gate: Gate,
    /// Since when a look is under way.
    looking: Option<Duration>,
    /// When the next look is due, by the replica's clock.
    pub look_at: Duration,
    look_pause: Duration,
    reprove: Duration,
    pub tracker: Tracker,
    pub retries: OwnerRetries,
    orphans: Orphans,
    pub pending: PendingRepair,
    /// What the last plan's permit said.
    free: bool,
    dirty: bool,
    planned: Option<Duration>,
    again: Option<Duration>,
    /// Retries that are under way: the next are sent when these are answered.
    retrying: usize,
    /// Evictions that have been tried out and wait for their turn.
    paced: Vec<Action>,
    evictions: Pace,
    pub wake: Option<Duration>,
}

// === impl Leader ===

impl Leader {
    pub fn new(policy: &RepairPolicy, local: Duration) -> Self {
        Self {
            streams: BTreeMap::new(),
            pods: BTreeMap::new(),
            owners: BTreeMap::new(),
            refusals: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            webhooks: WebhookView::default(),
            nodes: BTreeMap::new(),
            manual_override: None,
            gate: Gate::closed(),
            looking: None,
            look_at: local,
            look_pause: Duration::from_millis(100),
            reprove: Duration::ZERO,
            tracker: Tracker::new(policy, local),
            retries: OwnerRetries::default(),
            orphans: Orphans::default(),
            pending: PendingRepair::uncounted(),
            free: false,
            dirty: true,
            planned: None,
            again: None,
            retrying: 0,
            paced: Vec::new(),
            evictions: Pace::new(policy.eviction_rate, local),
            wake: None,
        }
    }

    /// How much of a stream's log is known; nothing before its first list.
    pub fn end_of(&self, channel: Channel) -> Option<usize> {
        self.streams.get(&channel).filter(|stream| stream.listed && !stream.trouble).map(|stream| stream.end)
    }

    pub fn trouble(&mut self, channel: Channel) {
        self.streams.entry(channel).or_default().trouble = true;
        self.dirty = true;
    }

    pub fn take(
        &mut self,
        channel: Channel,
        listed: bool,
        end: usize,
        changes: Vec<(String, Change)>,
        current: Current,
        local: Duration,
    ) {
        let stream = self.streams.entry(channel).or_default();
        if listed {
            *stream = Stream { listed: true, trouble: false, end };
            match channel {
                Channel::Pods => self.pods.clear(),
                Channel::Refusals => self.refusals.clear(),
                channel => drop(self.owners.insert(channel, OwnersOfAKind::new())),
            }
        } else if stream.trouble || !stream.listed || end <= stream.end {
            return;
        }
        stream.end = end;
        for (key, change) in changes {
            match change {
                Change::Pod(pod) => drop(self.pods.insert(key, (*pod).clone())),
                Change::Owner(owner) => drop(self.owners.entry(channel).or_default().insert(key, (*owner).clone())),
                Change::Refusal(refusal) => drop(self.refusals.insert(key, (*refusal).clone())),
                Change::Gone => drop(self.pods.remove(&key)),
                Change::Current => {}
            }
        }
        if let Some(webhooks) = current.webhooks {
            if *webhooks != self.webhooks {
                self.webhooks = (*webhooks).clone();
            }
            // Its endpoints too: another proof is worth while before its time.
            self.look_at = self.look_at.min(local + Duration::from_millis(100));
        }
        if let Some(nodes) = current.nodes {
            self.nodes = nodes.iter().map(|node| (node.name.clone(), (**node).clone())).collect();
        }
        if let Some(Said(said)) = current.manual_override {
            self.manual_override = said;
        }
        if current.namespaces {
            self.namespaces = render::namespaces().map(|(name, view)| (name.to_owned(), view)).into();
        }
        self.dirty = true;
    }

    fn in_sync(&self, channels: &[Channel]) -> bool {
        channels.iter().all(|channel| !self.streams.get(channel).is_some_and(|stream| stream.trouble))
    }

    fn listed(&self, channels: &[Channel]) -> bool {
        channels.iter().all(|channel| self.streams.get(channel).is_some_and(|stream| stream.listed))
    }

    fn said(&self, wall: Timestamp) -> Option<ManualOverride> {
        ManualOverride::in_force(self.manual_override.as_deref(), wall).ok().flatten()
    }

    fn permit(&self, leads: bool, channels: &[Channel], wall: Timestamp) -> Permit {
        let closed = self.said(wall).is_some_and(|word| !word.open);
        Permit { leads, in_sync: self.in_sync(channels), closed }
    }

    pub fn step(&mut self, leads: bool, local: Duration, around: &mut Around<'_>) -> Vec<Ask> {
        let mut asks = Vec::new();
        if self.looking.is_none() && local >= self.look_at && self.listed(&[Channel::Webhooks]) {
            self.looking = Some(local);
            asks.push(Ask::Look);
        }
        self.pace(leads, local, &mut asks);
        let mut wakes = vec![];
        if self.looking.is_none() {
            wakes.push(self.look_at.max(local + Duration::from_millis(20)));
        }
        if !self.paced.is_empty() {
            wakes.push(self.evictions.next());
        }
        if self.again.is_some_and(|again| again <= local) {
            self.dirty = true;
        }
        if self.dirty && self.planned.is_none_or(|planned| planned + PAUSE <= local) {
            (self.dirty, self.planned) = (false, Some(local));
            let repair = self.repair(leads, local, around, &mut asks);
            let retry = self.retry(leads, local, around, &mut asks);
            let orphans = self.orphans(leads, local, around, &mut asks);
            self.again = repair.into_iter().chain(retry).chain(orphans).min();
            // Whether a proof has grown too old, and whether the Lease was renewed in time, is asked again.
            let renewed = local + RENEW_DEADLINE;
            self.again = Some(self.again.map_or(renewed, |again| again.min(renewed)));
        }
        if self.dirty {
            wakes.extend(self.planned.map(|planned| planned + PAUSE));
        }
        wakes.extend(self.again);
        self.wake = wakes.into_iter().min();
        asks
    }

    pub fn replied(&mut self, reply: Reply, leads: bool, local: Duration, around: &mut Around<'_>) -> Vec<Ask> {
        self.dirty = true;
        match reply {
            Reply::Look(found) => self.found(&found, local, around),
            Reply::Tried(action, taken) => {
                let proven = self.gate.proven_at(local).is_some();
                if !taken {
                    self.tracker.acted(&action, &WriteOutcome::Refused("tried in vain".to_owned()), local);
                } else if step::may_send(&action.operation, leads, self.free, proven).is_ok() {
                    self.paced.push(action);
                } else {
                    self.tracker.dropped(&action);
                }
            }
            // The program sends both halves one after the other, whatever happens meanwhile.
            Reply::Untracked(action, version) => return vec![Ask::Delete(action, version)],
            Reply::Acted(action, outcome) => self.tracker.acted(&action, &outcome, local),
            Reply::Ungated(ungate, outcome) => self.tracker.ungated(&ungate, &outcome, local),
            Reply::Retried(retry, outcome) => {
                self.retrying -= 1;
                if matches!(outcome, WriteOutcome::Failed(_) | WriteOutcome::Refused(_)) {
                    self.retries.failed(&retry, local);
                }
            }
            Reply::NodeOpened | Reply::Lease(..) => {}
        }
        Vec::new()
    }

    fn found(&mut self, found: &Found, local: Duration, around: &mut Around<'_>) {
        let evidence = Evidence::at(self.looking.take().unwrap_or(local))
            .with_linkerd_installation(match found.installation {
                LinkerdInstallation::Unseen => LinkerdInstallation::Unseen,
                _ if self.webhooks.is_empty() => LinkerdInstallation::Absent,
                _ => LinkerdInstallation::Present,
            })
            .with(Probe::Webhook, found.webhook.clone())
            .with(Probe::Injector, found.injector.clone())
            .with(Probe::Injection, found.injection.clone())
            .with(Probe::Identity, found.identity.clone());
        let policy = Policy::proven();
        let ready = Verdict::of(&policy, &evidence).is_open();
        self.gate = std::mem::take(&mut self.gate).step(&policy, &evidence);
        self.look_pause =
            if ready { Duration::from_millis(100) } else { (self.look_pause * 3 / 2).min(Duration::from_secs(5)) };
        self.look_at = local
            + match &self.gate {
                Gate::Open { degraded: None, .. } => around.random.between(16_000, 24_000),
                Gate::Settling { .. } => around.random.between(490, 510),
                Gate::Open { .. } | Gate::Closed { .. } => self.look_pause,
            };
    }
}
