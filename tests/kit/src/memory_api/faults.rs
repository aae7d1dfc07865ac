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
    silent_after: Option<Write>,
    /// What each write was, in their order.
    writes: watch::Sender<Vec<String>>,
    events: watch::Sender<usize>,
    /// How many lists and events were late.
    late: AtomicUsize,
    watched: watch::Sender<BTreeSet<String>>,
    spoken: watch::Sender<bool>,
}

/// One write of a story.
#[derive(Clone, Debug)]
enum Write {
    /// By its number: the first is 1.
    Nth(usize),
    /// The first of its kind.
    FirstOf(String),
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

    /// No client gets an answer after this write, the first being 1.
    pub fn silent_after(write: usize) -> Self {
        Self { silent_after: Some(Write::Nth(write)), ..Self::default() }
    }

    /// No client gets an answer after the first write of this kind, which is one of [`Faults::written`].
    pub fn silent_after_first(kind: &str) -> Self {
        Self { silent_after: Some(Write::FirstOf(kind.to_owned())), ..Self::default() }
    }

    /// Lists and watches are so late.
    pub fn lagging(lag: Duration) -> Self {
        Self { lag, ..Self::default() }
    }

    /// What clients wrote, dry-runs not counted: the method, the collection, and of an Event its reason.
    pub fn written(&self) -> Vec<String> {
        self.writes.borrow().clone()
    }

    /// Waits until there was a write of this kind.
    pub async fn until_written(&self, kind: &str) {
        drop(self.writes.subscribe().wait_for(|writes| writes.iter().any(|write| write == kind)).await);
    }

    /// The write after which no client got an answer; nothing if it has not come.
    pub fn silenced_by(&self) -> Option<String> {
        let writes = self.writes.borrow();
        self.place(&writes).map(|place| writes[place].clone())
    }

    fn place(&self, writes: &[String]) -> Option<usize> {
        match self.silent_after.as_ref()? {
            Write::Nth(write) => write.checked_sub(1).filter(|place| *place < writes.len()),
            Write::FirstOf(kind) => writes.iter().position(|written| written == kind),
        }
    }

    /// How many lists lacked a change that had been made before, and how many events were sent late.
    pub fn late(&self) -> usize {
        self.late.load(Ordering::Relaxed)
    }

    /// How many events watches have sent.
    pub fn events(&self) -> usize {
        *self.events.borrow()
    }

    /// Waits until a watch has ended instead of telling its event.
    pub async fn until_cut(&self) {
        let Some((event, _)) = self.watch else { return std::future::pending().await };
        drop(self.events.subscribe().wait_for(|events| *events >= event).await);
    }

    /// Waits until all objects of these kinds are watched, by the paths of their collections: from then on each change is an event.
    pub async fn until_watched(&self, collections: &[&str]) {
        let all = |watched: &BTreeSet<String>| collections.iter().all(|collection| watched.contains(*collection));
        drop(self.watched.subscribe().wait_for(all).await);
    }

    /// Waits until the write is done after which no client gets an answer.
    pub async fn until_silent(&self) {
        if self.silent_after.is_none() {
            return std::future::pending().await;
        }
        drop(self.writes.subscribe().wait_for(|writes| self.place(writes).is_some()).await);
    }

    /// From now on every request is answered.
    pub fn speak_again(&self) {
        self.spoken.send_replace(true);
    }

    pub(super) fn note_watch(&self, collection: &str) {
        self.watched.send_modify(|watched| watched.extend([collection.to_owned()]));
    }

    pub(super) fn note_write(&self, kind: String) {
        self.writes.send_modify(|writes| writes.push(kind));
    }

    pub(super) fn note_late(&self, count: usize) {
        self.late.fetch_add(count, Ordering::Relaxed);
    }

    /// Does not return while no client is answered.
    pub(super) async fn answers(&self) {
        if self.silenced_by().is_some() {
            drop(self.spoken.subscribe().wait_for(|spoken| *spoken).await);
        }
    }

    /// How many of these changes a watch tells, and how it ends then.
    pub(super) fn cut(&self, changes: &[Change]) -> (usize, Option<WatchFault>) {
        let mut before = 0;
        self.events.send_modify(|events| {
            before = *events;
            *events += changes.len();
        });
        match self.watch {
            Some((event, fault)) if (before + 1..=before + changes.len()).contains(&event) => {
                (event - before - 1, Some(fault))
            }
            _ => (changes.len(), None),
        }
    }
}
