//! What may become of a missed pod, and why not.

use super::super::scan::pod_state;
use super::super::{KeepReason, Method, MissedState, PodState, Repair};
use super::fixtures::{Draft, daemon_set, job, pod, replica_set, replication_controller, rollout, stateful_set};
use super::model::{Cluster, Model, namespace};
use crate::linkerd::WebhookView;

fn asking() -> Draft {
    namespace("shop").annotated("linkerd.io/inject", "enabled")
}

/// What becomes of one pod of `owner`.
fn fate(repair: Repair, owner: &Draft, pod: Draft) -> Result<Method, KeepReason> {
    let mut model = Model::with(repair, Some(owner.clone()).filter(|owner| owner.0["kind"] != "Rollout"));
    let name = pod.name();
    model.pods([pod.of(owner)]).fate(&name)
}

fn web() -> Draft {
    replica_set("web")
}

#[test]
fn a_pods_state_follows_containers_namespace_and_webhook() {
    let mut cluster = Cluster::asking();
    let stands = |cluster: &Cluster, draft: Draft| pod_state(&draft.view(), &cluster.snapshot());
    assert_eq!(stands(&cluster, pod("a")), PodState::Missed(MissedState::Held));
    assert_eq!(stands(&cluster, pod("a").running()), PodState::Missed(MissedState::Running));
    assert_eq!(stands(&cluster, pod("a").meshed()), PodState::Meshed);
    assert_eq!(stands(&cluster, pod("a").declining()), PodState::Skipped);
    assert_eq!(stands(&cluster, pod("a").and("/spec/hostNetwork", true.into())), PodState::Skipped);
    assert_eq!(stands(&cluster, pod("a").going()), PodState::Over);
    assert_eq!(stands(&cluster, pod("a").finished()), PodState::Over);
    assert_eq!(stands(&cluster, pod("a").and("/metadata/namespace", "unseen".into())), PodState::Unknown);
    // Nobody can tell whether it has started.
    assert_eq!(
        stands(&cluster, pod("a").and("/status", serde_json::json!({}))),
        PodState::Missed(MissedState::Running)
    );
    for webhook in &mut cluster.webhooks.webhooks {
        webhook.match_conditions = vec!["only the API server knows".to_owned()];
    }
    assert_eq!(stands(&cluster, pod("a")), PodState::Skipped);
    cluster.webhooks = WebhookView { webhooks: Vec::new() };
    assert_eq!(stands(&cluster, pod("a")), PodState::Skipped);
}

#[test]
fn the_mode_says_what_is_replaced_and_how() {
    for owner in [web(), stateful_set("db"), daemon_set("log"), replication_controller("old")] {
        assert_eq!(fate(Repair::Report, &owner, pod("a")), Err(KeepReason::Reported));
        assert_eq!(fate(Repair::Report, &owner, pod("a").running()), Err(KeepReason::Reported));
        assert_eq!(fate(Repair::Held, &owner, pod("a")), Ok(Method::Delete));
        assert_eq!(fate(Repair::Held, &owner, pod("a").running()), Err(KeepReason::Started));
        assert_eq!(fate(Repair::Running, &owner, pod("a")), Ok(Method::Delete));
        assert_eq!(fate(Repair::Running, &owner, pod("a").running()), Ok(Method::Evict));
    }
}

#[test]
fn the_pods_setting_precedes_the_namespaces_and_controllers() {
    for (controller, namespaces, pods, fate) in [
        (Repair::Held, "report", "", Err(KeepReason::Reported)),
        (Repair::Held, "report", "held", Ok(Method::Delete)),
        (Repair::Report, "held", "", Ok(Method::Delete)),
        (Repair::Running, "held", "report", Err(KeepReason::Reported)),
        (Repair::Held, "", "report", Err(KeepReason::Reported)),
        (Repair::Held, "sometimes", "", Err(KeepReason::BadAnnotation("sometimes".to_owned()))),
        (Repair::Held, "sometimes", "held", Ok(Method::Delete)),
        (Repair::Running, "held", "Running", Err(KeepReason::BadAnnotation("Running".to_owned()))),
    ] {
        let mut model = Model::with(controller, [web()]);
        model.namespace(&asking().repaired(namespaces)).pods([pod("a").of(&web()).repaired(pods)]);
        assert_eq!(model.fate("a"), fate, "{controller} {namespaces} {pods}");
    }
}

#[test]
fn ownerless_and_mirror_pods_are_kept_despite_annotations() {
    let mut model = Model::with(Repair::Running, [web()]);
    let mirror = pod("file").annotated("kubernetes.io/config.mirror", "hash").of(&web());
    model.pods([pod("lonely").repaired("held"), mirror.repaired("running")]);
    assert_eq!(model.fate("lonely"), Err(KeepReason::Ownerless));
    assert_eq!(model.fate("file"), Err(KeepReason::Mirror));
    assert!(model.due_text().is_empty());
}

#[test]
fn a_pod_of_an_unknown_kind_is_replaced_only_if_annotated() {
    let unknown = || Err(KeepReason::UnknownOwner("argoproj.io/v1alpha1 Rollout".to_owned()));
    assert_eq!(fate(Repair::Running, &rollout("blue"), pod("a")), unknown());
    assert_eq!(fate(Repair::Running, &rollout("blue"), pod("a").repaired("held")), Ok(Method::Delete));
    assert_eq!(fate(Repair::Held, &rollout("blue"), pod("a").running().repaired("running")), Ok(Method::Evict));
    assert_eq!(fate(Repair::Running, &rollout("blue"), pod("a").repaired("report")), Err(KeepReason::Reported));
    let mut model = Model::with(Repair::Held, []);
    model.namespace(&asking().repaired("running")).pods([pod("a").of(&rollout("blue"))]);
    assert_eq!(model.fate("a"), unknown());
}

#[test]
fn a_pod_whose_owner_is_gone_or_going_or_another_is_left() {
    let gone = |owner: &Draft| Err(KeepReason::OwnerGone(pod("a").of(owner).view().owner.unwrap()));
    let mut model = Model::with(Repair::Held, []);
    assert_eq!(model.pods([pod("a").of(&web())]).fate("a"), gone(&web()));
    assert_eq!(model.owner(&web().anew()).fate("a"), gone(&web()));
    assert_eq!(model.owner(&web().going()).fate("a"), gone(&web()));
    assert_eq!(model.owner(&web()).fate("a"), Ok(Method::Delete));
}

#[test]
fn nothing_is_replaced_in_a_namespace_that_goes_away() {
    let mut model = Model::with(Repair::Running, [web()]);
    model.namespace(&asking().going()).pods([pod("a").of(&web())]);
    assert_eq!(model.fate("a"), Err(KeepReason::NamespaceTerminating));
}

#[test]
fn a_running_pod_from_before_injection_was_requested_is_kept() {
    let mut model = Model::with(Repair::Running, [web()]);
    model.namespace(&namespace("shop")).pods([pod("old").running().of(&web()), pod("held").of(&web())]);
    assert!(model.due_text().is_empty());
    model.namespace(&asking()).pods([pod("new").running().of(&web())]);
    assert_eq!(model.fate("old"), Err(KeepReason::CameBefore));
    assert_eq!(model.fate("held"), Ok(Method::Delete));
    assert_eq!(model.fate("new"), Ok(Method::Evict));
    // The same name is not the same pod.
    model.pods([pod("old").anew().running().of(&web())]);
    assert_eq!(model.fate("old"), Ok(Method::Evict));
}

#[test]
fn a_pod_from_before_is_remembered_until_it_is_gone() {
    let mut model = Model::with(Repair::Running, [web()]);
    model.pods([pod("old").declining()]);
    for round in 0..4 {
        model.pods((0..600).map(|place| pod(&format!("{round}-{place}")).declining())).due_text();
        assert!(model.tracker.came_before("uid of 0-0") == (round < 3), "{round}");
        assert!(model.tracker.came_before("uid of old"));
        (0..600).for_each(|place| {
            model.gone(&format!("{round}-{place}"));
        });
    }
}

#[test]
fn a_pod_that_needs_an_eviction_is_kept_without_the_right() {
    let mut model = Model::with(Repair::Running, [web()]);
    model.policy.evicts = false;
    model.pods([pod("runs").running().of(&web()), pod("held").of(&web())]);
    assert_eq!(model.fate("runs"), Err(KeepReason::NoEviction));
    assert_eq!(model.fate("held"), Ok(Method::Delete));
}

#[test]
fn every_keep_reason_has_a_separate_word_and_a_sentence() {
    let owner = pod("a").of(&job("report")).view().owner.unwrap();
    let all = [
        KeepReason::Reported,
        KeepReason::Started,
        KeepReason::BadAnnotation("x".to_owned()),
        KeepReason::Ownerless,
        KeepReason::Released,
        KeepReason::ForeignFinalizer("x".to_owned()),
        KeepReason::UnknownOwner("x".to_owned()),
        KeepReason::OwnerGone(owner),
        KeepReason::Mirror,
        KeepReason::NamespaceTerminating,
        KeepReason::CameBefore,
        KeepReason::NoEviction,
        KeepReason::JobWouldCount,
        KeepReason::JobManaged("x".to_owned()),
        KeepReason::JobSuspended,
        KeepReason::JobOver,
        KeepReason::Broken,
    ];
    let keys: std::collections::BTreeSet<&str> = all.iter().map(KeepReason::key).collect();
    let sentences: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!((keys.len(), sentences.len()), (all.len(), all.len()));
}
