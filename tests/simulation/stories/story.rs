//! What befalls the world, by its seed.

use std::time::Duration;

use crate::random::Random;
use crate::world::World;

/// One thing that happens. What it befalls is decided when it does.
#[derive(Clone, Debug)]
pub enum Happening {
    PowerCut,
    PowerCutOfAll,
    PowerOff(usize),
    PowerOn(usize),
    NodeJoins,
    ApiServerDown,
    ApiServerUp,
    ApiServerSlow,
    ApiServerFast,
    WatchesBreak,
    AgentCrashes,
    AgentHangs,
    /// A prover's probes do not end any more; the rest of its process goes on.
    ProbesHang,
    AgentWakesUp(usize),
    AgentCutOff,
    AgentReconnected(usize),
    AgentUpdated,
    AgentEnds(usize),
    SaidOfNode {
        open: bool,
    },
    SaidOfAll {
        open: bool,
    },
    TaintRemoved,
    LeaseDeleted,
    LinkerdUninstalled,
    LinkerdInstalled,
    Placeholder,
    PlaceholderFilled,
    InjectorFlaps,
    InjectorBack,
    IdentityFails,
    IdentityBack,
    PodsReplaced,
    DaemonSetComes,
    DaemonSetTolerates,
    ControllersGone,
    /// A replica's process ends, and begins again.
    ReplicaCrashes,
    /// It ends as soon as it has sent so many more writes.
    ReplicaDiesWriting(usize),
    ReplicaHangs,
    ReplicaWakesUp(usize),
    ReplicaCutOff,
    ReplicaReconnected(usize),
    /// The leader's watches end, of which it knows.
    StreamsBreak,
    /// One of the leader's watches shows nothing for a while, of which it does not know.
    StreamStalls,
    ClockJumps,
    ClockRight(usize),
    ControllerLeaseDeleted,
    /// The controllers of owners and the scheduler are gone.
    ManagersGone,
    InjectorLies,
    InjectorHonest,
    CertificateWrong,
    CertificateRight,
    PodDeleted,
    PodReleased,
    BarePodMade,
    OwnerMade,
    OwnerScaled,
    AgentOfOtherVersion {
        more: bool,
    },
    ReplicaOfOtherVersion {
        more: bool,
    },
    JobSuspended,
    JobResumed(usize),
    /// All nodes reboot, one after the other.
    RollingReboot,
    Reboot(usize),
    /// An agent's process ends, and no other comes in its place until all is mended.
    AgentGone,
    /// A node joins that its kubelet registers with our taint, and gets no agent.
    NodeWithoutAgent,
    /// A kubelet that booted takes back what it said of the shutdown.
    ShutdownCleared(usize),
    /// Everything that is broken is mended, but for what the gate itself has to do.
    Heal,
}

/// One thing of a story: when it happens, and what; what it befalls is drawn by a separate seed, so that a story that lacks
/// another thing goes on as it did.
#[derive(Clone, Debug)]
pub struct Incident {
    pub at: Duration,
    pub seed: u64,
    pub happening: Happening,
}

/// Draws a story: things that happen every few seconds until `end`.
pub fn draw(random: &mut Random, end: Duration, everything: bool) -> Vec<Incident> {
    let mut story = Vec::new();
    let mut at = random.between(0, 30_000);
    while at < end {
        let happening = Happening::draw(random, everything);
        story.push(Incident { at, seed: u64::try_from(random.below(1 << 40)).unwrap(), happening });
        at += random.between(200, 25_000);
    }
    story
}

// === impl Happening ===

impl Happening {
    fn draw(random: &mut Random, everything: bool) -> Self {
        match random.below(if everything { 78 } else { 42 }) {
            0..=4 => Self::PowerCut,
            5..=7 => Self::PowerCutOfAll,
            8 => Self::NodeJoins,
            9..=10 => Self::ApiServerDown,
            11 => Self::ApiServerSlow,
            12 => Self::WatchesBreak,
            13..=15 => Self::AgentCrashes,
            16..=19 => Self::AgentHangs,
            20..=21 => Self::AgentCutOff,
            22..=23 => Self::AgentUpdated,
            24 => Self::SaidOfNode { open: random.chance(50) },
            25 => Self::SaidOfAll { open: random.chance(50) },
            26..=27 => Self::TaintRemoved,
            28 => Self::LeaseDeleted,
            29 => Self::LinkerdUninstalled,
            30 => Self::Placeholder,
            31..=32 => Self::InjectorFlaps,
            33 => Self::IdentityFails,
            34..=35 => Self::PodsReplaced,
            36..=37 => Self::ControllersGone,
            38..=39 => Self::ProbesHang,
            40..=41 => Self::DaemonSetComes,
            42..=46 => Self::ReplicaCrashes,
            47..=49 => Self::ReplicaDiesWriting(1 + random.below(4)),
            50..=52 => Self::ReplicaHangs,
            53..=54 => Self::ReplicaCutOff,
            55 => Self::StreamsBreak,
            56..=57 => Self::StreamStalls,
            58 => Self::ClockJumps,
            59 => Self::ControllerLeaseDeleted,
            60..=61 => Self::ManagersGone,
            62..=63 => Self::InjectorLies,
            64 => Self::CertificateWrong,
            65..=66 => Self::PodDeleted,
            67 => Self::PodReleased,
            68 => Self::BarePodMade,
            69 => Self::OwnerMade,
            70 => Self::OwnerScaled,
            71 => Self::JobSuspended,
            72 => Self::AgentOfOtherVersion { more: random.chance(50) },
            73 => Self::RollingReboot,
            74..=75 => Self::AgentGone,
            76 => Self::NodeWithoutAgent,
            _ => Self::ReplicaOfOtherVersion { more: random.chance(50) },
        }
    }
}

/// What it ends with, after between so many and so many milliseconds.
pub fn ends(world: &mut World, (shortest, longest): (u64, u64), end: Happening) {
    let after = world.random.between(shortest, longest);
    world.happen_in(after, end);
}
