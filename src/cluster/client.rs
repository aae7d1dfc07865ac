//! A client of the API server: by the pod's own service account, or by a person's kubeconfig.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
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
    /// The kubeconfig cannot be used.
    #[error(
        "no access to a cluster: {0}; name a kubeconfig with --kubeconfig or KUBECONFIG, and one of its contexts with \
         --context: `kubectl config get-contexts` lists them"
    )]
    Kubeconfig(#[from] KubeconfigError),
    /// The client could not be made.
    #[error("cannot make a client of the API server: {0}")]
    Build(#[from] kube::Error),
}

/// How a person gets at a cluster: as with kubectl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The context of the kubeconfig; its current one where none is named.
    pub context: Option<String>,
    /// The kubeconfig; what `KUBECONFIG` names, or `~/.kube/config`, where none is named.
    pub kubeconfig: Option<PathBuf>,
    /// Whom to impersonate.
    pub user: Option<String>,
    /// And as a member of which groups.
    pub groups: Vec<String>,
}

/// A client with a connection pool of its own: the first request opens a fresh connection.
pub fn in_cluster() -> Result<Client, ClientError> {
    client(Config::incluster()?)
}

/// A client with a person's rights. In a pod without a kubeconfig those are its service account's.
///
/// # Errors
/// A kubeconfig that is not there, cannot be read, or has no such context.
pub async fn of_person(access: &Access) -> Result<Client, ClientError> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let found = match &access.kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await,
        None => Config::from_kubeconfig(&options).await,
    };
    let named = access.kubeconfig.is_some() || access.context.is_some();
    let mut config = match found {
        Ok(config) => config,
        // Whoever named one does not want another.
        Err(error) => match Config::incluster() {
            Ok(config) if !named => config,
            Ok(_) | Err(_) => return Err(error.into()),
        },
    };
    if let Some(user) = &access.user {
        config.auth_info.impersonate = Some(user.clone());
        config.auth_info.impersonate_groups = Some(access.groups.clone()).filter(|groups| !groups.is_empty());
    }
    client(config)
}

fn client(mut config: Config) -> Result<Client, ClientError> {
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(ANSWER_LIMIT);
    // Our own schedules decide when to try again; two kinds of retry would multiply.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
