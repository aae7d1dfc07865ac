//! Why a person's command did not do all that it was asked.

use std::io;

/// What goes to standard error, line by line.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// At least one thing was not done: each has its own line.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// The output could not be written.
    #[error("what was done could not be written to standard output: {0}")]
    Write(#[from] io::Error),
}

// === impl NotDone ===

impl NotDone {
    /// One thing that was not done.
    pub fn one(line: impl Into<String>) -> Self {
        Self::Refused(vec![line.into()])
    }
}
