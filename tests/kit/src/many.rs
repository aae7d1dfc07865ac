//! The API server of a cluster with very many pods, which it makes up as it is asked for them: what it costs a program to know
//! them all is measured beside a server that costs nothing.
//!
//! Ten pods of each ReplicaSet, as large as real ones: some 9 kB each with Linkerd's proxy, a quarter of it managed fields. Of the
//! first ones in the list the proxy is missing. It serves what a controller reads and writes, and nothing of it is kept but
//! Leases. Lists come in pages; the watch of pods ends or sends changes on command.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use crate::object::webhook_configuration;

/// So many pods has each ReplicaSet.
const OF_EACH: usize = 10;

/// So many ReplicaSets of earlier revisions has each Deployment.
const REVISIONS: usize = 3;

/// So many pods has each node.
const ON_EACH: usize = 30;

/// So many namespaces there are, all of which ask for injection.
const NAMESPACES: usize = 300;

/// How many pods there are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// All of them.
    pub pods: usize,
    /// Of these, those without a proxy.
    pub missed: usize,
    /// How many namespaces there are besides, whose pods agents let onto closed nodes. They have no pods.
    pub essential: usize,
}

/// The server; it ends with this value.
pub struct Many {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    size: Size,
    templates: [Vec<String>; 2],
    leases: Mutex<BTreeMap<String, Value>>,
    lease_changed: watch::Sender<u64>,
    commands: broadcast::Sender<WatchCommand>,
    /// How many watches of all pods there are: a change reaches no client while there is none.
    watched: watch::Sender<usize>,
    lists: watch::Sender<usize>,
    changes: watch::Sender<usize>,
    /// How often pods of one namespace, or those without a node, were listed.
    narrow_lists: watch::Sender<usize>,
    /// The paths that were watched, but for that of all pods.
    followed: watch::Sender<BTreeSet<String>>,
    /// Bytes of bodies, all in all.
    sent: AtomicU64,
}

/// What the watch of pods has to do.
#[derive(Clone, Copy, Debug)]
enum WatchCommand {
    Expire,
    Replace(usize),
}

// === impl Many ===

impl Many {
    /// Starts it on a port of loopback.
    ///
    /// # Errors
    /// No port.
    pub async fn start(size: Size) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            size,
            templates: templates(),
            leases: Mutex::default(),
            lease_changed: watch::Sender::new(1),
            commands: broadcast::Sender::new(4),
            watched: watch::Sender::new(0),
            lists: watch::Sender::new(0),
            changes: watch::Sender::new(0),
            narrow_lists: watch::Sender::new(0),
            followed: watch::Sender::default(),
            sent: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        let serving = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                // A client that is gone ends its connection.
                connections.spawn(async move { drop(shared.converse(stream).await) });
            }
        });
        Ok(Self { address, shared, _tasks: tasks })
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        config.to_string()
    }

    /// How many bytes of lists and events it has sent, all in all.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Ends the watch of pods as too old, so that all of them are listed again, and waits until they are.
    pub async fn list_again(&self) {
        let mut lists = self.shared.lists.subscribe();
        let before = *lists.borrow_and_update();
        self.tell(WatchCommand::Expire).await;
        drop(lists.wait_for(|lists| *lists > before).await);
    }

    /// How often pods of one namespace, or those without a node, were listed; waits for the first time.
    pub async fn narrow_lists(&self) -> usize {
        let mut lists = self.shared.narrow_lists.subscribe();
        lists.wait_for(|lists| *lists > 0).await.map(|lists| *lists).unwrap_or_default()
    }

    /// Waits until each of these paths is watched: a client begins that once it has the whole list. Of pods it is a watch of some.
    pub async fn until_followed(&self, paths: &[&str]) {
        let mut followed = self.shared.followed.subscribe();
        drop(followed.wait_for(|followed| paths.iter().all(|path| followed.contains(*path))).await);
    }

    /// Waits until a Lease is written once more.
    pub async fn until_written_again(&self) {
        let mut written = self.shared.lease_changed.subscribe();
        drop(written.changed().await);
    }

    /// Waits until all pods were listed so often.
    pub async fn until_listed(&self, times: usize) {
        let mut lists = self.shared.lists.subscribe();
        drop(lists.wait_for(|lists| *lists >= times).await);
    }

    /// Deletes so many pods and makes others instead, from the last one on; waits until a watch has sent that.
    pub async fn replace(&self, count: usize) {
        let mut changes = self.shared.changes.subscribe();
        let before = *changes.borrow_and_update();
        self.tell(WatchCommand::Replace(count)).await;
        drop(changes.wait_for(|changes| *changes >= before + count).await);
    }

    /// Tells the watch of pods something, once there is one: a client that has listed them begins it a moment later.
    async fn tell(&self, commands: WatchCommand) {
        drop(self.shared.watched.subscribe().wait_for(|watched| *watched > 0).await);
        let _ = self.shared.commands.send(commands); // An error says that no connection is left, which the caller's wait shows.
    }
}

// === impl Shared ===

impl Shared {
    async fn converse(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut commands = self.commands.subscribe();
        let mut stream = BufReader::new(stream);
        loop {
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let from = head.len();
                if stream.read_line(&mut head).await? == 0 {
                    return Ok(());
                }
                if let Some((name, value)) = head[from..].split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().unwrap_or_default();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let mut words = head.split(' ');
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
            let resource = path.rsplit('/').next().unwrap_or_default();
            if query.get("watch") == Some(&"true") {
                return self.watch(stream.into_inner(), path, &query, &mut commands).await;
            }
            let (status, body) = match method {
                "GET" => (200, self.list(resource, path, &query)),
                _ => self.write(method, path, &serde_json::from_slice(&body).unwrap_or_default()),
            };
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.get_mut().write_all(head.as_bytes()).await?;
            stream.get_mut().write_all(body.as_bytes()).await?;
            self.note_sent(&body);
            if resource == "pods" && method == "GET" && (path != "/api/v1/pods" || is_narrow(&query)) {
                self.narrow_lists.send_modify(|lists| *lists += 1);
            } else if resource == "pods" && path == "/api/v1/pods" && !body.contains("\"continue\"") {
                // Whoever asked has the last page.
                self.lists.send_modify(|lists| *lists += 1);
            }
        }
    }

    async fn watch(
        &self,
        mut stream: TcpStream,
        path: &str,
        query: &BTreeMap<&str, &str>,
        commands: &mut broadcast::Receiver<WatchCommand>,
    ) -> std::io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let mut lease_changed = self.lease_changed.subscribe();
        let name = query.get("fieldSelector").and_then(|selector| selector.rsplit("%3D").next()).unwrap_or_default();
        // Those before this watch are in the list.
        while commands.try_recv().is_ok() {}
        let all_pods = path == "/api/v1/pods" && !is_narrow(query);
        if all_pods {
            self.watched.send_modify(|watched| *watched += 1);
        } else {
            self.followed.send_modify(|followed| followed.extend([path.to_owned()]));
        }
        let outcome = self.tell_watch(&mut stream, path, name, commands, &mut lease_changed).await;
        if all_pods {
            self.watched.send_modify(|watched| *watched -= 1);
        }
        outcome
    }

    async fn tell_watch(
        &self,
        stream: &mut TcpStream,
        path: &str,
        name: &str,
        commands: &mut broadcast::Receiver<WatchCommand>,
        lease_changed: &mut watch::Receiver<u64>,
    ) -> std::io::Result<()> {
        loop {
            let commands = tokio::select! {
                _ = lease_changed.changed(), if path.ends_with("/leases") => None,
                commands = commands.recv(), if path == "/api/v1/pods" => Some(commands),
                // Nothing ever happens to anything else, until the client ends it.
                _ = stream.readable() => return Ok(()),
            };
            match commands {
                None => {
                    let lease = self.leases.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
                    if let Some(lease) = lease {
                        send(stream, &json!({"type": "MODIFIED", "object": lease}).to_string()).await?;
                    }
                }
                Some(Ok(WatchCommand::Expire)) => {
                    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410}});
                    send(stream, &gone.to_string()).await?;
                    return stream.write_all(b"0\r\n\r\n").await;
                }
                Some(Ok(WatchCommand::Replace(count))) => {
                    for index in (0..self.size.pods).rev().cycle().take(count) {
                        let (old, new) = (self.pod(index, 0), self.pod(index, 1));
                        for (kind, pod) in [("DELETED", &old), ("ADDED", &new), ("DELETED", &new), ("ADDED", &old)] {
                            let event = format!("{{\"type\":\"{kind}\",\"object\":{pod}}}");
                            send(stream, &event).await?;
                            self.note_sent(&event);
                        }
                        self.changes.send_modify(|changes| *changes += 1);
                    }
                }
                Some(Err(_)) => return Ok(()),
            }
        }
    }

    fn note_sent(&self, body: &str) {
        self.sent.fetch_add(body.len().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn list(&self, resource: &str, path: &str, query: &BTreeMap<&str, &str>) -> String {
        let Size { pods, .. } = self.size;
        let owners = pods.div_ceil(OF_EACH);
        match resource {
            "version" => {
                json!({"major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "", "gitTreeState": "clean",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""})
                .to_string()
            }
            "pods" if path == "/api/v1/pods" && !is_narrow(query) => page(query, pods, |index| self.pod(index, 0)),
            "replicasets" => page(query, owners * (1 + REVISIONS), |index| replica_set(index, owners)),
            "namespaces" => page(query, NAMESPACES + self.size.essential, |index| {
                if index >= NAMESPACES {
                    let name = format!("essential-{}", index - NAMESPACES);
                    let labels = json!({"linkerd-gate/essential": "true"});
                    return json!({"metadata": {"name": name, "uid": uid(3, index), "resourceVersion": "1", "labels": labels}})
                        .to_string();
                }
                json!({"metadata": {"name": format!("team-{index}"), "uid": uid(3, index), "resourceVersion": "1",
                    "annotations": {"linkerd.io/inject": "enabled"}}})
                .to_string()
            }),
            "nodes" => page(query, pods.div_ceil(ON_EACH), |index| {
                json!({"metadata": {"name": format!("node-{index}"), "uid": uid(4, index), "resourceVersion": "1"}})
                    .to_string()
            }),
            "mutatingwebhookconfigurations" => page(query, 1, |_| webhook_configuration("linkerd").json().to_string()),
            "leases" => {
                let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
                let name = query.get("fieldSelector").and_then(|selector| selector.rsplit("%3D").next());
                let named: Vec<_> = name.and_then(|name| leases.get(name)).into_iter().collect();
                page(query, named.len(), |index| named[index].to_string())
            }
            _ => page(query, 0, |_| String::new()),
        }
    }

    /// Takes Leases and Events, and nothing else.
    fn write(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let name = body["metadata"]["name"].as_str().or_else(|| path.rsplit('/').next()).unwrap_or_default().to_owned();
        if path.contains("/leases") {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            self.lease_changed.send_modify(|version| *version += 1);
            let lease = leases.entry(name).or_insert(Value::Null);
            merge(lease, body);
            lease["metadata"]["resourceVersion"] = json!(self.lease_changed.borrow().to_string());
            return (if method == "POST" { 201 } else { 200 }, lease.to_string());
        }
        if path.ends_with("/events") {
            return (201, json!({"metadata": {"name": "event"}, "involvedObject": {}}).to_string());
        }
        let refused = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
        (404, refused.to_string())
    }

    /// One pod; of each number there are two, of which one is there.
    fn pod(&self, index: usize, other: usize) -> String {
        let owner = index / OF_EACH;
        let pieces = &self.templates[usize::from(index < self.size.missed)];
        let mut pod = String::with_capacity(10_000);
        // Text, and what differs from one pod to the next, in turn.
        for (place, piece) in pieces.iter().enumerate() {
            let value = match piece.as_str() {
                text if place % 2 == 0 => {
                    pod.push_str(text);
                    continue;
                }
                "number" => format!("{:05x}", index * 2 + other),
                "owner" => owner.to_string(),
                "namespace" => (owner % NAMESPACES).to_string(),
                "uid" => uid(1 + other, index),
                "version" => (100_000 + index).to_string(),
                "owner-uid" => uid(0, owner),
                "node" => (index / ON_EACH).to_string(),
                slot => unreachable!("a pod's text has no {slot}"),
            };
            pod.push_str(&value);
        }
        pod
    }
}

/// The text of a pod with its proxy, and of one without, cut at what differs from one pod to the next: to write it all for each of
/// 150,000 takes longer than what is measured.
fn templates() -> [Vec<String>; 2] {
    [true, false].map(|meshed| template(meshed).split('@').map(ToOwned::to_owned).collect())
}

fn template(meshed: bool) -> String {
    let mut metadata = json!({
        "name": "checkout-@owner@-7d9c5b8f6d-@number@",
        "generateName": "checkout-@owner@-7d9c5b8f6d-",
        "namespace": "team-@namespace@",
        "uid": "@uid@",
        "resourceVersion": "@version@",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app.kubernetes.io/name": "checkout-@owner@", "pod-template-hash": "7d9c5b8f6d",
            "app.kubernetes.io/part-of": "shop", "topology.kubernetes.io/zone": "eu-central-1a"},
        "annotations": {"linkerd.io/created-by": "linkerd/proxy-injector edge-26.8.3", "linkerd.io/trust-root-sha256": "f".repeat(64),
            "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "checkout-@owner@-7d9c5b8f6d",
            "uid": "@owner-uid@", "controller": true, "blockOwnerDeletion": true}],
        "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields()}],
    });
    let env = |count: usize| {
        (0..count)
            .map(|n| json!({"name": format!("SOME_SETTING_{n}"), "value": "a-value-of-usual-length"}))
            .collect::<Vec<_>>()
    };
    let mut spec = json!({
        "nodeName": "node-@node@", "serviceAccountName": "default", "schedulerName": "default-scheduler",
        "containers": [{"name": "app", "image": "registry.example.com/shop/checkout:1.2.3", "env": env(20),
            "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]}],
        "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
    });
    if meshed {
        metadata["labels"]["linkerd.io/control-plane-ns"] = json!("linkerd");
        spec["initContainers"] = json!([{"name": "linkerd-proxy", "image": "cr.l5d.io/linkerd/proxy:edge-26.8.3",
            "restartPolicy": "Always", "env": env(50)}]);
    }
    let conditions = ["Ready", "Initialized", "ContainersReady", "PodScheduled"];
    let conditions = conditions.map(|kind| json!({"type": kind, "status": "True"}));
    let status = json!({"phase": "Running", "podIP": "10.1.2.3", "startTime": "2026-01-01T00:00:00Z",
        "conditions": conditions,
        "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "x", "imageID": "x", "started": true,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]});
    json!({"metadata": metadata, "spec": spec, "status": status}).to_string()
}

/// What a server remembers of who set which field, about 2 kB of it.
fn fields() -> Value {
    let mut fields = serde_json::Map::new();
    for n in 0..60 {
        fields.insert(format!("f:some-field-of-the-pod-{n}"), json!({"f:name": {}}));
    }
    Value::Object(fields)
}

/// The live ones first, then those of earlier revisions, which have nothing and want nothing.
fn replica_set(index: usize, owners: usize) -> String {
    let (owner, replicas) = (index % owners, if index < owners { OF_EACH } else { 0 });
    json!({
        "metadata": {
            "name": if index < owners { format!("checkout-{owner}-7d9c5b8f6d") } else { format!("checkout-{owner}-{index}") },
            "namespace": format!("team-{}", owner % NAMESPACES), "uid": uid(0, index), "resourceVersion": "1",
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app.kubernetes.io/name": format!("checkout-{owner}")}}},
        "status": {"replicas": replicas, "readyReplicas": replicas},
    })
    .to_string()
}

/// Whether it asks for pods without a node only.
fn is_narrow(query: &BTreeMap<&str, &str>) -> bool {
    query.get("fieldSelector").is_some_and(|selector| selector.starts_with("spec.nodeName"))
}

fn uid(kind: usize, index: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{index:012x}")
}

/// One page of a list.
fn page(query: &BTreeMap<&str, &str>, count: usize, item: impl Fn(usize) -> String) -> String {
    let number = |key: &str| query.get(key).and_then(|value| value.parse::<usize>().ok());
    let from = number("continue").unwrap_or_default();
    let to = number("limit").map_or(count, |limit| count.min(from + limit));
    let items: Vec<String> = (from..to).map(item).collect();
    let more = if to < count { format!(",\"continue\":\"{to}\"") } else { String::new() };
    format!("{{\"metadata\":{{\"resourceVersion\":\"1\"{more}}},\"items\":[{}]}}", items.join(","))
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().map(|into| into.remove(key));
        } else {
            merge(&mut into[key], value);
        }
    }
}

async fn send(stream: &mut TcpStream, event: &str) -> std::io::Result<()> {
    let chunk = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
    stream.write_all(chunk.as_bytes()).await
}
