//! What is decided, and nothing else: values in, values out. Nothing here reads a clock, a socket or an environment.
//!
//! - [`readiness`]: probe results become evidence, evidence a verdict, verdicts drive a [`Gate`].
//! - [`election`]: two Leases: who probes and who repairs, and what each of them publishes.
//! - [`node`]: the taint of a node, what must run on a closed node, nodes without an agent.
//! - [`repair`]: which missed pods are replaced, when and how; which refused owners are retried.
//! - [`hold`]: the scheduling gate of a held pod.
//! - [`manual_override`]: what a person said with `open` or `close`, and until when.
//! - [`gate_status`]: the body of `/gate`.
//! - [`uninstall`]: in which order everything of ours is removed, and what happens to held pods then.
//! - [`wait`]: whether the pod that `wait` runs in may start.

pub mod election;
pub mod gate_status;
pub mod hold;
pub mod manual_override;
pub mod node;
pub mod readiness;
pub mod repair;
pub mod uninstall;
pub mod wait;

pub use self::election::follower::Follower;
pub use self::election::pending_repair::PendingRepair;
pub use self::election::published_verdict::PublishedVerdict;
pub use self::gate_status::GateStatus;
pub use self::manual_override::ManualOverride;
pub use self::readiness::evidence::{Evidence, LinkerdInstallation, Probe};
pub use self::readiness::gate::Gate;
pub use self::readiness::policy::Policy;
pub use self::readiness::probe_result::{ProbeResult, Reason};
pub use self::readiness::transition::Transition;
pub use self::readiness::verdict::{Basis, FailedProbe, FailedProbes, Verdict};

#[cfg(test)]
mod properties;
