//! What comes back missed: the loop breaker.

use serde_json::json;

use super::super::{KeepReason, Repair, WriteOutcome};
use super::fixtures::{Draft, job, pod, replica_set, stateful_set};
use super::model::{Model, seconds};
use crate::linkerd::WebhookView;
use crate::linkerd::webhook::chart_default;

fn web() -> Draft {
    replica_set("web")
}

/// So many held pods.
fn looping(count: usize) -> Model {
    let mut model = Model::with(Repair::Held, [web()]);
    model.pods((0..count).map(|place| pod(&format!("a{place}")).of(&web())));
    model
}

/// What was removed is gone, and comes back under another name as bare as it was.
fn come_back(model: &mut Model, acts: &[String]) {
    for act in acts {
        let name = act.split_once(' ').unwrap().1;
        model.gone(name).pods([pod(&format!("{name}x")).of(&web())]);
    }
}

/// Until nothing is due any more for a while; what was done.
fn exhausted(model: &mut Model) -> usize {
    let mut done = 0;
    for _ in 0..20 {
        let acts = model.done();
        come_back(model, &acts);
        done += acts.len();
        // What came back is seen before the next proof.
        model.due_text();
        model.after(31);
    }
    model.due_text();
    done
}

#[test]
fn an_owner_whose_pods_return_missed_loses_three_then_is_left() {
    for count in [1, 2, 3, 4, 10] {
        let mut model = looping(count);
        assert_eq!(exhausted(&mut model), 3, "{count} pods");
        assert!(model.tracker.is_breaker_open("uid of web") && model.tracker.open_breakers() == 1);
    }
}

#[test]
fn an_owner_that_grew_while_the_injector_was_away_is_no_loop() {
    let mut model = looping(3);
    assert_eq!(model.act(&WriteOutcome::Conflict).len(), 3);
    // Its controller was not done with making them.
    model.after(1).pods((3..10).map(|place| pod(&format!("a{place}")).of(&web())));
    model.due_text();
    model.after(31).due_text();
    assert!(!model.tracker.is_breaker_open("uid of web") && !model.due().is_empty());
    assert_eq!(exhausted(&mut model), 3, "and then it is one");
}

#[test]
fn growth_seen_before_a_deletion_conflicts_is_no_loop() {
    let mut model = looping(3);
    let actions = model.due();
    for action in &actions {
        model.begin(action);
    }
    // Its controller was not done with making them, and the API server has not answered yet.
    model.after(1).pods((3..6).map(|place| pod(&format!("a{place}")).of(&web())));
    model.due_text();
    let outcomes = [WriteOutcome::Done, WriteOutcome::Conflict, WriteOutcome::Conflict];
    for (action, outcome) in actions.iter().zip(outcomes) {
        model.tracker.acted(action, &outcome, model.now);
    }
    model.gone("a0").pods([pod("a0x").of(&web())]);
    model.after(31).due_text();
    assert!(!model.tracker.is_breaker_open("uid of web"));
    assert_eq!(exhausted(&mut model), 2, "one was removed before");
    assert!(model.tracker.is_breaker_open("uid of web"));
}

#[test]
fn an_open_breaker_is_reported_once_and_kept_pods_name_it() {
    let mut model = looping(3);
    let acts = model.done();
    come_back(&mut model, &acts);
    let told = |model: &mut Model| {
        let snapshot = model.cluster.snapshot();
        let scan = super::super::Scan::of(&snapshot, |owner| model.tracker.remembers(owner));
        model.tracker.observe(&snapshot, &scan, model.now)
    };
    assert!(told(model.after(1)).is_empty(), "no proof is from after");
    assert_eq!(told(model.after(1)), ["uid of web"]);
    assert!(told(model.after(1)).is_empty());
    assert_eq!(model.fate("a0x"), Err(KeepReason::Broken));
}

#[test]
fn after_an_hour_it_has_three_more() {
    let mut model = looping(1);
    assert_eq!(exhausted(&mut model), 3);
    let until = model.again.expect("the end of the hour");
    assert!(until > model.now && until <= model.now + seconds(3600));
    model.now = until;
    model.after(0);
    assert_eq!(exhausted(&mut model), 3);
}

#[test]
fn a_new_webhook_or_a_meshed_pod_resets_the_breaker() {
    let mut model = looping(4);
    assert_eq!(exhausted(&mut model), 3);
    let mut other = chart_default();
    other.webhooks.as_mut().unwrap()[0].timeout_seconds = Some(5);
    model.cluster.webhooks = WebhookView::new([&other]).unwrap();
    assert_eq!(exhausted(&mut model), 3);
    model.pods([pod("b").meshed().of(&web())]);
    assert!(!model.due_text().is_empty());
    assert_eq!(model.tracker.open_breakers(), 0);
}

#[test]
fn after_a_possible_loop_one_pod_is_replaced_per_cooldown() {
    let mut model = looping(6);
    let acts = model.done();
    assert_eq!(acts.len(), 3);
    come_back(&mut model, &acts[..1]);
    model.gone("a1").gone("a2").due_text();
    model.pods([pod("b").declining().of(&web()), pod("c").declining().ready().of(&web())]);
    assert!(model.after(29).due_text().is_empty());
    assert_eq!(model.after(1).due_text().len(), 0, "b has not started");
    assert_eq!(model.after(30).due_text().len(), 1);
}

#[test]
fn a_failure_explained_by_an_outage_does_not_count() {
    let mut model = looping(3);
    for _ in 0..5 {
        let acts = model.done();
        assert_eq!(acts.len(), 3);
        come_back(&mut model, &acts);
        assert!(model.due_text().is_empty(), "the proof is from before");
        assert!(model.after(5).without_proof().due_text().is_empty());
        assert_eq!(model.tracker.open_breakers(), 0);
        model.after(5);
    }
}

#[test]
fn a_failure_counts_only_with_a_later_proof_each_time() {
    let mut model = looping(1);
    for _ in 0..2 {
        let acts = model.done();
        come_back(&mut model, &acts);
        model.due_text();
        model.after(31).due_text();
    }
    let acts = model.done();
    assert_eq!(acts.len(), 1);
    come_back(&mut model, &acts);
    model.now += seconds(1);
    assert!(model.due_text().is_empty() && model.tracker.open_breakers() == 0, "its proof is from before");
    assert!(model.without_proof().due_text().is_empty() && model.tracker.open_breakers() == 0);
    model.after(1).due_text();
    assert_eq!(model.tracker.open_breakers(), 0, "there was an outage");
}

#[test]
fn an_owner_that_loops_faster_than_proofs_delays_others_briefly() {
    let other = stateful_set("db");
    let mut model = looping(1);
    assert_eq!(model.done(), ["delete a0"]);
    model.gone("a0").owner(&other).pods([pod("db-0").of(&other)]);
    let begun = model.now;
    let mut waited = None;
    let mut lost = 1;
    // Each second another pod of it fails and comes back missed; a proof comes every third second.
    while model.now < begun + seconds(600) {
        model.now += seconds(1);
        model.pods([pod(&format!("b{}", model.now.as_secs())).of(&web())]);
        let secs = model.now.as_secs();
        model.cluster.proven = Some(seconds(secs - secs % 3));
        for act in model.done() {
            if act == "delete db-0" {
                waited.get_or_insert(model.now.saturating_sub(begun));
            } else {
                lost += 1;
            }
            model.gone(act.trim_start_matches("delete "));
        }
    }
    assert!(waited.is_some_and(|waited| waited < seconds(10)), "{waited:?}");
    assert!(model.tracker.is_breaker_open("uid of web") && lost == 3, "{lost}");
}

#[test]
fn failures_add_up_regardless_of_the_cooldown() {
    let mut model = looping(1);
    model.policy.cooldown = seconds(900);
    model.tracker = super::super::Tracker::new(&model.policy, seconds(0));
    let mut done = 0;
    for _ in 0..60 {
        let acts = model.done();
        come_back(&mut model, &acts);
        done += acts.len();
        model.due_text();
        model.after(60);
    }
    assert_eq!(done, 3);
}

#[test]
fn a_suspended_jobs_failures_count_for_each_pod() {
    let report = job("report").and("/spec/parallelism", 3.into()).and("/status/active", 3.into());
    let suspended = report.clone().annotated("linkerd-gate/suspended-at", "then").and("/spec/suspend", true.into());
    let mut model = Model::with(Repair::Held, [report.clone()]);
    model.pods(["a", "b", "c"].map(|name| pod(name).of(&report)));
    assert_eq!(model.done(), ["suspend report a b c"]);
    model.gone("a").gone("b").gone("c").owner(&suspended.and("/status", json!({})));
    assert_eq!(model.after(1).done(), ["resume report"]);
    model.owner(&report).pods(["d", "e", "f"].map(|name| pod(name).of(&report)));
    assert!(model.after(1).due_text().is_empty());
    assert!(model.after(40).due_text().is_empty());
    assert_eq!(model.fate("d"), Err(KeepReason::Broken));
}

#[test]
fn an_owner_is_identified_by_its_uid() {
    let mut model = looping(3);
    assert_eq!(exhausted(&mut model), 3);
    let another = web().anew();
    model.owner(&another);
    model.cluster.pods.clear();
    model.pods([pod("c").of(&another)]);
    assert_eq!(model.act(&WriteOutcome::Conflict), ["delete c"]);
}
