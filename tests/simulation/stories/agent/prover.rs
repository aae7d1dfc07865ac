//! What an agent is while it leads: its probes, its gate, and what it lets run on closed nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use linkerd_gate_core::decide::election::published_verdict::TaintSuppressions;
use linkerd_gate_core::decide::node::essential;
use linkerd_gate_core::decide::node::taint::TAINT_KEY;
use linkerd_gate_core::decide::{Evidence, Gate, LinkerdInstallation, Policy, Probe, ProbeResult, PublishedVerdict};

use super::{Agent, Cluster, Found, REQUEST_LIMIT, Surroundings};
use crate::api_server::Request;
use crate::random::Random;

/// What an agent is while it leads.
#[derive(Clone, Debug)]
pub(super) struct Prover {
    gate: Gate,
    /// Its probes do not end any more, whatever comes; only another prover's do.
    pub(super) hangs: bool,
    pub(super) looking: Option<Duration>,
    pub(super) look_at: Duration,
    pause: Duration,
    pub(super) evidence: Option<Duration>,
    proven_again: Duration,
    /// What must run everywhere and does not tolerate our taint; until its own watches know, what its predecessor said.
    suppressions: TaintSuppressions,
    listed: bool,
    pub(super) tolerating: BTreeSet<String>,
}

// === impl Agent ===

impl Agent {
    /// Its probes never end from now on, though it renews its Lease and does whatever else a prover does. Returns whether it proves.
    pub fn hang_probes(&mut self) -> bool {
        let prover = self.prover.as_mut().filter(|prover| prover.listed && !prover.hangs);
        prover.is_some_and(|prover| {
            prover.hangs = true;
            true
        })
    }

    /// What the watches of a prover would tell: it looks at once.
    pub fn notice(&mut self, now: Duration) {
        if let Some(prover) = &mut self.prover {
            prover.look_at = now;
        }
    }

    /// A prover that takes over does not close what is open by its own knowledge.
    pub(super) fn begin(&self, now: Duration) -> Prover {
        // What its predecessor said, where it lived to see it: after a power loss that would be old news, and a taint that is
        // there for a moment too long does less harm than one that is not.
        let said = self.lease.as_ref().and_then(|word| word.record.verdict.as_deref());
        let said = said.filter(|_| self.elector.observer().stale_at().is_some());
        let suppressions = said
            .and_then(|said| PublishedVerdict::read(said).ok())
            .map(|word| word.taint_suppressed_by)
            .unwrap_or_default();
        Prover {
            gate: self.follower.prover_gate(self.local(now)),
            hangs: false,
            looking: None,
            look_at: now,
            pause: Duration::from_millis(100),
            evidence: self.truth.evidence,
            proven_again: self.proven_again,
            suppressions,
            listed: false,
            tolerating: BTreeSet::new(),
        }
    }

    pub(super) fn prove(&mut self, around: &mut Surroundings<'_>, requests: &mut Vec<Request>) {
        let now = around.now;
        let local = self.local(now);
        if !self.acts(now) {
            return;
        }
        let Some(prover) = &mut self.prover else { return };
        let hangs = prover.hangs;
        if !hangs && prover.looking.is_some_and(|sent| now >= sent + REQUEST_LIMIT) {
            prover.looking = None;
            let lost = || ProbeResult::unknown("the API server did not answer in time");
            let nothing = Found {
                installation: LinkerdInstallation::Unseen,
                webhook: lost(),
                injector: lost(),
                injection: lost(),
                identity: lost(),
            };
            prover.found(&nothing, now, (now, local), around.random);
            self.elector.note_probes(prover.look_at.saturating_sub(self.booted));
        }
        if !hangs && prover.looking.is_none() && now >= prover.look_at {
            prover.looking = Some(now);
            self.dry_runs += 1;
            requests.push(Request::Look);
        }
        if prover.listed {
            let essential =
                essential::namespaces(&around.cluster.webhooks, &around.cluster.namespaces, &BTreeSet::new());
            let Cluster { daemon_sets, daemon_pods, places, .. } = around.cluster;
            let sets = essential::intolerant(TAINT_KEY, &essential, &[], daemon_sets);
            prover.suppressions = essential::suppressions(TAINT_KEY, &sets, places, daemon_pods, &prover.suppressions);
            for tolerate in essential::missing_tolerations(TAINT_KEY, &essential, &around.cluster.pods) {
                if prover.tolerating.insert(tolerate.uid.clone()) {
                    requests.push(Request::Tolerate(tolerate.uid));
                }
            }
        }
        if !hangs {
            let next = prover.looking.map_or(prover.look_at, |sent| sent + REQUEST_LIMIT);
            self.wake_at(next, now);
        }
    }
}

// === impl Prover ===

impl Prover {
    /// What it publishes.
    pub(super) fn verdict(&self) -> String {
        PublishedVerdict::new(&self.gate, self.suppressions.clone(), Vec::new()).write()
    }

    pub(super) fn found(
        &mut self,
        found: &Found,
        sent: Duration,
        (now, local): (Duration, Duration),
        random: &mut Random,
    ) {
        // By the same clock as its follower's: one process has one.
        let evidence = Evidence::at(local)
            .with_linkerd_installation(found.installation)
            .with(Probe::Webhook, found.webhook.clone())
            .with(Probe::Injector, found.injector.clone())
            .with(Probe::Injection, found.injection.clone())
            .with(Probe::Identity, found.identity.clone());
        let policy = Policy::proven();
        let verdict = linkerd_gate_core::decide::Verdict::of(&policy, &evidence);
        self.gate = std::mem::take(&mut self.gate).step(&policy, &evidence);
        if verdict.is_open() {
            self.evidence = Some(sent);
            self.pause = Duration::from_millis(100);
        } else {
            self.pause = (self.pause * 3 / 2).min(Duration::from_secs(5));
        }
        self.listed |= found.installation != LinkerdInstallation::Unseen;
        self.look_at = now
            + match &self.gate {
                Gate::Open { degraded: None, .. } => {
                    self.proven_again * 4 / 5 + random.between(0, self.proven_again.as_secs() * 400)
                }
                Gate::Settling { .. } => random.between(350, 450),
                Gate::Open { .. } | Gate::Closed { .. } => self.pause + random.between(0, 50),
            };
    }
}
