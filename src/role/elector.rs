//! Leader election: performs what the pure step asks for ([`crate::decide::election::elector`]). Agents and controllers both run it.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::cluster::Client;
use crate::cluster::lease::{self, Annotation, LeaseError};
use crate::cluster::watch::Seen;
use crate::decide::election::elector::{Acquired, CATCH_UP, LossReason, Pause, Step, WRITE_DEADLINE, WriteError};
use crate::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use crate::decide::{self, PendingRepair, PublishedVerdict};
use crate::metrics::{Metrics, Written};
use crate::retry::Schedule;

/// What a leader publishes in its Lease.
pub(super) trait Content: Clone + PartialEq {
    /// As an annotation.
    fn annotation(&self) -> Annotation;

    /// How long after the last renewal, at the earliest, this has to be in the Lease, which carries `written`.
    fn due(&self, written: &Self) -> Duration;
}

/// Which Lease, and who wants it.
pub(super) struct Candidate {
    /// For writes of the Lease.
    pub client: Client,
    /// Where the Lease is.
    pub namespace: String,
    /// Its name.
    pub name: &'static str,
    /// Who writes it.
    pub me: LeaseHolder,
    /// What instants are counted from.
    pub epoch: Instant,
    /// Where writes are counted.
    pub metrics: Arc<Metrics>,
    /// How long a free Lease is left to others; nothing: not at all.
    pub courtesy: Option<Schedule>,
}

/// What a candidate is while it does not lead.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standby<'a> {
    /// Another holds the Lease, or is about to.
    Follows,
    /// The Lease could not be written, for this reason.
    Fails(&'a str),
}

/// One candidate at work.
pub(super) struct Elector {
    candidate: Candidate,
    lease: watch::Receiver<Seen<LeaseRecord>>,
    step: decide::election::elector::Elector,
    retry: Schedule,
    write: Option<BoxFuture<'static, (u64, Result<LeaseRecord, LeaseError>)>>,
    /// Why the Lease could not be written, as it was logged last.
    logged: Option<String>,
}

// === impl Elector ===

impl Elector {
    pub(super) fn new(candidate: Candidate, lease: watch::Receiver<Seen<LeaseRecord>>) -> Self {
        let step = decide::election::elector::Elector::new(candidate.me.clone());
        Self { candidate, lease, step, retry: Schedule::api_retry(), write: None, logged: None }
    }

    /// Waits until this process leads. `content` is asked for what the write carries that takes the Lease; it is returned with
    /// how the Lease was acquired.
    pub(super) async fn acquire<C: Content>(
        &mut self,
        content: impl Fn(&decide::election::elector::Elector, Option<&LeaseRecord>) -> C,
        standby: impl Fn(Standby<'_>),
    ) -> (Acquired, C) {
        let mut sent = content(&self.step, None);
        loop {
            match self.next(None) {
                Step::Wait { until } => {
                    match self.step.failure() {
                        Some(why) if self.logged.is_some() => standby(Standby::Fails(why)),
                        _ => standby(Standby::Follows),
                    }
                    self.wait(until, pending()).await;
                }
                Step::Write(write) => {
                    let current = self.lease.borrow().only().cloned();
                    sent = content(&self.step, current.as_ref());
                    self.send(write, sent.annotation());
                }
                Step::Lead(how) => return (how, sent),
                Step::StepDown(_) => {}
            }
        }
    }

    /// Renews the Lease, which carries `written`, regularly and for new content, until it is lost; `renewed` follows when the
    /// last accepted renewal was sent. `probes` says when the leader's next round of probes begins: if it does not end, the Lease
    /// is given up.
    pub(super) async fn lead<C: Content>(
        &mut self,
        mut written: C,
        content: &mut watch::Receiver<C>,
        renewed: &watch::Sender<Instant>,
        probes: &watch::Receiver<Instant>,
    ) -> LossReason {
        let mut sent: Option<(u64, C)> = None;
        loop {
            if let Some((_, sent)) = sent.take_if(|(number, _)| *number == self.step.accepted()) {
                written = sent;
            }
            let news = {
                let content = content.borrow();
                (*content != written).then(|| content.due(&written))
            };
            let next = *probes.borrow();
            self.step.note_probes(next.saturating_duration_since(self.candidate.epoch));
            match self.next(news) {
                Step::Wait { until } => {
                    let other = async {
                        if content.changed().await.is_err() {
                            // Whoever publishes lives as long as this loop.
                            pending::<()>().await;
                        }
                    };
                    self.wait(until, other).await;
                    let at = self.renewed();
                    renewed.send_if_modified(|before| std::mem::replace(before, at) != at);
                }
                Step::Write(write) => {
                    let content = content.borrow_and_update().clone();
                    sent = Some((write.number, content.clone()));
                    self.send(write, content.annotation());
                }
                Step::Lead(_) => {}
                Step::StepDown(lost) => {
                    if matches!(lost, LossReason::ProbesHang { .. }) {
                        self.step_down().await;
                    }
                    return lost;
                }
            }
        }
    }

    /// When the last accepted write was sent.
    pub(super) fn renewed(&self) -> Instant {
        self.candidate.epoch + self.step.renewed().unwrap_or_default()
    }

    /// Gives the Lease up, where this process holds it, so that others need not wait until it expires.
    pub(super) async fn step_down(&mut self) {
        self.write = None;
        self.observe();
        let Some(held) = self.step.held().cloned() else { return };
        let mut outcome = self.give_up(&held).await;
        if outcome == Err(LeaseError::Conflict) {
            // A renewal that was under way may have arrived.
            let newer = self
                .lease
                .wait_for(|seen| seen.only().map(|record| &record.resource_version) != Some(&held.resource_version));
            let newer = tokio::time::timeout(CATCH_UP, newer).await;
            let newer = newer.ok().and_then(Result::ok).and_then(|seen| seen.only().cloned());
            if let Some(ours) = newer.filter(|record| record.holder.as_ref() == Some(&self.candidate.me)) {
                outcome = self.give_up(&ours).await;
            }
        }
        let lease = self.candidate.name;
        match outcome {
            Ok(_) => info!(lease, "gave up the Lease"),
            // Another's already, or deleted.
            Err(LeaseError::Conflict) => {}
            Err(LeaseError::Failed(error)) => {
                warn!(lease, error, "cannot give up the Lease: it will expire");
            }
        }
    }

    async fn give_up(&self, record: &LeaseRecord) -> Result<LeaseRecord, LeaseError> {
        let Candidate { client, namespace, name, .. } = &self.candidate;
        lease::give_up(client.clone(), namespace, name, record, Timestamp::now()).await
    }

    /// What to do now.
    fn next(&mut self, news: Option<Duration>) -> Step {
        self.observe();
        let now = self.candidate.epoch.elapsed();
        let (courtesy, retry) = (&mut self.candidate.courtesy, &mut self.retry);
        let step = self.step.step(now, news, &mut |pause| length(pause, courtesy.as_mut(), retry));
        if !self.step.is_writing() {
            self.write = None;
        }
        step
    }

    fn observe(&mut self) {
        let now = self.candidate.epoch.elapsed();
        // Each version once: an observation resets what a candidate assumes of the Lease.
        if self.lease.has_changed().unwrap_or(false) || !self.step.has_observed() {
            let seen = self.lease.borrow_and_update();
            if seen.is_known() {
                self.step.observe(seen.only(), now);
            }
        }
    }

    fn send(&mut self, write: decide::election::elector::LeaseWrite, annotation: Annotation) {
        let Candidate { client, namespace, name, me, .. } = &self.candidate;
        let (client, namespace, name, me) = (client.clone(), namespace.clone(), *name, me.clone());
        let now = lease::renew_time();
        self.step.sent(write.number, now.to_string());
        self.write = Some(Box::pin(async move {
            let written = lease::write(client, &namespace, name, write.record.as_ref(), &me, Some(annotation), now);
            let late = || LeaseError::Failed(format!("the API server did not answer in {WRITE_DEADLINE:?}"));
            let written = tokio::time::timeout(WRITE_DEADLINE, written).await.unwrap_or_else(|_| Err(late()));
            (write.number, written)
        }));
    }

    /// Waits for the watch, the answer to the write under way, `other` or an instant.
    async fn wait(&mut self, until: Option<Duration>, other: impl Future<Output = ()>) {
        let until = until.map(|until| self.candidate.epoch + until);
        let answer = async {
            match &mut self.write {
                Some(write) => write.await,
                None => pending().await,
            }
        };
        let answer = tokio::select! {
            biased;
            answer = answer => Some(answer),
            changed = self.lease.changed() => {
                if changed.is_err() {
                    // The watch is gone, and with it the process.
                    pending::<()>().await;
                }
                // `next` observes it.
                self.lease.mark_changed();
                None
            }
            () = other => None,
            () = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => pending().await,
                }
            } => None,
        };
        if let Some((number, answer)) = answer {
            self.write = None;
            self.answered(number, answer);
        }
    }

    fn answered(&mut self, number: u64, answer: Result<LeaseRecord, LeaseError>) {
        self.candidate.metrics.lease_written(match &answer {
            Ok(_) => Written::Done,
            Err(LeaseError::Conflict) => Written::Conflict,
            Err(LeaseError::Failed(_)) => Written::Failed,
        });
        if answer.is_ok() {
            self.retry.reset();
            self.logged = None;
        }
        let answer = answer.map_err(|error| match error {
            LeaseError::Conflict => WriteError::Conflict,
            LeaseError::Failed(why) => {
                self.log(&why);
                WriteError::Failed(why)
            }
        });
        let now = self.candidate.epoch.elapsed();
        let (courtesy, retry) = (&mut self.candidate.courtesy, &mut self.retry);
        self.step.answered(number, answer, now, &mut |pause| length(pause, courtesy.as_mut(), retry));
    }

    /// Logs, once, why the Lease cannot be written.
    fn log(&mut self, error: &str) {
        if self.logged.as_deref() != Some(error) {
            warn!(lease = self.candidate.name, error, "cannot write the Lease");
            self.logged = Some(error.to_owned());
        }
    }
}

fn length(pause: Pause, courtesy: Option<&mut Schedule>, retry: &mut Schedule) -> Duration {
    match pause {
        Pause::Acquire => courtesy.map(Schedule::next_pause).unwrap_or_default(),
        Pause::Retry => retry.next_pause(),
    }
}

// === impl PublishedVerdict ===

impl Content for PublishedVerdict {
    fn annotation(&self) -> Annotation {
        (decide::election::lease_record::VERDICT, self.write())
    }

    fn due(&self, _written: &Self) -> Duration {
        Duration::ZERO
    }
}

impl Content for PendingRepair {
    fn annotation(&self) -> Annotation {
        (decide::election::pending_repair::ANNOTATION, self.write())
    }

    fn due(&self, written: &Self) -> Duration {
        self.renewed_after(*written)
    }
}

#[cfg(test)]
mod tests;
