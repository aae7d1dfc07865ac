//! The policies that confine the agent, attacked on a genuine API server under the agent's own token: the real files of
//! `deploy/manifests`, pods that the DaemonSet's controller made, tokens bound to those pods.
//!
//! The attacks are made with *every right there is* (cluster-admin, bound to the agent's service account besides its own), so
//! that what refuses them is the policy and not RBAC. Each is first tried as somebody else, as a dry-run, and must pass: so it
//! is a valid write, and the policies touch nobody but the agent. What RBAC itself gives is in [`rights`].

mod essential;
mod events;
mod lease;
mod nodes;
mod pods;
mod probe;
mod rights;
mod stage;
mod typing;
mod write;
