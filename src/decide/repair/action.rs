//! What can be done with a missed or held pod, and under which policy.

use std::fmt;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use strum::EnumCount;

use super::object::{OwnerReference, Repair};
use super::scan::MissedState;
use super::token_bucket::Rate;

/// For how long no injector configuration must have been there before held pods are let go: one that is deleted and created
/// again must release nothing.
pub const ABSENT_FOR: Duration = Duration::from_mins(10);

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairPolicy {
    /// What is replaced where no annotation says otherwise.
    pub repair: Repair,
    /// Whether this controller acts: in audit mode it does not, and nothing waits for it.
    pub enforces: bool,
    /// Whether pods may be evicted.
    pub evicts: bool,
    /// How many evictions at most, one at a time.
    pub eviction_rate: Rate,
    /// How long an owner is left alone after an eviction, and after a replacement that came back missed.
    pub cooldown: Duration,
    /// For how long our gate holds a pod at most, from its creation on; nothing where there is no such limit.
    pub hold_max: Option<Duration>,
}

/// What is done with a missed pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// It is deleted, with its own grace period.
    Delete,
    /// The finalizer is taken off by which its Job counts it, and it is deleted: the Job counts nothing.
    Untrack,
    /// It is evicted, so that disruption budgets hold.
    Evict,
    /// Its Job is suspended and resumed.
    Suspend,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The namespace.
    pub namespace: String,
    /// Whose pods it is about.
    pub owner: OwnerReference,
    /// What.
    pub operation: Operation,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Delete a pod.
    Delete([Target; 1]),
    /// Take the finalizer off a gated pod by which its Job counts it, and delete it.
    Untrack {
        /// The pod.
        target: [Target; 1],
        /// The place of our gate among its scheduling gates.
        gate_index: usize,
    },
    /// Evict a pod.
    Evict([Target; 1]),
    /// Suspend a Job, which ends its active pods.
    Suspend {
        /// The Job's version that was looked at.
        resource_version: String,
        /// Those pods.
        pods: Vec<Target>,
    },
    /// Resume a Job that we suspended, and take our mark away.
    Resume {
        /// The Job's version that was looked at.
        resource_version: String,
        /// Whether that is because its pods have been held for as long as they may be.
        overdue: bool,
    },
}

/// A pod that is to go, as it was looked at: a changed one is not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// What it has done so far.
    pub state: MissedState,
    /// Since when our scheduling gate holds it, where it does.
    pub held_since: Option<Timestamp>,
}

/// Why something that waited for its turn was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Another replica may lead.
    NotLeading,
    /// Watches are not in sync, or a manual override is in force.
    Paused,
    /// Injection is no longer proven.
    Unproven,
}

/// Why our gate comes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumCount)]
pub enum UngateReason {
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
    pub reason: UngateReason,
}

// === impl Dropped ===

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotLeading => "this replica no longer leads",
            Self::Paused => "watches are not in sync, or a manual override is in force",
            Self::Unproven => "injection is no longer proven",
        })
    }
}

// === impl Action ===

impl Action {
    /// The objects that it writes to, by uid, and the version of each that was looked at.
    pub fn written_versions(&self) -> impl Iterator<Item = (&str, &str)> {
        let (pods, job) = match &self.operation {
            Operation::Delete(target) | Operation::Untrack { target, .. } | Operation::Evict(target) => {
                (target.as_slice(), None)
            }
            Operation::Suspend { resource_version, .. } | Operation::Resume { resource_version, .. } => {
                (&[] as &[Target], Some((self.owner.uid.as_str(), resource_version.as_str())))
            }
        };
        pods.iter().map(|pod| (pod.uid.as_str(), pod.resource_version.as_str())).chain(job)
    }
}

// === impl Operation ===

impl Operation {
    /// The pods that go by it, and whether by eviction; nothing where none goes.
    pub fn removes(&self) -> Option<(&[Target], bool)> {
        match self {
            Self::Delete(target) | Self::Untrack { target, .. } => Some((target, false)),
            Self::Evict(target) => Some((target, true)),
            Self::Suspend { pods, .. } => Some((pods, false)),
            Self::Resume { .. } => None,
        }
    }

    /// Whether it ends a pod that is made again at once: only a proof says that the next one is injected.
    pub const fn needs_proof(&self) -> bool {
        match self {
            Self::Delete(_) | Self::Untrack { .. } | Self::Evict(_) => true,
            // What is suspended makes nothing; when a Job goes on is decided where that is planned.
            Self::Suspend { .. } | Self::Resume { .. } => false,
        }
    }

    /// Whether it undoes a write of ours, so that it waits for nothing but the Lease.
    pub const fn reverts(&self) -> bool {
        matches!(self, Self::Resume { .. })
    }

    /// One word, for metrics and logs.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Delete(_) => "delete",
            Self::Untrack { .. } => "untrack",
            Self::Evict(_) => "evict",
            Self::Suspend { .. } => "suspend",
            Self::Resume { .. } => "resume",
        }
    }
}

// === impl UngateReason ===

impl UngateReason {
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
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

impl fmt::Display for UngateReason {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::repair::Kind;

    fn target(uid: &str, resource_version: &str) -> Target {
        Target {
            name: format!("pod-{uid}"),
            uid: uid.to_owned(),
            resource_version: resource_version.to_owned(),
            state: MissedState::Held,
            held_since: None,
        }
    }

    #[test]
    fn each_operation_names_what_it_removes_writes_and_needs() {
        let pods = || [target("a", "1"), target("b", "2")];
        let suspend = Operation::Suspend { resource_version: "9".to_owned(), pods: pods().into() };
        let resume = Operation::Resume { resource_version: "9".to_owned(), overdue: false };
        // Its key, the pods that go, whether by eviction, whether a proof is needed, whether it undoes, and the versions it writes to.
        for (operation, key, gone, evicts, proof, reverts, written) in [
            (Operation::Delete([target("a", "1")]), "delete", 1, false, true, false, vec![("a", "1")]),
            (
                Operation::Untrack { target: [target("a", "1")], gate_index: 0 },
                "untrack",
                1,
                false,
                true,
                false,
                vec![("a", "1")],
            ),
            (Operation::Evict([target("a", "1")]), "evict", 1, true, true, false, vec![("a", "1")]),
            (suspend, "suspend", 2, false, false, false, vec![("job", "9")]),
            (resume, "resume", 0, false, false, true, vec![("job", "9")]),
        ] {
            assert_eq!(operation.key(), key);
            let removes = operation.removes().map_or((0, false), |(pods, evicts)| (pods.len(), evicts));
            assert_eq!(removes, (gone, evicts), "{key}");
            assert_eq!((operation.needs_proof(), operation.reverts()), (proof, reverts), "{key}");
            let owner = OwnerReference { kind: Kind::Job, name: "work".to_owned(), uid: "job".to_owned() };
            let action = Action { namespace: "shop".to_owned(), owner, operation };
            assert_eq!(action.written_versions().collect::<Vec<_>>(), written, "{key}");
        }
    }

    #[test]
    fn a_removed_gate_says_why_and_whether_the_proxy_is_missing() {
        let rows = [
            ("meshed", false, "proxy"),
            ("skipped", false, "injector"),
            ("exempt", true, "linkerd-gate/admission=exempt"),
            ("released", true, "linkerd-gate/release=true"),
            ("opened", true, "open --all"),
            ("hold_max", true, "LINKERD_GATE_HOLD_MAX"),
            ("not_installed", true, "ten minutes"),
        ];
        for (reason, (key, is_bare, cause)) in UngateReason::ALL.into_iter().zip(rows) {
            assert_eq!((reason.key(), reason.is_bare()), (key, is_bare));
            assert!(reason.to_string().contains(cause), "{key}: {reason}");
        }
        assert_eq!(ABSENT_FOR, Duration::from_mins(10), "the text above says so");
    }

    #[test]
    fn what_was_not_sent_names_its_cause() {
        for (dropped, cause) in
            [(Dropped::NotLeading, "leads"), (Dropped::Paused, "not in sync"), (Dropped::Unproven, "proven")]
        {
            assert!(dropped.to_string().contains(cause), "{dropped}");
        }
    }
}
