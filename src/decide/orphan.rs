//! Nodes that are closed and have no agent any more to open them: the controller opens them, as late as an agent would at the latest.

use super::by_hand::ByHand;
use super::node::NodeView;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Since when nodes have been without an agent, as far as we have seen, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    since: BTreeMap<String, Duration>,
}

// === impl Orphans ===

impl Orphans {
    /// Which nodes are to be opened at `now`, and when to ask again at the latest.
    ///
    /// `tended` says whether a node has an agent that is ready. A node that is not ready itself gets no pods, and its agent may
    /// come back with it. Who was closed by hand stays so: that word has an end of its own.
    pub fn step<'a>(
        &mut self,
        nodes: impl Iterator<Item = &'a NodeView>,
        tended: impl Fn(&str) -> bool,
        key: &str,
        longest: Duration,
        now: Duration,
        clock: Timestamp,
    ) -> (Vec<&'a NodeView>, Option<Duration>) {
        let by_hand =
            |node: &NodeView| matches!(ByHand::in_force(node.by_hand.as_deref(), clock), Ok(Some(word)) if !word.open);
        let orphaned: Vec<_> = nodes
            .filter(|node| node.taint(key).is_some() && node.ready && !tended(&node.name) && !by_hand(node))
            .collect();
        let since = |node: &&NodeView| self.since.get(&node.name).copied().unwrap_or(now);
        self.since = orphaned.iter().map(|node| (node.name.clone(), since(node))).collect();
        let due = |node: &&NodeView| self.since.get(&node.name).is_some_and(|since| *since + longest <= now);
        let next = self.since.values().map(|since| *since + longest).filter(|at| *at > now).min();
        (orphaned.into_iter().filter(due).collect(), next)
    }

    /// Tries that node again only after a while: it could not be opened.
    pub fn put_off(&mut self, node: &str, now: Duration) {
        self.since.insert(node.to_owned(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::node::TAINT_KEY;

    const LONGEST: Duration = Duration::from_mins(10);

    fn closed(name: &str) -> NodeView {
        let node = NodeView { name: name.to_owned(), ready: true, ..NodeView::default() };
        NodeView { taints: Some(node.with_taint(TAINT_KEY, Some("b-1"))), ..node }
    }

    fn due(orphans: &mut Orphans, nodes: &[NodeView], tended: &[&str], minute: u64) -> Vec<String> {
        let now = Duration::from_mins(minute);
        let clock = Timestamp::UNIX_EPOCH;
        let (due, _) = orphans.step(nodes.iter(), |node| tended.contains(&node), TAINT_KEY, LONGEST, now, clock);
        due.into_iter().map(|node| node.name.clone()).collect()
    }

    #[test]
    fn a_closed_node_without_an_agent_is_opened_after_as_long_as_a_node_may_be_closed() {
        let mut orphans = Orphans::default();
        let nodes = [closed("a"), closed("b")];
        assert!(due(&mut orphans, &nodes, &["b"], 0).is_empty());
        assert!(due(&mut orphans, &nodes, &["b"], 9).is_empty());
        assert_eq!(due(&mut orphans, &nodes, &["b"], 10), ["a"]);
    }

    #[test]
    fn an_agent_that_comes_back_and_goes_again_begins_anew() {
        let mut orphans = Orphans::default();
        let nodes = [closed("a")];
        assert!(due(&mut orphans, &nodes, &[], 0).is_empty());
        assert!(due(&mut orphans, &nodes, &["a"], 9).is_empty());
        assert!(due(&mut orphans, &nodes, &[], 10).is_empty());
        assert_eq!(due(&mut orphans, &nodes, &[], 20), ["a"]);
    }

    #[test]
    fn neither_an_open_node_nor_one_that_is_not_ready_nor_one_closed_by_hand_is_touched() {
        let mut orphans = Orphans::default();
        let open = NodeView { taints: None, ..closed("open") };
        let away = NodeView { ready: false, ..closed("away") };
        let by_hand = NodeView { by_hand: Some("closed 1970-01-02T00:00:00Z".to_owned()), ..closed("by-hand") };
        let nodes = [open, away, by_hand];
        assert!(due(&mut orphans, &nodes, &[], 0).is_empty());
        assert!(due(&mut orphans, &nodes, &[], 60).is_empty());
    }

    #[test]
    fn what_could_not_be_opened_is_put_off() {
        let mut orphans = Orphans::default();
        let nodes = [closed("a")];
        due(&mut orphans, &nodes, &[], 0);
        assert_eq!(due(&mut orphans, &nodes, &[], 10), ["a"]);
        orphans.put_off("a", Duration::from_mins(10));
        assert!(due(&mut orphans, &nodes, &[], 11).is_empty());
    }
}
