//! The manual override: a person's instruction with an end, which every role obeys even if no agent proves injection.
//!
//! It stands in the annotation `linkerd-gate/override`: on a Node for that node, on the Lease `linkerd-gate` for all. Its value
//! is a word and an instant, `open 2026-01-01T06:00:00Z`, so that it can also be written with `kubectl annotate`.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The annotation.
pub const ANNOTATION: &str = "linkerd-gate/override";

/// An override lasts at most this long from now on, so that it always ends. An instant further away counts as
/// a mistake and is not obeyed.
pub const MAX_DURATION: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What a person said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManualOverride {
    /// Open, or closed.
    pub open: bool,
    /// Until when, by the clock of whoever reads it. A clock that is minutes off is minutes off here.
    pub until: Timestamp,
}

/// Why an override is ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOverride {
    /// It is not two words.
    #[error("{0:?} is not of the form `open 2026-01-01T06:00:00Z` or `closed 2026-01-01T06:00:00Z`")]
    Form(String),
    /// Its end is too far away.
    #[error("its end, {0}, is more than 7 days away")]
    TooLong(Timestamp),
}

// === impl ManualOverride ===

impl ManualOverride {
    /// What counts now of what is written: nothing once its end has passed.
    ///
    /// # Errors
    /// A value that is no such word, or whose end is too far away.
    pub fn in_force(annotation: Option<&str>, now: Timestamp) -> Result<Option<Self>, InvalidOverride> {
        let Some(annotation) = annotation else { return Ok(None) };
        let word: Self = annotation.parse()?;
        if word.until.duration_since(now) > MAX_DURATION {
            return Err(InvalidOverride::TooLong(word.until));
        }
        Ok((word.until > now).then_some(word))
    }
}

impl FromStr for ManualOverride {
    type Err = InvalidOverride;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || InvalidOverride::Form(text.to_owned());
        let (word, until) = text.trim().split_once(' ').ok_or_else(form)?;
        let open = match word {
            "open" => true,
            "closed" => false,
            _ => return Err(form()),
        };
        Ok(Self { open, until: until.trim().parse().map_err(|_| form())? })
    }
}

impl fmt::Display for ManualOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.open { "open" } else { "closed" }, self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_override_is_in_force_exactly_until_its_end() {
        let word = Some("open 2026-01-01T06:00:00Z");
        let until = at("2026-01-01T06:00:00Z");
        assert_eq!(
            ManualOverride::in_force(word, at("2026-01-01T05:59:59Z")),
            Ok(Some(ManualOverride { open: true, until }))
        );
        assert_eq!(ManualOverride::in_force(word, until), Ok(None));
        assert_eq!(ManualOverride::in_force(None, until), Ok(None));
    }

    #[test]
    fn an_override_that_ended_or_ends_too_late_is_not_in_force() {
        let now = at("2026-01-01T00:00:00Z");
        assert!(
            ManualOverride::in_force(Some("closed 2026-01-08T00:00:00Z"), now).unwrap().is_some_and(|word| !word.open)
        );
        assert!(ManualOverride::in_force(Some("closed 2026-01-08T00:00:01Z"), now).is_err(), "seven days at most");
        assert!(ManualOverride::in_force(Some("closed 2036-01-01T00:00:00Z"), now).is_err());
    }

    #[test]
    fn an_override_that_cannot_be_read_is_reported_with_the_format() {
        for wrong in ["", "open", "ajar 2026-01-01T06:00:00Z", "open tomorrow", "open  ", "2026-01-01T06:00:00Z"] {
            let message = ManualOverride::in_force(Some(wrong), Timestamp::UNIX_EPOCH).unwrap_err().to_string();
            assert!(message.contains("open 2026-01-01T06:00:00Z"), "{message}");
        }
    }

    #[test]
    fn an_override_converts_to_text_and_back() {
        for text in ["open 2026-01-01T06:00:00Z", "closed 2026-12-31T23:59:59Z"] {
            assert_eq!(text.parse::<ManualOverride>().unwrap().to_string(), text);
        }
    }
}
