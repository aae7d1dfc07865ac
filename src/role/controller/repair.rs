//! The repair loop: plans from what the watches show, sends the writes, and feeds their results to the tracker.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::report::Reporter;
use super::watches::Watched;
use super::writes::{Writes, Written};
use super::{Context, leads, prover};
use crate::decide::manual_override::ManualOverride;
use crate::decide::repair::step::{self, RECHECK};
use crate::decide::repair::{Action, Due, Permit, Scan, Tracker, Ungate, WriteOutcome, plan};
use crate::decide::{Gate, PendingRepair};

/// The least pause between two plans: what changes together is planned for together.
const PAUSE: Duration = Duration::from_millis(50);

/// A plan takes no more of the time than one part in so many, however many pods there are.
const SHARE: u32 = 10;

/// So many things said in audit mode are remembered.
pub(super) const MANY: usize = 10_000;

struct Repairer {
    context: Arc<Context>,
    seen: Watched,
    renewed: watch::Receiver<Instant>,
    gate: watch::Receiver<Gate>,
    reprove: watch::Sender<Duration>,
    pending: watch::Sender<PendingRepair>,
    tracker: Tracker,
    reporter: Reporter,
    troubles: BTreeSet<String>,
    /// The override that was logged last.
    manual_override: Option<ManualOverride>,
    /// What audit mode has said: the uid of the pod or Job, and the word of what would be done to it.
    audited: BTreeSet<(String, &'static str)>,
    writes: Writes,
}

/// Repairs for ever.
pub(super) async fn run(
    context: Arc<Context>,
    seen: Watched,
    renewed: watch::Receiver<Instant>,
    gate: watch::Receiver<Gate>,
    reprove: watch::Sender<Duration>,
    reporter: Reporter,
    pending: watch::Sender<PendingRepair>,
) -> Infallible {
    let tracker = Tracker::new(&context.settings.repair, context.now());
    let writes = Writes::new(Arc::clone(&context), renewed.clone(), gate.clone());
    let repairer = Repairer {
        context,
        seen,
        renewed,
        gate,
        reprove,
        pending,
        tracker,
        reporter,
        troubles: BTreeSet::new(),
        manual_override: None,
        audited: BTreeSet::new(),
        writes,
    };
    repairer.run().await
}

// === impl Repairer ===

impl Repairer {
    async fn run(mut self) -> Infallible {
        loop {
            self.log_watch_errors();
            self.context.show(&self.gate.borrow(), self.seen.readiness());
            let started = Instant::now();
            let Due { actions, ungates, again } = self.plan();
            let pause = (started.elapsed() * SHARE).max(PAUSE);
            let planned = !actions.is_empty() || !ungates.is_empty();
            self.act(actions);
            self.ungate(ungates);
            // Audit mode sends nothing, and its log lines are part of the next plan all the same.
            let due = planned && self.writes.is_empty();
            self.write_until(due, started + pause, again.map(|again| self.context.epoch + again)).await;
        }
    }

    /// Sends what is due until the next plan: at once if one is `due`, after a write has ended, when something has changed, and at the
    /// instant `again`; but not before `not_before`.
    async fn write_until(&mut self, mut due: bool, not_before: Instant, again: Option<Instant>) {
        let mut paused = false;
        while !(due && paused) {
            tokio::select! {
                biased;
                // What became of it is part of the next plan.
                Some(written) = self.writes.next() => {
                    self.note(written);
                    due = true;
                }
                () = tokio::time::sleep_until(not_before), if !paused => paused = true,
                () = self.seen.changed(), if !due => due = true,
                Ok(()) = self.gate.changed(), if !due => due = true,
                () = async {
                    match again {
                        Some(again) => tokio::time::sleep_until(again).await,
                        None => std::future::pending().await,
                    }
                }, if !due => due = true,
            }
        }
    }

    fn log_watch_errors(&mut self) {
        let troubles = self.seen.repair_watch_errors();
        for trouble in troubles.difference(&self.troubles) {
            warn!(error = trouble, "repair paused: watches are not in sync");
        }
        if troubles.is_empty() && !self.troubles.is_empty() {
            info!("repair resumed: watches are in sync");
        }
        self.troubles = troubles;
    }

    /// What is to be done now, and when to plan again at the latest. What is returned has begun, as far as the tracker knows.
    fn plan(&mut self) -> Due {
        let now = self.context.now();
        let manual_override = self.seen.close_override();
        self.log_override(manual_override);
        let leads = leads(&self.renewed);
        let permit = Permit { leads, in_sync: self.troubles.is_empty(), closed: manual_override.is_some() };
        self.writes.set_free(permit.is_free());
        let proven = self.gate.borrow_and_update().proven_at(now).filter(|_| leads);
        if !self.seen.sees_webhooks() {
            self.tracker.note_watches_lost();
        }
        let Self { context, seen, tracker, reporter, pending, writes, .. } = self;
        let planned = seen.snapshot(context, proven, |snapshot| {
            let scan = Scan::of(snapshot, |owner| tracker.remembers(owner));
            let broken = tracker.observe(snapshot, &scan, now);
            let plan = plan(snapshot, &scan, tracker, &context.settings.repair, now);
            reporter.report(&plan, snapshot, tracker, &broken, permit.is_free() && proven.is_some(), now);
            let count = PendingRepair::new(plan.pending);
            pending.send_if_modified(|before| std::mem::replace(before, count) != count);
            step::begin(plan, &scan, tracker, permit, writes.room(), now)
        });
        self.reporter.look_up(self.tracker.take_late());
        self.seen.await_pods_of(self.tracker.awaited());
        let Some(due) = planned else { return Due { again: Some(now + RECHECK), ..Due::default() } };
        if let Some(at) = self.tracker.missed_again_at() {
            // What came back missed says that the proof may be wrong: another one tells.
            prover::reprove(&self.reprove, at);
        }
        due
    }

    fn act(&mut self, actions: Vec<Action>) {
        let (audited, actions) = if self.context.acts() {
            (Vec::new(), actions)
        } else {
            actions.into_iter().partition(|action| !action.operation.reverts())
        };
        self.audit(&audited);
        self.writes.act(actions);
    }

    /// Takes our gate off.
    fn ungate(&mut self, ungates: Vec<Ungate>) {
        if self.context.acts() {
            self.writes.ungate(ungates);
            return;
        }
        for ungate in &ungates {
            self.tracker.ungating_not_executed(ungate, self.context.now());
            if self.is_news(ungate.uid.clone(), "ungate") {
                self.context.metrics.ungated(ungate.reason.key(), "audit");
                let (namespace, pod) = (&ungate.namespace, &ungate.name);
                info!(namespace, pod, reason = %ungate.reason, "audit mode: scheduling gate not removed");
            }
        }
    }

    /// Takes in what became of a write; nothing where it was never sent.
    fn note(&mut self, written: Written) {
        let now = self.context.now();
        match written {
            Written::Acted(action, Err(why)) => {
                super::report::dropped(&action, why);
                self.tracker.dropped(&action);
            }
            Written::Acted(action, Ok(outcome)) => {
                self.tracker.acted(&action, &outcome, now);
                self.context.metrics.replaced(action.operation.key(), key(&outcome));
                self.reporter.acted(&action, &outcome, now);
            }
            Written::Ungated(ungate, Err(why)) => {
                super::report::ungate_dropped(&ungate, why);
                self.tracker.ungating_dropped(&ungate);
            }
            Written::Ungated(ungate, Ok(outcome)) => {
                self.tracker.ungated(&ungate, &outcome, now);
                self.context.metrics.ungated(ungate.reason.key(), key(&outcome));
                self.reporter.ungated(&ungate, &outcome);
            }
        }
    }

    /// Logs once that an override pauses everything.
    fn log_override(&mut self, word: Option<ManualOverride>) {
        if self.manual_override == word {
            return;
        }
        if let Some(word) = &word {
            info!(until = %word.until, "manual override: no pod is replaced, no owner retried, no node opened");
        } else {
            info!("manual override ended");
        }
        self.manual_override = word;
    }

    /// Whether audit mode has not said yet that `act` would be done to the object of `uid`.
    fn is_news(&mut self, uid: String, act: &'static str) -> bool {
        if self.audited.len() > MANY {
            // Said once more rather than remembered for ever.
            self.audited.clear();
        }
        self.audited.insert((uid, act))
    }

    /// Says what would be done, once.
    fn audit(&mut self, actions: &[Action]) {
        for action in actions {
            let subject = match action.operation.removes() {
                Some((targets, _)) => targets.first().map_or_else(String::new, |target| target.uid.clone()),
                None => action.owner.uid.clone(),
            };
            // Planned again after a pause: nothing will have become of it.
            self.tracker.not_executed(action, self.context.now());
            if self.is_news(subject, action.operation.key()) {
                self.context.metrics.replaced(action.operation.key(), "audit");
                super::report::not_executed(action);
            }
        }
    }
}

/// The label `result`.
pub(super) fn key(outcome: &WriteOutcome) -> &'static str {
    match outcome {
        WriteOutcome::Done => "done",
        WriteOutcome::Conflict => "conflict",
        WriteOutcome::Refused(_) => "refused",
        WriteOutcome::Failed(_) => "failed",
    }
}
