//! What can go wrong between this API server and its clients, one fault at a time, so that a test can enumerate where.

use super::store::Change;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::sync::watch;

/// Faults; none by default.
#[derive(Debug, Default)]
pub struct Faults {
    /// Every list is what was there so long ago, and every watch tells a change so long after it happened.
    pub(super) lag: Duration,
    /// A watch ends instead of telling this event: the first is 1. Events of all watches count together.
    watch: Option<(usize, WatchFault)>,
    /// After this write, the first being 1, no client gets an answer any more: the write is done, and whoever asked does not
    /// know. [`Faults::until_silent`] then returns, and [`Faults::speak_again`] ends it.
    silent_after: Option<usize>,
    writes: watch::Sender<usize>,
    events: AtomicUsize,
    watched: watch::Sender<BTreeSet<String>>,
    spoken: watch::Sender<bool>,
}

/// How a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFault {
    /// The connection is closed: the client watches again from where it was.
    Closed,
    /// The version is too old (410): the client lists again.
    Expired,
}

// === impl Faults ===

impl Faults {
    /// A watch ends instead of telling this event.
    pub fn ending_a_watch(event: usize, fault: WatchFault) -> Self {
        Self { watch: Some((event, fault)), ..Self::default() }
    }

    /// No client gets an answer after this write.
    pub fn silent_after(write: usize) -> Self {
        Self { silent_after: Some(write), ..Self::default() }
    }

    /// Lists and watches are so late.
    pub fn lagging(lag: Duration) -> Self {
        Self { lag, ..Self::default() }
    }

    /// How many writes there were, dry-runs not counted.
    pub fn writes(&self) -> usize {
        *self.writes.borrow()
    }

    /// Whether the fault has happened.
    pub fn happened(&self) -> bool {
        let reached = |count: usize, place: Option<usize>| place.is_some_and(|place| count >= place);
        reached(self.writes(), self.silent_after) || reached(self.events(), self.watch.map(|(event, _)| event))
    }

    /// How many events watches have sent.
    pub fn events(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    /// Waits until all objects of these kinds are watched, by the paths of their collections: from then on each change is an event.
    pub async fn until_watched(&self, collections: &[&str]) {
        let all = |watched: &BTreeSet<String>| collections.iter().all(|collection| watched.contains(*collection));
        drop(self.watched.subscribe().wait_for(all).await);
    }

    /// Waits until the write is done after which no client gets an answer.
    pub async fn until_silent(&self) {
        let Some(after) = self.silent_after else { return std::future::pending().await };
        drop(self.writes.subscribe().wait_for(|writes| *writes >= after).await);
    }

    /// From now on every request is answered.
    pub fn speak_again(&self) {
        self.spoken.send_replace(true);
    }

    pub(super) fn note_watch(&self, collection: &str) {
        self.watched.send_modify(|watched| watched.extend([collection.to_owned()]));
    }

    pub(super) fn note_write(&self) {
        self.writes.send_modify(|writes| *writes += 1);
    }

    /// Does not return while no client is answered.
    pub(super) async fn answers(&self) {
        if self.silent_after.is_some_and(|after| self.writes() >= after) {
            drop(self.spoken.subscribe().wait_for(|spoken| *spoken).await);
        }
    }

    /// How many of these changes a watch tells, and how it ends then.
    pub(super) fn cut(&self, changes: &[Change]) -> (usize, Option<WatchFault>) {
        let before = self.events.fetch_add(changes.len(), Ordering::Relaxed);
        match self.watch {
            Some((event, fault)) if (before + 1..=before + changes.len()).contains(&event) => {
                (event - before - 1, Some(fault))
            }
            _ => (changes.len(), None),
        }
    }
}
