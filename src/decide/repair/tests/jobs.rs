//! Jobs: suspended and resumed where all pods are held, else gated pods are untracked and others evicted where nothing counts, or left.

use serde_json::json;

use super::super::{ClusterOverride, KeepReason, Method, Operation, Repair, WriteOutcome};
use super::cast::{Draft, job, pod, rollout};
use super::scene::{Scene, namespace, seconds};
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

fn scene(job: Draft) -> Scene {
    let mut scene = Scene::with(Repair::Running, [job]);
    scene.pods(pods());
    scene
}

#[test]
fn a_job_that_ignores_disruptions_has_its_pods_evicted_where_one_has_started() {
    let mut scene = scene(ignoring_all());
    assert_eq!(scene.fate("a"), Ok(Method::Suspend));
    scene.pods([pod("b").running().of(&report())]);
    assert_eq!((scene.fate("a"), scene.fate("b")), (Ok(Method::Evict), Ok(Method::Evict)));
    assert_eq!(scene.told(), ["evict a"], "evictions have their rate");
}

#[test]
fn a_job_that_may_count_an_apps_exit_code_has_only_those_evicted_that_wait_holds() {
    let fail = json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}});
    let ignore = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let mut scene = scene(ignoring(&json!([fail, ignore])));
    let others = pod("b").of(&report()).and("/spec/initContainers", json!([{"name": "migrate"}]));
    scene.pods([others, pod("c").running().of(&report())]);
    assert_eq!(scene.fate("a"), Ok(Method::Evict));
    assert_eq!(scene.fate("b"), Err(KeepReason::JobWouldCount), "its own init container may end with any code");
    assert_eq!(scene.fate("c"), Err(KeepReason::JobWouldCount));
}

#[test]
fn a_job_is_suspended_as_a_whole_where_all_its_active_pods_are_held() {
    let mut scene = scene(report());
    let others = [pod("done").finished().of(&report()), pod("goes").ready().going().of(&report())];
    let due = scene.pods(others).due();
    let [Operation::Suspend { resource_version, pods }] = [due[0].operation.clone()] else { panic!("{due:?}") };
    assert_eq!((due.len(), resource_version.as_str(), pods.len()), (1, "1", 3));
    scene.without_proof();
    assert_eq!(scene.done(), ["suspend report a b c"], "that stops its clock, and waits for no proof");
    assert!(scene.after(59).told().is_empty());
}

#[test]
fn a_job_is_not_suspended_before_all_its_active_pods_are_seen_nor_against_a_persons_word() {
    let mut scene = scene(report().and("/status/active", 4.into()));
    assert!(scene.told().is_empty());
    scene.owner(&report());
    for manual in [ClusterOverride::Open, ClusterOverride::Closed] {
        scene.cluster.manual = Some(manual);
        assert!(scene.told().is_empty(), "{manual:?}");
    }
}

#[test]
fn gated_pods_of_a_job_that_has_others_are_deleted_without_being_counted() {
    for other in [pod("c").running(), pod("c").meshed().ready(), pod("c").gated().tracked().repaired("report")] {
        let mut scene = Scene::with(Repair::Held, [report()]);
        scene.pods([other, pod("b").gated().tracked(), pod("a").gated()].map(|pod| pod.of(&report())));
        // What was begun before and not ended comes first.
        assert_eq!((scene.fate("a"), scene.fate("b")), (Ok(Method::Delete), Ok(Method::Untrack)));
        assert!(scene.without_proof().told().is_empty());
        let due = scene.after(1).due();
        assert!(matches!(due[1].operation, Operation::Untrack { gate: 1, .. }), "{due:?}");
        assert_eq!(scene.told(), ["delete a", "untrack b"]);
    }
    // Another program's suspension, and the whole Job held.
    let mut scene = Scene::with(Repair::Held, [report().labelled("kueue.x-k8s.io/queue-name", "night")]);
    scene.pods(["a", "b", "c"].map(|name| pod(name).gated().tracked().of(&report())));
    assert_eq!(scene.told(), ["untrack a", "untrack b", "untrack c"]);
}

#[test]
fn a_gated_pod_that_its_job_does_not_count_any_more_is_deleted_whatever_the_job_does() {
    for job in [suspended(), report().and("/status/conditions", json!([{"type": "Complete", "status": "True"}]))] {
        let mut scene = Scene::with(Repair::Held, [job]);
        scene.pods([pod("a").gated().of(&report())]);
        assert_eq!(scene.fate("a"), Ok(Method::Delete));
    }
}

#[test]
fn a_job_with_a_pod_that_runs_or_is_meshed_or_may_not_go_is_left() {
    for other in [
        pod("c").running(),
        pod("c").meshed(),
        pod("c").declining(),
        pod("c").repaired("report"),
        pod("c").repaired("Held"),
        // It has not started when it is looked at.
        pod("c").and("/spec/initContainers", json!([])),
    ] {
        let mut scene = scene(report());
        scene.pods([other.of(&report())]);
        assert_eq!(scene.fate("a"), Err(KeepReason::JobWouldCount));
        assert!(scene.told().is_empty());
    }
    let mut scene = scene(report());
    scene.pods([pod("c").repaired("held").of(&report())]);
    assert_eq!(scene.fate("a"), Ok(Method::Suspend));
    scene.policy.repair = Repair::Report;
    assert_eq!((scene.fate("a"), scene.fate("c")), (Err(KeepReason::Reported), Err(KeepReason::JobWouldCount)));
}

#[test]
fn where_the_controller_may_not_evict_a_job_is_suspended_or_left() {
    let mut scene = scene(ignoring_all());
    scene.policy.evicts = false;
    assert_eq!(scene.fate("a"), Ok(Method::Suspend));
    scene.pods([pod("c").running().of(&report())]);
    assert_eq!(scene.fate("a"), Err(KeepReason::NoEviction));
}

#[test]
fn a_job_that_somebody_else_manages_or_that_is_suspended_or_over_is_left() {
    let queued = || report().labelled("kueue.x-k8s.io/queue-name", "night");
    assert!(matches!(scene(queued()).fate("a"), Err(KeepReason::JobManaged(who)) if who.contains("Kueue")));
    let over = json!([{"type": "FailureTarget", "status": "True"}]);
    for job in [report(), ignoring_all()] {
        assert_eq!(scene(job.clone().and("/spec/suspend", true.into())).fate("a"), Err(KeepReason::JobSuspended));
        assert_eq!(scene(job.and("/status/conditions", over.clone())).fate("a"), Err(KeepReason::JobOver));
    }
    let volcano = rollout("report").and("/apiVersion", "batch.volcano.sh/v1alpha1".into()).and("/kind", "Job".into());
    let mut scene = Scene::with(Repair::Running, []);
    assert!(matches!(scene.pods([pod("a").of(&volcano)]).fate("a"), Err(KeepReason::UnknownOwner(_))));
}

#[test]
fn a_job_that_we_suspended_is_resumed_once_its_pods_are_gone_and_injection_is_proven() {
    let mut scene = scene(suspended().and("/status/active", 3.into()));
    assert!(scene.told().is_empty());
    scene.pods(pods().map(Draft::going)).owner(&suspended());
    assert!(scene.after(1).told().is_empty(), "they are still going");
    scene.gone("a").gone("b").pods([pod("c").finished().of(&report())]);
    assert!(scene.without_proof().told().is_empty());
    assert_eq!(scene.after(1).done(), ["resume report"]);
}

#[test]
fn a_job_that_we_suspended_waits_for_proof_however_long_and_not_for_a_pod_that_does_not_go() {
    let mut scene = scene(suspended().and("/status/active", 3.into()));
    assert!(scene.told().is_empty());
    assert!(scene.after(3600).without_proof().told().is_empty());
    assert_eq!(scene.after(0).told(), ["resume report"]);
}

#[test]
fn another_mark_is_of_another_suspension_and_has_its_own_minute() {
    let mut scene = scene(suspended().and("/status/active", 3.into()));
    assert!(scene.told().is_empty());
    scene.owner(&suspended().and("/status/active", 3.into()).annotated("linkerd-gate/suspended-at", "now"));
    assert!(scene.after(60).told().is_empty());
    assert_eq!(scene.again, Some(scene.now + seconds(60)));
    assert_eq!(scene.after(60).told(), ["resume report"]);
}

#[test]
fn where_nothing_holds_its_pods_any_more_a_job_goes_on_without_proof() {
    let story = |change: &dyn Fn(&mut Scene)| {
        let mut scene = Scene::with(Repair::Held, [suspended()]);
        assert!(scene.without_proof().told().is_empty());
        change(&mut scene);
        scene.told() == ["resume report"]
    };
    assert!(story(&|scene| scene.policy.enforces = false), "audit");
    assert!(story(&|scene| scene.policy.repair = Repair::Report), "report");
    assert!(story(&|scene| scene.cluster.manual = Some(ClusterOverride::Open)), "open --all");
    assert!(!story(&|scene| scene.cluster.manual = Some(ClusterOverride::Closed)), "close --all");
    let silent = |scene: &mut Scene| {
        scene.namespace(&namespace("shop"));
    };
    assert!(story(&silent), "its namespace asks no more");
    let reporting = |scene: &mut Scene| {
        scene.namespace(&namespace("shop").annotated("linkerd.io/inject", "enabled").repaired("report"));
    };
    assert!(story(&reporting), "its namespace says report");
    assert!(!story(&|scene| scene.cluster.webhooks = WebhookView::default()), "Linkerd is gone, for how long?");
    let gone = |scene: &mut Scene| {
        scene.cluster.webhooks = WebhookView::default();
        assert!(scene.told().is_empty());
        scene.after(600).without_proof();
    };
    assert!(story(&gone), "Linkerd is gone for ten minutes");
}

#[test]
fn a_job_that_was_suspended_for_as_long_as_it_may_goes_on_and_is_not_suspended_again() {
    let suspended = suspended().annotated("linkerd-gate/suspended-at", "2026-01-01T12:00:00Z");
    let mut scene = Scene::with(Repair::Held, [suspended]);
    scene.policy.hold_max = Some(seconds(60));
    assert!(scene.without_proof().told().is_empty());
    assert_eq!(scene.after(60).without_proof().done(), ["resume report"]);
    scene.owner(&report()).pods(["a", "b", "c"].map(|name| pod(name).gated().tracked().of(&report())));
    let later = "2026-01-01T12:01:00Z";
    scene.pods([pod("a").gated().tracked().of(&report()).and("/metadata/creationTimestamp", later.into())]);
    assert_eq!(scene.after(1).without_proof().ungated().len(), 3);
    assert!(scene.told().is_empty());
}

#[test]
fn a_job_that_somebody_resumed_loses_our_mark_at_once_and_one_that_somebody_suspended_is_not_ours() {
    let mut scene = Scene::with(Repair::Held, [suspended().and("/spec/suspend", false.into())]);
    assert_eq!(scene.without_proof().told(), ["resume report"]);
    let mut scene = Scene::with(Repair::Held, [report().and("/spec/suspend", true.into()).and("/status", json!({}))]);
    assert!(scene.after(3600).told().is_empty());
    assert!(scene.owner(&suspended().going()).after(3600).told().is_empty());
}

#[test]
fn a_resumption_is_not_repeated_before_its_job_has_changed_and_not_given_up_either() {
    let mut scene = Scene::with(Repair::Held, [suspended()]);
    assert_eq!(scene.done(), ["resume report"]);
    assert!(scene.after(59).told().is_empty());
    assert_eq!(scene.again, Some(scene.now + seconds(1)));
    assert_eq!(scene.after(1).told(), ["resume report"], "whoever began it never told what came of it");
    assert_eq!(scene.act(&WriteOutcome::Failed("no".to_owned())), ["resume report"]);
    assert!(scene.after(14).told().is_empty());
    assert_eq!(scene.after(1).done(), ["resume report"]);
    scene.owner(&suspended().and("/metadata/resourceVersion", "2".into()));
    assert_eq!(scene.after(1).told(), ["resume report"], "it changed, and is still suspended");
}

#[test]
fn a_resumption_that_fails_makes_no_strikes_of_pods_that_were_there() {
    let resumed = suspended().and("/spec/suspend", false.into()).and("/status/active", 3.into());
    let mut scene = scene(resumed);
    for pause in [15, 30, 60, 120] {
        assert_eq!(scene.act(&WriteOutcome::Failed("no".to_owned())), ["resume report"]);
        scene.after(pause);
    }
    assert_eq!((scene.tracker.open_breakers(), scene.tracker.missed_again_at()), (0, None));
}

#[test]
fn a_job_whose_pods_came_back_meshed_is_at_rest() {
    let mut scene = scene(report());
    assert_eq!(scene.done(), ["suspend report a b c"]);
    scene.gone("a").gone("b").gone("c").owner(&suspended());
    assert_eq!(scene.after(1).done(), ["resume report"]);
    scene.owner(&report()).pods(["d", "e", "f"].map(|name| pod(name).meshed().running().of(&report())));
    assert!(scene.after(1).told().is_empty());
    assert!(scene.after(3600).told().is_empty() && scene.again.is_none());
}
