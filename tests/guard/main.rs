//! The guard, `deploy/manifests/optional/50-guard.yaml`, on a genuine API server whose injector never answers.
//!
//! What it refuses is held to `linkerd_gate::linkerd::injection` and to the corpus at once ([`corpus`], [`drawn`]): the two
//! sayings of one rule, CEL and Rust, cannot drift.

mod admitted;
mod corpus;
mod drawn;
mod stage;
mod storm;
mod ways_out;
