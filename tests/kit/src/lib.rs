//! The test kit of linkerd-gate: everything its tests need that is not linkerd-gate. It never ships.
//!
//! - [`standin`]: small programs with the same contract as Linkerd's own containers, with faults on demand.
//! - [`object`]: builders for pods, namespaces and webhook configurations that read as sentences.
//! - [`memory_api`]: an API server that keeps objects in memory, with faults on demand.
//! - [`many`]: the API server of a cluster with very many pods.
//! - `parts`: fetches, builds and caches the genuine Kubernetes parts.
//! - `image`: container images made out of static binaries, without a container engine.
//! - `cluster`: boots those parts, in two sizes: *API* and *node*.
//! - `linkerd`: a genuine Linkerd in place of the stand-ins, from a directory that the machine has.

pub mod many;
pub mod memory_api;
pub mod object;
pub mod standin;

#[cfg(feature = "cluster")]
pub mod cluster;
#[cfg(feature = "cluster")]
pub mod image;
#[cfg(feature = "cluster")]
pub mod linkerd;
#[cfg(feature = "cluster")]
pub mod parts;
