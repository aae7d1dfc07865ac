//! Which replica acts: the one that holds the Lease.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Context, admission, nudger, opener, prover, repairer, scribe, wall, watches::Watches};
use crate::cluster::lease::{self, LeaseError};
use crate::cluster::watch::Seen;
use crate::decide::lease::{CONTROLLER_NAME, DURATION, LEADS_FOR, RENEWED_EVERY, Record, Sightings, Stance};
use crate::decide::{Gate, Outcome, PendingRepair};
use crate::metrics::Written;
use crate::retry::Schedule;

/// How long a write of the Lease may take. Unlike its neighbours, so that a reason tells which limit fired.
const ANSWER: Duration = Duration::from_millis(2700);

/// The least pause between two writes of the Lease of which the second only carries another number of pending pods: every agent
/// watches it, and to an agent some are as many as none are few.
const RECOUNTED: Duration = Duration::from_secs(1);

/// One replica's part in it.
pub(super) struct Leader {
    context: Arc<Context>,
    lease: watch::Receiver<Seen<Record>>,
    sightings: Sightings,
    /// The Lease as we wrote it last, while we hold it.
    held: Option<Record>,
    /// What was said last of why it cannot be written.
    told: Option<String>,
}

// === impl Leader ===

impl Leader {
    pub(super) fn new(context: Arc<Context>, lease: watch::Receiver<Seen<Record>>) -> Self {
        Self { context, lease, sightings: Sightings::default(), held: None, told: None }
    }

    /// Takes part for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut asking = Schedule::asking();
        loop {
            let Some(stance) = self.look() else {
                self.changed().await;
                continue;
            };
            match stance {
                Stance::Follow { until } => {
                    self.context.show(&Gate::closed(), Outcome::Ready);
                    let until = self.context.epoch + until;
                    tokio::select! {
                        biased;
                        () = self.changed() => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                Stance::Vacant(_) | Stance::Lead => {
                    let record = self.lease.borrow().only().cloned();
                    // From when it was asked for: an answer may be late.
                    let started = Instant::now();
                    // Whatever was counted before was counted by another.
                    match self.write(record.as_ref(), self.uncounted()).await {
                        Ok(()) => {
                            asking.reset();
                            Box::pin(self.lead(started)).await;
                        }
                        Err(why) => {
                            self.tell(&why);
                            tokio::select! {
                                biased;
                                // Somebody was faster; the watch tells who.
                                () = self.changed() => {}
                                () = tokio::time::sleep(asking.next_pause()) => {}
                            }
                        }
                    }
                }
            }
        }
    }

    /// Gives the Lease up, where it is held, so that the other replica need not wait until it expires.
    pub(super) async fn leave(&mut self) {
        let Some(held) = self.held.take() else { return };
        let context = Arc::clone(&self.context);
        let give_up = async |record: &Record| {
            let (client, namespace) = (context.client.clone(), &context.settings.namespace);
            lease::give_up(client, namespace, CONTROLLER_NAME, record, wall()).await
        };
        let mut outcome = give_up(&held).await;
        if outcome == Err(LeaseError::Conflict) && self.caught_up(Some(&held)).await {
            // A renewal that was under way has arrived.
            let ours =
                self.lease.borrow().only().filter(|record| record.holder.as_ref() == Some(&self.context.me)).cloned();
            if let Some(ours) = ours {
                outcome = give_up(&ours).await;
            }
        }
        match outcome {
            Ok(_) => info!("gave up the Lease: the other replica acts from now on"),
            // Already somebody else's, or gone.
            Err(LeaseError::Conflict) => {}
            Err(LeaseError::Failed(why)) => warn!("could not give up the Lease, it expires in {DURATION:?}: {why}"),
        }
    }

    /// Waits until the watch shows what made our write a conflict; whether it did within a moment.
    async fn caught_up(&mut self, held: Option<&Record>) -> bool {
        let version = held.map(|held| held.resource_version.clone());
        let newer = self.lease.wait_for(|seen| seen.only().map(|record| &record.resource_version) != version.as_ref());
        matches!(tokio::time::timeout(Duration::from_millis(1500), newer).await, Ok(Ok(_)))
    }

    fn look(&mut self) -> Option<Stance> {
        let now = self.context.now();
        let seen = self.lease.borrow_and_update();
        if !seen.is_known() {
            return None;
        }
        self.sightings.note(seen.only(), now);
        Some(self.sightings.stance(&self.context.me, now))
    }

    async fn changed(&mut self) {
        if self.lease.changed().await.is_err() {
            // The watch is gone, and with it the process.
            std::future::pending::<()>().await;
        }
    }

    fn tell(&mut self, why: &LeaseError) {
        let why = match why {
            LeaseError::Conflict => return,
            LeaseError::Failed(why) => why.clone(),
        };
        if self.told.as_ref() != Some(&why) {
            warn!("cannot take the Lease: {why}");
            self.context.show(&Gate::closed(), Outcome::unknown(format!("cannot take the Lease: {why}")));
            self.told = Some(why);
        }
    }

    /// What is published before every pod was seen.
    fn uncounted(&self) -> PendingRepair {
        if self.context.acts() { PendingRepair::uncounted() } else { PendingRepair::new(0) }
    }

    async fn write(&mut self, record: Option<&Record>, pending: PendingRepair) -> Result<(), LeaseError> {
        let context = &self.context;
        let (client, namespace) = (context.client.clone(), &context.settings.namespace);
        let written = lease::write_pending(client, namespace, CONTROLLER_NAME, record, &context.me, pending, wall());
        // One that hangs must not cost the Lease: there is time for another.
        let late = || LeaseError::Failed(format!("the API server did not answer in {ANSWER:?}"));
        let written = tokio::time::timeout(ANSWER, written).await.unwrap_or_else(|_| Err(late()));
        context.metrics.lease_written(match &written {
            Ok(_) => Written::Done,
            Err(LeaseError::Conflict) => Written::Conflict,
            Err(LeaseError::Failed(_)) => Written::Failed,
        });
        self.held = Some(written?);
        self.told = None;
        Ok(())
    }

    /// Acts until the Lease is lost.
    async fn lead(&mut self, started: Instant) {
        info!("this replica acts from now on");
        self.context.metrics.leader.set(1);
        let (renewed_sink, renewed) = watch::channel(started);
        let (pending_sink, pending) = watch::channel(self.uncounted());
        let context = Arc::clone(&self.context);
        let why = tokio::select! {
            biased;
            why = self.renew(&renewed_sink, pending) => why,
            never = act(context, renewed, pending_sink) => match never {},
        };
        self.held = None;
        let metrics = &self.context.metrics;
        metrics.leader.set(0);
        metrics.missed([]);
        metrics.held([]);
        metrics.hold_unbound.set(0);
        metrics.admission_parameter_missing.set(0);
        metrics.broken_owners.set(0);
        metrics.nudges_under_way.set(0);
        warn!("no longer acts: {why}");
    }

    /// Renews the Lease every 5 s, and at once where another number of pods is pending; ends when it is lost, with the reason.
    async fn renew(&mut self, renewed: &watch::Sender<Instant>, mut pending: watch::Receiver<PendingRepair>) -> String {
        let mut schedule = Schedule::asking();
        let mut next = *renewed.borrow() + RENEWED_EVERY;
        // What the Lease says; nothing once a write failed, which is repeated at its own pace.
        let mut written = Some(*pending.borrow());
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                Ok(()) = pending.changed() => {
                    let some = pending.borrow().pods() > 0;
                    let Some(before) = written else { continue };
                    next = if some == (before.pods() > 0) {
                        next.min(*renewed.borrow() + RECOUNTED)
                    } else {
                        Instant::now()
                    };
                    continue;
                }
                () = self.changed() => {
                    if let Some(Stance::Follow { .. }) = self.look() {
                        return self.lost();
                    }
                    continue;
                }
            }
            let started = Instant::now();
            // Stopped, or cut off, for so long that the other may have acted since.
            if started.duration_since(*renewed.borrow()) >= LEADS_FOR {
                return "this process was stopped, or the API server did not answer".to_owned();
            }
            let held = self.held.clone();
            let count = *pending.borrow_and_update();
            match self.write(held.as_ref(), count).await {
                Ok(()) => {
                    schedule.reset();
                    written = Some(count);
                    renewed.send_replace(started);
                    next = started + RENEWED_EVERY;
                }
                Err(error) => {
                    written = None;
                    if let LeaseError::Conflict = error {
                        let caught_up = self.caught_up(held.as_ref()).await;
                        if let Some(Stance::Follow { .. }) = self.look() {
                            return self.lost();
                        }
                        self.held = if caught_up { self.lease.borrow().only().cloned() } else { held };
                    }
                    if Instant::now().duration_since(*renewed.borrow()) >= LEADS_FOR {
                        return format!("the Lease could not be renewed for {LEADS_FOR:?}: {error}");
                    }
                    next = Instant::now() + schedule.next_pause();
                }
            }
        }
    }

    fn lost(&self) -> String {
        let holder = self.sightings.holder().map_or("nobody", |holder| holder.node.as_str());
        format!("the Lease is held by {holder}")
    }
}

/// Everything that the replica does which leads.
async fn act(
    context: Arc<Context>,
    renewed: watch::Receiver<Instant>,
    pending: watch::Sender<PendingRepair>,
) -> Infallible {
    let mut schedule = Schedule::asking();
    let watches = loop {
        match Watches::begin(&context) {
            Ok(watches) => break watches,
            Err(error) => warn!("cannot watch the cluster: {error}"),
        }
        tokio::time::sleep(schedule.next_pause()).await;
    };
    let seen = watches.seen.clone();
    let (gate_sink, gate) = watch::channel(Gate::closed());
    // When injection has to be proven anew, whatever was proven before.
    let (doubt_sink, doubt) = watch::channel(Duration::ZERO);
    let (scribe, events) = scribe::channel();
    tokio::select! {
        biased;
        never = prover::run(Arc::clone(&context), seen.clone(), gate_sink, doubt) => never,
        never = repairer::run(Arc::clone(&context), seen.clone(), renewed.clone(), gate.clone(), doubt_sink.clone(), scribe.clone(), pending) => never,
        never = admission::run(Arc::clone(&context)) => never,
        never = nudger::run(Arc::clone(&context), seen.clone(), renewed.clone(), gate, doubt_sink) => never,
        never = opener::run(Arc::clone(&context), seen, renewed, scribe) => never,
        never = events.run(context) => never,
        never = watches.last() => never,
    }
}
