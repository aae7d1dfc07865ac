//! A part's `/ready`, and the rule for services of several pods: one that answers is enough.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use reqwest::StatusCode;

use super::dns::Dns;
use super::{ADDRESSES_ASKED, PlainClient, error};
use crate::config::Address;
use crate::decide::ProbeResult;

/// Asks `/ready` of an admin port.
pub(super) struct Admin {
    address: Address,
    client: PlainClient,
}

// === impl Admin ===

impl Admin {
    pub(super) fn new(address: Address) -> Self {
        Self { address, client: PlainClient::new(reqwest::ClientBuilder::http1_only) }
    }

    pub(super) async fn look(&self, names: &Dns) -> ProbeResult {
        any(names, &self.address, |address| self.ask(address)).await
    }

    pub(super) async fn ask(&self, address: SocketAddr) -> ProbeResult {
        let client = match self.client.get() {
            Ok(client) => client,
            Err(why) => return why,
        };
        match client.get(format!("http://{address}/ready")).send().await {
            Ok(response) if response.status() == StatusCode::OK => ProbeResult::Ready,
            Ok(response) => {
                ProbeResult::not_ready(format!("{address} answered /ready with HTTP {}", response.status()))
            }
            Err(error) => error::outcome(&error, address).await,
        }
    }
}

/// Asks every address of a name at once: ready as soon as one of them is. A pod that died with its node and hangs does not
/// delay the word of one that lives. Where none is ready, the lowest address speaks for all, so that the reason does not
/// change with the order in which they happened to fail.
pub(super) async fn any<Answer: Future<Output = ProbeResult>>(
    names: &Dns,
    address: &Address,
    ask: impl Fn(SocketAddr) -> Answer,
) -> ProbeResult {
    match names.resolve(address).await {
        Ok(addresses) => any_of(addresses, ask).await,
        Err(outcome) => outcome,
    }
}

/// The same of addresses that are known.
pub(super) async fn any_of<Answer: Future<Output = ProbeResult>>(
    addresses: Vec<SocketAddr>,
    ask: impl Fn(SocketAddr) -> Answer,
) -> ProbeResult {
    let mut answers: FuturesUnordered<_> = addresses
        .into_iter()
        .take(ADDRESSES_ASKED)
        .map(|address| {
            let answer = ask(address);
            async move { (address, answer.await) }
        })
        .collect();
    let mut failures = BTreeMap::new();
    while let Some((address, answer)) = answers.next().await {
        if answer.is_ready() {
            return answer;
        }
        failures.insert(address, answer);
    }
    failures.into_values().next().unwrap_or_else(|| ProbeResult::unknown("it is not known where to ask"))
}
