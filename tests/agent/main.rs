//! `agent` as a process against a genuine API server: what it writes, when, and what it leaves alone.

mod api_server;
mod born_closed;
mod cost;
mod faults;
#[allow(dead_code, reason = "the controller's tests use it too")]
mod harness;
mod node;
mod opening;
mod prover;
mod repair_wait;
mod rights;
mod selectors;
mod taint_suppression;
