//! What nodes, Leases and agents carry: whoever may write them may write anything.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use linkerd_gate::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate::decide::gate_status::{GateStatus, NodeStatus};
use linkerd_gate::decide::{
    Basis, FailedProbe, Gate, ManualOverride, PendingRepair, Policy, Probe, ProbeResult, PublishedVerdict,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::broken::broken;
use super::hold;

const VERDICTS: [&str; 4] = [
    r#"{"version":2,"gate":"open","basis":"injected","proof":7,"identity":["10.0.0.7:9990"],"degraded":[]}"#,
    r#"{"version":2,"gate":"settling"}"#,
    r#"{"version":2,"gate":"closed","failedProbes":[{"probe":"injector","result":{"not-ready":"no endpoint is ready"}}]}"#,
    r#"{"version":2,"gate":"open","basis":"not-installed","taintSuppressedBy":{"kube-system/svclb":["node-1"]}}"#,
];

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

#[test]
fn a_verdict_is_read_as_it_was_written_or_refused() {
    hold("verdict", broken(texts(&VERDICTS)), |text| {
        if let Ok(verdict) = PublishedVerdict::read(text) {
            prop_assert_eq!(PublishedVerdict::read(&verdict.write()), Ok(verdict));
        }
        Ok(())
    });
}

#[test]
fn what_waits_for_repair_is_read_as_written_or_refused() {
    let genuine = [r#"{"version":1,"pods":12}"#, r#"{"version":1,"pods":0}"#];
    hold("pending-repair", broken(texts(&genuine)), |text| {
        if let Ok(pending) = PendingRepair::read(text) {
            prop_assert_eq!(PendingRepair::read(&pending.write()), Ok(pending));
        }
        Ok(())
    });
}

/// A word of a person opens or closes for a while: never for ever, and never after its end.
#[test]
fn an_override_in_force_has_an_end_within_reach() {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let genuine = ["open 2026-01-01T06:00:00Z", "closed 2026-01-01T00:30:00Z", "open 2025-12-31T23:00:00Z"];
    hold("override", broken(texts(&genuine)), |text| {
        match ManualOverride::in_force(Some(text), now) {
            Ok(Some(word)) => {
                let lasts = word.until.duration_since(now);
                prop_assert!(
                    lasts > SignedDuration::ZERO && lasts <= SignedDuration::from_hours(24 * 366),
                    "{}",
                    lasts
                );
                prop_assert_eq!(word.to_string().parse::<ManualOverride>(), Ok(word));
            }
            Ok(None) => {}
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        Ok(())
    });
}

#[test]
fn a_lease_of_any_content_has_a_holder_or_none() {
    let lease = json!({
        "metadata": {"name": "linkerd-gate", "resourceVersion": "7", "annotations": {"linkerd-gate/verdict": VERDICTS[0]}},
        "spec": {"holderIdentity": "node-1/linkerd-gate-x2x9z/3f2a", "leaseTransitions": 3, "renewTime": "2026-01-01T00:00:00.000000Z"},
    });
    hold("lease", broken(vec![lease.to_string()]), |text| {
        let Ok(lease) = serde_json::from_str::<Lease>(text) else { return Ok(()) };
        if let Some(holder) = LeaseRecord::of(&lease).holder {
            // Whoever reads it again, as every other agent does, sees the same holder.
            prop_assert_eq!(LeaseHolder::read(&holder.to_string()), holder);
        }
        Ok(())
    });
}

/// An agent's answers: closed, open by evidence, closed and open by a person's word.
fn answers() -> [GateStatus; 4] {
    let node = NodeStatus { name: "node-1".to_owned(), state: "closed".to_owned(), reason: "no proof".to_owned() };
    let closed = GateStatus::of(&Gate::closed(), &Policy::proven(), Some("node-2".to_owned()), node);
    let failed_probes = vec![FailedProbe { probe: Probe::Injector, result: ProbeResult::not_ready("none is ready") }];
    let closed = GateStatus { failed_probes, ..closed };
    let open = GateStatus { open: true, basis: Some(Basis::Proven), failed_probes: Vec::new(), ..closed.clone() };
    let kept_closed = open.clone().overridden(false, "closed 2026-01-01T06:00:00Z".to_owned());
    let kept_open = closed.clone().overridden(true, "open 2026-01-01T06:00:00Z".to_owned());
    [closed, open, GateStatus { basis: None, ..kept_closed }, kept_open]
}

/// The status of an HTTP answer, and its body on the next line; each of the two is broken.
fn broken_answers(of: &[GateStatus]) -> impl Strategy<Value = String> {
    let bodies = of.iter().map(|answer| serde_json::to_string(answer).unwrap()).collect();
    (broken(texts(&["200", "503"])), broken(bodies)).prop_map(|(status, body)| format!("{status}\n{body}"))
}

/// As whoever asks reads it: a status that is no number is no HTTP.
fn read(text: &str) -> Option<GateStatus> {
    let (status, body) = text.split_once('\n')?;
    GateStatus::read(status.parse().ok()?, body.as_bytes()).ok()
}

#[test]
fn each_answer_of_an_agent_is_read_as_it_was_given() {
    for answer in answers() {
        let text = format!("{}\n{}", if answer.open { 200 } else { 503 }, serde_json::to_string(&answer).unwrap());
        assert_eq!(read(&text), Some(answer));
    }
}

/// What a waiting pod is answered by whatever listens on its node's port.
#[test]
fn an_answer_opens_only_by_its_status_and_its_body_and_a_ground() {
    hold("gate-answer", broken_answers(&answers()), |text| {
        if let Some(status) = read(text).filter(|status| status.open) {
            let (code, body) = text.split_once('\n').unwrap_or_default();
            let body: Value = serde_json::from_str(body).unwrap();
            prop_assert_eq!(code.parse(), Ok(200));
            prop_assert_eq!((&body["version"], &body["open"]), (&json!(1), &json!(true)));
            prop_assert!(status.basis.is_some() || status.manual_override.is_some_and(|word| word.starts_with("open")));
            prop_assert!(!body["basis"].is_null() || !body["override"].is_null());
        }
        Ok(())
    });
}

/// Whatever comes of it on the way, its status included.
#[test]
fn no_broken_answer_of_a_closed_gate_opens() {
    let [closed, _, kept_closed, _] = answers();
    hold("gate-answer-closed", broken_answers(&[closed, kept_closed]), |text| {
        prop_assert!(read(text).is_none_or(|status| !status.open));
        Ok(())
    });
}
