//! What `release` and `recreate` ask of the API server, held to method, path and body by a scripted one.

mod scripted;

use std::path::Path;

use http::{Method, StatusCode};
use k8s_openapi::jiff::Timestamp;
use linkerd_gate::command::{
    not_done::NotDone,
    recreate::{self, Recreate},
    release::{self, Release},
};
use scripted::{Step, scripted, status};
use serde_json::{Value, json};

const POD: &str = "/api/v1/namespaces/shop/pods/web";
const PATCH: &str = "/api/v1/namespaces/shop/pods/web?fieldManager=linkerd-gate";
const EVENTS: &str = "/api/v1/namespaces/shop/events";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const CREATE: &str = "/api/v1/namespaces/shop/pods?fieldManager=linkerd-gate";
const DRY_RUN: &str = "/api/v1/namespaces/shop/pods?dryRun=All&fieldManager=linkerd-gate";
const LIST: &str = "/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Dweb&limit=500";

/// A pod as our gate holds it, beside another program's.
fn held() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7",
            "annotations": {"linkerd.io/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}],
            "schedulingGates": [{"name": "example.com/quota"}, {"name": "linkerd-gate/injected"}]},
        "status": {"phase": "Pending"},
    })
}

fn with(mut pod: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut pod);
    pod
}

fn get(answer: (StatusCode, Value)) -> Step {
    Step { method: Method::GET, path_and_query: POD, body: Value::Null, answer }
}

fn patch(answer: (StatusCode, Value)) -> Step {
    let body = json!([
        {"op": "test", "path": "/metadata/uid", "value": "u-1"},
        {"op": "test", "path": "/spec/schedulingGates",
         "value": [{"name": "example.com/quota"}, {"name": "linkerd-gate/injected"}]},
        {"op": "add", "path": "/metadata/annotations/linkerd-gate~1release", "value": "true"},
        {"op": "replace", "path": "/spec/schedulingGates", "value": [{"name": "example.com/quota"}]},
    ]);
    Step { method: Method::PATCH, path_and_query: PATCH, body, answer }
}

fn event(answer: (StatusCode, Value)) -> Step {
    let body = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"generateName": "web.", "namespace": "shop"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web", "uid": "u-1"},
        "type": "Warning", "reason": "Released",
        "message": "released by hand: linkerd-gate's gate was taken off, and the pod starts outside the mesh",
        "source": {"component": "linkerd-gate"}, "reportingComponent": "linkerd-gate",
        "reportingInstance": "linkerd-gate-release", "count": 1,
        "firstTimestamp": "2026-01-01T05:00:00Z", "lastTimestamp": "2026-01-01T05:00:00Z",
    });
    Step { method: Method::POST, path_and_query: EVENTS, body, answer }
}

fn metadata() -> (StatusCode, Value) {
    let kind = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "web"}});
    (StatusCode::OK, kind)
}

fn made_event() -> (StatusCode, Value) {
    (StatusCode::CREATED, json!({"metadata": {"name": "web.1"}, "involvedObject": {}}))
}

/// Standard output and standard error.
type Said = (String, String);

fn said(out: Vec<u8>, ended: Result<(), NotDone>) -> Said {
    (String::from_utf8(out).unwrap(), ended.err().map(|error| error.to_string()).unwrap_or_default())
}

async fn release(steps: Vec<Step>, pods: &[&str]) -> Said {
    let now: Timestamp = "2026-01-01T05:00:00Z".parse().unwrap();
    let release = Release { namespace: "shop".to_owned(), pods: pods.iter().map(|pod| (*pod).to_owned()).collect() };
    let mut out = Vec::new();
    let ended = scripted(steps, async |client| release::run_with(&client, &release, now, &mut out).await).await;
    said(out, ended)
}

#[tokio::test]
async fn release_is_one_patch_that_leaves_other_gates_and_a_warning() {
    let steps = vec![get((StatusCode::OK, held())), patch(metadata()), event(made_event())];
    let (printed, refused) = release(steps, &["web"]).await;
    assert_eq!(
        printed,
        "pod/web -n shop: released\nWarning: it starts outside the mesh, without a proxy; to bring it into the mesh, delete it \
         once the injector answers, and apply its manifest again\npod/web -n shop: other gates still hold it: example.com/quota\n"
    );
    assert_eq!(refused, "");
}

#[tokio::test]
async fn a_released_pod_without_annotations_names_its_owner() {
    let pod = with(held(), |pod| {
        pod["metadata"].as_object_mut().unwrap().remove("annotations");
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "o-1", "controller": true}]);
        pod["spec"]["schedulingGates"] = json!([{"name": "linkerd-gate/injected"}]);
    });
    let body = json!([
        {"op": "test", "path": "/metadata/uid", "value": "u-1"},
        {"op": "test", "path": "/spec/schedulingGates", "value": [{"name": "linkerd-gate/injected"}]},
        {"op": "test", "path": "/metadata/annotations", "value": null},
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "add", "path": "/metadata/annotations/linkerd-gate~1release", "value": "true"},
        {"op": "remove", "path": "/spec/schedulingGates"},
    ]);
    let patch = Step { method: Method::PATCH, path_and_query: PATCH, body, answer: metadata() };
    // That no Event can be written takes nothing back.
    let denied = status(403, "Forbidden", "events is forbidden: User \"jane\" cannot create resource \"events\"");
    let (printed, refused) = release(vec![get((StatusCode::OK, pod)), patch, event(denied)], &["web"]).await;
    assert!(printed.contains("its ReplicaSet web-1 creates it again"), "{printed}");
    assert!(printed.contains("no Event tells of it") && refused.is_empty(), "{printed}{refused}");
}

#[tokio::test]
async fn a_pod_changed_meanwhile_is_read_again_and_left_if_released() {
    let raced = status(409, "Conflict", "the object has been modified");
    let released = with(held(), |pod| {
        pod["metadata"]["annotations"]["linkerd-gate/release"] = json!("true");
        pod["spec"]["schedulingGates"] = json!([]);
    });
    let steps = vec![get((StatusCode::OK, held())), patch(raced), get((StatusCode::OK, released))];
    let (printed, refused) = release(steps, &["web"]).await;
    assert!(printed.contains("was released before") && refused.is_empty(), "{printed}{refused}");
}

#[tokio::test]
async fn what_cannot_be_released_says_why_and_what_to_type() {
    let ungated = |node: Value| {
        with(held(), |pod| {
            pod["spec"]["schedulingGates"] = Value::Null;
            pod["spec"]["nodeName"] = node;
        })
    };
    let rbac = "pods \"web\" is forbidden: User \"jane\" cannot patch resource \"pods\" in API group \"\"";
    let policy = "ValidatingAdmissionPolicy 'x' with binding 'x' denied request: no";
    for (steps, says) in [
        (vec![get(status(404, "NotFound", "pods \"web\" not found"))], "`kubectl get pods -n shop` lists them"),
        (vec![get((StatusCode::OK, ungated(Value::Null)))], "it has no scheduling gate linkerd-gate/injected"),
        (vec![get((StatusCode::OK, ungated(json!("node-1"))))], "linkerd-gate open node-1 --for 1h"),
        (
            vec![get((
                StatusCode::OK,
                with(held(), |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            ))],
            "it is being deleted",
        ),
        (
            vec![get((StatusCode::OK, held())), patch(status(403, "Forbidden", rbac))],
            "--verb=get,list,patch --resource=pods",
        ),
        (vec![get((StatusCode::OK, held())), patch(status(422, "Invalid", policy))], "the API server refused it (422)"),
        (vec![get(status(401, "Unauthorized", "no"))], "does not know who you are"),
    ] {
        let (printed, refused) = release(steps, &["web"]).await;
        assert!(printed.is_empty() && refused.contains(says), "{says}: {printed}{refused}");
        assert!(refused.starts_with("pod/web -n shop: "), "{refused}");
    }
}

#[tokio::test]
async fn all_of_a_namespace_are_those_that_our_gate_holds() {
    let other = with(held(), |pod| {
        pod["metadata"]["name"] = json!("other");
        pod["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
    });
    let list = |items: Value| Step {
        method: Method::GET,
        path_and_query: PODS,
        body: Value::Null,
        answer: (StatusCode::OK, json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})),
    };
    let steps =
        vec![list(json!([held(), other])), get((StatusCode::OK, held())), patch(metadata()), event(made_event())];
    let (printed, refused) = release(steps, &[]).await;
    assert!(printed.starts_with("pod/web -n shop: released\n") && refused.is_empty(), "{printed}{refused}");
    let (printed, _) = release(vec![list(json!([]))], &[]).await;
    assert!(printed.contains("nothing to release"), "{printed}");
}

// `recreate`

async fn recreate(steps: Vec<Step>, directory: &Path) -> Said {
    let recreate = Recreate { namespace: "shop".to_owned(), pod: "web".to_owned(), directory: directory.to_owned() };
    let mut out = Vec::new();
    let act = async |client| recreate::run_with(&client, &client, &recreate, &mut out).await;
    let ended = scripted(steps, act).await;
    said(out, ended)
}

fn manifest(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "annotations": {"linkerd.io/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}], "schedulingGates": [{"name": "example.com/quota"}]},
    })
}

fn meshed() -> (StatusCode, Value) {
    let mut pod = manifest("web");
    pod["spec"]["initContainers"] = json!([{"name": "linkerd-proxy"}]);
    (StatusCode::CREATED, pod)
}

fn dry_run(answer: (StatusCode, Value)) -> Step {
    let body = manifest("linkerd-gate-recreate-u-1");
    Step { method: Method::POST, path_and_query: DRY_RUN, body, answer }
}

fn delete(answer: (StatusCode, Value)) -> Step {
    let body = json!({"preconditions": {"uid": "u-1", "resourceVersion": "7"}});
    Step { method: Method::DELETE, path_and_query: POD, body, answer }
}

fn gone() -> Step {
    let answer = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": []});
    Step { method: Method::GET, path_and_query: LIST, body: Value::Null, answer: (StatusCode::OK, answer) }
}

fn create(answer: (StatusCode, Value)) -> Step {
    Step { method: Method::POST, path_and_query: CREATE, body: manifest("web"), answer }
}

fn files(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap();
    names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_pod_is_recreated_only_after_a_successful_dry_run() {
    let directory = tempfile::tempdir().unwrap();
    let steps = vec![
        get((StatusCode::OK, held())),
        dry_run(meshed()),
        delete((StatusCode::OK, held())),
        gone(),
        create(meshed()),
    ];
    let (printed, refused) = recreate(steps, directory.path()).await;
    assert!(printed.ends_with("pod/web -n shop: created again, in the mesh\n"), "{printed}");
    assert!(printed.contains("deleted; its manifest is in") && refused.is_empty(), "{printed}{refused}");
    assert!(files(directory.path()).is_empty(), "the manifest was left behind");
}

#[tokio::test]
async fn no_pod_is_deleted_if_its_dry_run_is_refused_or_held() {
    let directory = tempfile::tempdir().unwrap();
    let quota = "pods \"x\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4";
    for (answer, says) in [
        ((StatusCode::CREATED, held()), "it comes back held again"),
        ((StatusCode::CREATED, manifest("x")), "it comes back without Linkerd's proxy"),
        (status(403, "Forbidden", quota), "raise the quota by one pod for a moment"),
        (status(403, "Forbidden", "User \"jane\" cannot create resource \"pods\""), "linkerd-gate-recreate"),
    ] {
        let (printed, refused) = recreate(vec![get((StatusCode::OK, held())), dry_run(answer)], directory.path()).await;
        assert!(
            printed.is_empty() && refused.contains(says) && refused.contains("nothing was done"),
            "{printed}{refused}"
        );
    }
    assert!(files(directory.path()).is_empty());
}

#[tokio::test]
async fn recreate_refuses_an_owned_or_missing_pod_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let owned = with(held(), |pod| {
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "o-1", "controller": true}]);
    });
    let (_, refused) = recreate(vec![get((StatusCode::OK, owned))], directory.path()).await;
    assert!(refused.contains("its ReplicaSet web-1 creates it again"), "{refused}");
    let (_, refused) = recreate(vec![get(status(404, "NotFound", "pods \"web\" not found"))], directory.path()).await;
    assert!(refused.contains("there is no such pod"), "{refused}");
}

#[tokio::test]
async fn a_manifest_that_cannot_be_kept_keeps_the_pod() {
    let steps = vec![get((StatusCode::OK, held())), dry_run(meshed())];
    let (_, refused) = recreate(steps, Path::new("/nonexistent")).await;
    assert!(refused.contains("cannot be kept in /nonexistent") && refused.contains("--directory"), "{refused}");
}

#[tokio::test]
async fn recreate_leaves_a_pod_that_changed_and_keeps_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let raced = status(409, "Conflict", "Precondition failed: UID in precondition: u-1");
    let steps = vec![get((StatusCode::OK, held())), dry_run(meshed()), delete(raced)];
    let (_, refused) = recreate(steps, directory.path()).await;
    assert!(refused.contains("nothing was done") && files(directory.path()).is_empty(), "{refused}");
}

#[tokio::test]
async fn a_failed_create_after_the_deletion_leaves_the_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let steps = vec![
        get((StatusCode::OK, held())),
        dry_run(meshed()),
        delete((StatusCode::OK, held())),
        gone(),
        create(status(403, "Forbidden", "ValidatingAdmissionPolicy 'x' denied request: no")),
    ];
    let (_, refused) = recreate(steps, directory.path()).await;
    let path = directory.path().join("linkerd-gate-recreate-u-1.json");
    assert!(refused.ends_with(&format!("Nothing is lost: kubectl create -f {}", path.display())), "{refused}");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(kept, manifest("web"));
}

#[tokio::test]
async fn a_pod_that_comes_back_held_again_is_said_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let steps = vec![
        get((StatusCode::OK, held())),
        dry_run(meshed()),
        delete((StatusCode::OK, held())),
        gone(),
        create((StatusCode::CREATED, held())),
    ];
    let (_, refused) = recreate(steps, directory.path()).await;
    assert!(refused.contains("it was created again, but it comes back held again"), "{refused}");
    assert!(files(directory.path()).is_empty());
}
