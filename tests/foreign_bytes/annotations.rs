//! What nodes, Leases and agents carry: whoever may write them may write anything.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use linkerd_gate::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate::decide::election::published_verdict::WireVerdict;
use linkerd_gate::decide::gate_status::{GateStatus, NodeStatus};
use linkerd_gate::decide::{
    Basis, FailedProbe, Follower, Gate, ManualOverride, PendingRepair, Policy, Probe, ProbeResult, PublishedVerdict,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::broken::broken;
use super::hold;

/// Verdicts that hold a gate closed.
const CLOSED: [&str; 3] = [
    r#"{"version":1,"gate":"settling"}"#,
    r#"{"version":1,"gate":"closed","failedProbes":[{"probe":"injector","result":"not-ready","reason":"no endpoint is ready"}]}"#,
    r#"{"version":1,"gate":"closed","failedProbes":[],"taintSuppressedBy":{"kube-system/svclb":["node-1"]},"identity":["10.0.0.7:9990"]}"#,
];

/// Verdicts that open one.
const OPEN: [&str; 3] = [
    r#"{"version":1,"gate":"open","basis":"proven","proof":7,"identity":["10.0.0.7:9990"],"degraded":[]}"#,
    r#"{"version":1,"gate":"open","basis":"proven","proof":7,"degraded":[{"probe":"injector","result":"unknown","reason":"no answer"}]}"#,
    r#"{"version":1,"gate":"open","basis":"not-installed","proof":8,"taintSuppressedBy":{"kube-system/svclb":["node-1"]}}"#,
];

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

/// The basis on which a verdict opens; nothing where it does not.
fn basis(verdict: &str) -> Option<Basis> {
    match PublishedVerdict::read(verdict).ok()?.verdict {
        WireVerdict::Open { basis, .. } => Some(basis),
        WireVerdict::Settling | WireVerdict::Closed { .. } => None,
    }
}

#[test]
fn a_verdict_is_read_as_it_was_written_or_refused() {
    for genuine in [CLOSED, OPEN].as_flattened() {
        assert!(PublishedVerdict::read(genuine).is_ok(), "{genuine}");
    }
    hold("verdict", broken(texts([CLOSED, OPEN].as_flattened())), |text| {
        if let Ok(verdict) = PublishedVerdict::read(text) {
            prop_assert_eq!(PublishedVerdict::read(&verdict.write()), Ok(verdict));
        }
        Ok(())
    });
}

#[test]
fn no_broken_verdict_opens_on_a_basis_that_was_not_published() {
    hold("verdict-closed", broken(texts(&CLOSED)), |text| {
        prop_assert_eq!(basis(text), None);
        Ok(())
    });
    for open in OPEN {
        let published = basis(open);
        assert!(published.is_some(), "{open}");
        hold("verdict-open", broken(texts(&[open])), |text| {
            prop_assert!([None, published].contains(&basis(text)), "{:?}", basis(text));
            Ok(())
        });
    }
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

/// The prover's Lease with this verdict, renewed at that second.
fn lease(verdict: &str, second: u32) -> Value {
    json!({
        "metadata": {"name": "linkerd-gate", "resourceVersion": "7", "annotations": {"linkerd-gate/verdict": verdict}},
        "spec": {"holderIdentity": "node-1/linkerd-gate-x2x9z/3f2a", "leaseTransitions": 3,
            "renewTime": format!("2026-01-01T00:00:{second:02}.000000Z")},
    })
}

#[test]
fn a_lease_of_any_content_has_a_holder_or_none() {
    hold("lease", broken(vec![lease(OPEN[0], 5).to_string()]), |text| {
        let Ok(lease) = serde_json::from_str::<Lease>(text) else { return Ok(()) };
        if let Some(holder) = LeaseRecord::of(&lease).holder {
            // Whoever reads it again, as every other agent does, sees the same holder.
            prop_assert_eq!(LeaseHolder::read(&holder.to_string()), holder);
        }
        Ok(())
    });
}

/// The gate of an agent that has seen a closed Lease, and then this one.
fn followed(text: &str) -> Option<(Gate, LeaseRecord)> {
    let read = |text: &str| serde_json::from_str::<Lease>(text).ok().map(|lease| LeaseRecord::of(&lease));
    let (before, now) = (read(&lease(CLOSED[0], 0).to_string()), read(text)?);
    let mut follower = Follower::new(&Policy::proven()).unwrap();
    // Else nothing opens by the first proof that is seen.
    follower.note_opened_boot();
    follower.note(before.as_ref(), Duration::ZERO);
    follower.note(Some(&now), Duration::from_secs(5));
    follower.step(&ProbeResult::Ready, Duration::from_secs(5));
    Some((follower.gate().clone(), now))
}

#[test]
fn a_broken_lease_opens_no_gate_but_as_its_prover_published_it() {
    for closed in CLOSED {
        hold("lease-closed", broken(vec![lease(closed, 5).to_string()]), |text| {
            prop_assert!(followed(text).is_none_or(|(gate, _)| !gate.is_open()));
            Ok(())
        });
    }
    let opens = |verdict: &str| followed(&lease(verdict, 5).to_string()).is_some_and(|(gate, _)| gate.is_open());
    // One that is degraded says that it is not known any more.
    assert_eq!(OPEN.map(opens), [true, false, true]);
    for open in OPEN {
        hold("lease-open", broken(vec![lease(open, 5).to_string()]), |text| {
            if let Some((gate, record)) = followed(text).filter(|(gate, _)| gate.is_open()) {
                prop_assert_eq!(gate.basis(), basis(open));
                prop_assert!(record.holder.is_some());
                prop_assert!(record.verdict.is_some_and(|verdict| PublishedVerdict::read(&verdict).is_ok()));
            }
            Ok(())
        });
    }
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
