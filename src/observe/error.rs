//! Why a request failed, in words that tell one fault from another.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;

use rustls::{AlertDescription, CertificateError};

use super::{ANSWER_LIMIT, CONNECT_LIMIT, DIAGNOSE_LIMIT};
use crate::decide::ProbeResult;

/// What a failed request says of whoever should have answered at `address`.
pub(super) async fn outcome(error: &reqwest::Error, address: SocketAddr) -> ProbeResult {
    if let Some(tls) = find::<rustls::Error>(error) {
        return handshake(tls, address);
    }
    if error.is_timeout() {
        return timed_out(error, address).await;
    }
    match find::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => {
            ProbeResult::not_ready(format!("{address} refuses connections: nothing listens there yet"))
        }
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted) => {
            ProbeResult::not_ready(format!("{address} cut the connection"))
        }
        Some(io::ErrorKind::UnexpectedEof) => {
            ProbeResult::not_ready(format!("{address} closed the connection unanswered"))
        }
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            ProbeResult::unknown(format!("{address} cannot be reached from here: {}", innermost(error)))
        }
        Some(io::ErrorKind::TimedOut) => silent(address),
        _ => ProbeResult::not_ready(format!("{address} did not give a whole answer: {}", innermost(error))),
    }
}

/// A limit of ours fired: which one, and what does that say?
async fn timed_out(error: &reqwest::Error, address: SocketAddr) -> ProbeResult {
    if !error.is_connect() {
        return ProbeResult::not_ready(format!(
            "{address} accepted the request and did not answer it in {ANSWER_LIMIT:?}"
        ));
    }
    // The connection and its handshake share one limit; a bare connection tells which of them it was.
    match tokio::time::timeout(DIAGNOSE_LIMIT, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_accepted)) => ProbeResult::not_ready(format!(
            "{address} accepts connections, but the TLS handshake did not end in {CONNECT_LIMIT:?}"
        )),
        _ => silent(address),
    }
}

fn silent(address: SocketAddr) -> ProbeResult {
    ProbeResult::unknown(format!("{address} did not answer a connection attempt in {CONNECT_LIMIT:?}"))
}

fn handshake(error: &rustls::Error, address: SocketAddr) -> ProbeResult {
    let wrong = |why: String| ProbeResult::not_ready(format!("{address} has the wrong certificate: {why}"));
    match error {
        rustls::Error::InvalidCertificate(_) => wrong(certificate(error, "the bundle in LINKERD_GATE_CA_FILE")),
        rustls::Error::InvalidMessage(_) => {
            ProbeResult::not_ready(format!("{address} does not speak TLS: something else answers there"))
        }
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            wrong("it has none for the name asked".to_owned())
        }
        other => ProbeResult::not_ready(format!("{address} failed the TLS handshake: {other}")),
    }
}

/// Why a certificate is not trusted, as a clause; `bundle` is what it is held against.
pub(super) fn certificate(error: &rustls::Error, bundle: &str) -> String {
    let rustls::Error::InvalidCertificate(error) = error else { return error.to_string() };
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("it is for {}, not for {}", names(presented), expected.to_str())
        }
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired, or the authority that signed it has".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet, or the authority that signed it is not; are the clocks right?".to_owned()
        }
        // `Other` is webpki's word for an authority that serves its own certificate.
        CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_) => {
            format!("it does not chain to {bundle}")
        }
        other => other.to_string(),
    }
}

/// The names that a certificate carries, for people; webpki hands them over as `DnsName("…")`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    let names: Vec<_> = presented.iter().map(bare).collect();
    if names.is_empty() { "no name".to_owned() } else { names.join(", ") }
}

/// The first error of that type in a chain, those that `io::Error` wraps included.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    chain(error).find_map(|link| link.downcast_ref::<E>())
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |link: &&'a (dyn StdError + 'static)| {
        let link: &'a (dyn StdError + 'static) = *link;
        // `io::Error::source` skips the error it wraps and goes on with that one's source.
        if let Some(wrapped) = link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            return Some(wrapped);
        }
        link.source()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_io_error_wraps_is_found() {
        let wrapped = io::Error::other(rustls::Error::DecryptError);
        assert_eq!(find::<rustls::Error>(&wrapped), Some(&rustls::Error::DecryptError));
        assert_eq!(innermost(&wrapped), rustls::Error::DecryptError.to_string());
    }
}
