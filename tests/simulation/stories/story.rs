//! What befalls the world, by its seed.

use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;
use linkerd_gate_core::decide::ManualOverride;

use crate::agent::Process;
use crate::random::{Format, Random};
use crate::world::{Part, SECOND, World, node_name};

/// A machine takes at least so long to come back: longer than a look or a write may still be on its way.
const DARK: Duration = Duration::from_secs(18);

/// One thing that happens. Whom it befalls is decided when it does.
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
    /// A kubelet that booted takes back what it said of the shutdown.
    ShutdownCleared(usize),
    /// Everything that is broken is mended, but for what the gate itself has to do.
    Heal,
}

/// One thing of a story: when it happens, and what; whom it befalls is drawn by a seed of its own, so that a story that lacks
/// another thing goes on as it did.
#[derive(Clone, Debug)]
pub struct Told {
    pub at: Duration,
    pub seed: u64,
    pub happening: Happening,
}

/// Draws a story: things that happen every few seconds until `end`.
pub fn draw(random: &mut Random, end: Duration, everything: bool) -> Vec<Told> {
    let mut story = Vec::new();
    let mut at = random.between(0, 30_000);
    while at < end {
        let happening = Happening::draw(random, everything);
        story.push(Told { at, seed: u64::try_from(random.below(1 << 40)).unwrap(), happening });
        at += random.between(200, 25_000);
    }
    story
}

// === impl Happening ===

impl Happening {
    fn draw(random: &mut Random, everything: bool) -> Self {
        match random.below(if everything { 74 } else { 42 }) {
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
            _ => Self::ReplicaOfOtherVersion { more: random.chance(50) },
        }
    }

    /// Makes it so, and draws when it ends.
    #[expect(clippy::too_many_lines, reason = "one arm for each thing that can happen")]
    pub fn happen(self, world: &mut World) {
        // What is still broken when everything is mended is mended too, and nothing breaks any more.
        if world.calm && !matches!(self, Self::PowerOn(_) | Self::ShutdownCleared(_)) {
            return;
        }
        match self {
            Self::PowerCut => cut_power(world),
            Self::PowerCutOfAll => {
                for node in 0..world.machines.len() {
                    power_off(world, node);
                }
                stop_api_server(world);
                lose_managers(world, (5000, 50_000));
            }
            Self::PowerOff(node) => power_off(world, node),
            Self::PowerOn(node) => power_on(world, node),
            Self::NodeJoins => {
                if world.machines.len() < world.setting.nodes + 2 {
                    let created = world.created_now();
                    world.add_machine(None, created);
                }
            }
            Self::ShutdownCleared(node) => clear_shutdown(world, node),

            Self::ApiServerDown => stop_api_server(world),
            Self::ApiServerUp => {
                world.api_up = true;
                world.api_settled();
            }
            Self::ApiServerSlow => {
                world.api_slow = true;
                ends(world, (5000, 40_000), Self::ApiServerFast);
            }
            Self::ApiServerFast => {
                world.api_slow = false;
                world.api_settled();
            }
            Self::WatchesBreak => world.break_all_watches(),

            Self::AgentCrashes | Self::AgentHangs | Self::AgentCutOff | Self::AgentUpdated => {
                if let Some(agent) = victim(world) {
                    self.befall(agent, world);
                }
            }
            Self::ProbesHang => {
                for agent in world.living(None) {
                    let acts = world.agents[agent].acts(world.now);
                    if acts && world.agents[agent].hang_probes() {
                        world.counts.probes_hung += 1;
                    }
                }
            }
            Self::AgentWakesUp(agent) => world.wake_up(agent),
            Self::AgentReconnected(agent) => {
                world.agents[agent].cut_off = false;
                world.agents[agent].undisturbed = world.now;
            }
            Self::AgentEnds(agent) => world.end(agent),

            Self::SaidOfNode { .. } | Self::SaidOfAll { .. } | Self::TaintRemoved | Self::LeaseDeleted => {
                self.manual_override(world);
            }

            Self::LinkerdUninstalled => {
                set(world, |world| world.webhook_present = false);
                ends(world, (3000, 40_000), Self::LinkerdInstalled);
            }
            Self::LinkerdInstalled => set(world, |world| world.webhook_present = true),
            Self::Placeholder => {
                world.webhook_placeholder = true;
                ends(world, (3000, 30_000), Self::PlaceholderFilled);
            }
            Self::PlaceholderFilled => world.webhook_placeholder = false,
            Self::InjectorFlaps => {
                world.injector_down = true;
                ends(world, (200, 20_000), Self::InjectorBack);
            }
            Self::InjectorBack => world.injector_down = false,
            Self::IdentityFails => {
                world.identity_down = true;
                ends(world, (1000, 20_000), Self::IdentityBack);
            }
            Self::IdentityBack => world.identity_down = false,
            Self::PodsReplaced => {
                for part in [Part::Dns, Part::Identity, Part::Injector] {
                    if world.random.chance(60) {
                        world.replace_pod(part);
                    }
                }
            }
            Self::DaemonSetComes => {
                // Its pods are made again, on every node that it may have one on.
                for node in 0..world.machines.len() {
                    if world.random.chance(50) {
                        world.machines[node].cni_since = None;
                    }
                }
                set(world, |world| world.daemon_set_lacks = true);
                ends(world, (10_000, 60_000), Self::DaemonSetTolerates);
            }
            Self::DaemonSetTolerates => set(world, |world| world.daemon_set_lacks = false),
            Self::ControllersGone => {
                for one in world.living_replicas() {
                    let after = world.random.between(3000, 60_000);
                    world.end_replica(one, true, after);
                }
            }
            Self::ManagersGone => lose_managers(world, (3000, 40_000)),
            Self::InjectorLies => {
                world.injector_lies = true;
                (world.lied, world.leaderships_in_lie) = (std::collections::BTreeMap::new(), 0);
                ends(world, (5000, 60_000), Self::InjectorHonest);
            }
            Self::InjectorHonest => honest(world),
            Self::CertificateWrong => {
                world.certificate_wrong = true;
                ends(world, (3000, 40_000), Self::CertificateRight);
            }
            Self::CertificateRight => world.certificate_wrong = false,
            Self::Heal => heal(world),
            other => crate::people::happen(&other, world),
        }
    }

    /// What happens to one process.
    fn befall(self, agent: usize, world: &mut World) {
        let node = world.agents[agent].node;
        match self {
            Self::AgentCrashes => {
                let pod = world.agents[agent].me.detail.clone();
                world.end(agent);
                let pause = world.random.between(500, 10_000);
                world.start_agent_in(pause, node, pod);
            }
            Self::AgentHangs => {
                world.agents[agent].process = Process::Hangs;
                ends(world, (1000, 60_000), Self::AgentWakesUp(agent));
            }
            Self::AgentCutOff => {
                world.agents[agent].cut_off = true;
                world.break_watches(agent);
                ends(world, (2000, 60_000), Self::AgentReconnected(agent));
            }
            Self::AgentUpdated => {
                let number = world.agents.len();
                world.start_agent_in(Duration::ZERO, node, format!("agent-{node}-{number}"));
                ends(world, (500, 20_000), Self::AgentEnds(agent));
            }
            _ => unreachable!("{self:?} does not happen to a process"),
        }
    }

    /// What people do.
    fn manual_override(self, world: &mut World) {
        let node = world.random.below(world.machines.len());
        match self {
            Self::SaidOfNode { open } => {
                let said = say(world, open);
                world.annotate_node(node, Some(said));
            }
            Self::SaidOfAll { open } => {
                let said = say(world, open);
                world.api.annotate_lease(Some(said.to_string()));
                world.notify_lease();
            }
            Self::TaintRemoved => {
                world.api.change_node(node, |view| view.taints = None);
                world.note_taint(node);
                world.notify_node(node);
            }
            Self::LeaseDeleted => {
                world.lease_deleted = Some(world.now);
                world.api.lease = None;
                world.notify_lease();
            }
            _ => unreachable!("{self:?} is nothing that people do"),
        }
    }
}

/// What it ends with, after between so many and so many milliseconds.
pub fn ends(world: &mut World, (shortest, longest): (u64, u64), end: Happening) {
    let after = world.random.between(shortest, longest);
    world.happen_in(after, end);
}

/// Changes what the watches of a prover show.
fn set(world: &mut World, change: impl FnOnce(&mut World)) {
    change(world);
    world.refresh_cluster();
}

/// Nothing makes pods or gives them a node for between so many and so many milliseconds.
fn lose_managers(world: &mut World, (shortest, longest): (u64, u64)) {
    world.managers_up_at = world.now + world.random.between(shortest, longest);
}

/// The injector does what it says again, by another version of it: its configuration changes.
fn honest(world: &mut World) {
    if world.injector_lies {
        world.injector_lies = false;
        world.webhook_edition += 1;
        world.refresh_webhooks();
    }
}

/// A machine goes down, in one case of three after its kubelet has said so.
fn cut_power(world: &mut World) {
    let node = world.random.below(world.machines.len());
    if world.random.chance(30) && world.machines[node].powered && world.api_up {
        world.api.change_node(node, |view| view.shutting_down = true);
        world.notify_node(node);
        ends(world, (500, 5000), Happening::PowerOff(node));
    } else {
        power_off(world, node);
    }
}

fn stop_api_server(world: &mut World) {
    world.api_up = false;
    world.break_all_watches();
    ends(world, (2000, 50_000), Happening::ApiServerUp);
}

fn clear_shutdown(world: &mut World, node: usize) {
    if world.api.nodes[node].shutting_down {
        world.api.change_node(node, |view| view.shutting_down = false);
        world.notify_node(node);
    }
}

/// Somebody to whom something happens: often the one that matters most.
fn victim(world: &mut World) -> Option<usize> {
    let living = world.living(None);
    if living.is_empty() {
        return None;
    }
    let prover = living.iter().copied().find(|agent| world.agents[*agent].acts(world.now));
    match prover {
        Some(prover) if world.random.chance(60) => Some(prover),
        Some(_) | None => Some(living[world.random.below(living.len())]),
    }
}

fn say(world: &mut World, open: bool) -> ManualOverride {
    let lasts = world.random.between(5000, 60_000);
    let until = world.wall() + SignedDuration::from_secs(i64::try_from(lasts.as_secs()).unwrap());
    if !open {
        let end = world.now + lasts;
        world.closed_by_override_until = Some(world.closed_by_override_until.map_or(end, |until| until.max(end)));
    }
    ManualOverride { open, until }
}

fn power_off(world: &mut World, node: usize) {
    if !world.machines[node].powered {
        return;
    }
    world.machines[node].powered = false;
    world.machines[node].power_lost = world.now;
    for agent in world.living(Some(node)) {
        world.end(agent);
    }
    for one in world.living_replicas() {
        if world.replicas[one].node == node {
            let (moves, after) = (world.random.chance(30), world.random.between(2000, 8000));
            world.end_replica(one, moves, after);
        }
    }
    let dark = world.random.between(DARK.as_secs() * 1000, 60_000);
    world.happen_in(dark, Happening::PowerOn(node));
}

fn power_on(world: &mut World, node: usize) {
    if world.machines[node].powered {
        return;
    }
    let machine = &mut world.machines[node];
    (machine.powered, machine.booted, machine.first_agent) = (true, world.now, None);
    machine.boot += 1;
    for pod in 0..world.pods.len() {
        if world.pods[pod].node == Some(node) {
            world.pods[pod].starts = world.now + world.random.between(2000, 15_000);
        }
    }
    world.restart_pods(node);
    let after = world.random.between(500, 6000);
    world.start_agent_in(after, node, format!("agent-{node}"));
    let said = after + world.random.between(0, 2000);
    world.happen_in(said, Happening::ShutdownCleared(node));
}

fn heal(world: &mut World) {
    for node in 0..world.machines.len() {
        if world.api.nodes[node].manual_override.is_some() {
            world.annotate_node(node, None);
        }
        let still_dark = (world.machines[node].power_lost + DARK).saturating_sub(world.now);
        if !world.machines[node].powered && !still_dark.is_zero() {
            world.happen_in(still_dark, Happening::PowerOn(node));
            continue;
        }
        power_on(world, node);
        clear_shutdown(world, node);
    }
    for agent in world.living(None) {
        world.wake_up(agent);
        world.agents[agent].format = Format::Ours;
        world.agents[agent].cut_off = false;
        world.agents[agent].undisturbed = world.now;
    }
    world.api_up = true;
    world.api_slow = false;
    world.api_settled();
    if world.api.lease.as_ref().is_some_and(|word| word.record.manual_override.is_some()) {
        world.api.annotate_lease(None);
        world.notify_lease();
    }
    world.webhook_present = true;
    world.webhook_placeholder = false;
    world.injector_down = false;
    world.identity_down = false;
    world.daemon_set_lacks = false;
    world.certificate_wrong = false;
    honest(world);
    crate::people::heal(world);
    world.refresh_cluster();
    let agents = world.agents_by_node();
    for node in 0..world.machines.len() {
        if world.machines[node].powered && !agents.contains_key(&node) {
            let number = world.agents.len();
            world.tell(|_| format!("-- {} gets an agent", node_name(node)));
            world.start_agent_in(SECOND, node, format!("agent-{node}-{number}"));
        }
    }
    world.calm = true;
}
