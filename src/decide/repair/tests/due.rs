//! Which acts are due: rates, turns, and what an owner can spare.

use serde_json::json;

use super::super::{Operation, Repair, WriteOutcome};
use super::cast::{Draft, daemon_set, pod, replica_set, replication_controller, stateful_set};
use super::scene::{Scene, seconds};

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
fn a_removal_means_the_pod_that_was_looked_at_and_no_other() {
    let web = replica_set("web");
    let mut scene = Scene::with(Repair::Held, [web.clone()]);
    let due = scene.pods([pod("a").of(&web).and("/metadata/resourceVersion", "7".into())]).due();
    let [Operation::Delete([target])] = [due[0].operation.clone()] else { panic!("{due:?}") };
    assert_eq!((target.name.as_str(), target.uid.as_str(), target.resource_version.as_str()), ("a", "uid of a", "7"));
    assert_eq!((due.len(), due[0].namespace.as_str(), due[0].owner.name.as_str()), (1, "shop", "web"));
}

#[test]
fn nothing_is_due_without_proof_nor_on_one_from_before_a_pod_came_back_missed() {
    let web = replica_set("web");
    let mut scene = Scene::with(Repair::Held, [web.clone()]);
    assert!(scene.pods(held(&["a", "b"], &web)).without_proof().told().is_empty());
    assert_eq!(scene.after(0).done(), ["delete a", "delete b"]);
    let old = scene.cluster.proven;
    scene.gone("a").pods(held(&["c"], &web)).after(40);
    scene.cluster.proven = old;
    assert!(scene.told().is_empty(), "the proof is from before");
    scene.gone("b").after(30);
    assert_eq!(scene.told(), ["delete c"]);
}

#[test]
fn what_is_under_way_is_not_done_twice() {
    let web = replica_set("web");
    let mut scene = Scene::with(Repair::Held, [web.clone()]);
    scene.pods(held(&["a"], &web));
    let due = scene.due();
    scene.begin(&due[0]);
    assert!(scene.told().is_empty());
    scene.tracker.acted(&due[0], &WriteOutcome::Done, scene.now);
    assert!(scene.after(59).told().is_empty(), "its deletion is not seen yet");
    assert_eq!(scene.again, Some(scene.now + seconds(1)));
    assert_eq!(scene.after(1).told(), ["delete a"], "it is still there: the act was lost");
}

#[test]
fn what_was_overtaken_is_looked_at_anew_at_once() {
    let web = replica_set("web");
    let mut scene = Scene::with(Repair::Held, [web.clone()]);
    scene.pods(held(&["a"], &web));
    assert_eq!(scene.act(&WriteOutcome::Conflict), ["delete a"]);
    assert_eq!(scene.told(), ["delete a"]);
}

#[test]
fn what_fails_is_tried_again_after_pauses_that_grow_to_five_minutes_and_only_a_success_ends_them() {
    let web = replica_set("web");
    let mut scene = Scene::with(Repair::Held, [web.clone()]);
    scene.pods(held(&["a"], &web));
    for pause in [15, 30, 60, 120, 240, 300, 300] {
        assert_eq!(scene.act(&WriteOutcome::Failed("no".to_owned())), ["delete a"]);
        assert!(scene.after(pause - 1).told().is_empty(), "{pause}");
        assert_eq!(scene.again, Some(scene.now + seconds(1)));
        scene.after(1);
    }
    assert_eq!(scene.done(), ["delete a"]);
    scene.after(60);
    assert_eq!(scene.act(&WriteOutcome::Refused("a budget".to_owned())), ["delete a"]);
    assert_eq!(scene.after(15).told(), ["delete a"]);
}

#[test]
fn no_more_is_due_than_the_window_allows_one_of_each_owner_first() {
    let sets = ["a", "b", "c", "d"].map(replica_set);
    let mut scene = Scene::with(Repair::Held, sets.clone());
    for set in &sets {
        let name = set.name();
        scene.pods((1..=4).map(|place| pod(&format!("{name}{place}")).of(set)));
    }
    let ten = "a1 b1 c1 d1 a2 b2 c2 d2 a3 b3";
    assert_eq!(scene.done(), ten.split(' ').map(|name| format!("delete {name}")).collect::<Vec<_>>());
    assert!(scene.told().is_empty());
    assert_eq!(scene.again, Some(scene.now + seconds(10)), "what shows nothing frees its place");
    // Two of them come meshed, which makes places for two and for two more; `a` is trusted with more than three.
    scene.gone("a1").gone("b1").pods([pod("e").meshed().of(&sets[0]), pod("f").meshed().of(&sets[1])]);
    assert_eq!(scene.after(1).told(), ["delete a4", "delete b4", "delete c3", "delete d3"]);
}

#[test]
fn an_owner_that_is_refused_again_and_again_does_not_take_everybodys_turn() {
    let sets = ["a", "b", "c"].map(replica_set);
    let mut scene = Scene::with(Repair::Running, sets.clone());
    for set in &sets {
        scene.pods(running(&[&format!("{}1", set.name())], set));
    }
    scene.policy.cooldown = seconds(0);
    let mut tried = Vec::new();
    for _ in 0..6 {
        tried.extend(scene.act(&WriteOutcome::Refused("a budget".to_owned())));
        scene.after(30);
    }
    assert_eq!(&tried[..3], ["evict a1", "evict b1", "evict c1"], "{tried:?}");
}

#[test]
fn no_more_than_three_of_an_owner_go_before_one_is_seen_to_come_meshed() {
    let web = replica_set("web");
    let mut scene = Scene::with(Repair::Held, [web.clone()]);
    scene.pods(held(&["a", "b", "c", "d", "e", "f"], &web));
    assert_eq!(scene.done(), ["delete a", "delete b", "delete c"]);
    assert!(scene.after(1).told().is_empty());
    scene.gone("a").pods([pod("g").meshed().of(&web)]);
    assert_eq!(scene.after(1).told(), ["delete d", "delete e", "delete f"]);
    // It is trusted for a few seconds only: what it makes may be another by then.
    assert_eq!(scene.after(5).told(), ["delete d"]);
}

#[test]
fn what_has_no_node_waits_for_no_turn_of_its_owner() {
    let db = stateful_set("db");
    let mut scene = Scene::with(Repair::Held, [db.clone(), log()]);
    scene.pods(["db-0", "db-1", "db-2"].map(|name| pod(name).gated().of(&db)));
    scene.pods(["x", "y", "z"].map(|name| pod(name).unscheduled().of(&log())));
    assert_eq!(scene.done().len(), 6);
}

#[test]
fn replacements_that_do_not_come_count_as_long_as_their_owner_lacks_pods() {
    let lacking = |name: &str| replica_set(name).and("/status", json!({"replicas": 0}));
    let (web, lacking) = (replica_set("web"), lacking("web"));
    let mut scene = Scene::with(Repair::Held, [web.clone()]);
    scene.pods(held(&["a", "b", "c", "d", "e"], &web));
    assert_eq!(scene.done().len(), 3);
    scene.gone("a").gone("b").gone("c").owner(&lacking);
    assert!(scene.after(300).told().is_empty(), "somebody refuses what it makes");
    // It was scaled down meanwhile: nothing is to come.
    assert_eq!(scene.owner(&web).told(), ["delete d", "delete e"]);
    scene.owner(&lacking).after(600);
    assert!(scene.told().is_empty());
    scene.pods([pod("f").meshed().of(&web)]);
    assert_eq!(scene.told(), ["delete d"]);
}

#[test]
fn a_stateful_set_goes_one_at_a_time_from_the_last_on() {
    let db = stateful_set("db");
    let mut scene = Scene::with(Repair::Held, [db.clone()]);
    scene.pods(held(&["db-0", "db-2", "db-10"], &db));
    assert_eq!(scene.done(), ["delete db-10"]);
    assert!(scene.after(1).told().is_empty());
    scene.pods([pod("db-10").going().of(&db)]);
    assert!(scene.after(600).told().is_empty(), "its grace period is long");
    scene.gone("db-10");
    assert!(scene.after(1).told().is_empty(), "it is gone, and not back yet");
    scene.pods([pod("db-10").anew().meshed().of(&db)]);
    assert!(scene.after(1).told().is_empty(), "it is back, and has not started");
    scene.pods([pod("db-10").anew().meshed().running().of(&db)]);
    assert_eq!(scene.after(1).done(), ["delete db-2"]);
    // A successor that never starts does not hold up those that never ran for ever.
    scene.pods([pod("db-2").anew().meshed().of(&db)]);
    assert!(scene.after(59).told().is_empty());
    assert_eq!(scene.after(1).told(), ["delete db-0"]);
}

#[test]
fn a_stateful_set_whose_pod_does_not_come_back_loses_no_other() {
    let db = stateful_set("db");
    let mut scene = Scene::with(Repair::Held, [db.clone()]);
    scene.pods(held(&["db-0", "db-1"], &db));
    assert_eq!(scene.done(), ["delete db-1"]);
    scene.gone("db-1").owner(&db.clone().and("/status", json!({"replicas": 2})));
    assert!(scene.after(300).told().is_empty());
    scene.pods([pod("db-1").anew().meshed().running().of(&db)]);
    assert_eq!(scene.told(), ["delete db-0"]);
}

#[test]
fn an_act_without_an_answer_may_have_happened() {
    let db = stateful_set("db");
    let mut scene = Scene::with(Repair::Held, [db.clone()]);
    scene.pods(held(&["db-0", "db-1"], &db));
    assert_eq!(scene.act(&WriteOutcome::Failed("no answer".to_owned())), ["delete db-1"]);
    scene.gone("db-1").owner(&db.clone().and("/status", json!({"replicas": 2})));
    assert!(scene.after(300).told().is_empty());
    scene.pods([pod("db-1").anew().meshed().running().of(&db)]);
    assert_eq!(scene.told(), ["delete db-0"]);
}

#[test]
fn a_controller_that_remembers_nothing_waits_for_what_another_has_removed() {
    let db = stateful_set("db");
    let mut scene = Scene::with(Repair::Held, [db.clone(), log()]);
    scene.pods(held(&["db-0"], &db)).pods([pod("db-1").going().of(&db)]);
    scene.pods(held(&["x", "y", "z"], &log())).pods([pod("w").going().of(&log())]);
    assert_eq!(scene.told(), ["delete x"]);
}

#[test]
fn a_running_stateful_set_spares_one_only_where_all_others_are_there_and_ready() {
    let db = stateful_set("db");
    let mut scene = Scene::with(Repair::Running, [db.clone()]);
    scene.pods(running(&["db-0", "db-1"], &db)).pods([pod("db-2").running().meshed().of(&db)]);
    assert!(scene.told().is_empty(), "db-2 is not ready");
    scene.pods([pod("db-2").ready().meshed().of(&db)]);
    scene.owner(&db.clone().and("/status", json!({"replicas": 2})));
    assert!(scene.told().is_empty(), "one is missing");
    assert_eq!(scene.owner(&db).done(), ["evict db-1"]);
    scene.pods([pod("db-1").anew().ready().meshed().of(&db)]);
    assert!(scene.after(29).told().is_empty());
    assert_eq!(scene.again, Some(scene.now + seconds(1)));
    assert_eq!(scene.after(1).done(), ["evict db-0"]);
}

#[test]
fn what_never_ran_goes_before_what_runs() {
    let db = stateful_set("db");
    let mut scene = Scene::with(Repair::Running, [db.clone()]);
    scene.pods(running(&["db-1", "db-2"], &db)).pods(held(&["db-0"], &db));
    assert_eq!(scene.told(), ["delete db-0"]);
}

#[test]
fn a_daemon_sets_budget_holds_for_what_is_held_and_for_what_runs() {
    let mut scene = Scene::with(Repair::Running, [log()]);
    scene.pods(held(&["a", "b", "c"], &log()));
    assert_eq!(scene.done(), ["delete a", "delete b"]);
    assert!(scene.after(1).told().is_empty());
    scene.pods([pod("a").anew().meshed().running().of(&log())]);
    assert_eq!(scene.after(1).told(), ["delete c"]);

    let mut scene = Scene::with(Repair::Running, [log()]);
    scene.pods(running(&["a", "b"], &log())).pods([pod("c").meshed().of(&log()), pod("d").meshed().of(&log())]);
    assert!(scene.told().is_empty(), "two are unavailable already");
    scene.pods([pod("d").meshed().ready().of(&log())]);
    assert_eq!(scene.told(), ["evict a"]);
    scene.owner(&log().and("/status/currentNumberScheduled", 9.into()));
    assert!(scene.told().is_empty(), "one is missing and one is unavailable");
}

#[test]
fn running_pods_of_an_owner_are_evicted_one_at_a_time_each_after_the_last_is_ready_and_the_owner_has_rested() {
    for web in [replica_set("web"), replication_controller("web").and("/status", json!({"replicas": 1}))] {
        let mut scene = Scene::with(Repair::Running, [web.clone()]);
        scene.pods(running(&["a", "b", "c"], &web));
        assert_eq!(scene.done(), ["evict a"]);
        scene.gone("a").pods([pod("d").meshed().running().of(&web)]);
        assert!(scene.after(600).told().is_empty(), "what came instead is not ready");
        scene.pods([pod("d").meshed().ready().of(&web)]);
        assert_eq!(scene.after(1).done(), ["evict b"]);
        scene.gone("b").pods([pod("e").meshed().ready().of(&web)]);
        assert!(scene.after(29).told().is_empty());
        assert_eq!(scene.after(1).told(), ["evict c"]);
    }
}

#[test]
fn an_owner_that_cannot_make_what_it_lacks_loses_nothing_that_runs() {
    for web in [replica_set("web"), replication_controller("web")] {
        let web = web.and("/spec", json!({"replicas": 3})).and("/status", json!({"replicas": 2}));
        let mut scene = Scene::with(Repair::Running, [web.clone()]);
        assert!(scene.pods(running(&["a", "b"], &web)).told().is_empty());
        assert_eq!(scene.owner(&web.and("/status", json!({"replicas": 3}))).told(), ["evict a"]);
    }
}

#[test]
fn evictions_have_a_rate_of_their_own_which_holds_up_no_deletion() {
    let sets = ["a", "b", "c"].map(replica_set);
    let mut scene = Scene::with(Repair::Running, sets.clone());
    scene.pods(running(&["a1"], &sets[0])).pods(running(&["b1"], &sets[1])).pods(held(&["c1"], &sets[2]));
    assert_eq!(scene.done(), ["evict a1", "delete c1"]);
    assert!(scene.after(9).told().is_empty());
    assert_eq!(scene.again, Some(scene.now + seconds(1)));
    assert_eq!(scene.after(1).told(), ["evict b1"]);
}
