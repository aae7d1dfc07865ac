//! What is reported of missed pods: a log line for each change, Events on pods and owners, metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tracing::{debug, info, warn};

use super::Context;
use super::event_recorder::{EventRecorder, Note, subject_of};
use super::late::LateSender;
use crate::cluster::event::EventSubject;
use crate::decide::hold::GATE;
use crate::decide::repair::action::ABSENT_FOR;
use crate::decide::repair::event_text::{self, OUTSIDE_MESH, Outside, REPLACING};
use crate::decide::repair::late::LateReplacement;
use crate::decide::repair::{
    Action, Decision, Dropped, Kind, Method, Missed, MissedState, Operation, OwnerReference, PodView, RepairPlan,
    Snapshot, Tracker, Ungate, WriteOutcome,
};

/// Events are kept for an hour: what still holds is noted again before they are gone.
const NOTED_AGAIN: Duration = Duration::from_mins(45);

/// How soon what was lost is noted again: an API server that takes no Events at all is not to be asked more often.
const LOST_AGAIN: Duration = Duration::from_mins(2);

/// How often it is said of an owner that an act did not succeed.
const FAILED_AGAIN: Duration = Duration::from_mins(10);

/// What was reported.
pub(super) struct Reporter {
    context: Arc<Context>,
    recorder: EventRecorder,
    late: LateSender,
    /// The last line of each owner, or pod without one, by `namespace/owner`, and when an Event said so, if one did.
    lines: BTreeMap<String, (String, Option<Duration>)>,
    /// What was last noted on each pod, by uid, and when. What found no place among the Events is not there.
    noted: BTreeMap<String, (String, Duration)>,
    /// When it was looked last which Events were lost.
    looked_for_lost: Duration,
    /// When it was last said that an act did not succeed, by the owner's uid, and how.
    failed: BTreeMap<String, (String, Duration)>,
    /// Whether the first report is out.
    reported: bool,
    /// Whether it was said that no injector configuration is left.
    absent: bool,
}

/// The missed pods of one owner.
#[derive(Default)]
struct Group<'a> {
    owner: Option<(&'a str, &'a OwnerReference)>,
    held: usize,
    running: usize,
    replaced: usize,
    ungated: BTreeMap<String, usize>,
    left: BTreeMap<String, usize>,
}

// === impl Reporter ===

impl Reporter {
    pub(super) fn new(context: Arc<Context>, recorder: EventRecorder, late: LateSender) -> Self {
        let (lines, noted, failed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            context,
            recorder,
            late,
            lines,
            noted,
            looked_for_lost: Duration::ZERO,
            failed,
            reported: false,
            absent: false,
        }
    }

    /// Reports what has changed since the last report.
    pub(super) fn report(
        &mut self,
        plan: &RepairPlan<'_>,
        snapshot: &Snapshot<'_>,
        tracker: &Tracker,
        broken: &[String],
        proven: bool,
        now: Duration,
    ) {
        self.count(plan, tracker);
        self.report_uninstalled(plan, tracker);
        if !self.reported {
            self.reported = true;
            let (pods, missed) = (snapshot.pods.len() + snapshot.others, plan.missed.len());
            info!(pods, missed, "first scan complete");
        }
        let lost = self.lost(now);
        let mut noted = BTreeMap::new();
        let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
        for missed in &plan.missed {
            if let Some(note) = self.note_pod(missed, &lost, now) {
                noted.insert(missed.pod.uid.clone(), note);
            }
            groups.entry(path(missed.pod)).or_default().add(missed);
        }
        self.noted = noted;
        let before = std::mem::take(&mut self.lines);
        for (path, group) in &groups {
            let line = group.line();
            let reported = before.get(path);
            if reported.is_none_or(|(reported, _)| *reported != line) {
                let (namespace, owner) = path.split_once('/').unwrap_or_default();
                info!(
                    reason = group.decisions(),
                    namespace,
                    owner,
                    held = group.held,
                    running = group.running,
                    proven,
                    audit = !self.context.acts(),
                    "pods outside the mesh"
                );
            }
            let noted = reported.and_then(|(_, noted)| *noted).filter(|noted| *noted + NOTED_AGAIN > now);
            let noted = noted.filter(|_| group.owner.is_none_or(|(_, owner)| !lost.contains(&owner.uid)));
            let noted = noted.or_else(|| self.note_owner(group).then_some(now));
            self.lines.insert(path.clone(), (line, noted));
        }
        for path in before.keys().filter(|path| !groups.contains_key(*path)) {
            let (namespace, owner) = path.split_once('/').unwrap_or_default();
            info!(namespace, owner, "no pod is outside the mesh any more");
        }
        let owners: BTreeMap<&str, &PodView> = plan
            .missed
            .iter()
            .filter_map(|missed| Some((missed.pod.owner.as_ref()?.uid.as_str(), missed.pod)))
            .collect();
        for pod in broken.iter().filter_map(|uid| owners.get(uid.as_str())) {
            self.report_breaker(pod);
        }
        self.failed.retain(|uid, _| owners.contains_key(uid.as_str()));
    }

    /// Has it looked up why these have not come, as far as there is place.
    pub(super) fn look_up(&self, late: Vec<LateReplacement>) {
        for late in late {
            if self.late.try_send(late).is_err() {
                debug!("the queue of late replacements is full");
            }
        }
    }

    /// Says that held pods will be let go because Linkerd is gone, and that they will not where it comes back.
    fn report_uninstalled(&mut self, plan: &RepairPlan<'_>, tracker: &Tracker) {
        let absent = tracker.absent_since().is_some() && !plan.held.is_empty();
        if absent && !self.absent {
            let held: usize = plan.held.values().sum();
            warn!(held, after = ?ABSENT_FOR, "no webhook configuration of Linkerd's injector: held pods will start without a proxy");
        } else if self.absent && tracker.absent_since().is_none() {
            info!("a webhook configuration of Linkerd's injector exists: held pods stay held");
        }
        self.absent = absent;
    }

    fn count(&self, plan: &RepairPlan<'_>, tracker: &Tracker) {
        let mut counts: BTreeMap<(&str, MissedState), i64> = BTreeMap::new();
        for missed in &plan.missed {
            *counts.entry((&missed.pod.namespace, missed.state)).or_default() += 1;
        }
        let counts = counts.into_iter();
        let metrics = &self.context.metrics;
        metrics.missed(counts.map(|((namespace, state), count)| (namespace.to_owned(), state.as_str(), count)));
        let held = plan.held.iter();
        metrics
            .held(held.map(|(namespace, count)| ((*namespace).to_owned(), i64::try_from(*count).unwrap_or(i64::MAX))));
        metrics.pending_repair_pods.set(i64::try_from(plan.pending).unwrap_or(i64::MAX));
        metrics.replacement_window_pods.set(i64::try_from(tracker.window()).unwrap_or(i64::MAX));
        metrics.breaker_open_owners.set(i64::try_from(tracker.open_breakers()).unwrap_or(i64::MAX));
    }

    /// Notes on a pod what becomes of it, where that is news, or was noted long ago.
    /// Returns what is noted on it now; nothing where the Event found no place, and is tried again with the next plan.
    fn note_pod(&self, missed: &Missed<'_>, lost: &BTreeSet<String>, now: Duration) -> Option<(String, Duration)> {
        let Missed { pod, state, decision } = missed;
        let text = match decision {
            Decision::Replace(method) => will(*method).to_owned(),
            Decision::Ungate(reason) => {
                format!(
                    "The controller removes the scheduling gate {GATE}, and the pod runs without a proxy: {reason}."
                )
            }
            Decision::Leave(because) => format!("The controller keeps it: {because}."),
        };
        if let Some((noted, at)) = self.noted.get(&pod.uid)
            && *noted == text
            && *at + NOTED_AGAIN > now
            && !lost.contains(&pod.uid)
        {
            return Some((text, *at));
        }
        let audit = if self.context.acts() { "" } else { " (Audit mode: not executed.)" };
        let taken = self.recorder.note(|| Note {
            subject: EventSubject::pod(pod),
            warning: true,
            reason: OUTSIDE_MESH,
            message: format!(
                "This pod requests injection and was created without a proxy; {}. {text}{audit} {}",
                match state {
                    MissedState::Held if pod.scheduling_gate.is_some() => Outside::Gated,
                    MissedState::Held => Outside::NotStarted,
                    MissedState::Running => Outside::Running,
                },
                next_command(missed)
            ),
        });
        taken.then_some((text, now))
    }

    /// Whose Events were lost, and are to be written again, now and then.
    fn lost(&mut self, now: Duration) -> BTreeSet<String> {
        if now < self.looked_for_lost + LOST_AGAIN {
            return BTreeSet::new();
        }
        self.looked_for_lost = now;
        self.recorder.take_dropped()
    }

    /// Whether there is nothing left to note on it.
    fn note_owner(&self, group: &Group<'_>) -> bool {
        let Some((namespace, owner)) = group.owner else { return true };
        let Some(subject) = subject_of(namespace, owner) else { return true };
        self.recorder.note(|| Note {
            subject,
            warning: true,
            reason: "PodsOutsideMesh",
            message: format!(
                "{}. For each pod's reason: kubectl get events --namespace {namespace} --field-selector reason=OutsideMesh",
                capital(&group.line())
            ),
        })
    }

    fn report_breaker(&self, pod: &PodView) {
        let Some(owner) = &pod.owner else { return };
        let namespace = &pod.namespace;
        let held = if pod.scheduling_gate.is_some() {
            " Its pods stay held. A webhook or policy that runs after Linkerd's may set the annotation linkerd.io/inject too late: \
             kubectl get mutatingwebhookconfigurations,mutatingadmissionpolicies."
        } else {
            ""
        };
        let message = format!(
            "Three replacements of {owner}'s pods came back without a proxy, though injection is proven. The controller pauses \
             {owner} for an hour, or until Linkerd's webhook changes.{held} The injector's reason: kubectl get events --namespace \
             {namespace} --field-selector reason=InjectionSkipped. The rule: kubectl get pod {} --namespace {namespace} --output \
             yaml | linkerd-gate explain -f -",
            pod.name
        );
        warn!(namespace, owner = %owner, pod = pod.name, "owner paused: three replacements came back without a proxy");
        let subject = subject_of(namespace, owner).unwrap_or_else(|| EventSubject::pod(pod));
        self.recorder.note(|| Note { subject, warning: true, reason: "ReplacementsOutsideMesh", message });
    }

    /// Tells what became of a gate that was to come off.
    pub(super) fn ungated(&self, ungate: &Ungate, outcome: &WriteOutcome) {
        let Ungate { namespace, name: pod, reason: because, .. } = ungate;
        let (warning, reason, message) = match outcome {
            WriteOutcome::Done if because.is_bare() => {
                warn!(namespace, pod, reason = %because, "removed the scheduling gate: the pod starts without a proxy");
                let message =
                    format!("Removed the scheduling gate {GATE}, because {because}: the pod starts without a proxy.");
                (true, "ReleasedWithoutProxy", message)
            }
            WriteOutcome::Done => {
                info!(namespace, pod, reason = %because, "removed the scheduling gate");
                (false, "Released", format!("Removed the scheduling gate {GATE}, because {because}."))
            }
            WriteOutcome::Conflict => {
                info!(namespace, pod, "scheduling gate not removed: the pod changed; planning again");
                return;
            }
            WriteOutcome::Refused(why) | WriteOutcome::Failed(why) => {
                warn!(namespace, pod, error = why, "cannot remove the scheduling gate; retrying");
                let message = format!("Cannot remove the scheduling gate {GATE}: {why}. The controller retries.");
                (true, "ReleaseFailed", message)
            }
        };
        let subject = EventSubject::pod_named(&ungate.namespace, &ungate.name, &ungate.uid);
        self.recorder.note(|| Note { subject, warning, reason, message });
    }

    /// Tells what became of an act.
    pub(super) fn acted(&mut self, action: &Action, outcome: &WriteOutcome, now: Duration) {
        let (namespace, owner, pod) = (&action.namespace, &action.owner, pod_of(action));
        let (done, doing) = description(&action.operation);
        let uid = &owner.uid;
        let object = pod.map_or_else(|| owner.to_string(), |pod| format!("{pod} of {owner}"));
        let (warning, reason, message) = match outcome {
            WriteOutcome::Done => {
                self.failed.remove(uid);
                info!(namespace, pod, owner = %owner, "{done}");
                if action.operation.removes().is_none() {
                    return;
                }
                (false, REPLACING, event_text::replacing(&capital(done), &object, held_since(action)))
            }
            WriteOutcome::Conflict => {
                info!(namespace, pod, owner = %owner, "{doing}: the object changed; planning again");
                return;
            }
            WriteOutcome::Refused(why) | WriteOutcome::Failed(why) => {
                let (reason, how) = match outcome {
                    WriteOutcome::Refused(_) => ("ReplacementRefused", "refused for now; retrying"),
                    _ => ("ReplacementFailed", "failed; retrying"),
                };
                let (before, cause) = (self.failed.get(uid), format!("{reason}: {}", cause(why)));
                if before.is_some_and(|(before, at)| *before == cause && *at + FAILED_AGAIN > now) {
                    return;
                }
                self.failed.insert(uid.clone(), (cause, now));
                warn!(namespace, pod, owner = %owner, error = why, "{doing}: {how}");
                (true, reason, format!("{}: {object}: {why}. The controller retries.", capital(doing)))
            }
        };
        if let Some(subject) = subject_of(&action.namespace, &action.owner) {
            self.recorder.note(|| Note { subject, warning, reason, message });
        }
    }
}

// === impl Group ===

impl<'a> Group<'a> {
    fn add(&mut self, missed: &Missed<'a>) {
        let pod: &'a PodView = missed.pod;
        self.owner = pod.owner.as_ref().map(|owner| (pod.namespace.as_str(), owner));
        match missed.state {
            MissedState::Held => self.held += 1,
            MissedState::Running => self.running += 1,
        }
        match &missed.decision {
            Decision::Replace(_) => self.replaced += 1,
            Decision::Ungate(reason) => *self.ungated.entry(reason.to_string()).or_default() += 1,
            Decision::Leave(because) => *self.left.entry(because.to_string()).or_default() += 1,
        }
    }

    /// "3 pods are outside the mesh (2 held, 1 running): 2 to replace; 1 stays: …"
    fn line(&self) -> String {
        let all = self.held + self.running;
        let are = if all == 1 { "pod is" } else { "pods are" };
        format!("{all} {are} outside the mesh ({} held, {} running): {}", self.held, self.running, self.decisions())
    }

    /// "2 to replace; 1 stays: …"
    fn decisions(&self) -> String {
        let replaced = (self.replaced > 0).then(|| format!("{} to replace", self.replaced));
        let ungated =
            self.ungated.iter().map(|(reason, count)| format!("{count} to release without a proxy: {reason}"));
        let left = self.left.iter().map(|(reason, count)| {
            let stay = if *count == 1 { "stays" } else { "stay" };
            format!("{count} {stay}: {reason}")
        });
        replaced.into_iter().chain(ungated).chain(left).collect::<Vec<_>>().join("; ")
    }
}

/// Where a pod belongs in the log.
fn path(pod: &PodView) -> String {
    match &pod.owner {
        Some(owner) => format!("{}/{owner}", pod.namespace),
        None => format!("{}/Pod {}", pod.namespace, pod.name),
    }
}

fn will(method: Method) -> &'static str {
    match method {
        Method::Delete => "Once injection is proven, the controller deletes it, and its owner creates it again.",
        Method::Untrack => {
            "Once injection is proven, the controller deletes it without its Job counting it, and its Job creates it again."
        }
        Method::Evict => "Once injection is proven, the controller evicts it, and its owner creates it again.",
        Method::Suspend => {
            "The controller suspends its Job now, which ends the pod and stops the Job's deadline, and resumes the Job once injection \
             is proven."
        }
    }
}

/// The next command for a person: one that does no harm.
fn next_command(missed: &Missed<'_>) -> String {
    let PodView { namespace, name, owner, .. } = missed.pod;
    let explain =
        format!("The rule: kubectl get pod {name} --namespace {namespace} --output yaml | linkerd-gate explain -f -");
    let recreate = || {
        format!(
            "It has no owner: once Linkerd injects, linkerd-gate recreate pod/{name} -n {namespace}; to run it without a \
             proxy, linkerd-gate release pod/{name} -n {namespace}. {explain}"
        )
    };
    match (owner.as_ref().map(|owner| &owner.kind), missed.state) {
        (None, MissedState::Held) if missed.pod.scheduling_gate.is_some() => recreate(),
        (None, _) => format!("It has no owner: create it again yourself once Linkerd injects. {explain}"),
        (Some(Kind::Other(_)), _) => explain,
        (Some(Kind::Job), MissedState::Held) if missed.pod.scheduling_gate.is_some() => {
            format!("To run it without a proxy: linkerd-gate release pod/{name} -n {namespace}. {explain}")
        }
        (Some(Kind::Job), _) => format!("A deletion counts against its Job's backoffLimit. {explain}"),
        (Some(_), MissedState::Held) => {
            format!("To replace it yourself, once Linkerd injects: kubectl delete pod {name} --namespace {namespace}")
        }
        (Some(_), MissedState::Running) => format!(
            "To replace it yourself, once Linkerd injects: kubectl rollout restart of its workload, or kubectl delete pod {name} \
             --namespace {namespace}"
        ),
    }
}

/// What a reason begins with: what follows may name a made-up pod, or count.
fn cause(why: &str) -> &str {
    let end = why.match_indices(": ").nth(1).map_or(why.len(), |(at, _)| at);
    &why[..end]
}

/// An operation in description that never vary: after it, and before it.
const fn description(operation: &Operation) -> (&'static str, &'static str) {
    match operation {
        Operation::Delete(_) => ("deleted pod", "delete pod"),
        Operation::Untrack { .. } => ("deleted pod uncounted by its Job", "delete pod uncounted by its Job"),
        Operation::Evict(_) => ("evicted pod", "evict pod"),
        Operation::Suspend { .. } => ("suspended Job", "suspend Job"),
        Operation::Resume { .. } => ("resumed Job", "resume Job"),
    }
}

/// The pod of an action; none of one about a Job.
fn pod_of(action: &Action) -> Option<&str> {
    match &action.operation {
        Operation::Delete([target]) | Operation::Untrack { target: [target], .. } | Operation::Evict([target]) => {
            Some(&target.name)
        }
        Operation::Suspend { .. } | Operation::Resume { .. } => None,
    }
}

/// Since when the gate holds the pod of an action, where it does.
fn held_since(action: &Action) -> Option<Timestamp> {
    match &action.operation {
        Operation::Delete([target]) | Operation::Untrack { target: [target], .. } | Operation::Evict([target]) => {
            target.held_since
        }
        Operation::Suspend { .. } | Operation::Resume { .. } => None,
    }
}

/// Logs an action that audit mode does not execute.
pub(super) fn not_executed(action: &Action) {
    let (_, doing) = description(&action.operation);
    info!(namespace = action.namespace, pod = pod_of(action), owner = %action.owner, "audit mode: not executed: {doing}");
}

/// Logs an action that was planned and is not sent.
pub(super) fn dropped(action: &Action, why: Dropped) {
    let (_, operation) = description(&action.operation);
    let (namespace, pod, owner) = (&action.namespace, pod_of(action), &action.owner);
    info!(operation, namespace, pod, owner = %owner, reason = %why, "action dropped before it was sent");
}

/// The same of a gate that was to come off.
pub(super) fn ungate_dropped(ungate: &Ungate, why: Dropped) {
    let (namespace, pod) = (&ungate.namespace, &ungate.name);
    info!(operation = "remove scheduling gate", namespace, pod, reason = %why, "action dropped before it was sent");
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
