//! A client of the API server, by the pod's own service account.

use std::time::Duration;

use kube::{Client, Config};

/// How long a connection to the API server may take. Unlike its neighbours, so that a reason tells which limit fired.
const CONNECT_LIMIT: Duration = Duration::from_millis(2250);

/// How long an answer may take: longer than the 10 s for which an API server waits for the injector before it fails open.
const ANSWER_LIMIT: Duration = Duration::from_secs(13);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The pod has no service account token, or is not in a cluster.
    #[error(
        "no access to the API server: {0}; the pod needs a service account whose token is mounted \
         (automountServiceAccountToken)"
    )]
    InCluster(#[from] kube::config::InClusterError),
    /// The client could not be made.
    #[error("cannot make a client of the API server: {0}")]
    Build(#[from] kube::Error),
}

/// A client with a connection pool of its own: the first request opens a fresh connection.
pub fn in_cluster() -> Result<Client, ClientError> {
    let mut config = Config::incluster()?;
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(ANSWER_LIMIT);
    // Our own schedules decide when to try again; two kinds of retry would multiply.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
