//! What is read, document by document: lists are taken apart, and what came of a broken document is taken back.

use super::Objects;
use crate::command::explain::Problem;
use crate::command::explain::read::{Node, Place, Repeated, Sink, Value};

/// The document that is read.
#[derive(Debug)]
pub(super) struct Current {
    place: Place,
    before: Counts,
    items: usize,
    /// Items that leave it to the list to say what they are, with their places in it.
    pending: Vec<(usize, Node, Vec<Repeated>)>,
}

/// How much there was of everything.
#[derive(Clone, Copy, Debug)]
struct Counts([usize; 8]);

// === impl Objects ===

impl Objects {
    fn counts(&self) -> Counts {
        Counts([
            self.subjects.len(),
            self.namespaces.len(),
            self.webhooks.len(),
            self.quotas.len(),
            self.limits.len(),
            self.passed_over.len(),
            self.problems.len(),
            self.webhook_problems.len(),
        ])
    }

    fn go_back(&mut self, Counts(counts): Counts) {
        self.subjects.truncate(counts[0]);
        self.namespaces.truncate(counts[1]);
        self.webhooks.truncate(counts[2]);
        self.quotas.truncate(counts[3]);
        self.limits.truncate(counts[4]);
        self.passed_over.truncate(counts[5]);
        self.problems.truncate(counts[6]);
        self.webhook_problems.truncate(counts[7]);
    }
}

// === impl Sink for Objects ===

impl Sink for Objects {
    fn begin(&mut self, place: &Place) {
        self.current = Some(Current { place: place.clone(), before: self.counts(), items: 0, pending: Vec::new() });
    }

    fn item(&mut self, item: Node, repeated: Vec<Repeated>, header: &[(String, Node)]) {
        let Some(current) = &mut self.current else { return };
        let index = current.items;
        current.items += 1;
        let of_list = |field: &str| {
            header.iter().find(|(name, _)| name == field).and_then(|(_, node)| match &node.value {
                Value::String(text) => Some(text.as_str()),
                _ => None,
            })
        };
        let named = item.string("apiVersion").is_some() && item.string("kind").is_some();
        let of_list = match (of_list("apiVersion"), of_list("kind").and_then(|kind| kind.strip_suffix("List"))) {
            (Some(version), Some(kind)) => Some((version, kind)),
            _ if named => Some(("", "")),
            // What the items are may follow them.
            _ => None,
        };
        match of_list {
            Some(of_list) => {
                let place = current.place.clone();
                self.add(&place, &item, repeated, of_list, &[format!("items[{index}]")]);
            }
            None => current.pending.push((index, item, repeated)),
        }
    }

    fn end(&mut self, root: Node, repeated: Vec<Repeated>) {
        let Some(Current { place, before, items, pending }) = self.current.take() else { return };
        let kind = root.string("kind").unwrap_or_default().to_owned();
        let version = root.string("apiVersion").unwrap_or_default();
        let nameless = root.get("metadata").is_none_or(|metadata| metadata.get("name").is_none());
        let is_list = kind.ends_with("List") && !version.is_empty();
        if is_list && (items > 0 || nameless) {
            self.has_list = true;
            if root.get("items").is_some() {
                self.problem(
                    &place,
                    format!("this is no {kind}: items is no list; as kubectl get pods -o yaml prints it, it is one"),
                );
            }
            let of_list = (version, kind.strip_suffix("List").unwrap_or_default());
            for (index, item, repeated) in pending {
                self.add(&place, &item, repeated, of_list, &[format!("items[{index}]")]);
            }
            return;
        }
        // `items` of something that is no list are its own affair.
        self.go_back(before);
        self.add(&place, &root, repeated, ("", ""), &[]);
    }

    fn abandon(&mut self) {
        if let Some(Current { before, .. }) = self.current.take() {
            self.go_back(before);
        }
    }

    fn fault(&mut self, place: Option<&Place>, message: String) {
        match place {
            _ if message.is_empty() => {}
            Some(place) => self.problem(place, message),
            None => self.problems.push(Problem::of(&self.file, message)),
        }
    }
}
