//! Small programs with the same contract as Linkerd's own containers, with faults on demand.
//!
//! | stand-in | plays | serves |
//! |---|---|---|
//! | [`Injector`] | `linkerd-proxy-injector` | admission over HTTPS, TLS 1.3; admin port |
//! | [`Identity`] | `linkerd-identity` | gRPC over cleartext HTTP/2; admin port |
//!
//! Each is settings until `start`, which gives a [`Standin`]: its addresses, its [`Fault`]s, and counters to wait on. All run on
//! the caller's tokio runtime. What they say and do is held to what the genuine controllers were seen to do, not to what
//! linkerd-gate expects: nothing here depends on it.

mod admin;
mod admission;
mod certificates;
pub mod client;
mod decision;
mod fault;
mod grpc;
mod http;
mod identity;
mod injector;
mod patch;
mod port;
mod process;

pub use self::{
    certificates::Certificates,
    decision::Annotations,
    fault::{Fault, Flaw, UnknownFault},
    grpc::{CertifyRequest, CertifyResponse},
    identity::Identity,
    injector::{Injector, Namespaces},
    patch::{Container, Sidecar},
    process::Standin,
};

#[cfg(test)]
mod tests;
