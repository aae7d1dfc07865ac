//! Every write of a controller, held to method, path, body and precondition by a scripted API server, and every answer to what it
//! is taken for: a request that is not in the script fails the test, and so does one that never came.

mod scripted;

use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use linkerd_gate::cluster::event::{self, EventSubject, Reporter};
use linkerd_gate::cluster::{admission, lease, node, repair, successor};
use linkerd_gate::decide::PendingRepair;
use linkerd_gate::decide::election::lease_record::{CONTROLLER_LEASE, LeaseHolder, LeaseRecord};
use linkerd_gate::decide::node::taint::{NodeView, TAINT_KEY};
use linkerd_gate::decide::repair::late::NotCreated;
use linkerd_gate::decide::repair::retry::OwnerRetry;
use linkerd_gate::decide::repair::{Kind, MissedState, OwnerReference, Target, Ungate, UngateReason, WriteOutcome};
use scripted::{Step, scripted, status};
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T00:00:00.000000Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn target() -> Target {
    Target {
        name: "web-0".to_owned(),
        uid: "u-1".to_owned(),
        resource_version: "7".to_owned(),
        state: MissedState::Held,
        held_since: None,
    }
}

fn owner(kind: Kind) -> OwnerReference {
    OwnerReference { kind, name: "web".to_owned(), uid: "o-1".to_owned() }
}

/// A refusal as the API server words it, with its cause.
fn caused(code: u16, reason: &str, message: &str, cause: &Value) -> (StatusCode, Value) {
    let (code, mut body) = status(code, reason, message);
    body["details"] = json!({"causes": [cause]});
    (code, body)
}

/// What says, whatever was written, that what was looked at is not there any more.
fn races() -> [(StatusCode, Value); 2] {
    [status(404, "NotFound", "pods \"web-0\" not found"), status(409, "Conflict", "the precondition does not match")]
}

fn is_failed(outcome: &WriteOutcome, words: &[&str]) -> bool {
    matches!(outcome, WriteOutcome::Failed(why) if words.iter().all(|word| why.contains(word)))
}

// Removals.

async fn remove(evict: bool, answer: (StatusCode, Value)) -> WriteOutcome {
    let preconditions = json!({"uid": "u-1", "resourceVersion": "7"});
    let step = if evict {
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": "web-0", "namespace": "shop"},
            "deleteOptions": {"preconditions": preconditions},
        });
        Step { method: Method::POST, path_and_query: "/api/v1/namespaces/shop/pods/web-0/eviction", body, answer }
    } else {
        let body = json!({"preconditions": preconditions});
        Step { method: Method::DELETE, path_and_query: "/api/v1/namespaces/shop/pods/web-0", body, answer }
    };
    scripted(vec![step], async |client| repair::remove(client, "shop", &target(), evict).await).await
}

#[tokio::test]
async fn a_removal_names_the_observed_pod_and_its_grace_period() {
    let pod = json!({"metadata": {"name": "web-0", "namespace": "shop"}});
    assert_eq!(remove(false, (StatusCode::OK, pod)).await, WriteOutcome::Done);
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    assert_eq!(remove(true, (StatusCode::CREATED, done)).await, WriteOutcome::Done);
}

#[tokio::test]
async fn removing_a_gone_or_changed_pod_is_a_conflict_and_no_failure() {
    for evict in [false, true] {
        for answer in races() {
            assert_eq!(remove(evict, answer).await, WriteOutcome::Conflict);
        }
        // The API server's own haste, not a budget's.
        for code in [401, 422, 429, 500, 503, 504] {
            let outcome = remove(evict, status(code, "X", "because")).await;
            assert!(is_failed(&outcome, &["pod shop/web-0", "because"]), "{code}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_budgets_refusal_is_reported_in_its_words() {
    let cause = json!({
        "reason": "DisruptionBudget",
        "message": "The disruption budget web needs 2 healthy pods and has 2 currently",
    });
    let refusal = "Cannot evict pod as it would violate the pod's disruption budget.";
    let refused = remove(true, caused(429, "TooManyRequests", refusal, &cause)).await;
    assert!(
        matches!(&refused, WriteOutcome::Refused(why) if why.contains(refusal) && why.contains("budget web needs 2")),
        "{refused:?}"
    );

    // A budget that cannot keep up says no by another code.
    let (code, mut body) = status(403, "Forbidden", "poddisruptionbudget.policy \"web\" is forbidden: map too big");
    body["details"] = json!({"name": "web", "group": "policy", "kind": "poddisruptionbudget"});
    assert!(matches!(remove(true, (code, body)).await, WriteOutcome::Refused(why) if why.contains("map too big")));

    // And two of them by a third.
    let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    assert_eq!(remove(true, status(500, "", two)).await, WriteOutcome::Refused(two.to_owned()));
}

#[tokio::test]
async fn a_removal_that_is_forbidden_names_the_right() {
    let cannot = |what: &str| format!("pods \"web-0\" is forbidden: User \"u\" cannot {what} in API group \"\"");
    let outcome = remove(false, status(403, "Forbidden", &cannot("delete resource \"pods\""))).await;
    assert!(
        is_failed(&outcome, &["forbids to delete pod shop/web-0", "cannot delete resource \"pods\""]),
        "{outcome:?}"
    );

    let outcome = remove(true, status(403, "Forbidden", &cannot("create resource \"pods/eviction\""))).await;
    assert!(
        is_failed(
            &outcome,
            &["forbids to evict pod", "LINKERD_GATE_EVICTION=true needs the right to create pods/eviction"]
        ),
        "{outcome:?}"
    );
    // Somebody's policy forbids it: no right is missing.
    let outcome = remove(true, status(403, "Forbidden", "ValidatingAdmissionPolicy 'x' denied request")).await;
    assert!(is_failed(&outcome, &["denied request"]) && !is_failed(&outcome, &["needs the right"]), "{outcome:?}");
}

#[tokio::test]
async fn an_eviction_in_a_terminating_namespace_is_a_conflict() {
    let cause = json!({"reason": "NamespaceTerminating", "message": "namespace shop is being terminated", "field": "metadata.namespace"});
    let answer = caused(403, "Forbidden", "unable to create new content in namespace shop", &cause);
    assert_eq!(remove(true, answer).await, WriteOutcome::Conflict);
}

// Held pods.

const POD: &str = "/api/v1/namespaces/shop/pods/web-0?fieldManager=linkerd-gate";

/// What a genuine API server says of a `test` that fails.
fn test_failed() -> (StatusCode, Value) {
    status(422, "Invalid", "the server rejected our request due to an error in our request")
}

fn pod_at(version: &str) -> (StatusCode, Value) {
    let metadata = json!({"name": "web-0", "namespace": "shop", "uid": "u-1", "resourceVersion": version});
    (StatusCode::OK, json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}))
}

async fn ungated(answer: (StatusCode, Value)) -> WriteOutcome {
    let body = json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "test", "path": "/spec/schedulingGates/1/name", "value": "linkerd-gate/injected"},
        {"op": "remove", "path": "/spec/schedulingGates/1"},
    ]);
    let step = Step { method: Method::PATCH, path_and_query: POD, body, answer };
    let ungate = Ungate {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: "u-1".to_owned(),
        resource_version: "7".to_owned(),
        index: 1,
        owner: None,
        reason: UngateReason::Skipped,
    };
    scripted(vec![step], async |client| repair::ungate(client, &ungate).await).await
}

#[tokio::test]
async fn only_our_gate_is_removed_and_only_from_the_observed_pod() {
    assert_eq!(ungated(pod_at("8")).await, WriteOutcome::Done);
    for answer in races().into_iter().chain([test_failed()]) {
        assert_eq!(ungated(answer).await, WriteOutcome::Conflict);
    }
    // A policy's denial is 422 as well, and is not repeated at once.
    for code in [403, 422, 429, 500] {
        let outcome = ungated(status(code, "X", "because")).await;
        assert!(is_failed(&outcome, &["linkerd-gate/injected off pod shop/web-0", "because"]), "{code}: {outcome:?}");
    }
}

async fn untracked(patched: (StatusCode, Value), deleted: Option<(StatusCode, Value)>) -> WriteOutcome {
    let body = json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "test", "path": "/spec/schedulingGates/0/name", "value": "linkerd-gate/injected"},
        {"op": "test", "path": "/metadata/finalizers", "value": ["batch.kubernetes.io/job-tracking"]},
        {"op": "remove", "path": "/metadata/finalizers"},
    ]);
    let patch = Step { method: Method::PATCH, path_and_query: POD, body, answer: patched };
    // As it is after the patch, and not as it was looked at.
    let body = json!({"preconditions": {"uid": "u-1", "resourceVersion": "8"}});
    let delete = deleted.map(|answer| Step {
        method: Method::DELETE,
        path_and_query: "/api/v1/namespaces/shop/pods/web-0",
        body,
        answer,
    });
    let steps = [patch].into_iter().chain(delete).collect();
    scripted(steps, async |client| repair::untrack(client, "shop", &target(), 0).await).await
}

#[tokio::test]
async fn a_gated_pod_of_a_job_loses_its_finalizer_and_is_then_deleted() {
    let gone = || (StatusCode::OK, json!({"metadata": {"name": "web-0", "namespace": "shop"}}));
    assert_eq!(untracked(pod_at("8"), Some(gone())).await, WriteOutcome::Done);
    for answer in races() {
        assert_eq!(untracked(pod_at("8"), Some(answer)).await, WriteOutcome::Conflict);
    }
    // Without the patch, nothing is deleted.
    for answer in races().into_iter().chain([test_failed()]) {
        assert_eq!(untracked(answer, None).await, WriteOutcome::Conflict);
    }
    for code in [403, 422, 429, 500] {
        let outcome = untracked(status(code, "X", "because"), None).await;
        assert!(is_failed(&outcome, &["job-tracking off pod shop/web-0", "because"]), "{code}: {outcome:?}");
        let outcome = untracked(pod_at("8"), Some(status(code, "X", "because"))).await;
        assert!(is_failed(&outcome, &["delete pod shop/web-0", "because"]), "{code}: {outcome:?}");
    }
}

// Jobs.

const JOB: &str = "/apis/batch/v1/namespaces/shop/jobs/web?fieldManager=linkerd-gate";

async fn suspend(answer: (StatusCode, Value)) -> WriteOutcome {
    let body = json!({
        "metadata": {
            "uid": "o-1", "resourceVersion": "7",
            "annotations": {"linkerd-gate/suspended-at": "2026-01-01T00:00:00Z"},
        },
        "spec": {"suspend": true},
    });
    let steps = vec![Step { method: Method::PATCH, path_and_query: JOB, body, answer }];
    scripted(steps, async |client| repair::suspend(client, "shop", &owner(Kind::Job), "7", now()).await).await
}

async fn resume(answer: (StatusCode, Value)) -> WriteOutcome {
    let body = json!({
        "metadata": {"uid": "o-1", "resourceVersion": "7", "annotations": {"linkerd-gate/suspended-at": null}},
        "spec": {"suspend": false},
    });
    let steps = vec![Step { method: Method::PATCH, path_and_query: JOB, body, answer }];
    scripted(steps, async |client| repair::resume(client, "shop", &owner(Kind::Job), "7").await).await
}

fn metadata_of(name: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": name}})
}

#[tokio::test]
async fn a_job_is_suspended_and_resumed_with_its_mark_if_unchanged() {
    assert_eq!(suspend((StatusCode::OK, metadata_of("web"))).await, WriteOutcome::Done);
    assert_eq!(resume((StatusCode::OK, metadata_of("web"))).await, WriteOutcome::Done);
    for [one, other] in [races(), races()] {
        assert_eq!(suspend(one).await, WriteOutcome::Conflict);
        assert_eq!(resume(other).await, WriteOutcome::Conflict);
    }
    for code in [403, 422, 429, 500] {
        let outcome = suspend(status(code, "X", "because")).await;
        assert!(is_failed(&outcome, &["suspend job shop/web", "because"]), "{code}: {outcome:?}");
        let outcome = resume(status(code, "X", "because")).await;
        assert!(is_failed(&outcome, &["resume job shop/web", "because"]), "{code}: {outcome:?}");
    }
}

// Nudges.

fn owner_retry(kind: Kind) -> OwnerRetry {
    OwnerRetry { namespace: "shop".to_owned(), owner: owner(kind), has: 0 }
}

async fn retried(kind: Kind, path_and_query: &'static str, answer: (StatusCode, Value)) -> WriteOutcome {
    let body = json!({"metadata": {"uid": "o-1", "annotations": {"linkerd-gate/retried-at": "2026-01-01T00:00:00Z"}}});
    let steps = vec![Step { method: Method::PATCH, path_and_query, body, answer }];
    scripted(steps, async |client| repair::retry_owner(client, &owner_retry(kind), now()).await).await
}

#[tokio::test]
async fn a_retry_writes_one_annotation_on_an_owner_of_the_four_kinds() {
    for (kind, path) in [
        (Kind::ReplicaSet, "/apis/apps/v1/namespaces/shop/replicasets/web?fieldManager=linkerd-gate"),
        (Kind::StatefulSet, "/apis/apps/v1/namespaces/shop/statefulsets/web?fieldManager=linkerd-gate"),
        (Kind::DaemonSet, "/apis/apps/v1/namespaces/shop/daemonsets/web?fieldManager=linkerd-gate"),
        (Kind::Job, JOB),
    ] {
        assert_eq!(retried(kind.clone(), path, (StatusCode::OK, metadata_of("web"))).await, WriteOutcome::Done);
        for answer in races() {
            assert_eq!(retried(kind.clone(), path, answer).await, WriteOutcome::Conflict);
        }
        for code in [403, 422, 429, 500] {
            let outcome = retried(kind.clone(), path, status(code, "X", "because")).await;
            let act = format!("annotate {} shop/web", kind.to_string().to_lowercase());
            assert!(is_failed(&outcome, &[&act, "because"]), "{code}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn an_owner_of_another_uid_is_another_owner() {
    let cause = json!({"reason": "FieldValueInvalid", "message": "field is immutable", "field": "metadata.uid"});
    let answer = caused(422, "Invalid", "Job.batch \"web\" is invalid: metadata.uid: field is immutable", &cause);
    assert_eq!(retried(Kind::Job, JOB, answer).await, WriteOutcome::Conflict);
}

#[tokio::test]
async fn another_kind_of_owner_is_not_even_asked_about() {
    for kind in [Kind::ReplicationController, Kind::Other("example.com/v1 Web".to_owned())] {
        let outcome =
            scripted(Vec::new(), async |client| repair::retry_owner(client, &owner_retry(kind), now()).await).await;
        assert!(is_failed(&outcome, &["shop/web", "nothing is written"]), "{outcome:?}");
    }
}

// Nodes whose agent is gone.

fn node_json(taints: &Value) -> Value {
    json!({
        "metadata": {
            "name": "node-0", "uid": "n-1", "resourceVersion": "7",
            "annotations": {"linkerd-gate/opened-boot": "boot-0"},
        },
        "spec": {"taints": taints},
    })
}

async fn open_node(taints: Value, steps: Vec<Step>) -> WriteOutcome {
    let view = NodeView::of(&serde_json::from_value::<Node>(node_json(&taints)).unwrap());
    scripted(steps, async |client| node::open_node(client, TAINT_KEY, &view).await).await
}

#[tokio::test]
async fn a_node_is_opened_by_lifting_our_taint_and_nothing_else() {
    let stranger = json!({"key": "example.com/mine", "effect": "NoExecute"});
    // Of our key, but no taint of ours.
    let evicting = json!({"key": "linkerd-gate/closed", "effect": "NoExecute"});
    let ours = json!({"key": "linkerd-gate/closed", "value": "boot1-5", "effect": "NoSchedule"});
    let taints = json!([stranger, ours, evicting]);
    let step = |answer| {
        let body = json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
            {"op": "test", "path": "/spec/taints", "value": taints},
            {"op": "add", "path": "/spec/taints", "value": [stranger, evicting]},
        ]);
        vec![Step {
            method: Method::PATCH,
            path_and_query: "/api/v1/nodes/node-0?fieldManager=linkerd-gate",
            body,
            answer,
        }]
    };
    let opened = (StatusCode::OK, node_json(&json!([stranger, evicting])));
    assert_eq!(open_node(taints.clone(), step(opened)).await, WriteOutcome::Done);
    for answer in races().into_iter().chain([test_failed()]) {
        assert_eq!(open_node(taints.clone(), step(answer)).await, WriteOutcome::Conflict);
    }
    for code in [403, 422, 429, 500] {
        let outcome = open_node(taints.clone(), step(status(code, "X", "because"))).await;
        assert!(is_failed(&outcome, &["open node node-0", "because"]), "{code}: {outcome:?}");
    }
    assert_eq!(open_node(json!([stranger, evicting]), Vec::new()).await, WriteOutcome::Done, "it is open");
}

// Events.

#[tokio::test]
async fn an_event_lives_where_its_subject_does() {
    let stateful_set = EventSubject::owner("shop", &owner(Kind::StatefulSet));
    let rollout = EventSubject::owner("shop", &owner(Kind::Other("argoproj.io/v1alpha1 Rollout".to_owned())));
    for (subject, api_version, kind) in
        [(stateful_set, "apps/v1", "StatefulSet"), (rollout, "argoproj.io/v1alpha1", "Rollout")]
    {
        let step = |answer| {
            let body = json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"generateName": "web.", "namespace": "shop"},
                "involvedObject":
                    {"apiVersion": api_version, "kind": kind, "namespace": "shop", "name": "web", "uid": "o-1"},
                "type": "Warning", "reason": "PodsMissed", "message": "why", "count": 1,
                "source": {"component": "linkerd-gate"},
                "reportingComponent": "linkerd-gate", "reportingInstance": "controller-0",
                "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
            });
            vec![Step { method: Method::POST, path_and_query: "/api/v1/namespaces/shop/events", body, answer }]
        };
        let noted = async |answer| {
            scripted(step(answer), async |client| {
                let reporter = Reporter { instance: "controller-0", node: None };
                event::note(client, reporter, &subject, true, "PodsMissed", "why", now()).await
            })
            .await
        };
        let created = json!({"metadata": {"name": "web.x"}, "involvedObject": {}});
        assert_eq!(noted((StatusCode::CREATED, created)).await, Ok(()));
        let failed = noted(status(403, "Forbidden", "because")).await;
        let about = format!("event on {} shop/web", kind.to_lowercase());
        assert!(failed.is_err_and(|why| why.contains(&about) && why.contains("because")));
    }
}

// The controllers' Lease.

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases?fieldManager=linkerd-gate";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases/linkerd-gate-controller?fieldManager=linkerd-gate";

#[tokio::test]
async fn a_controllers_lease_has_no_verdict() {
    let me = LeaseHolder::read("node-0/controller-0/boot-1");
    let answer = || {
        let lease = json!({
            "metadata": {"name": "linkerd-gate-controller", "resourceVersion": "8"},
            "spec": {"holderIdentity": "node-0/controller-0/boot-1", "renewTime": NOW},
        });
        (StatusCode::OK, lease)
    };
    let spec = json!({"holderIdentity": "node-0/controller-0/boot-1", "leaseDurationSeconds": 15, "renewTime": NOW});
    let mut made = spec.clone();
    made["acquireTime"] = NOW.into();
    made["leaseTransitions"] = 0.into();
    let body = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "linkerd-gate-controller"}, "spec": made,
    });
    let create = Step { method: Method::POST, path_and_query: LEASES, body, answer: answer() };
    let body = json!({"metadata": {"resourceVersion": "7"}, "spec": spec});
    let renew = Step { method: Method::PATCH, path_and_query: LEASE, body, answer: answer() };
    let body = json!({"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": null, "renewTime": NOW}});
    let leave = Step { method: Method::PATCH, path_and_query: LEASE, body, answer: answer() };

    let ours = LeaseRecord { resource_version: "7".to_owned(), holder: Some(me.clone()), ..LeaseRecord::default() };
    scripted(vec![create, renew, leave], async |client| {
        for record in [None, Some(&ours)] {
            let written =
                lease::write(client.clone(), "linkerd-gate", CONTROLLER_LEASE, record, &me, None, now()).await;
            assert_eq!(written.unwrap().holder, Some(me.clone()));
        }
        lease::give_up(client, "linkerd-gate", CONTROLLER_LEASE, &ours, now()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_controllers_lease_says_how_many_pods_are_pending() {
    let me = LeaseHolder::read("node-0/controller-0/boot-1");
    let ours = LeaseRecord { resource_version: "7".to_owned(), holder: Some(me.clone()), ..LeaseRecord::default() };
    let spec = json!({"holderIdentity": "node-0/controller-0/boot-1", "leaseDurationSeconds": 15, "renewTime": NOW});
    for pending in [PendingRepair::uncounted(), PendingRepair::new(3), PendingRepair::new(0)] {
        let annotations = json!({"linkerd-gate/pending-repair": pending.write()});
        let body = json!({"metadata": {"resourceVersion": "7", "annotations": annotations}, "spec": spec});
        let lease = json!({
            "metadata": {"name": "linkerd-gate-controller", "resourceVersion": "8", "annotations": annotations},
            "spec": {"holderIdentity": "node-0/controller-0/boot-1", "renewTime": NOW},
        });
        let step = Step { method: Method::PATCH, path_and_query: LEASE, body, answer: (StatusCode::OK, lease) };
        let written = scripted(vec![step], async |client| {
            let annotation = Some(("linkerd-gate/pending-repair", pending.write()));
            lease::write(client, "linkerd-gate", CONTROLLER_LEASE, Some(&ours), &me, annotation, now()).await
        });
        assert_eq!(written.await.unwrap().pending_repair, Some(pending.write()));
    }
}

// Admission policies.

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const HOLD: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/linkerd-gate-hold";
const GUARD: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/linkerd-gate-guard";
const BY_LABEL: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations?labelSelector=\
                        linkerd.io%2Fcontrol-plane-component%3Dproxy-injector&limit=1";

fn read(path_and_query: &'static str, answer: (StatusCode, Value)) -> Step {
    Step { method: Method::GET, path_and_query, body: Value::Null, answer }
}

fn kinds(kinds: &[&str]) -> Step {
    let resource = |kind: &&str| json!({"name": kind.to_lowercase(), "singularName": "", "namespaced": false, "kind": kind, "verbs": ["get"]});
    let resources: Vec<_> = kinds.iter().map(resource).collect();
    let group = "admissionregistration.k8s.io/v1";
    read(ADMISSION, (StatusCode::OK, json!({"kind": "APIResourceList", "groupVersion": group, "resources": resources})))
}

fn binding(name: &str) -> (StatusCode, Value) {
    let selector = json!({"matchLabels": {"linkerd.io/control-plane-component": "proxy-injector"}});
    (StatusCode::OK, json!({"metadata": {"name": name}, "spec": {"paramRef": {"selector": selector}}}))
}

fn configurations(count: usize) -> Step {
    let one = json!({"metadata": {"name": "linkerd-proxy-injector-webhook-config"}});
    let list = json!({"kind": "PartialObjectMetadataList", "metadata": {}, "items": vec![one; count]});
    read(BY_LABEL, (StatusCode::OK, list))
}

async fn looked(steps: Vec<Step>) -> (bool, bool) {
    let found = scripted(steps, async |client| admission::read_status(&client).await).await.unwrap();
    (found.hold_binding_missing, found.parameter_missing)
}

#[tokio::test]
async fn what_is_not_bound_and_what_finds_no_parameter_is_seen() {
    let absent = || status(404, "NotFound", "not found");
    let both = || kinds(&["MutatingAdmissionPolicyBinding", "ValidatingAdmissionPolicyBinding"]);
    // An API server that does not offer it lacks nothing.
    let old = vec![kinds(&["ValidatingAdmissionPolicyBinding"]), read(GUARD, binding("g")), configurations(1)];
    assert_eq!(looked(old).await, (false, false));
    assert_eq!(looked(vec![both(), read(HOLD, absent()), read(GUARD, absent())]).await, (true, false));
    let bound = |count| {
        let (hold, guard) = (read(HOLD, binding("h")), read(GUARD, binding("g")));
        let lists = if count == 0 { 1 } else { 2 };
        [both(), hold, guard].into_iter().chain((0..lists).map(|_| configurations(count))).collect()
    };
    assert_eq!(looked(bound(1)).await, (false, false));
    assert_eq!(looked(bound(0)).await, (false, true));
}

// Why a removed pod was not created again.

const EVENTS: &str =
    "/api/v1/namespaces/shop/events?fieldSelector=involvedObject.uid%3Do-1%2Creason%3DFailedCreate&limit=100";
const NAMESPACE: &str = "/api/v1/namespaces?fieldSelector=metadata.name%3Dshop";
const REPLICA_SET: &str = "/apis/apps/v1/namespaces/shop/replicasets?fieldSelector=metadata.name%3Dweb";

fn list(path_and_query: &'static str, items: &Value) -> Step {
    read(path_and_query, (StatusCode::OK, json!({"metadata": {}, "items": items})))
}

/// An Event of that ReplicaSet, so many seconds after the removal.
fn failed_create(second: i64, message: &str) -> Value {
    let at = now() + k8s_openapi::jiff::SignedDuration::from_secs(second);
    json!({"metadata": {"name": "web.1", "namespace": "shop"}, "reason": "FailedCreate", "message": message,
        "involvedObject": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o-1"},
        "lastTimestamp": at.to_string()})
}

async fn not_created(steps: Vec<Step>) -> NotCreated {
    let (since, proven) = (now(), now());
    let owner = owner(Kind::ReplicaSet);
    scripted(steps, async |client| successor::not_created(client, "shop", &owner, since, proven).await).await
}

/// The cause that the latest Event names, of a namespace with this annotation where that is asked for.
async fn cause(message: &str, annotations: Option<Value>) -> &'static str {
    let events = list(EVENTS, &json!([failed_create(0, "an earlier one"), failed_create(1, message)]));
    let more = annotations.map(|annotations| {
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app"}]}});
        let set = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "o-1"},
            "spec": {"selector": {}, "template": template}});
        let namespace = json!({"metadata": {"name": "shop", "annotations": annotations}});
        [list(NAMESPACE, &json!([namespace])), list(REPLICA_SET, &json!([set]))]
    });
    not_created([events].into_iter().chain(more.into_iter().flatten()).collect()).await.key()
}

#[tokio::test]
async fn what_refused_a_replacement_is_found_in_its_owners_events() {
    let creating = |why: &str| format!("Error creating: {why}");
    let forbidden = |why: &str| creating(&format!("pods \"web-x\" is forbidden: {why}"));
    for (message, expected) in [
        (forbidden("violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"), "pod_security"),
        (forbidden("exceeded quota: few, requested: pods=1, used: pods=0, limited: pods=0"), "quota"),
        (forbidden("failed quota: few: must specify limits.cpu for: linkerd-proxy"), "quota"),
        (forbidden("maximum cpu usage per Container is 10m, but limit is 1"), "admission"),
        (creating("admission webhook \"policy.example.com\" denied the request: no"), "admission"),
    ] {
        assert_eq!(cause(&message, None).await, expected, "{message}");
    }
    let guarded =
        forbidden("ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding 'linkerd-gate-guard' denied request");
    let uncalled =
        creating("Internal error occurred: failed calling webhook \"linkerd-proxy-injector.linkerd.io\": EOF");
    let broken = || Some(json!({"config.linkerd.io/proxy-log-level": "warn,\"linkerd\""}));
    for (message, annotations, expected) in [
        (&guarded, broken(), "annotation"),
        (&guarded, Some(json!({})), "not_injected"),
        (&uncalled, broken(), "annotation"),
        (&uncalled, Some(json!({})), "injector"),
        (&creating("etcdserver: request timed out"), Some(json!({})), "failed"),
    ] {
        assert_eq!(cause(message, annotations).await, expected, "{message}");
    }
}

#[tokio::test]
async fn no_event_since_the_removal_says_nothing() {
    let old = failed_create(-60, "Error creating: pods \"web-x\" is forbidden: violates PodSecurity");
    for events in [json!([]), json!([old])] {
        assert_eq!(not_created(vec![list(EVENTS, &events)]).await, NotCreated::Unknown, "{events}");
    }
    let forbidden = status(403, "Forbidden", "events is forbidden: User \"x\" cannot list resource \"events\"");
    let found = not_created(vec![read(EVENTS, forbidden)]).await;
    assert!(matches!(&found, NotCreated::Failed(why) if why.contains("cannot list resource")), "{found:?}");
}
