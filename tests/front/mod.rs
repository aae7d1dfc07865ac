//! A server in front of an API server, or in its place: it answers what a test says, and cuts connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What is answered; nothing where the connection is cut instead.
pub type Answer = Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Option<Response<Bytes>>> + Send + Sync>;

/// Serves until it is dropped.
pub struct Front {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

// === impl Front ===

impl Front {
    /// On a free port of 127.0.0.1.
    pub async fn start(answer: Answer) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((wire, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                connections.spawn(async move {
                    let service = service_fn(move |request| answered(Arc::clone(&answer), request));
                    // That it was cut is what the test wanted.
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(wire), service).await;
                });
            }
        });
        Ok(Self { address, _serving: serving })
    }

    /// Writes a kubeconfig that leads here.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "front",
            "clusters": [{"name": "front", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "front", "user": {}}],
            "contexts": [{"name": "front", "context": {"cluster": "front", "user": "front"}}],
        });
        std::fs::write(path, config.to_string()).context("a kubeconfig")
    }
}

async fn answered(answer: Answer, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let response = answer(Request::from_parts(parts, body)).await.context("cut")?;
    Ok(response.map(Full::new))
}
