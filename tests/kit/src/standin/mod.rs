//! Small programs with the same contract as Linkerd's own containers, with faults on demand.
//!
//! | stand-in | plays | serves |
//! |---|---|---|
//! | [`Injector`] | `linkerd-proxy-injector` | admission over HTTPS, TLS 1.3; admin port |
//! | [`Identity`] | `linkerd-identity` | gRPC over cleartext HTTP/2; admin port |
//! | [`readiness`] | `linkerd-destination`, its policy controller | admin port |
//! | [`Proxy`] | `linkerd-proxy` | admin port, and traffic ports that accept once it is certified |
//! | [`app`] | a workload | 200 to every request |
//! | [`other_webhook`] | another program's mutating webhook | admission over HTTPS |
//! | [`Relay`] | the network on the way to a server | what that server says, late or not at all |
//!
//! Each is settings until it is started, which gives a [`Standin`]: its addresses, its [`Fault`]s, and counters to wait on.
//! All run on the caller's tokio runtime; the program `linkerd-standin` puts each into a container of its own. What they say
//! and do is held to what the genuine controllers were seen to do, not to what linkerd-gate expects: nothing here depends on
//! it. [`client`] is the other end of the line: an API server that calls the injector, a proxy that asks identity.

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
mod proxy;
mod relay;
mod small;
mod webhook;

pub use self::{
    certificates::Certificates,
    decision::Annotations,
    fault::{Fault, Flaw, UnknownFault, duration},
    grpc::{CertifyRequest, CertifyResponse},
    identity::Identity,
    injector::{Calls, Injector, Namespaces},
    patch::{Container, Sidecar},
    process::Standin,
    proxy::{Proxy, RunningProxy},
    relay::Relay,
    small::{app, readiness},
    webhook::{other_webhook, patch_annotation},
};

#[cfg(test)]
mod tests;
