//! The HTTP face of the API server.

use super::{
    Shared, WatchFault,
    store::{Change, Key, Selection},
};
use anyhow::{Context as _, Result};
use futures::stream;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use json_patch::PatchOperation;
use serde_json::{Value, json};
use std::{convert::Infallible, fmt::Write as _, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Where the kinds of admission policies are listed.
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

/// Kinds whose objects a PUT creates where there is none.
const CREATED_BY_PUT: [&str; 1] = ["/apis/coordination.k8s.io/v1/leases"];

/// Kinds of which a PUT has to say which version it replaces.
const VERSION_NEEDED: [&str; 1] = ["/apis/coordination.k8s.io/v1/leases"];

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
}

/// What the query says.
#[derive(Debug, Default)]
struct Query {
    conditions: Vec<(Vec<String>, bool, String)>,
    watched_from: Option<usize>,
    dry_run: bool,
}

/// A refusal, as an API server words it.
struct Refusal(StatusCode, &'static str, String);

/// Serves each connection until its client ends it.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    // An error is one connection's: the next may work.
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            // An error is the client's doing, who sees it.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

// === impl Target ===

impl Target {
    /// `/api/v1[/namespaces/NAMESPACE]/RESOURCE[/NAME]`, and the same below `/apis/GROUP/VERSION`.
    fn read(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (prefix, rest) = parts.split_at_checked(if parts.first() == Some(&"api") { 2 } else { 3 })?;
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            _ => (None, rest),
        };
        let (resource, rest) = rest.split_first()?;
        let collection = format!("/{}/{resource}", prefix.join("/"));
        Some(Self { collection, namespace, name: rest.first().map(|name| (*name).to_owned()) })
    }

    fn key(&self, name: &str) -> Key {
        let namespace = self.namespace.clone().unwrap_or_default();
        Key { collection: self.collection.clone(), namespace, name: name.to_owned() }
    }
}

// === impl Query ===

impl Query {
    fn read(uri: &Uri) -> Self {
        let mut query = Self::default();
        let mut watch = false;
        for (key, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match &*key {
                "watch" => watch = value == "true" || value == "1",
                "resourceVersion" => query.watched_from = value.parse().ok(),
                "dryRun" => query.dry_run = true,
                "labelSelector" => query.select(&value, |key| vec!["metadata".into(), "labels".into(), key.into()]),
                "fieldSelector" => query.select(&value, |key| key.split('.').map(Into::into).collect()),
                _ => {}
            }
        }
        query.watched_from = watch.then(|| query.watched_from.unwrap_or_default());
        query
    }

    fn select(&mut self, selector: &str, path: impl Fn(&str) -> Vec<String>) {
        for condition in selector.split(',') {
            let unequal = condition.split_once("!=").map(|pair| (pair, false));
            let equal = || condition.split_once("==").or_else(|| condition.split_once('=')).map(|pair| (pair, true));
            if let Some(((key, value), is)) = unequal.or_else(equal) {
                self.conditions.push((path(key), is, value.to_owned()));
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        self.faults.answers().await;
        let answer = Arc::clone(&self).try_to_answer(request).await;
        self.faults.answers().await;
        match answer {
            Ok(response) => response,
            Err(Refusal(code, reason, message)) => {
                let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
                    "reason": reason, "code": code.as_u16(), "message": message});
                whole(code, &status)
            }
        }
    }

    async fn try_to_answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let not_found = || Refusal(StatusCode::NOT_FOUND, "NotFound", format!("{path} is not there"));
        if path == ADMISSION {
            return Ok(whole(StatusCode::OK, &policy_kinds()));
        }
        let target = Target::read(&path).ok_or_else(not_found)?;
        let query = Query::read(&head.uri);
        let body = read(body).await.map_err(|error| bad(&error))?;
        let Some(name) = &target.name else {
            if head.method == Method::POST {
                return self.create(&target, &query, body).await;
            }
            let Target { collection, namespace, .. } = target;
            let selection = Selection { collection, namespace, conditions: query.conditions };
            if let Some(version) = query.watched_from {
                self.faults.note_watch(&selection.collection);
                return Ok(self.watch(selection, version));
            }
            let (items, version) = self.store.list_as_of(&selection, self.faults.lag);
            if self.store.list(&selection).0 != items {
                self.faults.note_late(1);
            }
            let list = json!({"metadata": {"resourceVersion": version.to_string()}, "items": items});
            return Ok(whole(StatusCode::OK, &list));
        };
        let key = target.key(name);
        match head.method {
            Method::GET => Ok(whole(StatusCode::OK, &self.store.get(&key).ok_or_else(not_found)?)),
            Method::DELETE => {
                self.store.get(&key).ok_or_else(not_found)?;
                let wanted = &body["preconditions"];
                let is_it = |object: &Value| {
                    ["uid", "resourceVersion"]
                        .iter()
                        .all(|field| wanted[field].is_null() || wanted[field] == object["metadata"][field])
                };
                let deleted = self.store.delete(&key, is_it).ok_or_else(|| conflict(name))?;
                self.faults.note_write(kind(&head.method, &target, &deleted));
                Ok(whole(StatusCode::OK, &deleted))
            }
            Method::PUT if self.store.get(&key).is_none() && CREATED_BY_PUT.contains(&&*target.collection) => {
                // It says of which object it is another version, and there is none; a version alone says nothing.
                if !body["metadata"]["uid"].is_null() {
                    return Err(conflict(name));
                }
                self.create(&target, &query, body).await
            }
            Method::PATCH | Method::PUT => {
                let format = head.headers.get(header::CONTENT_TYPE).and_then(|format| format.to_str().ok());
                loop {
                    let found = self.store.get(&key).ok_or_else(not_found)?;
                    let changed = match format {
                        _ if head.method == Method::PUT => replaced(&target, &found, body.clone())?,
                        Some("application/json-patch+json") => patched(&found, body.clone())?,
                        _ => merged(&found, &body),
                    };
                    let (before, after) = (&found["metadata"], &changed["metadata"]);
                    if before["resourceVersion"] != after["resourceVersion"] {
                        return Err(conflict(name));
                    }
                    if before["uid"] != after["uid"] {
                        // To a PUT it is a precondition, to a patch a field that never changes.
                        return Err(if head.method == Method::PUT { conflict(name) } else { immutable(name) });
                    }
                    let is_still = |now: Option<&Value>| now == Some(&found);
                    // Another client's write came between: this one's counts for what there is now.
                    let Some(stored) = self.store.put_if(&key, changed, is_still) else { continue };
                    self.faults.note_write(kind(&head.method, &target, &stored));
                    return Ok(whole(StatusCode::OK, &stored));
                }
            }
            _ => Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", path)),
        }
    }

    async fn create(&self, target: &Target, query: &Query, mut object: Value) -> Result<Response<Body>, Refusal> {
        if let Some(namespace) = &target.namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        if target.collection == "/api/v1/pods" {
            object = self.admission.admit(&self.store, object).await.map_err(|error| bad(&error))?;
        }
        let beginning = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        let generated = object["metadata"]["name"].is_null();
        // Another client may be given the same number.
        let (_, mut number) = self.store.list(&Selection::default());
        let stored = loop {
            if generated {
                object["metadata"]["name"] = json!(format!("{beginning}{number:05}"));
            }
            let key = Key::of(&target.collection, &object);
            let stored = if query.dry_run {
                self.store.get(&key).is_none().then(|| object.clone())
            } else {
                self.store.put_if(&key, object.clone(), |found| found.is_none())
            };
            match stored {
                Some(stored) if query.dry_run => return Ok(whole(StatusCode::CREATED, &stored)),
                Some(stored) => break stored,
                None if generated => number += 1,
                None => {
                    return Err(Refusal(StatusCode::CONFLICT, "AlreadyExists", format!("{} is there", key.name)));
                }
            }
        };
        self.faults.note_write(kind(&Method::POST, target, &stored));
        Ok(whole(StatusCode::CREATED, &stored))
    }

    /// Changes, one a line, until the client ends it.
    fn watch(self: Arc<Self>, selection: Selection, version: usize) -> Response<Body> {
        let changes = stream::unfold(Some((self, selection, version)), |state| async move {
            let (shared, selection, version) = state?;
            let (changes, version) = shared.store.changes(&selection, version).await;
            tokio::time::sleep(shared.faults.lag).await;
            shared.faults.answers().await;
            let (sent, fault) = shared.faults.cut(&changes);
            if !shared.faults.lag.is_zero() {
                shared.faults.note_late(sent);
            }
            let mut lines: String = changes.iter().take(sent).map(line).collect();
            if fault == Some(WatchFault::Expired) {
                let expired = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "too old resource version", "reason": "Expired", "code": 410});
                let _ = writeln!(lines, "{}", json!({"type": "ERROR", "object": expired})); // Writing to a string does not fail.
            }
            let next = fault.is_none().then_some((shared, selection, version));
            Some((Ok(Frame::data(Bytes::from(lines))), next))
        });
        let mut response = Response::new(StreamBody::new(changes).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }
}

/// Kubernetes 1.36 has both kinds of admission policies, of which none is stored here: whatever admits plays them.
fn policy_kinds() -> Value {
    let kinds = ["ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"];
    let resources = kinds.map(|kind| {
        let name = format!("{}ies", kind.to_lowercase().trim_end_matches('y'));
        json!({"name": name, "singularName": "", "kind": kind, "namespaced": false, "verbs": ["list", "watch"]})
    });
    json!({"kind": "APIResourceList", "groupVersion": "admissionregistration.k8s.io/v1", "resources": resources})
}

/// The object that a PUT puts into the place of another. Its status is another resource's.
fn replaced(target: &Target, found: &Value, mut body: Value) -> Result<Value, Refusal> {
    let metadata = &mut body["metadata"];
    let is_another = !metadata["uid"].is_null() && metadata["uid"] != found["metadata"]["uid"];
    if metadata["resourceVersion"].is_null() && !is_another && VERSION_NEEDED.contains(&&*target.collection) {
        let message = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message.to_owned()));
    }
    for field in ["namespace", "name", "resourceVersion", "uid"] {
        if metadata[field].is_null() && !found["metadata"][field].is_null() {
            metadata[field] = found["metadata"][field].clone();
        }
    }
    if !found["status"].is_null() {
        body["status"] = found["status"].clone();
    }
    Ok(body)
}

fn patched(found: &Value, operations: Value) -> Result<Value, Refusal> {
    let operations: json_patch::Patch = serde_json::from_value(operations).map_err(|error| bad(&error.into()))?;
    let mut changed = found.clone();
    for operation in operations.0 {
        // To the library of a genuine one null is what a path has that leads nowhere.
        let is_absent = |path: &str| changed.pointer(path).is_none();
        if matches!(&operation, PatchOperation::Test(test) if test.value.is_null() && is_absent(test.path.as_str())) {
            continue;
        }
        json_patch::patch(&mut changed, &[operation]).map_err(|error| invalid(&error))?;
    }
    Ok(changed)
}

fn merged(found: &Value, body: &Value) -> Value {
    let mut changed = found.clone();
    json_patch::merge(&mut changed, body);
    changed
}

/// What a write is, as [`Faults::written`](super::Faults::written) lists it.
fn kind(method: &Method, target: &Target, object: &Value) -> String {
    let reason = object["involvedObject"].is_object().then(|| object["reason"].as_str()).flatten().unwrap_or_default();
    format!("{method} {} {reason}", target.collection).trim_end().to_owned()
}

fn line(change: &Change) -> String {
    format!("{}\n", json!({"type": change.kind, "object": change.object}))
}

async fn read(body: Incoming) -> Result<Value> {
    let bytes = body.collect().await.context("the request's body")?.to_bytes();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).context("the request's body")
}

fn whole(code: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn bad(error: &anyhow::Error) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, "BadRequest", format!("{error:#}"))
}

/// As a genuine one answers where a `test` does not hold, or a path is not there.
fn invalid(error: &json_patch::PatchError) -> Refusal {
    Refusal(
        StatusCode::UNPROCESSABLE_ENTITY,
        "Invalid",
        format!("the server rejected our request due to an error in our request: {error}"),
    )
}

fn immutable(name: &str) -> Refusal {
    let message = format!("{name} is invalid: metadata.uid: field is immutable");
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
}

fn conflict(name: &str) -> Refusal {
    Refusal(StatusCode::CONFLICT, "Conflict", format!("{name} has changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_collection_a_namespace_and_a_name() {
        let target = |collection: &str, namespace: Option<&str>, name: Option<&str>| {
            let (namespace, name) = (namespace.map(Into::into), name.map(Into::into));
            Some(Target { collection: collection.to_owned(), namespace, name })
        };
        for (path, expected) in [
            ("/api/v1/pods", target("/api/v1/pods", None, None)),
            ("/api/v1/namespaces/shop/pods/web", target("/api/v1/pods", Some("shop"), Some("web"))),
            ("/api/v1/namespaces/shop", target("/api/v1/namespaces", None, Some("shop"))),
            ("/apis/apps/v1/namespaces/shop/replicasets", target("/apis/apps/v1/replicasets", Some("shop"), None)),
            ("/version", None),
        ] {
            assert_eq!(Target::read(path), expected, "{path}");
        }
    }

    #[test]
    fn selectors_of_a_query_are_read() {
        let uri = "/api/v1/pods?watch=true&resourceVersion=7&fieldSelector=spec.nodeName%3D&labelSelector=a%2Fb%3Dc";
        let query = Query::read(&uri.parse().unwrap());
        assert_eq!(query.watched_from, Some(7));
        let path = |steps: &[&str]| steps.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            query.conditions,
            [
                (path(&["spec", "nodeName"]), true, String::new()),
                (path(&["metadata", "labels", "a/b"]), true, "c".to_owned()),
            ]
        );
    }
}
