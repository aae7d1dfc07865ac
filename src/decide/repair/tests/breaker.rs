//! What comes back missed: the loop breaker.

use serde_json::json;

use super::super::{KeepReason, Repair, WriteOutcome};
use super::cast::{Draft, job, pod, replica_set, stateful_set};
use super::scene::{Scene, seconds};
use crate::linkerd::WebhookView;
use crate::linkerd::webhook::chart_default;

fn web() -> Draft {
    replica_set("web")
}

/// So many held pods.
fn looping(count: usize) -> Scene {
    let mut scene = Scene::with(Repair::Held, [web()]);
    scene.pods((0..count).map(|place| pod(&format!("a{place}")).of(&web())));
    scene
}

/// What was removed is gone, and comes back under another name as bare as it was.
fn come_back(scene: &mut Scene, acts: &[String]) {
    for act in acts {
        let name = act.split_once(' ').unwrap().1;
        scene.gone(name).pods([pod(&format!("{name}x")).of(&web())]);
    }
}

/// Until nothing is due any more for a while; what was done.
fn exhausted(scene: &mut Scene) -> usize {
    let mut done = 0;
    for _ in 0..20 {
        let acts = scene.done();
        come_back(scene, &acts);
        done += acts.len();
        // What came back is seen before the next proof.
        scene.told();
        scene.after(31);
    }
    scene.told();
    done
}

#[test]
fn an_owner_whose_pods_come_back_missed_loses_exactly_three_and_is_left_alone() {
    for count in [1, 2, 3, 4, 10] {
        let mut scene = looping(count);
        assert_eq!(exhausted(&mut scene), 3, "{count} pods");
        assert!(scene.tracker.is_breaker_open("uid of web") && scene.tracker.open_breakers() == 1);
    }
}

#[test]
fn an_owner_that_grew_while_the_injector_was_away_is_no_loop() {
    let mut scene = looping(3);
    assert_eq!(scene.act(&WriteOutcome::Conflict).len(), 3);
    // Its controller was not done with making them.
    scene.after(1).pods((3..10).map(|place| pod(&format!("a{place}")).of(&web())));
    scene.told();
    scene.after(31).told();
    assert!(!scene.tracker.is_breaker_open("uid of web") && !scene.due().is_empty());
    assert_eq!(exhausted(&mut scene), 3, "and then it is one");
}

#[test]
fn it_is_told_once_that_an_owner_is_left_alone_and_its_pods_say_why() {
    let mut scene = looping(3);
    let acts = scene.done();
    come_back(&mut scene, &acts);
    let told = |scene: &mut Scene| {
        let snapshot = scene.cluster.snapshot();
        let scan = super::super::Scan::of(&snapshot, |owner| scene.tracker.remembers(owner));
        scene.tracker.observe(&snapshot, &scan, scene.now)
    };
    assert!(told(scene.after(1)).is_empty(), "no proof is from after");
    assert_eq!(told(scene.after(1)), ["uid of web"]);
    assert!(told(scene.after(1)).is_empty());
    assert_eq!(scene.fate("a0x"), Err(KeepReason::Broken));
}

#[test]
fn after_an_hour_it_has_three_more() {
    let mut scene = looping(1);
    assert_eq!(exhausted(&mut scene), 3);
    let until = scene.again.expect("the end of the hour");
    assert!(until > scene.now && until <= scene.now + seconds(3600));
    scene.now = until;
    scene.after(0);
    assert_eq!(exhausted(&mut scene), 3);
}

#[test]
fn another_webhook_makes_up_for_everything_and_so_does_one_pod_that_comes_meshed() {
    let mut scene = looping(4);
    assert_eq!(exhausted(&mut scene), 3);
    let mut other = chart_default();
    other.webhooks.as_mut().unwrap()[0].timeout_seconds = Some(5);
    scene.cluster.webhooks = WebhookView::new([&other]).unwrap();
    assert_eq!(exhausted(&mut scene), 3);
    scene.pods([pod("b").meshed().of(&web())]);
    assert!(!scene.told().is_empty());
    assert_eq!(scene.tracker.open_breakers(), 0);
}

#[test]
fn once_it_looks_like_a_loop_it_goes_one_at_a_time_and_with_rests() {
    let mut scene = looping(6);
    let acts = scene.done();
    assert_eq!(acts.len(), 3);
    come_back(&mut scene, &acts[..1]);
    scene.gone("a1").gone("a2").told();
    scene.pods([pod("b").declining().of(&web()), pod("c").declining().ready().of(&web())]);
    assert!(scene.after(29).told().is_empty());
    assert_eq!(scene.after(1).told().len(), 0, "b has not started");
    assert_eq!(scene.after(30).told().len(), 1);
}

#[test]
fn what_an_outage_explains_is_no_strike() {
    let mut scene = looping(3);
    for _ in 0..5 {
        let acts = scene.done();
        assert_eq!(acts.len(), 3);
        come_back(&mut scene, &acts);
        assert!(scene.told().is_empty(), "the proof is from before");
        assert!(scene.after(5).without_proof().told().is_empty());
        assert_eq!(scene.tracker.open_breakers(), 0);
        scene.after(5);
    }
}

#[test]
fn a_strike_counts_only_with_a_proof_from_after_however_often_that_was_so_before() {
    let mut scene = looping(1);
    for _ in 0..2 {
        let acts = scene.done();
        come_back(&mut scene, &acts);
        scene.told();
        scene.after(31).told();
    }
    let acts = scene.done();
    assert_eq!(acts.len(), 1);
    come_back(&mut scene, &acts);
    scene.now += seconds(1);
    assert!(scene.told().is_empty() && scene.tracker.open_breakers() == 0, "its proof is from before");
    assert!(scene.without_proof().told().is_empty() && scene.tracker.open_breakers() == 0);
    scene.after(1).told();
    assert_eq!(scene.tracker.open_breakers(), 0, "there was an outage");
}

#[test]
fn an_owner_whose_pods_come_missed_faster_than_proofs_holds_nobody_up_for_long() {
    let other = stateful_set("db");
    let mut scene = looping(1);
    assert_eq!(scene.done(), ["delete a0"]);
    scene.gone("a0").owner(&other).pods([pod("db-0").of(&other)]);
    let begun = scene.now;
    let mut waited = None;
    let mut lost = 1;
    // Each second another pod of it fails and comes back missed; a proof comes every third second.
    while scene.now < begun + seconds(600) {
        scene.now += seconds(1);
        scene.pods([pod(&format!("b{}", scene.now.as_secs())).of(&web())]);
        let secs = scene.now.as_secs();
        scene.cluster.proven = Some(seconds(secs - secs % 3));
        for act in scene.done() {
            if act == "delete db-0" {
                waited.get_or_insert(scene.now.saturating_sub(begun));
            } else {
                lost += 1;
            }
            scene.gone(act.trim_start_matches("delete "));
        }
    }
    assert!(waited.is_some_and(|waited| waited < seconds(10)), "{waited:?}");
    assert!(scene.tracker.is_breaker_open("uid of web") && lost == 3, "{lost}");
}

#[test]
fn strikes_add_up_however_long_an_owner_rests() {
    let mut scene = looping(1);
    scene.policy.cooldown = seconds(900);
    scene.tracker = super::super::Tracker::new(&scene.policy, seconds(0));
    let mut done = 0;
    for _ in 0..60 {
        let acts = scene.done();
        come_back(&mut scene, &acts);
        done += acts.len();
        scene.told();
        scene.after(60);
    }
    assert_eq!(done, 3);
}

#[test]
fn a_jobs_suspension_strikes_with_each_of_its_pods() {
    let report = job("report").and("/spec/parallelism", 3.into()).and("/status/active", 3.into());
    let suspended = report.clone().annotated("linkerd-gate/suspended-at", "then").and("/spec/suspend", true.into());
    let mut scene = Scene::with(Repair::Held, [report.clone()]);
    scene.pods(["a", "b", "c"].map(|name| pod(name).of(&report)));
    assert_eq!(scene.done(), ["suspend report a b c"]);
    scene.gone("a").gone("b").gone("c").owner(&suspended.and("/status", json!({})));
    assert_eq!(scene.after(1).done(), ["resume report"]);
    scene.owner(&report).pods(["d", "e", "f"].map(|name| pod(name).of(&report)));
    assert!(scene.after(1).told().is_empty());
    assert!(scene.after(40).told().is_empty());
    assert_eq!(scene.fate("d"), Err(KeepReason::Broken));
}

#[test]
fn an_owner_is_known_by_its_uid() {
    let mut scene = looping(3);
    assert_eq!(exhausted(&mut scene), 3);
    let another = web().anew();
    scene.owner(&another);
    scene.cluster.pods.clear();
    scene.pods([pod("c").of(&another)]);
    assert_eq!(scene.act(&WriteOutcome::Conflict), ["delete c"]);
}
