//! The prover: gathers evidence for the whole cluster, and publishes what its gate says of it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Context;
use super::taint_suppression::TaintSuppressor;
use super::tolerations::TolerationWriter;
use super::watches::{Watched, Watches};
use crate::decide::election::published_verdict::TaintSuppressions;
use crate::decide::{Evidence, Gate, Policy, PublishedVerdict, Transition};
use crate::linkerd::endpoints;
use crate::linkerd::names::service;
use crate::observe::ControlPlane;
use crate::retry::Schedule;
use crate::role::readiness::{Pauses, Prober, linkerds_namespace};

/// How long the first look waits for the watches' first lists.
const FIRST_LISTS: Duration = Duration::from_secs(3);

/// A prover at work.
struct Prover {
    policy: Policy,
    probes: Prober,
    gate: Gate,
    published: watch::Sender<PublishedVerdict>,
    /// When the next round of probes begins: this agent gives the Lease up where it does not end.
    probes_at: watch::Sender<Instant>,
    seen: Watched,
    /// Which nodes yield to what.
    suppressions: watch::Receiver<TaintSuppressions>,
    /// What keeps the watches from seeing, as it was said last.
    troubles: BTreeSet<String>,
    /// Webhooks that another one stands in for, likewise.
    superseded: BTreeSet<String>,
}

/// Proves for ever, from `gate` on. `probes_at` follows when the next round of probes begins.
pub(super) async fn run(
    context: Arc<Context>,
    gate: Gate,
    published: watch::Sender<PublishedVerdict>,
    renewed: watch::Receiver<Instant>,
    probes_at: watch::Sender<Instant>,
) -> Infallible {
    let mut schedule = Schedule::api_retry();
    let client = loop {
        // It only makes a client; what can fail is reading the service account's files.
        match context.access.watching() {
            Ok(client) => break client,
            Err(error) => warn!(%error, "cannot prove injection"),
        }
        tokio::time::sleep(schedule.next_pause()).await;
    };
    let policy = context.settings.proving.policy();
    // One client for all watches: each client has separate connections.
    let watches = Watches::begin(client.clone());
    let seen = watches.seen.clone();
    let toleration_writer = TolerationWriter::new(Arc::clone(&context), client.clone(), seen.clone(), renewed);
    let (suppressions_sink, suppressions) = watch::channel(published.borrow().taint_suppressed_by.clone());
    let suppressor = TaintSuppressor::new(Arc::clone(&context), client, seen.clone(), suppressions_sink);
    let probes = Prober {
        access: context.access.clone(),
        epoch: context.epoch,
        wanted: context.settings.proving.clone(),
        control_plane: ControlPlane::new(),
        metrics: Arc::clone(&context.metrics),
        seen: seen.linkerd.clone(),
    };
    let prover = Prover {
        policy,
        probes,
        gate,
        published,
        probes_at,
        seen,
        suppressions,
        troubles: BTreeSet::new(),
        superseded: BTreeSet::new(),
    };
    tokio::select! {
        biased;
        never = toleration_writer.run() => never,
        never = suppressor.run() => never,
        never = prover.run() => never,
        never = watches.last() => never,
    }
}

// === impl Prover ===

impl Prover {
    async fn run(mut self) -> Infallible {
        let mut pauses = Pauses::default();
        let mut next = Instant::now();
        // A look before anything was listed would only say so; an API server that lists nothing is said after a moment.
        let _said_by_the_look = tokio::time::timeout(FIRST_LISTS, self.seen.listed()).await;
        let mut watched = self.seen.linkerd.inputs();
        loop {
            self.log_watch_errors();
            self.publish();
            if Instant::now() >= next {
                let evidence = self.probe_and_publish().await;
                self.step(&evidence);
                self.publish();
                next = Instant::now() + pauses.after(&self.gate, &self.policy);
                self.probes_at.send_replace(next);
            }
            tokio::select! {
                biased;
                () = self.seen.changed() => {
                    // What decides about proofs has changed: look at once, as if it were the first time.
                    let now = self.seen.linkerd.inputs();
                    if now != watched {
                        watched = now;
                        next = next.min(Instant::now() + pauses.at_once());
                    }
                }
                Ok(()) = self.suppressions.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// A look may take as long as an API server waits for an injector: what is to be yielded to is published meanwhile.
    async fn probe_and_publish(&self) -> Evidence {
        let (mut seen, mut suppressions) = (self.seen.clone(), self.suppressions.clone());
        let mut look = pin!(self.probes.probe());
        loop {
            tokio::select! {
                biased;
                evidence = &mut look => return evidence,
                () = seen.changed() => self.publish(),
                Ok(()) = suppressions.changed() => self.publish(),
            }
        }
    }

    /// Says once what keeps the watches from seeing: without them there is neither proof nor way out of a deadlock.
    fn log_watch_errors(&mut self) {
        let troubles = self.seen.troubles();
        for trouble in troubles.difference(&self.troubles) {
            warn!(error = trouble, "the prover's watches are not in sync");
        }
        self.troubles = troubles;
        let superseded = self.seen.linkerd.superseded();
        for webhook in superseded.difference(&self.superseded) {
            warn!(reason = %webhook, "webhook configuration ignored");
        }
        self.superseded = superseded;
    }

    fn step(&mut self, evidence: &Evidence) {
        let before = std::mem::take(&mut self.gate);
        self.gate = before.clone().step(&self.policy, evidence);
        match Transition::between(&before, &self.gate) {
            None => {}
            Some(change) if change.is_setback() => warn!(reason = change.reason(), "proof: {}", change.message()),
            Some(change) => info!(reason = change.reason(), "proof: {}", change.message()),
        }
    }

    fn publish(&self) {
        let slices = self.seen.linkerd.endpoints.borrow();
        let before = self.published.borrow().clone();
        let identity = if slices.is_known() {
            let view = self.seen.linkerd.webhooks().and_then(Result::ok).unwrap_or_default();
            endpoints::addresses(slices.iter(), &linkerds_namespace(&view), service::IDENTITY, None)
        } else {
            // What the last prover knew is better than nothing.
            before.identity.clone()
        };
        let published_verdict = PublishedVerdict::new(&self.gate, self.suppressions.borrow().clone(), identity);
        self.published.send_if_modified(|current| {
            let news = *current != published_verdict;
            *current = published_verdict;
            news
        });
    }
}
