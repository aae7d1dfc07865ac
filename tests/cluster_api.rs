//! Every request that this program makes of an API server, held to method, path, body and precondition by a scripted one:
//! a request that is not in the script fails the test, and so does one that never came.

mod scripted;

use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use linkerd_gate::cluster::{self, Deletion, NotReplaced, Replacing, RequestError};
use linkerd_gate::decide::Outcome;
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
async fn a_proof_is_a_dry_run_of_a_pod_that_asks_as_ours_does_and_carries_nothing_else_of_it() {
    let steps = vec![prove((StatusCode::CREATED, injected()))];
    let outcome = scripted(steps, async |client| cluster::prove(client, &own()).await).await;
    assert!(outcome.unwrap().is_ready());
}

#[tokio::test]
async fn a_dry_run_that_comes_back_bare_is_not_ready() {
    let steps = vec![prove((StatusCode::CREATED, twin()))];
    let outcome = scripted(steps, async |client| cluster::prove(client, &own()).await).await;
    assert!(matches!(outcome.unwrap(), Outcome::NotReady(_)));
}

#[tokio::test]
async fn a_dry_run_that_the_injector_denies_is_not_ready_and_not_forbidden() {
    let message =
        "admission webhook \"linkerd-proxy-injector.linkerd.io\" denied the request: namespaces \"shop\" not found";
    let steps = vec![prove(status(400, "BadRequest", message))];
    let outcome = scripted(steps, async |client| cluster::prove(client, &own()).await).await;
    assert!(matches!(outcome.unwrap(), Outcome::NotReady(_)));
}

#[tokio::test]
async fn a_missing_right_names_the_role_and_the_account() {
    let message = "pods is forbidden: User \"system:serviceaccount:shop:web\" cannot create resource \"pods\" in API group \
                   \"\" in the namespace \"shop\"";
    let steps = vec![prove(status(403, "Forbidden", message))];
    let error = scripted(steps, async |client| cluster::prove(client, &own()).await).await.unwrap_err();
    assert!(matches!(error, RequestError::Refused(_)));
    let told = error.to_string();
    assert!(told.contains("--verb=get,create,delete --resource=pods"), "{told}");
    assert!(told.contains("--serviceaccount=shop:web"), "{told}");
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
async fn a_pod_that_is_gone_is_told_from_one_that_cannot_be_read() {
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
        assert!(matches!(replace(steps).await, Err(NotReplaced::NotInjected(Outcome::NotReady(_)))), "after {proofs}");
    }
}

#[tokio::test]
async fn an_injected_pod_that_is_refused_is_proof_of_the_injector_but_deletes_nothing() {
    let message = "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": non-default capabilities (container \
                   \"linkerd-init\" must not include \"NET_ADMIN\")";
    let steps = vec![get((StatusCode::OK, own_json())), prove(status(403, "Forbidden", message))];
    let why = replace(steps).await.unwrap_err();
    assert!(matches!(why, NotReplaced::NotInjected(Outcome::NotReady(_))), "{why}");
    assert!(why.to_string().contains("once injected it is refused"), "{why}");
}

#[tokio::test]
async fn a_pod_that_nobody_creates_again_is_only_read() {
    let owner = |kind: &str, version: &str| json!([{"apiVersion": version, "kind": kind, "name": "o", "uid": "o-1", "controller": true}]);
    for (owners, told) in [
        (Value::Null, "no controller"),
        (json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": "o-1"}]), "no controller"),
        (owner("Job", "batch/v1"), "LINKERD_GATE_ON_MISSED=exit"),
        (owner("TaskRun", "tekton.dev/v1"), "its owner is a TaskRun"),
        (owner("ReplicaSet", "example.com/v1"), "its owner is a ReplicaSet (example.com/v1)"),
    ] {
        let mut pod = own_json();
        pod["metadata"]["ownerReferences"] = owners;
        let why = replace(vec![get((StatusCode::OK, pod))]).await.unwrap_err().to_string();
        assert!(why.contains(told), "{why}");
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
