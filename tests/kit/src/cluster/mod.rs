//! Boots genuine clusters, in two sizes.
//!
//! - [`Api`]: etcd, API server, controller manager and scheduler, on a loopback address of their own. Nothing else is
//!   needed: neither root nor the network. Pods exist as objects; nobody runs them.
//!
//! A cluster belongs to no async runtime and takes `&self` everywhere, so tests with a runtime each may share one; each
//! then works in [namespaces of its own](Api::namespace). Clients belong to the runtime that asked for them.
//!
//! # How the API server reaches a webhook in the test's own process
//!
//! In API size, through a Service of type `ExternalName` that says an *address*: `externalName: 127.77.3.9`. Such a name
//! passes validation, since it consists of DNS labels, and the API server dials it as it stands, on the port that the
//! webhook configuration names (443 unless it says otherwise). [`LoopbackAddress`] gives each server an address of its
//! own, on which 443 is free. The certificate is asked for the Service's name, `NAME.NAMESPACE.svc`, as always.
//! EndpointSlices cannot do this: validation refuses loopback addresses in them.

mod address;
mod api;
mod credentials;
mod process;
mod report;
mod scratch;
mod watch;

pub use address::LoopbackAddress;
pub use api::{Api, ApiOptions};
pub use watch::{until, until_any, until_gone};

/// The API server's port, on the cluster's own address.
const API_SERVER_PORT: u16 = 6443;
