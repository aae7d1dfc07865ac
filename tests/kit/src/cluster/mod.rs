//! Boots genuine clusters, in two sizes.
//!
//! - [`Api`]: etcd, API server, controller manager and scheduler, on a loopback address of their own. Nothing else is
//!   needed: neither root nor the network. Pods exist as objects; nobody runs them.
//! - [`Cluster`]: the same, and [nodes](Node) with kubelet, containerd, runc, cluster DNS and Service routing, all of it
//!   in a [sandbox] of namespaces. It needs root. Pods really run.
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
//!
//! With nodes, through a Service without a selector and an EndpointSlice that says an address of
//! [`sandbox::new_address`]. Pods reach the server by the Service's name, and the API server, which is on no node and so
//! has nothing that routes Service addresses, dials endpoints directly.
//!
//! [`Api::expose`] makes what is right for the cluster at hand.

mod address;
mod api;
mod audit;
mod credentials;
mod dns;
mod fake;
mod machine;
mod node;
mod nodes;
mod process;
mod report;
pub mod sandbox;
mod scratch;
mod watch;

pub use address::LoopbackAddress;
pub use api::{Api, ApiOptions, SecondServer};
pub use audit::{AuditStage, AuditedRequest};
pub use node::{BOOT_ID_FILE, Container, ContainerEvent, NODE_DIRECTORY, Node, NodeOptions};
pub use nodes::{Cluster, ClusterOptions};
pub use watch::{until, until_any, until_gone};

/// The API server's port, on the cluster's own address.
const API_SERVER_PORT: u16 = 6443;
