//! `controller`: a Deployment of two replicas, of which one acts: it replaces missed pods, retries refused owners, and opens nodes
//! whose agent is gone.
//!
//! Both follow one Lease; the one that holds it, and it alone, watches the cluster and does the rest:
//!
//! ```text
//!  leader ── the Lease ──► the one that leads:
//!    watches ──► prover ──► gate ──► repair, writes ──► pods and Jobs ┐
//!       └──────────────────────────► retry ───────────► owners        ├─► Events, by event_recorder
//!       └──────────────────────────► orphan_nodes ────► nodes' taint  ┘
//! ```
//!
//! A loop writes only while its Lease was renewed within [`RENEW_DEADLINE`] and its watches are in sync. It deletes, evicts and
//! retries only on the controller's own proof; it suspends a Job, removes our gate and opens an orphan node without one.

mod admission;
mod election;
mod event_recorder;
mod late;
mod orphan_nodes;
mod prover;
mod repair;
mod report;
mod retry;
mod watches;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument as _, error_span, info, warn};

use self::election::Election;
use crate::cluster::watch::Seen;
use crate::cluster::{Access, Client, lease};
use crate::config::{ControllerSettings, Mode};
use crate::decide::election::lease_record::{CONTROLLER_LEASE, LeaseHolder, RENEW_DEADLINE};
use crate::decide::gate_status::NodeStatus;
use crate::decide::{Gate, GateStatus, ProbeResult};
use crate::exit::Exit;
use crate::http::Face;
use crate::metrics::Metrics;
use crate::role::process::{STEP_DOWN_DEADLINE, StartError, serve, wall};

/// What all loops share.
struct Context {
    settings: ControllerSettings,
    access: Access,
    /// For requests that are answered at once.
    client: Client,
    /// This very replica.
    me: LeaseHolder,
    /// What instants are counted from.
    epoch: Instant,
    metrics: Arc<Metrics>,
    face: watch::Sender<Face>,
}

/// Runs until `shutdown` completes with a signal's name.
///
/// # Errors
/// [`StartError`] when it cannot even begin; once it runs, every failure is a reason to leave things as they are.
pub async fn run(
    settings: ControllerSettings,
    shutdown: impl Future<Output = &'static str>,
) -> Result<Exit, StartError> {
    // At the highest level, so that no filter hides the replica of a line.
    let span = error_span!("controller", replica = settings.pod);
    start(settings, shutdown).instrument(span).await
}

async fn start(settings: ControllerSettings, shutdown: impl Future<Output = &'static str>) -> Result<Exit, StartError> {
    let access = match &settings.kubeconfig {
        Some(path) => Access::by_kubeconfig(path).await?,
        None => Access::in_cluster()?,
    };
    let client = access.client()?;
    // The pod's name comes first: two replicas may share a node.
    let me =
        LeaseHolder { name: settings.pod.clone(), detail: settings.node.clone(), incarnation: settings.uid.clone() };
    let first = face(&settings, &Gate::closed(), ProbeResult::unknown("it begins"));
    let (face_sink, face) = watch::channel(first);
    let epoch = Instant::now();
    let metrics = Arc::new(Metrics::controller());
    let context = Arc::new(Context { settings, access, client, me, epoch, metrics, face: face_sink });
    let repair = &context.settings.repair;
    info!(
        repair = %repair.repair,
        evicts = repair.evicts,
        retries_owners = context.settings.retry_owners,
        audit = !context.acts(),
        "controller started"
    );

    let (lease_sink, lease) = watch::channel(Seen::default());
    let (ended_sink, ended) = watch::channel(false);
    let watching = context.access.watching_the_lease()?;
    let mut follow = Box::pin(lease::follow_lease(watching, &context.settings.namespace, CONTROLLER_LEASE, lease_sink));
    let mut leader = Election::new(Arc::clone(&context), lease);
    let mut served = Box::pin(serve(context.settings.port, Arc::clone(&context.metrics), face, ended));
    let signal = tokio::select! {
        biased;
        signal = shutdown => signal,
        never = leader.run() => match never {},
        never = &mut follow => match never {},
        // It ends by `ended`, which is sent below.
        () = &mut served => return Ok(Exit::Internal),
    };
    info!(signal, "shutting down");
    tokio::select! {
        biased;
        () = leader.step_down() => {}
        never = &mut follow => match never {},
        () = tokio::time::sleep(STEP_DOWN_DEADLINE) => warn!("the API server did not answer in time: the Lease will expire"),
    }
    let _ = ended_sink.send(true); // The server may have ended already.
    served.await;
    Ok(Exit::Done)
}

fn face(settings: &ControllerSettings, gate: &Gate, readiness: ProbeResult) -> Face {
    let node = NodeStatus {
        name: settings.node.clone(),
        state: "unknown".to_owned(),
        reason: "this is a controller, which closes no node: ask the node's agent".to_owned(),
    };
    Face::new(&GateStatus::of(gate, &settings.proving.policy(), None, node), readiness)
}

// === impl Context ===

impl Context {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn acts(&self) -> bool {
        self.settings.mode == Mode::Enforce
    }

    fn show(&self, gate: &Gate, readiness: ProbeResult) {
        self.metrics.open.set(i64::from(gate.is_open()));
        let shown = face(&self.settings, gate, readiness);
        self.face.send_if_modified(|current| {
            let news = *current != shown;
            *current = shown;
            news
        });
    }
}

/// Whether who renewed the Lease then still leads.
fn leads(renewed: &watch::Receiver<Instant>) -> bool {
    renewed.borrow().elapsed() < RENEW_DEADLINE
}
