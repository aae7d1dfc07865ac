//! What reaches an agent from outside, and what it could find out if it looked.

use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use linkerd_gate_core::decide::election::lease_record::LeaseRecord;
use linkerd_gate_core::decide::node::essential::{DaemonPodView, DaemonSetView, EssentialNamespace, UnboundPod};
use linkerd_gate_core::decide::node::placement::NodePlace;
use linkerd_gate_core::decide::node::taint::{NodePolicy, NodeView};
use linkerd_gate_core::decide::{LinkerdInstallation, Policy, ProbeResult};
use linkerd_gate_core::linkerd::WebhookView;

use crate::api_server::{Refused, Word};
use crate::random::Random;

/// What the operator configured.
#[derive(Debug)]
pub struct Policies {
    pub proven: Policy,
    pub node: NodePolicy,
    /// How often an open gate is proven again, give or take a fifth.
    pub proven_again: Duration,
}

/// What an agent could find out now, if it looked.
pub struct Surroundings<'a> {
    pub now: Duration,
    pub wall: Timestamp,
    pub policies: &'a Policies,
    pub random: &'a mut Random,
    /// What identity answers to its node.
    pub identity: ProbeResult,
    /// When linkerd-gate was installed.
    pub installed: i64,
    pub cluster: &'a Cluster,
}

/// What a prover's watches show.
#[derive(Debug, Default)]
pub struct Cluster {
    pub webhooks: WebhookView,
    pub namespaces: Vec<EssentialNamespace>,
    pub pods: Vec<UnboundPod>,
    pub daemon_sets: Vec<DaemonSetView>,
    pub daemon_pods: Vec<DaemonPodView>,
    pub places: Vec<NodePlace>,
}

/// What came of a look: what each probe found, without an instant.
#[derive(Clone, Debug)]
pub struct Found {
    pub installation: LinkerdInstallation,
    pub webhook: ProbeResult,
    pub injector: ProbeResult,
    pub injection: ProbeResult,
    pub identity: ProbeResult,
}

/// What an agent asked for, and what came of it.
#[derive(Clone, Debug)]
pub enum Answer {
    Node(Result<Rc<NodeView>, Refused>),
    /// The Lease as the write of that number left it.
    Lease(u64, Result<LeaseRecord, Refused>),
    Look(Found),
    Tolerate(String),
}

/// What reaches a process from outside.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "few are under way at a time")]
pub enum Message {
    Lease(Option<Rc<Word>>),
    /// The Lease's watch ended, and it cannot be listed.
    Trouble,
    Node(Rc<NodeView>),
    /// The controllers' Lease.
    Controller(Option<Rc<LeaseRecord>>),
    /// With when the request was sent.
    Answer(Answer, Duration),
}

// === impl Found ===

impl Found {
    /// What a look finds that does not reach the API server.
    pub fn nothing() -> Self {
        let unknown = || ProbeResult::unknown("the API server does not answer");
        Self {
            installation: LinkerdInstallation::Unseen,
            webhook: unknown(),
            injector: unknown(),
            injection: unknown(),
            identity: unknown(),
        }
    }
}
