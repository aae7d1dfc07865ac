//! The pure core of linkerd-gate: the very files of `src/decide` and `src/linkerd`, compiled once more.
//!
//! A debug build of the whole program plays some 50 stories a second and core; with optimisation of these two folders alone it is many
//! times that. And a mutation of one rule costs the compilation of these files, not of the program.

#[path = "../../../src/decide/mod.rs"]
pub mod decide;
#[path = "../../../src/linkerd/mod.rs"]
pub mod linkerd;
