//! What the node's agent says: one question, one answer, or the reason why there is none.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::StatusCode;

use super::dns::Dns;
use super::{error, plain_client};
use crate::config::Address;
use crate::decide::Reason;
use crate::decide::gate_status::{GateStatus, NodeStatus, VERSION};

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
        let status = response.status();
        if ![StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&status) {
            return Err(stranger(format!("it answered HTTP {status}")));
        }
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= LONGEST_ANSWER => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return Err(stranger(format!("its answer is longer than {LONGEST_ANSWER} bytes"))),
                Ok(None) => break,
                Err(error) => return Err(unreachable(&error, address, limit).await),
            }
        }
        read(&body, status == StatusCode::OK).map_err(stranger)
    }
}

/// Takes an answer for what it says; one that contradicts itself, or is in a format of another time, is none.
fn read(body: &[u8], open: bool) -> Result<GateStatus, String> {
    let answer: GateStatus =
        serde_json::from_slice(body).map_err(|error| format!("its answer cannot be read: {error}"))?;
    if answer.version != VERSION {
        return Err(format!("its answer is in format {}, and this version reads {VERSION}", answer.version));
    }
    if answer.open != open {
        return Err("its answer and its HTTP status contradict each other".to_owned());
    }
    if open && answer.basis.is_none() && answer.manual_override.is_none() {
        return Err("it says open, and not how that is known".to_owned());
    }
    // Texts of another program: each becomes one line of bounded length.
    let line = |text: String| Reason::from(text.as_str()).to_string();
    Ok(GateStatus {
        reason: line(answer.reason),
        manual_override: answer.manual_override.map(line),
        node: NodeStatus { name: line(answer.node.name), ..answer.node },
        ..answer
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = r#"{"version":1,"open":true,"basis":"proven","reason":"open: proven","required":["injection"],"node":{"name":"n","state":"open","reason":"r"},"later":1}"#;

    #[test]
    fn an_answer_is_taken_with_what_it_does_not_know_passed_over() {
        assert!(read(OPEN.as_bytes(), true).unwrap().open);
    }

    #[test]
    fn an_answer_cannot_forge_a_second_line_of_a_log() {
        let answer = read(OPEN.replace("open: proven", "open\\nERROR x").as_bytes(), true).unwrap();
        assert_eq!(answer.reason, "open ERROR x");
    }

    #[test]
    fn a_contradictory_or_unknown_answer_is_refused() {
        for (body, open, why) in [
            (OPEN.to_owned(), false, "contradict"),
            (OPEN.replace("\"version\":1", "\"version\":2"), true, "format 2"),
            (OPEN.replace("\"basis\":\"proven\",", ""), true, "not how that is known"),
            ("{}".to_owned(), true, "cannot be read"),
            (String::new(), false, "cannot be read"),
        ] {
            let message = read(body.as_bytes(), open).unwrap_err();
            assert!(message.contains(why), "{message}");
        }
    }
}
