//! Power of machines and of the API server, and the end of everything that is broken.

use std::time::Duration;

use crate::happenings::honest;
use crate::random::Format;
use crate::story::{Happening, ends};
use crate::world::{SECOND, World, node_name};

/// A machine takes at least so long to come back: longer than a look or a write may still be on its way.
const DARK: Duration = Duration::from_secs(18);

/// A machine goes down, in one case of three after its kubelet has said so.
pub fn cut_power(world: &mut World) {
    let node = world.random.below(world.machines.len());
    if world.random.chance(30) {
        shut_down(world, node);
    } else {
        power_off(world, node);
    }
}

/// A machine goes down after its kubelet has said so, where it can say so.
pub fn shut_down(world: &mut World, node: usize) {
    if world.machines[node].powered && world.api_up {
        world.api.change_node(node, |view| view.shutting_down = true);
        world.notify_node(node);
        ends(world, (500, 5000), Happening::PowerOff(node));
    } else {
        power_off(world, node);
    }
}

pub fn stop_api_server(world: &mut World) {
    world.api_up = false;
    world.break_all_watches();
    ends(world, (2000, 50_000), Happening::ApiServerUp);
}

pub fn clear_shutdown(world: &mut World, node: usize) {
    if world.api.nodes[node].shutting_down {
        world.api.change_node(node, |view| view.shutting_down = false);
        world.notify_node(node);
    }
}

/// A machine loses its power.
pub fn power_off(world: &mut World, node: usize) {
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

pub fn power_on(world: &mut World, node: usize) {
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

/// Mends everything that is broken.
pub fn heal(world: &mut World) {
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
    world.machines.iter_mut().for_each(|machine| machine.agent_gone = false);
    for node in 0..world.machines.len() {
        if world.machines[node].powered && !agents.contains_key(&node) {
            let number = world.agents.len();
            world.log(|_| format!("-- {} gets an agent", node_name(node)));
            world.start_agent_in(SECOND, node, format!("agent-{node}-{number}"));
        }
    }
    world.calm = true;
}
