//! Nodes that are closed and have no agent any more to open them: the controller opens them, as late as an agent would at the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::taint::NodeView;
use crate::decide::manual_override::ManualOverride;
use crate::decide::repair::{Life, PodView};

/// Since when nodes have been without an agent, as far as we have seen, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    since: BTreeMap<String, Duration>,
    /// Not tried again before then: an opening that did not succeed.
    not_before: BTreeMap<String, Duration>,
}

/// After how long an opening is tried again that lost a race, or failed: kubelets change their nodes all the time, and a node that has waited
/// for ten minutes must not wait for ten more.
pub const RETRY: Duration = Duration::from_secs(5);

/// The nodes that have an agent which is ready, by name: of all pods, by `namespace/name`, those of the agents' namespace.
pub fn with_agents<'a>(pods: &'a BTreeMap<String, PodView>, namespace: &str) -> BTreeSet<&'a str> {
    let prefix = format!("{namespace}/");
    let pods = pods.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, pod)| pod);
    pods.filter(|pod| pod.agent && pod.life == Life::Ready).filter_map(|pod| pod.node.as_deref()).collect()
}

// === impl Orphans ===

impl Orphans {
    /// Which nodes are to be opened at `now`, and when to ask again at the latest.
    ///
    /// `has_agent` says whether a node has an agent that is ready. A node that is not ready itself gets no pods, and its agent may
    /// come back with it. A node that an override closed stays so: the override has an end.
    pub fn step<'a>(
        &mut self,
        nodes: impl Iterator<Item = &'a NodeView>,
        has_agent: impl Fn(&str) -> bool,
        key: &str,
        longest: Duration,
        now: Duration,
        clock: Timestamp,
    ) -> (Vec<&'a NodeView>, Option<Duration>) {
        let manual_override = |node: &NodeView| matches!(ManualOverride::in_force(node.manual_override.as_deref(), clock), Ok(Some(word)) if !word.open);
        let orphaned: Vec<_> = nodes
            .filter(|node| node.taint(key).is_some() && node.ready && !has_agent(&node.name) && !manual_override(node))
            .collect();
        let since = |node: &&NodeView| self.since.get(&node.name).copied().unwrap_or(now);
        self.since = orphaned.iter().map(|node| (node.name.clone(), since(node))).collect();
        self.not_before.retain(|node, at| *at > now && self.since.contains_key(node));
        let at = |(node, since): (&String, &Duration)| {
            let due = *since + longest;
            self.not_before.get(node).map_or(due, |not_before| due.max(*not_before))
        };
        let due = |node: &&NodeView| self.since.get_key_value(&node.name).is_some_and(|entry| at(entry) <= now);
        let next = self.since.iter().map(at).filter(|at| *at > now).min();
        (orphaned.into_iter().filter(due).collect(), next)
    }

    /// Tries that node again after [`RETRY`], unless it is open by then.
    pub fn put_off(&mut self, node: &str, now: Duration) {
        self.not_before.insert(node.to_owned(), now + RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::node::taint::TAINT_KEY;

    const LONGEST: Duration = Duration::from_mins(10);

    fn closed(name: &str) -> NodeView {
        let node = NodeView { name: name.to_owned(), ready: true, ..NodeView::default() };
        NodeView { taints: Some(node.with_taint(TAINT_KEY, Some("b-1"))), ..node }
    }

    fn due(orphans: &mut Orphans, nodes: &[NodeView], has_agent: &[&str], minute: u64) -> Vec<String> {
        let now = Duration::from_mins(minute);
        let clock = Timestamp::UNIX_EPOCH;
        let (due, _) = orphans.step(nodes.iter(), |node| has_agent.contains(&node), TAINT_KEY, LONGEST, now, clock);
        due.into_iter().map(|node| node.name.clone()).collect()
    }

    #[test]
    fn a_closed_node_without_an_agent_is_opened_after_the_bound() {
        let mut orphans = Orphans::default();
        let nodes = [closed("a"), closed("b")];
        assert!(due(&mut orphans, &nodes, &["b"], 0).is_empty());
        assert!(due(&mut orphans, &nodes, &["b"], 9).is_empty());
        assert_eq!(due(&mut orphans, &nodes, &["b"], 10), ["a"]);
    }

    #[test]
    fn an_agent_that_returns_resets_the_orphan_time_of_its_node() {
        let mut orphans = Orphans::default();
        let nodes = [closed("a")];
        assert!(due(&mut orphans, &nodes, &[], 0).is_empty());
        assert!(due(&mut orphans, &nodes, &["a"], 9).is_empty());
        assert!(due(&mut orphans, &nodes, &[], 10).is_empty());
        assert_eq!(due(&mut orphans, &nodes, &[], 20), ["a"]);
    }

    #[test]
    fn open_unready_and_overridden_nodes_are_not_orphans() {
        let mut orphans = Orphans::default();
        let open = NodeView { taints: None, ..closed("open") };
        let away = NodeView { ready: false, ..closed("away") };
        let manual_override =
            NodeView { manual_override: Some("closed 1970-01-02T00:00:00Z".to_owned()), ..closed("by-hand") };
        let nodes = [open, away, manual_override];
        assert!(due(&mut orphans, &nodes, &[], 0).is_empty());
        assert!(due(&mut orphans, &nodes, &[], 60).is_empty());
    }

    #[test]
    fn an_opening_that_lost_a_race_is_tried_again_in_seconds() {
        let mut orphans = Orphans::default();
        let nodes = [closed("a")];
        let mut at = |now: Duration, lost: bool| {
            let (due, next) = orphans.step(nodes.iter(), |_| false, TAINT_KEY, LONGEST, now, Timestamp::UNIX_EPOCH);
            let due = due.len();
            if lost {
                orphans.put_off("a", now);
            }
            (due, next)
        };
        assert_eq!(at(Duration::ZERO, false), (0, Some(LONGEST)));
        assert_eq!(at(LONGEST, true), (1, None));
        let soon = LONGEST + Duration::from_secs(1);
        assert_eq!(at(soon, false), (0, Some(LONGEST + RETRY)), "not in a circle");
        assert_eq!(at(LONGEST + RETRY, false).0, 1);
    }

    #[test]
    fn a_node_that_was_born_closed_and_has_no_agent_is_an_orphan() {
        let mut orphans = Orphans::default();
        let taint = k8s_openapi::api::core::v1::Taint {
            key: TAINT_KEY.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Default::default()
        };
        let nodes = [NodeView { taints: Some(vec![taint]), opened_boot: None, ..closed("new") }];
        assert!(due(&mut orphans, &nodes, &[], 0).is_empty());
        assert_eq!(due(&mut orphans, &nodes, &[], 10), ["new"]);
    }
}
