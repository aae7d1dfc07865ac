//! Repair: which missed pods are replaced, when, and how; which refused owners are retried.
//!
//! [`Tracker::observe`] takes in what is seen; [`plan`](plan()) is a function of a snapshot, a scan, the tracker, a policy and
//! an instant; [`Tracker::acted`] takes in the result of each action.
//!
//! - [`object`]: pods, namespaces and owners, reduced to what decides.
//! - [`scan`]: one pass over all pods: meshed, skipped, missed.
//! - [`decision`]: what may be done with a missed pod, and why it is kept otherwise.
//! - [`action`]: what can be done: delete, evict, suspend, resume, remove our gate.
//! - [`ungate`]: when our scheduling gate is removed from a pod.
//! - [`mod@resume`]: when a Job that we suspended is resumed.
//! - [`tracker`]: what was done and with which result: replacements, failures, breakers, cooldowns.
//! - [`mod@plan`]: which actions are due now.
//! - [`step`]: one turn: what of a plan is begun, and what is still sent.
//! - [`window`]: how many replacements or retries may be pending, by their results.
//! - [`token_bucket`]: the rate of evictions.
//! - [`retry`]: which owners, whose pods the API server refused, are retried.
//! - [`successor`]: what refuses the pod that is made instead of a removed one.
//! - [`late`]: why an owner has not created a pod again.
//! - [`quota`]: whether an eviction makes room in a full quota.
//! - [`event_text`]: what Events say that `report` reads again.
//! - [`recreate`]: which pods `recreate` creates again, and from which manifest.

pub mod action;
pub mod decision;
pub mod event_text;
pub mod late;
pub mod object;
pub mod plan;
pub mod quota;
pub mod recreate;
pub mod resume;
pub mod retry;
pub mod scan;
pub mod step;
pub mod successor;
pub mod token_bucket;
pub mod tracker;
pub mod ungate;
pub mod window;

pub use self::action::{Action, Dropped, Method, Operation, RepairPolicy, Target, Ungate, UngateReason};
pub use self::decision::{Decision, KeepReason};
pub use self::object::{Kind, Life, NamespaceView, OwnerReference, OwnerView, PodView, Repair};
pub use self::plan::{Missed, RepairPlan, plan};
pub use self::scan::{ClusterOverride, MissedState, Owners, PodState, Scan, Snapshot};
pub use self::step::{Due, Permit, Room};
pub use self::token_bucket::{Pace, Rate, TokenBucket};
pub use self::tracker::{Tracker, WriteOutcome};

#[cfg(test)]
mod tests;
