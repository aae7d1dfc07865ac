//! What comes of each thing that happens.

use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;
use linkerd_gate_core::decide::ManualOverride;
use linkerd_gate_core::decide::node::taint::TAINT_KEY;

use crate::agent::Process;
use crate::power::{clear_shutdown, cut_power, heal, power_off, power_on, shut_down, stop_api_server};
use crate::story::{Happening, ends};
use crate::world::{Part, World};

// === impl Happening ===

impl Happening {
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
                if let Some(node) = join(world) {
                    world.start_first_agent(node);
                }
            }
            Self::NodeWithoutAgent => {
                if let Some(node) = join(world) {
                    world.machines[node].agent_gone = true;
                    world.api.change_node(node, |view| view.taints = Some(view.with_taint(TAINT_KEY, Some("joined"))));
                    world.note_taint(node);
                }
            }
            Self::RollingReboot => {
                let gap = world.random.between(20_000, 40_000);
                for node in 0..world.machines.len() {
                    world.happen_in(gap * u32::try_from(node).unwrap(), Self::Reboot(node));
                }
            }
            Self::Reboot(node) => shut_down(world, node),
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
            Self::AgentGone => {
                // Where it matters: on a node that is closed.
                let living = world.living(None);
                let closed = living.iter().copied().find(|agent| world.api.is_tainted(world.agents[*agent].node));
                if let Some(agent) = closed.or_else(|| living.first().copied()) {
                    let node = world.agents[agent].node;
                    world.machines[node].agent_gone = true;
                    world.living(Some(node)).into_iter().for_each(|agent| world.end(agent));
                }
            }

            Self::SaidOfNode { .. } | Self::SaidOfAll { .. } | Self::TaintRemoved | Self::LeaseDeleted => {
                self.manual_override(world);
            }

            Self::LinkerdUninstalled => {
                // However short it is: a controller may see it.
                world.objects.pods.values_mut().for_each(|pod| pod.came_before = true);
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

/// Changes what the watches of a prover show.
fn set(world: &mut World, change: impl FnOnce(&mut World)) {
    change(world);
    world.refresh_cluster();
}

/// Nothing makes pods or gives them a node for between so many and so many milliseconds.
pub fn lose_managers(world: &mut World, (shortest, longest): (u64, u64)) {
    world.managers_up_at = world.now + world.random.between(shortest, longest);
}

/// The injector does what it says again, by another version of it: its configuration changes.
pub fn honest(world: &mut World) {
    if world.injector_lies {
        world.injector_lies = false;
        world.webhook_edition += 1;
        world.refresh_webhooks();
    }
}

/// A node joins, unless there are enough.
fn join(world: &mut World) -> Option<usize> {
    (world.machines.len() < world.setting.nodes + 2).then(|| {
        let created = world.created_now();
        world.add_machine(None, created)
    })
}

/// The agent to which something happens: often the one that matters most.
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
    let ends = if open { &mut world.opened_by_override_until } else { &mut world.closed_by_override_until };
    *ends = (*ends).max(Some(world.now + lasts));
    ManualOverride { open, until }
}
