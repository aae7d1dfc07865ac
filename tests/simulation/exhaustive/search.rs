//! Visits every state, tick by tick, and looks for a cycle of waiting among those in which nothing is broken.
//!
//! Of the states that are still to be visited only those at the beginning of a tick are kept whole: what a tick leads to is visited before the
//! next one. Of all others a fingerprint of 128 bits is kept.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::setting::Setting;
use crate::state::{State, TICK};
use crate::step::Action;

/// What was visited.
pub struct Visited {
    pub states: usize,
    pub transitions: usize,
    /// The most ticks that the shortest way to a state takes.
    pub depth: usize,
    /// States in which nothing is broken, and of those, states in which everything is open and meshed.
    pub healthy: usize,
    pub good: usize,
    /// The longest that it takes from one in which nothing is broken until everything is open and meshed, whoever has the first turn.
    pub recovery: Duration,
}

/// Steps that make no difference to who waits for whom are not kept: of a state, what a tick or a turn leads to.
struct Graph {
    parents: Vec<(u32, Action)>,
    healthy: Vec<bool>,
    good: Vec<bool>,
    /// Where a state's successors begin and end, by turns and ticks alone; of states in which nothing is broken.
    ranges: Vec<(u32, u32)>,
    successors: Vec<(u32, bool)>,
}

/// Visits what can be reached from `start`.
///
/// # Errors
/// The shortest way to a state that violates an invariant, or a cycle of waiting.
pub fn search(start: &State, setting: &Setting) -> Result<Visited, String> {
    let began = Instant::now();
    let mut known = HashMap::from([(start.form(), 0u32)]);
    let mut graph = Graph {
        parents: Vec::new(),
        healthy: Vec::new(),
        good: Vec::new(),
        ranges: Vec::new(),
        successors: Vec::new(),
    };
    graph.add(start, 0, Action::Tick);
    let mut ticks = VecDeque::from([(0u32, start.clone(), 0usize)]);
    let (mut transitions, mut depth, mut visited) = (0, 0, 0usize);
    let mut turns = Vec::new();
    while let Some((number, state, tick)) = ticks.pop_front() {
        depth = tick;
        turns.push((number, state));
        while let Some((number, state)) = turns.pop() {
            let first = graph.end();
            let healthy = graph.healthy[number as usize];
            let mut moved = false;
            for action in state.actions() {
                let fails = |what: String| format!("{what}\n{}", graph.story(number, Some(action), start, setting));
                let Some(next) = state.after(action, setting).map_err(fails)? else { continue };
                transitions += 1;
                moved |= action.is_progress();
                let fresh = u32::try_from(known.len()).unwrap();
                let found = *known.entry(next.form()).or_insert(fresh);
                if healthy && action.is_progress() {
                    graph.successors.push((found, action == Action::Tick));
                }
                if found == fresh {
                    graph.add(&next, number, action);
                    if action == Action::Tick {
                        ticks.push_back((found, next, tick + 1));
                    } else {
                        turns.push((found, next));
                    }
                }
            }
            if healthy && !moved {
                return Err(format!("no process has a turn\n{}", graph.story(number, None, start, setting)));
            }
            graph.ranges[number as usize] = (first, graph.end());
            visited += 1;
            if visited.is_multiple_of(200_000) {
                let rate = f64::from(u32::try_from(visited).unwrap()) / began.elapsed().as_secs_f64();
                eprintln!(
                    "{visited} states visited, {} wait for their tick, tick {tick}, {rate:.0} a second",
                    ticks.len()
                );
            }
        }
    }
    let recovery = graph.recovery(start, setting)?;
    let count = |which: &[bool]| which.iter().filter(|one| **one).count();
    let good = graph.healthy.iter().zip(&graph.good).filter(|(healthy, good)| **healthy && **good).count();
    Ok(Visited { states: known.len(), transitions, depth, healthy: count(&graph.healthy), good, recovery })
}

// === impl Graph ===

impl Graph {
    /// One more state, and what led to it first.
    fn add(&mut self, state: &State, parent: u32, action: Action) {
        self.parents.push((parent, action));
        self.healthy.push(state.is_healthy());
        self.good.push(state.is_good());
        self.ranges.push((0, 0));
    }

    /// How many successors there are so far.
    fn end(&self) -> u32 {
        u32::try_from(self.successors.len()).unwrap()
    }

    fn successors(&self, state: usize) -> &[(u32, bool)] {
        let (begin, end) = self.ranges[state];
        &self.successors[begin as usize..end as usize]
    }

    /// From each state in which nothing is broken every order of turns leads to good ones, and stays there: what is left over goes round
    /// in a circle.
    fn recovery(&self, start: &State, setting: &Setting) -> Result<Duration, String> {
        let states = self.parents.len();
        let mut incoming = vec![0u32; states + 1];
        self.successors.iter().for_each(|(to, _)| incoming[*to as usize + 1] += 1);
        (0..states).for_each(|state| incoming[state + 1] += incoming[state]);
        let mut place = incoming.clone();
        let mut before = vec![(0u32, false); self.successors.len()];
        let mut open: Vec<u32> = vec![0; states];
        for (state, open) in open.iter_mut().enumerate() {
            for (to, ticks) in self.successors(state) {
                *open += 1;
                let place = &mut place[*to as usize];
                before[*place as usize] = (u32::try_from(state).unwrap(), *ticks);
                *place += 1;
            }
        }
        let before = |state: usize| &before[incoming[state] as usize..incoming[state + 1] as usize];
        // Those that are not good, and those that may come to that though nothing breaks any more.
        let mut waits: Vec<bool> =
            self.healthy.iter().zip(&self.good).map(|(healthy, good)| *healthy && !good).collect();
        let mut todo: Vec<usize> = (0..states).filter(|state| waits[*state]).collect();
        while let Some(state) = todo.pop() {
            for (from, _) in before(state) {
                if !std::mem::replace(&mut waits[*from as usize], true) {
                    todo.push(*from as usize);
                }
            }
        }
        let mut longest = vec![0u32; states];
        let mut settled: Vec<usize> = (0..states).filter(|state| !waits[*state]).collect();
        let mut left = states - settled.len();
        while let Some(state) = settled.pop() {
            for (from, ticks) in before(state) {
                let from = *from as usize;
                longest[from] = longest[from].max(longest[state] + u32::from(*ticks));
                open[from] -= 1;
                if open[from] == 0 && waits[from] {
                    settled.push(from);
                    left -= 1;
                }
            }
        }
        if left > 0 {
            return Err(self.circle(|state| waits[state] && open[state] > 0, start, setting));
        }
        Ok(TICK * longest.into_iter().max().unwrap_or_default())
    }

    /// Tells of a circle among these states: the first of them that was found, and how it goes on.
    fn circle(&self, stuck: impl Fn(usize) -> bool, start: &State, setting: &Setting) -> String {
        // Each has a successor that is stuck: whoever follows them comes back.
        let mut order = HashMap::new();
        let mut at = (0..self.parents.len()).find(|state| stuck(*state)).unwrap();
        while !order.contains_key(&at) {
            order.insert(at, order.len());
            at = self.successors(at).iter().map(|(to, _)| *to as usize).find(|to| stuck(*to)).unwrap();
        }
        let length = order.len() - order[&at];
        let at = u32::try_from(at).unwrap();
        format!("a cycle of waiting, of {length} steps\n{}", self.story(at, None, start, setting))
    }

    /// The shortest way there.
    fn story(&self, state: u32, last: Option<Action>, start: &State, setting: &Setting) -> String {
        let mut way = Vec::from_iter(last);
        let mut at = state;
        while at != 0 {
            let (parent, action) = self.parents[at as usize];
            way.push(action);
            at = parent;
        }
        way.reverse();
        let mut text = format!("the shortest way there has {} steps:\n", way.len());
        let mut state = start.clone();
        for action in way {
            let since = state.now.saturating_sub(start.now);
            // The last may be one that violates an invariant.
            if let Ok(Some(next)) = state.after(action, setting) {
                state = next;
            }
            let _ = writeln!(text, "  {:>4} s  {action:?}", since.as_secs());
        }
        let _ = writeln!(text, "then: {}\nit lacks: {:?}", state.describe(), state.lacks());
        text
    }
}
