//! What a person runs in a shell.
//!
//! - [`by_hand`]: opening and closing nodes, whatever is proven.
//! - [`explain`]: whether a pod would be injected, by which rule, and what to do.

pub mod by_hand;
pub mod explain;
