//! The roles: loops that join observation, decision and the cluster.

pub mod agent;
pub mod controller;
mod elector;
mod process;
mod readiness;
pub mod wait;
