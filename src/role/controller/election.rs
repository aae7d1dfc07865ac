//! Which replica acts: the one that holds the Lease.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::report::Reporter;
use super::watches::Watches;
use super::{Context, admission, event_recorder, late, orphan_nodes, prover, repair, retry};
use crate::cluster::watch::Seen;
use crate::decide::election::elector::LossReason;
use crate::decide::election::lease_record::{CONTROLLER_LEASE, LeaseRecord};
use crate::decide::{Gate, PendingRepair, ProbeResult};
use crate::retry::Schedule;
use crate::role::elector::{Candidate, Elector, Standby};

/// One replica's part in it.
pub(super) struct Election {
    context: Arc<Context>,
    elector: Elector,
}

// === impl Election ===

impl Election {
    pub(super) fn new(context: Arc<Context>, lease: watch::Receiver<Seen<LeaseRecord>>) -> Self {
        let candidate = Candidate {
            client: context.client.clone(),
            namespace: context.settings.namespace.clone(),
            name: CONTROLLER_LEASE,
            me: context.me.clone(),
            epoch: context.epoch,
            metrics: Arc::clone(&context.metrics),
            // There are two replicas: the loser of a race has lost one write.
            courtesy: None,
        };
        Self { context, elector: Elector::new(candidate, lease) }
    }

    /// Takes part for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            let context = Arc::clone(&self.context);
            // Whatever was counted before was counted by another.
            let first = |_: &_, _: Option<&LeaseRecord>| uncounted(&context);
            let standby = |standby: Standby<'_>| {
                context.show(
                    &Gate::closed(),
                    match standby {
                        Standby::Follows => ProbeResult::Ready,
                        Standby::Fails(why) => ProbeResult::unknown(format!("cannot take the Lease: {why}")),
                    },
                );
            };
            let (_, count) = self.elector.acquire(first, standby).await;
            Box::pin(self.lead(count)).await;
        }
    }

    /// Gives the Lease up, where it is held, so that the other replica need not wait until it expires.
    pub(super) async fn step_down(&mut self) {
        self.elector.step_down().await;
    }

    /// Acts until the Lease is lost.
    async fn lead(&mut self, count: PendingRepair) {
        info!("this replica leads");
        self.context.metrics.leader.set(1);
        let (renewed_sink, renewed) = watch::channel(self.elector.renewed());
        let (pending_sink, mut pending) = watch::channel(count);
        let (probes_sink, probes) = watch::channel(Instant::now());
        let context = Arc::clone(&self.context);
        let lost = tokio::select! {
            biased;
            lost = self.elector.lead(count, &mut pending, &renewed_sink, &probes) => lost,
            never = act(context, renewed, pending_sink, probes_sink) => match never {},
        };
        self.context.metrics.note_lead_lost();
        match lost {
            LossReason::To(holder) => warn!(holder = holder.name, "no longer leads: another replica holds the Lease"),
            LossReason::ProbesHang { since } => {
                let seconds = since.as_secs();
                warn!(seconds, "no longer leads: its probes hang");
            }
            LossReason::Unrenewed { since, why } => {
                let seconds = since.as_secs();
                warn!(error = %why, seconds, "no longer leads: the Lease was not renewed");
            }
        }
    }
}

/// What is published before every pod was seen.
fn uncounted(context: &Context) -> PendingRepair {
    if context.acts() { PendingRepair::uncounted() } else { PendingRepair::new(0) }
}

/// Everything that the replica does which leads.
async fn act(
    context: Arc<Context>,
    renewed: watch::Receiver<Instant>,
    pending: watch::Sender<PendingRepair>,
    probes_at: watch::Sender<Instant>,
) -> Infallible {
    let mut schedule = Schedule::api_retry();
    let watches = loop {
        match Watches::begin(&context) {
            Ok(watches) => break watches,
            Err(error) => warn!(%error, "cannot watch the cluster"),
        }
        tokio::time::sleep(schedule.next_pause()).await;
    };
    let seen = watches.seen.clone();
    let (gate_sink, gate) = watch::channel(Gate::closed());
    // When injection must be proven again, whatever was proven before.
    let (reprove_sink, reprove) = watch::channel(Duration::ZERO);
    let (recorder, events) = event_recorder::channel();
    let (late_sender, late) = late::channel();
    let reporter = Reporter::new(Arc::clone(&context), recorder.clone(), late_sender);
    tokio::select! {
        biased;
        never = prover::run(Arc::clone(&context), seen.clone(), gate_sink, reprove, probes_at) => never,
        never = repair::run(Arc::clone(&context), seen.clone(), renewed.clone(), gate.clone(), reprove_sink.clone(), reporter, pending) => never,
        never = admission::run(Arc::clone(&context)) => never,
        never = retry::run(Arc::clone(&context), seen.clone(), renewed.clone(), gate, reprove_sink) => never,
        never = orphan_nodes::run(Arc::clone(&context), seen, renewed, recorder.clone()) => never,
        never = late.run(Arc::clone(&context), recorder) => never,
        never = events.run(context) => never,
        never = watches.last() => never,
    }
}
