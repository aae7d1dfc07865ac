//! What is told of missed pods: one log line for each change of mind, Events on pods and owners, metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use tracing::{info, warn};

use super::Context;
use super::scribe::{Note, Scribe};
use crate::cluster::event::Subject;
use crate::decide::repair::{
    Act, Action, Disposition, Facts, Kind, Memory, Missed, Outcome, OwnerReference, Plan, PodView, State, Way,
};

/// What was told.
pub(super) struct Teller {
    context: Arc<Context>,
    scribe: Scribe,
    /// The last line of each owner, or pod without one, by `namespace/owner`.
    lines: BTreeMap<String, String>,
    /// What was last noted on each pod, by uid.
    noted: BTreeMap<String, String>,
    /// What was last said of an act that did not succeed, by the owner's uid.
    failed: BTreeMap<String, String>,
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
        Self { context, scribe, lines, noted, failed, reported: false }
    }

    /// Tells what has changed since it was told last.
    pub(super) fn tell(
        &mut self,
        plan: &Plan<'_>,
        facts: &Facts<'_>,
        memory: &Memory,
        broken: &[String],
        proven: bool,
    ) {
        self.count(plan, memory);
        if !self.reported {
            self.reported = true;
            let (pods, missed) = (facts.pods.len(), plan.missed.len());
            info!("looked at {pods} pods: {missed} are outside the mesh that ask for it");
        }
        let mut noted = BTreeMap::new();
        let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
        for missed in &plan.missed {
            let text = self.note_pod(missed);
            noted.insert(missed.pod.uid.clone(), text);
            groups.entry(path(missed.pod)).or_default().add(missed);
        }
        self.noted = noted;
        let before = std::mem::take(&mut self.lines);
        for (path, group) in &groups {
            let line = group.line();
            if before.get(path) != Some(&line) {
                let waiting = if proven || group.replaced == 0 { "" } else { ", once injection is proven" };
                info!("{path}: {line}{waiting}");
            }
            if !before.contains_key(path) {
                self.note_owner(group);
            }
            self.lines.insert(path.clone(), line);
        }
        for path in before.keys().filter(|path| !groups.contains_key(*path)) {
            info!("{path}: no pod is outside the mesh any more");
        }
        for uid in broken {
            self.tell_of_loop(uid, facts);
        }
        self.failed.retain(|uid, _| facts.owners.iter().any(|owner| owner.reference.uid == *uid));
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

    /// Notes on a pod what becomes of it, where that is news.
    fn note_pod(&self, missed: &Missed<'_>) -> String {
        let Missed { pod, state, disposition } = missed;
        let text = match disposition {
            Disposition::Replace(way) => will(*way, *state).to_owned(),
            Disposition::Leave(because) => format!("It stays as it is: {because}."),
        };
        if self.noted.get(&pod.uid) != Some(&text) {
            let (namespace, name) = (&pod.namespace, &pod.name);
            let by_hand = format!("kubectl delete pod {name} --namespace {namespace}");
            let audit = if self.context.acts() { "" } else { " (Not really: LINKERD_GATE_MODE=audit.)" };
            self.scribe.note(Note {
                subject: Subject::pod(pod),
                warning: true,
                reason: "OutsideMesh",
                message: format!(
                    "This pod asks for Linkerd and was created without its proxy; {}. {text}{audit} By hand: {by_hand}",
                    match state {
                        State::Held => "nothing in it has started yet",
                        State::Running => "it runs, or may run, outside the mesh",
                    }
                ),
            });
        }
        text
    }

    fn note_owner(&self, group: &Group<'_>) {
        let Some((namespace, owner)) = group.owner else { return };
        // Our policy lets us tell of what we know, and nothing else.
        if matches!(owner.kind, Kind::Other(_)) {
            return;
        }
        self.scribe.note(Note {
            subject: Subject::owner(namespace, owner),
            warning: true,
            reason: "PodsOutsideMesh",
            message: format!(
                "{}. Why each: kubectl get events --namespace {namespace} --field-selector reason=OutsideMesh",
                capital(&group.line())
            ),
        });
    }

    fn tell_of_loop(&self, uid: &str, facts: &Facts<'_>) {
        let Some(owner) = facts.owners.iter().find(|owner| owner.reference.uid == *uid) else { return };
        let (namespace, reference) = (&owner.namespace, &owner.reference);
        let message = format!(
            "What {reference} made instead of pods without Linkerd's proxy came back without it three times, though injection is \
             proven. It is left alone for an hour, or until Linkerd's webhook changes. See what the injector says of it: kubectl \
             get events --namespace {namespace} --field-selector involvedObject.name={}",
            reference.name
        );
        warn!("{namespace}/{reference}: {message}");
        let subject = Subject::owner(namespace, reference);
        self.scribe.note(Note { subject, warning: true, reason: "ReplacementsOutsideMesh", message });
    }

    /// Tells what became of an act.
    pub(super) fn acted(&mut self, action: &Action, outcome: &Outcome) {
        let words = words(action);
        match outcome {
            Outcome::Done => {
                self.failed.remove(&action.owner.uid);
                info!("{words}: done");
                if action.act.removes().is_some() {
                    self.scribe.note(Note {
                        subject: Subject::owner(&action.namespace, &action.owner),
                        warning: false,
                        reason: "Replacing",
                        message: capital(&words),
                    });
                }
            }
            Outcome::Overtaken => info!("{words}: it has changed meanwhile, and is looked at anew"),
            Outcome::Refused(why) | Outcome::Failed(why) => {
                let refused = matches!(outcome, Outcome::Refused(_));
                if self.failed.get(&action.owner.uid) == Some(why) {
                    return;
                }
                self.failed.insert(action.owner.uid.clone(), why.clone());
                warn!(
                    "{words}: {}: {why}",
                    if refused { "not allowed now, tried again" } else { "failed, tried again" }
                );
                self.scribe.note(Note {
                    subject: Subject::owner(&action.namespace, &action.owner),
                    warning: true,
                    reason: if refused { "ReplacementRefused" } else { "ReplacementFailed" },
                    message: format!("{}: {why}. It is tried again.", capital(&words)),
                });
            }
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

fn will(way: Way, state: State) -> &'static str {
    match (way, state) {
        (Way::Delete, _) => "It is deleted, so that its owner makes it anew, as soon as injection is proven.",
        (Way::Evict, _) => {
            "It is evicted, so that its owner makes it anew, when injection is proven and its turn comes."
        }
        (Way::Suspend, _) => {
            "Its Job is suspended and resumed, so that it is made anew, as soon as injection is proven."
        }
    }
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
