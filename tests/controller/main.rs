//! `controller` as a process against a genuine API server and genuine controllers: whom it replaces, when, and whom it leaves
//! alone.

#[path = "../agent/harness.rs"]
#[allow(dead_code, reason = "the stage of the agents' tests has more than is needed here")]
mod harness;

#[path = "../agent/rights.rs"]
mod rights;

mod cost;
mod gated;
mod held;
mod jobs;
mod killed;
mod loops;
mod manual_override;
mod modes;
mod nodes;
mod outage;
mod races;
mod replicas;
mod retry;
mod running;
mod soak;
mod workloads;
