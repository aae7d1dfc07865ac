//! linkerd-gate keeps Kubernetes workloads from starting outside the Linkerd mesh after a cluster or node boot.
//!
//! The map of the crate:
//!
//! - [`linkerd`]: what Linkerd is: names, its webhook, its injection rules. Pure.
//! - [`decide`]: evidence becomes a verdict, a verdict drives a gate. Pure.

pub mod decide;
pub mod linkerd;
