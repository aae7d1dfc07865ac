//! linkerd-gate keeps Kubernetes workloads from starting outside the Linkerd mesh after a cluster or node boot.
//!
//! The map of the crate (`docs/architecture.md` follows a pod event and an outage through it):
//!
//! - [`linkerd`]: what Linkerd is: names, its webhook, its injection rules. Pure.
//! - [`decide`]: evidence becomes a verdict, a verdict drives a gate. Pure.
//! - [`check`]: what was read of a cluster becomes findings. Pure.
//! - [`observe`]: gathers evidence. The only user of reqwest.
//! - [`cluster`]: asks the API server and writes to it. The only user of kube.
//! - [`role`]: the loops that join the above.
//! - [`config`]: the environment becomes meaning; the table of variables.
//! - [`http`], [`metrics`]: the agent's HTTP face, and what it counts.
//! - [`command`]: what a person runs in a shell.
//! - [`cli`], [`exit`]: the command line and the exit codes.
//! - [`retry`], [`shutdown`], [`telemetry`]: schedules, signals, logs.

pub mod check;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod config;
pub mod decide;
pub mod exit;
pub mod http;
pub mod linkerd;
pub mod metrics;
pub mod observe;
pub mod retry;
pub mod role;
pub mod shutdown;
pub mod telemetry;
