//! When our scheduling gate comes off, and when it stays on.

use k8s_openapi::api::admissionregistration::v1::MatchCondition;

use super::super::{ClusterOverride, KeepReason, Method, Operation, Repair, Scan, UngateReason, WriteOutcome, plan};
use super::fixtures::{Draft, pod, replica_set};
use super::model::{Model, namespace, seconds};
use crate::linkerd::WebhookView;
use crate::linkerd::webhook::chart_default;

fn web() -> Draft {
    replica_set("web")
}

fn held(name: &str) -> Draft {
    pod(name).gated().of(&web())
}

/// One gated pod, and no proof.
fn model(pod: Draft) -> Model {
    let mut model = Model::with(Repair::Held, [web()]);
    model.pods([pod]).without_proof();
    model
}

fn reason(pod: Draft) -> Option<UngateReason> {
    model(pod).ungated().pop().map(|(_, reason)| reason)
}

#[test]
fn a_held_pod_stays_gated_and_is_deleted_once_proven() {
    let mut model = model(held("a"));
    assert_eq!((model.ungated(), model.due_text()), (vec![], vec![]));
    assert_eq!(model.fate("a"), Ok(Method::Delete));
    assert_eq!(model.after(0).due_text(), ["delete a"]);
}

#[test]
fn a_gate_comes_off_what_is_meshed_skipped_exempt_or_released() {
    assert_eq!(reason(held("a").meshed()), Some(UngateReason::Meshed));
    assert_eq!(reason(held("a").declining()), Some(UngateReason::Skipped));
    assert_eq!(reason(held("a").and("/spec/hostNetwork", true.into())), Some(UngateReason::Skipped));
    assert_eq!(reason(held("a").labelled("linkerd-gate/admission", "exempt")), Some(UngateReason::Exempt));
    assert_eq!(reason(held("a").labelled("linkerd-gate/admission", "enforce")), None);
    assert_eq!(reason(held("a").annotated("linkerd-gate/release", "true")), Some(UngateReason::Released));
    assert_eq!(reason(held("a").annotated("linkerd-gate/release", "yes")), None);
    assert_eq!(reason(held("a").declining().going()), None, "it goes");
    assert_eq!(reason(held("a").and("/metadata/namespace", "unseen".into())), None, "nothing is known of it");
    // The same pods without our gate have nothing to come off.
    assert_eq!(reason(pod("a").of(&web()).declining()), None);

    let mut exempt = model(held("a"));
    let shop = namespace("shop").annotated("linkerd.io/inject", "enabled");
    assert_eq!(exempt.namespace(&shop.labelled("linkerd-gate/admission", "exempt")).ungated().len(), 1);
}

#[test]
fn a_gate_is_removed_only_from_the_observed_pod() {
    let mut model = model(held("a").declining().and("/metadata/resourceVersion", "7".into()));
    let snapshot = model.cluster.snapshot();
    let scan = Scan::of(&snapshot, |owner| model.tracker.remembers(owner));
    let plan = plan(&snapshot, &scan, &model.tracker, &model.policy, model.now);
    let [ungate] = plan.ungates.as_slice() else { panic!("{:?}", plan.ungates) };
    assert_eq!((ungate.index, ungate.resource_version.as_str(), ungate.uid.as_str()), (1, "7", "uid of a"));
    let ungate = ungate.clone();

    // It is not sent twice, but once it has changed, or was not heard of for a minute.
    assert_eq!(model.ungated().len(), 1);
    assert!(model.after(59).ungated().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(1)));
    assert_eq!(model.after(1).ungated().len(), 1);
    model.pods([held("a").declining().and("/metadata/resourceVersion", "8".into())]);
    assert_eq!(model.ungated().len(), 1);
    // What fails is repeated after a pause, whatever changes meanwhile.
    model.tracker.ungated(&ungate, &WriteOutcome::Failed("no".to_owned()), model.now);
    model.pods([held("a").declining().and("/metadata/resourceVersion", "9".into())]);
    assert!(model.after(14).ungated().is_empty());
    assert_eq!(model.after(1).ungated().len(), 1);
}

#[test]
fn open_all_removes_every_gate_and_close_all_keeps_missed_pods() {
    let mut model = model(held("a"));
    model.policy.hold_max = Some(seconds(60));
    model.cluster.manual = Some(ClusterOverride::Open);
    assert_eq!(model.ungated(), [("a".to_owned(), UngateReason::Opened)]);
    model.cluster.manual = Some(ClusterOverride::Closed);
    assert!(model.after(3600).without_proof().ungated().is_empty());
    // One that Linkerd has nothing to do with waits for nothing.
    model.pods([held("b").declining()]);
    assert_eq!(model.ungated(), [("b".to_owned(), UngateReason::Skipped)]);
}

#[test]
fn after_hold_max_a_gate_is_removed_unless_a_delete_is_due() {
    let mut model = model(held("a"));
    model.policy.hold_max = Some(seconds(60));
    assert!(model.ungated().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(60)));
    assert_eq!(model.after(60).without_proof().ungated(), [("a".to_owned(), UngateReason::HeldTooLong)]);

    let mut model = Model::with(Repair::Held, [web()]);
    model.policy.hold_max = Some(seconds(60));
    model.pods([held("a"), pod("lonely").gated()]).after(60);
    assert_eq!(model.ungated(), [("lonely".to_owned(), UngateReason::HeldTooLong)], "nothing creates that one again");
    assert_eq!(model.done(), ["delete a"]);
    assert_eq!(model.after(60).ungated().len(), 2, "and it did not go");
}

#[test]
fn a_webhook_missing_for_under_ten_minutes_releases_nothing() {
    let mut model = model(held("a"));
    let there = std::mem::take(&mut model.cluster.webhooks);
    assert!(model.ungated().is_empty());
    assert_eq!(model.again, Some(model.now + seconds(600)));
    assert!(model.after(599).without_proof().ungated().is_empty());
    // It is back for a moment.
    model.cluster.webhooks = there;
    assert!(model.ungated().is_empty());
    model.cluster.webhooks = WebhookView::default();
    assert!(model.after(1).without_proof().ungated().is_empty());
    // What cannot be looked at does not count.
    model.after(599).tracker.note_watches_lost();
    assert!(model.without_proof().ungated().is_empty());
    assert!(model.after(599).without_proof().ungated().is_empty());
    model.cluster.manual = Some(ClusterOverride::Closed);
    assert!(model.after(1).without_proof().ungated().is_empty());
    model.cluster.manual = None;
    assert_eq!(model.ungated(), [("a".to_owned(), UngateReason::NotInstalled)]);
}

#[test]
fn where_match_conditions_decide_a_gate_stays_on() {
    let mut conditional = chart_default();
    conditional.webhooks.as_mut().unwrap()[0].match_conditions = Some(vec![MatchCondition::default()]);
    let mut model = model(held("a"));
    model.cluster.webhooks = WebhookView::new([&conditional]).unwrap();
    assert!(model.ungated().is_empty());
}

#[test]
fn a_foreign_finalizer_or_a_release_annotation_keeps_a_pod() {
    let mut model = Model::with(Repair::Held, [web()]);
    model.pods([
        held("a").and("/metadata/finalizers", serde_json::json!(["example.com/keep"])),
        pod("b").of(&web()).annotated("linkerd-gate/release", "true"),
        pod("lonely").gated(),
    ]);
    assert_eq!(model.fate("a"), Err(KeepReason::ForeignFinalizer("example.com/keep".to_owned())));
    assert_eq!(model.fate("b"), Err(KeepReason::Released));
    assert_eq!(model.fate("lonely"), Err(KeepReason::Ownerless));
    assert!(model.due_text().is_empty());
}

#[test]
fn only_what_a_node_could_start_before_its_turn_is_pending() {
    let mut model = model(held("gated"));
    model.pods([
        pod("pending").unscheduled().of(&web()),
        pod("waits-on-its-node").of(&web()),
        pod("ownerless").unscheduled(),
        pod("reported").unscheduled().of(&web()).repaired("report"),
        pod("meshed").unscheduled().meshed().of(&web()),
    ]);
    model.due_text();
    assert_eq!(model.pending, 1, "whether or not injection is proven");
    model.policy.enforces = false;
    model.due_text();
    assert_eq!(model.pending, 0, "audit replaces nothing");
    model.policy.enforces = true;
    model.after(0);
    assert!(
        model
            .due()
            .iter()
            .any(|action| matches!(&action.operation, Operation::Delete([target]) if target.name == "pending"))
    );
}

#[test]
fn a_gate_that_was_not_taken_off_after_all_is_due_again_at_once() {
    let mut model = model(held("a").declining());
    let snapshot = model.cluster.snapshot();
    let scan = Scan::of(&snapshot, |_| false);
    model.tracker.observe(&snapshot, &scan, model.now);
    let ungate = plan(&snapshot, &scan, &model.tracker, &model.policy, model.now).ungates.remove(0);
    assert_eq!(model.ungated().len(), 1);
    assert!(model.ungated().is_empty(), "it is under way");
    model.tracker.ungating_dropped(&ungate);
    assert_eq!(model.ungated().len(), 1);
}
