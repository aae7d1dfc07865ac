//! linkerd-gate keeps Kubernetes workloads from starting outside the Linkerd mesh after a cluster or node boot.
//!
//! The map of the crate (`docs/architecture.md` follows a pod event and an outage through it):
//!
//! - [`linkerd`]: what Linkerd is: names, its webhook, its injection rules. Pure.
//! - [`decide`]: evidence becomes a verdict, a verdict drives a gate. Pure.
//! - `check`: what was read of a cluster becomes findings. Pure.
//! - `report`: what was read of a cluster becomes the story of its last boot. Pure.
//! - `observe`: gathers evidence. The only user of reqwest.
//! - [`cluster`]: asks the API server and writes to it. The only user of kube.
//! - `role`: the loops that join the above.
//! - [`config`]: the environment becomes meaning; the table of variables.
//! - [`http`], [`metrics`]: the agent's HTTP face, and what it counts.
//! - [`command`]: what a person runs in a shell.
//! - [`cli`], [`exit`], [`main`]: the command line, the exit codes, and what the binary runs.
//! - `retry`, `shutdown`, `telemetry`: schedules, signals, logs.
//!
//! A binary needs [`main`] and nothing else. What is public beside it is what the tests and the figures use.

pub(crate) mod check;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod config;
pub mod decide;
mod entry;
pub mod exit;
pub mod http;
pub mod linkerd;
pub mod metrics;
pub(crate) mod observe;
pub(crate) mod report;
pub(crate) mod retry;
pub(crate) mod role;
pub(crate) mod shutdown;
pub(crate) mod telemetry;

pub use self::entry::{main, wait_main};
