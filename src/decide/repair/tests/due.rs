//! Which acts are due: rates, turns, and what an owner can spare.

use serde_json::json;

use super::super::{Operation, Repair, WriteOutcome};
use super::fixtures::{Draft, daemon_set, pod, replica_set, replication_controller, stateful_set};
use super::model::{Model, seconds, words};

fn held(names: &[&str], owner: &Draft) -> Vec<Draft> {
    names.iter().map(|name| pod(name).of(owner)).collect()
}

fn running(names: &[&str], owner: &Draft) -> Vec<Draft> {
    names.iter().map(|name| pod(name).ready().of(owner)).collect()
}

fn log() -> Draft {
    daemon_set("log").and("/spec/updateStrategy/rollingUpdate/maxUnavailable", 2.into())
}

#[test]
fn a_removal_names_exactly_the_observed_pod() {
    let web = replica_set("web");
    let mut model = Model::with(Repair::Held, [web.clone()]);
    let due = model.pods([pod("a").of(&web).and("/metadata/resourceVersion", "7".into())]).due();
    let [Operation::Delete([target])] = [due[0].operation.clone()] else { panic!("{due:?}") };
    assert_eq!((target.name.as_str(), target.uid.as_str(), target.resource_version.as_str()), ("a", "uid of a", "7"));
    assert_eq!((due.len(), due[0].namespace.as_str(), due[0].owner.name.as_str()), (1, "shop", "web"));
}

#[test]
fn nothing_is_due_without_a_proof_newer_than_the_last_miss() {
    let web = replica_set("web");
    let mut model = Model::with(Repair::Held, [web.clone()]);
    assert!(model.pods(held(&["a", "b"], &web)).without_proof().due_text().is_empty());
    assert_eq!(model.after(0).done(), ["delete a", "delete b"]);
    let old = model.cluster.proven;
    model.gone("a").pods(held(&["c"], &web)).after(40);
    model.cluster.proven = old;
    assert!(model.due_text().is_empty(), "the proof is from before");
    model.gone("b").after(30);
    let new = std::mem::replace(&mut model.cluster.proven, old);
    assert!(model.due_text().is_empty(), "the proof is from before, and nothing else is in the way");
    model.cluster.proven = new;
    assert_eq!(model.due_text(), ["delete c"]);
}

#[test]
fn an_operation_in_flight_is_not_repeated() {
    let web = replica_set("web");
    let mut model = Model::with(Repair::Held, [web.clone()]);
    model.pods(held(&["a"], &web));
    let due = model.due();
    model.begin(&due[0]);
    assert!(model.due_text().is_empty());
    model.tracker.acted(&due[0], &WriteOutcome::Done, model.now);
    assert!(model.after(59).due_text().is_empty(), "its deletion is not seen yet");
    assert_eq!(model.again, Some(model.now + seconds(1)));
    assert_eq!(model.after(1).due_text(), ["delete a"], "it is still there: the act was lost");
}

#[test]
fn a_deletion_that_conflicted_is_due_again_with_a_new_version() {
    let web = replica_set("web");
    let mut model = Model::with(Repair::Held, [web.clone()]);
    model.pods(held(&["a"], &web));
    assert_eq!(model.act(&WriteOutcome::Conflict), ["delete a"]);
    assert!(model.due_text().is_empty(), "the same request would conflict again");
    model.changed("a");
    assert_eq!(model.act(&WriteOutcome::Conflict), ["delete a"]);
    assert!(model.after(59).due_text().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(1)), "or when its watch has shown nothing for a minute");
    assert_eq!(model.after(1).due_text(), ["delete a"]);
}

#[test]
fn a_deletion_that_was_not_sent_is_due_again_at_once() {
    let web = replica_set("web");
    let mut model = Model::with(Repair::Held, [web.clone()]);
    model.pods(held(&["a"], &web));
    let due = model.due();
    model.begin(&due[0]);
    assert!(model.due_text().is_empty());
    model.tracker.dropped(&due[0]);
    assert_eq!(model.due_text(), ["delete a"]);
}

#[test]
fn a_failed_deletion_is_retried_after_pauses_up_to_five_minutes() {
    let web = replica_set("web");
    let mut model = Model::with(Repair::Held, [web.clone()]);
    model.pods(held(&["a"], &web));
    for pause in [15, 30, 60, 120, 240, 300, 300] {
        assert_eq!(model.act(&WriteOutcome::Failed("no".to_owned())), ["delete a"]);
        assert!(model.after(pause - 1).due_text().is_empty(), "{pause}");
        assert_eq!(model.again, Some(model.now + seconds(1)));
        model.after(1);
    }
    assert_eq!(model.done(), ["delete a"]);
    model.after(60);
    assert_eq!(model.act(&WriteOutcome::Refused("a budget".to_owned())), ["delete a"]);
    assert_eq!(model.after(15).due_text(), ["delete a"]);
}

#[test]
fn audit_mode_plans_again_after_growing_pauses() {
    let web = replica_set("web");
    let mut model = Model::with(Repair::Held, [web.clone()]);
    model.pods(held(&["a", "b"], &web));
    for pause in [15, 30, 60, 120, 240, 300, 300] {
        let due = model.due();
        assert_eq!(due.iter().map(words).collect::<Vec<_>>(), ["delete a", "delete b"], "{pause}");
        for action in &due {
            model.begin(action);
            model.tracker.not_executed(action, model.now);
        }
        assert!(model.due_text().is_empty(), "the next plan would have the same at once");
        assert!(model.after(pause - 1).due_text().is_empty(), "{pause}");
        model.after(1);
    }
}

#[test]
fn due_pods_fit_the_window_and_each_owner_gets_one_first() {
    let sets = ["a", "b", "c", "d"].map(replica_set);
    let mut model = Model::with(Repair::Held, sets.clone());
    for set in &sets {
        let name = set.name();
        model.pods((1..=4).map(|place| pod(&format!("{name}{place}")).of(set)));
    }
    let ten = "a1 b1 c1 d1 a2 b2 c2 d2 a3 b3";
    assert_eq!(model.done(), ten.split(' ').map(|name| format!("delete {name}")).collect::<Vec<_>>());
    assert!(model.due_text().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(10)), "what shows nothing frees its place");
    // Two of them come meshed, which makes places for two and for two more; `a` is trusted with more than three.
    model.gone("a1").gone("b1").pods([pod("e").meshed().of(&sets[0]), pod("f").meshed().of(&sets[1])]);
    assert_eq!(model.after(1).due_text(), ["delete a4", "delete b4", "delete c3", "delete d3"]);
}

#[test]
fn an_owner_refused_repeatedly_does_not_delay_other_owners() {
    let sets = ["a", "b", "c"].map(replica_set);
    let mut model = Model::with(Repair::Running, sets.clone());
    for set in &sets {
        model.pods(running(&[&format!("{}1", set.name())], set));
    }
    model.policy.cooldown = seconds(0);
    let mut tried = Vec::new();
    for _ in 0..6 {
        tried.extend(model.act(&WriteOutcome::Refused("a budget".to_owned())));
        model.after(30);
    }
    assert_eq!(&tried[..3], ["evict a1", "evict b1", "evict c1"], "{tried:?}");
}

#[test]
fn three_pods_of_an_owner_are_deleted_until_one_returns_meshed() {
    let web = replica_set("web");
    let mut model = Model::with(Repair::Held, [web.clone()]);
    model.pods(held(&["a", "b", "c", "d", "e", "f"], &web));
    assert_eq!(model.done(), ["delete a", "delete b", "delete c"]);
    assert!(model.after(1).due_text().is_empty());
    model.gone("a").pods([pod("g").meshed().of(&web)]);
    assert_eq!(model.after(1).due_text(), ["delete d", "delete e", "delete f"]);
    // It is trusted for a few seconds only: what it makes may be another by then.
    assert_eq!(model.after(5).due_text(), ["delete d"]);
}

#[test]
fn what_has_no_node_waits_for_no_turn_of_its_owner() {
    let db = stateful_set("db");
    let mut model = Model::with(Repair::Held, [db.clone(), log()]);
    model.pods(["db-0", "db-1", "db-2"].map(|name| pod(name).gated().of(&db)));
    model.pods(["x", "y", "z"].map(|name| pod(name).unscheduled().of(&log())));
    assert_eq!(model.done().len(), 6);
}

#[test]
fn missing_replacements_count_while_their_owner_lacks_pods() {
    let lacking = |name: &str| replica_set(name).and("/status", json!({"replicas": 0}));
    let (web, lacking) = (replica_set("web"), lacking("web"));
    let mut model = Model::with(Repair::Held, [web.clone()]);
    model.pods(held(&["a", "b", "c", "d", "e"], &web));
    assert_eq!(model.done().len(), 3);
    model.gone("a").gone("b").gone("c").owner(&lacking);
    assert!(model.after(300).due_text().is_empty(), "somebody refuses what it makes");
    // It was scaled down meanwhile: nothing is to come.
    assert_eq!(model.owner(&web).due_text(), ["delete d", "delete e"]);
    model.owner(&lacking).after(600);
    assert!(model.due_text().is_empty());
    model.pods([pod("f").meshed().of(&web)]);
    assert_eq!(model.due_text(), ["delete d"]);
}

#[test]
fn held_pods_of_a_stateful_set_go_one_by_one_from_the_first() {
    let db = stateful_set("db");
    let mut model = Model::with(Repair::Held, [db.clone()]);
    model.pods(held(&["db-0", "db-2", "db-10"], &db));
    assert_eq!(model.done(), ["delete db-0"]);
    assert!(model.after(1).due_text().is_empty());
    model.pods([pod("db-0").going().of(&db)]);
    assert!(model.after(600).due_text().is_empty(), "its grace period is long");
    model.gone("db-0");
    assert!(model.after(1).due_text().is_empty(), "it is gone, and not back yet");
    model.pods([pod("db-0").anew().meshed().of(&db)]);
    assert!(model.after(1).due_text().is_empty(), "it is back, and has not started");
    model.pods([pod("db-0").anew().meshed().running().of(&db)]);
    assert_eq!(model.after(1).done(), ["delete db-2"]);
    // A successor that never starts does not hold up those that never ran for ever.
    model.pods([pod("db-2").anew().meshed().of(&db)]);
    assert!(model.after(59).due_text().is_empty());
    assert_eq!(model.after(1).due_text(), ["delete db-10"]);
}

#[test]
fn a_stateful_set_whose_pod_does_not_come_back_loses_no_other() {
    let db = stateful_set("db");
    let mut model = Model::with(Repair::Held, [db.clone()]);
    model.pods(held(&["db-0", "db-1"], &db));
    assert_eq!(model.done(), ["delete db-0"]);
    model.gone("db-0").owner(&db.clone().and("/status", json!({"replicas": 2})));
    assert!(model.after(300).due_text().is_empty());
    model.pods([pod("db-0").anew().meshed().running().of(&db)]);
    assert_eq!(model.due_text(), ["delete db-1"]);
}

/// A StatefulSet makes no pod before those of a lower number are ready, so two that wait for each other would wait for ever.
#[test]
fn a_held_pod_does_not_wait_for_a_later_one_of_its_stateful_set() {
    let db = stateful_set("db");
    let lacking = db.clone().and("/status", json!({"replicas": 2}));
    let mut model = Model::with(Repair::Held, [db.clone()]);
    model.pods([pod("db-0").ready().meshed().of(&db)]).pods(held(&["db-1"], &db));
    assert_eq!(model.done(), ["delete db-1"]);
    // Before it is back a person deletes the first one, which comes back without a proxy.
    model.gone("db-0").gone("db-1").owner(&lacking).pods([pod("db-0").anew().of(&db)]);
    assert_eq!(model.after(1).done(), ["delete db-0"]);
    model.gone("db-0").pods([pod("db-0").anew().anew().meshed().ready().of(&db)]);
    assert!(model.after(1).due_text().is_empty());
    model.pods(held(&["db-2"], &db));
    assert!(model.after(1).due_text().is_empty(), "db-1 comes before db-2");
}

#[test]
fn an_operation_without_an_answer_may_have_succeeded() {
    let db = stateful_set("db");
    let mut model = Model::with(Repair::Held, [db.clone()]);
    model.pods(held(&["db-0", "db-1"], &db));
    assert_eq!(model.act(&WriteOutcome::Failed("no answer".to_owned())), ["delete db-0"]);
    model.gone("db-0").owner(&db.clone().and("/status", json!({"replicas": 2})));
    assert!(model.after(300).due_text().is_empty());
    model.pods([pod("db-0").anew().meshed().running().of(&db)]);
    assert_eq!(model.due_text(), ["delete db-1"]);
}

#[test]
fn a_new_controller_waits_for_pods_that_another_has_deleted() {
    let db = stateful_set("db");
    let mut model = Model::with(Repair::Held, [db.clone(), log()]);
    model.pods(held(&["db-0"], &db)).pods([pod("db-1").going().of(&db)]);
    model.pods(held(&["x", "y", "z"], &log())).pods([pod("w").going().of(&log())]);
    assert_eq!(model.due_text(), ["delete x"]);
}

#[test]
fn a_stateful_set_loses_a_running_pod_only_if_others_are_ready() {
    let db = stateful_set("db");
    let mut model = Model::with(Repair::Running, [db.clone()]);
    model.pods(running(&["db-0", "db-1"], &db)).pods([pod("db-2").running().meshed().of(&db)]);
    assert!(model.due_text().is_empty(), "db-2 is not ready");
    model.pods([pod("db-2").ready().meshed().of(&db)]);
    model.owner(&db.clone().and("/status", json!({"replicas": 2})));
    assert!(model.due_text().is_empty(), "one is missing");
    assert_eq!(model.owner(&db).done(), ["evict db-1"]);
    model.pods([pod("db-1").anew().ready().meshed().of(&db)]);
    assert!(model.after(29).due_text().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(1)));
    assert_eq!(model.after(1).done(), ["evict db-0"]);
}

#[test]
fn what_never_ran_goes_before_what_runs() {
    let db = stateful_set("db");
    let mut model = Model::with(Repair::Running, [db.clone()]);
    model.pods(running(&["db-1", "db-2"], &db)).pods(held(&["db-0"], &db));
    assert_eq!(model.due_text(), ["delete db-0"]);
}

#[test]
fn a_daemon_sets_budget_applies_to_held_and_running_pods() {
    let mut model = Model::with(Repair::Running, [log()]);
    model.pods(held(&["a", "b", "c"], &log()));
    assert_eq!(model.done(), ["delete a", "delete b"]);
    assert!(model.after(1).due_text().is_empty());
    model.pods([pod("a").anew().meshed().running().of(&log())]);
    assert_eq!(model.after(1).due_text(), ["delete c"]);

    let mut model = Model::with(Repair::Running, [log()]);
    model.pods(running(&["a", "b"], &log())).pods([pod("c").meshed().of(&log()), pod("d").meshed().of(&log())]);
    assert!(model.due_text().is_empty(), "two are unavailable already");
    model.pods([pod("d").meshed().ready().of(&log())]);
    assert_eq!(model.due_text(), ["evict a"]);
    model.owner(&log().and("/status/currentNumberScheduled", 9.into()));
    assert!(model.due_text().is_empty(), "one is missing and one is unavailable");
}

#[test]
fn running_pods_are_evicted_one_by_one_after_ready_and_cooldown() {
    for web in [replica_set("web"), replication_controller("web").and("/status", json!({"replicas": 1}))] {
        let mut model = Model::with(Repair::Running, [web.clone()]);
        model.pods(running(&["a", "b", "c"], &web));
        assert_eq!(model.done(), ["evict a"]);
        model.gone("a").pods([pod("d").meshed().running().of(&web)]);
        assert!(model.after(600).due_text().is_empty(), "what came instead is not ready");
        model.pods([pod("d").meshed().ready().of(&web)]);
        assert_eq!(model.after(1).done(), ["evict b"]);
        model.gone("b").pods([pod("e").meshed().ready().of(&web)]);
        assert!(model.after(29).due_text().is_empty());
        assert_eq!(model.after(1).due_text(), ["evict c"]);
    }
}

#[test]
fn an_owner_that_lacks_pods_loses_no_running_pod() {
    for web in [replica_set("web"), replication_controller("web")] {
        let web = web.and("/spec", json!({"replicas": 3})).and("/status", json!({"replicas": 2}));
        let mut model = Model::with(Repair::Running, [web.clone()]);
        assert!(model.pods(running(&["a", "b"], &web)).due_text().is_empty());
        assert_eq!(model.owner(&web.and("/status", json!({"replicas": 3}))).due_text(), ["evict a"]);
    }
}

#[test]
fn evictions_have_a_separate_rate_and_delay_no_deletion() {
    let sets = ["a", "b", "c"].map(replica_set);
    let mut model = Model::with(Repair::Running, sets.clone());
    model.pods(running(&["a1"], &sets[0])).pods(running(&["b1"], &sets[1])).pods(held(&["c1"], &sets[2]));
    assert_eq!(model.done(), ["evict a1", "delete c1"]);
    assert!(model.after(9).due_text().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(1)));
    assert_eq!(model.after(1).due_text(), ["evict b1"]);
}
