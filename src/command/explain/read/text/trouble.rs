//! Why a text cannot be read on.

use std::fmt;

use super::{MAX_FILE, MAX_OBJECT};

/// Why a text cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Trouble {
    Read(String),
    NotText(&'static str),
    FileTooLong,
    ObjectTooLong,
}

// === impl Trouble ===

impl Trouble {
    /// Whether it is about one document, and not about the file.
    pub(in super::super) fn has_place(&self) -> bool {
        matches!(self, Self::ObjectTooLong)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "it cannot be read: {error}"),
            Self::NotText(why) => f.write_str(why),
            Self::FileTooLong => write!(
                f,
                "it is larger than {} MiB, which is the most that is read of one file: give it in parts, for example \
                 one namespace at a time: kubectl get pods -n NAMESPACE -o yaml | linkerd-gate explain -f -",
                MAX_FILE >> 20
            ),
            Self::ObjectTooLong => write!(
                f,
                "one object is larger than {} MiB, which no API server would store: the rest of this file is not read; \
                 give the others in a file without it",
                MAX_OBJECT >> 20
            ),
        }
    }
}
