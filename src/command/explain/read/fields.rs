//! The fields of a map while it is read: the last of one name counts, as to kubectl.

use std::collections::HashMap;

use super::{Node, Repeated};

/// How many fields a map has before names are looked up by hash: small maps are quicker without, and hostile ones are large.
const LOOKED_THROUGH: usize = 32;

/// Fields in their order.
#[derive(Default)]
pub(super) struct Fields {
    all: Vec<(String, Node)>,
    /// Their places by their names, once there are many.
    places: HashMap<String, usize>,
}

// === impl Fields ===

impl Fields {
    /// Takes a field in; an earlier one of that name is dropped, and returned.
    pub(super) fn put(&mut self, key: String, node: Node) -> Option<Repeated> {
        let place = if self.all.len() < LOOKED_THROUGH {
            self.all.iter().position(|(name, _)| *name == key)
        } else {
            if self.places.is_empty() {
                self.places = self.all.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
            }
            self.places.get(&key).copied()
        };
        if let Some((_, earlier)) = place.and_then(|place| self.all.get_mut(place)) {
            let repeated = Repeated { line: node.line, key };
            *earlier = node;
            return Some(repeated);
        }
        if self.all.len() >= LOOKED_THROUGH {
            self.places.insert(key.clone(), self.all.len());
        }
        self.all.push((key, node));
        None
    }

    pub(super) fn as_slice(&self) -> &[(String, Node)] {
        &self.all
    }

    pub(super) fn into_vec(self) -> Vec<(String, Node)> {
        self.all
    }
}
