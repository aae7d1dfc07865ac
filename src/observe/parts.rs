//! The agent's looks at Linkerd's parts, by the addresses of their pods: it needs no DNS.

use std::net::SocketAddr;

use super::identity::Identity;
use super::ready::{Admin, any_of};
use crate::config::Address;
use crate::decide::Outcome;

/// Asks parts of Linkerd at addresses that the cluster told. Of several, one that answers is enough.
pub struct Parts {
    identity: Identity,
    admin: Admin,
}

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an HTTP client: {0}")]
pub struct PartsError(#[from] reqwest::Error);

// === impl Parts ===

impl Parts {
    /// Prepares to ask; sends nothing.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new() -> Result<Self, PartsError> {
        // Both are asked at addresses that are given with each question.
        let nowhere = Address::new("linkerd.invalid", 1);
        Ok(Self { identity: Identity::new(nowhere.clone())?, admin: Admin::new(nowhere)? })
    }

    /// Whether identity answers an empty Certify at one of these.
    pub async fn identity(&self, addresses: &[SocketAddr]) -> Outcome {
        any_of(addresses.to_vec(), |address| self.identity.ask(address)).await
    }

    /// Whether one of these admin ports says that its part is ready.
    pub async fn ready(&self, addresses: &[SocketAddr]) -> Outcome {
        any_of(addresses.to_vec(), |address| self.admin.ask(address)).await
    }
}
