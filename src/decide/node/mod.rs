//! A node's taint, and what must not depend on it.
//!
//! - [`taint`]: whether a node is closed, and the patch that makes it so.
//! - [`repair_wait`]: whether a node that could open waits until the controller has replaced its Pending pods.
//! - [`essential`]: what must be able to run on a closed node, so that the gate never waits for itself.
//! - [`placement`]: on which nodes a DaemonSet wants pods.
//! - [`orphan`]: closed nodes without an agent.

pub mod essential;
pub mod orphan;
pub mod placement;
pub mod repair_wait;
pub mod taint;
