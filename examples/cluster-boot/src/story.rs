//! What happens when: the same in both boots. Instants count from the moment at which the nodes are back.

use std::time::Duration;

/// Which of the two boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As it is without linkerd-gate.
    WithoutGate,
    /// With what the default install brings: the hold policy and a controller.
    WithGate,
}

/// Who owns a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A Deployment, by a ReplicaSet: its next pod has another name.
    Deployment,
    /// A StatefulSet: its next pod has the same name.
    StatefulSet,
}

/// A part of Linkerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `linkerd-proxy-injector`
    Injector,
    /// `linkerd-identity`
    Identity,
}

/// At this instant, this part begins or ceases to answer.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// When.
    pub at: Duration,
    /// Which.
    pub part: Part,
    /// Whether it answers from now on.
    pub answers: bool,
    /// In words.
    pub words: &'static str,
}

/// The namespace of the pods, which asks for injection.
pub const NAMESPACE: &str = "shop";

/// Linkerd's own.
pub const LINKERD: &str = "linkerd";

/// Where linkerd-gate is installed, and where its dry-run pods are.
pub const GATE: &str = "linkerd-gate";
pub const PROBES: &str = "linkerd-gate-probe";

/// What is left out: the table, the screen and the picture say so.
pub const SCALE: &str =
    "A real boot takes minutes, and has hundreds of pods. The nodes, kubelets and owners are played by this program.";

/// Each workload has one pod. Its name, its kind, and when its pod is created, in milliseconds.
pub const WORKLOADS: [(&str, Owner, u64); 12] = [
    ("web", Owner::Deployment, 300),
    ("cart", Owner::Deployment, 600),
    ("checkout", Owner::Deployment, 900),
    ("orders-db", Owner::StatefulSet, 1200),
    ("payments", Owner::Deployment, 1500),
    ("catalog", Owner::Deployment, 1900),
    ("search", Owner::Deployment, 2300),
    ("sessions", Owner::StatefulSet, 2800),
    ("login", Owner::Deployment, 3500),
    ("mail", Owner::Deployment, 4400),
    ("queue", Owner::StatefulSet, 5300),
    ("reports", Owner::Deployment, 7200),
];

/// What a ReplicaSet appends to its name for its first pod and for the one after it; genuine ones are random.
pub const SUFFIXES: [&str; 2] = ["q7x2m", "d4k9t"];

/// Linkerd comes up: the injector first, only to be gone again (its own proxy still lacks a certificate), then identity, then
/// the injector for good.
pub const LINKERD_COMES_UP: [Change; 4] = [
    Change { at: ms(3100), part: Part::Injector, answers: true, words: "the injector answers …" },
    Change { at: ms(3600), part: Part::Injector, answers: false, words: "… and is gone again" },
    Change { at: ms(5000), part: Part::Identity, answers: true, words: "identity answers" },
    Change { at: READY, part: Part::Injector, answers: true, words: "the injector answers again: Linkerd is ready" },
];

/// From here on Linkerd can inject and certify.
pub const READY: Duration = ms(6000);

/// When the story is over.
pub const END: Duration = ms(10_000);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

// === impl Variant ===

impl Variant {
    /// One line above its events.
    pub fn heading(self) -> &'static str {
        match self {
            Self::WithoutGate => "── Boot 1: without linkerd-gate ──────────────────────────────────────────",
            Self::WithGate => "── Boot 2: with the default install: the hold policy and a controller ────",
        }
    }
}
