//! What happened: values only, for the table and the picture.

use crate::story::{self, Part, Variant};
use std::{fmt::Write as _, time::Duration};

/// One boot, as it went.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Which boot.
    pub variant: Variant,
    /// One for each pod of the story, in its order.
    pub pods: Vec<PodLine>,
    /// When each part of Linkerd began or ceased to answer.
    pub linkerd: Vec<(Duration, Part, bool)>,
    /// What the controller logged; empty without one.
    pub logged: Vec<String>,
}

/// One pod, its re-creation included.
#[derive(Clone, Debug)]
pub struct PodLine {
    /// Its workload's name.
    pub name: &'static str,
    /// Its states one after the other, each until the next; the last until the end.
    pub states: Vec<(Duration, State)>,
    /// When its owner created another in its place.
    pub created_again: Option<Duration>,
}

/// What a pod is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The API server holds it, without a proxy: its app has not started.
    Held,
    /// It has a proxy, which has no certificate yet: its app has not started.
    Certifying,
    /// Its app runs, without a proxy.
    Outside,
    /// Its app runs beside a certified proxy.
    Inside,
}

/// The numbers that the two boots are compared by.
pub fn table(without: &Timeline, with: &Timeline) -> String {
    let rows = [
        ("workloads, each with one pod", count(without.pods.len()), count(with.pods.len())),
        ("apps started outside the mesh", count(without.started_outside()), count(with.started_outside())),
        ("apps in the mesh at the end", count(without.inside()), count(with.inside())),
        ("pods held, deleted and created again", count(without.created_again()), count(with.created_again())),
        (
            "from Linkerd ready to the last held pod's app in the mesh",
            delay(without.last_early_pod_inside()),
            delay(with.last_early_pod_inside()),
        ),
    ];
    let mut text = format!("{:58}{:>22}{:>19}\n", "", "without linkerd-gate", "with linkerd-gate");
    for (what, without, with) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{what:58}{without:>22}{with:>19}");
    }
    text
}

fn count(number: usize) -> String {
    number.to_string()
}

fn delay(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "never".to_owned(), |duration| format!("{:.2} s", duration.as_secs_f64()))
}

// === impl Timeline ===

impl Timeline {
    /// Apps that started without a proxy.
    pub fn started_outside(&self) -> usize {
        self.pods.iter().filter(|pod| pod.states.iter().any(|(_, state)| *state == State::Outside)).count()
    }

    /// Apps that run beside a proxy at the end.
    pub fn inside(&self) -> usize {
        self.pods.iter().filter(|pod| pod.inside_since().is_some()).count()
    }

    /// Pods that were created twice.
    pub fn created_again(&self) -> usize {
        self.pods.iter().filter(|pod| pod.created_again.is_some()).count()
    }

    /// How long after Linkerd was ready the last of the pods created before then was in the mesh; `None` where one never was.
    pub fn last_early_pod_inside(&self) -> Option<Duration> {
        let early = self.pods.iter().filter(|pod| pod.created() < story::READY);
        let since: Option<Vec<Duration>> = early.map(PodLine::inside_since).collect();
        Some(since?.into_iter().max()?.saturating_sub(story::READY))
    }
}

// === impl PodLine ===

impl PodLine {
    /// When it was created, the first time.
    pub fn created(&self) -> Duration {
        self.states.first().map_or(Duration::MAX, |(at, _)| *at)
    }

    /// Since when its app has been running in the mesh.
    pub fn inside_since(&self) -> Option<Duration> {
        self.states.last().filter(|(_, state)| *state == State::Inside).map(|(at, _)| *at)
    }
}
