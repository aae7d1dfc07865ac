//! What happens when: the same in both boots. Instants count from the moment at which the nodes are back.

use std::time::Duration;

/// Which of the two boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As it is without linkerd-gate.
    WithoutGate,
    /// Every pod has the gate's init container.
    WithGate,
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

/// Who makes a pod again, and whose pods nobody makes again: without this the story would claim too much.
///
/// The back-off is `DefaultJobPodFailureBackOff` of Kubernetes' job controller, which counts ignored failures as well.
pub const OWNERS: [&str; 3] = [
    "Each pod belongs to a Job whose podFailurePolicy ignores exit code 75: once Linkerd is ready, the Job creates another instead.",
    "A genuine Job controller backs off for 10 s before it does so; that pause is left out here.",
    "The pods of a Deployment or a StatefulSet are held until they are deleted (LINKERD_GATE_ON_MISSED=replace does that).",
];

/// When each Job's pod is created, in milliseconds, by the Job's name.
pub const PODS: [(&str, u64); 12] = [
    ("report", 300),
    ("invoices", 600),
    ("backup", 900),
    ("import", 1200),
    ("export", 1500),
    ("reindex", 1900),
    ("resize", 2300),
    ("mailing", 2800),
    ("billing", 3500),
    ("sync", 4400),
    ("cleanup", 5300),
    ("forecast", 7200),
];

/// What a Job appends to its name for its first pod and for the one after it; genuine ones are random.
pub const SUFFIXES: [&str; 2] = ["q7x2m", "d4k9t"];

/// Linkerd comes up: the injector first, only to be gone again (its own proxy still lacks a certificate), then identity, then
/// the injector for good.
pub const LINKERD_COMES_UP: [Change; 4] = [
    Change { at: ms(3100), part: Part::Injector, answers: true, words: "the injector answers …" },
    Change { at: ms(4000), part: Part::Injector, answers: false, words: "… and is gone again" },
    Change { at: ms(5000), part: Part::Identity, answers: true, words: "identity answers" },
    Change { at: READY, part: Part::Injector, answers: true, words: "the injector answers again: Linkerd is ready" },
];

/// From here on Linkerd can inject and certify.
pub const READY: Duration = ms(6000);

/// When the story is over.
pub const END: Duration = ms(9000);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

// === impl Variant ===

impl Variant {
    /// One line above its events.
    pub fn heading(self) -> &'static str {
        match self {
            Self::WithoutGate => "── Boot 1: without the gate ─────────────────────────────────────────────",
            Self::WithGate => "── Boot 2: every pod with the init container `linkerd-gate wait` ─────────",
        }
    }
}
