//! What `--fail-on` asks for.

use serde::Serialize;
use std::fmt;
use strum::EnumCount;

/// One kind of thing that a CI may want to stop at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum, EnumCount)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// It would be injected, and nothing in it holds it where it is not: no linkerd-gate entry
    MissingEntry,

    /// Its linkerd-gate entry does not do what it is for
    BrokenEntry,

    /// It would not be injected, whatever the reason
    NotInjected,

    /// There is a warning about it
    Warning,
}

impl Finding {
    /// All of them, in the order of their severity to a reader.
    pub const ALL: [Self; Self::COUNT] = [Self::MissingEntry, Self::BrokenEntry, Self::NotInjected, Self::Warning];

    /// As `--fail-on` takes it, and JSON and SARIF print it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::MissingEntry => "missing-entry",
            Self::BrokenEntry => "broken-entry",
            Self::NotInjected => "not-injected",
            Self::Warning => "warning",
        }
    }

    /// One line for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::MissingEntry => "no linkerd-gate entry holds the pod where Linkerd does not inject it",
            Self::BrokenEntry => "the linkerd-gate entry does not do what it is for",
            Self::NotInjected => "Linkerd does not inject the pod",
            Self::Warning => "something about the pod is likely to surprise",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}
