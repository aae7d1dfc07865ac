//! The two Leases: who probes for all nodes, which controller acts, and what each of them publishes.
//!
//! - [`lease_record`]: a Lease reduced to what decides: who holds it, whether it is fresh, who may take it.
//! - [`elector`]: what one candidate does next. Both roles and the simulation drive this step.
//! - [`published_verdict`]: the verdict in the provers' Lease, and what a reader may conclude from it.
//! - [`mod@format`]: JSON with a version, which both Leases carry.
//! - [`follower`]: an agent's gate, driven by the published verdict and by its own identity probe.
//! - [`pending_repair`]: the number in the controllers' Lease: how many pods will still be replaced.

pub mod elector;
pub mod follower;
pub mod format;
pub mod lease_record;
pub mod pending_repair;
pub mod published_verdict;
