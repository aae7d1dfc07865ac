//! What differs between worlds, and what is counted in them.

use std::time::Duration;

use linkerd_gate_core::decide::repair::RepairPolicy;

use crate::apps::Admission;

/// What differs between worlds.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is apart from the others")]
pub struct Setting {
    pub seed: u64,
    pub nodes: usize,
    /// Whether there are applications, and how pods are admitted.
    pub apps: bool,
    pub admission: Admission,
    /// Whether the controller's replicas are there, and by what they repair.
    pub replicas: bool,
    pub repair: RepairPolicy,
    pub orphan_after: Duration,
    pub taints: bool,
    pub max_closed: Duration,
    pub repair_grace: Duration,
    pub proven_again: Duration,
    /// Whether the cluster was there before linkerd-gate; else it was there in an earlier boot, gate and all.
    pub fresh_install: bool,
    /// What is broken on purpose.
    pub broken: Option<Broken>,
    /// Whether to write down what happens: twice as slow, so only where it is to be read.
    pub logged: bool,
}

/// What is broken on purpose, so that an invariant is seen to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The scheduler takes pods for free that have a scheduling gate.
    SchedulerIgnoresGates,
    /// Whatever is held loses its gate within a second, by whomever.
    GatesComeOff,
    /// `wait` lets its pod go on at once.
    WaitEndsAtOnce,
}

/// An invariant that does not hold.
#[derive(Debug)]
pub struct Violation {
    pub at: Duration,
    pub what: String,
    pub tail: String,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Renewals of a Lease by its holder.
    pub renewals: usize,
    /// Tries to take the Lease that reached the API server, refused ones among them.
    pub takings: usize,
    /// Every other write that agents sent.
    pub other_writes: usize,
    /// Writes that were refused because another client was faster.
    pub conflicts: usize,
    /// Looks that provers made.
    pub dry_runs: usize,
    /// Provers whose probes did not end any more.
    pub probes_hung: usize,
    /// Tolerations that were added to essential pods.
    pub tolerations: usize,
    /// Pods that asked and were created without a proxy, those of them that were held, and creates that were refused.
    pub bare: usize,
    pub held: usize,
    pub refused: usize,
    /// Those of the former that got a node.
    pub bound_bare: usize,
    /// Apps that started outside the mesh.
    pub started_bare: usize,
    /// Writes of the controllers, and what became of them.
    pub repairs: usize,
    pub removed: usize,
    pub evicted: usize,
    pub suspended: usize,
    pub ungated: usize,
    pub orphans: usize,
    /// How long it took after everything was mended until everything was open and meshed.
    pub healed_in: Duration,
    /// Nodes that opened before the controller was done, because they had waited for as long as they may.
    pub before_repair: usize,
    /// Nodes that opened because they had been closed for as long as a node may be.
    pub too_long_closed: usize,
    /// Nodes that opened by proof.
    pub proven: usize,
}
