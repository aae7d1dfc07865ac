//! What a person runs in a shell.
//!
//! - [`explain`]: whether a pod would be injected, by which rule, and what to do.

pub mod explain;
