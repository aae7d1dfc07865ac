//! Can a proxy get a certificate? An empty Certify, which identity refuses without any effect.
//!
//! *Measured* with the genuine identity controller (edge-26.8.3): an empty `io.linkerd.proxy.identity.Identity/Certify`
//! over plaintext HTTP/2 is answered `grpc-status 3, "missing identity"`. There is no gRPC health service. A TCP connection
//! would prove nothing: a Linkerd proxy completes handshakes before anything behind it serves.

use std::net::SocketAddr;

use super::dns::Dns;
use super::{PlainClient, admin, error};
use crate::config::Address;
use crate::decide::ProbeResult;

/// gRPC's INVALID_ARGUMENT: <https://grpc.io/docs/guides/status-codes/>.
const INVALID_ARGUMENT: &str = "3";

/// One gRPC message of length zero: not compressed, no bytes.
const EMPTY_MESSAGE: [u8; 5] = [0; 5];

/// Asks identity.
pub(super) struct Identity {
    address: Address,
    client: PlainClient,
}

// === impl Identity ===

impl Identity {
    pub(super) fn new(address: Address) -> Self {
        Self { address, client: PlainClient::new(reqwest::ClientBuilder::http2_prior_knowledge) }
    }

    pub(super) async fn look(&self, names: &Dns) -> ProbeResult {
        admin::any(names, &self.address, |address| self.ask(address)).await
    }

    pub(super) async fn ask(&self, address: SocketAddr) -> ProbeResult {
        let client = match self.client.get() {
            Ok(client) => client,
            Err(why) => return why,
        };
        let request = client
            .post(format!("http://{address}/io.linkerd.proxy.identity.Identity/Certify"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(EMPTY_MESSAGE.to_vec());
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return error::outcome(&error, address).await,
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        match (header("grpc-status"), header("grpc-message").unwrap_or("without a message")) {
            (Some(INVALID_ARGUMENT), _) => ProbeResult::Ready,
            (Some(status), message) => {
                ProbeResult::not_ready(format!("{address} cannot certify: gRPC status {status}, {message}"))
            }
            (None, _) => ProbeResult::not_ready(format!("{address} answered HTTP {}, not gRPC", response.status())),
        }
    }
}
