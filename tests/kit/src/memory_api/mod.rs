//! An API server that keeps objects in memory: as much of one as a controller needs that lists, watches, creates, patches and
//! deletes. It starts in a millisecond and costs nothing, so that a demo needs no cluster and a test can have dozens.
//!
//! Whatever it stores is plain JSON; it validates nothing, and whoever connects may do everything. Its resource versions,
//! preconditions, conflicts, patches and watches are those of a genuine API server: `tests/kit/tests/alike.rs` sends the same
//! requests to both.

mod faults;
mod http;
mod store;

pub use self::faults::{Faults, WatchFault};
pub use self::store::{Change, Key, Selection, Store};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

/// What has its say before a pod is stored.
#[async_trait]
pub trait Admission: Send + Sync {
    /// The pod as it is to be stored.
    ///
    /// # Errors
    /// A refusal, in words for whoever creates it.
    async fn admit(&self, store: &Store, pod: Value) -> Result<Value>;
}

/// The server; it ends with this value.
pub struct MemoryApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

/// What all connections share.
struct Shared {
    store: Store,
    admission: Arc<dyn Admission>,
    faults: Faults,
}

// === impl MemoryApi ===

impl MemoryApi {
    /// Starts it on a port of loopback.
    ///
    /// # Errors
    /// No port.
    pub async fn start(admission: Arc<dyn Admission>) -> Result<Self> {
        Self::start_with(admission, Faults::default()).await
    }

    /// The same, with faults in what it says over HTTP.
    ///
    /// # Errors
    /// No port.
    pub async fn start_with(admission: Arc<dyn Admission>, faults: Faults) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the API server")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { store: Store::default(), admission, faults });
        let mut connections = JoinSet::new();
        connections.spawn(http::accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _connections: connections })
    }

    /// What it keeps: whoever plays a part of the cluster reads and writes there, without HTTP and without faults.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Its faults.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "clusters": [{"name": "memory", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "anyone", "user": {}}],
            "contexts": [{"name": "memory", "context": {"cluster": "memory", "user": "anyone"}}],
            "current-context": "memory",
        });
        config.to_string()
    }
}
