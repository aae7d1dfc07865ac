//! What `open`, `close` and `clear` ask of the API server, held to method, path and body by a scripted one.

mod scripted;

use std::time::Duration;

use http::{Method, StatusCode};
use k8s_openapi::jiff::Timestamp;
use linkerd_gate::cluster::OverrideTarget;
use linkerd_gate::command::manual_override::{OverrideCommand, run_with};
use scripted::{Step, scripted, status};
use serde_json::{Value, json};

const NODE: &str = "/api/v1/nodes/worker-1?fieldManager=linkerd-gate";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/gate/leases/linkerd-gate?fieldManager=linkerd-gate";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/gate/leases?fieldManager=linkerd-gate";
const HOUR: Duration = Duration::from_hours(1);

fn annotation(value: &Value) -> Value {
    json!({"metadata": {"annotations": {"linkerd-gate/override": value}}})
}

fn patch(path_and_query: &'static str, value: &Value, answer: (StatusCode, Value)) -> Step {
    Step { method: Method::PATCH, path_and_query, body: annotation(value), answer }
}

fn create(value: &str, answer: (StatusCode, Value)) -> Step {
    let body = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "linkerd-gate", "annotations": {"linkerd-gate/override": value}},
    });
    Step { method: Method::POST, path_and_query: LEASES, body, answer }
}

fn taken() -> (StatusCode, Value) {
    (
        StatusCode::OK,
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x"}}),
    )
}

fn created() -> (StatusCode, Value) {
    (
        StatusCode::CREATED,
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "linkerd-gate"}}),
    )
}

fn not_found() -> (StatusCode, Value) {
    status(404, "NotFound", "not found")
}

fn node(name: &str) -> OverrideTarget {
    OverrideTarget::Node(name.to_owned())
}

fn all() -> OverrideTarget {
    OverrideTarget::All { namespace: "gate".to_owned() }
}

/// What is printed on standard output, and what on standard error.
async fn say(steps: Vec<Step>, say: OverrideCommand, subjects: &[OverrideTarget]) -> (String, String) {
    let now: Timestamp = "2026-01-01T05:00:00Z".parse().unwrap();
    let mut out = Vec::new();
    let ended = scripted(steps, async |client| run_with(&client, say, subjects, now, false, &mut out).await).await;
    (String::from_utf8(out).unwrap(), ended.err().map(|error| error.to_string()).unwrap_or_default())
}

#[tokio::test]
async fn a_node_is_opened_and_closed_by_one_annotation_with_an_end() {
    let steps = vec![patch(NODE, &json!("open 2026-01-01T06:00:00Z"), taken())];
    let printed = say(steps, OverrideCommand::Open(HOUR), &[node("worker-1")]).await;
    let line = "node/worker-1: manual override: open until 2026-01-01T06:00:00Z (in 1h); the agent removes the taint, and pods held by \
                `wait` start, with or without injection\n";
    assert_eq!(printed, (line.to_owned(), String::new()));

    let steps = vec![patch(NODE, &json!("closed 2026-01-01T06:00:00Z"), taken())];
    let (printed, _) = say(steps, OverrideCommand::Close(HOUR), &[node("worker-1")]).await;
    assert!(
        printed
            .starts_with("node/worker-1: manual override: closed until 2026-01-01T06:00:00Z (in 1h); the agent taints"),
        "{printed}"
    );
}

#[tokio::test]
async fn what_was_said_is_taken_back_by_taking_that_annotation_away() {
    let steps = vec![patch(NODE, &Value::Null, taken()), patch(LEASE, &Value::Null, taken())];
    let (printed, _) = say(steps, OverrideCommand::Clear, &[node("worker-1"), all()]).await;
    assert_eq!(
        printed,
        "node/worker-1: override cleared; automatic control resumed\nlease/linkerd-gate in namespace gate: override cleared; automatic \
         control resumed\n"
    );
    // Without a Lease there is nothing to take back, and none is created for it.
    let (printed, refused) = say(vec![patch(LEASE, &Value::Null, not_found())], OverrideCommand::Clear, &[all()]).await;
    assert_eq!(printed, "lease/linkerd-gate in namespace gate: no override to clear: there is no Lease\n");
    assert!(refused.is_empty());
}

#[tokio::test]
async fn open_all_writes_the_lease_or_creates_it_without_a_holder() {
    let word = "open 2026-01-01T06:00:00Z";
    let steps = vec![patch(LEASE, &json!(word), taken())];
    let (printed, _) = say(steps, OverrideCommand::Open(HOUR), &[all()]).await;
    assert!(
        printed.contains("manual override: all nodes open until 2026-01-01T06:00:00Z (in 1h); agents remove"),
        "{printed}"
    );

    let steps = vec![patch(LEASE, &json!(word), not_found()), create(word, created())];
    let (printed, _) = say(steps, OverrideCommand::Open(HOUR), &[all()]).await;
    assert!(printed.contains("there was no Lease, so it was created"), "{printed}");

    let exists = status(409, "AlreadyExists", "leases \"linkerd-gate\" already exists");
    let steps =
        vec![patch(LEASE, &json!(word), not_found()), create(word, exists), patch(LEASE, &json!(word), taken())];
    let (printed, refused) = say(steps, OverrideCommand::Open(HOUR), &[all()]).await;
    assert!(!printed.contains("created") && refused.is_empty(), "an agent was faster: {printed}{refused}");

    let steps = vec![patch(LEASE, &json!(word), not_found()), create(word, not_found())];
    let (_, refused) = say(steps, OverrideCommand::Open(HOUR), &[all()]).await;
    assert!(refused.contains("there is no namespace gate") && refused.contains("--namespace"), "{refused}");
}

#[tokio::test]
async fn an_unknown_node_is_reported_and_the_others_are_opened() {
    const WRONG: &str = "/api/v1/nodes/worker-l?fieldManager=linkerd-gate";
    let word = json!("open 2026-01-01T06:00:00Z");
    let list =
        |answer| Step { method: Method::GET, path_and_query: "/api/v1/nodes?limit=5000", body: Value::Null, answer };
    let names = ["control-plane", "worker-1", "worker-27"].map(|name| json!({"metadata": {"name": name}}));
    let known =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": names});
    let steps = vec![patch(WRONG, &word, not_found()), list((StatusCode::OK, known)), patch(NODE, &word, taken())];
    let (printed, refused) = say(steps, OverrideCommand::Open(HOUR), &[node("worker-l"), node("worker-1")]).await;
    assert!(printed.starts_with("node/worker-1: manual override: open"), "{printed}");
    assert_eq!(refused, "node/worker-l: there is no such node; did you mean worker-1? `kubectl get nodes` lists them");
    // Who may not list gets the same answer.
    let steps = vec![patch(WRONG, &word, not_found()), list(status(403, "Forbidden", "no"))];
    let (_, refused) = say(steps, OverrideCommand::Open(HOUR), &[node("worker-l")]).await;
    assert_eq!(refused, "node/worker-l: there is no such node; `kubectl get nodes` lists them");
}

#[tokio::test]
async fn a_missing_right_is_named_with_the_command_that_grants_it() {
    let word = json!("open 2026-01-01T06:00:00Z");
    let message = "nodes \"worker-1\" is forbidden: User \"jane\" cannot patch resource \"nodes\"";
    let steps = vec![patch(NODE, &word, status(403, "Forbidden", message))];
    let (_, refused) = say(steps, OverrideCommand::Open(HOUR), &[node("worker-1")]).await;
    assert!(refused.contains("User \"jane\"") && refused.contains("patch on nodes"), "{refused}");

    let message = "leases \"linkerd-gate\" is forbidden: User \"jane\" cannot patch resource \"leases\"";
    let steps = vec![patch(LEASE, &word, status(403, "Forbidden", message))];
    let (_, refused) = say(steps, OverrideCommand::Open(HOUR), &[all()]).await;
    assert!(refused.contains("--namespace gate --verb=get,patch,create"), "{refused}");
}

#[tokio::test]
async fn every_other_answer_is_reported_as_received_without_a_retry() {
    let word = json!("open 2026-01-01T06:00:00Z");
    for (code, printed) in [(401, "does not know who you are"), (422, "(422)"), (500, "(500)"), (503, "(503)")] {
        let steps = vec![patch(NODE, &word, status(code, "X", "for some reason"))];
        let (_, refused) = say(steps, OverrideCommand::Open(HOUR), &[node("worker-1")]).await;
        assert!(refused.contains(printed) && refused.contains("for some reason"), "{refused}");
    }
}

#[tokio::test]
async fn a_dry_run_asks_the_api_server_to_store_nothing_and_says_so() {
    let steps = vec![patch(
        "/api/v1/nodes/worker-1?dryRun=All&fieldManager=linkerd-gate",
        &json!("open 2026-01-01T06:00:00Z"),
        taken(),
    )];
    let now: Timestamp = "2026-01-01T05:00:00Z".parse().unwrap();
    let mut out = Vec::new();
    let subjects = [node("worker-1")];
    let open = OverrideCommand::Open(HOUR);
    scripted(steps, async |client| run_with(&client, open, &subjects, now, true, &mut out).await).await.unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(out.ends_with("(server dry run: nothing was written)\n"), "{out}");
}
