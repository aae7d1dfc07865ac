//! From probe results to an open or closed gate.
//!
//! A role gathers [`Evidence`](evidence::Evidence), stamps it with an instant of its clock, and calls
//! [`Gate::step`](gate::Gate::step). What it reports is the [`Transition`](transition::Transition) between the old gate and
//! the new one.
//!
//! - [`probe_result`]: the result of one probe, with its reason.
//! - [`evidence`]: the results of all probes at one instant.
//! - [`control_plane`]: what watched objects say of the webhook and the injector.
//! - [`dry_run`]: what a dry-run pod says of injection.
//! - [`policy`]: which probes a role requires before it opens.
//! - [`verdict`]: what one piece of evidence means under a policy.
//! - [`gate`]: closed, settling or open, from all evidence so far.
//! - [`transition`]: the difference between two gates that is worth a log line.

pub mod control_plane;
pub mod dry_run;
pub mod evidence;
pub mod gate;
pub mod policy;
pub mod probe_result;
pub mod transition;
pub mod verdict;
