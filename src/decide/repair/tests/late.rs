//! Which owners are asked why they have not created a pod again, and when.

use std::time::Duration;

use serde_json::json;

use super::super::Repair;
use super::fixtures::{Draft, pod, replica_set};
use super::model::Model;

fn lacking() -> Draft {
    replica_set("web").and("/status", json!({"replicas": 2}))
}

/// A held pod was deleted, and its owner lacks it.
fn deleted() -> Model {
    let mut model = Model::with(Repair::Held, [replica_set("web")]);
    model.pods([pod("a").of(&replica_set("web"))]);
    assert_eq!(model.done(), ["delete a"]);
    model.gone("a").owner(&lacking());
    model
}

/// Those that are asked so many seconds later.
fn asked(model: &mut Model, passed: u64) -> Vec<String> {
    model.after(passed).due_text();
    model.tracker.take_late().into_iter().map(|late| format!("{}/{}", late.namespace, late.owner)).collect()
}

#[test]
fn an_owner_is_asked_after_ten_seconds_and_after_a_minute() {
    let mut model = deleted();
    let removed_at = model.now;
    assert!(asked(&mut model, 9).is_empty());
    model.after(1).due_text();
    let late = model.tracker.take_late();
    assert_eq!(late.len(), 1);
    assert_eq!((late[0].since, late[0].proven_since), (removed_at, Duration::ZERO), "it has always been proven");
    assert!(asked(&mut model, 1).is_empty(), "it was asked");
    assert!(asked(&mut model, 48).is_empty());
    assert_eq!(asked(&mut model, 1), ["shop/ReplicaSet web"]);
    assert!(asked(&mut model, 600).is_empty());
}

#[test]
fn an_owner_is_not_asked_where_its_pod_came_or_is_not_to_come() {
    let mut model = deleted();
    model.pods([pod("b").meshed().of(&replica_set("web"))]);
    assert!(asked(&mut model, 10).is_empty(), "it came");

    let mut model = deleted();
    model.owner(&replica_set("web"));
    assert!(asked(&mut model, 10).is_empty(), "the owner wants no more");

    let mut model = deleted();
    model.pods([pod("a").going().of(&replica_set("web"))]);
    assert!(asked(&mut model, 10).is_empty(), "the old one is still there");
    model.gone("a");
    assert!(asked(&mut model, 9).is_empty());
    assert_eq!(asked(&mut model, 1).len(), 1);
}

#[test]
fn an_owner_is_asked_once_injection_is_proven_again() {
    let mut model = deleted();
    model.after(15).without_proof().due_text();
    assert!(model.tracker.take_late().is_empty(), "an outage explains it");
    let outage = model.now;
    model.after(5).due_text();
    let proven_since: Vec<_> = model.tracker.take_late().into_iter().map(|late| late.proven_since).collect();
    assert_eq!(proven_since, [outage]);
}
