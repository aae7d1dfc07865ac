//! What nodes, Leases and agents carry: whoever may write them may write anything.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use linkerd_gate::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate::decide::gate_status::GateStatus;
use linkerd_gate::decide::{ManualOverride, PendingRepair, PublishedVerdict};
use proptest::prelude::*;
use serde_json::json;

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

/// What a waiting pod is answered by whatever listens on its node's port.
#[test]
fn an_answer_that_is_no_agents_opens_nothing() {
    let answer = json!({"version": 2, "open": false, "reason": "closed: injector not ready", "failedProbes": [], "required": ["injector", "identity"],
        "node": {"name": "node-1", "state": "closed", "reason": "no proof in this boot"}});
    hold("gate-answer", broken(vec![answer.to_string()]), |text| {
        if let Ok(status) = serde_json::from_str::<GateStatus>(text) {
            let field = serde_json::from_str::<serde_json::Value>(text).ok().and_then(|all| all["open"].as_bool());
            prop_assert_eq!(Some(status.open), field);
        }
        Ok(())
    });
}
