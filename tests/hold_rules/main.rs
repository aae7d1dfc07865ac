//! Hold and guard on a genuine API server, rule by rule: what other programs' webhooks and policies do to a pod that is held,
//! what owners make of held pods, and the same on the oldest and the newest API server that linkerd-gate is for.

mod harness;
mod owners;
mod pods;
mod versions;
mod webhooks;
