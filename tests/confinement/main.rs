//! The policies that confine the agent and the controller, attacked on a genuine API server under their own tokens: the real
//! files of `deploy/manifests`, pods that the DaemonSet's and the Deployment's controllers made, tokens bound to those pods.
//!
//! The attacks are made with *every right there is* (cluster-admin, bound to both service accounts besides their own), so that
//! what refuses them is the policy and not RBAC. Each is first tried as somebody else, as a dry-run, and must pass: so it is a
//! valid write, and the policies touch nobody else. What RBAC itself gives is in [`rights`].
//!
//! What is said of the agent is in files of the first level, what is said of the controller in [`controller`].

mod controller;
mod essential;
mod events;
mod harness;
mod lease;
#[path = "../corpus/load.rs"]
#[expect(dead_code, reason = "what a case expects of others is not asked here")]
mod load;
mod nodes;
mod pods;
mod probe;
mod rights;
mod typing;
mod write;
