//! An API server that keeps objects in memory: as much of one as a controller needs that lists, watches, creates, patches and
//! deletes. Whatever it stores is plain JSON; it validates nothing, and whoever connects may do everything.

mod admission;
mod http;
mod store;

pub use self::admission::{Admission, Admitted};
pub use self::store::{Key, Selection, Store};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

/// The server; it ends with this value.
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

/// What all connections share.
struct Shared {
    store: Store,
    admission: Admission,
}

// === impl ApiServer ===

impl ApiServer {
    /// Starts it on a port of loopback.
    ///
    /// # Errors
    /// No port.
    pub async fn start(admission: Admission) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the API server")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { store: Store::default(), admission });
        let mut connections = JoinSet::new();
        connections.spawn(http::accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _connections: connections })
    }

    /// What it keeps: whoever plays a part of the cluster reads and writes there, without HTTP.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Creates a pod as every client does: admission has its say.
    ///
    /// # Errors
    /// The injector denies it.
    pub async fn create_pod(&self, pod: Value) -> Result<Admitted> {
        let admitted = self.shared.admission.admit(&self.shared.store, pod).await?;
        let stored = self.shared.store.put(&Key::of("/api/v1/pods", &admitted.pod), admitted.pod);
        Ok(Admitted { pod: stored, ..admitted })
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "clusters": [{"name": "played", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "controller", "user": {}}],
            "contexts": [{"name": "played", "context": {"cluster": "played", "user": "controller"}}],
            "current-context": "played",
        });
        config.to_string()
    }
}
