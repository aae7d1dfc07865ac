//! `check`, `status`, live `explain` and `install` against a genuine API server, in one state after another: what is wrong is
//! named by its code, and nothing else is.

mod boots;
#[path = "../front/mod.rs"]
mod front;
mod harness;
mod healthy;
mod midway;
mod older;
mod policies;
mod states;
mod unhealthy;
