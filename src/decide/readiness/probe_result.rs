//! One answer of one probe.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a probe found. Three answers, never two: an unreachable API server must not be read as "no".
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "result", content = "reason", rename_all = "kebab-case")]
pub enum ProbeResult {
    /// Looked, and it is ready.
    Ready,

    /// Looked, and it is not ready. This closes an open gate.
    NotReady(Reason),

    /// Could not look. This opens nothing, and closes nothing that evidence had opened.
    Unknown(Reason),
}

/// Why an outcome is what it is: one line of text, never empty, short enough to be repeated everywhere.
///
/// Whatever is put in (an error chain, a response body) comes out as one printable line: control characters and runs of
/// white space become one space, so that a server's answer cannot forge a second log line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Reason(Box<str>);

// === impl ProbeResult ===

impl ProbeResult {
    /// Looked, and it is not ready, because of `reason`.
    pub fn not_ready(reason: impl Into<Reason>) -> Self {
        Self::NotReady(reason.into())
    }

    /// Could not look, because of `reason`.
    pub fn unknown(reason: impl Into<Reason>) -> Self {
        Self::Unknown(reason.into())
    }

    /// Whether this is [`ProbeResult::Ready`].
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Why this is not ready, or not known; nothing where it is ready.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Ready => None,
            Self::NotReady(reason) | Self::Unknown(reason) => Some(reason),
        }
    }
}

impl fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::NotReady(reason) => write!(f, "not ready: {reason}"),
            Self::Unknown(reason) => write!(f, "unknown: {reason}"),
        }
    }
}

// === impl Reason ===

impl Reason {
    /// The longest reason, in bytes of UTF-8; what is longer is cut and ends in `…`.
    ///
    /// The kubelet keeps 4096 bytes of a container's termination message, and the line that goes there may carry the reasons
    /// of all six probes: <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.
    pub const MAX_BYTES: usize = 600;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        const ELLIPSIS: char = '…';

        let mut line = String::with_capacity(text.len().min(Self::MAX_BYTES));
        let words = text.split(|c: char| c.is_whitespace() || c.is_control());
        for word in words.filter(|word| !word.is_empty()) {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
            if line.len() > Self::MAX_BYTES {
                line.truncate(line.floor_char_boundary(Self::MAX_BYTES - ELLIPSIS.len_utf8()));
                line.push(ELLIPSIS);
                break;
            }
        }
        if line.is_empty() {
            line.push_str("no reason was given");
        }
        Self(line.into_boxed_str())
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Reason> for String {
    fn from(Reason(text): Reason) -> Self {
        text.into()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reason_is_one_line_whatever_the_server_said() {
        let reason = Reason::from("HTTP 500:\r\n\tboom\x1b[31m\n\n  2026-01-01 INFO open ");
        assert_eq!(reason.as_str(), "HTTP 500: boom [31m 2026-01-01 INFO open");
    }

    #[test]
    fn an_empty_reason_says_so() {
        assert_eq!(Reason::from(" \n").as_str(), "no reason was given");
    }

    proptest! {
        #[test]
        fn a_reason_is_bounded_printable_and_stable(text in "(?s).{0,900}") {
            let reason = Reason::from(text);
            prop_assert!(!reason.as_str().is_empty());
            prop_assert!(reason.as_str().len() <= Reason::MAX_BYTES);
            prop_assert!(!reason.as_str().contains(char::is_control));
            prop_assert_eq!(&Reason::from(reason.as_str()), &reason);
        }
    }
}
