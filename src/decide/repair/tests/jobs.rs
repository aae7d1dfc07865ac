//! Jobs: suspended and resumed where all pods are held, else gated pods are untracked and others evicted where nothing counts, or left.

use serde_json::json;

use super::super::{ClusterOverride, KeepReason, Method, Operation, Repair, WriteOutcome};
use super::fixtures::{Draft, job, pod, rollout};
use super::model::{Model, namespace, seconds};
use crate::linkerd::WebhookView;

/// A Job of three pods.
fn report() -> Draft {
    job("report").and("/spec/parallelism", 3.into()).and("/status/active", 3.into())
}

fn ignoring(rules: &serde_json::Value) -> Draft {
    report().and("/spec/podFailurePolicy", json!({"rules": rules}))
}

fn ignoring_all() -> Draft {
    ignoring(&json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]))
}

/// The Job once we have suspended it and its pods are gone.
fn suspended() -> Draft {
    report().annotated("linkerd-gate/suspended-at", "then").and("/spec/suspend", true.into()).and("/status", json!({}))
}

fn pods() -> [Draft; 3] {
    ["a", "b", "c"].map(|name| pod(name).of(&report()))
}

fn model(job: Draft) -> Model {
    let mut model = Model::with(Repair::Running, [job]);
    model.pods(pods());
    model
}

#[test]
fn a_job_that_ignores_disruptions_has_pods_evicted_once_started() {
    let mut model = model(ignoring_all());
    assert_eq!(model.fate("a"), Ok(Method::Suspend));
    model.pods([pod("b").running().of(&report())]);
    assert_eq!((model.fate("a"), model.fate("b")), (Ok(Method::Evict), Ok(Method::Evict)));
    assert_eq!(model.due_text(), ["evict a"], "evictions have their rate");
}

#[test]
fn a_job_that_counts_exit_codes_loses_only_pods_held_by_wait() {
    let fail = json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}});
    let ignore = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let mut model = model(ignoring(&json!([fail, ignore])));
    let others = pod("b").of(&report()).and("/spec/initContainers", json!([{"name": "migrate"}]));
    let opens = json!([{"name": "linkerd-gate", "env": [{"name": "LINKERD_GATE_ON_MISSED", "value": "open"}]}]);
    let opens = pod("d").of(&report()).and("/spec/initContainers", opens);
    model.pods([others, pod("c").running().of(&report()), opens]);
    assert_eq!(model.fate("a"), Ok(Method::Evict));
    assert_eq!(model.fate("d"), Err(KeepReason::JobWouldCount), "its app may have started, and end with any code");
    assert_eq!(model.fate("b"), Err(KeepReason::JobWouldCount), "its own init container may end with any code");
    assert_eq!(model.fate("c"), Err(KeepReason::JobWouldCount));
}

#[test]
fn a_job_is_suspended_if_all_its_active_pods_are_held() {
    let mut model = model(report());
    let others = [pod("done").finished().of(&report()), pod("goes").ready().going().of(&report())];
    let due = model.pods(others).due();
    let [Operation::Suspend { resource_version, pods }] = [due[0].operation.clone()] else { panic!("{due:?}") };
    assert_eq!((due.len(), resource_version.as_str(), pods.len()), (1, "1", 3));
    model.without_proof();
    assert_eq!(model.done(), ["suspend report a b c"], "that stops its clock, and waits for no proof");
    assert!(model.after(59).due_text().is_empty());
}

#[test]
fn a_job_is_not_suspended_whose_pods_wait_may_let_start() {
    let wait = json!([{"name": "linkerd-gate", "env": [{"name": "LINKERD_GATE_ON_MISSED", "value": "open"}]}]);
    let mut model = model(report());
    model.pods([pod("b").of(&report()).and("/spec/initContainers", wait)]);
    assert!(!model.due_text().iter().any(|line| line.starts_with("suspend")), "it could have started meanwhile");
}

#[test]
fn a_job_is_not_suspended_with_unseen_pods_or_an_override() {
    let mut model = model(report().and("/status/active", 4.into()));
    assert!(model.due_text().is_empty());
    model.owner(&report());
    for manual in [ClusterOverride::Open, ClusterOverride::Closed] {
        model.cluster.manual = Some(manual);
        assert!(model.due_text().is_empty(), "{manual:?}");
    }
}

#[test]
fn gated_pods_of_a_job_with_others_are_deleted_uncounted() {
    for other in [pod("c").running(), pod("c").meshed().ready(), pod("c").gated().tracked().repaired("report")] {
        let mut model = Model::with(Repair::Held, [report()]);
        model.pods([other, pod("b").gated().tracked(), pod("a").gated()].map(|pod| pod.of(&report())));
        // What was begun before and not ended comes first.
        assert_eq!((model.fate("a"), model.fate("b")), (Ok(Method::Delete), Ok(Method::Untrack)));
        assert!(model.without_proof().due_text().is_empty());
        let due = model.after(1).due();
        assert!(matches!(due[1].operation, Operation::Untrack { gate_index: 1, .. }), "{due:?}");
        assert_eq!(model.due_text(), ["delete a", "untrack b"]);
    }
    // Another program's suspension, and the whole Job held.
    let mut model = Model::with(Repair::Held, [report().labelled("kueue.x-k8s.io/queue-name", "night")]);
    model.pods(["a", "b", "c"].map(|name| pod(name).gated().tracked().of(&report())));
    assert_eq!(model.due_text(), ["untrack a", "untrack b", "untrack c"]);
}

#[test]
fn a_gated_pod_that_its_job_no_longer_counts_is_deleted() {
    for job in [suspended(), report().and("/status/conditions", json!([{"type": "Complete", "status": "True"}]))] {
        let mut model = Model::with(Repair::Held, [job]);
        model.pods([pod("a").gated().of(&report())]);
        assert_eq!(model.fate("a"), Ok(Method::Delete));
    }
}

#[test]
fn a_job_with_a_running_meshed_or_kept_pod_is_left() {
    for other in [
        pod("c").running(),
        pod("c").meshed(),
        pod("c").declining(),
        pod("c").repaired("report"),
        pod("c").repaired("Held"),
        // It has not started when it is looked at.
        pod("c").and("/spec/initContainers", json!([])),
    ] {
        let mut model = model(report());
        model.pods([other.of(&report())]);
        assert_eq!(model.fate("a"), Err(KeepReason::JobWouldCount));
        assert!(model.due_text().is_empty());
    }
    let mut model = model(report());
    model.pods([pod("c").repaired("held").of(&report())]);
    assert_eq!(model.fate("a"), Ok(Method::Suspend));
    model.policy.repair = Repair::Report;
    assert_eq!((model.fate("a"), model.fate("c")), (Err(KeepReason::Reported), Err(KeepReason::JobWouldCount)));
}

#[test]
fn without_eviction_rights_a_job_is_suspended_or_left() {
    let mut model = model(ignoring_all());
    model.policy.evicts = false;
    assert_eq!(model.fate("a"), Ok(Method::Suspend));
    model.pods([pod("c").running().of(&report())]);
    assert_eq!(model.fate("a"), Err(KeepReason::NoEviction));
}

#[test]
fn a_job_that_is_managed_suspended_or_over_is_left() {
    let queued = || report().labelled("kueue.x-k8s.io/queue-name", "night");
    assert!(matches!(model(queued()).fate("a"), Err(KeepReason::JobManaged(who)) if who.contains("Kueue")));
    let over = json!([{"type": "FailureTarget", "status": "True"}]);
    for job in [report(), ignoring_all()] {
        assert_eq!(model(job.clone().and("/spec/suspend", true.into())).fate("a"), Err(KeepReason::JobSuspended));
        assert_eq!(model(job.and("/status/conditions", over.clone())).fate("a"), Err(KeepReason::JobOver));
    }
    let volcano = rollout("report").and("/apiVersion", "batch.volcano.sh/v1alpha1".into()).and("/kind", "Job".into());
    let mut model = Model::with(Repair::Running, []);
    assert!(matches!(model.pods([pod("a").of(&volcano)]).fate("a"), Err(KeepReason::UnknownOwner(_))));
}

#[test]
fn a_suspended_job_resumes_once_proven_and_its_pods_are_gone() {
    let mut model = model(suspended().and("/status/active", 3.into()));
    assert!(model.due_text().is_empty());
    model.pods(pods().map(Draft::going)).owner(&suspended());
    assert!(model.after(1).due_text().is_empty(), "they are still going");
    model.gone("a").gone("b").pods([pod("c").finished().of(&report())]);
    assert!(model.without_proof().due_text().is_empty());
    assert_eq!(model.after(1).done(), ["resume report"]);
}

#[test]
fn a_suspended_job_waits_for_proof_but_not_for_a_stuck_pod() {
    let mut model = model(suspended().and("/status/active", 3.into()));
    assert!(model.due_text().is_empty());
    assert!(model.after(3600).without_proof().due_text().is_empty());
    assert_eq!(model.after(0).due_text(), ["resume report"]);
}

#[test]
fn another_mark_is_of_another_suspension_and_has_its_own_minute() {
    let mut model = model(suspended().and("/status/active", 3.into()));
    assert!(model.due_text().is_empty());
    model.owner(&suspended().and("/status/active", 3.into()).annotated("linkerd-gate/suspended-at", "now"));
    assert!(model.after(60).due_text().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(60)));
    assert_eq!(model.after(60).due_text(), ["resume report"]);
}

#[test]
fn a_job_whose_pods_are_no_longer_held_resumes_without_proof() {
    let story = |change: &dyn Fn(&mut Model)| {
        let mut model = Model::with(Repair::Held, [suspended()]);
        assert!(model.without_proof().due_text().is_empty());
        change(&mut model);
        model.due_text() == ["resume report"]
    };
    assert!(story(&|model| model.policy.enforces = false), "audit");
    assert!(story(&|model| model.policy.repair = Repair::Report), "report");
    assert!(story(&|model| model.cluster.manual = Some(ClusterOverride::Open)), "open --all");
    assert!(!story(&|model| model.cluster.manual = Some(ClusterOverride::Closed)), "close --all");
    let silent = |model: &mut Model| {
        model.namespace(&namespace("shop"));
    };
    assert!(story(&silent), "its namespace asks no more");
    let reporting = |model: &mut Model| {
        model.namespace(&namespace("shop").annotated("linkerd.io/inject", "enabled").repaired("report"));
    };
    assert!(story(&reporting), "its namespace says report");
    assert!(!story(&|model| model.cluster.webhooks = WebhookView::default()), "Linkerd is gone, for how long?");
    let gone = |model: &mut Model| {
        model.cluster.webhooks = WebhookView::default();
        assert!(model.due_text().is_empty());
        model.after(600).without_proof();
    };
    assert!(story(&gone), "Linkerd is gone for ten minutes");
}

#[test]
fn a_job_suspended_for_hold_max_resumes_for_good() {
    let suspended = suspended().annotated("linkerd-gate/suspended-at", "2026-01-01T12:00:00Z");
    let mut model = Model::with(Repair::Held, [suspended]);
    model.policy.hold_max = Some(seconds(60));
    assert!(model.without_proof().due_text().is_empty());
    assert_eq!(model.after(60).without_proof().done(), ["resume report"]);
    model.owner(&report()).pods(["a", "b", "c"].map(|name| pod(name).gated().tracked().of(&report())));
    let later = "2026-01-01T12:01:00Z";
    model.pods([pod("a").gated().tracked().of(&report()).and("/metadata/creationTimestamp", later.into())]);
    assert_eq!(model.after(1).without_proof().ungated().len(), 3);
    assert!(model.due_text().is_empty());
}

#[test]
fn a_released_job_that_wait_holds_is_suspended_again_on_proof() {
    let suspended = suspended().annotated("linkerd-gate/suspended-at", "2026-01-01T12:00:00Z");
    let mut model = Model::with(Repair::Held, [suspended]);
    model.policy.hold_max = Some(seconds(60));
    assert_eq!(model.after(60).without_proof().done(), ["resume report"]);
    model.owner(&report()).pods(pods());
    assert!(model.after(1).without_proof().due_text().is_empty(), "its pods would be held again");
    assert_eq!(model.after(1).due_text(), ["suspend report a b c"]);
}

#[test]
fn a_foreign_resume_clears_our_mark_and_a_foreign_suspend_stays() {
    let mut model = Model::with(Repair::Held, [suspended().and("/spec/suspend", false.into())]);
    assert_eq!(model.without_proof().due_text(), ["resume report"]);
    let mut model = Model::with(Repair::Held, [report().and("/spec/suspend", true.into()).and("/status", json!({}))]);
    assert!(model.after(3600).due_text().is_empty());
    assert!(model.owner(&suspended().going()).after(3600).due_text().is_empty());
}

#[test]
fn a_resume_is_not_repeated_before_a_change_and_never_given_up() {
    let mut model = Model::with(Repair::Held, [suspended()]);
    assert_eq!(model.done(), ["resume report"]);
    assert!(model.after(59).due_text().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(1)));
    assert_eq!(model.after(1).due_text(), ["resume report"], "whoever began it never told what came of it");
    assert_eq!(model.act(&WriteOutcome::Failed("no".to_owned())), ["resume report"]);
    assert!(model.after(14).due_text().is_empty());
    assert_eq!(model.after(1).done(), ["resume report"]);
    model.owner(&suspended().and("/metadata/resourceVersion", "2".into()));
    assert_eq!(model.after(1).due_text(), ["resume report"], "it changed, and is still suspended");
}

#[test]
fn a_failed_resume_counts_no_failures_of_existing_pods() {
    let resumed = suspended().and("/spec/suspend", false.into()).and("/status/active", 3.into());
    let mut model = model(resumed);
    for pause in [15, 30, 60, 120] {
        assert_eq!(model.act(&WriteOutcome::Failed("no".to_owned())), ["resume report"]);
        model.after(pause);
    }
    assert_eq!((model.tracker.open_breakers(), model.tracker.missed_again_at()), (0, None));
}

#[test]
fn a_job_whose_pods_came_back_meshed_is_at_rest() {
    let mut model = model(report());
    assert_eq!(model.done(), ["suspend report a b c"]);
    model.gone("a").gone("b").gone("c").owner(&suspended());
    assert_eq!(model.after(1).done(), ["resume report"]);
    model.owner(&report()).pods(["d", "e", "f"].map(|name| pod(name).meshed().running().of(&report())));
    assert!(model.after(1).due_text().is_empty());
    assert!(model.after(3600).due_text().is_empty() && model.again.is_none());
}
