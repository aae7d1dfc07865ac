//! What the node's agent says: one question, one answer, or the reason why there is none.

use std::net::SocketAddr;
use std::time::Duration;

use super::dns::Dns;
use super::{error, plain_client};
use crate::config::Address;
use crate::decide::GateStatus;

/// How long a connection to the agent may take: it is on this very node.
const CONNECT_LIMIT: Duration = Duration::from_millis(650);

/// How long an answer may take, the connection included, on top of the time that the agent was given to wait.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);

/// An answer is some hundred bytes; one with every probe's longest reason, twice, is less than this.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Asks the node's agent.
pub struct AgentClient {
    address: Address,
    names: Dns,
    client: reqwest::Client,
}

/// Why there is no answer. None of these says anything of Linkerd.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// No server answers there.
    #[error("{0}")]
    Unreachable(String),
    /// A server answers that is no agent, or an agent of another version.
    #[error("{0} is no agent that this version knows: {1}")]
    NotAnAgent(SocketAddr, String),
}

/// Why the agent cannot be asked at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an HTTP client for the agent: {0}")]
pub struct AgentError(#[from] reqwest::Error);

// === impl AgentClient ===

impl AgentClient {
    /// Prepares to ask at `address`. Sends nothing.
    ///
    /// # Errors
    /// An HTTP client that cannot be made.
    pub fn new(address: Address) -> Result<Self, AgentError> {
        let client = plain_client().http1_only().connect_timeout(CONNECT_LIMIT).build()?;
        Ok(Self { address, names: Dns::default(), client })
    }

    /// One question: what holds now, or, with `wait`, as soon as it is open, and after that time at the latest.
    ///
    /// # Errors
    /// Whatever is not an agent's answer.
    pub async fn ask(&self, wait: Option<Duration>) -> Result<GateStatus, NoAnswer> {
        let addresses = self.names.resolve(&self.address).await;
        let address = match addresses.as_deref() {
            Ok([first, ..]) => *first,
            Ok([]) => return Err(NoAnswer::Unreachable(format!("{} has no address", self.address))),
            Err(outcome) => {
                return Err(NoAnswer::Unreachable(outcome.reason().map(ToString::to_string).unwrap_or_default()));
            }
        };
        let query = wait.map(|wait| format!("?wait={}s", wait.as_secs())).unwrap_or_default();
        let limit = wait.unwrap_or_default() + ANSWER_LIMIT;
        let sent = self.client.get(format!("http://{address}/gate{query}")).timeout(limit).send().await;
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => return Err(unreachable(&error, address, limit).await),
        };
        let stranger = |why: String| NoAnswer::NotAnAgent(address, why);
        let status = response.status().as_u16();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= LONGEST_ANSWER => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return Err(stranger(format!("its answer is longer than {LONGEST_ANSWER} bytes"))),
                Ok(None) => break,
                Err(error) => return Err(unreachable(&error, address, limit).await),
            }
        }
        GateStatus::read(status, &body).map_err(|error| stranger(error.to_string()))
    }
}

async fn unreachable(error: &reqwest::Error, address: SocketAddr, limit: Duration) -> NoAnswer {
    if error.is_timeout() {
        return NoAnswer::Unreachable(if error.is_connect() {
            format!("{address} did not answer a connection attempt in {CONNECT_LIMIT:?}")
        } else {
            format!("{address} accepted the question and did not answer it in {limit:?}")
        });
    }
    let outcome = error::outcome(error, address).await;
    NoAnswer::Unreachable(outcome.reason().map(ToString::to_string).unwrap_or_default())
}
