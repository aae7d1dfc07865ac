//! When our scheduling gate comes off a pod that keeps its uid: it is scheduled as it is.

use super::facts::{Facts, ManualOverride};
use super::memory::Memory;
use super::plan::RepairPolicy;
use super::standing::Standing;
use super::view::{Kind, OwnerReference, PodView};
use crate::linkerd::{Injection, NotCalled};
use std::fmt;
use std::time::Duration;

/// For how long no injector configuration must have been there before held pods are let go: one that is deleted and created
/// again must release nothing.
pub const ABSENT_FOR: Duration = Duration::from_mins(10);

/// How much longer than `LINKERD_GATE_HOLD_MAX` a pod stays gated that is about to be replaced: it would run without a proxy a
/// moment before its successor would run with one.
pub const REPLACED_WITHIN: Duration = Duration::from_mins(1);

/// Why our gate comes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The pod has its proxy.
    Meshed,
    /// The injector would leave it as it is.
    Skipped,
    /// The pod or its namespace is exempt from admission.
    Exempt,
    /// A person set the annotation `linkerd-gate/release`.
    Released,
    /// A person's `open --all` is in force.
    Opened,
    /// `LINKERD_GATE_HOLD_MAX` has passed.
    HeldTooLong,
    /// No injector configuration has been there for [`ABSENT_FOR`].
    NotInstalled,
}

/// One gate to take off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ungate {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version that was looked at.
    pub resource_version: String,
    /// The place of our gate among its scheduling gates.
    pub index: usize,
    /// What made it.
    pub owner: Option<OwnerReference>,
    /// Why.
    pub reason: Reason,
}

/// Why our gate comes off `pod`, which has it, whatever may be done about the pod; nothing where it stays on.
///
/// [`Reason::HeldTooLong`] is the only one that a replacement goes before: see [`REPLACED_WITHIN`].
pub fn reason(
    pod: &PodView,
    standing: Standing,
    facts: &Facts<'_>,
    memory: &Memory,
    policy: &RepairPolicy,
) -> Option<Reason> {
    let gate = pod.gate.as_ref()?;
    match standing {
        Standing::Meshed => return Some(Reason::Meshed),
        Standing::Over | Standing::Unknown => return None,
        Standing::Skipped | Standing::Missed(_) => {}
    }
    let namespace = facts.namespaces.get(&pod.namespace)?;
    if gate.exempt || namespace.exempt {
        return Some(Reason::Exempt);
    }
    if pod.released {
        return Some(Reason::Released);
    }
    if facts.manual == Some(ManualOverride::Open) {
        return Some(Reason::Opened);
    }
    let closed = facts.manual == Some(ManualOverride::Closed);
    let injection = pod.bare.as_ref()?.injection(&namespace.outline, facts.webhooks, facts.projection);
    match injection {
        Injection::Skip(_) | Injection::NotCalled(NotCalled::Excluded(_)) => return Some(Reason::Skipped),
        Injection::NotCalled(NotCalled::NotInstalled) if memory.is_uninstalled() && !closed => {
            return Some(Reason::NotInstalled);
        }
        // Where match conditions decide, only the API server can tell: not to know releases nothing.
        Injection::NotCalled(NotCalled::NotInstalled) | Injection::Conditional(_) | Injection::Inject(_) => {}
    }
    (!closed && overdue(pod, memory, policy, facts).is_some()).then_some(Reason::HeldTooLong)
}

/// For how long a pod has been held beyond `LINKERD_GATE_HOLD_MAX`; nothing where it has not, or where there is no such limit.
pub(super) fn overdue(pod: &PodView, memory: &Memory, policy: &RepairPolicy, facts: &Facts<'_>) -> Option<Duration> {
    let longest = policy.hold_max?;
    // Its Job was resumed because its pods had been held for too long already.
    let job = pod.owner.as_ref().filter(|owner| owner.kind == Kind::Job);
    if job.is_some_and(|job| memory.is_released(&job.uid)) {
        return Some(REPLACED_WITHIN);
    }
    age(pod, facts)?.checked_sub(longest)
}

/// How old a gated pod is, by the wall's clock.
pub(super) fn age(pod: &PodView, facts: &Facts<'_>) -> Option<Duration> {
    let created = pod.gate.as_ref()?.created?;
    Some(Duration::try_from(facts.wall.duration_since(created)).unwrap_or_default())
}

// === impl Reason ===

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Meshed,
        Self::Skipped,
        Self::Exempt,
        Self::Released,
        Self::Opened,
        Self::HeldTooLong,
        Self::NotInstalled,
    ];

    /// One word, for metrics and logs.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Meshed => "meshed",
            Self::Skipped => "skipped",
            Self::Exempt => "exempt",
            Self::Released => "released",
            Self::Opened => "opened",
            Self::HeldTooLong => "hold_max",
            Self::NotInstalled => "not_installed",
        }
    }

    /// Whether the pod goes on without a proxy that it asked for.
    pub const fn is_bare(self) -> bool {
        matches!(self, Self::Exempt | Self::Released | Self::Opened | Self::HeldTooLong | Self::NotInstalled)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Meshed => "it has its proxy",
            Self::Skipped => "Linkerd's injector would leave it as it is",
            Self::Exempt => "it or its namespace has the label linkerd-gate/admission=exempt",
            Self::Released => "it has the annotation linkerd-gate/release=true",
            Self::Opened => "`linkerd-gate open --all` is in force",
            Self::HeldTooLong => "it has been held for LINKERD_GATE_HOLD_MAX",
            Self::NotInstalled => "the cluster has had no webhook configuration of Linkerd's injector for ten minutes",
        })
    }
}
