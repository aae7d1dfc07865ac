//! When our scheduling gate comes off, and when it stays on.

use k8s_openapi::api::admissionregistration::v1::MatchCondition;

use super::super::{ClusterOverride, KeepReason, Method, Operation, Repair, UngateReason, WriteOutcome};
use super::cast::{Draft, pod, replica_set};
use super::scene::{Scene, namespace, seconds};
use crate::linkerd::WebhookView;
use crate::linkerd::webhook::chart_default;

fn web() -> Draft {
    replica_set("web")
}

fn held(name: &str) -> Draft {
    pod(name).gated().of(&web())
}

/// One gated pod, and no proof.
fn scene(pod: Draft) -> Scene {
    let mut scene = Scene::with(Repair::Held, [web()]);
    scene.pods([pod]).without_proof();
    scene
}

fn reason(pod: Draft) -> Option<UngateReason> {
    scene(pod).ungated().pop().map(|(_, reason)| reason)
}

#[test]
fn a_held_pod_keeps_its_gate_and_is_deleted_once_injection_is_proven() {
    let mut scene = scene(held("a"));
    assert_eq!((scene.ungated(), scene.told()), (vec![], vec![]));
    assert_eq!(scene.fate("a"), Ok(Method::Delete));
    assert_eq!(scene.after(0).told(), ["delete a"]);
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

    let mut exempt = scene(held("a"));
    let shop = namespace("shop").annotated("linkerd.io/inject", "enabled");
    assert_eq!(exempt.namespace(&shop.labelled("linkerd-gate/admission", "exempt")).ungated().len(), 1);
}

#[test]
fn a_gate_comes_off_as_it_was_looked_at() {
    let mut scene = scene(held("a").declining().and("/metadata/resourceVersion", "7".into()));
    let snapshot = scene.cluster.snapshot();
    let scan = super::super::Scan::of(&snapshot, |owner| scene.tracker.remembers(owner));
    let plan = super::super::plan(&snapshot, &scan, &scene.tracker, &scene.policy, scene.now);
    let [ungate] = plan.ungates.as_slice() else { panic!("{:?}", plan.ungates) };
    assert_eq!((ungate.index, ungate.resource_version.as_str(), ungate.uid.as_str()), (1, "7", "uid of a"));
    let ungate = ungate.clone();

    // It is not sent twice, but once it has changed, or was not heard of for a minute.
    assert_eq!(scene.ungated().len(), 1);
    assert!(scene.after(59).ungated().is_empty());
    assert_eq!(scene.again, Some(scene.now + seconds(1)));
    assert_eq!(scene.after(1).ungated().len(), 1);
    scene.pods([held("a").declining().and("/metadata/resourceVersion", "8".into())]);
    assert_eq!(scene.ungated().len(), 1);
    // What fails is repeated after a pause, whatever changes meanwhile.
    scene.tracker.ungated(&ungate, &WriteOutcome::Failed("no".to_owned()), scene.now);
    scene.pods([held("a").declining().and("/metadata/resourceVersion", "9".into())]);
    assert!(scene.after(14).ungated().is_empty());
    assert_eq!(scene.after(1).ungated().len(), 1);
}

#[test]
fn a_persons_open_takes_every_gate_off_and_close_keeps_those_of_missed_pods_on() {
    let mut scene = scene(held("a"));
    scene.policy.hold_max = Some(seconds(60));
    scene.cluster.manual = Some(ClusterOverride::Open);
    assert_eq!(scene.ungated(), [("a".to_owned(), UngateReason::Opened)]);
    scene.cluster.manual = Some(ClusterOverride::Closed);
    assert!(scene.after(3600).without_proof().ungated().is_empty());
    // One that Linkerd has nothing to do with waits for nothing.
    scene.pods([held("b").declining()]);
    assert_eq!(scene.ungated(), [("b".to_owned(), UngateReason::Skipped)]);
}

#[test]
fn after_the_longest_time_a_gate_comes_off_unless_the_pod_is_about_to_be_replaced() {
    let mut scene = scene(held("a"));
    scene.policy.hold_max = Some(seconds(60));
    assert!(scene.ungated().is_empty());
    assert_eq!(scene.again, Some(scene.now + seconds(60)));
    assert_eq!(scene.after(60).without_proof().ungated(), [("a".to_owned(), UngateReason::HeldTooLong)]);

    let mut scene = Scene::with(Repair::Held, [web()]);
    scene.policy.hold_max = Some(seconds(60));
    scene.pods([held("a"), pod("lonely").gated()]).after(60);
    assert_eq!(scene.ungated(), [("lonely".to_owned(), UngateReason::HeldTooLong)], "nothing creates that one again");
    assert_eq!(scene.done(), ["delete a"]);
    assert_eq!(scene.after(60).ungated().len(), 2, "and it did not go");
}

#[test]
fn a_configuration_that_comes_back_within_ten_minutes_releases_nothing() {
    let mut scene = scene(held("a"));
    let there = std::mem::take(&mut scene.cluster.webhooks);
    assert!(scene.ungated().is_empty());
    assert_eq!(scene.again, Some(scene.now + seconds(600)));
    assert!(scene.after(599).without_proof().ungated().is_empty());
    // It is back for a moment.
    scene.cluster.webhooks = there;
    assert!(scene.ungated().is_empty());
    scene.cluster.webhooks = WebhookView::default();
    assert!(scene.after(1).without_proof().ungated().is_empty());
    // What cannot be looked at does not count.
    scene.after(599).tracker.note_watches_lost();
    assert!(scene.without_proof().ungated().is_empty());
    assert!(scene.after(599).without_proof().ungated().is_empty());
    scene.cluster.manual = Some(ClusterOverride::Closed);
    assert!(scene.after(1).without_proof().ungated().is_empty());
    scene.cluster.manual = None;
    assert_eq!(scene.ungated(), [("a".to_owned(), UngateReason::NotInstalled)]);
}

#[test]
fn where_match_conditions_decide_a_gate_stays_on() {
    let mut conditional = chart_default();
    conditional.webhooks.as_mut().unwrap()[0].match_conditions = Some(vec![MatchCondition::default()]);
    let mut scene = scene(held("a"));
    scene.cluster.webhooks = WebhookView::new([&conditional]).unwrap();
    assert!(scene.ungated().is_empty());
}

#[test]
fn a_foreign_finalizer_and_a_persons_release_keep_a_pod_from_being_deleted() {
    let mut scene = Scene::with(Repair::Held, [web()]);
    scene.pods([
        held("a").and("/metadata/finalizers", serde_json::json!(["example.com/keep"])),
        pod("b").of(&web()).annotated("linkerd-gate/release", "true"),
        pod("lonely").gated(),
    ]);
    assert_eq!(scene.fate("a"), Err(KeepReason::ForeignFinalizer("example.com/keep".to_owned())));
    assert_eq!(scene.fate("b"), Err(KeepReason::Released));
    assert_eq!(scene.fate("lonely"), Err(KeepReason::Ownerless));
    assert!(scene.told().is_empty());
}

#[test]
fn only_what_a_node_could_start_before_its_turn_is_pending() {
    let mut scene = scene(held("gated"));
    scene.pods([
        pod("pending").unscheduled().of(&web()),
        pod("waits-on-its-node").of(&web()),
        pod("ownerless").unscheduled(),
        pod("reported").unscheduled().of(&web()).repaired("report"),
        pod("meshed").unscheduled().meshed().of(&web()),
    ]);
    scene.told();
    assert_eq!(scene.pending, 1, "whether or not injection is proven");
    scene.policy.enforces = false;
    scene.told();
    assert_eq!(scene.pending, 0, "audit replaces nothing");
    scene.policy.enforces = true;
    scene.after(0);
    assert!(
        scene
            .due()
            .iter()
            .any(|action| matches!(&action.operation, Operation::Delete([target]) if target.name == "pending"))
    );
}
