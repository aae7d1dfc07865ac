//! `controller` as a process against a genuine API server and genuine controllers: whom it replaces, when, and whom it leaves
//! alone.

#[path = "../agent/stage.rs"]
#[allow(dead_code, reason = "the stage of the agents' tests has more than is needed here")]
mod stage;

mod held;
mod nudge;
mod jobs;
mod running;
mod shop;
