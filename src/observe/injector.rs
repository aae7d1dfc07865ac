//! Is the proxy injector there? A GET of its HTTPS port, which it answers 200 with an empty body and no side effect.
//!
//! *Measured* with the genuine injector (edge-26.8.3). It does not prove that the API server can reach it, nor that the
//! API server trusts its certificate: the answer is *reachable*, never *proven*.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::StatusCode;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::dns::Dns;
use super::tls::Trust;
use super::{client, error};
use crate::config::{Address, DnsName};
use crate::decide::ProbeResult;

/// Asks the injector.
pub(super) struct Injector {
    address: Address,
    url: String,
    ca_file: Option<PathBuf>,
    /// The client, made when it is first used, and the trust that it was made with.
    client: Option<(Trust, reqwest::Client)>,
    pinned: Pinned,
}

/// Sends a request for the certificate's name to the address that was looked up for the service, which may be another.
#[derive(Clone, Debug, Default)]
struct Pinned(Arc<Mutex<Option<SocketAddr>>>);

// === impl Injector ===

impl Injector {
    pub(super) fn new(address: Address, name: &DnsName, ca_file: Option<PathBuf>) -> Self {
        let url = format!("https://{name}:{}/", address.port);
        Self { address, url, ca_file, client: None, pinned: Pinned::default() }
    }

    /// Whether the certificate's issuer is checked.
    pub(super) fn verifies_issuer(&self) -> bool {
        self.ca_file.is_some()
    }

    pub(super) async fn look(&mut self, names: &Dns) -> ProbeResult {
        let client = match self.follow_ca_file() {
            Ok(client) => client,
            Err(why) => return ProbeResult::unknown(why),
        };
        let addresses = match names.resolve(&self.address).await {
            Ok(addresses) => addresses,
            Err(outcome) => return outcome,
        };
        // A service has one address per family: the first that serves is enough, the last word is the reason.
        let mut last = ProbeResult::unknown("no address was asked");
        for address in addresses.into_iter().take(super::ADDRESSES_ASKED) {
            last = self.ask(&client, address).await;
            if last.is_ready() {
                break;
            }
        }
        last
    }

    async fn ask(&self, client: &reqwest::Client, address: SocketAddr) -> ProbeResult {
        self.pinned.set(address);
        match client.get(&self.url).send().await {
            Ok(response) if response.status() == StatusCode::OK && is_page(&response) => ProbeResult::not_ready(
                format!("{address} answered with a web page: something else than Linkerd's injector is there"),
            ),
            Ok(response) if response.status() == StatusCode::OK => ProbeResult::Ready,
            Ok(response) => ProbeResult::not_ready(format!("{address} answered HTTP {}", response.status())),
            Err(error) => error::outcome(&error, address).await,
        }
    }

    /// The client. A mounted bundle changes when the injector's certificate is rotated: a pod must not be held by an old one.
    fn follow_ca_file(&mut self) -> Result<reqwest::Client, String> {
        let trust = match (&self.ca_file, &self.client) {
            (None, Some((_, client))) => return Ok(client.clone()),
            (None, None) => Trust::NameOnly,
            (Some(path), _) => {
                Trust::read(Some(path)).map_err(|error| format!("LINKERD_GATE_CA_FILE={} {error}", path.display()))?
            }
        };
        match &self.client {
            Some((last, client)) if *last == trust => Ok(client.clone()),
            _ => {
                let client = https(&trust, &self.pinned)?;
                Ok(self.client.insert((trust, client)).1.clone())
            }
        }
    }
}

/// The genuine injector answers a GET without any body, hence without a type.
fn is_page(response: &reqwest::Response) -> bool {
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/html"))
}

fn https(trust: &Trust, pinned: &Pinned) -> Result<reqwest::Client, String> {
    let builder = client(trust).map_err(|error| error.to_string())?;
    builder.http1_only().dns_resolver(pinned.clone()).build().map_err(|error| error.to_string())
}

// === impl Pinned ===

impl Pinned {
    fn set(&self, address: SocketAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}

impl Resolve for Pinned {
    fn resolve(&self, _name: Name) -> Resolving {
        let address = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(std::future::ready(Ok(Box::new(address.into_iter()) as Addrs)))
    }
}
