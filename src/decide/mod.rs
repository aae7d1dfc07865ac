//! Evidence becomes a verdict, a verdict drives a gate.
//!
//! Values in, values out: nothing here reads a clock, a socket or an environment. A role gathers [`Evidence`], stamps it
//! with an instant of its own clock, and calls [`Gate::step`]; what it must tell people is the [`Change`] between the old
//! gate and the new one.
//!
//! - [`outcome`]: one answer of one probe, with its reason.
//! - [`evidence`]: the answers of all probes at one instant.
//! - [`parts`]: what watched objects say of the webhook and the injector.
//! - [`proof`]: what a dry-run pod says of injection.
//! - [`policy`]: what a role asks of the evidence before it opens.
//! - [`verdict`]: what one piece of evidence says under a policy.
//! - [`gate`]: what all evidence so far says: closed, settling or open.
//! - [`change`]: the difference between two gates that is worth a line.
//! - [`publication`]: the verdict as the prover publishes it for everybody, and what a reader may take from it.
//! - [`lease`]: the Lease that carries it: who proves, whether the word is fresh, who may take over.
//! - [`elector`]: what one candidate for it does next.
//! - [`pending_repair`]: how many pods the leading controller will still replace, as it publishes it.
//! - [`follower`]: an agent's gate, driven by what is published and by what it sees of identity itself.
//! - [`node`]: what becomes of a node's taint and annotation.
//! - [`essential`]: what must be able to run on a closed node, so that nothing waits for itself.
//! - [`placement`]: on which nodes a DaemonSet wants pods.
//! - [`by_hand`]: the broken glass: a person's word, with an end.
//! - [`hold`]: the scheduling gate of a held pod, and how it comes off.
//! - [`repair_wait`]: whether a node that could open waits until the controller has replaced what is Pending.
//! - [`orphan`]: closed nodes whose agent is gone.
//! - [`nudge`]: which refused owners are asked to try again, and how many at a time.
//! - [`recreate`]: which pods `recreate` makes again, and from which manifest.
//! - [`window`]: how many pods may be asked for at a time, by what becomes of them.
//! - [`repair`]: which missed pods are replaced, when, and how.
//! - [`uninstall`]: in which order everything of ours goes, and what becomes of held pods then.
//! - [`answer`]: what an agent tells whoever asks `/gate`.

pub mod answer;
pub mod by_hand;
pub mod change;
pub mod elector;
pub mod essential;
pub mod evidence;
pub mod follower;
pub mod gate;
pub mod hold;
pub mod lease;
pub mod node;
pub mod nudge;
pub mod orphan;
pub mod outcome;
pub mod parts;
pub mod pending_repair;
pub mod placement;
pub mod policy;
pub mod proof;
pub mod publication;
pub mod recreate;
pub mod repair;
pub mod repair_wait;
pub mod uninstall;
pub mod verdict;
pub mod window;

pub use self::{
    answer::Answer,
    by_hand::ByHand,
    change::Change,
    evidence::{Evidence, Installation, Probe},
    follower::Follower,
    gate::Gate,
    outcome::{Outcome, Reason},
    pending_repair::PendingRepair,
    policy::Policy,
    publication::Publication,
    verdict::{Basis, Obstacle, Obstacles, Verdict},
};

#[cfg(test)]
mod properties;
