//! Every request that this program makes of an API server, held to method, path, body and precondition by a scripted one:
//! a request that is not in the script fails the test, and so does one that never came.

mod scripted;

use std::collections::{BTreeMap, BTreeSet};

use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use linkerd_gate::cluster::dry_run;
use linkerd_gate::cluster::event::{EventSubject, Reporter};
use linkerd_gate::cluster::installation::{Installation, installation};
use linkerd_gate::cluster::lease::LeaseError;
use linkerd_gate::cluster::node::PatchError;
use linkerd_gate::cluster::tolerations::{Tolerated, tolerate};
use linkerd_gate::cluster::{self, Deletion, NotReplaced, Replacing, RequestError, event, lease, node};
use linkerd_gate::decide::election::lease_record::{LeaseHolder, LeaseRecord, PROVER_LEASE};
use linkerd_gate::decide::election::published_verdict::TaintSuppressions;
use linkerd_gate::decide::node::essential::AddToleration;
use linkerd_gate::decide::node::taint::{Edit, NodeChange, NodeView, TAINT_KEY};
use linkerd_gate::decide::{Gate, ProbeResult, PublishedVerdict};
use scripted::{Step, scripted, status};
use serde_json::{Value, json};

fn own() -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "web-0", "namespace": "shop", "uid": "u-1", "resourceVersion": "7",
            "labels": {"app": "web"}, "annotations": {"linkerd.io/inject": "enabled"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "o-1", "controller": true}],
        },
        "spec": {
            "serviceAccountName": "web", "nodeName": "node-1", "hostPID": false,
            "volumes": [{"name": "data", "emptyDir": {}}],
            "initContainers": [{"name": "linkerd-gate", "image": "gate:1"}],
            "containers": [{"name": "web", "image": "web:1", "resources": {"requests": {"cpu": "10m"}},
                "env": [{"name": "PASSWORD", "value": "secret"}]}],
        },
    }))
    .unwrap()
}

/// The dry-run pod that stands for the next pod of the same owner.
fn twin() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "linkerd-gate-proof-u-1", "namespace": "shop",
            "labels": {"app": "web"}, "annotations": {"linkerd.io/inject": "enabled"},
        },
        "spec": {
            "serviceAccountName": "web",
            "initContainers": [{"name": "linkerd-gate", "image": "gate:1", "securityContext": strict()}],
            "containers": [{
                "name": "web", "image": "web:1", "resources": {"requests": {"cpu": "10m"}}, "securityContext": strict(),
            }],
        },
    })
}

fn strict() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "runAsUser": 2102, "seccompProfile": {"type": "RuntimeDefault"},
    })
}

const PROVE: &str = "/api/v1/namespaces/shop/pods?dryRun=All&fieldManager=linkerd-gate";
const POD: &str = "/api/v1/namespaces/shop/pods/web-0";

fn prove(answer: (StatusCode, Value)) -> Step {
    Step { method: Method::POST, path_and_query: PROVE, body: twin(), answer }
}

fn delete(answer: (StatusCode, Value)) -> Step {
    let body = json!({"preconditions": {"uid": "u-1"}});
    Step { method: Method::DELETE, path_and_query: POD, body, answer }
}

fn get(answer: (StatusCode, Value)) -> Step {
    Step { method: Method::GET, path_and_query: POD, body: Value::Null, answer }
}

fn injected() -> Value {
    let mut pod = twin();
    let proxy = json!({"name": "linkerd-proxy", "restartPolicy": "Always"});
    pod["spec"]["initContainers"].as_array_mut().unwrap().insert(0, proxy);
    pod
}

fn own_json() -> Value {
    serde_json::to_value(own()).unwrap()
}

fn proven() -> Step {
    prove((StatusCode::CREATED, injected()))
}

async fn replace(steps: Vec<Step>) -> Result<Replacing, NotReplaced> {
    scripted(steps, async |client| cluster::replace(|| Ok(client.clone()), "shop", "web-0", "u-1").await).await
}

#[tokio::test]
async fn a_proof_is_a_dry_run_with_only_our_pods_injection_input() {
    let steps = vec![prove((StatusCode::CREATED, injected()))];
    let outcome = scripted(steps, async |client| cluster::prove(client, &own()).await).await;
    assert!(outcome.unwrap().is_ready());
}

#[tokio::test]
async fn a_dry_run_that_comes_back_bare_is_not_ready() {
    let steps = vec![prove((StatusCode::CREATED, twin()))];
    let outcome = scripted(steps, async |client| cluster::prove(client, &own()).await).await;
    assert!(matches!(outcome.unwrap(), ProbeResult::NotReady(_)));
}

#[tokio::test]
async fn a_dry_run_that_the_injector_denies_is_not_ready() {
    let message =
        "admission webhook \"linkerd-proxy-injector.linkerd.io\" denied the request: namespaces \"shop\" not found";
    let steps = vec![prove(status(400, "BadRequest", message))];
    let outcome = scripted(steps, async |client| cluster::prove(client, &own()).await).await;
    assert!(matches!(outcome.unwrap(), ProbeResult::NotReady(_)));
}

#[tokio::test]
async fn a_missing_right_names_the_role_and_the_account() {
    let message = "pods is forbidden: User \"system:serviceaccount:shop:web\" cannot create resource \"pods\" in API group \
                   \"\" in the namespace \"shop\"";
    let steps = vec![prove(status(403, "Forbidden", message))];
    let error = scripted(steps, async |client| cluster::prove(client, &own()).await).await.unwrap_err();
    assert!(matches!(error, RequestError::Refused(_)));
    let text = error.to_string();
    assert!(text.contains("--verb=get,create,delete --resource=pods"), "{text}");
    assert!(text.contains("--serviceaccount=shop:web"), "{text}");
}

#[tokio::test]
async fn a_deletion_has_a_uid_precondition_and_nothing_else() {
    let steps = vec![delete((StatusCode::OK, serde_json::to_value(own()).unwrap()))];
    let deletion = scripted(steps, async |client| cluster::delete(client, "shop", "web-0", "u-1").await).await;
    assert_eq!(deletion.unwrap(), Deletion::Deleted);
}

#[tokio::test]
async fn a_name_that_belongs_to_another_pod_now_deletes_nothing() {
    for answer in
        [status(409, "Conflict", "the UID in the precondition (u-1) does not match"), status(404, "NotFound", "")]
    {
        let steps = vec![delete(answer)];
        let deletion = scripted(steps, async |client| cluster::delete(client, "shop", "web-0", "u-1").await).await;
        assert_eq!(deletion.unwrap(), Deletion::AlreadyGone);
    }
}

#[tokio::test]
async fn a_failed_deletion_is_an_error_and_is_not_tried_again_here() {
    for code in [429, 500, 503, 504] {
        let steps = vec![delete(status(code, "X", "try later"))];
        let deletion = scripted(steps, async |client| cluster::delete(client, "shop", "web-0", "u-1").await).await;
        assert!(matches!(deletion, Err(RequestError::Failed { .. })), "{code}");
    }
}

#[tokio::test]
async fn a_pod_that_is_gone_differs_from_one_that_cannot_be_read() {
    let gone = vec![get(status(404, "NotFound", "pods \"web-0\" not found"))];
    let pod = scripted(gone, async |client| cluster::get(client, "shop", "web-0").await).await;
    assert!(pod.unwrap().is_none());

    let message = "pods \"web-0\" is forbidden: User \"system:serviceaccount:shop:web\" cannot get resource \"pods\"";
    let refused = vec![get(status(403, "Forbidden", message))];
    let pod = scripted(refused, async |client| cluster::get(client, "shop", "web-0").await).await;
    assert!(matches!(pod, Err(RequestError::Refused(_))));
}

#[tokio::test]
async fn a_pod_replaces_itself_after_three_proofs_and_not_before() {
    let steps =
        vec![get((StatusCode::OK, own_json())), proven(), proven(), proven(), delete((StatusCode::OK, own_json()))];
    assert_eq!(replace(steps).await.unwrap(), Replacing::Deleted);
}

#[tokio::test]
async fn a_proof_that_fails_deletes_nothing_whichever_it_is() {
    for proofs in 0..3 {
        let mut steps = vec![get((StatusCode::OK, own_json()))];
        steps.extend((0..proofs).map(|_| proven()));
        steps.push(prove((StatusCode::CREATED, twin())));
        assert!(
            matches!(replace(steps).await, Err(NotReplaced::NotInjected(ProbeResult::NotReady(_)))),
            "after {proofs}"
        );
    }
}

#[tokio::test]
async fn a_refused_injected_pod_proves_the_injector_deletes_nothing() {
    let message = "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": non-default capabilities (container \
                   \"linkerd-init\" must not include \"NET_ADMIN\")";
    let steps = vec![get((StatusCode::OK, own_json())), prove(status(403, "Forbidden", message))];
    let why = replace(steps).await.unwrap_err();
    assert!(matches!(why, NotReplaced::NotInjected(ProbeResult::NotReady(_))), "{why}");
    assert!(why.to_string().contains("once injected it is refused"), "{why}");
}

#[tokio::test]
async fn a_pod_that_no_owner_creates_again_is_not_deleted() {
    let owner = |kind: &str, version: &str| json!([{"apiVersion": version, "kind": kind, "name": "o", "uid": "o-1", "controller": true}]);
    for (owners, text) in [
        (Value::Null, "no controller"),
        (json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": "o-1"}]), "no controller"),
        (owner("Job", "batch/v1"), "LINKERD_GATE_ON_MISSED=exit"),
        (owner("TaskRun", "tekton.dev/v1"), "its owner is a TaskRun"),
        (owner("ReplicaSet", "example.com/v1"), "its owner is a ReplicaSet (example.com/v1)"),
    ] {
        let mut pod = own_json();
        pod["metadata"]["ownerReferences"] = owners;
        let why = replace(vec![get((StatusCode::OK, pod))]).await.unwrap_err().to_string();
        assert!(why.contains(text), "{why}");
    }
}

#[tokio::test]
async fn another_uid_or_no_pod_at_all_is_only_read_and_said() {
    let mut younger = own_json();
    younger["metadata"]["uid"] = "u-2".into();
    for answer in [(StatusCode::OK, younger), status(404, "NotFound", "pods \"web-0\" not found")] {
        let why = replace(vec![get(answer)]).await.unwrap_err();
        assert!(matches!(why, NotReplaced::Unknown { .. }), "{why}");
    }
}

#[tokio::test]
async fn a_pod_that_is_going_away_is_only_read() {
    let mut going = own_json();
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(replace(vec![get((StatusCode::OK, going))]).await.unwrap(), Replacing::AlreadyGoing);
}

// The agent's writes.

const NODE: &str = "/api/v1/nodes/node-0?fieldManager=linkerd-gate";

/// A node with somebody else's taint.
fn node_json() -> Value {
    json!({
        "metadata": {"name": "node-0", "uid": "n-1", "resourceVersion": "7", "annotations": {"a": "b"}},
        "spec": {"taints": [stranger()]},
    })
}

fn stranger() -> Value {
    json!({"key": "example.com/mine", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"})
}

fn ours(value: &str) -> Value {
    json!({"key": "linkerd-gate/closed", "value": value, "effect": "NoSchedule"})
}

fn view(node: Value) -> NodeView {
    NodeView::of(&serde_json::from_value::<Node>(node).unwrap())
}

fn set(value: &str) -> Edit {
    Edit::Set(value.to_owned())
}

fn change(taint: Edit, opened_boot: Edit) -> NodeChange {
    NodeChange { taint, opened_boot, ..NodeChange::NOTHING }
}

async fn patch_node(
    before: Value,
    change: &NodeChange,
    body: Value,
    answer: (StatusCode, Value),
) -> Result<NodeView, PatchError> {
    let steps = vec![Step { method: Method::PATCH, path_and_query: NODE, body, answer }];
    scripted(steps, async |client| node::patch(client, TAINT_KEY, &view(before), change).await).await
}

fn version(version: &str) -> Value {
    json!({"op": "replace", "path": "/metadata/resourceVersion", "value": version})
}

#[tokio::test]
async fn closing_a_node_adds_one_taint_to_those_that_were_read() {
    let body = json!([
        version("7"),
        {"op": "test", "path": "/spec/taints", "value": [stranger()]},
        {"op": "add", "path": "/spec/taints", "value": [stranger(), ours("boot1-5")]},
    ]);
    let mut closed = node_json();
    closed["spec"]["taints"] = json!([stranger(), ours("boot1-5")]);
    closed["metadata"]["resourceVersion"] = "8".into();
    let answer = (StatusCode::OK, closed.clone());
    let after = patch_node(node_json(), &change(set("boot1-5"), Edit::Keep), body, answer).await;
    assert_eq!(after, Ok(view(closed)));
}

#[tokio::test]
async fn opening_a_node_lifts_one_taint_and_writes_one_annotation() {
    let mut closed = node_json();
    closed["spec"]["taints"] = json!([ours("boot1-5"), stranger()]);
    let body = json!([
        version("7"),
        {"op": "test", "path": "/spec/taints", "value": [ours("boot1-5"), stranger()]},
        {"op": "add", "path": "/spec/taints", "value": [stranger()]},
        {"op": "add", "path": "/metadata/annotations/linkerd-gate~1opened-boot", "value": "boot-1"},
    ]);
    let after = patch_node(closed, &change(Edit::Remove, set("boot-1")), body, (StatusCode::OK, node_json())).await;
    assert_eq!(after, Ok(view(node_json())));
}

#[tokio::test]
async fn freeing_a_node_leaves_nothing_behind() {
    let mut closed = node_json();
    closed["spec"]["taints"] = json!([ours("boot1-5")]);
    closed["metadata"]["annotations"] = json!({"linkerd-gate/opened-boot": "boot-0"});
    let body = json!([
        version("7"),
        {"op": "test", "path": "/spec/taints", "value": [ours("boot1-5")]},
        {"op": "remove", "path": "/spec/taints"},
        {"op": "remove", "path": "/metadata/annotations/linkerd-gate~1opened-boot"},
    ]);
    assert!(patch_node(closed, &change(Edit::Remove, Edit::Remove), body, (StatusCode::OK, node_json())).await.is_ok());
}

#[tokio::test]
async fn adopting_a_node_writes_an_annotation_and_tests_no_taint() {
    let mut bare = node_json();
    bare["metadata"].as_object_mut().unwrap().remove("annotations");
    let body = json!([
        version("7"),
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "add", "path": "/metadata/annotations/linkerd-gate~1opened-boot", "value": "boot-1"},
    ]);
    assert!(patch_node(bare, &change(Edit::Keep, set("boot-1")), body, (StatusCode::OK, node_json())).await.is_ok());
}

#[tokio::test]
async fn a_failed_node_patch_reports_its_cause_and_is_not_repeated() {
    // What a genuine API server says of a `test` that fails.
    let lost = "the server rejected our request due to an error in our request";
    let denied = "nodes \"node-0\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-agent-nodes' with binding \
                  'linkerd-gate-agent-nodes' denied request: not yours";
    let body = json!([
        version("7"),
        {"op": "test", "path": "/spec/taints", "value": [stranger()]},
        {"op": "add", "path": "/spec/taints", "value": [stranger(), ours("boot1-5")]},
    ]);
    for (answer, expected) in [
        (status(409, "Conflict", "the object has been modified"), "conflict"),
        (status(422, "Invalid", lost), "conflict"),
        (status(422, "Invalid", denied), "denied"),
        (status(403, "Forbidden", "cannot patch resource \"nodes\""), "failed"),
        (status(404, "NotFound", "nodes \"node-0\" not found"), "failed"),
        (status(500, "InternalError", "etcd is away"), "failed"),
    ] {
        let (code, message) = (answer.0, answer.1["message"].as_str().unwrap().to_owned());
        let change = change(set("boot1-5"), Edit::Keep);
        let result = patch_node(node_json(), &change, body.clone(), answer).await.unwrap_err();
        let text = match &result {
            PatchError::Conflict => "conflict",
            PatchError::Denied(why) => {
                assert!(why.contains(&message), "{why}");
                "denied"
            }
            PatchError::Failed(why) => {
                assert!(why.contains(&message), "{why}");
                "failed"
            }
        };
        assert_eq!(text, expected, "{code} {message}");
    }
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases?fieldManager=linkerd-gate";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases/linkerd-gate?fieldManager=linkerd-gate";
const NOW: &str = "2026-01-01T00:00:00.000000Z";

fn me() -> LeaseHolder {
    LeaseHolder::read("node-0/linkerd-gate-x/boot-1")
}

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn published_verdict() -> PublishedVerdict {
    let lacking = ("kube-system/cni".to_owned(), BTreeSet::from(["node-0".to_owned()]));
    PublishedVerdict::new(&Gate::closed(), TaintSuppressions::from([lacking]), Vec::new())
}

const VERDICT: &str =
    r#"{"version":1,"gate":"closed","failedProbes":[],"taintSuppressedBy":{"kube-system/cni":["node-0"]}}"#;

fn record(holder: Option<&str>) -> LeaseRecord {
    LeaseRecord {
        resource_version: "7".to_owned(),
        holder: holder.map(LeaseHolder::read),
        transitions: 3,
        manual_override: Some("open …".to_owned()),
        ..LeaseRecord::default()
    }
}

fn lease_json(version: &str) -> Value {
    json!({
        "metadata": {"name": "linkerd-gate", "resourceVersion": version, "annotations": {"linkerd-gate/verdict": VERDICT}},
        "spec": {"holderIdentity": "node-0/linkerd-gate-x/boot-1", "renewTime": NOW, "leaseTransitions": 4},
    })
}

async fn write_lease(record: Option<&LeaseRecord>, step: Step) -> Result<LeaseRecord, LeaseError> {
    scripted(vec![step], async |client| {
        lease::write(
            client,
            "linkerd-gate",
            PROVER_LEASE,
            record,
            &me(),
            Some(("linkerd-gate/verdict", published_verdict().write())),
            now(),
        )
        .await
    })
    .await
}

fn patch_lease(body: Value, answer: (StatusCode, Value)) -> Step {
    Step { method: Method::PATCH, path_and_query: LEASE, body, answer }
}

fn create_lease(answer: (StatusCode, Value)) -> Step {
    let body = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "linkerd-gate", "annotations": {"linkerd-gate/verdict": VERDICT}},
        "spec": {
            "holderIdentity": "node-0/linkerd-gate-x/boot-1", "leaseDurationSeconds": 15,
            "acquireTime": NOW, "renewTime": NOW, "leaseTransitions": 0,
        },
    });
    Step { method: Method::POST, path_and_query: LEASES, body, answer }
}

/// A renewal says nothing of when the Lease was taken.
fn renewal() -> Value {
    json!({
        "metadata": {"resourceVersion": "7", "annotations": {"linkerd-gate/verdict": VERDICT}},
        "spec": {"holderIdentity": "node-0/linkerd-gate-x/boot-1", "leaseDurationSeconds": 15, "renewTime": NOW},
    })
}

#[tokio::test]
async fn a_lease_is_made_taken_renewed_and_given_up_under_its_version() {
    let made = write_lease(None, create_lease((StatusCode::CREATED, lease_json("8")))).await.unwrap();
    assert_eq!((made.resource_version.as_str(), made.holder), ("8", Some(me())));

    let mut taking = renewal();
    taking["spec"]["acquireTime"] = NOW.into();
    taking["spec"]["leaseTransitions"] = 4.into();
    for before in [None, Some("node-1/linkerd-gate-y/boot-9")] {
        let taken =
            write_lease(Some(&record(before)), patch_lease(taking.clone(), (StatusCode::OK, lease_json("8")))).await;
        assert_eq!(taken.unwrap().transitions, 4);
    }

    let ours = record(Some("node-0/linkerd-gate-x/boot-1"));
    assert!(write_lease(Some(&ours), patch_lease(renewal(), (StatusCode::OK, lease_json("8")))).await.is_ok());

    let body = json!({"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": null, "renewTime": NOW}});
    let mut free = lease_json("8");
    free["spec"]["holderIdentity"] = "".into();
    let steps = vec![patch_lease(body, (StatusCode::OK, free))];
    let left =
        scripted(steps, async |client| lease::give_up(client, "linkerd-gate", PROVER_LEASE, &ours, now()).await).await;
    assert_eq!(left.unwrap().holder, None);
}

#[tokio::test]
async fn only_a_lease_changed_by_another_client_is_a_conflict() {
    let ours = record(Some("node-0/linkerd-gate-x/boot-1"));
    for answer in [
        status(409, "Conflict", "the object has been modified"),
        status(404, "NotFound", "leases.coordination.k8s.io \"linkerd-gate\" not found"),
    ] {
        assert_eq!(write_lease(Some(&ours), patch_lease(renewal(), answer)).await, Err(LeaseError::Conflict));
    }
    let there = status(409, "AlreadyExists", "leases.coordination.k8s.io \"linkerd-gate\" already exists");
    assert_eq!(write_lease(None, create_lease(there)).await, Err(LeaseError::Conflict));
    for code in [403, 422, 429, 500, 503] {
        let failed = write_lease(Some(&ours), patch_lease(renewal(), status(code, "X", "because"))).await;
        assert!(matches!(&failed, Err(LeaseError::Failed(why)) if why.contains("because")), "{failed:?}");
    }
}

async fn tolerated(has_tolerations: bool, body: Value, answer: (StatusCode, Value)) -> Result<Tolerated, String> {
    let pod = AddToleration {
        namespace: "kube-system".to_owned(),
        name: "dns-0".to_owned(),
        uid: "u-1".to_owned(),
        has_tolerations,
    };
    let path_and_query = "/api/v1/namespaces/kube-system/pods/dns-0?fieldManager=linkerd-gate";
    let steps = vec![Step { method: Method::PATCH, path_and_query, body, answer }];
    scripted(steps, async |client| tolerate(client, TAINT_KEY, &pod).await).await
}

#[tokio::test]
async fn an_essential_pod_gets_one_toleration_after_those_that_it_has() {
    let one = json!({"key": "linkerd-gate/closed", "operator": "Exists", "effect": "NoSchedule"});
    let uid = json!({"op": "test", "path": "/metadata/uid", "value": "u-1"});
    let after = json!([uid, {"op": "add", "path": "/spec/tolerations/-", "value": one}]);
    let alone = json!([
        uid,
        {"op": "test", "path": "/spec/tolerations", "value": null},
        {"op": "add", "path": "/spec/tolerations", "value": [one]},
    ]);
    assert_eq!(tolerated(true, after.clone(), (StatusCode::OK, own_json())).await, Ok(Tolerated::Added));
    assert_eq!(tolerated(false, alone, (StatusCode::OK, own_json())).await, Ok(Tolerated::Added));
    for answer in [status(404, "NotFound", "gone"), status(409, "Conflict", "changed")] {
        assert_eq!(tolerated(true, after.clone(), answer).await, Ok(Tolerated::Conflict));
    }
    for code in [403, 422, 500] {
        let refused = tolerated(true, after.clone(), status(code, "X", "because")).await;
        assert!(refused.is_err_and(|why| why.contains("pod kube-system/dns-0") && why.contains("because")), "{code}");
    }
}

/// The smallest pod that every level of PodSecurity takes, with a fixed name and no owner.
fn dry_run(answer: (StatusCode, Value)) -> Step {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "linkerd-gate-probe"},
        "spec": {"containers": [{"name": "probe", "image": "registry.k8s.io/pause:3.10", "securityContext": strict()}]},
    });
    let path_and_query = "/api/v1/namespaces/linkerd-gate-probe/pods?dryRun=All&fieldManager=linkerd-gate";
    Step { method: Method::POST, path_and_query, body, answer }
}

#[tokio::test]
async fn a_dry_run_is_sent_once_whatever_comes_of_it() {
    let refused = "pods \"x\" is forbidden: User \"u\" cannot create resource \"pods\" in API group \"\"";
    for (answer, expected) in [
        ((StatusCode::CREATED, injected()), "ready"),
        ((StatusCode::CREATED, twin()), "not ready: a dry-run pod came back without"),
        (status(404, "NotFound", "namespaces \"linkerd-gate-probe\" not found"), "unknown: there is no namespace"),
        (status(403, "Forbidden", refused), "unknown: a dry-run pod may not be sent"),
        (status(409, "AlreadyExists", "pods \"x\" already exists"), "unknown: a dry-run pod was refused"),
        (status(422, "Invalid", "ValidatingAdmissionPolicy 'x' denied request"), "unknown: a dry-run pod was refused"),
        (
            status(500, "InternalError", "failed calling webhook \"policy.example.com\""),
            "unknown: a dry-run pod was refused",
        ),
        (status(429, "TooManyRequests", "later"), "unknown: a dry-run pod was refused"),
    ] {
        let proof = scripted(vec![dry_run(answer)], async |client| {
            dry_run::send(client, "linkerd-gate-probe", &BTreeMap::new(), None).await
        })
        .await;
        let outcome = proof.answer().expect("an answer");
        assert!(outcome.to_string().starts_with(expected), "{outcome}");
    }
}

#[tokio::test]
async fn an_event_is_created_on_the_node_and_nowhere_else() {
    let event = |warning: bool, answer| {
        let body = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": "node-0.", "namespace": "default"},
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": "node-0", "uid": "n-1"},
            "type": if warning { "Warning" } else { "Normal" },
            "reason": "GateClosed", "message": "closed: why", "count": 1,
            "source": {"component": "linkerd-gate", "host": "node-0"},
            "reportingComponent": "linkerd-gate", "reportingInstance": "node-0",
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
        });
        vec![Step { method: Method::POST, path_and_query: "/api/v1/namespaces/default/events", body, answer }]
    };
    let noted = async |warning: bool, answer| {
        scripted(event(warning, answer), async |client| {
            let reporter = Reporter { instance: "node-0", node: Some("node-0") };
            let subject = EventSubject::node(&view(node_json()));
            event::note(client, reporter, &subject, warning, "GateClosed", "closed: why", now()).await
        })
        .await
    };
    let created = json!({"metadata": {"name": "node-0.x"}, "involvedObject": {}});
    for warning in [false, true] {
        assert_eq!(noted(warning, (StatusCode::CREATED, created.clone())).await, Ok(()));
    }
    for code in [403, 404, 409, 422, 500] {
        let failed = noted(false, status(code, "X", "because")).await;
        assert!(failed.is_err_and(|why| why.contains("event on node node-0") && why.contains("because")), "{code}");
    }
}

#[tokio::test]
async fn a_missing_installation_differs_from_an_unreadable_one() {
    let asked = async |answer| {
        let path_and_query = "/apis/apps/v1/namespaces/linkerd-gate/daemonsets/linkerd-gate";
        let steps = vec![Step { method: Method::GET, path_and_query, body: Value::Null, answer }];
        scripted(steps, async |client| installation(client, "linkerd-gate").await).await
    };
    let there = json!({"metadata": {"name": "linkerd-gate", "creationTimestamp": "1970-01-01T00:01:00Z"}});
    assert_eq!(asked((StatusCode::OK, there.clone())).await, Ok(Installation::Since(60)));
    let mut going = there;
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(asked((StatusCode::OK, going)).await, Ok(Installation::Removed));
    assert_eq!(asked(status(404, "NotFound", "not found")).await, Ok(Installation::Removed));
    for code in [403, 500] {
        assert!(asked(status(code, "X", "because")).await.is_err(), "{code}");
    }
}
