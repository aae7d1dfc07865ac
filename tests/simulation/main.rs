//! The whole protocol on virtual time: many nodes with their agents, one prover, an API server, Linkerd's parts, and whatever
//! can befall them, by a seed. The agents are the pure core that the program runs, with a loop around it as the role's.
//!
//! A violation names its seed, the instant, and what happened last. One seed is replayed, and told, by
//!
//! ```console
//! $ LINKERD_GATE_SIMULATION_SEED=1234 cargo test --test simulation
//! ```
//!
//! and more of them are drawn by `LINKERD_GATE_SIMULATION_SEEDS=100000`.

mod agent;
mod api_server;
mod random;
mod story;
mod world;

use linkerd_gate::decide::election::elector::{PROBE_DEADLINE, STAND_BACK};
use random::Random;
use std::{ops::Range, thread, time::Duration};
use story::Happening;
use world::{Counts, Setting, Violation, World};

/// How many seeds are played, unless the environment says otherwise: what a debug build plays in some ten seconds.
const SEEDS: u64 = 1000;

/// Once everything is mended, within so long everything is open: a silent prover's Lease (15 s) and the wait of who takes it
/// (5 s), a longest pause between looks (5 s), the start of Linkerd's parts one after the other (20 s), and before all that a
/// machine that has just lost its power, and its agent (24 s). The controller replaces what waits for a node meanwhile, for as long as
/// a node waits for that at most (30 s). The time to a proof anew comes on top.
const BOUND: Duration = Duration::from_secs(105);

/// The world of a seed.
fn setting(seed: u64, logged: bool) -> Setting {
    let mut random = Random::new(seed ^ 0x5eed);
    Setting {
        seed,
        nodes: 1 + random.below(7),
        taints: true,
        max_closed: Duration::from_secs(if random.chance(40) { 45 } else { 600 }),
        repair_grace: Duration::from_secs(if random.chance(50) { 10 } else { 30 }),
        proven_again: Duration::from_secs(if random.chance(50) { 20 } else { 60 }),
        fresh_install: random.chance(30),
        logged,
    }
}

/// A story with everything in it: chaos, then calm.
fn play(setting: Setting) -> Result<Counts, Violation> {
    let mut world = World::new(setting);
    let chaos = world.random.between(60_000, 150_000);
    story::draw(&mut world, chaos);
    world.run_until(chaos)?;
    let mut bound = BOUND + world.setting.proven_again * 6 / 5;
    if world.counts.probes_hung > 0 {
        // Its next look would have begun by now, and then it gives way.
        bound += PROBE_DEADLINE + STAND_BACK;
    }
    world.happen_in(Duration::ZERO, Happening::Heal);
    world.run_until(chaos + bound)?;
    world.check_all_open().map_err(|what| world.violation(what))?;
    let before = world.counts.clone();
    let quiet = Duration::from_secs(40);
    world.run_until(chaos + bound + quiet)?;
    at_rest(&before, &world.counts, quiet).map_err(|what| world.violation(what))?;
    Ok(world.counts)
}

/// An undisturbed world makes no writes but renewals.
fn at_rest(before: &Counts, after: &Counts, during: Duration) -> Result<(), String> {
    let writes = after.other_writes - before.other_writes + after.takings - before.takings;
    let renewals = after.renewals - before.renewals;
    // A proof anew is told at once.
    let most = usize::try_from(during.as_secs()).unwrap() / 5 + 2 + after.dry_runs - before.dry_runs;
    if writes > 0 || renewals > most || after.conflicts > before.conflicts {
        return Err(format!("at rest there were {writes} writes and {renewals} renewals: {before:?}, then {after:?}"));
    }
    Ok(())
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

/// A node loses its power, and while it boots the prover falls silent: whoever takes over knows what was proven before.
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

/// Plays these seeds; the first violation is told whole.
fn play_all(seeds: Range<u64>, play: impl Fn(Setting) -> Result<Counts, Violation> + Sync) -> Vec<Counts> {
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let play = &play;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                let seeds = seeds.clone().filter(move |seed| seed % workers == worker);
                scope.spawn(move || seeds.map(|seed| play_or_tell(seed, play)).collect::<Vec<_>>())
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn play_or_tell(seed: u64, play: impl Fn(Setting) -> Result<Counts, Violation>) -> Counts {
    let logged = std::env::var_os("LINKERD_GATE_SIMULATION_SEED").is_some();
    match play(setting(seed, false)) {
        Ok(counts) if logged => {
            println!("seed {seed}: {counts:?}");
            counts
        }
        Ok(counts) => counts,
        Err(_) => {
            // The same story once more, written down.
            let Err(Violation { at, what, tail }) = play(setting(seed, true)) else {
                unreachable!("seed {seed} tells another story the second time")
            };
            panic!(
                "seed {seed}, at {at:?}: {what}\nreplay: LINKERD_GATE_SIMULATION_SEED={seed} cargo test --test simulation\n\
                 {tail}"
            );
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

#[test]
fn whatever_befalls_the_cluster_the_invariants_hold() {
    let seeds = match number("LINKERD_GATE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LINKERD_GATE_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let all = play_all(seeds, play);
    let sum = |of: fn(&Counts) -> usize| all.iter().map(of).sum::<usize>();
    println!(
        "{} stories: {} nodes opened by proof, {} for having been closed too long, {} tolerations, {} tries to take the Lease",
        all.len(),
        sum(|counts| counts.proven),
        sum(|counts| counts.too_long_closed),
        sum(|counts| counts.tolerations),
        sum(|counts| counts.takings),
    );
    if all.len() > 100 {
        assert!(sum(|counts| counts.probes_hung) > all.len() / 10, "the stories have to reach what they are about");
        assert!(sum(|counts| counts.proven) > all.len(), "the stories have to reach what they are about");
        assert!(sum(|counts| counts.too_long_closed) > 0, "the stories have to reach what they are about");
        assert!(sum(|counts| counts.tolerations) > 0, "the stories have to reach what they are about");
        assert!(sum(|counts| counts.before_repair) > 0, "the stories have to reach what they are about");
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
fn a_seed_always_plays_the_same_simulation() {
    for seed in 0..5 {
        assert_eq!(play(setting(seed, false)).unwrap(), play(setting(seed, true)).unwrap(), "seed {seed}");
    }
}

#[test]
fn after_a_power_cut_pods_that_would_be_bare_find_no_node() {
    let seeds = 0..60;
    let with = play_all(seeds.clone(), power_cut);
    let without = play_all(seeds, |setting| power_cut(Setting { taints: false, ..setting }));
    let slipped = |all: &[Counts]| all.iter().map(|counts| counts.slipped).sum::<usize>();
    let (with, without) = (slipped(&with), slipped(&without));
    println!("bare pods that found a node after 60 power cuts: {with} with the agents' taints, {without} without");
    assert!(without > 300, "the power cuts have to reach what they are about");
    // Between a kubelet's first sign of life and its agent's first write nothing keeps a pod away, and here that takes up to
    // 6 s on each of the nodes, which come back one after the other.
    assert!(with * 4 < without * 3, "{with} with the taints, {without} without");
}

/// A power cut of everything, after which a controller is there before Linkerd is.
fn power_cut_with_controllers(mut setting: Setting) -> Result<Counts, Violation> {
    setting.max_closed = Duration::from_mins(10);
    let mut world = World::new(setting);
    world.run_until(Duration::from_mins(1))?;
    world.counts = Counts::default();
    world.happen_in(Duration::ZERO, Happening::PowerCutOfAll);
    world.run_until(Duration::from_secs(61))?;
    world.controllers.up_at = world.now;
    world.run_until(Duration::from_mins(5))?;
    world.check_all_open().map_err(|what| world.violation(what))?;
    Ok(world.counts)
}

#[test]
fn after_a_power_cut_nodes_open_once_pending_pods_are_replaced() {
    let seeds = 0..60;
    let waiting = |repair_grace| {
        let play = move |setting| power_cut_with_controllers(Setting { repair_grace, fresh_install: false, ..setting });
        play_all(seeds.clone(), play).iter().map(|counts| counts.bound_bare).sum::<usize>()
    };
    let (with, without) = (waiting(Duration::from_mins(1)), waiting(Duration::ZERO));
    println!("bare pods that were bound when nodes opened, of 60 power cuts: {with} with the wait, {without} without");
    assert!(without > 15, "the power cuts have to reach what they are about");
    assert!(with * 4 < without, "{with} with the wait, {without} without");
}

#[test]
fn two_hundred_agents_that_boot_at_once_do_not_stampede() {
    let counts = power_cut(Setting { nodes: 200, fresh_install: false, ..setting(1, false) })
        .unwrap_or_else(|violation| panic!("{violation:?}"));
    println!("200 agents after a power cut: {counts:?}");
    assert!(counts.takings <= 40, "{counts:?}");
    // One write closes a node, one opens it; a few are lost while the API server comes up, and essential pods take some.
    assert!(counts.other_writes <= 3 * 200, "{counts:?}");
    assert!(counts.dry_runs <= 100, "one agent proves for all: {counts:?}");
}
