//! The binary as a box: what goes in by environment and network, what comes out by exit code, log and signals.

mod agent;
mod cases;
mod configuration;
mod faults;
mod held_pods;
mod help;
mod manual_override;
mod signals;
mod support;
