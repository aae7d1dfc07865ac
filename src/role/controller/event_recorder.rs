//! Events, written one after the other beside everything else: they are for people, and nothing waits for them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Context, wall};
use crate::cluster::event::{self, EventSubject, Reporter};
use crate::decide::repair::{Kind, OwnerReference, Rate, TokenBucket};

/// How many may wait to be written. What comes on top is left out: the log has it.
const WAITING: usize = 5000;

/// How many are written in a second: enough to report a thousand missed pods within a minute, and a small load for an API server.
const RATE: u32 = 25;

/// And how many at once.
const BURST: u32 = 50;

/// How often it is said that they cannot be written.
const REPORT_INTERVAL: Duration = Duration::from_mins(5);

/// One Event.
pub(super) struct Note {
    pub(super) subject: EventSubject,
    pub(super) warning: bool,
    /// One word in CamelCase.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The uids of what Events were about that could not be written, as many as can wait at most.
type DroppedEvents = Arc<Mutex<BTreeSet<String>>>;

/// Where Events are handed in.
#[derive(Clone)]
pub(super) struct EventRecorder {
    notes: mpsc::Sender<Note>,
    lost: DroppedEvents,
}

/// Whoever writes them.
pub(super) struct Notes {
    notes: mpsc::Receiver<Note>,
    lost: DroppedEvents,
}

pub(super) fn channel() -> (EventRecorder, Notes) {
    channel_of(WAITING)
}

fn channel_of(waiting: usize) -> (EventRecorder, Notes) {
    let (sender, notes) = mpsc::channel(waiting);
    let lost = Arc::default();
    (EventRecorder { notes: sender, lost: Arc::clone(&lost) }, Notes { notes, lost })
}

// === impl EventRecorder ===

impl EventRecorder {
    /// Hands in what `note` makes; whether it was taken. Nothing is made where it would not be: of many missed pods most Events
    /// have to wait for the others.
    pub(super) fn note(&self, note: impl FnOnce() -> Note) -> bool {
        if let Ok(place) = self.notes.try_reserve() {
            place.send(note());
            true
        } else {
            debug!("the queue of Events is full: an Event is delayed");
            false
        }
    }

    /// What Events were about that were taken and could not be written: it counts as noted, and is not.
    pub(super) fn take_dropped(&self) -> BTreeSet<String> {
        self.lost.lock().map(|mut lost| std::mem::take(&mut *lost)).unwrap_or_default()
    }
}

// === impl Notes ===

impl Notes {
    /// Writes for ever.
    pub(super) async fn run(mut self, context: Arc<Context>) -> Infallible {
        let rate = Rate::per_second(NonZeroU32::new(RATE).unwrap_or(NonZeroU32::MIN));
        let burst = NonZeroU32::new(BURST).unwrap_or(NonZeroU32::MIN);
        let mut bucket = TokenBucket::empty(rate, burst, context.now());
        let mut reported_at: Option<Duration> = None;
        loop {
            let Some(note) = self.notes.recv().await else {
                // No sender is left.
                return std::future::pending().await;
            };
            while !bucket.take(context.now()) {
                tokio::time::sleep_until(context.epoch + bucket.next(context.now())).await;
            }
            let reporter = Reporter { instance: &context.settings.pod, node: None };
            let Note { subject, warning, reason, message } = note;
            let uid = subject.uid.clone();
            match event::note(context.client.clone(), reporter, &subject, warning, reason, &message, wall()).await {
                Ok(()) => {
                    reported_at = None;
                    continue;
                }
                // Each names another object: what matters is that they are missing.
                Err(why) if reported_at.is_none_or(|reported_at| reported_at + REPORT_INTERVAL <= context.now()) => {
                    warn!(error = why, "cannot write Events");
                    reported_at = Some(context.now());
                }
                Err(_) => {}
            }
            if let Ok(mut lost) = self.lost.lock()
                && lost.len() < WAITING
            {
                lost.insert(uid);
            }
        }
    }
}

/// An owner as the subject of an Event. The policy for Events allows only the kinds that we know.
pub(super) fn subject_of(namespace: &str, owner: &OwnerReference) -> Option<EventSubject> {
    (!matches!(owner.kind, Kind::Other(_))).then(|| EventSubject::owner(namespace, owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &str) -> Note {
        let subject = EventSubject {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: Some("shop".to_owned()),
            name: name.to_owned(),
            uid: format!("uid of {name}"),
        };
        Note { subject, warning: true, reason: "OutsideMesh", message: String::new() }
    }

    #[tokio::test]
    async fn an_event_that_finds_no_place_is_not_taken_and_not_even_made() {
        let (recorder, mut notes) = channel_of(1);
        assert!(recorder.note(|| note("a")));
        assert!(!recorder.note(|| panic!("it is made although there is no place")));
        assert_eq!(notes.notes.recv().await.map(|note| note.subject.name).as_deref(), Some("a"));
        assert!(recorder.note(|| note("b")), "there is place again");
    }
}
