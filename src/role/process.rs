//! What agent and controller do alike as processes: why they do not start, serving HTTP, shutting down, the wall clock.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::cluster::ClientError;
use crate::decide::readiness::policy::NothingRequired;
use crate::http::{self, Face, Limits};
use crate::metrics::Metrics;
use crate::retry::Schedule;

/// How long the last writes may take after a signal. Kubelet kills a container 30 s after it.
pub(super) const STEP_DOWN_DEADLINE: Duration = Duration::from_secs(8);

/// Why a role cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The id of the boot cannot be read.
    #[error("LINKERD_GATE_BOOT_ID_FILE={path} cannot be read: {source}", path = path.display())]
    BootId {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds no id.
    #[error("LINKERD_GATE_BOOT_ID_FILE={path} holds no boot id: {content:?}", path = path.display())]
    NoBootId {
        /// The file.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// There is no access to the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nothing is required.
    #[error(transparent)]
    Policy(#[from] NothingRequired),
}

/// Serves `/gate`, `/live`, `/ready` and `/metrics` until `ended` is true. While the port is taken, by the process that this one
/// replaces, everything else of the role goes on.
pub(super) async fn serve(
    port: u16,
    metrics: Arc<Metrics>,
    face: watch::Receiver<Face>,
    mut ended: watch::Receiver<bool>,
) {
    // Pods that wait must not wait for long after the other process has freed the port.
    let mut schedule = Schedule::accept_retry();
    let mut reported = None;
    let listener = loop {
        match http::bind(port) {
            Ok(listener) => {
                if reported.is_some() {
                    info!(port, "HTTP server started");
                }
                break listener;
            }
            Err(error) => {
                let error = error.to_string();
                if reported.as_ref() != Some(&error) {
                    warn!(port, error, "HTTP server not started yet");
                    reported = Some(error);
                }
            }
        }
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            () = tokio::time::sleep(schedule.next_pause()) => {}
        }
    };
    let end = async move {
        let _ = ended.wait_for(|ended| *ended).await; // The sender is gone: the role has ended.
    };
    if let Err(error) = http::serve(listener, face, metrics, Limits::default(), end).await {
        error!(port, %error, "HTTP server failed");
    }
}

/// The wall clock: for what people read, and for when a manual override ends. Everything else uses the role's own epoch.
pub(super) fn wall() -> Timestamp {
    Timestamp::now()
}
