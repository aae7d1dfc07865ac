//! What `wait` knows of Linkerd, from any source, and what follows for its pod.

use std::fmt;
use std::time::Duration;

use super::pod_class::{OnMissed, OwnPod, PodClass, Then};
use crate::decide::gate_status::GateStatus;
use crate::decide::readiness::evidence::{Evidence, Probe};
use crate::decide::readiness::gate::Gate;
use crate::decide::readiness::policy::Policy;
use crate::decide::readiness::verdict::Basis;

/// How long an agent that sees no verdict itself is followed: longer than a cluster without a prover takes to elect one.
pub const BLIND: Duration = Duration::from_mins(1);

/// What is known now.
#[derive(Clone, Debug)]
pub enum Status {
    /// By looking.
    Directly(Gate),
    /// By the word of the node's agent.
    FromAgent(GateStatus),
}

/// Whose word it is that pods may start, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// Ours: it answers.
    Reachable,
    /// The agent's, by evidence.
    Agents(Basis),
    /// A person's, which the agent passes on.
    Overridden(&'a str),
}

// === impl Status ===

impl Default for Status {
    fn default() -> Self {
        Self::Directly(Gate::closed())
    }
}

impl Status {
    /// The gate that its looks at Linkerd drive. What an agent knew was not counted there.
    pub fn own_gate(&self) -> Gate {
        match self {
            Self::Directly(gate) => gate.clone(),
            Self::FromAgent(_) => Gate::closed(),
        }
    }

    /// What is known after one more look.
    #[must_use]
    pub fn look(&self, policy: &Policy, evidence: &Evidence) -> Self {
        Self::Directly(self.own_gate().step(policy, evidence))
    }

    /// How it is known that pods may start; nothing if they may not, or if it is not known.
    pub fn opening(&self) -> Option<Opening<'_>> {
        match self {
            Self::Directly(gate) => gate.is_open().then_some(Opening::Reachable),
            Self::FromAgent(answer) if answer.open => match (&answer.manual_override, answer.basis) {
                (Some(word), _) => Some(Opening::Overridden(word)),
                (None, Some(basis)) => Some(Opening::Agents(basis)),
                (None, None) => None,
            },
            Self::FromAgent(_) => None,
        }
    }

    /// Whether there is nothing to do but wait for the agent to open.
    pub fn agent_holds(&self) -> bool {
        matches!(self, Self::FromAgent(answer) if !answer.open)
    }
}

/// Why it is not open, for people.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directly(Gate::Closed { why, .. }) => write!(f, "{why}"),
            Self::Directly(gate) => write!(f, "{gate}"),
            Self::FromAgent(answer) => {
                let reason = answer.reason.strip_prefix("closed: ").unwrap_or(&answer.reason);
                write!(f, "{reason} (says the agent on node {})", answer.node.name)
            }
        }
    }
}

// === impl Opening ===

impl Opening<'_> {
    /// What follows for this pod.
    pub fn then(self, class: PodClass, on_missed: OnMissed, pod: &OwnPod) -> Then {
        match (self, class) {
            // A person who overrides wants pods to start; the line names the cost.
            (Self::Overridden(_), _) => Then::Open,
            // No injector could inject the next pod either: creating it again does not help, and would never end.
            (Self::Agents(Basis::NotInstalled), PodClass::Missed) if on_missed != OnMissed::Open => Then::Hold,
            _ => class.then(on_missed, pod),
        }
    }
}

/// What of `policy` an agent's answer says nothing about, where it is one by evidence: the answer is not enough then. A manual
/// override is enough for every pod.
pub fn uncovered(policy: &Policy, answer: &GateStatus) -> Option<String> {
    let covered = |probe: Probe| {
        // A dry-run pod that came back injected went through the injector.
        answer.required.contains(&probe) || (probe == Probe::Injector && answer.required.contains(&Probe::Injection))
    };
    let missing: Vec<_> = policy.required().iter().filter(|probe| !covered(**probe)).map(Probe::to_string).collect();
    (answer.manual_override.is_none() && !missing.is_empty()).then(|| missing.join(", "))
}

/// Whether an agent is closed only because it cannot tell: after [`BLIND`] that is no answer.
pub fn is_blind(answer: &GateStatus) -> bool {
    answer.verdict_stale && !answer.open && answer.manual_override.is_none()
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;
    use crate::decide::gate_status::NodeStatus;
    use crate::decide::readiness::probe_result::ProbeResult;

    fn answer(open: bool, manual_override: Option<&str>, basis: Option<Basis>, required: &[Probe]) -> GateStatus {
        let node = NodeStatus { name: "node-0".to_owned(), state: "open".to_owned(), reason: "r".to_owned() };
        let answer = GateStatus::of(&Gate::closed(), &Policy::proven(), None, node);
        GateStatus {
            open,
            manual_override: manual_override.map(str::to_owned),
            basis,
            required: required.to_vec(),
            ..answer
        }
    }

    fn pod() -> OwnPod {
        OwnPod {
            injected_by: String::new(),
            inject: None,
            ip: None,
            host_ip: None,
            name: None,
            namespace: None,
            uid: None,
        }
    }

    fn directly(open: bool) -> Status {
        let gate =
            Gate::Open { basis: Basis::Reachable, since: Duration::ZERO, latest: Duration::ZERO, degraded: None };
        Status::Directly(if open { gate } else { Gate::closed() })
    }

    #[test]
    fn only_an_open_status_opens_and_an_override_takes_precedence() {
        let agent = |open, manual_override, basis| Status::FromAgent(answer(open, manual_override, basis, &[]));
        assert_eq!(directly(false).opening(), None);
        assert_eq!(directly(true).opening(), Some(Opening::Reachable));
        assert_eq!(agent(false, None, None).opening(), None);
        assert_eq!(agent(false, Some("closed x"), Some(Basis::Proven)).opening(), None);
        assert_eq!(agent(true, None, Some(Basis::Proven)).opening(), Some(Opening::Agents(Basis::Proven)));
        assert_eq!(agent(true, Some("open x"), Some(Basis::Proven)).opening(), Some(Opening::Overridden("open x")));
        assert!(agent(false, None, None).agent_holds() && !agent(true, Some("open x"), None).agent_holds());
        assert!(!directly(false).agent_holds());
    }

    #[test]
    fn a_missed_pod_follows_on_missed_and_is_held_without_linkerd() {
        let then = |opening: Opening<'_>| {
            OnMissed::VARIANTS
                .iter()
                .map(|on_missed| opening.then(PodClass::Missed, *on_missed, &pod()))
                .collect::<Vec<_>>()
        };
        let all = [Then::Hold, Then::Exit, Then::Replace, Then::Open];
        assert_eq!(then(Opening::Reachable), all);
        assert_eq!(then(Opening::Agents(Basis::Proven)), all);
        assert_eq!(then(Opening::Overridden("open x")), [Then::Open; 4]);
        assert_eq!(then(Opening::Agents(Basis::NotInstalled)), [Then::Hold, Then::Hold, Then::Hold, Then::Open]);
        for class in [PodClass::Disabled, PodClass::HostNetwork] {
            assert_eq!(Opening::Agents(Basis::NotInstalled).then(class, OnMissed::Hold, &pod()), Then::Open);
        }
    }

    #[test]
    fn a_look_counts_only_with_looks_before_it() {
        let policy = Policy::direct();
        let ready = |second| {
            Evidence::at(Duration::from_secs(second))
                .with(Probe::Injector, ProbeResult::Ready)
                .with(Probe::Identity, ProbeResult::Ready)
        };
        let open = Status::FromAgent(answer(true, None, Some(Basis::Proven), &[]));
        let first = open.look(&policy, &ready(1));
        assert_eq!(first.opening(), None, "the agent's word is no look");
        assert_eq!(first.look(&policy, &ready(2)).opening(), Some(Opening::Reachable));
    }

    #[test]
    fn an_agent_is_blind_that_holds_without_verdict_and_override() {
        let of = |open, manual_override| is_blind(&answer(open, manual_override, None, &[]).seeing(false));
        assert!(of(false, None));
        assert!(!of(true, None) && !of(false, Some("closed x")));
        assert!(!is_blind(&answer(false, None, None, &[])));
    }

    #[test]
    fn an_agent_with_fewer_required_probes_leaves_some_uncovered() {
        let policy = Policy::direct();
        let of =
            |required: &[Probe], manual_override| uncovered(&policy, &answer(false, manual_override, None, required));
        assert_eq!(of(&[Probe::Injection, Probe::Identity], None), None);
        assert_eq!(of(&[Probe::Injector, Probe::Identity], None), None);
        assert_eq!(of(&[Probe::Injection], None).as_deref(), Some("identity"));
        assert_eq!(of(&[], None).as_deref(), Some("injector, identity"));
        assert_eq!(of(&[], Some("closed x")), None, "a person's word is enough");
        let more = uncovered(&policy.and(Probe::Destination), &answer(true, None, None, Policy::proven().required()));
        assert_eq!(more.as_deref(), Some("destination"));
    }
}
