//! The prover: gathers evidence for the whole cluster, and publishes what its gate says of it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Context;
use super::tender::Tender;
use super::watches::{API_SERVERS, Watched, Watches};
use crate::cluster::probe::{self, Proof};
use crate::config::{Address, Component, IdentityBy};
use crate::decide::essential;
use crate::decide::{Change, Evidence, Gate, Installation, Outcome, Policy, Probe, Publication, parts};
use crate::linkerd::endpoints::{self, EndpointsView};
use crate::linkerd::names::{port, service};
use crate::linkerd::webhook::Endpoint;
use crate::linkerd::{WebhookView, names};
use crate::observe::Parts;
use crate::retry::Schedule;

/// How long the first look waits for the watches' first lists.
const FIRST_LISTS: Duration = Duration::from_secs(3);

/// A prover at work.
struct Prover {
    context: Arc<Context>,
    policy: Policy,
    parts: Parts,
    gate: Gate,
    published: watch::Sender<Publication>,
    seen: Watched,
    /// What keeps the watches from seeing, as it was said last.
    troubles: BTreeSet<String>,
}

/// Proves for ever, from `gate` on.
pub(super) async fn run(
    context: Arc<Context>,
    gate: Gate,
    published: watch::Sender<Publication>,
    renewed: watch::Receiver<Instant>,
) -> Infallible {
    let mut schedule = Schedule::asking();
    let (parts, watches) = loop {
        // Both only make clients; what can fail is reading the service account's files.
        match (Parts::new(), Watches::begin(&context)) {
            (Ok(parts), Ok(watches)) => break (parts, watches),
            (Err(error), _) => warn!("cannot prove: {error}"),
            (_, Err(error)) => warn!("cannot prove: {error}"),
        }
        tokio::time::sleep(schedule.next_pause()).await;
    };
    let policy = context.settings.policy();
    let seen = watches.seen.clone();
    let tender = Tender::new(Arc::clone(&context), seen.clone(), renewed);
    let prover = Prover { context, policy, parts, gate, published, seen, troubles: BTreeSet::new() };
    tokio::select! {
        biased;
        never = tender.run() => never,
        never = prover.run() => never,
        never = watches.last() => never,
    }
}

// === impl Prover ===

impl Prover {
    async fn run(mut self) -> Infallible {
        let mut proving = Schedule::proving();
        let mut again = Schedule::proving_again();
        let mut next = Instant::now();
        // A look before anything was listed would only say so; an API server that lists nothing is said after a moment.
        let _said_by_the_look = tokio::time::timeout(FIRST_LISTS, self.seen.listed()).await;
        let mut watched = self.facts();
        loop {
            self.tell_troubles();
            self.publish();
            if Instant::now() >= next {
                let evidence = self.look_and_publish().await;
                self.step(&evidence);
                self.publish();
                let pause = match &self.gate {
                    Gate::Open { doubt: None, .. } => {
                        proving.reset();
                        again.next_pause()
                    }
                    // As many proofs as it takes, evenly over the time that it takes.
                    Gate::Settling { .. } => {
                        self.policy.settling() / self.policy.proofs().get().saturating_sub(1).max(1)
                            + Duration::from_millis(2)
                    }
                    Gate::Open { .. } | Gate::Closed { .. } => proving.next_pause(),
                };
                next = Instant::now() + pause;
            }
            tokio::select! {
                biased;
                () = self.seen.changed() => {
                    // What decides about proofs has changed: look at once, as if it were the first time.
                    let now = self.facts();
                    if now != watched {
                        watched = now;
                        proving.reset();
                        next = next.min(Instant::now() + proving.next_pause());
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// What, when it changes, makes another proof worth while before its time.
    fn facts(&self) -> (Option<Result<WebhookView, String>>, Option<Vec<EndpointsView>>) {
        (self.seen.webhooks(), self.seen.slices())
    }

    /// A look may take as long as an API server waits for an injector: what is to be yielded to is published meanwhile.
    async fn look_and_publish(&self) -> Evidence {
        let mut seen = self.seen.clone();
        let mut look = pin!(self.look());
        loop {
            tokio::select! {
                biased;
                evidence = &mut look => return evidence,
                () = seen.changed() => self.publish(),
            }
        }
    }

    /// Says once what keeps the watches from seeing: without them there is neither proof nor way out of a deadlock.
    fn tell_troubles(&mut self) {
        let troubles = self.seen.troubles();
        for trouble in troubles.difference(&self.troubles) {
            warn!("the prover cannot see everything: {trouble}");
        }
        self.troubles = troubles;
    }

    /// One look at everything that is required.
    async fn look(&self) -> Evidence {
        let taken = self.context.now();
        let webhooks = self.seen.webhooks();
        let blind = self.seen.webhooks.borrow().trouble.clone();
        let (installation, webhook) = match (parts::webhook(webhooks.as_ref()), blind) {
            // Absent is what a list says that works, and not one that is remembered.
            ((Installation::Absent | Installation::Unseen, _), Some(why)) => {
                (Installation::Unseen, Outcome::unknown(why))
            }
            (found, _) => found,
        };
        let mut evidence = Evidence::at(taken).with_installation(installation);
        let view = webhooks.and_then(Result::ok).unwrap_or_default();
        let slices = self.seen.slices();
        let injector = match installation {
            Installation::Unseen => Outcome::unknown("its webhook has not been seen yet"),
            Installation::Present | Installation::Absent => parts::injector(&view, slices.as_ref()),
        };
        let namespace = linkerds_namespace(&view);
        // Nothing before they were listed: not to know an address is not to know that there is none.
        let at = |service: &str, port: Option<u16>| {
            Some(endpoints::addresses(slices.as_deref()?, &namespace, service, port))
        };
        let (identity_at, destination_at, policy_at) = (
            at(service::IDENTITY, None),
            at(service::DESTINATION, Some(port::DESTINATION_ADMIN)),
            at(service::POLICY, Some(port::POLICY_ADMIN)),
        );
        // A dry-run costs the API server up to the webhook's timeout where nobody answers: not before somebody could.
        let worth = webhook.is_ready() && injector.is_ready();
        let servers = self.api_servers(slices.as_deref().unwrap_or_default());
        let (injection, identity, destination, policy) = tokio::join!(
            async { if worth { self.prove(&servers, &view).await } else { Outcome::unknown("not tried meanwhile") } },
            self.identity(identity_at.as_deref(), slices.as_deref().unwrap_or_default(), &namespace),
            self.ready(Component::Destination, destination_at.as_deref()),
            self.ready(Component::Policy, policy_at.as_deref()),
        );
        for (probe, outcome) in [
            (Probe::Webhook, webhook),
            (Probe::Injector, injector),
            (Probe::Injection, injection),
            (Probe::Identity, identity),
            (Probe::Destination, destination),
            (Probe::Policy, policy),
        ] {
            debug!(%probe, "{outcome}");
            evidence = evidence.with(probe, outcome);
        }
        evidence
    }

    /// Sends a dry-run pod through every API server, and takes the worst answer. Those that cannot be reached have no say, as long
    /// as one can be.
    async fn prove(&self, servers: &[Address], view: &WebhookView) -> Outcome {
        // The API server itself waits for the webhook's timeout before it lets a pod pass.
        let patience =
            view.webhooks.iter().map(|webhook| webhook.timeout).max().unwrap_or_default() + Duration::from_millis(3300);
        let namespace = self.context.settings.probe_namespace.as_str();
        let through = |server: Option<&Address>| {
            let client = self.context.access.fresh(server, patience + Duration::from_secs(1));
            async move {
                let client = match client {
                    Ok(client) => client,
                    Err(error) => return Proof::Unreachable(error.to_string()),
                };
                // One that takes the request and does not answer has a say: it may be waiting for the injector.
                tokio::time::timeout(patience, probe::send(client, namespace)).await.unwrap_or_else(|_| {
                    Proof::Answered(Outcome::unknown(format!(
                        "the API server did not answer a dry-run pod in {patience:?}"
                    )))
                })
            }
        };
        let started = Instant::now();
        let proofs = join_all(servers.iter().map(|server| through(Some(server)))).await;
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut unreachable = None;
        for (server, proof) in servers.iter().zip(proofs) {
            match proof {
                Proof::Answered(Outcome::Ready) => outcomes.push(Outcome::Ready),
                // Where there are several, it matters which.
                Proof::Answered(outcome) if servers.len() > 1 => outcomes.push(through_which(server, outcome)),
                Proof::Answered(outcome) => outcomes.push(outcome),
                Proof::Unreachable(why) => unreachable = Some(why),
            }
        }
        if outcomes.is_empty() {
            // None of them by its own address: by the address that everybody uses.
            outcomes.push(match through(None).await {
                Proof::Answered(outcome) => outcome,
                Proof::Unreachable(why) => Outcome::unknown(unreachable.unwrap_or(why)),
            });
        }
        let rank = |outcome: &Outcome| match outcome {
            Outcome::NotReady(_) => 0,
            Outcome::Unknown(_) => 1,
            Outcome::Ready => 2,
        };
        let worst = outcomes.into_iter().min_by_key(rank).unwrap_or_else(|| Outcome::unknown("nobody was asked"));
        self.context.metrics.proved(&worst, started.elapsed());
        worst
    }

    /// The API servers' own addresses.
    fn api_servers(&self, slices: &[EndpointsView]) -> Vec<Address> {
        if !self.context.settings.api_servers.is_empty() {
            return self.context.settings.api_servers.clone();
        }
        let addresses = endpoints::addresses(slices, "default", API_SERVERS, None);
        addresses.iter().map(|address| Address::new(address.ip().to_string(), address.port())).collect()
    }

    /// Whether identity is up; `at` is `None` where its endpoints have not been listed yet.
    async fn identity(&self, at: Option<&[SocketAddr]>, slices: &[EndpointsView], namespace: &str) -> Outcome {
        let Some(at) = at else { return unlisted() };
        match self.context.settings.identity_by {
            IdentityBy::Endpoints if endpoints::ready(slices, namespace, service::IDENTITY) > 0 => Outcome::Ready,
            IdentityBy::Endpoints => not_there(service::IDENTITY, namespace),
            IdentityBy::Ask if at.is_empty() => not_there(service::IDENTITY, namespace),
            IdentityBy::Ask => self.parts.identity(at).await,
        }
    }

    /// Whether another part says that it is ready; `at` likewise.
    async fn ready(&self, component: Component, at: Option<&[SocketAddr]>) -> Outcome {
        if !self.context.settings.require.contains(&component) {
            return Outcome::unknown("not required");
        }
        let Some(at) = at else { return unlisted() };
        if at.is_empty() {
            return Outcome::not_ready(format!("the Service of {component} has no endpoint"));
        }
        self.parts.ready(at).await
    }

    fn step(&mut self, evidence: &Evidence) {
        let before = std::mem::take(&mut self.gate);
        self.gate = before.clone().step(&self.policy, evidence);
        match Change::between(&before, &self.gate) {
            None => {}
            Some(change) if change.is_setback() => warn!("proof: {change}"),
            Some(change) => info!("proof: {change}"),
        }
    }

    fn publish(&self) {
        let slices = self.seen.endpoints.borrow();
        let before = self.published.borrow().clone();
        let identity = if slices.is_known() {
            let view = self.seen.webhooks().and_then(Result::ok).unwrap_or_default();
            endpoints::addresses(slices.iter(), &linkerds_namespace(&view), service::IDENTITY, None)
        } else {
            // What the last prover knew is better than nothing.
            before.identity.clone()
        };
        let yield_to = self.yield_to().unwrap_or_else(|| before.yield_to.clone());
        self.context.metrics.yielding.set(i64::try_from(yield_to.len()).unwrap_or(i64::MAX));
        let publication = Publication::new(&self.gate, yield_to, identity);
        self.published.send_if_modified(|current| {
            let news = *current != publication;
            *current = publication;
            news
        });
    }

    fn yield_to(&self) -> Option<Vec<String>> {
        let essential = self.seen.essential(&self.context.settings.essential)?;
        let daemon_sets = self.seen.daemon_sets.borrow();
        let all = daemon_sets.objects.as_ref()?;
        Some(essential::yield_to(&self.context.settings.node_policy.taint_key, &essential, all.values()))
    }
}

/// Where Linkerd is: where its webhook says, else where the chart puts it.
fn linkerds_namespace(view: &WebhookView) -> String {
    let of = |endpoint: &Endpoint| match endpoint {
        Endpoint::Service { namespace, .. } => Some(namespace.clone()),
        Endpoint::Url(_) => None,
    };
    view.webhooks
        .iter()
        .find_map(|webhook| of(&webhook.endpoint))
        .unwrap_or_else(|| names::DEFAULT_NAMESPACE.to_owned())
}

fn unlisted() -> Outcome {
    Outcome::unknown("its EndpointSlices have not been seen yet")
}

fn not_there(service: &str, namespace: &str) -> Outcome {
    Outcome::not_ready(format!("Service {namespace}/{service} has no endpoint"))
}

fn through_which(server: &Address, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Ready => Outcome::Ready,
        Outcome::NotReady(reason) => Outcome::not_ready(format!("through API server {server}: {reason}")),
        Outcome::Unknown(reason) => Outcome::unknown(format!("through API server {server}: {reason}")),
    }
}
