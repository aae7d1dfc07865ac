//! Access to the API server: by the pod's own service account, by an agent's kubeconfig, or by a person's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::kubeconfig;
use crate::config::Address;

/// How long a connection to the API server may take. Unlike its neighbours, so that a reason tells which limit fired.
const CONNECT_LIMIT: Duration = Duration::from_millis(2250);

/// The same for a proof, which opens a new connection: an API server that boots is slow to shake hands, and a proof that gives up
/// early would hold what it could open.
const FRESH_CONNECT_LIMIT: Duration = Duration::from_millis(4250);

/// How long an answer may take: longer than the 10 s for which an API server waits for the injector before it fails open.
const ANSWER_LIMIT: Duration = Duration::from_secs(13);

/// How long a watch may be silent before its connection counts as dead. An API server sends a bookmark about once a minute.
const WATCH_LIMIT: Duration = Duration::from_secs(95);

/// The same for the Lease, which its holder renews every 5 s: without a holder, the watch restarts now and then.
const LEASE_WATCH_LIMIT: Duration = Duration::from_secs(25);

/// The name that every API server's certificate carries, whatever its address
/// (<https://kubernetes.io/docs/setup/best-practices/certificates/>).
const API_SERVER_NAME: &str = "kubernetes.default.svc";

/// What kubelet sets in every pod, by which the API server is found
/// (<https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>).
const IN_POD: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The pod has no service account token, or is not in a cluster.
    #[error(
        "no access to the API server: {0}; the pod needs a service account whose token is mounted \
         (automountServiceAccountToken)"
    )]
    InCluster(#[from] kube::config::InClusterError),
    /// This is no pod, or one whose variables were taken away.
    #[error(
        "no access to the API server: {} {} not set, which kubelet sets in every pod; outside of a pod, \
         `agent` and `controller` take LINKERD_GATE_KUBECONFIG=PATH, the path of a kubeconfig",
        .0.join(" and "),
        if .0.len() == 1 { "is" } else { "are" },
    )]
    NoPod(Vec<&'static str>),
    /// The kubeconfig cannot be used.
    #[error("no access to the API server by {}: {}", path.display(), kubeconfig::words(source))]
    KubeconfigFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<KubeconfigError>,
    },
    /// A person has no kubeconfig that can be used.
    #[error(
        "no access to a cluster: {}; name a kubeconfig with --kubeconfig or KUBECONFIG, and one of its contexts with \
         --context: `kubectl config get-contexts` lists them",
        kubeconfig::words(.0)
    )]
    Kubeconfig(#[from] KubeconfigError),
    /// The client could not be made.
    #[error("cannot make a client of the API server: {}", super::error::innermost(.0))]
    Build(#[from] kube::Error),
    /// The address of an API server is none.
    #[error("{0} is no address of an API server")]
    Address(String),
}

/// How the API server is reached, for roles that need more than one kind of client.
#[derive(Clone, Debug)]
pub struct Access {
    config: Config,
}

/// A client with a separate connection pool, by the pod's service account: the first request opens a fresh connection.
pub fn in_cluster() -> Result<Client, ClientError> {
    Access::in_cluster()?.client()
}

/// How a person gets at a cluster: as with kubectl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// The context of the kubeconfig; its current one where none is named.
    pub context: Option<String>,
    /// The kubeconfig; what `KUBECONFIG` names, or `~/.kube/config`, where none is named.
    pub kubeconfig: Option<PathBuf>,
    /// The user to impersonate.
    pub user: Option<String>,
    /// And as a member of which groups.
    pub groups: Vec<String>,
}

/// A client with a person's rights. In a pod without a kubeconfig those are its service account's.
///
/// # Errors
/// A kubeconfig that is missing, cannot be read, or has no such context.
pub async fn of_person(person: &Person) -> Result<Client, ClientError> {
    access_of_person(person).await?.client()
}

/// The same, for commands that need more than one kind of client.
///
/// # Errors
/// As [`of_person`].
pub async fn access_of_person(person: &Person) -> Result<Access, ClientError> {
    let options = KubeConfigOptions { context: person.context.clone(), ..KubeConfigOptions::default() };
    let found = match &person.kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await,
        None => Config::from_kubeconfig(&options).await,
    };
    let named = person.kubeconfig.is_some() || person.context.is_some();
    let mut config = match found {
        Ok(config) => config,
        // Whoever named one does not want another.
        Err(error) => match Config::incluster() {
            Ok(config) if !named => config,
            Ok(_) | Err(_) => return Err(error.into()),
        },
    };
    if let Some(user) = &person.user {
        config.auth_info.impersonate = Some(user.clone());
        config.auth_info.impersonate_groups = Some(person.groups.clone()).filter(|groups| !groups.is_empty());
    }
    Ok(Access::with(config))
}

// === impl Access ===

impl Access {
    /// By the pod's service account.
    pub fn in_cluster() -> Result<Self, ClientError> {
        let missing: Vec<_> =
            IN_POD.into_iter().filter(|name| std::env::var_os(name).is_none_or(|value| value.is_empty())).collect();
        if !missing.is_empty() {
            return Err(ClientError::NoPod(missing));
        }
        Ok(Self::with(Config::incluster()?))
    }

    /// By a kubeconfig file's current context.
    pub async fn by_kubeconfig(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::KubeconfigFile { path: path.to_owned(), source: Box::new(source) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
        let options = KubeConfigOptions::default();
        Ok(Self::with(Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?))
    }

    fn with(mut config: Config) -> Self {
        config.connect_timeout = Some(CONNECT_LIMIT);
        config.read_timeout = Some(ANSWER_LIMIT);
        // Counted from the question: otherwise one that is asked on a connection which was idle for 12 s would have 1 s left.
        config.reset_reader_on_write = true;
        // Our own schedules decide when to try again; two kinds of retry would multiply.
        config.default_retry = false;
        Self { config }
    }

    /// For requests that are answered at once.
    pub fn client(&self) -> Result<Client, ClientError> {
        Ok(Client::try_from(self.config.clone())?)
    }

    /// For watches.
    pub fn watching(&self) -> Result<Client, ClientError> {
        self.silent_for(WATCH_LIMIT)
    }

    /// For the watch of the Lease.
    pub fn watching_the_lease(&self) -> Result<Client, ClientError> {
        self.silent_for(LEASE_WATCH_LIMIT)
    }

    /// On a fresh connection to this very API server; without an address, to whichever the cluster's own address leads to. `limit`
    /// is how long an answer may take.
    pub fn fresh(&self, server: Option<&Address>, limit: Duration) -> Result<Client, ClientError> {
        let mut config = self.config.clone();
        config.connect_timeout = Some(FRESH_CONNECT_LIMIT);
        config.read_timeout = Some(limit);
        if let Some(server) = server {
            let url = format!("https://{server}");
            config.cluster_url = url.parse().map_err(|_| ClientError::Address(server.to_string()))?;
            // A name that was configured is for all of them; otherwise the one that all certificates have.
            config.tls_server_name.get_or_insert_with(|| API_SERVER_NAME.to_owned());
        }
        Ok(Client::try_from(config)?)
    }

    fn silent_for(&self, limit: Duration) -> Result<Client, ClientError> {
        let mut config = self.config.clone();
        config.read_timeout = Some(limit);
        Ok(Client::try_from(config)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use kube::Api;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    /// Answers each request on the connections that it takes after this pause.
    async fn answer_after(pause: Duration, listener: TcpListener) -> std::io::Result<()> {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut question = [0; 4096];
            while stream.read(&mut question).await? > 0 {
                sleep(pause).await;
                let body = r#"{"metadata":{"name":"n"}}"#;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).await?;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_takes_no_time_from_the_next_answer() {
        let _already_there = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let access = Access::with(Config::new(server.parse().unwrap()));
        let nodes: Api<Node> = Api::all(access.client().unwrap());
        let asked = async {
            nodes.get("n").await.unwrap();
            sleep(ANSWER_LIMIT.saturating_sub(Duration::from_secs(1))).await;
            nodes.get("n").await.unwrap();
        };
        tokio::select! {
            _ = answer_after(Duration::from_secs(5), listener) => unreachable!("it serves for ever"),
            () = asked => {}
        }
    }
}
