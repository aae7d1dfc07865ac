//! Events, written one after the other beside everything else: they are for people, and nothing waits for them.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Context, wall};
use crate::cluster::event::{self, Reporter, Subject};
use crate::decide::repair::{Bucket, Rate};

/// How many may wait to be written. What comes on top is left out: the log has it.
const WAITING: usize = 5000;

/// How many are written in a second: a thousand missed pods are told of in less than a minute, and an API server does not notice.
const RATE: u32 = 25;

/// And how many at once.
const BURST: u32 = 50;

/// How often it is said that they cannot be written.
const TOLD_AGAIN: Duration = Duration::from_mins(5);

/// One Event.
pub(super) struct Note {
    pub(super) subject: Subject,
    pub(super) warning: bool,
    /// One word in CamelCase.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Where Events are handed in.
#[derive(Clone)]
pub(super) struct Scribe(mpsc::Sender<Note>);

/// Whoever writes them.
pub(super) struct Notes(mpsc::Receiver<Note>);

pub(super) fn channel() -> (Scribe, Notes) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Scribe(sender), Notes(receiver))
}

// === impl Scribe ===

impl Scribe {
    pub(super) fn note(&self, note: Note) {
        if self.0.try_send(note).is_err() {
            debug!("an Event is left out: {WAITING} wait already");
        }
    }
}

// === impl Notes ===

impl Notes {
    /// Writes for ever.
    pub(super) async fn run(mut self, context: Arc<Context>) -> Infallible {
        let rate = Rate::per_second(NonZeroU32::new(RATE).unwrap_or(NonZeroU32::MIN));
        let burst = NonZeroU32::new(BURST).unwrap_or(NonZeroU32::MIN);
        let mut bucket = Bucket::empty(rate, burst, context.now());
        let mut told: Option<Duration> = None;
        loop {
            let Some(note) = self.0.recv().await else {
                // Nobody is left who could hand one in.
                return std::future::pending().await;
            };
            while !bucket.take(context.now()) {
                tokio::time::sleep_until(context.epoch + bucket.next(context.now())).await;
            }
            let reporter = Reporter { instance: &context.settings.pod, node: None };
            let Note { subject, warning, reason, message } = note;
            match event::note(context.client.clone(), reporter, &subject, warning, reason, &message, wall()).await {
                Ok(()) => told = None,
                // Each names another object: what matters is that they are missing.
                Err(why) if told.is_none_or(|told| told + TOLD_AGAIN <= context.now()) => {
                    warn!("Events cannot be written, this one for instance: {why}");
                    told = Some(context.now());
                }
                Err(_) => {}
            }
        }
    }
}
