//! Plans, acts, and remembers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::event_recorder::EventRecorder;
use super::report::Reporter;
use super::watches::Watched;
use super::{Context, RECHECK, leads, prover, wall};
use crate::cluster::{repair, successor};
use crate::decide::manual_override::ManualOverride;
use crate::decide::repair::{Action, MissedState, Operation, Scan, Tracker, Ungate, WriteOutcome, plan};
use crate::decide::{Gate, PendingRepair};

/// How many writes are asked for at a time.
const AT_A_TIME: usize = 16;

/// How many gates come off before it is planned again: as many as may come off at once must not keep others from being replaced.
const UNGATED_AT_ONCE: usize = 200;

/// How long one of them may take. Unlike its neighbours, so that a reason tells which limit fired.
const ANSWER: Duration = Duration::from_millis(5300);

/// How long the dry-run of a successor may take: an API server waits ten seconds for a webhook, unless it is told otherwise.
const TRIAL: Duration = Duration::from_millis(10_700);

/// The least pause between two plans: what changes together is planned for together.
const PAUSE: Duration = Duration::from_millis(50);

/// A plan takes no more of the time than one part in so many, however many pods there are.
const SHARE: u32 = 10;

/// So many things said in audit mode are remembered.
pub(super) const MANY: usize = 10_000;

/// What is to be done.
#[derive(Default)]
struct Due {
    actions: Vec<Action>,
    ungates: Vec<Ungate>,
    /// When to plan again at the latest.
    again: Option<Duration>,
}

struct Repairer {
    context: Arc<Context>,
    seen: Watched,
    renewed: watch::Receiver<Instant>,
    gate: watch::Receiver<Gate>,
    doubt: watch::Sender<Duration>,
    pending: watch::Sender<PendingRepair>,
    tracker: Tracker,
    teller: Reporter,
    troubles: BTreeSet<String>,
    /// A person's word, as it was told last.
    by_hand: Option<ManualOverride>,
    /// What audit mode has said: the uid of the pod or Job, and the word of what would be done to it.
    audited: BTreeSet<(String, &'static str)>,
}

/// Repairs for ever.
pub(super) async fn run(
    context: Arc<Context>,
    seen: Watched,
    renewed: watch::Receiver<Instant>,
    gate: watch::Receiver<Gate>,
    doubt: watch::Sender<Duration>,
    scribe: EventRecorder,
    pending: watch::Sender<PendingRepair>,
) -> Infallible {
    let tracker = Tracker::new(&context.settings.repair, context.now());
    let teller = Reporter::new(Arc::clone(&context), scribe);
    let repairer = Repairer {
        context,
        seen,
        renewed,
        gate,
        doubt,
        pending,
        tracker,
        teller,
        troubles: BTreeSet::new(),
        by_hand: None,
        audited: BTreeSet::new(),
    };
    repairer.run().await
}

// === impl Repairer ===

impl Repairer {
    async fn run(mut self) -> Infallible {
        loop {
            self.tell_troubles();
            self.context.show(&self.gate.borrow(), self.seen.readiness());
            let started = Instant::now();
            let Due { actions, ungates, again } = self.plan();
            let took = started.elapsed();
            let acted = !actions.is_empty() || !ungates.is_empty();
            self.act(actions).await;
            self.ungate(ungates).await;
            tokio::time::sleep((took * SHARE).max(PAUSE)).await;
            if acted {
                // What became of it is part of the next plan.
                continue;
            }
            let again = again.map(|again| self.context.epoch + again);
            tokio::select! {
                biased;
                () = self.seen.changed() => {}
                Ok(()) = self.gate.changed() => {}
                () = async {
                    match again {
                        Some(again) => tokio::time::sleep_until(again).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    fn tell_troubles(&mut self) {
        let troubles = self.seen.troubles_of_repair();
        for trouble in troubles.difference(&self.troubles) {
            warn!("nothing is replaced until everything is seen again: {trouble}");
        }
        if troubles.is_empty() && !self.troubles.is_empty() {
            info!("everything is seen again");
        }
        self.troubles = troubles;
    }

    /// What is to be done now, and when to plan again at the latest. What is returned has begun, as far as the tracker knows.
    fn plan(&mut self) -> Due {
        let now = self.context.now();
        let by_hand = self.seen.closed_by_hand();
        self.tell_by_hand(by_hand);
        let leads = leads(&self.renewed);
        let sees = self.troubles.is_empty();
        let free = sees && by_hand.is_none() && leads;
        let proven = prover::proven(&self.gate.borrow_and_update(), now).filter(|_| leads);
        if !self.seen.sees_webhooks() {
            self.tracker.note_watches_lost();
        }
        let Self { context, seen, tracker, teller, pending, .. } = self;
        let planned = seen.snapshot(context, proven, |snapshot| {
            let scan = Scan::of(snapshot, |owner| tracker.remembers(owner));
            let broken = tracker.observe(snapshot, &scan, now);
            let plan = plan(snapshot, &scan, tracker, &context.settings.repair, now);
            teller.tell(&plan, snapshot, tracker, &broken, free && proven.is_some(), now);
            let count = PendingRepair::new(plan.pending);
            pending.send_if_modified(|before| std::mem::replace(before, count) != count);
            // A Job that is suspended is resumed whatever else may not be done: that takes back what we did.
            let resumes = |action: &Action| matches!(action.act, Operation::Resume { .. });
            let actions: Vec<_> = plan.actions.into_iter().filter(|action| free || leads && resumes(action)).collect();
            for action in &actions {
                tracker.begin(action, scan.siblings_of(&action.owner.uid), now);
            }
            // A person's `close` is about what waits for injection; the plan knows whose gate that is.
            let ungates: Vec<_> = plan.ungates.into_iter().filter(|_| sees && leads).take(UNGATED_AT_ONCE).collect();
            for ungate in &ungates {
                tracker.begin_ungating(ungate, now);
            }
            Due { actions, ungates, again: plan.again }
        });
        self.seen.await_pods_of(self.tracker.awaited());
        let soon = Some(now + RECHECK);
        let Some(mut due) = planned else { return Due { again: soon, ..Due::default() } };
        if !free {
            due.again = due.again.into_iter().chain(soon).min();
        }
        if let Some(at) = self.tracker.missed_again_at() {
            // What came back missed says that the proof may be wrong: another one tells.
            prover::doubt(&self.doubt, at);
        }
        due
    }

    async fn act(&mut self, actions: Vec<Action>) {
        let (audited, actions) = if self.context.acts() {
            (Vec::new(), actions)
        } else {
            actions.into_iter().partition(|action| !matches!(action.act, Operation::Resume { .. }))
        };
        self.audit(&audited);
        let (context, renewed, gate) = (&self.context, &self.renewed, &self.gate);
        let one = |action: Action| async move {
            // Before each write: what comes before it may take long.
            let may = || {
                leads(renewed) && (!action.act.needs_proof() || prover::proven(&gate.borrow(), context.now()).is_some())
            };
            if !may() {
                return (action, None);
            }
            if let Some(reason) = tried_in_vain(context, &action).await {
                // Nothing was sent: the owner's other pods and everybody else's wait for nothing.
                return (action, Some(WriteOutcome::Refused(reason)));
            }
            if !may() {
                return (action, None);
            }
            let outcome = tokio::time::timeout(ANSWER, perform(context, &action)).await;
            let late = || WriteOutcome::Failed(format!("the API server did not answer in {ANSWER:?}"));
            let outcome = outcome.unwrap_or_else(|_| late());
            (action, Some(outcome))
        };
        let done: Vec<_> = futures::stream::iter(actions).map(one).buffer_unordered(AT_A_TIME).collect().await;
        for (action, outcome) in done {
            let now = self.context.now();
            let Some(outcome) = outcome else {
                // It was never sent.
                self.tracker.acted(&action, &WriteOutcome::Conflict, now);
                continue;
            };
            self.tracker.acted(&action, &outcome, now);
            self.context.metrics.replaced(action.act.key(), key(&outcome));
            self.teller.acted(&action, &outcome, now);
        }
    }

    /// Takes our gate off.
    async fn ungate(&mut self, ungates: Vec<Ungate>) {
        if !self.context.acts() {
            for ungate in &ungates {
                self.tracker.ungated(ungate, &WriteOutcome::Refused("audit".to_owned()), self.context.now());
                if self.is_news(ungate.uid.clone(), "ungate") {
                    self.context.metrics.ungated(ungate.reason.key(), "audit");
                    info!("audit: would {}", super::report::words_of_ungate(ungate));
                }
            }
            return;
        }
        let (context, renewed) = (&self.context, &self.renewed);
        let one = |ungate: Ungate| async move {
            // Each time: others may take long.
            if !leads(renewed) {
                return (ungate, None);
            }
            let outcome = tokio::time::timeout(ANSWER, repair::ungate(context.client.clone(), &ungate)).await;
            let late = || WriteOutcome::Failed(format!("the API server did not answer in {ANSWER:?}"));
            (ungate, Some(outcome.unwrap_or_else(|_| late())))
        };
        let done: Vec<_> = futures::stream::iter(ungates).map(one).buffer_unordered(AT_A_TIME).collect().await;
        for (ungate, outcome) in done {
            let now = self.context.now();
            let Some(outcome) = outcome else {
                self.tracker.ungated(&ungate, &WriteOutcome::Conflict, now);
                continue;
            };
            self.tracker.ungated(&ungate, &outcome, now);
            self.context.metrics.ungated(ungate.reason.key(), key(&outcome));
            self.teller.ungated(&ungate, &outcome);
        }
    }

    /// Says once that a person's word keeps everything as it is.
    fn tell_by_hand(&mut self, word: Option<ManualOverride>) {
        if self.by_hand == word {
            return;
        }
        if let Some(word) = &word {
            info!("closed by hand until {}: nothing is replaced, nudged or opened meanwhile", word.until);
        } else {
            info!("no longer closed by hand");
        }
        self.by_hand = word;
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
            let subject = match action.act.removes() {
                Some((targets, _)) => targets.first().map_or_else(String::new, |target| target.uid.clone()),
                None => action.owner.uid.clone(),
            };
            // Looked at again later, and later still: nothing will have become of it.
            self.tracker.acted(action, &WriteOutcome::Refused("audit".to_owned()), self.context.now());
            if self.is_news(subject, action.act.key()) {
                self.context.metrics.replaced(action.act.key(), "audit");
                info!("audit: would {}", super::report::words(action));
            }
        }
    }
}

/// Why a running pod is not evicted: a dry-run of the pod that would be made instead failed, or was refused. Nothing where that
/// is not asked: what never ran has nothing to lose.
async fn tried_in_vain(context: &Context, action: &Action) -> Option<String> {
    let Operation::Evict([target]) = &action.act else { return None };
    if target.state != MissedState::Running {
        return None;
    }
    let tried = successor::prove(context.client.clone(), &action.namespace, &action.owner);
    match tokio::time::timeout(TRIAL, tried).await {
        Ok(WriteOutcome::Done) => None,
        Ok(WriteOutcome::Conflict) => Some("not evicted: its owner has changed meanwhile".to_owned()),
        Ok(WriteOutcome::Refused(why) | WriteOutcome::Failed(why)) => Some(why),
        Err(_) => {
            Some(format!("not evicted: a dry-run of the pod that would be made instead took longer than {TRIAL:?}"))
        }
    }
}

async fn perform(context: &Context, action: &Action) -> WriteOutcome {
    let (client, namespace) = (context.client.clone(), action.namespace.as_str());
    match &action.act {
        Operation::Delete([target]) => repair::remove(client, namespace, target, false).await,
        Operation::Untrack { target: [target], gate } => repair::untrack(client, namespace, target, *gate).await,
        Operation::Evict([target]) => repair::remove(client, namespace, target, true).await,
        Operation::Suspend { resource_version, .. } => {
            repair::suspend(client, namespace, &action.owner, resource_version, wall()).await
        }
        Operation::Resume { resource_version, .. } => {
            repair::resume(client, namespace, &action.owner, resource_version).await
        }
    }
}

/// The label `result`.
pub(super) fn key(outcome: &WriteOutcome) -> &'static str {
    match outcome {
        WriteOutcome::Done => "done",
        WriteOutcome::Conflict => "overtaken",
        WriteOutcome::Refused(_) => "refused",
        WriteOutcome::Failed(_) => "failed",
    }
}
