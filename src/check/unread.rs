//! Why something of a cluster could not be read.

use std::fmt;

/// A value, or why it could not be read.
pub type Read<T> = Result<T, Unread>;

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// A right is missing: which one, as `list pods in all namespaces`.
    Forbidden(String),
    /// The API server did not answer, or answered with a fault: one sentence.
    Failed(String),
    /// It was not asked, since this was not known.
    Needs(&'static str),
}

// === impl Unread ===

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(right) => write!(f, "you may not {right}"),
            Self::Failed(why) => f.write_str(why),
            Self::Needs(what) => write!(f, "{what} could not be read"),
        }
    }
}
