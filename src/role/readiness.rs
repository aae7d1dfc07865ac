//! One look at everything that a proof takes: for the agents' prover and for the controller alike.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::cluster::dry_run::{self, DryRun};
use crate::cluster::linkerd::{follow_endpoints, follow_webhooks};
use crate::cluster::watch::Seen;
use crate::cluster::{Access, Client};
use crate::config::{Address, Component, IdentityBy, Proving};
use crate::decide::readiness::control_plane;
use crate::decide::{Evidence, Gate, LinkerdInstallation, Policy, Probe, ProbeResult};
use crate::linkerd::endpoints::{self, EndpointsView};
use crate::linkerd::names::{port, service};
use crate::linkerd::webhook::Endpoint;
use crate::linkerd::{WebhookView, names};
use crate::metrics::Metrics;
use crate::observe::ControlPlane;
use crate::retry::Schedule;

/// The Service of the API servers, in namespace `default`.
const API_SERVERS: &str = "kubernetes";

/// What has to be seen of Linkerd for a proof. A clone has read what the original has read, and goes on by itself.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) webhooks: watch::Receiver<Seen<MutatingWebhookConfiguration>>,
    pub(super) endpoints: watch::Receiver<Seen<EndpointsView>>,
}

/// Whoever looks.
pub(super) struct Prober {
    pub(super) access: Access,
    /// What instants are counted from.
    pub(super) epoch: Instant,
    pub(super) wanted: Proving,
    pub(super) control_plane: ControlPlane,
    pub(super) metrics: Arc<Metrics>,
    pub(super) seen: Watched,
}

/// The pauses between two looks.
pub(super) struct Pauses {
    proving: Schedule,
    again: Schedule,
}

// === impl Watched ===

impl Watched {
    /// Begins to watch, in tasks of this set.
    pub(super) fn begin(client: &Client, tasks: &mut JoinSet<Infallible>) -> Self {
        let (sink, webhooks) = watch::channel(Seen::default());
        tasks.spawn(follow_webhooks(client.clone(), sink));
        let (sink, endpoints) = watch::channel(Seen::default());
        let services = [service::PROXY_INJECTOR, service::IDENTITY, service::DESTINATION, service::POLICY, API_SERVERS];
        let services = services.map(str::to_owned);
        let client = client.clone();
        tasks.spawn(async move { follow_endpoints(client, &services, sink).await });
        Self { webhooks, endpoints }
    }

    /// The injector's webhooks; nothing before they were seen, an error where they cannot be read.
    pub(super) fn webhooks(&self) -> Option<Result<WebhookView, String>> {
        let seen = self.webhooks.borrow();
        let configurations = seen.objects.as_ref()?;
        Some(WebhookView::new(configurations.values()).map_err(|error| error.to_string()))
    }

    /// The EndpointSlices; nothing before they were listed.
    pub(super) fn slices(&self) -> Option<Vec<EndpointsView>> {
        self.endpoints.borrow().objects.as_ref().map(|slices| slices.values().cloned().collect())
    }

    /// What, when it changes, makes another proof worth while before its time.
    pub(super) fn inputs(&self) -> (Option<Result<WebhookView, String>>, Option<Vec<EndpointsView>>) {
        (self.webhooks(), self.slices())
    }

    /// What keeps the watches from seeing, one sentence each.
    pub(super) fn troubles(&self) -> BTreeSet<String> {
        [self.webhooks.borrow().trouble.clone(), self.endpoints.borrow().trouble.clone()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Webhooks without a server, which another webhook replaces, one sentence each.
    pub(super) fn superseded(&self) -> BTreeSet<String> {
        match (self.webhooks(), self.slices()) {
            (Some(Ok(view)), Some(slices)) => control_plane::superseded(&view, &slices).into_iter().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Whether both have been listed once.
    pub(super) fn is_known(&self) -> bool {
        self.webhooks.borrow().is_known() && self.endpoints.borrow().is_known()
    }

    /// Completes when one of them has changed.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.webhooks.changed() => {}
            Ok(()) = self.endpoints.changed() => {}
            // The watches are gone, and with them the prover.
            else => std::future::pending().await,
        }
    }
}

// === impl Prober ===

impl Prober {
    /// One look at everything that is required.
    pub(super) async fn probe(&self) -> Evidence {
        let taken = self.epoch.elapsed();
        let webhooks = self.seen.webhooks();
        let blind = self.seen.webhooks.borrow().trouble.clone();
        let (installation, webhook) = match (control_plane::webhook(webhooks.as_ref()), blind) {
            // Absent is what a list says that works, and not one that is remembered.
            ((LinkerdInstallation::Absent | LinkerdInstallation::Unseen, _), Some(why)) => {
                (LinkerdInstallation::Unseen, ProbeResult::unknown(why))
            }
            (found, _) => found,
        };
        let mut evidence = Evidence::at(taken).with_linkerd_installation(installation);
        let view = webhooks.and_then(Result::ok).unwrap_or_default();
        let slices = self.seen.slices();
        let injector = match installation {
            LinkerdInstallation::Unseen => ProbeResult::unknown("its webhook has not been seen yet"),
            LinkerdInstallation::Present | LinkerdInstallation::Absent => {
                control_plane::injector(&view, slices.as_ref())
            }
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
        // A dry-run costs the API server up to the webhook's timeout if no server answers: so not before one could.
        let worth = webhook.is_ready() && injector.is_ready();
        let servers = self.api_servers(slices.as_deref().unwrap_or_default());
        let (injection, identity, destination, policy) = tokio::join!(
            async {
                if worth {
                    self.prove(&servers, &view).await
                } else {
                    ProbeResult::unknown("not tried: the webhook or the injector is not ready")
                }
            },
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
            debug!(%probe, result = %outcome, "probe");
            evidence = evidence.with(probe, outcome);
        }
        evidence
    }

    /// Sends a dry-run pod through every API server, and takes the worst answer. Those that cannot be reached have no say, as long
    /// as one can be.
    async fn prove(&self, servers: &[Address], view: &WebhookView) -> ProbeResult {
        // The API server itself waits for the webhook's timeout before it lets a pod pass.
        let patience =
            view.webhooks.iter().map(|webhook| webhook.timeout).max().unwrap_or_default() + Duration::from_millis(3300);
        let (namespace, labels) = (self.wanted.probe_namespace.as_str(), &self.wanted.probe_labels);
        let through = |server: Option<&Address>| {
            let client = self.access.fresh(server, patience + Duration::from_secs(1));
            async move {
                let client = match client {
                    Ok(client) => client,
                    Err(error) => return DryRun::Unreachable(error.to_string()),
                };
                // One that takes the request and does not answer has a say: it may be waiting for the injector.
                tokio::time::timeout(patience, dry_run::send(client, namespace, labels, Some(view)))
                    .await
                    .unwrap_or_else(|_| {
                        DryRun::Answered(ProbeResult::unknown(format!(
                            "the API server did not answer a dry-run pod in {patience:?}"
                        )))
                    })
            }
        };
        let started = Instant::now();
        let proofs = join_all(servers.iter().map(|server| through(Some(server)))).await;
        let mut outcomes: Vec<ProbeResult> = Vec::new();
        let mut unreachable = None;
        for (server, proof) in servers.iter().zip(proofs) {
            match proof.answer() {
                Ok(ProbeResult::Ready) => outcomes.push(ProbeResult::Ready),
                // Where there are several, it matters which.
                Ok(outcome) if servers.len() > 1 => outcomes.push(through_which(server, outcome)),
                Ok(outcome) => outcomes.push(outcome),
                Err(why) => unreachable = Some(why),
            }
        }
        if outcomes.is_empty() {
            // None of them by its own address: by the address that all clients use.
            let answer = through(None).await.answer();
            outcomes.push(answer.unwrap_or_else(|why| ProbeResult::unknown(unreachable.unwrap_or(why))));
        }
        let rank = |outcome: &ProbeResult| match outcome {
            ProbeResult::NotReady(_) => 0,
            ProbeResult::Unknown(_) => 1,
            ProbeResult::Ready => 2,
        };
        let worst =
            outcomes.into_iter().min_by_key(rank).unwrap_or_else(|| ProbeResult::unknown("no API server was asked"));
        self.metrics.proved(&worst, started.elapsed());
        worst
    }

    /// The API servers' own addresses.
    fn api_servers(&self, slices: &[EndpointsView]) -> Vec<Address> {
        if !self.wanted.api_servers.is_empty() {
            return self.wanted.api_servers.clone();
        }
        let addresses = endpoints::addresses(slices, "default", API_SERVERS, None);
        addresses.iter().map(|address| Address::new(address.ip().to_string(), address.port())).collect()
    }

    /// Whether identity is up; `at` is `None` where its endpoints have not been listed yet.
    async fn identity(&self, at: Option<&[SocketAddr]>, slices: &[EndpointsView], namespace: &str) -> ProbeResult {
        let Some(at) = at else { return unlisted() };
        match self.wanted.identity_by {
            IdentityBy::Endpoints if endpoints::ready(slices, namespace, service::IDENTITY) > 0 => ProbeResult::Ready,
            IdentityBy::Endpoints => not_there(service::IDENTITY, namespace),
            IdentityBy::Ask if at.is_empty() => not_there(service::IDENTITY, namespace),
            IdentityBy::Ask => self.control_plane.identity(at).await,
        }
    }

    /// Whether another part says that it is ready; `at` likewise.
    async fn ready(&self, component: Component, at: Option<&[SocketAddr]>) -> ProbeResult {
        if !self.wanted.require.contains(&component) {
            return ProbeResult::unknown("not required");
        }
        let Some(at) = at else { return unlisted() };
        if at.is_empty() {
            return ProbeResult::not_ready(format!("the Service of {component} has no endpoint"));
        }
        self.control_plane.ready(at).await
    }
}

// === impl Pauses ===

impl Default for Pauses {
    fn default() -> Self {
        Self { proving: Schedule::closed_probe(), again: Schedule::open_probe() }
    }
}

impl Pauses {
    /// The pause after a look that led to `gate`.
    pub(super) fn after(&mut self, gate: &Gate, policy: &Policy) -> Duration {
        match gate {
            Gate::Open { degraded: None, .. } => {
                self.proving.reset();
                self.again.next_pause()
            }
            // As many proofs as it takes, evenly over the time that it takes.
            Gate::Settling { .. } => {
                policy.settling() / policy.proofs().get().saturating_sub(1).max(1) + Duration::from_millis(2)
            }
            Gate::Open { .. } | Gate::Closed { .. } => self.proving.next_pause(),
        }
    }

    /// The pause before a look that something has made worth while: as if it were the first.
    pub(super) fn at_once(&mut self) -> Duration {
        self.proving.reset();
        self.proving.next_pause()
    }
}

/// Where Linkerd is: where its webhook says, else where the chart puts it.
pub(super) fn linkerds_namespace(view: &WebhookView) -> String {
    let of = |endpoint: &Endpoint| match endpoint {
        Endpoint::Service { namespace, .. } => Some(namespace.clone()),
        Endpoint::Url(_) => None,
    };
    view.webhooks
        .iter()
        .find_map(|webhook| of(&webhook.endpoint))
        .unwrap_or_else(|| names::DEFAULT_NAMESPACE.to_owned())
}

fn unlisted() -> ProbeResult {
    ProbeResult::unknown("its EndpointSlices have not been seen yet")
}

fn not_there(service: &str, namespace: &str) -> ProbeResult {
    ProbeResult::not_ready(format!("Service {namespace}/{service} has no endpoint"))
}

fn through_which(server: &Address, outcome: ProbeResult) -> ProbeResult {
    match outcome {
        ProbeResult::Ready => ProbeResult::Ready,
        ProbeResult::NotReady(reason) => ProbeResult::not_ready(format!("through API server {server}: {reason}")),
        ProbeResult::Unknown(reason) => ProbeResult::unknown(format!("through API server {server}: {reason}")),
    }
}

/// Awaits tasks that do not end: one that panics takes the process with it, one that was aborted is forgotten.
pub(super) async fn join(tasks: &mut JoinSet<Infallible>) -> Infallible {
    loop {
        match tasks.join_next().await {
            Some(Ok(never)) => match never {},
            Some(Err(error)) if error.is_cancelled() => {}
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }
}
