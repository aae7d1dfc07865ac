//! Evidence becomes a verdict, a verdict drives a gate.
//!
//! Values in, values out: nothing here reads a clock, a socket or an environment. A role gathers [`Evidence`], stamps it
//! with an instant of its own clock, and calls [`Gate::step`]; what it must tell people is the [`Change`] between the old
//! gate and the new one.
//!
//! - [`outcome`]: one answer of one probe, with its reason.
//! - [`evidence`]: the answers of all probes at one instant.
//! - [`proof`]: what a dry-run pod says of injection.
//! - [`policy`]: what a role asks of the evidence before it opens.
//! - [`verdict`]: what one piece of evidence says under a policy.
//! - [`gate`]: what all evidence so far says: closed, settling or open.
//! - [`change`]: the difference between two gates that is worth a line.

pub mod change;
pub mod evidence;
pub mod gate;
pub mod outcome;
pub mod policy;
pub mod proof;
pub mod verdict;

pub use self::{
    change::Change,
    evidence::{Evidence, Installation, Probe},
    gate::Gate,
    outcome::{Outcome, Reason},
    policy::Policy,
    verdict::{Basis, Obstacle, Obstacles, Verdict},
};

#[cfg(test)]
mod properties;
