//! What the controller's Events say that `report` reads again: written and read in one place.

use std::fmt;

use k8s_openapi::jiff::Timestamp;

/// The reason of an Event on an owner, one of whose pods the controller removed so that it is created again.
pub const REPLACING: &str = "Replacing";

/// The reason of an Event on a pod outside the mesh.
pub const OUTSIDE_MESH: &str = "OutsideMesh";

/// What a pod outside the mesh is doing, as its Event [`OUTSIDE_MESH`] says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Our scheduling gate holds it.
    Gated,
    /// None of its containers has started.
    NotStarted,
    /// It runs, or may run.
    Running,
}

/// A removal, as its Event [`REPLACING`] says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The name of the pod, in the namespace of its owner.
    pub pod: String,
    /// Since when our scheduling gate held it: its creation, by the API server's clock.
    pub held_since: Option<Timestamp>,
}

const HELD_SINCE: &str = " It was held since ";

/// The message of an Event [`REPLACING`]: `done` is "Deleted pod", `object` "web-x of ReplicaSet web".
pub fn replacing(done: &str, object: &str, held_since: Option<Timestamp>) -> String {
    let held = held_since.map(|since| format!("{HELD_SINCE}{since}.")).unwrap_or_default();
    format!("{done}: {object}. Its owner creates it again.{held}")
}

// === impl Outside ===

impl Outside {
    const ALL: [Self; 3] = [Self::Gated, Self::NotStarted, Self::Running];

    /// The one that a message has.
    pub fn read(message: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| message.contains(state.as_str()))
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Gated => "it is held by a scheduling gate, and has no node",
            Self::NotStarted => "no container of it has started",
            Self::Running => "it runs, or may run, outside the mesh",
        }
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Replaced ===

impl Replaced {
    /// Nothing where the message is of another form.
    pub fn read(message: &str) -> Option<Self> {
        let (pod, rest) = message.split_once(": ")?.1.split_once(" of ")?;
        let since = rest.split_once(HELD_SINCE).and_then(|(_, since)| since.trim_end_matches('.').parse().ok());
        (!pod.is_empty() && !pod.contains(' ')).then(|| Self { pod: pod.to_owned(), held_since: since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_a_removal_is_read_again() {
        for since in [None, Some("2026-11-30T03:12:40Z".parse().unwrap())] {
            let message = replacing("Deleted pod", "web-x of ReplicaSet web", since);
            assert_eq!(Replaced::read(&message), Some(Replaced { pod: "web-x".to_owned(), held_since: since }));
        }
        assert_eq!(
            replacing("Deleted pod", "web-x of ReplicaSet web", Some("2026-11-30T03:12:40Z".parse().unwrap())),
            "Deleted pod: web-x of ReplicaSet web. Its owner creates it again. It was held since 2026-11-30T03:12:40Z."
        );
    }

    #[test]
    fn a_message_of_another_form_is_no_removal() {
        for other in ["", "Deleted pod", "Deleted pod: web-x", "Deleted pod:  of x", "x: two words of y"] {
            assert_eq!(Replaced::read(other), None, "{other}");
        }
        let broken = "Deleted pod: web-x of Job web. It was held since yesterday.";
        assert_eq!(Replaced::read(broken).unwrap().held_since, None);
    }

    #[test]
    fn each_state_of_a_pod_is_read_again() {
        for state in Outside::ALL {
            let message = format!("This pod requests injection and was created without a proxy; {state}. And so on.");
            assert_eq!(Outside::read(&message), Some(state));
        }
        assert_eq!(Outside::read("something else"), None);
    }
}
