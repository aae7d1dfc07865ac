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

/// When each pod is created, in milliseconds, by its name.
pub const PODS: [(&str, u64); 12] = [
    ("frontend", 300),
    ("cart", 600),
    ("checkout", 900),
    ("payments", 1200),
    ("catalog", 1500),
    ("search", 1900),
    ("orders", 2300),
    ("shipping", 2800),
    ("mailer", 3500),
    ("ads", 4400),
    ("reviews", 5300),
    ("loyalty", 7200),
];

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
