//! How one pod stands.

use super::facts::Facts;
use super::view::{Life, PodView};
use crate::linkerd::{Injection, Started};
use std::fmt;

/// How a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has its proxy.
    Meshed,
    /// It has none, and should have none.
    Skipped,
    /// It is over, or going away.
    Over,
    /// It should have a proxy, and has none.
    Missed(State),
    /// Its namespace has not been seen yet.
    Unknown,
}

/// What a missed pod has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No app container has ever started, for certain.
    Held,
    /// One has, or nobody can tell.
    Running,
}

/// How `pod` stands.
pub fn standing(pod: &PodView, facts: &Facts<'_>) -> Standing {
    if matches!(pod.life, Life::Going | Life::Finished) {
        return Standing::Over;
    }
    let Some(outline) = &pod.bare else { return Standing::Meshed };
    let Some(namespace) = facts.namespaces.get(&pod.namespace) else { return Standing::Unknown };
    match outline.injection(&namespace.outline, facts.webhooks, facts.projection) {
        Injection::Inject(_) => Standing::Missed(State::of(pod.started)),
        // Where match conditions decide only the API server can tell: nobody is said to be missed.
        Injection::Conditional(_) | Injection::Skip(_) | Injection::NotCalled(_) => Standing::Skipped,
    }
}

// === impl State ===

impl State {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Held, Self::Running];

    fn of(started: Started) -> Self {
        match started {
            Started::Never => Self::Held,
            Started::Ever | Started::Unknown => Self::Running,
        }
    }

    /// One word, for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Running => "running",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
