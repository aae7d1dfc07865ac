//! Hold and guard, `deploy/manifests/60-admission-hold.yaml` to `62-admission-release.yaml`, on a genuine API server.
//!
//! What they hold and refuse is held to `linkerd_gate::linkerd::injection` and to the corpus at once ([`corpus`], [`drawn`]): the
//! two sayings of one rule, CEL and Rust, cannot drift.

#[path = "../corpus/load.rs"]
mod load;

mod admitted;
mod answer;
mod corpus;
mod drawn;
mod harness;
mod injector;
mod release;
mod restarts;
mod ways_out;
