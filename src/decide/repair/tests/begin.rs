//! What of a plan a turn begins: what its permit allows, and what finds room.

use serde_json::json;

use super::super::{Due, Permit, Repair, Room, Scan, plan, step};
use super::fixtures::{job, pod, replica_set};
use super::model::{Model, seconds, words};

const FREE: Permit = Permit { leads: true, in_sync: true, closed: false };
const ROOM: Room = Room { actions: 64, ungates: 64 };

/// Two held pods that are to be deleted, a Job of ours that is to be resumed, and a gate that is to come off.
fn model() -> Model {
    let (web, other) = (replica_set("web"), replica_set("other"));
    let ours = job("report").and("/spec/suspend", true.into()).and("/status", json!({}));
    let mut model =
        Model::with(Repair::Held, [web.clone(), ours.annotated("linkerd-gate/suspended-at", "2026-01-01T12:00:00Z")]);
    model.pods([pod("a").of(&web), pod("b").of(&web), pod("c").gated().declining().of(&other)]);
    model
}

/// What is begun, in words; what is begun twice would be begun again.
fn begun(model: &mut Model, permit: Permit, room: Room) -> (Vec<String>, usize, Due) {
    let snapshot = model.cluster.snapshot();
    let tracker = &mut model.tracker;
    let scan = Scan::of(&snapshot, |owner| tracker.remembers(owner));
    tracker.observe(&snapshot, &scan, model.now);
    let plan = plan(&snapshot, &scan, tracker, &model.policy, model.now);
    let due = step::begin(plan, &scan, tracker, permit, room, model.now);
    (due.actions.iter().map(words).collect(), due.ungates.len(), due)
}

#[test]
fn a_turn_begins_only_what_its_permit_allows() {
    let everything = vec!["resume report".to_owned(), "delete a".to_owned(), "delete b".to_owned()];
    let resumes = vec!["resume report".to_owned()];
    for (permit, actions, ungates) in [
        (FREE, everything, 1),
        (Permit { in_sync: false, ..FREE }, resumes.clone(), 0),
        (Permit { closed: true, ..FREE }, resumes, 1),
        (Permit { leads: false, ..FREE }, Vec::new(), 0),
    ] {
        let mut model = model();
        let (begun, gates, due) = begun(&mut model, permit, ROOM);
        assert_eq!((begun, gates), (actions, ungates), "{permit:?}");
        let soon = due.again.is_some_and(|again| again <= model.now + step::RECHECK);
        assert_eq!(soon, !permit.is_free(), "what is not permitted yet is looked at again: {due:?}");
    }
}

#[test]
fn what_finds_no_room_is_begun_later_and_nothing_twice() {
    let mut model = model();
    let narrow = Room { actions: 2, ungates: 0 };
    assert_eq!(begun(&mut model, FREE, narrow).0, ["resume report", "delete a"]);
    let (rest, gates, _) = begun(&mut model, FREE, ROOM);
    assert_eq!((rest, gates), (vec!["delete b".to_owned()], 1));
    model.after(1);
    let (again, gates, _) = begun(&mut model, FREE, ROOM);
    assert_eq!((again, gates), (Vec::new(), 0));
    assert_eq!(model.now, seconds(3601));
}
