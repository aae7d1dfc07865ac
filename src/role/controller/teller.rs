//! What is told of missed pods: one log line for each change of mind, Events on pods and owners, metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Context;
use super::scribe::{Note, Scribe};
use crate::cluster::event::Subject;
use crate::decide::repair::{
    Act, Action, Disposition, Facts, Kind, Memory, Missed, Outcome, OwnerReference, Plan, PodView, State, Way,
};

/// Events are kept for an hour: what still holds is noted again before they are gone.
const NOTED_AGAIN: Duration = Duration::from_mins(45);

/// How soon what was lost is noted again: an API server that takes no Events at all is not to be asked more often.
const LOST_AGAIN: Duration = Duration::from_mins(2);

/// How often it is said of an owner that an act did not succeed.
const FAILED_AGAIN: Duration = Duration::from_mins(10);

/// What was told.
pub(super) struct Teller {
    context: Arc<Context>,
    scribe: Scribe,
    /// The last line of each owner, or pod without one, by `namespace/owner`, and when an Event said so, if one did.
    lines: BTreeMap<String, (String, Option<Duration>)>,
    /// What was last noted on each pod, by uid, and when. What found no place among the Events is not there.
    noted: BTreeMap<String, (String, Duration)>,
    /// When it was looked last which Events were lost.
    looked_for_lost: Duration,
    /// When it was last said that an act did not succeed, by the owner's uid, and how.
    failed: BTreeMap<String, (&'static str, Duration)>,
    /// Whether the first report is out.
    reported: bool,
}

/// The missed pods of one owner.
#[derive(Default)]
struct Group<'a> {
    owner: Option<(&'a str, &'a OwnerReference)>,
    held: usize,
    running: usize,
    replaced: usize,
    left: BTreeMap<String, usize>,
}

// === impl Teller ===

impl Teller {
    pub(super) fn new(context: Arc<Context>, scribe: Scribe) -> Self {
        let (lines, noted, failed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { context, scribe, lines, noted, looked_for_lost: Duration::ZERO, failed, reported: false }
    }

    /// Tells what has changed since it was told last.
    pub(super) fn tell(
        &mut self,
        plan: &Plan<'_>,
        facts: &Facts<'_>,
        memory: &Memory,
        broken: &[String],
        proven: bool,
        now: Duration,
    ) {
        self.count(plan, memory);
        if !self.reported {
            self.reported = true;
            let (pods, missed) = (facts.pods.len(), plan.missed.len());
            info!("looked at {pods} pods: {missed} are outside the mesh that ask for it");
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
            let told = before.get(path);
            if told.is_none_or(|(told, _)| *told != line) {
                let waiting = if proven || group.replaced == 0 { "" } else { ", once injection is proven" };
                let audit = if self.context.acts() { "" } else { " (not really: audit)" };
                info!("{path}: {line}{waiting}{audit}");
            }
            let noted = told.and_then(|(_, noted)| *noted).filter(|noted| *noted + NOTED_AGAIN > now);
            let noted = noted.filter(|_| group.owner.is_none_or(|(_, owner)| !lost.contains(&owner.uid)));
            let noted = noted.or_else(|| self.note_owner(group).then_some(now));
            self.lines.insert(path.clone(), (line, noted));
        }
        for path in before.keys().filter(|path| !groups.contains_key(*path)) {
            info!("{path}: no pod is outside the mesh any more");
        }
        let owners: BTreeMap<&str, &PodView> = plan
            .missed
            .iter()
            .filter_map(|missed| Some((missed.pod.owner.as_ref()?.uid.as_str(), missed.pod)))
            .collect();
        for pod in broken.iter().filter_map(|uid| owners.get(uid.as_str())) {
            self.tell_of_loop(pod);
        }
        self.failed.retain(|uid, _| owners.contains_key(uid.as_str()));
    }

    fn count(&self, plan: &Plan<'_>, memory: &Memory) {
        let mut counts: BTreeMap<(&str, State), i64> = BTreeMap::new();
        for missed in &plan.missed {
            *counts.entry((&missed.pod.namespace, missed.state)).or_default() += 1;
        }
        let counts = counts.into_iter();
        let metrics = &self.context.metrics;
        metrics.missed(counts.map(|((namespace, state), count)| (namespace.to_owned(), state.as_str(), count)));
        metrics.broken_owners.set(i64::try_from(memory.broken()).unwrap_or(i64::MAX));
    }

    /// Notes on a pod what becomes of it, where that is news, or was noted long ago.
    /// Returns what is noted on it now; nothing where the Event found no place, and is tried again with the next plan.
    fn note_pod(&self, missed: &Missed<'_>, lost: &BTreeSet<String>, now: Duration) -> Option<(String, Duration)> {
        let Missed { pod, state, disposition } = missed;
        let text = match disposition {
            Disposition::Replace(way) => will(*way).to_owned(),
            Disposition::Leave(because) => format!("It stays as it is: {because}."),
        };
        if let Some((noted, at)) = self.noted.get(&pod.uid)
            && *noted == text
            && *at + NOTED_AGAIN > now
            && !lost.contains(&pod.uid)
        {
            return Some((text, *at));
        }
        let audit = if self.context.acts() { "" } else { " (Not really: LINKERD_GATE_MODE=audit.)" };
        let taken = self.scribe.note(|| Note {
            subject: Subject::pod(pod),
            warning: true,
            reason: "OutsideMesh",
            message: format!(
                "This pod asks for Linkerd and was created without its proxy; {}. {text}{audit} {}",
                match state {
                    State::Held => "nothing in it has started yet",
                    State::Running => "it runs, or may run, outside the mesh",
                },
                by_hand(missed)
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
        self.scribe.take_lost()
    }

    /// Whether there is nothing left to note on it.
    fn note_owner(&self, group: &Group<'_>) -> bool {
        let Some((namespace, owner)) = group.owner else { return true };
        let Some(subject) = subject_of(namespace, owner) else { return true };
        self.scribe.note(|| Note {
            subject,
            warning: true,
            reason: "PodsOutsideMesh",
            message: format!(
                "{}. Why each: kubectl get events --namespace {namespace} --field-selector reason=OutsideMesh",
                capital(&group.line())
            ),
        })
    }

    fn tell_of_loop(&self, pod: &PodView) {
        let Some(owner) = &pod.owner else { return };
        let namespace = &pod.namespace;
        let message = format!(
            "What {owner} made instead of pods without Linkerd's proxy came back without it three times, though injection is \
             proven. It is left alone for an hour, or until Linkerd's webhook changes. What the injector says of it: kubectl get \
             events --namespace {namespace} --field-selector reason=InjectionSkipped; what its rules say: kubectl get pod {} \
             --namespace {namespace} --output yaml | linkerd-gate explain -f -",
            pod.name
        );
        warn!("{namespace}/{owner}: {message}");
        let subject = subject_of(namespace, owner).unwrap_or_else(|| Subject::pod(pod));
        self.scribe.note(|| Note { subject, warning: true, reason: "ReplacementsOutsideMesh", message });
    }

    /// Tells what became of an act.
    pub(super) fn acted(&mut self, action: &Action, outcome: &Outcome, now: Duration) {
        let words = words(action);
        let uid = &action.owner.uid;
        let (warning, reason, message) = match outcome {
            Outcome::Done => {
                self.failed.remove(uid);
                info!("{words}: done");
                if action.act.removes().is_none() {
                    return;
                }
                (false, "Replacing", capital(&words))
            }
            Outcome::Overtaken => {
                info!("{words}: it has changed meanwhile, and is looked at anew");
                return;
            }
            Outcome::Refused(why) | Outcome::Failed(why) => {
                let (reason, told) = match outcome {
                    Outcome::Refused(_) => ("ReplacementRefused", "not allowed now, tried again"),
                    _ => ("ReplacementFailed", "failed, tried again"),
                };
                let before = self.failed.get(uid);
                if before.is_some_and(|(before, at)| *before == reason && *at + FAILED_AGAIN > now) {
                    return;
                }
                self.failed.insert(uid.clone(), (reason, now));
                warn!("{words}: {told}: {why}");
                (true, reason, format!("{}: {why}. It is tried again.", capital(&words)))
            }
        };
        if let Some(subject) = subject_of(&action.namespace, &action.owner) {
            self.scribe.note(|| Note { subject, warning, reason, message });
        }
    }
}

// === impl Group ===

impl<'a> Group<'a> {
    fn add(&mut self, missed: &Missed<'a>) {
        let pod: &'a PodView = missed.pod;
        self.owner = pod.owner.as_ref().map(|owner| (pod.namespace.as_str(), owner));
        match missed.state {
            State::Held => self.held += 1,
            State::Running => self.running += 1,
        }
        match &missed.disposition {
            Disposition::Replace(_) => self.replaced += 1,
            Disposition::Leave(because) => *self.left.entry(because.to_string()).or_default() += 1,
        }
    }

    /// "3 pods are outside the mesh (2 held, 1 running): 2 are replaced; 1 stays: …"
    fn line(&self) -> String {
        let all = self.held + self.running;
        let are = if all == 1 { "pod is" } else { "pods are" };
        let mut line = format!("{all} {are} outside the mesh ({} held, {} running)", self.held, self.running);
        let mut separator = ": ";
        if self.replaced > 0 {
            let are = if self.replaced == 1 { "is" } else { "are" };
            let _infallible = write!(line, "{separator}{} {are} replaced", self.replaced);
            separator = "; ";
        }
        for (because, count) in &self.left {
            let stay = if *count == 1 { "stays" } else { "stay" };
            let _infallible = write!(line, "{separator}{count} {stay}: {because}");
            separator = "; ";
        }
        line
    }
}

/// Where a pod belongs in the log.
fn path(pod: &PodView) -> String {
    match &pod.owner {
        Some(owner) => format!("{}/{owner}", pod.namespace),
        None => format!("{}/Pod {}", pod.namespace, pod.name),
    }
}

fn will(way: Way) -> &'static str {
    match way {
        Way::Delete => "It is deleted, so that its owner makes it anew, as soon as injection is proven.",
        Way::Evict => "It is evicted, so that its owner makes it anew, when injection is proven and its turn comes.",
        Way::Suspend => "Its Job is suspended and resumed, so that it is made anew, as soon as injection is proven.",
    }
}

/// What a person can do about it: a command that does no harm where it is pasted without a thought.
fn by_hand(missed: &Missed<'_>) -> String {
    let PodView { namespace, name, owner, .. } = missed.pod;
    let explain = format!(
        "Why it asks: kubectl get pod {name} --namespace {namespace} --output yaml | linkerd-gate explain -f -"
    );
    match (owner.as_ref().map(|owner| &owner.kind), missed.state) {
        (None, _) => format!("Nothing makes it anew: create it again once Linkerd injects. {explain}"),
        (Some(Kind::Other(_)), _) => explain,
        (Some(Kind::Job), _) => format!("A deletion counts against its Job's backoffLimit. {explain}"),
        (Some(_), State::Held) => {
            format!("By hand, once Linkerd injects: kubectl delete pod {name} --namespace {namespace}")
        }
        (Some(_), State::Running) => format!(
            "By hand, once Linkerd injects and when it suits you: kubectl rollout restart of its workload, or kubectl delete \
             pod {name} --namespace {namespace}"
        ),
    }
}

/// An owner to tell of: our policy lets us tell of the kinds that we know, and of no others.
fn subject_of(namespace: &str, owner: &OwnerReference) -> Option<Subject> {
    (!matches!(owner.kind, Kind::Other(_))).then(|| Subject::owner(namespace, owner))
}

/// An act in words: "delete pod shop/web-1, which never started".
pub(super) fn words(action: &Action) -> String {
    let (namespace, owner) = (&action.namespace, &action.owner);
    match &action.act {
        Act::Delete([target]) => format!("delete pod {namespace}/{} of {owner}, which never started", target.name),
        Act::Evict([target]) => format!("evict pod {namespace}/{} of {owner}, which is {}", target.name, target.state),
        Act::Suspend { pods, .. } => {
            format!("suspend {owner} in {namespace} for a moment, for its {} pods that never started", pods.len())
        }
        Act::Resume { .. } => format!("resume {owner} in {namespace}"),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
