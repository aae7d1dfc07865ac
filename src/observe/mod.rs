//! Gathers evidence: asks the parts of Linkerd, or a node's agent, without any rights, and says in one line what each of them
//! answered.
//!
//! Every wait on the network has its own limit, different from its neighbours', so that a reason tells which fired.

mod admin;
mod agent;
mod control_plane;
mod direct;
mod dns;
mod error;
mod identity;
mod injector;
mod served;
mod tls;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

pub use self::agent::{AgentClient, AgentError};
pub use self::control_plane::ControlPlane;
pub use self::direct::{Direct, Issuer};
pub use self::served::served;
pub use self::tls::CaFileError;
use self::tls::Trust;
use crate::decide::ProbeResult;

/// How long a DNS answer may take: longer than the resolver's own two tries of 1.1 s. One that is up answers a cluster name
/// in milliseconds.
const RESOLVE_LIMIT: Duration = Duration::from_millis(2500);

/// How long a TCP connection and its TLS handshake may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long a whole request may take, its connection included.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// How long the second, bare TCP connection may take that tells a silent host from a handshake that hangs.
const DIAGNOSE_LIMIT: Duration = Duration::from_millis(500);

/// At most this many addresses of one name are asked in one look: readiness needs one that answers.
const ADDRESSES_ASKED: usize = 8;

/// What is wrong with the CA bundle at `path`, as a clause after it.
///
/// # Errors
/// A file that cannot be read, is none, or holds no certificate.
pub fn check_ca_file(path: &Path) -> Result<(), CaFileError> {
    Trust::read(Some(path)).map(drop)
}

/// The client that every probe starts from: no proxy from the environment, no redirects, no system roots (a scratch image
/// has none), and a fresh connection each time, because one that was opened before a fault proves nothing about the next.
fn client(trust: &Trust) -> Result<reqwest::ClientBuilder, rustls::Error> {
    Ok(reqwest::Client::builder()
        .use_preconfigured_tls(trust.client_config()?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        // A connection lives for one answer, within its limit: nothing for the kernel to keep alive or to give up on.
        .tcp_keepalive(None)
        .tcp_keepalive_interval(None)
        .tcp_keepalive_retries(None)
        .tcp_user_timeout(None)
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT)
        .user_agent(concat!("linkerd-gate/", env!("CARGO_PKG_VERSION"))))
}

/// A client of ports that do not speak TLS, made when it is first used: a `wait` that follows its agent asks Linkerd nothing,
/// and an unused client costs memory.
struct PlainClient {
    version: fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    made: OnceLock<reqwest::Client>,
}

// === impl PlainClient ===

impl PlainClient {
    /// A client whose requests are of the HTTP version that `version` chooses.
    fn new(version: fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Self {
        Self { version, made: OnceLock::new() }
    }

    /// The client.
    ///
    /// # Errors
    /// What to report of a probe that could not be made.
    fn get(&self) -> Result<&reqwest::Client, ProbeResult> {
        if let Some(client) = self.made.get() {
            return Ok(client);
        }
        let client = (self.version)(plain_client())
            .build()
            .map_err(|error| ProbeResult::unknown(format!("cannot make an HTTP client: {error}")))?;
        Ok(self.made.get_or_init(|| client))
    }
}

/// Settings of a client of ports that do not speak TLS.
fn plain_client() -> reqwest::ClientBuilder {
    client(&Trust::NameOnly)
        .unwrap_or_else(|error| unreachable!("TLS settings without a bundle cannot be wrong: {error}"))
}
