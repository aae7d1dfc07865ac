//! The controller's own proof: it removes pods on no other evidence.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Context;
use super::watches::Watched;
use crate::decide::{Gate, Transition};
use crate::observe::ControlPlane;
use crate::role::readiness::{Pauses, Prober};

/// How long the first look waits for the watches' first lists.
const FIRST_LISTS: Duration = Duration::from_secs(3);

/// Proves for ever. `reprove` is an instant after which injection must be proven again, whatever was proven before;
/// `probes_at` follows when the next look begins.
pub(super) async fn run(
    context: Arc<Context>,
    seen: Watched,
    gate: watch::Sender<Gate>,
    mut reprove: watch::Receiver<Duration>,
    probes_at: watch::Sender<Instant>,
) -> Infallible {
    let mut watched = seen.linkerd.clone();
    let probes = Prober {
        access: context.access.clone(),
        epoch: context.epoch,
        wanted: context.settings.proving.clone(),
        control_plane: ControlPlane::new(),
        metrics: Arc::clone(&context.metrics),
        seen: seen.linkerd.clone(),
    };
    let policy = context.settings.proving.policy();
    let _said_by_the_look = tokio::time::timeout(FIRST_LISTS, async {
        while !watched.is_known() {
            watched.changed().await;
        }
    })
    .await;
    let mut pauses = Pauses::default();
    let mut snapshot = watched.inputs();
    loop {
        let evidence = probes.probe().await;
        let before = gate.borrow().clone();
        let after = before.clone().step(&policy, &evidence);
        match Transition::between(&before, &after) {
            None => {}
            Some(change) if change.is_setback() => warn!(reason = change.reason(), "proof: {}", change.message()),
            Some(change) => info!(reason = change.reason(), "proof: {}", change.message()),
        }
        let mut next = Instant::now() + pauses.after(&after, &policy);
        probes_at.send_replace(next);
        context.show(&after, seen.readiness());
        gate.send_replace(after);
        loop {
            tokio::select! {
                biased;
                () = watched.changed() => {
                    let now = watched.inputs();
                    if now != snapshot {
                        snapshot = now;
                        next = next.min(Instant::now() + pauses.at_once());
                    }
                }
                Ok(()) = reprove.changed() => next = next.min(Instant::now() + pauses.at_once()),
                () = tokio::time::sleep_until(next) => break,
            }
        }
    }
}

/// Requires a proof that is newer than `at`: something was seen then that no earlier proof covers.
pub(super) fn reprove(reprove: &watch::Sender<Duration>, at: Duration) {
    reprove.send_if_modified(|after| {
        let news = *after < at;
        *after = (*after).max(at);
        news
    });
}
