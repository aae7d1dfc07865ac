//! What is kept of objects.

use serde_json::{Value, json};

use super::super::NamespaceView;
use super::super::object::{Detail, Ignores, JobDetail, Kind, Life, OwnerView, Repair};
use super::fixtures::{Draft, daemon_set, job, pod, replica_set, replication_controller, stateful_set};
use super::model::namespace;
use crate::linkerd::Started;

fn detail(draft: &Draft) -> JobDetail {
    draft.owner_view().job().expect("a Job").clone()
}

/// What a Job with these rules of its `podFailurePolicy` ignores.
fn ignored_by(rules: &Value) -> Ignores {
    detail(&job("report").and("/spec/podFailurePolicy", json!({"rules": rules}))).ignores_eviction
}

fn on_codes(action: &str, operator: &str, codes: &[i32]) -> Value {
    json!({"action": action, "onExitCodes": {"operator": operator, "values": codes}})
}

fn on_condition(action: &str, condition: &str, status: &str) -> Value {
    json!({"action": action, "onPodConditions": [{"type": condition, "status": status}]})
}

fn on_disruption(action: &str) -> Value {
    on_condition(action, "DisruptionTarget", "True")
}

#[test]
fn a_pod_is_where_it_is_in_its_life() {
    assert_eq!(pod("a").view().life, Life::Unready);
    assert_eq!(pod("a").running().view().life, Life::Unready);
    assert_eq!(pod("a").ready().view().life, Life::Ready);
    assert_eq!(pod("a").ready().going().view().life, Life::Going);
    assert_eq!(pod("a").finished().going().view().life, Life::Finished);
    let lost = pod("a").ready().and("/status/conditions", json!([{"type": "Ready", "status": "False"}]));
    assert_eq!(lost.view().life, Life::Unready);
    assert_eq!((pod("a").view().started, pod("a").running().view().started), (Started::Never, Started::Ever));
}

#[test]
fn a_pod_that_is_never_removed_keeps_no_resource_version() {
    assert_eq!(pod("a").view().resource_version.as_deref(), Some("1"));
    assert_eq!(pod("a").meshed().view().resource_version, None);
    assert_eq!(pod("a").finished().view().resource_version, None);
    assert_eq!(pod("a").meshed().view(), pod("a").meshed().and("/metadata/resourceVersion", "2".into()).view());
}

#[test]
fn containers_decide_whether_a_pod_is_meshed_and_not_labels() {
    assert!(pod("a").meshed().view().bare.is_none());
    assert!(pod("a").labelled("linkerd.io/control-plane-ns", "linkerd").view().bare.is_some());
}

#[test]
fn an_owner_is_the_controller_among_those_that_are_named() {
    let web = replica_set("web");
    let owner = pod("a").of(&web).view().owner.unwrap();
    assert_eq!((owner.kind, owner.name.as_str(), owner.uid.as_str()), (Kind::ReplicaSet, "web", "uid of web"));
    let named = pod("a").of(&web).and(
        "/metadata/ownerReferences",
        json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "uid of web",
        }]),
    );
    assert_eq!(named.view().owner, None);
    assert_eq!(pod("a").view().owner, None);
}

#[test]
fn a_kind_includes_its_group_and_converts_back_to_its_names() {
    for (version, kind, known) in [
        ("apps/v1", "ReplicaSet", Kind::ReplicaSet),
        ("apps/v1", "StatefulSet", Kind::StatefulSet),
        ("apps/v1", "DaemonSet", Kind::DaemonSet),
        ("v1", "ReplicationController", Kind::ReplicationController),
        ("batch/v1", "Job", Kind::Job),
        ("batch.volcano.sh/v1alpha1", "Job", Kind::Other("batch.volcano.sh/v1alpha1 Job".to_owned())),
        ("apps.kruise.io/v1beta1", "StatefulSet", Kind::Other("apps.kruise.io/v1beta1 StatefulSet".to_owned())),
        ("v1", "Node", Kind::Other("v1 Node".to_owned())),
    ] {
        assert_eq!(Kind::of(version, kind), known);
        assert_eq!(known.names(), (version, kind));
    }
    assert_eq!(Kind::Job.to_string(), "Job");
    assert_eq!(Kind::of("batch.volcano.sh/v1alpha1", "Job").to_string(), "batch.volcano.sh/v1alpha1 Job");
}

#[test]
fn mirror_agent_and_waiting_pods_are_recognized_by_their_marks() {
    assert!(pod("a").annotated("kubernetes.io/config.mirror", "hash").view().mirror && !pod("a").view().mirror);
    let agent = pod("a").labelled("app.kubernetes.io/name", "linkerd-gate");
    assert!(!agent.view().agent);
    assert!(agent.labelled("app.kubernetes.io/component", "agent").view().agent);
    assert!(pod("a").view().waits && !pod("a").and("/spec/initContainers", json!([])).view().waits);
}

#[test]
fn a_wait_that_may_let_its_pod_start_is_recognized() {
    let opens = |wait: Value| {
        let mut container = json!({"name": "linkerd-gate"});
        container.as_object_mut().unwrap().extend(wait.as_object().unwrap().clone());
        let view = pod("a").and("/spec/initContainers", json!([container])).view();
        assert!(view.waits);
        view.wait_opens
    };
    let variable = |name: &str, value: &str| json!({"env": [{"name": name, "value": value}]});
    for name in ["LINKERD_GATE_ON_MISSED", "LINKERD_GATE_ON_TIMEOUT"] {
        assert!(opens(variable(name, "open")), "{name}");
        assert!(opens(json!({"env": [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]})));
        assert!(opens(variable(name, "$(SETTING)")), "{name}");
        assert!(!opens(variable(name, "hold")), "{name}");
    }
    assert!(!opens(json!({})) && !opens(variable("LINKERD_GATE_TIMEOUT", "open")));
    assert!(opens(json!({"envFrom": [{"configMapRef": {"name": "settings"}}]})), "it may say anything");
}

#[test]
fn the_repair_annotation_is_read_exactly_and_bad_values_kept() {
    for (text, taken) in [
        ("report", Some(Ok(Repair::Report))),
        ("held", Some(Ok(Repair::Held))),
        ("running", Some(Ok(Repair::Running))),
        ("", None),
        ("Held", Some(Err("Held".to_owned()))),
        ("held ", Some(Err("held ".to_owned()))),
    ] {
        assert_eq!(pod("a").repaired(text).view().repair, taken);
        assert_eq!(NamespaceView::of(&namespace("shop").repaired(text).build()).repair, taken);
        if let Some(Ok(repair)) = taken {
            assert_eq!(repair.to_string(), text);
        }
    }
}

#[test]
fn a_namespace_is_going_away_by_its_deletion_or_by_its_phase() {
    let terminating = |draft: Draft| NamespaceView::of(&draft.build()).terminating;
    assert!(!terminating(namespace("shop")));
    assert!(terminating(namespace("shop").going()));
    assert!(terminating(namespace("shop").and("/status", json!({"phase": "Terminating"}))));
}

#[test]
fn an_owner_wants_what_its_status_lacks() {
    let wants = |draft: &Draft| (draft.owner_view().has, draft.owner_view().wants);
    for set in [replica_set("web"), stateful_set("db"), replication_controller("old")] {
        let set = set.and("/spec", json!({"replicas": 3}));
        assert_eq!(wants(&set.clone().and("/status", json!({"replicas": 3}))), (3, false));
        assert_eq!(wants(&set.clone().and("/status", json!({"replicas": 2}))), (2, true));
        assert!(!wants(&set.and("/spec", json!({"replicas": 0}))).1);
    }
    assert_eq!(wants(&daemon_set("log")), (10, false));
    assert_eq!(wants(&daemon_set("log").and("/status/currentNumberScheduled", 9.into())), (9, true));
}

#[test]
fn a_replica_sets_failure_message_is_kept_while_it_lasts() {
    let failed = |status: &str| {
        let conditions = json!([{"type": "ReplicaFailure", "status": status, "message": "no"}]);
        replica_set("web").and("/status/conditions", conditions).owner_view().failure
    };
    assert_eq!((failed("True").as_deref(), failed("False")), (Some("no"), None));
}

#[test]
fn a_daemon_sets_budget_is_rounded_up_and_never_none() {
    let budget = |value: Value| {
        let set = daemon_set("log").and("/spec/updateStrategy/rollingUpdate/maxUnavailable", value);
        match set.owner_view().detail {
            Detail::DaemonSet { max_unavailable } => max_unavailable,
            Detail::Plain | Detail::Job(_) => panic!("a DaemonSet"),
        }
    };
    assert_eq!(budget(Value::Null), 1);
    assert_eq!((budget(3.into()), budget(0.into())), (3, 1));
    assert_eq!((budget("25%".into()), budget("30%".into()), budget("0%".into())), (3, 3, 1));
    assert_eq!(budget("100%".into()), 10);
}

#[test]
fn a_job_wants_what_is_left_of_it_as_long_as_it_is_not_over() {
    let wants = |draft: &Draft| (draft.owner_view().has, draft.owner_view().wants);
    let idle = job("report").and("/status", json!({}));
    assert_eq!((wants(&job("report")), wants(&idle)), ((1, false), (0, true)));
    let wide = job("report").and("/spec", json!({"parallelism": 3, "completions": 5}));
    assert_eq!(wants(&wide.clone().and("/status", json!({"active": 2, "succeeded": 3}))), (5, false));
    assert_eq!(wants(&wide.clone().and("/status", json!({"active": 1, "succeeded": 3}))), (4, true));
    assert!(!wants(&wide.and("/status", json!({})).and("/spec/suspend", true.into())).1);
    let queue = job("report").and("/spec", json!({"parallelism": 3}));
    assert!(wants(&queue).1);
    assert!(!wants(&queue.and("/status", json!({"active": 1, "succeeded": 1}))).1, "a work queue that runs dry");
    for over in ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"] {
        let over = idle.clone().and("/status/conditions", json!([{"type": over, "status": "True"}]));
        assert!(detail(&over).finished && !wants(&over).1);
    }
    assert!(!detail(&idle.and("/status/conditions", json!([{"type": "Suspended", "status": "True"}]))).finished);
}

#[test]
fn the_first_matching_pod_failure_policy_rule_decides() {
    let ignore = || on_disruption("Ignore");
    for (rules, ignores) in [
        (json!([]), Ignores::Nothing),
        (json!([ignore()]), Ignores::Everything),
        (json!([on_disruption("Count"), ignore()]), Ignores::Nothing),
        (json!([on_disruption("FailJob")]), Ignores::Nothing),
        // An app may end with any code; `wait` ends with 143 or 137.
        (json!([on_codes("FailJob", "In", &[42]), ignore()]), Ignores::Held),
        (json!([on_codes("FailJob", "In", &[42]), on_codes("FailIndex", "In", &[1]), ignore()]), Ignores::Held),
        (json!([on_codes("FailJob", "In", &[42, 143]), ignore()]), Ignores::Nothing),
        (json!([on_codes("Count", "In", &[137]), ignore()]), Ignores::Nothing),
        (json!([on_codes("FailJob", "NotIn", &[42]), ignore()]), Ignores::Nothing),
        (json!([ignore(), on_codes("FailJob", "NotIn", &[42])]), Ignores::Everything),
        // What ignores as well does no harm.
        (json!([on_codes("Ignore", "In", &[75]), ignore()]), Ignores::Everything),
        (json!([on_codes("Ignore", "In", &[75])]), Ignores::Nothing),
        (json!([on_condition("Ignore", "ConfigIssue", "True"), ignore()]), Ignores::Everything),
        // What an evicted pod might have besides, and what it certainly has not.
        (json!([on_condition("FailJob", "ConfigIssue", "True"), ignore()]), Ignores::Nothing),
        (json!([on_condition("FailJob", "DisruptionTarget", "False"), ignore()]), Ignores::Everything),
        (json!([on_condition("Ignore", "DisruptionTarget", "False")]), Ignores::Nothing),
    ] {
        assert_eq!(ignored_by(&rules), ignores, "{rules}");
    }
}

#[test]
fn other_managers_of_suspend_are_detected() {
    let managed = |draft: Draft| detail(&draft).managed;
    let applied = |operation: &str, fields: Value| {
        let entry = json!({"manager": "argocd-controller", "operation": operation, "fieldsV1": fields});
        job("report").and("/metadata/managedFields", json!([entry]))
    };
    let suspend = || json!({"f:spec": {"f:suspend": {}}});
    let kubectl = |text: &str| job("report").annotated("kubectl.kubernetes.io/last-applied-configuration", text);
    let owned = |version: &str, kind: &str| {
        job("report").of(&Draft(json!({
            "apiVersion": version, "kind": kind, "metadata": {"name": "nightly", "uid": "uid of nightly"},
        })))
    };

    for unmanaged in [
        job("report"),
        job("report").and("/spec/managedBy", "kubernetes.io/job-controller".into()),
        owned("batch/v1", "CronJob"),
        // Whoever creates a Job owns every default of it, this field among them.
        applied("Update", suspend()),
        applied("Apply", json!({"f:spec": {"f:parallelism": {}}})),
        kubectl(r#"{"spec":{"parallelism":1}}"#),
        kubectl("no JSON"),
    ] {
        assert_eq!(managed(unmanaged), None);
    }
    for (draft, who) in [
        (job("report").and("/spec/managedBy", "kueue.x-k8s.io/multikueue".into()), "kueue.x-k8s.io/multikueue"),
        (job("report").labelled("kueue.x-k8s.io/queue-name", "night"), "Kueue"),
        (owned("jobset.x-k8s.io/v1alpha2", "JobSet"), "JobSet nightly"),
        (applied("Apply", suspend()), "argocd-controller"),
        (kubectl(r#"{"spec":{"suspend":false}}"#), "kubectl"),
    ] {
        let managed = managed(draft).expect(who);
        assert!(managed.contains(who), "{managed}");
    }
}

#[test]
fn our_own_mark_on_a_job_is_found() {
    let marked = job("report").annotated("linkerd-gate/suspended-at", "then").and("/spec/suspend", true.into());
    let detail = detail(&marked);
    assert!(detail.suspended && detail.suspended_by_us.as_deref() == Some("then"));
    assert_eq!(marked.owner_view().resource_version.as_deref(), Some("1"));
    assert_eq!(replica_set("web").owner_view().resource_version, None);
    assert!(replica_set("web").going().owner_view().deleting && !replica_set("web").owner_view().deleting);
}

#[test]
fn an_owner_of_the_same_name_with_another_uid_is_another() {
    let mut cluster = super::model::Cluster::asking();
    for set in [replica_set("web"), stateful_set("web"), daemon_set("web"), replication_controller("web"), job("web")] {
        cluster.put_owner(set.owner_view());
        let reference = pod("a").of(&set).view().owner.unwrap();
        let owners = cluster.snapshot().owners;
        let found: Option<&OwnerView> = owners.get("shop", &reference);
        assert_eq!(found.map(|view| &view.reference), Some(&reference));
        assert!(owners.get("elsewhere", &reference).is_none());
        assert!(owners.get("shop", &pod("a").of(&set.anew()).view().owner.unwrap()).is_none());
    }
    assert_eq!(cluster.snapshot().owners.iter().count(), 5);
}
