//! The API server: objects with versions, and writes that are refused where another client was faster.

use std::rc::Rc;
use std::time::Duration;

use linkerd_gate_core::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate_core::decide::node::taint::{Edit, NodeChange, NodeState, NodeView, TAINT_KEY};

/// What etcd keeps, whatever loses its power.
#[derive(Clone, Debug, Default)]
pub struct ApiServer {
    version: u64,
    /// By the node's number.
    pub nodes: Vec<Rc<NodeView>>,
    pub lease: Option<Rc<Word>>,
    /// The controllers'.
    pub controller: Option<Rc<LeaseRecord>>,
}

/// The Lease, with what no process can see.
#[derive(Clone, Debug)]
pub struct Word {
    pub record: LeaseRecord,
    pub truth: Truth,
}

/// What is behind a published verdict. No agent decides by it; the invariants do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Truth {
    /// When the latest look began that was ready and that the prover knew of when it wrote this.
    pub evidence: Option<Duration>,
    /// When the API server took its holder's latest renewal.
    pub renewed: Duration,
}

/// What an agent asks for.
#[derive(Clone, Debug)]
pub enum Request {
    /// One JSON patch of the agent's own node.
    PatchNode {
        resource_version: String,
        change: NodeChange,
        /// The plan behind it: for the invariants.
        state: NodeState,
        /// What the agent knows of the Lease: for the invariants.
        truth: Truth,
    },
    /// Renewing the Lease or taking it: holder, renewal and verdict in one write.
    WriteLease(LeaseWrite),
    /// A dry-run pod, and what the prover's watches know beside it.
    Look,
    /// The one toleration for the pod of this uid.
    Tolerate(String),
}

#[derive(Clone, Debug)]
pub struct LeaseWrite {
    /// The elector's: the answer carries it.
    pub number: u64,
    /// Nothing where there is no Lease: then this creates it.
    pub resource_version: Option<String>,
    pub holder: LeaseHolder,
    pub renewed: String,
    pub transitions: i32,
    pub verdict: String,
    pub evidence: Option<Duration>,
}

/// Why a write was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another client was faster.
    Conflict,
    /// No answer came, or not in time. It may have been taken all the same.
    Lost,
}

// === impl ApiServer ===

impl ApiServer {
    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub fn add_node(&mut self, node: NodeView) {
        let resource_version = self.next_version();
        self.nodes.push(Rc::new(NodeView { resource_version, ..node }));
    }

    /// A write by a client that asks for no version: a person, a kubelet.
    pub fn change_node(&mut self, node: usize, change: impl FnOnce(&mut NodeView)) {
        let resource_version = self.next_version();
        let mut view = NodeView { resource_version, ..(*self.nodes[node]).clone() };
        change(&mut view);
        self.nodes[node] = Rc::new(view);
    }

    pub fn patch_node(&mut self, node: usize, expected: &str, change: &NodeChange) -> Result<Rc<NodeView>, Refused> {
        if self.nodes[node].resource_version != expected {
            return Err(Refused::Conflict);
        }
        self.change_node(node, |view| {
            match &change.taint {
                Edit::Keep => {}
                Edit::Set(value) => view.taints = Some(view.with_taint(TAINT_KEY, Some(value))),
                Edit::Remove => view.taints = Some(view.with_taint(TAINT_KEY, None)),
            }
            match &change.opened_boot {
                Edit::Keep => {}
                Edit::Set(boot) => view.opened_boot = Some(boot.clone()),
                Edit::Remove => view.opened_boot = None,
            }
            match &change.left_open_boot {
                Edit::Keep => {}
                Edit::Set(boot) => view.left_open_boot = Some(boot.clone()),
                Edit::Remove => view.left_open_boot = None,
            }
        });
        Ok(Rc::clone(&self.nodes[node]))
    }

    pub fn write_lease(&mut self, write: &LeaseWrite, now: Duration) -> Result<Rc<Word>, Refused> {
        let stored = self.lease.as_ref().map(|word| word.record.resource_version.as_str());
        if stored != write.resource_version.as_deref() {
            return Err(Refused::Conflict);
        }
        let record = LeaseRecord {
            resource_version: self.next_version(),
            holder: Some(write.holder.clone()),
            renewed: Some(write.renewed.clone()),
            transitions: write.transitions,
            verdict: Some(write.verdict.clone()),
            // A merge patch leaves what it does not name.
            manual_override: self.lease.as_ref().and_then(|word| word.record.manual_override.clone()),
            pending_repair: None,
        };
        let word = Rc::new(Word { record, truth: Truth { evidence: write.evidence, renewed: now } });
        self.lease = Some(Rc::clone(&word));
        Ok(word)
    }

    /// What a person writes into the Lease of all, who creates it where there is none.
    pub fn annotate_lease(&mut self, manual_override: Option<String>) {
        let mut word =
            self.lease.as_deref().cloned().unwrap_or(Word { record: LeaseRecord::default(), truth: Truth::default() });
        word.record.manual_override = manual_override;
        word.record.resource_version = self.next_version();
        self.lease = Some(Rc::new(word));
    }

    pub fn is_tainted(&self, node: usize) -> bool {
        self.nodes[node].taint(TAINT_KEY).is_some()
    }
}
