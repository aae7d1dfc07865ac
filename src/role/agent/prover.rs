//! The prover: gathers evidence for the whole cluster, and publishes what its gate says of it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Context;
use super::watches::{API_SERVERS, Watches};
use crate::cluster::essential::{self as pods, Tolerated};
use crate::cluster::probe::{self, Proof};
use crate::config::{Address, Component, IdentityBy, Mode};
use crate::decide::essential::{self, Tolerate};
use crate::decide::lease::LEADS_FOR;
use crate::decide::{Change, Evidence, Gate, Installation, Outcome, Policy, Probe, Publication, parts};
use crate::linkerd::endpoints::{self, EndpointsView};
use crate::linkerd::names::{port, service};
use crate::linkerd::webhook::Endpoint;
use crate::linkerd::{WebhookView, names};
use crate::metrics::Written;
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
    /// When the Lease was renewed last: who has not renewed in time does not act.
    renewed: watch::Receiver<Instant>,
    watches: Watches,
    /// Pods whose toleration was refused, by uid: not asked for again until they change.
    refused: BTreeSet<String>,
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
    let prover = Prover { context, policy, parts, gate, published, renewed, watches, refused: BTreeSet::new() };
    prover.run().await
}

// === impl Prover ===

impl Prover {
    async fn run(mut self) -> Infallible {
        let mut proving = Schedule::proving();
        let mut again = Schedule::proving_again();
        let mut next = Instant::now();
        // A look before anything was listed would only say so; an API server that lists nothing is said after a moment.
        let _said_by_the_look = tokio::time::timeout(FIRST_LISTS, self.watches.listed()).await;
        let mut watched = self.facts();
        loop {
            self.tend_essential().await;
            self.publish();
            if Instant::now() >= next {
                let evidence = self.look().await;
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
                () = self.watches.changed() => {
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
        let endpoints = self.watches.endpoints.borrow();
        let slices = endpoints.objects.as_ref().map(|slices| slices.values().cloned().collect());
        (self.watches.webhooks(), slices)
    }

    /// One look at everything that is required.
    async fn look(&mut self) -> Evidence {
        let taken = self.context.now();
        let webhooks = self.watches.webhooks();
        let (installation, webhook) = parts::webhook(webhooks.as_ref());
        let mut evidence = Evidence::at(taken).with_installation(installation);
        let view = webhooks.and_then(Result::ok).unwrap_or_default();
        let slices: Option<Vec<EndpointsView>> = {
            let endpoints = self.watches.endpoints.borrow();
            endpoints.objects.as_ref().map(|slices| slices.values().cloned().collect())
        };
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
            let client = self.context.access.fresh(server);
            async move {
                let proof = match client {
                    Ok(client) => tokio::time::timeout(patience, probe::send(client, namespace)).await,
                    Err(error) => return Proof::Unreachable(error.to_string()),
                };
                proof.unwrap_or_else(|_| {
                    Proof::Unreachable(format!("the API server did not answer a dry-run pod in {patience:?}"))
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
        let slices = self.watches.endpoints.borrow();
        let before = self.published.borrow().clone();
        let identity = if slices.is_known() {
            let view = self.watches.webhooks().and_then(Result::ok).unwrap_or_default();
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

    /// The essential namespaces; nothing while what decides about them is not known.
    fn essential(&self) -> Option<BTreeSet<String>> {
        let webhooks = self.watches.webhooks()?.ok()?;
        let namespaces = self.watches.namespaces.borrow();
        let all = namespaces.objects.as_ref()?;
        Some(essential::namespaces(&webhooks, all.values(), &self.context.settings.essential))
    }

    fn yield_to(&self) -> Option<Vec<String>> {
        let essential = self.essential()?;
        let daemon_sets = self.watches.daemon_sets.borrow();
        let all = daemon_sets.objects.as_ref()?;
        Some(essential::yield_to(&self.context.settings.node_policy.taint_key, &essential, all.values()))
    }

    /// Follows the pods of essential namespaces, and gives those that wait for a node the toleration that they lack.
    async fn tend_essential(&mut self) {
        let Some(essential) = self.essential() else { return };
        self.watches.follow_pods(&self.context, &essential);
        if !self.context.settings.node_policy.taints {
            return;
        }
        let key = &self.context.settings.node_policy.taint_key;
        let wanting = essential::tolerate(key, &essential, &self.watches.pods());
        self.refused.retain(|uid| wanting.iter().any(|pod| pod.uid == *uid));
        for pod in wanting {
            if self.refused.contains(&pod.uid) {
                continue;
            }
            // Asked again here: between two writes a process may have been stopped for any time.
            if self.renewed.borrow().elapsed() >= LEADS_FOR {
                return;
            }
            self.tolerate(&pod).await;
        }
    }

    async fn tolerate(&mut self, pod: &Tolerate) {
        let name = format!("{}/{}", pod.namespace, pod.name);
        // Once per pod: what came of it the watch tells, and a pod that cannot be helped is not asked for again.
        self.refused.insert(pod.uid.clone());
        if self.context.settings.mode == Mode::Audit {
            self.context.metrics.toleration_given(Written::Audit);
            info!("audit: essential pod {name} would get the toleration of our taint");
            return;
        }
        let key = &self.context.settings.node_policy.taint_key;
        let result = pods::tolerate(self.context.client.clone(), key, pod).await;
        self.context.metrics.toleration_given(match &result {
            Ok(Tolerated::Added) => Written::Done,
            Ok(Tolerated::Overtaken) => Written::Conflict,
            Err(_) => Written::Failed,
        });
        match result {
            Ok(Tolerated::Added) => {
                info!("essential pod {name} may go to closed nodes now: it got the toleration of our taint");
            }
            Ok(Tolerated::Overtaken) => {}
            Err(why) => warn!("essential pod {name} cannot go to closed nodes: {why}"),
        }
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
