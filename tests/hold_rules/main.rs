//! Hold and guard on a genuine API server, rule by rule: what other programs' webhooks and policies do to a pod that is held,
//! what can be done to it, and what owners make of it.

mod owners;
mod pods;
mod stage;
mod webhooks;
