//! What `uninstall` asks of the API server, in which order, held to method, path and body by a scripted one.

mod scripted;

use http::{Method, StatusCode};
use linkerd_gate::command::{
    not_done::NotDone,
    uninstall::{Uninstall, run_with},
};
use scripted::{Step, scripted, status};
use serde_json::{Value, json};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/linkerd-gate/deployments/linkerd-gate-controller";
const DAEMON_SET: &str = "/apis/apps/v1/namespaces/linkerd-gate/daemonsets/linkerd-gate";
const HOLD: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/linkerd-gate-hold";
const BORN: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/linkerd-gate-born-closed";
const GUARD: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/linkerd-gate-guard";
const RELEASE: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/linkerd-gate-release";
const PODS: &str = "/api/v1/pods?limit=500";
const JOBS: &str = "/apis/batch/v1/jobs?limit=500";
const NODES: &str = "/api/v1/nodes?limit=500";
const PROBE: &str = "/api/v1/namespaces/linkerd-gate-probe/pods?dryRun=All&fieldManager=linkerd-gate";
const COPY: &str = "/api/v1/namespaces/shop/pods?dryRun=All&fieldManager=linkerd-gate";
const AGENTS_LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases/linkerd-gate";
const CONTROLLERS_LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases/linkerd-gate-controller";

fn get(path_and_query: &'static str, answer: (StatusCode, Value)) -> Step {
    Step { method: Method::GET, path_and_query, body: Value::Null, answer }
}

fn delete(path_and_query: &'static str, body: Value, answer: (StatusCode, Value)) -> Step {
    Step { method: Method::DELETE, path_and_query, body, answer }
}

fn post(path_and_query: &'static str, body: Value, answer: (StatusCode, Value)) -> Step {
    Step { method: Method::POST, path_and_query, body, answer }
}

fn patch(path_and_query: &'static str, body: Value) -> Step {
    Step { method: Method::PATCH, path_and_query, body, answer: object("x") }
}

fn object(uid: &str) -> (StatusCode, Value) {
    let kind =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x", "uid": uid}});
    (StatusCode::OK, kind)
}

fn success() -> (StatusCode, Value) {
    (StatusCode::OK, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
}

fn not_found() -> (StatusCode, Value) {
    status(404, "NotFound", "not found")
}

fn list(items: &Value) -> (StatusCode, Value) {
    (StatusCode::OK, json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "9"}, "items": items}))
}

/// A held pod of an owner of this kind; none where it is empty.
fn held(name: &str, api_version: &str, kind: &str) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("u-{name}"), "resourceVersion": "7", "annotations": {}},
        "spec": {"containers": [{"name": "app"}], "schedulingGates": [{"name": "linkerd-gate/injected"}]},
    });
    if !kind.is_empty() {
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": api_version, "kind": kind, "name": "it", "uid": "o-1", "controller": true}]);
    }
    pod
}

fn copy(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("linkerd-gate-recreate-u-{name}"), "namespace": "shop", "annotations": {}},
        "spec": {"containers": [{"name": "app"}]},
    })
}

fn probe(answer: (StatusCode, Value)) -> Step {
    let security = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "runAsUser": 2102,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let body = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "linkerd-gate-probe"},
        "spec": {"containers": [{"name": "probe", "image": "registry.k8s.io/pause:3.10", "securityContext": security}]},
    });
    post(PROBE, body, answer)
}

fn injected() -> (StatusCode, Value) {
    (
        StatusCode::CREATED,
        json!({"metadata": {}, "spec": {"containers": [], "initContainers": [{"name": "linkerd-proxy"}]}}),
    )
}

fn bare() -> (StatusCode, Value) {
    (StatusCode::CREATED, json!({"metadata": {}, "spec": {"containers": []}}))
}

fn released(path_and_query: &'static str, name: &str) -> Step {
    let body = json!([
        {"op": "test", "path": "/metadata/uid", "value": format!("u-{name}")},
        {"op": "test", "path": "/spec/schedulingGates", "value": [{"name": "linkerd-gate/injected"}]},
        {"op": "add", "path": "/metadata/annotations/linkerd-gate~1release", "value": "true"},
        {"op": "remove", "path": "/spec/schedulingGates"},
    ]);
    patch(path_and_query, body)
}

fn preconditions(uid: &str, resource_version: &str) -> Value {
    json!({"preconditions": {"uid": uid, "resourceVersion": resource_version}})
}

/// Nothing of ours is there, other than what `let_go` does with held pods, and Jobs and nodes.
fn absent(let_go: Vec<Step>, jobs: &Value, nodes: &Value, marks: Vec<Step>) -> Vec<Step> {
    let mut steps = vec![
        get(DEPLOYMENT, not_found()),
        delete(HOLD, json!({}), not_found()),
        delete(BORN, json!({}), not_found()),
        delete(GUARD, json!({}), not_found()),
        delete(RELEASE, json!({}), not_found()),
    ];
    steps.extend(let_go);
    let mut marks = marks.into_iter();
    steps.push(get(JOBS, list(jobs)));
    steps.extend(marks.by_ref().take(jobs.as_array().unwrap().len()));
    steps.push(get(DAEMON_SET, not_found()));
    steps.push(get(NODES, list(nodes)));
    steps.extend(marks);
    steps.push(delete(AGENTS_LEASE, json!({}), not_found()));
    steps.push(delete(CONTROLLERS_LEASE, json!({}), not_found()));
    steps
}

/// Standard output and standard error.
async fn uninstall(now: bool, steps: Vec<Step>) -> (String, String) {
    let uninstall = Uninstall {
        now,
        namespace: "linkerd-gate".to_owned(),
        probe_namespace: "linkerd-gate-probe".to_owned(),
        taint_key: "linkerd-gate/closed".to_owned(),
    };
    let mut out = Vec::new();
    let act = async |client| run_with(&client, &client, &uninstall, &mut out).await;
    let ended: Result<(), NotDone> = scripted(steps, act).await;
    (String::from_utf8(out).unwrap(), ended.err().map(|error| error.to_string()).unwrap_or_default())
}

#[tokio::test]
async fn where_nothing_is_left_it_says_so_and_writes_nothing() {
    let (printed, refused) =
        uninstall(true, absent(vec![get(PODS, list(&json!([])))], &json!([]), &json!([]), vec![])).await;
    assert!(refused.is_empty(), "{refused}");
    assert!(printed.starts_with("deployment/linkerd-gate-controller -n linkerd-gate: is missing\n"), "{printed}");
    assert!(printed.contains("pods: none is held\n") && printed.contains("\ndone: "), "{printed}");
}

#[tokio::test]
async fn controller_bindings_agents_and_leases_go_in_this_order() {
    let foreground = |uid: &str| json!({"propagationPolicy": "Foreground", "preconditions": {"uid": uid}});
    let gone = |path| get(path, list(&json!([])));
    let steps = vec![
        get(DEPLOYMENT, object("d-1")),
        delete(DEPLOYMENT, foreground("d-1"), success()),
        gone(
            "/apis/apps/v1/namespaces/linkerd-gate/deployments?fieldSelector=metadata.name%3Dlinkerd-gate-controller&limit=500",
        ),
        delete(HOLD, json!({}), success()),
        delete(BORN, json!({}), not_found()),
        delete(GUARD, json!({}), success()),
        delete(RELEASE, json!({}), success()),
        get(PODS, list(&json!([]))),
        get(JOBS, list(&json!([]))),
        get(DAEMON_SET, object("a-1")),
        delete(DAEMON_SET, foreground("a-1"), success()),
        gone("/apis/apps/v1/namespaces/linkerd-gate/daemonsets?fieldSelector=metadata.name%3Dlinkerd-gate&limit=500"),
        get(NODES, list(&json!([]))),
        delete(AGENTS_LEASE, json!({}), success()),
        delete(CONTROLLERS_LEASE, json!({}), success()),
    ];
    let (printed, refused) = uninstall(true, steps).await;
    assert!(refused.is_empty(), "{refused}");
    let lines: Vec<&str> = printed.lines().filter(|line| line.ends_with(": deleted")).collect();
    assert_eq!(
        lines,
        [
            "deployment/linkerd-gate-controller -n linkerd-gate: deleted",
            "mutatingadmissionpolicybinding/linkerd-gate-hold: deleted",
            "validatingadmissionpolicybinding/linkerd-gate-guard: deleted",
            "validatingadmissionpolicybinding/linkerd-gate-release: deleted",
            "daemonset/linkerd-gate -n linkerd-gate: deleted",
            "lease/linkerd-gate -n linkerd-gate: deleted",
            "lease/linkerd-gate-controller -n linkerd-gate: deleted",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn uninstall_deletes_held_pods_once_injection_is_proven() {
    let mut job = held("import", "batch/v1", "Job");
    job["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
    let mut still = copy("web");
    still["spec"]["schedulingGates"] = json!([{"name": "linkerd-gate/injected"}]);
    let guarded = "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding 'linkerd-gate-guard' denied";
    let finalizer = json!([
        {"op": "test", "path": "/metadata/uid", "value": "u-import"},
        {"op": "test", "path": "/spec/schedulingGates", "value": [{"name": "linkerd-gate/injected"}]},
        {"op": "test", "path": "/metadata/finalizers", "value": ["batch.kubernetes.io/job-tracking"]},
        {"op": "replace", "path": "/metadata/finalizers", "value": []},
    ]);
    let let_go = vec![
        get(PODS, list(&json!([held("web", "apps/v1", "ReplicaSet"), job, held("shell", "", "")]))),
        post(COPY, copy("web"), (StatusCode::CREATED, still)),
        post(COPY, copy("web"), status(403, "Forbidden", guarded)),
        post(COPY, copy("web"), bare()),
        probe(injected()),
        probe(injected()),
        probe(injected()),
        delete("/api/v1/namespaces/shop/pods/web", preconditions("u-web", "7"), success()),
        patch("/api/v1/namespaces/shop/pods/import?fieldManager=linkerd-gate", finalizer),
        delete("/api/v1/namespaces/shop/pods/import", json!({"preconditions": {"uid": "u-import"}}), success()),
        released("/api/v1/namespaces/shop/pods/shell?fieldManager=linkerd-gate", "shell"),
        get(PODS, list(&json!([]))),
    ];
    let (printed, refused) = uninstall(true, absent(let_go, &json!([]), &json!([]), vec![])).await;
    assert!(refused.is_empty(), "{refused}");
    for line in [
        "admission, by a dry-run copy of pod/web -n shop: holds nothing any more",
        "injection: proven: held pods are deleted, and their owners create them again, in the mesh",
        "pod/web -n shop: deleted; its ReplicaSet it creates it again",
        "pod/import -n shop: deleted; its Job it creates it again",
        "pod/shell -n shop: released, it starts outside the mesh: no controller creates it again",
    ] {
        assert!(printed.lines().any(|said| said == line), "{line}: {printed}");
    }
}

#[tokio::test]
async fn what_is_held_is_released_where_injection_is_not_proven() {
    let let_go = vec![
        get(PODS, list(&json!([held("web", "apps/v1", "ReplicaSet")]))),
        post(COPY, copy("web"), bare()),
        probe(bare()),
        released("/api/v1/namespaces/shop/pods/web?fieldManager=linkerd-gate", "web"),
        get(PODS, list(&json!([]))),
    ];
    let (printed, refused) = uninstall(true, absent(let_go, &json!([]), &json!([]), vec![])).await;
    assert!(refused.is_empty(), "{refused}");
    assert!(
        printed.contains("injection: not proven (") && printed.contains("released, it starts outside the mesh"),
        "{printed}"
    );
}

#[tokio::test]
async fn jobs_go_on_and_nodes_lose_our_marks_alone() {
    let job = json!({"metadata": {"name": "import", "namespace": "shop", "uid": "j-1", "resourceVersion": "5",
        "annotations": {"linkerd-gate/suspended-at": "2026-01-01T00:00:00Z"}}, "spec": {"suspend": true, "template": {}}});
    let other =
        json!({"spec": {"taints": [{"key": "example.com/x", "effect": "NoSchedule"}]}, "metadata": {"name": "b"}});
    let closed = json!([{"key": "linkerd-gate/closed", "value": "x", "effect": "NoSchedule"}]);
    let node = json!({"metadata": {"name": "a", "annotations": {"linkerd-gate/opened-boot": "x", "y": "z"}}, "spec": {"taints": closed}});
    let resumed = json!({
        "metadata": {"uid": "j-1", "resourceVersion": "5", "annotations": {"linkerd-gate/suspended-at": null}},
        "spec": {"suspend": false},
    });
    let freed = json!([
        {"op": "test", "path": "/spec/taints", "value": closed},
        {"op": "remove", "path": "/spec/taints"},
        {"op": "remove", "path": "/metadata/annotations/linkerd-gate~1opened-boot"},
    ]);
    let marks = vec![
        patch("/apis/batch/v1/namespaces/shop/jobs/import?fieldManager=linkerd-gate", resumed),
        patch("/api/v1/nodes/a?fieldManager=linkerd-gate", freed),
    ];
    let pods = vec![get(PODS, list(&json!([])))];
    let (printed, refused) = uninstall(true, absent(pods, &json!([job]), &json!([node, other]), marks)).await;
    assert!(refused.is_empty(), "{refused}");
    assert!(printed.contains("job/import -n shop: resumed"), "{printed}");
    let line = "node/a: freed of taint linkerd-gate/closed, annotation linkerd-gate/opened-boot\n";
    assert!(printed.contains(line) && !printed.contains("node/b"), "{printed}");
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_the_others_are_taken() {
    let forbidden = |what: &str| status(403, "Forbidden", &format!("User \"jane\" cannot {what}"));
    let mut steps = vec![
        get(DEPLOYMENT, forbidden("get resource \"deployments\"")),
        delete(HOLD, json!({}), forbidden("delete resource \"mutatingadmissionpolicybindings\"")),
        delete(BORN, json!({}), not_found()),
        delete(GUARD, json!({}), success()),
        delete(RELEASE, json!({}), not_found()),
        get(PODS, forbidden("list resource \"pods\"")),
    ];
    steps.extend(absent(vec![], &json!([]), &json!([]), vec![]).into_iter().skip(5));
    let (printed, refused) = uninstall(true, steps).await;
    assert!(printed.contains("linkerd-gate-guard: deleted\n") && !printed.contains("done: "), "{printed}");
    let lines: Vec<&str> = refused.lines().collect();
    assert_eq!(lines.len(), 4, "{refused}");
    assert!(
        lines[0].starts_with("deployment/linkerd-gate-controller -n linkerd-gate: you may not do this"),
        "{refused}"
    );
    assert!(lines[1].contains("the right it takes: those of cluster-admin"), "{refused}");
    assert!(lines[3].starts_with("3 not done"), "{refused}");
}

#[tokio::test]
async fn uninstall_without_now_only_reports_what_it_would_do() {
    let steps = vec![
        get(DEPLOYMENT, object("d-1")),
        get(HOLD, object("h-1")),
        get(BORN, not_found()),
        get(GUARD, object("g-1")),
        get(RELEASE, not_found()),
        get(PODS, list(&json!([held("web", "apps/v1", "ReplicaSet")]))),
        probe(injected()),
        probe(injected()),
        probe(injected()),
        get(JOBS, list(&json!([]))),
        get(DAEMON_SET, object("a-1")),
        get(NODES, list(&json!([]))),
        get(AGENTS_LEASE, object("l-1")),
        get(CONTROLLERS_LEASE, not_found()),
    ];
    let (printed, refused) = uninstall(false, steps).await;
    assert!(refused.is_empty(), "{refused}");
    for line in [
        "deployment/linkerd-gate-controller -n linkerd-gate: would be deleted, its pods first",
        "mutatingadmissionpolicybinding/linkerd-gate-hold: would be deleted",
        "pod/web -n shop: would be deleted; its ReplicaSet it would create it again",
        "daemonset/linkerd-gate -n linkerd-gate: would be deleted, its pods first",
        "nothing was done: `linkerd-gate uninstall --now` does it",
    ] {
        assert!(printed.lines().any(|said| said == line), "{line}: {printed}");
    }
}

#[tokio::test]
async fn policies_without_a_controller_are_warned_of() {
    let steps = vec![
        get(DEPLOYMENT, not_found()),
        get(HOLD, object("h-1")),
        get(BORN, not_found()),
        get(GUARD, object("g-1")),
        get(RELEASE, object("r-1")),
        get(PODS, list(&json!([]))),
        get(JOBS, list(&json!([]))),
        get(DAEMON_SET, not_found()),
        get(NODES, list(&json!([]))),
        get(AGENTS_LEASE, not_found()),
        get(CONTROLLERS_LEASE, not_found()),
    ];
    let (printed, refused) = uninstall(false, steps).await;
    assert!(refused.is_empty(), "{refused}");
    assert!(printed.contains("Warning: admission holds pods, and there is no controller"), "{printed}");
}
