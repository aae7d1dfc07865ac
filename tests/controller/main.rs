//! `controller` as a process against a genuine API server and genuine controllers: whom it replaces, when, and whom it leaves
//! alone.

#[path = "../agent/stage.rs"]
#[allow(dead_code, reason = "the stage of the agents' tests has more than is needed here")]
mod stage;

#[path = "../agent/rights.rs"]
mod rights;

mod by_hand;
mod cost;
mod gated;
mod held;
mod jobs;
mod killed;
mod loops;
mod modes;
mod nodes;
mod nudge;
mod outage;
mod replicas;
mod running;
mod shop;
mod soak;
mod traps;
