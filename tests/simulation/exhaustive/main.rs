//! Small scope, exhaustively: two nodes, two agents, one controller, an injector that answers or does not, one essential pod and two of
//! applications. Every state is visited that crashes, partitions and outages of so many can lead to, and in each the invariants hold; from
//! each in which nothing is broken, every order of turns leads to a cluster that is open and meshed.
//!
//! ```console
//! $ cargo test --package linkerd-gate-simulation --test exhaustive   # CI's share
//! $ make exhaustive                                                  # two deaths and a partition, power cuts, and others
//! ```

#[allow(dead_code, reason = "the stories use more of it")]
#[path = "../stories/agent/mod.rs"]
mod agent;
#[allow(dead_code, reason = "the stories use more of it")]
#[path = "../stories/api_server.rs"]
mod api_server;
mod checks;
mod form;
mod memo;
#[allow(dead_code, reason = "the stories use more of it")]
#[path = "../stories/objects.rs"]
mod objects;
mod random;
#[allow(dead_code, reason = "the stories use more of it")]
#[path = "../stories/render.rs"]
mod render;
mod replica;
mod search;
mod setting;
mod state;
mod step;
mod turns;
mod world {
    pub use crate::setting::node_name;
}

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use search::Visited;
use setting::Setting;
use state::{Faults, NO_FAULTS, State};
use step::Action;

/// Once nothing is broken any more, everything is open and meshed within that, whoever has the first turn: as in the stories.
const BOUND: Duration = Duration::from_secs(105);

/// A cluster at rest: everything is open and meshed, unless a rule is broken.
fn at_rest(setting: &Setting) -> State {
    let mut state = State::installed(setting);
    for _ in 0..30 {
        while let Some(action) = state.actions().into_iter().find(|action| action.is_progress()) {
            state = state.after(action, setting).unwrap().expect("the first of what can happen does");
            if action == Action::Tick {
                break;
            }
        }
    }
    state
}

/// Visits every state that so much can lead to.
fn visit(faults: Faults) -> Result<Visited, String> {
    let setting = Setting::new();
    let start = State { left: faults, ..at_rest(&setting) };
    search::search(&start, &setting)
}

/// What CI visits, in some seconds, and what is visited before a release.
const SAMPLE: [Faults; 3] =
    [Faults { deaths: 1, ..NO_FAULTS }, Faults { partitions: 1, ..NO_FAULTS }, Faults { outages: 1, ..NO_FAULTS }];
const FULL: [Faults; 10] = [
    Faults { deaths: 2, partitions: 1, ..NO_FAULTS },
    Faults { power_cuts: 1, outages: 1, apart: 4, ..NO_FAULTS },
    Faults { power_cuts: 1, deaths: 1, apart: 4, ..NO_FAULTS },
    Faults { blackouts: 1, ..NO_FAULTS },
    Faults { power_cuts: 1, ..NO_FAULTS },
    Faults { partitions: 1, outages: 1, ..NO_FAULTS },
    Faults { deaths: 1, outages: 1, ..NO_FAULTS },
    Faults { deaths: 1, partitions: 1, ..NO_FAULTS },
    Faults { deaths: 2, ..NO_FAULTS },
    Faults { outages: 2, ..NO_FAULTS },
];

/// These, on as many threads as there are cores.
fn visit_all(scopes: &[Faults]) {
    let next = AtomicUsize::new(0);
    let visit_next = || {
        while let Some(faults) = scopes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Visited { states, transitions, depth, healthy, good, recovery } =
                visit(*faults).unwrap_or_else(|what| panic!("{what}\nwith {faults:?}"));
            println!(
                "{faults:?}: {states} states, {transitions} transitions, at most {depth} ticks from rest; nothing is broken in {healthy}, \
                 and of those everything is open and meshed in {good}; the others get there within {recovery:?}"
            );
            assert!(recovery <= BOUND, "{recovery:?} is longer than {BOUND:?}");
        }
    };
    std::thread::scope(|threads| {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads: Vec<_> = (0..cores).map(|_| threads.spawn(visit_next)).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

#[test]
fn every_state_keeps_the_invariants_and_none_waits_for_ever() {
    match std::env::var("LINKERD_GATE_EXHAUSTIVE").ok().as_deref() {
        None => visit_all(&SAMPLE),
        Some("full") => visit_all(&FULL),
        Some(numbers) => {
            let mut numbers: Vec<u8> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
            if numbers.len() == 5 {
                numbers.push(1);
            }
            let [power_cuts, blackouts, deaths, partitions, outages, apart @ 1..=u8::MAX] = numbers[..] else {
                panic!("LINKERD_GATE_EXHAUSTIVE is full, or five or six numbers like 1,0,0,0,1")
            };
            visit_all(&[Faults { power_cuts, blackouts, deaths, partitions, outages, apart }]);
        }
    }
}
