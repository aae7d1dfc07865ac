//! Which connections have a slot, and which one makes room for a new one.
//!
//! Every pod that reaches the node can connect, as often as it likes. So one peer has few places, and once all are taken a
//! newcomer gets that of whoever needs it least: of the peer with the most; of one that has been silent for a while; of the
//! longest poll, which is answered early and may ask again. Whoever asks one question at a time gets its answer, however many
//! connections others hold. Each step takes about the logarithm of their number: a crowd must not make it dear.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;

/// All places.
#[derive(Clone, Debug)]
pub(super) struct ConnectionSlots(Arc<Mutex<Table>>);

/// The place of one connection, which gives it up by dropping it.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    number: u64,
    table: ConnectionSlots,
    /// Whether a request is being answered.
    asked: AtomicBool,
    signal: Arc<Signal>,
}

/// Places have numbers that grow: the lowest is the oldest.
#[derive(Debug)]
struct Table {
    limits: Limits,
    next: u64,
    /// Those that stay.
    taken: BTreeMap<u64, Taken>,
    /// Of these, those that await a request, and those whose request is being answered.
    silent: BTreeSet<u64>,
    asked: BTreeSet<u64>,
    by_peer: HashMap<IpAddr, BTreeSet<u64>>,
    by_count: BTreeSet<(usize, IpAddr)>,
    /// How many are making room.
    leaving: usize,
}

#[derive(Debug)]
struct Taken {
    peer: IpAddr,
    since: Instant,
    signal: Arc<Signal>,
}

/// That a place is to be given up.
#[derive(Debug, Default)]
struct Signal {
    given: AtomicBool,
    notice: Notify,
}

// === impl ConnectionSlots ===

impl ConnectionSlots {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Table {
            limits,
            next: 0,
            taken: BTreeMap::new(),
            silent: BTreeSet::new(),
            asked: BTreeSet::new(),
            by_peer: HashMap::new(),
            by_count: BTreeSet::new(),
            leaving: 0,
        })))
    }

    /// How many stay.
    pub(super) fn taken(&self) -> usize {
        self.table().taken.len()
    }

    /// A place for a newcomer at `now`; nothing if no connection makes room for it. `own` is whether it comes from the node itself.
    pub(super) fn admit(&self, peer: IpAddr, own: bool, now: Instant) -> Option<Arc<ConnectionSlot>> {
        let mut table = self.table();
        let Limits { connections, reserved, of_one_peer, .. } = table.limits;
        let of_this_peer = table.by_peer.get(&peer).map_or(0, BTreeSet::len);
        if !own && of_this_peer >= of_one_peer {
            return None;
        }
        if table.taken.len() >= connections + if own { reserved } else { 0 } {
            // Those that make room need a moment for it.
            if table.leaving >= (connections / 16).max(1) {
                return None;
            }
            let least = table.slot_to_free(of_this_peer, now)?;
            table.leave(least);
        }
        let (number, signal) = (table.next, Arc::<Signal>::default());
        table.next += 1;
        table.silent.insert(number);
        table.count(peer, |places| places.insert(number));
        table.taken.insert(number, Taken { peer, since: now, signal: Arc::clone(&signal) });
        drop(table);
        Some(Arc::new(ConnectionSlot { number, table: self.clone(), asked: AtomicBool::new(false), signal }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Table ===

impl Table {
    /// The place that a newcomer gets whose peer has so many already.
    fn slot_to_free(&self, of_this_peer: usize, now: Instant) -> Option<u64> {
        let &(most, peer) = self.by_count.last()?;
        let of_it = || self.by_peer.get(&peer).into_iter().flatten().copied();
        if most > of_this_peer + 1 {
            return of_it().find(|number| self.silent.contains(number)).or_else(|| of_it().next());
        }
        let silent = self.silent.first().copied();
        let for_long = |number: &u64| now.saturating_duration_since(self.taken[number].since) >= self.limits.grace;
        silent.filter(for_long).or_else(|| match of_this_peer {
            0 => self.asked.first().copied(),
            _ => of_it().find(|number| most > of_this_peer && self.asked.contains(number)),
        })
    }

    /// Changes what a peer has.
    fn count(&mut self, peer: IpAddr, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let places = self.by_peer.entry(peer).or_default();
        self.by_count.remove(&(places.len(), peer));
        change(places);
        match places.len() {
            0 => drop(self.by_peer.remove(&peer)),
            count => drop(self.by_count.insert((count, peer))),
        }
    }

    /// Takes it out of all lists.
    fn remove(&mut self, number: u64) -> Option<Taken> {
        let taken = self.taken.remove(&number)?;
        self.silent.remove(&number);
        self.asked.remove(&number);
        self.count(taken.peer, |places| places.remove(&number));
        Some(taken)
    }

    fn leave(&mut self, number: u64) {
        if let Some(Taken { signal, .. }) = self.remove(number) {
            self.leaving += 1;
            signal.given.store(true, Ordering::Relaxed);
            signal.notice.notify_waiters();
        }
    }
}

// === impl ConnectionSlot ===

impl ConnectionSlot {
    /// A request is being answered from now on, or the next one is awaited.
    pub(super) fn asks(&self, asked: bool) {
        self.asked.store(asked, Ordering::Relaxed);
        let mut table = self.table.table();
        if table.taken.contains_key(&self.number) {
            let Table { silent, asked: polls, .. } = &mut *table;
            let (from, to) = if asked { (silent, polls) } else { (polls, silent) };
            from.remove(&self.number);
            to.insert(self.number);
        }
    }

    /// Whether a request is being answered, rather than awaited.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Completes when it is to make room.
    pub(super) async fn left(&self) {
        // Made before it is looked: a notice in between is not missed.
        let notice = self.signal.notice.notified();
        if !self.leaves() {
            notice.await;
        }
    }

    fn leaves(&self) -> bool {
        self.signal.given.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut table = self.table.table();
        if table.remove(self.number).is_none() {
            table.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GRACE: Duration = Duration::from_millis(250);

    struct Model {
        places: ConnectionSlots,
        now: Instant,
    }

    fn model(connections: usize) -> Model {
        let limits = Limits { connections, reserved: 1, of_one_peer: 3, grace: GRACE, ..Limits::default() };
        Model { places: ConnectionSlots::new(limits), now: Instant::now() }
    }

    impl Model {
        fn admit(&self, peer: u8) -> Option<Arc<ConnectionSlot>> {
            self.places.admit([10, 0, 0, peer].into(), false, self.now)
        }

        fn poll(&self, peer: u8) -> Arc<ConnectionSlot> {
            let place = self.admit(peer).expect("a place");
            place.asks(true);
            place
        }
    }

    #[test]
    fn one_peer_has_few_places_however_many_are_free() {
        let model = model(10);
        let held: Vec<_> = (0..3).map(|_| model.admit(1).unwrap()).collect();
        assert!(model.admit(1).is_none());
        assert!(model.admit(2).is_some());
        drop(held);
        assert!(model.admit(1).is_some(), "they are free again");
    }

    #[test]
    fn the_peer_with_most_connections_loses_its_silent_ones_first() {
        let model = model(4);
        let alone = model.poll(1);
        let (poll, silent, other) = (model.poll(2), model.admit(2).unwrap(), model.poll(2));
        let _newcomer = model.poll(3);
        assert!(silent.leaves() && !alone.leaves() && !poll.leaves() && !other.leaves());
        drop(silent);
        let _newcomer = model.poll(4);
        assert!(poll.leaves() && !alone.leaves() && !other.leaves(), "then its oldest poll, which may ask again");
    }

    #[test]
    fn a_silent_connection_is_closed_before_the_longest_poll() {
        let mut model = model(2);
        let (poll, silent) = (model.poll(1), model.admit(2).unwrap());
        model.now += GRACE;
        let newcomer = model.admit(3).unwrap();
        assert!(silent.leaves() && !poll.leaves());
        drop(silent);
        // One that has just come is given the time to ask.
        let another = model.admit(4).unwrap();
        assert!(poll.leaves() && !newcomer.leaves() && !another.leaves());
        assert!(model.admit(5).is_none(), "whoever makes room needs a moment for it");
        drop(poll);
        assert!(model.admit(5).is_none(), "both have just come");
        assert_eq!((model.places.taken(), model.places.table().leaving), (2, 0));
    }

    #[test]
    fn a_peer_loses_no_connection_to_one_with_as_many() {
        let model = model(4);
        let polls: Vec<_> = (1..=4).map(|peer| model.poll(peer)).collect();
        assert!(model.admit(1).is_none());
        assert!(polls.iter().all(|poll| !poll.leaves()));
        assert!(model.admit(5).is_some() && polls[0].leaves());
    }

    #[test]
    fn the_node_itself_has_places_on_top() {
        let model = model(1);
        let _poll = model.admit(1).unwrap();
        let own = |model: &Model| model.places.admit([127, 0, 0, 1].into(), true, model.now);
        let held = own(&model);
        assert!(held.is_some() && own(&model).is_none(), "what is reserved is bounded as well");
    }

    #[tokio::test]
    async fn a_notice_to_leave_is_seen_whenever_it_came() {
        let model = model(1);
        let place = model.poll(1);
        let left = place.left();
        let _newcomer = model.admit(2).unwrap();
        left.await;
        place.left().await;
    }
}
