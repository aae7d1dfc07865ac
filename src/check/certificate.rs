//! What is known of the certificates that the injector serves.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::linkerd::webhook::Endpoint;
use crate::linkerd::{InjectorWebhook, WebhookView};

/// What is known of the certificates that the injector serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Served {
    /// This machine did not connect to it: outside the cluster a pod's address may lead to anything, or nowhere.
    #[default]
    NotDialled,
    /// What each address served. None, where no address is known.
    Dialled(Vec<ServedBy>),
}

/// Where an injector listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injector {
    /// The name that its certificate has to be for.
    pub server_name: String,
    /// The address of one of its pods.
    pub address: SocketAddr,
}

/// What one address served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedBy {
    /// The address.
    pub address: SocketAddr,
    /// What came of connecting to it.
    pub found: Found,
}

/// What came of connecting to the injector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A certificate that the bundle of one of Linkerd's webhooks vouches for.
    Trusted {
        /// Its SHA-256, as openssl prints it.
        fingerprint: String,
    },
    /// A certificate that none vouches for.
    NotTrusted {
        /// Its SHA-256, as openssl prints it.
        fingerprint: String,
        /// Why not: a clause.
        why: String,
    },
    /// No certificate: why, as a clause.
    Nothing(String),
}

/// The SHA-256 of a certificate in DER, as `openssl x509 -noout -fingerprint -sha256` prints it: `AB:CD:…`.
pub fn fingerprint(der: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let mut text = String::with_capacity(95);
    for (place, byte) in digest.as_ref().iter().enumerate() {
        let colon = if place == 0 { "" } else { ":" };
        let _infallible = write!(text, "{colon}{byte:02X}");
    }
    text
}

/// The Services of this cluster that the webhooks call: namespace, name, and the name that a certificate has to be for.
pub fn services(view: &WebhookView) -> Vec<(String, String, String)> {
    let of = |webhook: &InjectorWebhook| match &webhook.endpoint {
        Endpoint::Service { namespace, name, .. } => {
            Some((namespace.clone(), name.clone(), webhook.endpoint.server_name()?))
        }
        Endpoint::Url(_) => None,
    };
    let mut found: Vec<_> = view.webhooks.iter().filter_map(of).collect();
    found.sort();
    found.dedup();
    found
}
