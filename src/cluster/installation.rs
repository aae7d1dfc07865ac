//! Our own DaemonSet: since when linkerd-gate has been here, and whether it is going away.

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Client;
use kube::api::Api;

use super::error::describe;

/// The name of the agents' DaemonSet.
pub const DAEMON_SET: &str = "linkerd-gate";

/// What is known of the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installation {
    /// It is there, since that second of the Unix epoch by the API server's clock.
    Since(i64),
    /// It is being removed, or is gone.
    Removed,
}

/// Reads the DaemonSet.
///
/// # Errors
/// Why it is not known, in one sentence.
pub async fn installation(client: Client, namespace: &str) -> Result<Installation, String> {
    let found = Api::<DaemonSet>::namespaced(client, namespace).get_opt(DAEMON_SET).await;
    let found = found.map_err(|error| describe(&format!("get daemonset {DAEMON_SET}"), &error))?;
    let metadata = found.map(|daemon_set| daemon_set.metadata);
    Ok(match metadata.filter(|metadata| metadata.deletion_timestamp.is_none()).and_then(|it| it.creation_timestamp) {
        Some(created) => Installation::Since(created.0.as_second()),
        None => Installation::Removed,
    })
}
