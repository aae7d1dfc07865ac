//! `agent` as a process against a genuine API server: what it writes, when, and what it leaves alone.

mod api_server;
mod cost;
mod faults;
mod node;
mod prover;
mod stage;
