//! Which agent proves injection for the cluster: the one that holds the Lease.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Context, prover};
use crate::cluster::watch::Seen;
use crate::decide::election::elector::{Acquired, LossReason};
use crate::decide::election::lease_record::{LeaseRecord, PROVER_LEASE};
use crate::decide::{Gate, PublishedVerdict};
use crate::retry::Schedule;
use crate::role::elector::{Candidate, Elector};

/// The agent's part in the election.
pub(super) struct Election {
    context: Arc<Context>,
    /// What a prover that takes over goes on from ([`crate::decide::Follower::prover_gate`]).
    gate: watch::Receiver<Gate>,
    elector: Elector,
}

// === impl Election ===

impl Election {
    pub(super) fn new(
        context: Arc<Context>,
        lease: watch::Receiver<Seen<LeaseRecord>>,
        gate: watch::Receiver<Gate>,
    ) -> Self {
        let candidate = Candidate {
            client: context.client.clone(),
            namespace: context.settings.namespace.clone(),
            name: PROVER_LEASE,
            me: context.me.clone(),
            epoch: context.epoch,
            metrics: Arc::clone(&context.metrics),
            courtesy: Some(Schedule::lease_acquisition()),
        };
        Self { context, gate, elector: Elector::new(candidate, lease) }
    }

    /// Takes part for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            let gate = self.gate.clone();
            let first = |elector: &crate::decide::election::elector::Elector, record: Option<&LeaseRecord>| {
                // What was proven open stays open while this agent probes for itself. Of what the Lease says from before, only
                // the nodes that yield and the addresses of identity are taken over, and only from a prover that was seen
                // alive: what was there at the first look may be from before a power cut.
                let before = record.filter(|_| elector.observer().stale_at().is_some());
                let before = before.and_then(|record| PublishedVerdict::read(record.verdict.as_deref()?).ok());
                let (suppressions, identity) =
                    before.map(|before| (before.taint_suppressed_by, before.identity)).unwrap_or_default();
                PublishedVerdict::new(&gate.borrow(), suppressions, identity)
            };
            let (how, published_verdict) = self.elector.acquire(first, |_| ()).await;
            Box::pin(self.lead(published_verdict, how)).await;
        }
    }

    /// Gives the Lease up, where it is held.
    pub(super) async fn step_down(&mut self) {
        self.elector.step_down().await;
    }

    /// Proves until the Lease is lost.
    async fn lead(&mut self, published_verdict: PublishedVerdict, how: Acquired) {
        info!(reason = %how, "this agent is the prover");
        self.context.metrics.prover.set(1);
        let seed = self.gate.borrow().clone();
        let (published_sink, mut published) = watch::channel(published_verdict.clone());
        let (renewed_sink, renewed) = watch::channel(self.elector.renewed());
        let (probes_sink, probes) = watch::channel(Instant::now());
        let prover = prover::run(Arc::clone(&self.context), seed, published_sink, renewed, probes_sink);
        let lost = tokio::select! {
            biased;
            lost = self.elector.lead(published_verdict, &mut published, &renewed_sink, &probes) => lost,
            never = prover => match never {},
        };
        self.context.metrics.prover.set(0);
        self.context.metrics.taint_suppressing_daemonsets.set(0);
        match lost {
            LossReason::To(holder) => {
                info!(holder = holder.name, "no longer the prover: another agent holds the Lease");
            }
            LossReason::ProbesHang { since } => {
                let seconds = since.as_secs();
                warn!(seconds, "no longer the prover: its probes hang");
            }
            LossReason::Unrenewed { since, why } => {
                let seconds = since.as_secs();
                warn!(error = %why, seconds, "no longer the prover: the Lease was not renewed");
            }
        }
    }
}
