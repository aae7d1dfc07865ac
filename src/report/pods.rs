//! What became of pods: held, created again, refused, outside the mesh.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;

use super::Facts;
use super::facts::{EventFact, PodKey};
use super::model::{OfNamespace, Outside, Pods, Step};
use super::phrase::between;
use crate::check::clean::clean_whole;
use crate::check::{Survey, clean};
use crate::decide::repair::event_text::{self, OUTSIDE_MESH, REPLACING, Replaced};

/// A pod that was held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Since when; nothing where only its removal is known.
    pub since: Option<Timestamp>,
    /// Until when; nothing where it still is, or where that is not known.
    pub until: Option<Timestamp>,
    /// Whether it still is.
    pub still: bool,
    /// What makes it, as `replicaset/web -n shop`, where that is known.
    pub owner: Option<String>,
}

/// Everything about pods that the other parts of a report are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// Pods that were held.
    pub held: BTreeMap<PodKey, Held>,
    /// Pods that were removed so that they are created again: of which owner, and when.
    pub replaced: Vec<(String, Timestamp)>,
    /// Meshed pods of their owners, created since: when each started its first container.
    pub again: Vec<Option<Timestamp>>,
}

impl Story {
    /// What Events, and the pods that are there, say.
    pub fn of(events: &[EventFact], facts: &Facts) -> Self {
        let mut story = Self::default();
        let mut owners: BTreeMap<&str, Timestamp> = BTreeMap::new();
        // First the earliest, whatever order the API server has.
        let mut events: Vec<&EventFact> = events.iter().collect();
        events.sort_by_key(|event| event.at);
        for event in events {
            match event.reason.as_str() {
                OUTSIDE_MESH if is_held(event) => {
                    let key = PodKey { namespace: event.namespace.clone(), name: event.name.clone() };
                    let held = story.held.entry(key).or_default();
                    held.since = held.since.or(Some(event.at));
                }
                REPLACING => {
                    let Some(Replaced { pod, held_since }) = Replaced::read(&event.message) else { continue };
                    let key = PodKey { namespace: event.namespace.clone(), name: pod };
                    let owner = path(event);
                    if held_since.is_some() || story.held.contains_key(&key) {
                        let held = story.held.entry(key).or_default();
                        held.owner = Some(owner.clone());
                        held.since = [held.since, held_since].into_iter().flatten().min();
                        held.until = Some(event.at);
                    }
                    let first = owners.entry(&event.uid).or_insert(event.at);
                    *first = event.at.min(*first);
                    story.replaced.push((owner, event.at));
                }
                _ => {}
            }
        }
        let Ok(pods) = &facts.pods else { return story };
        for (key, owner, created) in &pods.held {
            let owner = Some(clean(&owner.to_string()));
            story.held.insert(key.clone(), Held { since: Some(*created), until: None, still: true, owner });
        }
        let again = |pod: &&super::facts::MeshedPod| {
            owners.get(pod.owner_uid.as_str()).is_some_and(|removed| pod.created >= *removed)
        };
        story.again = pods.meshed.iter().filter(again).map(|pod| pod.started).collect();
        story
    }

    /// The numbers.
    pub fn count(&self, events: &[EventFact], facts: &Facts) -> Pods {
        let refused = events.iter().filter(|event| event.reason == "FailedCreate");
        let lasted = |held: &Held| {
            let until = held.until.or_else(|| held.still.then_some(facts.now))?;
            Some(between(held.since?, until).max(0))
        };
        let pods = facts.pods.as_ref().ok();
        Pods {
            held: self.held.len(),
            held_now: pods.map(|pods| pods.held.len()),
            held_seconds_max: self.held.values().filter_map(lasted).max(),
            replaced: self.replaced.len(),
            created_again_meshed: pods.map(|_| self.again.len().min(self.replaced.len())),
            last_started: self.again.iter().flatten().max().copied(),
            refused_creates: refused.map(|event| event.count).sum(),
            released_without_proxy: distinct(events.iter().filter(|event| is_bare(event))),
            running_outside: pods.map(|pods| running(&pods.survey)),
            meshed: pods.map(|pods| pods.survey.meshed),
            held_over_time: self.over_time(),
        }
    }

    /// How many pods were held when: only those of which the beginning is known, and the end where there was one.
    fn over_time(&self) -> Vec<Step> {
        let mut changes: BTreeMap<Timestamp, (usize, usize)> = BTreeMap::new();
        for held in self.held.values() {
            let Some(since) = held.since else { continue };
            match held.until {
                Some(until) => changes.entry(until.max(since)).or_default().1 += 1,
                None if held.still => {}
                None => continue,
            }
            changes.entry(since).or_default().0 += 1;
        }
        let mut count = 0;
        let steps = changes.into_iter().map(|(at, (begun, ended))| {
            count = count + begun - ended;
            Step { at, held: count }
        });
        steps.collect()
    }
}

/// The object of an Event, as `replicaset/web -n shop`.
pub fn path(event: &EventFact) -> String {
    format!("{}/{} -n {}", event.kind.to_lowercase(), event.name, event.namespace)
}

/// Whether nothing of a pod had started when its Event was written.
pub fn is_held(event: &EventFact) -> bool {
    matches!(
        event_text::Outside::read(&event.message),
        Some(event_text::Outside::Gated | event_text::Outside::NotStarted)
    )
}

/// Whether a pod was let go without a proxy: of a person's releases a Warning says so.
pub fn is_bare(event: &EventFact) -> bool {
    event.reason == "ReleasedWithoutProxy" || event.reason == "Released" && event.warning
}

fn distinct<'a>(events: impl Iterator<Item = &'a EventFact>) -> usize {
    events.map(|event| (&event.namespace, &event.name, &event.uid)).collect::<BTreeSet<_>>().len()
}

fn running(survey: &Survey) -> usize {
    survey.rows.values().map(|row| row.missed - row.waiting).sum()
}

/// The owners with pods outside the mesh: those with running ones first, then those with most.
pub fn outside(survey: &Survey) -> Vec<Outside> {
    let mut all: Vec<Outside> = survey
        .rows
        .iter()
        .map(|(owner, row)| {
            let mut commands = row.commands(owner);
            commands.sort_by_key(|(cost, _)| *cost);
            // A deletion of held pods leaves those that run.
            let of_held = |command: &str| command.starts_with("kubectl delete pod") && row.waiting > 0;
            if row.missed > row.waiting && commands.len() > 1 {
                commands.retain(|(cost, command)| *cost > 0 || !of_held(command));
            }
            Outside {
                namespace: clean(&owner.namespace),
                owner: format!("{}/{}", owner.kind, owner.name),
                running: row.missed - row.waiting,
                held: row.waiting,
                why: clean(&row.reason()),
                next: commands.into_iter().next().map(|(_, command)| clean_whole(&command)).unwrap_or_default(),
            }
        })
        .collect();
    all.sort_by(|one, other| {
        let order = |it: &Outside| (std::cmp::Reverse(it.running), std::cmp::Reverse(it.held));
        order(one).cmp(&order(other)).then_with(|| (&one.namespace, &one.owner).cmp(&(&other.namespace, &other.owner)))
    });
    all
}

/// The same, counted by namespace.
pub fn by_namespace(outside: &[Outside]) -> Vec<OfNamespace> {
    let mut all: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in outside {
        let counts = all.entry(&row.namespace).or_default();
        *counts = (counts.0 + row.running, counts.1 + row.held);
    }
    let of = |(namespace, (running, held)): (&str, _)| OfNamespace { namespace: namespace.to_owned(), running, held };
    all.into_iter().map(of).collect()
}
