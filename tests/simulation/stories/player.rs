//! Plays stories: the world of a seed, what must hold at the end, and the shortest story that fails.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use linkerd_gate_core::decide::election::elector::{PROBE_DEADLINE, STAND_BACK};
use linkerd_gate_core::decide::repair::{Repair, RepairPolicy};

use crate::apps::Admission;
use crate::random::Random;
use crate::setting::{Counts, Setting, Violation};
use crate::story::{self, Happening, Incident};
use crate::world::World;

/// How many seeds are played, unless the environment says otherwise.
pub const SEEDS: u64 = 20_000;

/// Once everything is mended, within so long everything is open: a silent prover's Lease (15 s) and the wait of who takes it
/// (5 s), a longest pause between looks (5 s), the start of Linkerd's parts one after the other (20 s), and before all that a
/// machine that has just lost its power, and its agent (24 s). The controller replaces what waits for a node meanwhile, for as long as
/// a node waits for that at most (30 s). The time to the next proof comes on top.
pub const BOUND: Duration = Duration::from_secs(105);

/// And within so much longer everything that asks is meshed: the longest pause after a write that failed (5 min), and as long as a
/// replacement may take before the next one is not held up any longer (1 min), twice.
pub const REPAIR_BOUND: Duration = Duration::from_mins(7);

/// The world of a seed.
pub fn setting(seed: u64, logged: bool) -> Setting {
    let mut random = Random::new(seed ^ 0x5eed);
    let nodes = 1 + random.below(7);
    let max_closed = Duration::from_secs(if random.chance(40) { 45 } else { 600 });
    let repair_grace = Duration::from_secs(if random.chance(50) { 10 } else { 30 });
    let proven_again = Duration::from_secs(if random.chance(50) { 20 } else { 60 });
    let fresh_install = random.chance(30);
    let admission = match random.below(4) {
        0..=1 => Admission::Hold,
        2 => Admission::Refuse,
        _ => Admission::Off,
    };
    let running = random.chance(25);
    Setting {
        seed,
        nodes,
        apps: true,
        admission,
        replicas: true,
        repair: RepairPolicy {
            repair: if running { Repair::Running } else { Repair::Held },
            enforces: true,
            evicts: running,
            eviction_rate: "10/m".parse().unwrap(),
            cooldown: Duration::from_secs(30),
            hold_max: random.chance(10).then_some(Duration::from_mins(2)),
        },
        orphan_after: max_closed,
        taints: true,
        max_closed,
        repair_grace,
        proven_again,
        fresh_install,
        broken: None,
        logged,
    }
}

/// The story of a seed: what happens, and when, and how long it takes.
pub fn story(setting: &Setting) -> (Vec<Incident>, Duration) {
    let mut random = Random::new(setting.seed ^ 0x57_0e7);
    let chaos = random.between(60_000, 150_000);
    (story::draw(&mut random, chaos, setting.replicas), chaos)
}

/// A story with everything in it: chaos, then calm.
pub fn play(setting: Setting) -> Result<Counts, Violation> {
    let (story, chaos) = story(&setting);
    follow(setting, &story, chaos)
}

pub fn follow(setting: Setting, story: &[Incident], chaos: Duration) -> Result<Counts, Violation> {
    let quiet = Duration::from_secs(40);
    let mut world = World::new(setting);
    world.follow(story);
    world.run_until(chaos)?;
    let mut bound = BOUND + world.setting.proven_again * 6 / 5;
    if world.counts.probes_hung > 0 {
        // Its next look would have begun by now, and then it gives way.
        bound += PROBE_DEADLINE + STAND_BACK;
    }
    world.happen_in(Duration::ZERO, Happening::Heal);
    let (opened, repaired) = (chaos + bound, chaos + bound + REPAIR_BOUND);
    // Mostly it takes much less, and nothing is gained by waiting.
    loop {
        let now = world.now;
        world.run_until(now + Duration::from_secs(5))?;
        let open = world.check_all_open();
        if world.now >= opened {
            open.clone().map_err(|what| world.violation(what))?;
        }
        let meshed = world.check_all_meshed();
        if world.now >= repaired {
            meshed.clone().map_err(|what| world.violation(what))?;
        }
        if open.is_ok() && meshed.is_ok() {
            world.counts.healed_in = world.now.saturating_sub(chaos);
            let before = world.counts.clone();
            let now = world.now;
            world.run_until(now + quiet)?;
            let rests = at_rest(&before, &world.counts, quiet);
            match rests.and(world.check_all_open()).and(world.check_all_meshed()) {
                Ok(()) => break,
                Err(what) if world.now >= repaired => return Err(world.violation(what)),
                Err(_) => {}
            }
        }
    }
    Ok(world.counts)
}

/// The shortest story that is found to violate an invariant still, by leaving one thing out after the other.
pub fn shortest(setting: &Setting) -> Vec<Incident> {
    let (mut story, chaos) = story(setting);
    let fails = |story: &[Incident]| follow(setting.clone(), story, chaos).is_err();
    loop {
        let before = story.len();
        for number in (0..before).rev() {
            let mut less = story.clone();
            less.remove(number);
            if fails(&less) {
                story = less;
            }
        }
        if story.len() == before {
            return story;
        }
    }
}

/// An undisturbed world makes no writes but renewals.
pub fn at_rest(before: &Counts, after: &Counts, during: Duration) -> Result<(), String> {
    let writes =
        after.other_writes - before.other_writes + after.takings - before.takings + after.repairs - before.repairs;
    let renewals = after.renewals - before.renewals;
    // Another proof is published at once.
    let most = 2 * (usize::try_from(during.as_secs()).unwrap() / 5 + 2) + after.dry_runs - before.dry_runs;
    if writes > 0 || renewals > most || after.conflicts > before.conflicts {
        return Err(format!("at rest there were {writes} writes and {renewals} renewals: {before:?}, then {after:?}"));
    }
    Ok(())
}

/// Plays these seeds; the first violation is reported whole.
pub fn play_all(seeds: Range<u64>, play: impl Fn(Setting) -> Result<Counts, Violation> + Sync) -> Vec<Counts> {
    play_each(seeds, |seed| play_or_report(seed, &play))
}

pub fn play_each(seeds: Range<u64>, play: impl Fn(u64) -> Counts + Sync) -> Vec<Counts> {
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let play = &play;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                let seeds = seeds.clone().filter(move |seed| seed % workers == worker);
                scope.spawn(move || seeds.map(play).collect::<Vec<_>>())
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

pub fn play_or_report(seed: u64, play: impl Fn(Setting) -> Result<Counts, Violation>) -> Counts {
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
                unreachable!("seed {seed} plays another story the second time")
            };
            panic!(
                "seed {seed}, at {at:?}: {what}\nreplay: LINKERD_GATE_SIMULATION_SEED={seed} cargo test --package \
                 linkerd-gate-simulation\n{tail}"
            );
        }
    }
}

/// Plays drawn stories until so many have failed as the environment says, one by default; those that failed are reported in a line each,
/// and one of them whole, by the shortest story that fails.
pub fn play_drawn(seeds: Range<u64>) -> Vec<Counts> {
    let most = number("LINKERD_GATE_SIMULATION_FAILURES").unwrap_or(1);
    let failures = Mutex::new(BTreeMap::new());
    let all = play_each(seeds, |seed| {
        if failures.lock().unwrap().len() as u64 >= most {
            return Counts::default();
        }
        play(setting(seed, false)).unwrap_or_else(|Violation { at, what, .. }| {
            failures.lock().unwrap().insert(seed, format!("seed {seed}, at {at:?}: {what}"));
            Counts::default()
        })
    });
    let failures = failures.into_inner().unwrap();
    if let Some(seed) = failures.keys().next() {
        let lines: Vec<_> = failures.values().map(String::as_str).collect();
        panic!("{}\n{}", report(*seed), lines.join("\n"));
    }
    all
}

/// The shortest story of a seed that fails, and how it goes.
pub fn report(seed: u64) -> String {
    let setting = setting(seed, false);
    let (whole, chaos) = story(&setting);
    let story = shortest(&setting);
    let violation = follow(Setting { logged: true, ..setting.clone() }, &story, chaos).err();
    let Some(Violation { at, what, tail }) = violation else { unreachable!("seed {seed} goes otherwise each time") };
    let incidents: Vec<_> =
        story.iter().map(|incident| format!("  {:>9.3} {:?}", incident.at.as_secs_f64(), incident.happening)).collect();
    format!(
        "{setting:?}\n{tail}\nthe shortest story that fails has {} of {} happenings:\n{}\nat {at:?}: {what}\nreplay: \
         LINKERD_GATE_SIMULATION_SEED={seed} cargo test --package linkerd-gate-simulation",
        story.len(),
        whole.len(),
        incidents.join("\n")
    )
}

pub fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}
