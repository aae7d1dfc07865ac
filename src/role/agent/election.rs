//! Who proves: one agent at a time, by the Lease.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Context, prover, wall};
use crate::cluster::lease::{self, LeaseError};
use crate::cluster::watch::Seen;
use crate::decide::lease::{DURATION, LEADS_FOR, NAME, RENEWED_EVERY, Record, Sightings, Stance, Vacancy};
use crate::decide::{Gate, Publication};
use crate::metrics::Written;
use crate::retry::Schedule;

/// The agent's part in the election.
pub(super) struct Election {
    context: Arc<Context>,
    lease: watch::Receiver<Seen<Record>>,
    /// What a prover that takes over goes on from ([`crate::decide::Follower::prover_gate`]).
    gate: watch::Receiver<Gate>,
    sightings: Sightings,
    /// The Lease as we wrote it last, while we hold it.
    held: Option<Record>,
}

/// Why proving ended.
enum Lost {
    /// Another holds the Lease.
    To(String),
    /// It could not be renewed for so long that another may hold it.
    Unrenewed(String),
}

// === impl Election ===

impl Election {
    pub(super) fn new(
        context: Arc<Context>,
        lease: watch::Receiver<Seen<Record>>,
        gate: watch::Receiver<Gate>,
    ) -> Self {
        Self { context, lease, gate, sightings: Sightings::default(), held: None }
    }

    /// Takes part for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut asking = Schedule::asking();
        let mut told = None;
        loop {
            let Some(stance) = self.look() else {
                self.changed().await;
                continue;
            };
            match stance {
                Stance::Follow { until } => {
                    let until = self.context.epoch + until;
                    tokio::select! {
                        biased;
                        () = self.changed() => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                Stance::Vacant(why) => {
                    if !self.still_vacant(why).await {
                        continue;
                    }
                    match self.take().await {
                        Ok(publication) => {
                            asking.reset();
                            Box::pin(self.lead(publication, why)).await;
                        }
                        // Somebody was faster; the watch tells who.
                        Err(LeaseError::Conflict) => {
                            tokio::select! {
                                biased;
                                () = self.changed() => {}
                                () = tokio::time::sleep(asking.next_pause()) => {}
                            }
                        }
                        Err(LeaseError::Failed(why)) => {
                            if told.as_ref() != Some(&why) {
                                warn!("cannot take the Lease: {why}");
                                told = Some(why);
                            }
                            tokio::time::sleep(asking.next_pause()).await;
                        }
                    }
                }
                // An earlier process of this very container, or ourselves before a moment of blindness.
                Stance::Lead => match self.take().await {
                    Ok(publication) => {
                        asking.reset();
                        Box::pin(self.lead(publication, Vacancy::GivenUp)).await;
                    }
                    Err(why) => {
                        let why = why.to_string();
                        if told.as_ref() != Some(&why) {
                            warn!("cannot renew the Lease, which this agent holds: {why}");
                            told = Some(why);
                        }
                        tokio::time::sleep(asking.next_pause()).await;
                    }
                },
            }
        }
    }

    /// Gives the Lease up, where it is held.
    pub(super) async fn leave(&mut self) {
        let Some(held) = self.held.take() else { return };
        let context = Arc::clone(&self.context);
        let give_up = async |record: &Record| {
            lease::give_up(context.client.clone(), &context.settings.namespace, NAME, record, wall()).await
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
            Ok(_) => info!("gave up the Lease: another agent proves from now on"),
            // Already somebody else's, or gone.
            Err(LeaseError::Conflict) => {}
            Err(LeaseError::Failed(why)) => warn!("could not give up the Lease, it expires in {DURATION:?}: {why}"),
        }
    }

    /// What may be done about the Lease as it is seen now; nothing before it was ever seen.
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

    /// Waits a moment of chance before a vacant Lease is taken; whether it is vacant still.
    async fn still_vacant(&mut self, why: Vacancy) -> bool {
        if why == Vacancy::OfAnEarlierBoot {
            // Nobody else can know that yet.
            return true;
        }
        let patience = Instant::now() + Schedule::taking_the_lease().next_pause();
        loop {
            tokio::select! {
                biased;
                () = self.changed() => {
                    if !matches!(self.look(), Some(Stance::Vacant(_))) {
                        return false;
                    }
                }
                () = tokio::time::sleep_until(patience) => {
                    return matches!(self.look(), Some(Stance::Vacant(_)));
                }
            }
        }
    }

    /// Takes the Lease, with what this agent knows as the first verdict.
    async fn take(&mut self) -> Result<Publication, LeaseError> {
        let record = self.lease.borrow().only().cloned();
        // What was proven open stays open while we look for ourselves. What the Lease says from before counts for nothing, but
        // for which DaemonSets to yield to and where identity was: better than nobody's word.
        // Of somebody who was seen alive, that is: what was there at the first look may be from before a loss of all power.
        let seen_alive = self.sightings.stale_at().is_some();
        let before = record.as_ref().filter(|_| seen_alive);
        let before = before.and_then(|record| Publication::read(record.verdict.as_deref()?).ok());
        let (yield_on, identity) = before.map(|before| (before.yield_on, before.identity)).unwrap_or_default();
        let publication = Publication::new(&self.seed(), yield_on, identity);
        self.write(record.as_ref(), &publication).await?;
        Ok(publication)
    }

    /// The gate that a prover goes on from.
    fn seed(&self) -> Gate {
        self.gate.borrow().clone()
    }

    async fn write(&mut self, record: Option<&Record>, publication: &Publication) -> Result<(), LeaseError> {
        let context = &self.context;
        let (client, namespace) = (context.client.clone(), &context.settings.namespace);
        let written = lease::write(client, namespace, NAME, record, &context.me, Some(publication), wall()).await;
        context.metrics.lease_written(match &written {
            Ok(_) => Written::Done,
            Err(LeaseError::Conflict) => Written::Conflict,
            Err(LeaseError::Failed(_)) => Written::Failed,
        });
        self.held = Some(written?);
        Ok(())
    }

    /// Proves until the Lease is lost.
    async fn lead(&mut self, publication: Publication, why: Vacancy) {
        info!("this agent proves injection for the cluster from now on ({})", words(why));
        self.context.metrics.prover.set(1);
        let seed = self.seed();
        let (published_sink, mut published) = watch::channel(publication);
        let (renewed_sink, renewed) = watch::channel(Instant::now());
        let prover = prover::run(Arc::clone(&self.context), seed, published_sink, renewed);
        let lost = tokio::select! {
            biased;
            lost = self.renew(&mut published, &renewed_sink) => lost,
            never = prover => match never {},
        };
        self.held = None;
        self.context.metrics.prover.set(0);
        self.context.metrics.yielding.set(0);
        match lost {
            Lost::To(holder) => info!("no longer proves: the Lease is held by {holder}"),
            Lost::Unrenewed(why) => warn!("no longer proves: the Lease could not be renewed for {LEADS_FOR:?}: {why}"),
        }
    }

    /// Renews the Lease every 5 s, and at once when there is another verdict.
    async fn renew(&mut self, published: &mut watch::Receiver<Publication>, renewed: &watch::Sender<Instant>) -> Lost {
        let mut schedule = Schedule::asking();
        let mut next = *renewed.borrow() + RENEWED_EVERY;
        loop {
            tokio::select! {
                biased;
                // The prover lives as long as this loop.
                _ = published.changed() => {}
                () = tokio::time::sleep_until(next) => {}
                () = self.changed() => {
                    if let Some(Stance::Follow { .. }) = self.look() {
                        return Lost::To(self.holder());
                    }
                    continue;
                }
            }
            let started = Instant::now();
            // Stopped, or cut off, for so long that others may have proven since: what this prover knew counts no longer.
            if started.duration_since(*renewed.borrow()) >= LEADS_FOR {
                return Lost::Unrenewed("this process was stopped, or the API server did not answer".to_owned());
            }
            let publication = published.borrow_and_update().clone();
            // Kept while the write is under way: whoever is ended in between still gives it up.
            let held = self.held.clone();
            let result = self.write(held.as_ref(), &publication).await;
            match result {
                Ok(()) => {
                    schedule.reset();
                    let _prover_reads_it = renewed.send_replace(started);
                    next = started + RENEWED_EVERY;
                }
                // A person's word in it, or another holder: the watch tells which.
                Err(LeaseError::Conflict) => {
                    let caught_up = self.caught_up(held.as_ref()).await;
                    match self.look() {
                        Some(Stance::Follow { .. }) => return Lost::To(self.holder()),
                        _ if started.duration_since(*renewed.borrow()) >= LEADS_FOR => {
                            return Lost::Unrenewed("others write it".to_owned());
                        }
                        // The new precondition. Where there is no Lease any more, it is made.
                        _ => self.held = if caught_up { self.lease.borrow().only().cloned() } else { held },
                    }
                    published.mark_changed();
                }
                Err(LeaseError::Failed(why)) => {
                    self.held = held;
                    if Instant::now().duration_since(*renewed.borrow()) >= LEADS_FOR {
                        return Lost::Unrenewed(why);
                    }
                    next = Instant::now() + schedule.next_pause();
                }
            }
        }
    }

    /// Waits until the watch shows what made our write a conflict; whether it did within a moment.
    async fn caught_up(&mut self, held: Option<&Record>) -> bool {
        let version = held.map(|held| held.resource_version.clone());
        let newer = self.lease.wait_for(|seen| seen.only().map(|record| &record.resource_version) != version.as_ref());
        matches!(tokio::time::timeout(Duration::from_millis(1500), newer).await, Ok(Ok(_)))
    }

    fn holder(&self) -> String {
        self.sightings
            .holder()
            .map_or_else(|| "nobody".to_owned(), |holder| format!("the agent of node {}", holder.node))
    }
}

fn words(why: Vacancy) -> &'static str {
    match why {
        Vacancy::Absent => "there was no Lease",
        Vacancy::GivenUp => "the Lease was free",
        Vacancy::OfAnEarlierBoot => "the prover was this node's agent before its reboot",
        Vacancy::Expired => "the prover fell silent",
    }
}
