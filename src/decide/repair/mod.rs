//! Repair: which missed pods are replaced, when, and how.
//!
//! [`Memory::observe`] folds what is seen into what is remembered; [`plan`](plan()) is a function of facts, memory, policy and
//! time; what became of each act is told to [`Memory::acted`]. Nothing here reads a clock or asks anybody.
//!
//! - [`view`]: pods, namespaces and owners, reduced to what decides.
//! - [`facts`]: everything that is seen, at one moment.
//! - [`standing`]: how one pod stands: in order, missed and held, missed and running.
//! - [`survey`]: one pass over all pods.
//! - [`disposition`]: what may become of a missed pod, and why not.
//! - [`ungate`]: when our scheduling gate comes off a pod.
//! - [`mod@resume`]: when a Job goes on that we suspended.
//! - [`memory`]: what was done and what came of it: flights, strikes, cooldowns.
//! - [`mod@plan`]: which acts are due now.
//! - [`bucket`]: how many evictions at most; how many removals is for the [window](super::window) to say.

pub mod bucket;
pub mod disposition;
pub mod facts;
pub mod memory;
pub mod plan;
pub mod resume;
pub mod standing;
pub mod survey;
pub mod ungate;
pub mod view;

pub use self::{
    bucket::{Bucket, Rate},
    disposition::{Because, Disposition},
    facts::{Facts, ManualOverride, Owners},
    memory::{Memory, Outcome},
    plan::{Act, Action, Missed, Plan, RepairPolicy, Target, Way, plan},
    standing::{Standing, State},
    survey::Survey,
    ungate::Ungate,
    view::{Kind, Life, NamespaceView, OwnerReference, OwnerView, PodView, Repair},
};

#[cfg(test)]
mod tests;
