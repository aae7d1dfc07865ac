//! What an agent tells whoever asks `/gate`: JSON, with 200 where the gate is open and 503 where it is not.

use serde::{Deserialize, Deserializer, Serialize};

use super::readiness::evidence::Probe;
use super::readiness::gate::Gate;
use super::readiness::policy::Policy;
use super::readiness::probe_result::{ProbeResult, Reason};
use super::readiness::verdict::{Basis, FailedProbe, of_any_release};

/// The format: fields may be added, and a reader passes over what it does not know.
pub const VERSION: u32 = 1;

/// The HTTP status of an open gate.
const OPEN: u16 = 200;

/// The HTTP status of a gate that is not open.
const NOT_OPEN: u16 = 503;

/// In place of a reason, for who comes from elsewhere than the agent's node.
const ELSEWHERE: &str = "the log of the agent on that node says why";

/// The body of `/gate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// The format: see [`VERSION`].
    pub version: u32,

    /// Whether pods may start. The status code says the same.
    pub open: bool,

    /// How that is known, where it is open by evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,

    /// Why it is as it is, in one line for people.
    pub reason: String,

    /// What is in the way, where it is closed.
    #[serde(default, deserialize_with = "of_any_release", skip_serializing_if = "Vec::is_empty")]
    pub failed_probes: Vec<FailedProbe>,

    /// What the agent asks for before it opens: who asks for more cannot rely on its word.
    #[serde(deserialize_with = "known")]
    pub required: Vec<Probe>,

    /// The manual override, as in the annotation `linkerd-gate/override`.
    #[serde(rename = "override", default, skip_serializing_if = "Option::is_none")]
    pub manual_override: Option<String>,

    /// Whether the agent sees no fresh verdict: it stays as it is, and does not know. Who can look for itself need not wait for
    /// it without end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verdict_stale: bool,

    /// The prover, as in the Lease; nothing if none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prover: Option<String>,

    /// The agent's node.
    pub node: NodeStatus,
}

/// What `/gate` says of the agent's node. It does not say whether pods may start now: a node stays open for its boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// One word: `open`, `closed`, `taint-suppressed` or `unknown`.
    pub state: String,
    /// Why, in one line for people.
    pub reason: String,
}

/// Why an answer is no agent's, or not one that this release reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No agent answers with this HTTP status.
    #[error("it answered HTTP {0}")]
    Status(u16),
    /// It is no such JSON.
    #[error("its answer cannot be read: {0}")]
    Content(String),
    /// A format that this release does not read.
    #[error("its answer is in format {0}, and this version reads {VERSION}")]
    Version(u32),
    /// HTTP says one thing, and JSON another.
    #[error("its answer and its HTTP status contradict each other")]
    ContradictsStatus,
    /// It is open by an override that says closed, or the other way round.
    #[error("its answer and its manual override contradict each other")]
    ContradictsOverride,
    /// It is open, by no evidence and by no override.
    #[error("it says open, and not how that is known")]
    Unfounded,
}

/// What this release knows of them: an agent of another release may require more.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Probe>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

// === impl GateStatus ===

impl GateStatus {
    /// What `gate` says, which is driven by evidence alone.
    pub fn of(gate: &Gate, policy: &Policy, prover: Option<String>, node: NodeStatus) -> Self {
        let failed_probes = match gate {
            Gate::Closed { why, .. } => {
                why.failed_probes().map(|all| all.iter().cloned().collect()).unwrap_or_default()
            }
            Gate::Settling { .. } | Gate::Open { .. } => Vec::new(),
        };
        Self {
            version: VERSION,
            open: gate.is_open(),
            basis: gate.basis(),
            reason: gate.to_string(),
            failed_probes,
            required: policy.required().to_vec(),
            manual_override: None,
            verdict_stale: false,
            prover,
            node,
        }
    }

    /// Takes an answer, with its HTTP status, for what it says. One that contradicts itself, or is in a format that this release does not read, is
    /// none.
    ///
    /// # Errors
    /// Whatever no agent of this format answers.
    pub fn read(status: u16, body: &[u8]) -> Result<Self, Unreadable> {
        let open = match status {
            OPEN => true,
            NOT_OPEN => false,
            other => return Err(Unreadable::Status(other)),
        };
        let answer: Self = serde_json::from_slice(body).map_err(|error| Unreadable::Content(error.to_string()))?;
        if answer.version != VERSION {
            return Err(Unreadable::Version(answer.version));
        }
        if answer.open != open {
            return Err(Unreadable::ContradictsStatus);
        }
        let begins = if open { "open " } else { "closed " };
        if answer.manual_override.as_ref().is_some_and(|word| !word.starts_with(begins)) {
            return Err(Unreadable::ContradictsOverride);
        }
        if open && answer.basis.is_none() && answer.manual_override.is_none() {
            return Err(Unreadable::Unfounded);
        }
        // Texts of another program: each becomes one line of bounded length.
        let line = |text: String| Reason::from(text.as_str()).to_string();
        Ok(Self {
            reason: line(answer.reason),
            manual_override: answer.manual_override.map(line),
            node: NodeStatus { name: line(answer.node.name), ..answer.node },
            ..answer
        })
    }

    /// The same, of an agent that sees no fresh verdict, or does.
    #[must_use]
    pub fn seeing(mut self, fresh: bool) -> Self {
        self.verdict_stale = !fresh;
        self
    }

    /// The same for who comes from elsewhere than the agent's node: what a waiting pod needs, and no more. Reasons are made of what
    /// API servers, webhooks and certificates say, and name addresses; only the node itself gets them, and the agent's log has them.
    #[must_use]
    pub fn for_elsewhere(&self) -> Self {
        let word = if self.open { "open" } else { "closed" };
        let in_the_way = || {
            let each = self.failed_probes.iter().map(|failed_probe| match failed_probe.result {
                ProbeResult::NotReady(_) => format!("{} not ready", failed_probe.probe),
                ProbeResult::Ready | ProbeResult::Unknown(_) => format!("{} unknown", failed_probe.probe),
            });
            each.collect::<Vec<_>>().join("; ")
        };
        let reason = match (&self.manual_override, self.basis) {
            (Some(manual_override), _) => format!("{word}: manual override ({manual_override})"),
            (None, Some(basis)) if self.open => format!("open: {basis}"),
            _ if self.failed_probes.is_empty() => word.to_owned(),
            _ => format!("{word}: {}", in_the_way()),
        };
        let failed_probes = self.failed_probes.iter().map(|FailedProbe { probe, result: outcome }| {
            let outcome = match outcome {
                ProbeResult::Ready => ProbeResult::Ready,
                ProbeResult::NotReady(_) => ProbeResult::not_ready(ELSEWHERE),
                ProbeResult::Unknown(_) => ProbeResult::unknown(ELSEWHERE),
            };
            FailedProbe { probe: *probe, result: outcome }
        });
        let (failed_probes, node) =
            (failed_probes.collect(), NodeStatus { reason: ELSEWHERE.to_owned(), ..self.node.clone() });
        Self { reason, failed_probes, prover: None, node, ..self.clone() }
    }

    /// The same with a manual override.
    #[must_use]
    pub fn overridden(mut self, open: bool, word: String) -> Self {
        self.reason = format!(
            "{}: manual override ({word}); by evidence it is {}",
            if open { "open" } else { "closed" },
            self.reason
        );
        self.open = open;
        self.manual_override = Some(word);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decide::Evidence;

    fn node() -> NodeStatus {
        NodeStatus { name: "node-0".to_owned(), state: "closed".to_owned(), reason: "no verdict".to_owned() }
    }

    #[test]
    fn the_format_is_what_it_is_documented_to_be() {
        let policy = Policy::proven();
        let evidence = policy.required().iter().fold(Evidence::at(Duration::ZERO), |evidence, probe| {
            evidence.with(
                *probe,
                if *probe == Probe::Injector { ProbeResult::not_ready("none") } else { ProbeResult::Ready },
            )
        });
        let gate = Gate::closed().step(&policy, &evidence);
        let answer = GateStatus::of(&gate, &policy, Some("node-1".to_owned()), node());
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(
            json,
            r#"{"version":1,"open":false,"reason":"closed: injector not ready: none","failedProbes":[{"probe":"injector","result":"not-ready","reason":"none"}],"required":["webhook","injector","injection","identity"],"prover":"node-1","node":{"name":"node-0","state":"closed","reason":"no verdict"}}"#
        );
        assert_eq!(serde_json::from_str::<GateStatus>(&json).unwrap(), answer);
    }

    #[test]
    fn a_remote_client_learns_which_parts_are_awaited_and_no_more() {
        let policy = Policy::proven();
        let secret = "10.0.0.7:8443 says: x509: certificate of internal.corp";
        let evidence = policy.required().iter().fold(Evidence::at(Duration::ZERO), |evidence, probe| {
            evidence.with(
                *probe,
                match probe {
                    Probe::Injector => ProbeResult::not_ready(secret),
                    Probe::Injection => ProbeResult::unknown(secret),
                    _ => ProbeResult::Ready,
                },
            )
        });
        let node = NodeStatus { reason: secret.to_owned(), ..node() };
        let gate = Gate::closed().step(&policy, &evidence);
        let answer = GateStatus::of(&gate, &policy, Some("node-1".to_owned()), node).seeing(false);
        let remote = answer.for_elsewhere();
        assert_eq!(remote.reason, "closed: injector not ready; injection unknown");
        let json = serde_json::to_string(&remote).unwrap();
        assert!(!json.contains("10.0.0.7") && !json.contains("corp") && !json.contains("node-1"), "{json}");
        // What `wait` decides by is all there.
        let decides = |answer: &GateStatus| {
            let probes: Vec<_> = answer.failed_probes.iter().map(|failed_probe| failed_probe.probe).collect();
            let (required, manual_override) = (answer.required.clone(), answer.manual_override.clone());
            (
                answer.version,
                answer.open,
                answer.basis,
                probes,
                required,
                manual_override,
                answer.verdict_stale,
                answer.node.name.clone(),
            )
        };
        assert_eq!(decides(&remote), decides(&answer));
        let manual_override = answer.overridden(false, "closed 2026-01-01T00:00:00Z".to_owned()).for_elsewhere();
        assert_eq!(manual_override.reason, "closed: manual override (closed 2026-01-01T00:00:00Z)");
        assert_eq!(
            GateStatus { open: true, basis: Some(Basis::Proven), ..remote }.for_elsewhere().reason,
            format!("open: {}", Basis::Proven)
        );
        let unseen = GateStatus::of(&Gate::closed(), &policy, None, manual_override.node).for_elsewhere();
        assert_eq!(unseen.reason.split_once(':').map_or(unseen.reason.as_str(), |(word, _)| word), "closed");
    }

    #[test]
    fn an_override_counts_and_the_evidence_is_shown_beside_it() {
        let answer = GateStatus::of(&Gate::closed(), &Policy::proven(), None, node());
        let answer = answer.overridden(true, "open 2026-01-01T00:00:00Z".to_owned());
        assert!(answer.open);
        assert_eq!(
            answer.reason,
            "open: manual override (open 2026-01-01T00:00:00Z); by evidence it is closed: no probe has run yet"
        );
    }

    const FOUNDED: &str = r#"{"version":1,"open":true,"basis":"proven","reason":"open: proven","required":["injection"],"node":{"name":"n","state":"open","reason":"r"},"later":1}"#;

    #[test]
    fn an_answer_is_taken_with_what_it_does_not_know_passed_over() {
        assert!(GateStatus::read(200, FOUNDED.as_bytes()).unwrap().open);
    }

    #[test]
    fn an_answer_cannot_forge_a_second_line_of_a_log() {
        let answer = GateStatus::read(200, FOUNDED.replace("open: proven", "open\\nERROR x").as_bytes()).unwrap();
        assert_eq!(answer.reason, "open ERROR x");
    }

    #[test]
    fn a_contradictory_or_unknown_answer_is_refused() {
        let overridden =
            |word| FOUNDED.replace("\"later\":1", &format!("\"override\":\"{word} 2026-01-01T00:00:00Z\""));
        assert!(GateStatus::read(200, overridden("open").as_bytes()).is_ok());
        for (body, status, why) in [
            (FOUNDED.to_owned(), 404, "HTTP 404"),
            (FOUNDED.to_owned(), 503, "contradict"),
            (overridden("closed"), 200, "override contradict"),
            (FOUNDED.replace("\"version\":1", "\"version\":2"), 200, "format 2"),
            (FOUNDED.replace("\"basis\":\"proven\",", ""), 200, "not how that is known"),
            ("{}".to_owned(), 200, "cannot be read"),
            (String::new(), 503, "cannot be read"),
        ] {
            let message = GateStatus::read(status, body.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }
}
