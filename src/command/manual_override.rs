//! `linkerd-gate open`, `close` and `clear`: break the glass. One annotation with an end, which every agent obeys even where
//! no agent proves injection.

use std::io::Write;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp, Unit};

use super::not_done::NotDone;
use crate::cluster::{Annotated, Client, OverrideTarget, Person, annotate, of_person};
use crate::config::fix;
use crate::decide::ManualOverride;
use crate::decide::manual_override::MAX_DURATION;

/// The shortest time that an override may last.
pub const SHORTEST: Duration = Duration::from_mins(1);

/// What a person wants of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideCommand {
    /// Pods may start, whatever Linkerd does, for so long.
    Open(Duration),
    /// No pod may start, whatever Linkerd does, for so long.
    Close(Duration),
    /// The override ends now.
    Clear,
}

/// Writes the override, or clears it, by a person's kubeconfig.
///
/// With `dry_run` the API server is asked to do everything but store it.
pub async fn run(
    access: &Person,
    command: OverrideCommand,
    subjects: &[OverrideTarget],
    dry_run: bool,
    out: &mut impl Write,
) -> Result<(), NotDone> {
    let client = of_person(access).await.map_err(|error| NotDone::Refused(vec![error.to_string()]))?;
    run_with(&client, command, subjects, Timestamp::now(), dry_run, out).await
}

/// Writes it at `now`, with an existing client. If one of several is refused, the others are still written.
pub async fn run_with(
    client: &Client,
    command: OverrideCommand,
    subjects: &[OverrideTarget],
    now: Timestamp,
    dry_run: bool,
    out: &mut impl Write,
) -> Result<(), NotDone> {
    let word = command.word(now);
    let mut refused = Vec::new();
    for subject in subjects {
        match annotate(client, subject, word.as_ref(), dry_run).await {
            Ok(annotated) => {
                let mark = if dry_run { " (server dry run: nothing was written)" } else { "" };
                writeln!(out, "{subject}: {}{mark}", message(command, subject, word.as_ref(), annotated))?;
            }
            Err(error) => refused.push(error.to_string()),
        }
    }
    out.flush()?;
    if refused.is_empty() { Ok(()) } else { Err(NotDone::Refused(refused)) }
}

/// How long a word is to hold, as `--for` has it.
///
/// # Errors
/// What is no duration, or too short, or longer than anything that was forgotten may last.
pub fn lasts(text: &str) -> Result<Duration, String> {
    let accepted = "a time from 1m to 168h (7 days) is accepted, for example";
    let Ok(lasts) = humantime::parse_duration(text) else {
        let meant = fix::duration(text).filter(|meant| {
            let meant = humantime::parse_duration(meant);
            meant.is_ok_and(|meant| (SHORTEST..=MAX_DURATION.unsigned_abs()).contains(&meant))
        });
        return Err(format!("it is no time with a unit; {accepted} --for {}", meant.as_deref().unwrap_or("30m")));
    };
    if lasts < SHORTEST {
        return Err(format!("that is too short for every agent to read it; {accepted} --for 1m"));
    }
    if lasts > MAX_DURATION.unsigned_abs() {
        return Err(format!("an override must end; {accepted} --for 168h"));
    }
    Ok(lasts)
}

/// A node's name, as people write it or as `kubectl get --output name` does.
///
/// # Errors
/// What cannot be the name of any node.
pub fn node(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("node/").unwrap_or(text);
    let usual =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || "-.".contains(character);
    if name.is_empty() || !name.chars().all(usual) {
        return Err("no node can have this name: it holds lower case letters, digits, `-` and `.`".to_owned());
    }
    Ok(name.to_owned())
}

// === impl OverrideCommand ===

impl OverrideCommand {
    fn word(self, now: Timestamp) -> Option<ManualOverride> {
        let (open, lasts) = match self {
            Self::Open(lasts) => (true, lasts),
            Self::Close(lasts) => (false, lasts),
            Self::Clear => return None,
        };
        // Whole seconds: the annotation is read by people. Both are far from the ends of time.
        let until = now.saturating_add(SignedDuration::try_from(lasts).unwrap_or(MAX_DURATION));
        Some(ManualOverride { open, until: until.ok()?.round(Unit::Second).ok()? })
    }
}

/// What was written, until when, and what follows.
fn message(
    command: OverrideCommand,
    subject: &OverrideTarget,
    word: Option<&ManualOverride>,
    annotated: Annotated,
) -> String {
    let until = |lasts| {
        let until = word.map(|word| word.until.to_string()).unwrap_or_default();
        format!("until {until} (in {})", humantime::format_duration(lasts))
    };
    let created = if annotated == Annotated::Created { "; there was no Lease, so it was created" } else { "" };
    match (command, subject) {
        (_, _) if annotated == Annotated::Absent => "no override to clear: there is no Lease".to_owned(),
        (OverrideCommand::Open(lasts), OverrideTarget::Node(_)) => format!(
            "manual override: open {}; the agent removes the taint, and pods held by `wait` start, with or without injection",
            until(lasts)
        ),
        (OverrideCommand::Open(lasts), OverrideTarget::All { .. }) => format!(
            "manual override: all nodes open {}{created}; agents remove taints, the controller removes scheduling gates, and held pods start, with or \
             without injection",
            until(lasts)
        ),
        (OverrideCommand::Close(lasts), OverrideTarget::Node(_)) => format!(
            "manual override: closed {}; the agent taints the node, new pods wait, and running pods keep running",
            until(lasts)
        ),
        (OverrideCommand::Close(lasts), OverrideTarget::All { .. }) => format!(
            "manual override: all nodes closed {}{created}; agents taint nodes, new pods wait, the controller replaces no pod, and running pods keep running",
            until(lasts)
        ),
        (OverrideCommand::Clear, _) => "override cleared; automatic control resumed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_lasts_from_a_minute_to_a_week() {
        for (text, seconds) in [("1m", 60), ("90s", 90), ("1h30m", 5400), ("168h", 604_800), ("7d", 604_800)] {
            assert_eq!(lasts(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["59s", "0", "169h", "-1h", "1", "soon", ""] {
            let message = lasts(wrong).unwrap_err();
            assert!(message.contains("from 1m to 168h"), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_name_that_would_lead_to_another_object_is_refused() {
        assert_eq!(node("node/worker-1.example.com"), Ok("worker-1.example.com".to_owned()));
        for wrong in ["", "node/", "worker-1/status", "a?x=y", "..%2f", "Worker"] {
            assert!(node(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_override_ends_at_a_whole_second_that_an_agent_accepts() {
        let now: Timestamp = "2026-01-01T05:00:00.7Z".parse().unwrap();
        for (command, open) in [(OverrideCommand::Open(SHORTEST), true), (OverrideCommand::Close(SHORTEST), false)] {
            let word = command.word(now).unwrap();
            assert_eq!(word, ManualOverride { open, until: "2026-01-01T05:01:01Z".parse().unwrap() });
            assert_eq!(ManualOverride::in_force(Some(&word.to_string()), now), Ok(Some(word)));
        }
        assert_eq!(OverrideCommand::Clear.word(now), None);
    }
}
