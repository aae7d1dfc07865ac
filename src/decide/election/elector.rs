//! Leader election over one Lease, as a pure step: what one candidate does next.
//!
//! The agents elect a prover by it, the controller's replicas a leader. `role/elector` performs what [`Elector::step`] asks for
//! and reports the answers; the simulation drives the same step. Every instant is by the candidate's own monotonic clock.
//!
//! ```text
//!             the Lease is free, after a pause          answered: ours
//!  following ─────────────────────────────────► Write ─────────────────► Lead
//!      ▲                                                                  │ Write every RENEW_INTERVAL
//!      └──────────── StepDown: another holds it, or it was not renewed ───┘
//! ```
//!
//! A leader that has not renewed for [`RENEW_DEADLINE`] does not act ([`Elector::leads`]). It steps down then, unless a write is under
//! way or unanswered: as long as the Lease lasts, that write may yet renew it. A leader whose probes hang steps down as well
//! ([`PROBE_DEADLINE`]): its renewals would keep an old verdict alive.

use std::fmt;
use std::time::Duration;

use super::lease_record::{
    LEASE_DURATION, LeaseHolder, LeaseObserver, LeaseRecord, LeaseState, RENEW_DEADLINE, RENEW_INTERVAL, VacancyReason,
};

/// How long a write of the Lease may take; then another is sent. An API server that has just come back answers in seconds: to
/// give up earlier would repeat what it has taken.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(6);

/// How long a leader waits, after a conflict, until its watch shows what it conflicted with.
pub const CATCH_UP: Duration = Duration::from_millis(1500);

/// How long one round of a leader's probes may take before it steps down. Longer than any round with an API server that answers
/// late: that waits up to 30 s for a webhook, a dry-run up to 3.3 s more, and the dry-run is sent twice where no API server can
/// be reached by its own address.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(75);

/// How long a leader that stepped down because its probes hung leaves a free Lease to others: until it expires, should it not be
/// given up, and for the longest pause before another takes it.
pub const STAND_BACK: Duration = Duration::from_secs(20);

/// How many writes without an answer are remembered.
const MAX_UNANSWERED: usize = 4;

/// One candidate.
#[derive(Clone, Debug)]
pub struct Elector {
    me: LeaseHolder,
    observer: LeaseObserver,
    /// Whether the watch has shown anything yet.
    observed: bool,
    /// The Lease as the watch showed it last; nothing where there is none.
    seen: Option<LeaseRecord>,
    /// The Lease as our last accepted write left it, until another write is known to have come after it.
    own: Option<LeaseRecord>,
    tenure: Option<Tenure>,
    write: Option<PendingWrite>,
    /// Writes without an answer: the API server may have taken one all the same, and then the watch shows it.
    unanswered: Vec<PendingWrite>,
    /// How many writes were asked for.
    writes: u64,
    /// The last one that was accepted.
    accepted: u64,
    /// What the last write conflicted with, until the watch shows it.
    conflict: Option<Conflict>,
    /// Before this no write follows one that failed.
    retry_at: Option<Duration>,
    /// When a free Lease is taken: each candidate waits for another while.
    take_at: Option<Duration>,
    /// Before this another is to take the Lease: our probes hung.
    stands_back_until: Option<Duration>,
    /// Why the last write failed.
    failure: Option<String>,
}

/// The time for which we lead.
#[derive(Clone, Debug)]
struct Tenure {
    /// When the last accepted write was sent: its answer may be late.
    renewed: Duration,
    why: Acquired,
    /// Whether the caller knows of it.
    begun: bool,
    /// When the round of probes begins, or has begun, that is to end next.
    probes_at: Duration,
}

#[derive(Clone, Debug)]
struct PendingWrite {
    number: u64,
    sent: Duration,
    /// What it writes as `renewTime`, which tells it from every other.
    renew_time: Option<String>,
    version: Option<String>,
    why: Acquired,
}

#[derive(Clone, Debug)]
struct Conflict {
    version: Option<String>,
    until: Duration,
}

/// What the caller does next. It reports what came of it, and asks again until it is to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait until the watch shows something, an answer comes, there is other content, or this instant is reached.
    Wait {
        /// By the candidate's clock; nothing where time alone changes nothing.
        until: Option<Duration>,
    },
    /// Write the Lease.
    Write(LeaseWrite),
    /// This candidate leads from now on.
    Lead(Acquired),
    /// This candidate no longer leads, and begins nothing more as a leader.
    StepDown(LossReason),
}

/// A write that takes or renews the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseWrite {
    /// Its answer carries the same number.
    pub number: u64,
    /// The Lease must still be like this; nothing: there must be none, and this creates it.
    pub record: Option<LeaseRecord>,
}

/// How this candidate came to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It held the Lease already: an earlier process of the same container, or itself before it could not renew.
    Again,
    /// The Lease had no live holder.
    Vacant(VacancyReason),
}

/// Why this candidate no longer leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// Another holds the Lease.
    To(LeaseHolder),
    /// A round of probes did not end in [`PROBE_DEADLINE`]. The caller gives the Lease up.
    ProbesHang {
        /// How long ago the round was due.
        since: Duration,
    },
    /// It was not renewed in time.
    Unrenewed {
        /// How long ago the last accepted write was sent.
        since: Duration,
        /// Why not, in words.
        why: String,
    },
}

/// Why a write was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// Another write came first.
    Conflict,
    /// Anything else, in words.
    Failed(String),
}

/// A pause whose length the caller chooses, by chance and by what failed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Before a free Lease is taken.
    Acquire,
    /// After a write that failed, or an acquisition that came too late.
    Retry,
}

// === impl Elector ===

impl Elector {
    /// A candidate that has seen nothing yet.
    pub fn new(me: LeaseHolder) -> Self {
        Self {
            me,
            observer: LeaseObserver::default(),
            observed: false,
            seen: None,
            own: None,
            tenure: None,
            write: None,
            unanswered: Vec::new(),
            writes: 0,
            accepted: 0,
            conflict: None,
            retry_at: None,
            take_at: None,
            stands_back_until: None,
            failure: None,
        }
    }

    /// The watch shows the Lease like this; nothing where there is none.
    pub fn observe(&mut self, record: Option<&LeaseRecord>, now: Duration) {
        self.observer.note(record, now);
        // Our own renewal, and whatever else was written to the Lease since: the next write need not conflict with that.
        let ours = |own: &LeaseRecord| {
            record.is_some_and(|record| record.holder == own.holder && record.renewed == own.renewed)
        };
        if self.own.as_ref().is_some_and(ours) || self.tenure.is_none() && self.write.is_none() {
            self.own = None;
        }
        self.observed = true;
        self.seen = record.cloned();
        if let Some(record) = record.filter(|record| record.holder.as_ref() == Some(&self.me)) {
            let shown = |write: &PendingWrite| write.renew_time.is_some() && write.renew_time == record.renewed;
            let unanswered = self.unanswered.iter().position(shown).map(|index| self.unanswered.swap_remove(index));
            // One that is under way may be shown before its answer comes, and that may be lost.
            let under_way = self.write.as_ref().filter(|write| shown(write)).cloned();
            if let Some(write) = unanswered.or(under_way) {
                self.own = None;
                self.accept(&write, now);
            }
        }
    }

    /// The write of this number was sent with this `renewTime`, as a [`LeaseRecord`] has it.
    pub fn sent(&mut self, number: u64, renew_time: String) {
        if let Some(write) = self.write.as_mut().filter(|write| write.number == number) {
            write.renew_time = Some(renew_time);
        }
    }

    fn accept(&mut self, write: &PendingWrite, now: Duration) {
        self.failure = None;
        self.accepted = self.accepted.max(write.number);
        match &mut self.tenure {
            Some(tenure) => tenure.renewed = tenure.renewed.max(write.sent),
            // One that is known so late that others may take over has to be repeated first.
            None if now < write.sent + RENEW_DEADLINE => {
                self.tenure = Some(Tenure { renewed: write.sent, why: write.why, begun: false, probes_at: now });
            }
            None => {}
        }
    }

    fn abandon(&mut self, write: PendingWrite) {
        // Of several that hang, at most one can be taken: they have the same precondition.
        if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.remove(0);
        }
        self.unanswered.push(write);
    }

    /// The leader's last round of probes has ended, and the next one begins at `next`.
    pub fn note_probes(&mut self, next: Duration) {
        if let Some(tenure) = &mut self.tenure {
            tenure.probes_at = tenure.probes_at.max(next);
        }
    }

    /// The write of this number was answered. One that is no longer waited for changes nothing.
    pub fn answered(
        &mut self,
        number: u64,
        answer: Result<LeaseRecord, WriteError>,
        now: Duration,
        pause: &mut impl FnMut(Pause) -> Duration,
    ) {
        let Some(write) = self.write.take_if(|write| write.number == number) else { return };
        match answer {
            Ok(record) => {
                self.own = Some(record);
                self.unanswered.clear();
                self.accept(&write, now);
            }
            Err(WriteError::Conflict) => {
                let wait = if self.tenure.is_some() { CATCH_UP } else { pause(Pause::Retry) };
                self.failure = Some("other programs write the Lease all the time".to_owned());
                self.conflict = Some(Conflict { version: write.version, until: now + wait });
                self.retry_at = Some(now);
            }
            Err(WriteError::Failed(why)) => {
                self.failure = Some(why);
                self.retry_at = Some(now + pause(Pause::Retry));
                self.abandon(write);
            }
        }
    }

    /// What to do at `now`.
    ///
    /// `news`: how long after the last renewal, at the earliest, the Lease has to carry other content than it does; zero is at
    /// once, nothing is with the next renewal.
    pub fn step(&mut self, now: Duration, news: Option<Duration>, pause: &mut impl FnMut(Pause) -> Duration) -> Step {
        if !self.observed {
            return Step::Wait { until: None };
        }
        if let Some(write) = self.write.take_if(|write| now >= write.sent + WRITE_DEADLINE) {
            self.abandon(write);
            self.failure = Some(format!("the API server did not answer in {WRITE_DEADLINE:?}"));
            self.retry_at = Some(now + pause(Pause::Retry));
        }
        let state = self.observer.state(&self.me, now);
        let limit = if self.write.is_none() && self.unanswered.is_empty() { RENEW_DEADLINE } else { LEASE_DURATION };
        if let Some(tenure) = &mut self.tenure {
            let since = now.saturating_sub(tenure.renewed);
            let lost = if since >= limit {
                let stopped = || "this process was stopped".to_owned();
                Some(LossReason::Unrenewed { since, why: self.failure.take().unwrap_or_else(stopped) })
            } else if let (LeaseState::Follow { .. }, Some(holder)) = (&state, self.observer.holder()) {
                Some(LossReason::To(holder.clone()))
            } else if now >= tenure.probes_at + PROBE_DEADLINE {
                self.stands_back_until = Some(now + STAND_BACK);
                Some(LossReason::ProbesHang { since: now.saturating_sub(tenure.probes_at) })
            } else {
                None
            };
            if let Some(lost) = lost {
                let begun = tenure.begun;
                self.tenure = None;
                self.own = None;
                if let Some(write) = self.write.take() {
                    self.abandon(write);
                }
                if begun {
                    return Step::StepDown(lost);
                }
            } else if !tenure.begun {
                tenure.begun = true;
                return Step::Lead(tenure.why);
            }
        }
        let ends = self.tenure.as_ref().map(|tenure| (tenure.renewed + limit).min(tenure.probes_at + PROBE_DEADLINE));
        let wait = |until: Option<Duration>| Step::Wait { until: until.into_iter().chain(ends).min() };
        if let Some(write) = &self.write {
            return wait(Some(write.sent + WRITE_DEADLINE));
        }
        if let Some(conflict) = &self.conflict {
            let version = self.seen.as_ref().map(|seen| &seen.resource_version);
            let caught_up = version != conflict.version.as_ref();
            if !caught_up && now < conflict.until {
                return wait(Some(conflict.until));
            }
            if caught_up {
                self.own = None;
            }
            self.conflict = None;
        }
        if let Some(retry) = self.retry_at.filter(|retry| now < *retry) {
            return wait(Some(retry));
        }
        let (why, due) = match (&self.tenure, state) {
            (Some(Tenure { renewed, why, .. }), _) => {
                let regular = *renewed + RENEW_INTERVAL;
                let due = news.map_or(regular, |news| regular.min(*renewed + news));
                (*why, self.retry_at.unwrap_or(due))
            }
            (None, LeaseState::Lead) => (Acquired::Again, now),
            (None, LeaseState::Vacant(why)) => {
                // Other nodes cannot know yet that this node's earlier agent is gone.
                let chance = || if why == VacancyReason::OfAnEarlierBoot { now } else { now + pause(Pause::Acquire) };
                (Acquired::Vacant(why), *self.take_at.get_or_insert_with(chance))
            }
            (None, LeaseState::Follow { until }) => {
                self.take_at = None;
                return wait(Some(until));
            }
        };
        let due = if self.tenure.is_none() { due.max(self.stands_back_until.unwrap_or_default()) } else { due };
        if now < due {
            return wait(Some(due));
        }
        self.retry_at = None;
        self.take_at = None;
        self.writes += 1;
        let record = self.own.as_ref().or(self.seen.as_ref()).cloned();
        let version = record.as_ref().map(|record| record.resource_version.clone());
        self.write = Some(PendingWrite { number: self.writes, sent: now, renew_time: None, version, why });
        Step::Write(LeaseWrite { number: self.writes, record })
    }

    /// Whether this candidate may begin something as the leader at `now`.
    pub fn leads(&self, now: Duration) -> bool {
        self.tenure.as_ref().is_some_and(|tenure| tenure.begun && now < tenure.renewed + RENEW_DEADLINE)
    }

    /// Whether the watch has shown anything yet.
    pub const fn has_observed(&self) -> bool {
        self.observed
    }

    /// Whether the answer to a write is waited for.
    pub const fn is_writing(&self) -> bool {
        self.write.is_some()
    }

    /// The number of the last write that was accepted, by its answer or by what the watch showed.
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// When the last accepted write was sent, while this candidate leads.
    pub fn renewed(&self) -> Option<Duration> {
        self.tenure.as_ref().map(|tenure| tenure.renewed)
    }

    /// Why the last write failed, where none was accepted since.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// What the watch showed of the Lease, by time.
    pub fn observer(&self) -> &LeaseObserver {
        &self.observer
    }

    /// The Lease, as far as it is known, where this candidate holds it: what it gives up when it ends.
    pub fn held(&self) -> Option<&LeaseRecord> {
        let record = self.own.as_ref().or(self.seen.as_ref())?;
        (record.holder.as_ref() == Some(&self.me)).then_some(record)
    }
}

// === impl Acquired ===

impl fmt::Display for Acquired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Again => "it holds the Lease already",
            Self::Vacant(VacancyReason::Absent) => "there was no Lease",
            Self::Vacant(VacancyReason::GivenUp) => "the Lease was free",
            Self::Vacant(VacancyReason::OfAnEarlierBoot) => "the prover was this node's agent before its reboot",
            Self::Vacant(VacancyReason::Expired) => "its holder stopped renewing it",
        })
    }
}

#[cfg(test)]
mod tests;
