//! The whole protocol on virtual time: nodes with their agents, one prover, the controller's replicas, an API server, owners, pods,
//! kubelets, Linkerd's parts, and whatever can befall them, by a seed. Agents and replicas are the pure core that the program runs,
//! with a loop around it as the role's.
//!
//! A violation names its seed, the instant, what happened last, and the shortest story that fails. One seed is replayed by
//!
//! ```console
//! $ LINKERD_GATE_SIMULATION_SEED=1234 cargo test --package linkerd-gate-simulation
//! ```
//!
//! and more of them are drawn by `LINKERD_GATE_SIMULATION_SEEDS=100000`.

mod agent;
mod api_server;
mod app_invariants;
mod apps;
mod controller;
mod events;
mod happenings;
mod invariants;
mod kubelet;
mod leader;
mod objects;
mod parts;
mod people;
mod player;
mod power;
mod processes;
mod random;
mod render;
mod replicas;
mod requests;
mod setting;
mod story;
mod wait;
mod world;
mod writes;
use std::time::Duration;

use linkerd_gate_core::decide::election::elector::{PROBE_DEADLINE, STAND_BACK};

use apps::Admission;
use player::{BOUND, SEEDS, number, play, play_all, play_drawn, setting};
use setting::{Broken, Counts, Setting, Violation};
use story::Happening;
use world::World;

/// Once all nodes are back, and before the injector is, people want more pods.
fn pods_in_outage(world: &mut World) {
    world.injector_down = true;
    world.happen_in(Duration::from_mins(2), Happening::InjectorBack);
    for second in 75..110 {
        world.happen_in(Duration::from_secs(second), Happening::OwnerScaled);
    }
}

/// A power cut of everything, until just before the injector is back.
fn outage(setting: Setting) -> Result<Counts, Violation> {
    let mut world = World::new(Setting { max_closed: Duration::from_mins(10), replicas: false, ..setting });
    world.run_until(Duration::from_mins(1))?;
    world.counts = Counts::default();
    world.happen_in(Duration::ZERO, Happening::PowerCutOfAll);
    pods_in_outage(&mut world);
    world.run_until(Duration::from_secs(178))?;
    Ok(world.counts)
}

/// One power cut of everything, at rest before it, with nothing else in the way. Counts begin with it.
fn power_cut(mut setting: Setting) -> Result<Counts, Violation> {
    setting.max_closed = Duration::from_mins(10);
    let mut world = World::new(setting);
    world.run_until(Duration::from_mins(1))?;
    world.counts = Counts::default();
    world.happen_in(Duration::ZERO, Happening::PowerCutOfAll);
    world.run_until(Duration::from_mins(4))?;
    world.check_all_open().map_err(|what| world.violation(what))?;
    Ok(world.counts)
}

/// A node loses its power, and while it boots the prover stops renewing the Lease: whoever takes over knows what was proven before.
fn lost_prover(mut setting: Setting) -> Result<Counts, Violation> {
    (setting.nodes, setting.proven_again) = (setting.nodes.max(3), Duration::from_mins(1));
    setting.max_closed = Duration::from_mins(10);
    let mut world = World::new(setting);
    world.webhook_present = world.random.chance(50);
    world.refresh_cluster();
    world.run_until(Duration::from_mins(1))?;
    let silent = world.random.between(3000, 20_000);
    world.happen_in(Duration::ZERO, Happening::PowerCut);
    world.happen_in(silent, Happening::AgentHangs);
    world.run_until(Duration::from_mins(2))?;
    world.happen_in(Duration::ZERO, Happening::Heal);
    world.run_until(Duration::from_mins(5))?;
    world.check_all_open().map_err(|what| world.violation(what))?;
    Ok(world.counts)
}

/// A prover's probes hang while it renews its Lease, and nothing mends that. Then a node boots: it opens by another prover's proof.
fn hung_prober(mut setting: Setting) -> Result<Counts, Violation> {
    (setting.fresh_install, setting.max_closed) = (false, Duration::from_mins(10));
    let mut world = World::new(setting);
    world.run_until(Duration::from_mins(1))?;
    world.counts = Counts::default();
    world.happen_in(Duration::ZERO, Happening::ProbesHang);
    let boots = world.random.between(100, 60_000);
    world.happen_in(boots, Happening::PowerCut);
    world
        .run_until(Duration::from_mins(2) + BOUND + PROBE_DEADLINE + STAND_BACK + world.setting.proven_again * 6 / 5)?;
    world.check_all_open().map_err(|what| world.violation(what))?;
    Ok(world.counts)
}

/// All nodes reboot, one after the other, and nothing else happens.
fn rolling_reboot(mut setting: Setting) -> Result<Counts, Violation> {
    (setting.nodes, setting.fresh_install, setting.max_closed) = (setting.nodes.max(2), false, Duration::from_mins(10));
    let mut world = World::new(setting);
    world.run_until(Duration::from_mins(1))?;
    world.counts = Counts::default();
    world.happen_in(Duration::ZERO, Happening::RollingReboot);
    let each = Duration::from_secs(40) * u32::try_from(world.setting.nodes).unwrap();
    // The last one is dark for a minute at most.
    world.run_until(Duration::from_mins(2) + each + BOUND + world.setting.proven_again * 6 / 5)?;
    world.check_all_open().map_err(|what| world.violation(what))?;
    Ok(world.counts)
}

/// A node joins that its kubelet registers with the taint, and it never gets an agent.
fn node_without_agent(mut setting: Setting) -> Result<Counts, Violation> {
    setting.orphan_after = Duration::from_secs(45);
    let mut world = World::new(setting);
    world.run_until(Duration::from_mins(1))?;
    world.counts = Counts::default();
    let joined = world.machines.len();
    world.happen_in(Duration::ZERO, Happening::NodeWithoutAgent);
    world.run_until(Duration::from_secs(104))?;
    if !world.api.is_tainted(joined) {
        return Err(world.violation("the node was opened too early".to_owned()));
    }
    world.run_until(Duration::from_mins(2))?;
    if world.api.is_tainted(joined) {
        return Err(world.violation("the node without an agent stays closed".to_owned()));
    }
    Ok(world.counts)
}

#[test]
fn whatever_befalls_the_cluster_the_invariants_hold() {
    let seeds = match number("LINKERD_GATE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LINKERD_GATE_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let all = play_drawn(seeds);
    let sum = |of: fn(&Counts) -> usize| all.iter().map(of).sum::<usize>();
    println!(
        "pods: {} bare, {} held, {} refused, {} started bare; repair: {} writes, {} removed, {} evicted, {} suspended, \
         {} ungated, {} orphans; longest recovery {:?}",
        sum(|counts| counts.bare),
        sum(|counts| counts.held),
        sum(|counts| counts.refused),
        sum(|counts| counts.started_bare),
        sum(|counts| counts.repairs),
        sum(|counts| counts.removed),
        sum(|counts| counts.evicted),
        sum(|counts| counts.suspended),
        sum(|counts| counts.ungated),
        sum(|counts| counts.orphans),
        all.iter().map(|counts| counts.healed_in).max(),
    );
    println!(
        "{} stories: {} nodes opened by proof, {} for having been closed too long, {} tolerations, {} tries to take the Lease",
        all.len(),
        sum(|counts| counts.proven),
        sum(|counts| counts.too_long_closed),
        sum(|counts| counts.tolerations),
        sum(|counts| counts.takings),
    );
    if all.len() > 100 {
        assert!(sum(|counts| counts.probes_hung) > all.len() / 20, "the stories have to reach what they are about");
        assert!(sum(|counts| counts.proven) > all.len(), "the stories have to reach what they are about");
        assert!(sum(|counts| counts.too_long_closed) > 0, "the stories have to reach what they are about");
        assert!(sum(|counts| counts.tolerations) > 0, "the stories have to reach what they are about");
    }
    // One story in a hundred.
    if all.len() >= 5000 {
        assert!(sum(|counts| counts.orphans) > 0, "the stories have to reach what they are about");
        assert!(sum(|counts| counts.before_repair) > 0, "the stories have to reach what they are about");
    }
}

#[test]
fn an_app_outside_the_mesh_is_seen_whoever_let_it_start() {
    for (broken, admission, who) in [
        (Broken::SchedulerIgnoresGates, Admission::Hold, "which admission holds"),
        (Broken::GatesComeOff, Admission::Hold, "which admission holds"),
        (Broken::WaitEndsAtOnce, Admission::Off, "which `wait` holds"),
    ] {
        let play = |seed| play(Setting { broken: Some(broken), admission, ..setting(seed, false) });
        let seen = (0..60).filter_map(|seed| play(seed).err()).filter(|violation| violation.what.contains(who)).count();
        assert!(seen > 5, "{broken:?} was seen in {seen} of 60 stories");
    }
}

#[test]
fn a_new_prover_opens_no_booting_node_by_an_old_proof() {
    play_all(0..200, lost_prover);
}

#[test]
fn a_prover_with_hung_probes_steps_down_and_opens_nothing() {
    let all = play_all(0..100, hung_prober);
    let sum = |of: fn(&Counts) -> usize| all.iter().map(of).sum::<usize>();
    assert!(sum(|counts| counts.probes_hung) > 80, "the stories have to reach what they are about");
    assert!(sum(|counts| counts.proven) > 80, "the stories have to reach what they are about");
    assert_eq!(sum(|counts| counts.too_long_closed), 0);
}

#[test]
fn nodes_that_reboot_in_turn_open_by_proof() {
    let all = play_all(0..100, rolling_reboot);
    let sum = |of: fn(&Counts) -> usize| all.iter().map(of).sum::<usize>();
    assert!(all.iter().all(|counts| counts.proven >= 2), "the stories have to reach what they are about");
    assert_eq!(sum(|counts| counts.too_long_closed), 0);
}

#[test]
fn the_controller_opens_a_node_that_has_no_agent() {
    let all = play_all(0..100, node_without_agent);
    assert!(all.iter().all(|counts| counts.orphans == 1), "one write opens it");
}

#[test]
fn a_seed_always_plays_the_same_simulation() {
    for seed in 0..5 {
        assert_eq!(play(setting(seed, false)).unwrap(), play(setting(seed, true)).unwrap(), "seed {seed}");
    }
}

#[test]
fn after_a_power_cut_pods_that_would_be_bare_find_no_node() {
    let seeds = 0..60;
    let play = |taints| {
        let play = move |setting| outage(Setting { taints, admission: Admission::Off, ..setting });
        play_all(seeds.clone(), play).iter().map(|counts| counts.bound_bare).sum::<usize>()
    };
    let (with, without) = (play(true), play(false));
    println!("bare pods that found a node after 60 power cuts: {with} with the agents' taints, {without} without");
    assert!(without > 100, "the power cuts have to reach what they are about");
    assert!(with * 4 < without, "{with} with the taints, {without} without");
}

/// A power cut of everything, after which a controller is there before Linkerd is.
fn power_cut_with_controllers(mut setting: Setting) -> Result<Counts, Violation> {
    setting.max_closed = Duration::from_mins(10);
    let mut world = World::new(setting);
    world.run_until(Duration::from_mins(1))?;
    world.counts = Counts::default();
    world.happen_in(Duration::ZERO, Happening::PowerCutOfAll);
    pods_in_outage(&mut world);
    world.run_until(Duration::from_mins(5))?;
    world.check_all_open().map_err(|what| world.violation(what))?;
    Ok(world.counts)
}

#[test]
fn after_a_power_cut_nodes_open_once_pending_pods_are_replaced() {
    let seeds = 0..60;
    let waiting = |repair_grace| {
        let play = move |setting| {
            let setting = Setting { repair_grace, fresh_install: false, admission: Admission::Off, ..setting };
            power_cut_with_controllers(setting)
        };
        play_all(seeds.clone(), play).iter().map(|counts| counts.bound_bare).sum::<usize>()
    };
    let (with, without) = (waiting(Duration::from_mins(1)), waiting(Duration::ZERO));
    println!("bare pods that were bound when nodes opened, of 60 power cuts: {with} with the wait, {without} without");
    assert!(without > 15, "the power cuts have to reach what they are about");
    assert!(with * 4 < without, "{with} with the wait, {without} without");
}

#[test]
fn two_hundred_agents_that_boot_at_once_do_not_stampede() {
    let counts = power_cut(Setting { nodes: 200, fresh_install: false, apps: false, ..setting(1, false) })
        .unwrap_or_else(|violation| panic!("{violation:?}"));
    println!("200 agents after a power cut: {counts:?}");
    assert!(counts.takings <= 40, "{counts:?}");
    // One write closes a node, one opens it; a few are lost while the API server comes up, and essential pods take some.
    assert!(counts.other_writes <= 3 * 200, "{counts:?}");
    assert!(counts.dry_runs <= 100, "one agent proves for all: {counts:?}");
}
