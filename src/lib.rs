//! linkerd-gate keeps Kubernetes workloads from starting outside the Linkerd mesh after a cluster or node boot.
//!
//! The map of the crate:
//!
//! - [`linkerd`]: what Linkerd is: names, its webhook, its injection rules. Pure.
//! - [`decide`]: evidence becomes a verdict, a verdict drives a gate. Pure.
//! - [`config`]: the environment becomes meaning; the table of variables.
//! - [`exit`]: the exit codes.

pub mod config;
pub mod decide;
pub mod exit;
pub mod linkerd;
pub mod retry;
pub mod shutdown;
pub mod telemetry;
