//! `agent`: a DaemonSet that closes its node at each boot, opens it when injection is proven, and answers the `wait`s on it.
//!
//! Four loops on one thread, joined by channels that hold the latest value:
//!
//! ```text
//!  watches ──► node_reconciler ──► the node's taint and annotation, Events, /gate
//!     │              ▲ │ addresses
//!     │              │ ▼
//!     │           identity: probes it from this node
//!     └──► election ──► prover (on one agent of the cluster) ──► the Lease, essential pods' tolerations
//! ```
//!
//! The node reconciler does not know whether its own process proves: it reads the Lease like all agents.

mod controller_lease;
mod election;
mod identity;
mod node_reconciler;
mod prover;
mod taint_suppression;
mod tolerations;
mod watches;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument as _, error_span, info, warn};

use self::election::Election;
use self::node_reconciler::{Channels, NodeReconciler};
use crate::cluster::watch::Seen;
use crate::cluster::{self, Access, Client};
use crate::config::AgentSettings;
use crate::decide::election::lease_record;
use crate::decide::election::lease_record::LeaseHolder;
use crate::decide::{Follower, Gate, ProbeResult};
use crate::exit::Exit;
use crate::http::Face;
use crate::metrics::Metrics;
use crate::observe::ControlPlane;
use crate::role::process::{STEP_DOWN_DEADLINE, StartError, serve, wall};

/// What all loops share.
struct Context {
    settings: AgentSettings,
    access: Access,
    /// For requests that are answered at once.
    client: Client,
    /// This very agent.
    me: LeaseHolder,
    /// What instants are counted from.
    epoch: Instant,
    metrics: Arc<Metrics>,
}

/// Runs until `shutdown` completes with a signal's name.
///
/// # Errors
/// [`StartError`] when it cannot even begin; once it runs, every failure is a reason to stay as it is.
pub async fn run(settings: AgentSettings, shutdown: impl Future<Output = &'static str>) -> Result<Exit, StartError> {
    // At the highest level, so that no filter hides the node of a line.
    let span = error_span!("agent", node = settings.node);
    start(settings, shutdown).instrument(span).await
}

async fn start(settings: AgentSettings, shutdown: impl Future<Output = &'static str>) -> Result<Exit, StartError> {
    let boot = boot_id(&settings)?;
    let access = match &settings.kubeconfig {
        Some(path) => Access::by_kubeconfig(path).await?,
        None => Access::in_cluster()?,
    };
    let client = access.client()?;
    let me = LeaseHolder { name: settings.node.clone(), detail: settings.pod.clone(), incarnation: boot };
    info!(boot = me.incarnation, "agent started");
    let context = Arc::new(Context {
        access,
        client,
        me,
        epoch: Instant::now(),
        metrics: Arc::new(Metrics::default()),
        settings,
    });

    let (node_sink, node) = watch::channel(Seen::default());
    let (lease_sink, lease) = watch::channel(Seen::default());
    let (controller_sink, controller) = watch::channel(Seen::default());
    let (wants_controller, controller_wanted) = watch::channel(false);
    let (addresses_sink, addresses) = watch::channel(Vec::new());
    let (identity_sink, identity) = watch::channel(ProbeResult::unknown("its addresses are not known yet"));
    let (gate_sink, gate) = watch::channel(Gate::closed());
    let (face_sink, face) =
        watch::channel(Face::new(&node_reconciler::first_answer(&context), ProbeResult::unknown("it begins")));
    let (ended_sink, ended) = watch::channel(false);

    let follow_node = pin!(cluster::node::follow_node(context.access.watching()?, &context.settings.node, node_sink));
    let lease_client = context.access.watching_the_lease()?;
    let namespace = &context.settings.namespace;
    let follow_lease =
        pin!(cluster::lease::follow_lease(lease_client, namespace, lease_record::PROVER_LEASE, lease_sink));
    let controller_client = context.access.watching_the_lease()?;
    let follow_controller = controller_lease::follow(controller_client, namespace, controller_wanted, controller_sink);
    let (mut follow_node, mut follow_lease) = (follow_node, follow_lease);
    let ask_identity =
        identity::ask(ControlPlane::new(), context.settings.proving.identity_by, addresses, identity_sink);
    let follower = Follower::new(&context.settings.proving.policy())?;
    let ends = Channels {
        node,
        lease: lease.clone(),
        controller,
        wants_controller,
        identity,
        addresses: addresses_sink,
        gate: gate_sink,
        face: face_sink,
    };
    let mut reconciler = NodeReconciler::new(Arc::clone(&context), follower, ends);
    let mut election = Election::new(Arc::clone(&context), lease, gate);
    let mut served = Box::pin(serve(context.settings.port, Arc::clone(&context.metrics), face, ended));

    let signal = tokio::select! {
        biased;
        signal = shutdown => signal,
        never = reconciler.run() => match never {},
        never = election.run() => match never {},
        never = ask_identity => match never {},
        never = &mut follow_node => match never {},
        never = &mut follow_lease => match never {},
        never = follow_controller => match never {},
        // It ends by `ended`, which is sent below.
        () = &mut served => return Ok(Exit::Internal),
    };
    info!(signal, "shutting down");
    let step_down = async {
        // The node first: the Lease expires by itself.
        reconciler.shut_down().await;
        election.step_down().await;
    };
    tokio::select! {
        biased;
        () = step_down => {}
        // Kubelet writes its Node in the same moments: the last write has to see that.
        never = follow_node => match never {},
        never = follow_lease => match never {},
        () = tokio::time::sleep(STEP_DOWN_DEADLINE) => {
            warn!("the API server did not answer in time: node and Lease are unchanged");
        }
    }
    let _ = ended_sink.send(true); // The server may have ended already.
    served.await;
    Ok(Exit::Done)
}

fn boot_id(settings: &AgentSettings) -> Result<String, StartError> {
    let path = &settings.boot_id_file;
    let content = std::fs::read_to_string(path).map_err(|source| StartError::BootId { path: path.clone(), source })?;
    let id = content.trim();
    // A UUID, as random(4) says; other sources may have other ids, but none has white space or nothing in it.
    if id.is_empty() || id.len() > 64 || id.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
        return Err(StartError::NoBootId { path: path.clone(), content: id.chars().take(64).collect() });
    }
    Ok(id.to_owned())
}

// === impl Context ===

impl Context {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}
