//! What agents' turns came to, so that the same turn in another state is not worked out again.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use linkerd_gate_core::decide::election::lease_record::LeaseRecord;
use linkerd_gate_core::decide::node::taint::NodeView;

use crate::api_server::Word;
use crate::replica::Part;
use crate::state::Seat;

/// All that an agent's turn depends on.
pub struct Reads {
    pub now: Duration,
    pub seat: Rc<Part<Seat>>,
    pub node: Rc<NodeView>,
    pub lease: Option<Rc<Word>>,
    pub controller: Option<Rc<LeaseRecord>>,
    pub essential: (u8, bool, bool),
    pub cut: bool,
    pub late: bool,
}

/// Turns, and what they came to.
#[derive(Default)]
pub struct Turns(HashMap<Reads, Came>);

/// What an agent is after a turn; nothing where being late makes no difference.
#[derive(Clone)]
pub struct Came(pub Option<Rc<Part<Seat>>>);

/// How many turns are remembered.
const TURNS: usize = 20_000;

// === impl Reads ===

impl Reads {
    /// By the addresses of what it holds: what is at two addresses may be equal, and is worked out twice then.
    fn key(&self) -> impl Hash + Eq + use<> {
        let place = |lease: &Option<Rc<Word>>| lease.as_ref().map(|lease| Rc::as_ptr(lease).addr());
        let controller = self.controller.as_ref().map(|record| Rc::as_ptr(record).addr());
        let (seat, node) = (Rc::as_ptr(&self.seat).addr(), Rc::as_ptr(&self.node).addr());
        (self.now, seat, node, place(&self.lease), controller, self.essential, self.cut, self.late)
    }
}

impl Hash for Reads {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Reads {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Reads {}

// === impl Turns ===

impl Turns {
    pub fn get(&self, reads: &Reads) -> Option<Came> {
        self.0.get(reads).cloned()
    }

    pub fn add(&mut self, reads: Reads, next: Came) {
        if self.0.len() == TURNS {
            self.0.clear();
        }
        self.0.insert(reads, next);
    }
}
