//! The API server in memory is held to a genuine one: the same drawn requests to both, answers and watches compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use linkerd_gate_kit::cluster::Api;
use linkerd_gate_kit::memory_api::{Admission, MemoryApi, Store};
use serde_json::{Value, json};

/// How many requests are drawn.
const REQUESTS: usize = 1200;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The beginning of names that a server completes.
const GENERATED: &str = "drawn-";

/// A uid that no object has.
const ANOTHER: &str = "0b6f9e52-0000-0000-0000-000000000000";

/// The kinds: one whose objects a PUT replaces whatever their version, and one that it creates, and replaces by its version only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ConfigMap,
    Lease,
}

struct Everything;

#[async_trait]
impl Admission for Everything {
    async fn admit(&self, _: &Store, pod: Value) -> Result<Value> {
        Ok(pod)
    }
}

/// Numbers by a seed: a linear congruential generator, with the constants of Knuth's MMIX.
struct Random(u64);

/// One API server, and what was learnt of its objects: uids and versions differ from one server to the other.
struct Server {
    client: Client,
    namespace: String,
    /// The uid and the version as they were last seen, of an object that may be gone.
    seen: BTreeMap<(Kind, String), (String, String)>,
}

/// What a request refers to.
#[derive(Clone, Copy, Debug)]
enum Precondition {
    None,
    Right,
    WrongVersion,
    WrongUid,
}

/// One request, in terms that both servers understand.
#[derive(Clone, Debug)]
enum Ask {
    /// Stored, or as a dry-run.
    Create(&'static str, u64, bool),
    /// By a name that the server completes.
    Generate(u64),
    Get(&'static str),
    List(Option<u64>),
    /// The whole object, with a label or without any.
    Put(&'static str, u64, bool, Precondition),
    Merge(&'static str, u64, Precondition),
    /// A JSON patch that sets what the precondition says, and then tests that there is no annotation, and the label's value.
    Test(&'static str, u64, u64, Precondition),
    Delete(&'static str, Precondition),
}

// === impl Kind ===

impl Kind {
    /// The path of its objects.
    fn collection(self, namespace: &str) -> String {
        match self {
            Self::ConfigMap => format!("/api/v1/namespaces/{namespace}/configmaps"),
            Self::Lease => format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
        }
    }

    /// What an object of it has beside its metadata, with this value.
    fn content(self, value: u64) -> Value {
        match self {
            Self::ConfigMap => json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"v": value.to_string()}}),
            Self::Lease => {
                let spec = json!({"holderIdentity": format!("node-{value}"), "leaseDurationSeconds": 15});
                json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec})
            }
        }
    }
}

// === impl Random ===

impl Random {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % count
    }

    fn ask(&mut self) -> Ask {
        let name = NAMES[usize::try_from(self.below(3)).unwrap_or_default()];
        let value = self.below(3);
        let precondition = match self.below(4) {
            0 => Precondition::None,
            1 => Precondition::WrongVersion,
            2 => Precondition::WrongUid,
            _ => Precondition::Right,
        };
        let other = self.below(3);
        match self.below(11) {
            0..=1 => Ask::Create(name, value, false),
            2 => Ask::Create(name, value, true),
            3 if other == 0 => Ask::Generate(value),
            3 => Ask::Get(name),
            4 => Ask::List((other == 0).then_some(value)),
            5..=6 => Ask::Put(name, value, other == 0, precondition),
            7 => Ask::Merge(name, value, precondition),
            8 => Ask::Test(name, value, other, precondition),
            _ => Ask::Delete(name, precondition),
        }
    }
}

// === impl Server ===

impl Server {
    async fn of_memory(api: &MemoryApi) -> Result<Self> {
        let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Self::new(Client::try_from(config)?, "drawn"))
    }

    fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), seen: BTreeMap::new() }
    }

    /// The method, the path, the format and the body.
    fn request(&self, kind: Kind, ask: &Ask) -> (&'static str, String, &'static str, Value) {
        const JSON: &str = "application/json";
        const MERGE: &str = "application/merge-patch+json";
        let collection = kind.collection(&self.namespace);
        let object = |name: &str| format!("{collection}/{name}");
        let unknown = (ANOTHER.to_owned(), String::from("1"));
        let seen = |name: &str| self.seen.get(&(kind, name.to_owned())).cloned().unwrap_or_else(|| unknown.clone());
        let whole = |metadata: Value, value: u64| {
            let mut whole = kind.content(value);
            whole["metadata"] = metadata;
            whole
        };
        // What it says of the object in its metadata.
        let expected = |name: &str, precondition: Precondition| match precondition {
            Precondition::None => json!({}),
            Precondition::Right => json!({"uid": seen(name).0, "resourceVersion": seen(name).1}),
            Precondition::WrongVersion => json!({"resourceVersion": "999999999"}),
            Precondition::WrongUid => json!({"uid": ANOTHER}),
        };
        match ask {
            Ask::Create(name, value, dry_run) => {
                let path = if *dry_run { format!("{collection}?dryRun=All") } else { collection };
                ("POST", path, JSON, whole(json!({"name": name, "labels": {"v": value.to_string()}}), *value))
            }
            Ask::Generate(value) => {
                let metadata = json!({"generateName": GENERATED, "labels": {"v": value.to_string()}});
                ("POST", collection, JSON, whole(metadata, *value))
            }
            Ask::Get(name) => ("GET", object(name), MERGE, Value::Null),
            Ask::List(value) => {
                let selector = value.map_or(String::new(), |value| format!("?labelSelector=v%3D{value}"));
                ("GET", format!("{collection}{selector}"), MERGE, Value::Null)
            }
            Ask::Put(name, value, labelled, precondition) => {
                let mut metadata = expected(name, *precondition);
                metadata["name"] = json!(name);
                if *labelled {
                    metadata["labels"] = json!({"v": value.to_string()});
                }
                ("PUT", object(name), JSON, whole(metadata, *value))
            }
            Ask::Merge(name, value, precondition) => {
                let mut metadata = expected(name, *precondition);
                metadata["labels"] = json!({"v": value.to_string()});
                ("PATCH", object(name), MERGE, json!({"metadata": metadata}))
            }
            Ask::Test(name, tested, value, precondition) => {
                let expected = expected(name, *precondition);
                let fields = expected.as_object().into_iter().flatten();
                let replace = |(field, value): (&String, &Value)| json!({"op": "replace", "path": format!("/metadata/{field}"), "value": value});
                let mut body: Vec<Value> = fields.map(replace).collect();
                body.push(json!({"op": "test", "path": "/metadata/annotations", "value": null}));
                body.push(json!({"op": "test", "path": "/metadata/labels/v", "value": tested.to_string()}));
                body.push(json!({"op": "replace", "path": "/metadata/labels/v", "value": value.to_string()}));
                ("PATCH", object(name), "application/json-patch+json", json!(body))
            }
            Ask::Delete(name, precondition) => {
                ("DELETE", object(name), JSON, json!({"preconditions": expected(name, *precondition)}))
            }
        }
    }

    /// The code, the reason of a refusal, and what is left of the objects when names of the server's own are gone.
    async fn answer(&mut self, kind: Kind, ask: &Ask) -> Result<Value> {
        let (method, path, format, body) = self.request(kind, ask);
        let path_is_dry_run = path.contains("dryRun");
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", format).body(body.into())?;
        let response = self.client.send(request).await?;
        let code = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
        let body: Value = serde_json::from_slice(&bytes)?;
        let is_stored = code < 300 && !path_is_dry_run;
        if let Some(name) = body["metadata"]["name"].as_str().filter(|_| is_stored) {
            let text = |field: &str| body["metadata"][field].as_str().unwrap_or_default().to_owned();
            self.seen.insert((kind, name.to_owned()), (text("uid"), text("resourceVersion")));
        }
        // Of a deletion some kinds answer with the object, others with a Status.
        let shown = match (&body["items"], method) {
            _ if code >= 300 => json!({"reason": body["reason"]}),
            (_, "DELETE") => Value::Null,
            (Value::Array(items), _) => sorted(items.iter().filter(|item| is_drawn(item)).map(short).collect()),
            _ => short(&body),
        };
        Ok(json!({"code": code, "shown": shown}))
    }

    /// What a watch from the beginning tells, up to the object of that name.
    async fn watched(&self, kind: Kind, from: &str, last: &str) -> Result<Vec<Value>> {
        let path = format!("{}?watch=true&resourceVersion={from}", kind.collection(&self.namespace));
        let stream = self.client.request_stream(Request::get(path).body(Vec::new())?).await?;
        let mut lines = stream.lines();
        let mut sent = Vec::new();
        while let Some(line) = lines.next().await {
            let event: Value = serde_json::from_str(&line?)?;
            if event["object"]["metadata"]["name"] == last {
                return Ok(sent);
            }
            if is_drawn(&event["object"]) {
                sent.push(json!({"type": event["type"], "object": short(&event["object"])}));
            }
        }
        anyhow::bail!("the watch ended after {} events", sent.len())
    }

    async fn version(&self, kind: Kind) -> Result<String> {
        let list = Request::get(kind.collection(&self.namespace)).body(Vec::new())?;
        let list: Value = self.client.request(list).await?;
        Ok(list["metadata"]["resourceVersion"].as_str().context("a list without a version")?.to_owned())
    }

    /// Creates the object with which a watch is at its end.
    async fn create_last(&self, kind: Kind) -> Result<()> {
        let last = json!({"metadata": {"name": "last"}}).to_string().into_bytes();
        let path = kind.collection(&self.namespace);
        self.client
            .request::<Value>(Request::post(path).header("content-type", "application/json").body(last)?)
            .await?;
        Ok(())
    }
}

/// A genuine namespace has a ConfigMap of its own.
fn is_drawn(object: &Value) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    NAMES.contains(&name) || name.starts_with(GENERATED)
}

/// A server completes a name by five characters, and these differ.
fn short(object: &Value) -> Value {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = if name.starts_with(GENERATED) { format!("{GENERATED} and {}", name.len()) } else { name.to_owned() };
    let content = [&object["data"]["v"], &object["spec"]["holderIdentity"]];
    json!({"name": name, "v": object["metadata"]["labels"]["v"], "content": content})
}

fn sorted(mut all: Vec<Value>) -> Value {
    all.sort_by_key(Value::to_string);
    Value::Array(all)
}

#[tokio::test]
async fn the_api_server_in_memory_answers_as_a_genuine_one_does() -> Result<()> {
    let genuine = Api::start().await?;
    let namespace = genuine.namespace("drawn", &[]).await?;
    let memory = MemoryApi::start(Arc::new(Everything)).await?;
    let mut servers = [Server::new(genuine.client().await?, &namespace), Server::of_memory(&memory).await?];
    let begun = [Kind::ConfigMap, Kind::Lease];
    let mut from = BTreeMap::new();
    for kind in begun {
        from.insert(kind, [servers[0].version(kind).await?, servers[1].version(kind).await?]);
    }
    let mut random = Random(20_261_130);
    let mut answers = BTreeSet::new();
    for number in 0..REQUESTS {
        let kind = if random.below(2) == 0 { Kind::ConfigMap } else { Kind::Lease };
        let ask = random.ask();
        let [genuine, memory] = &mut servers;
        let (expected, found) = (genuine.answer(kind, &ask).await?, memory.answer(kind, &ask).await?);
        ensure!(expected == found, "request {number}, {kind:?} {ask:?}: genuine {expected}, in memory {found}");
        let asked = format!("{ask:?}");
        let asked = asked.split('(').next().unwrap_or_default().to_owned();
        answers.insert((kind, asked, expected["code"].as_u64().unwrap_or_default()));
    }
    // Nothing was drawn in vain: every kind of request came to its end, and every refusal.
    for kind in begun {
        for (asked, codes) in [
            ("Create", &[201, 409][..]),
            ("Generate", &[201]),
            ("Get", &[200, 404]),
            ("List", &[200]),
            ("Put", if kind == Kind::Lease { &[200, 201, 409, 422] } else { &[200, 404, 409] }),
            ("Merge", &[200, 404, 409]),
            ("Test", &[200, 404, 409, 422]),
            ("Delete", &[200, 404, 409]),
        ] {
            for code in codes {
                let wanted = (kind, asked.to_owned(), *code);
                ensure!(answers.contains(&wanted), "no {wanted:?} among {answers:?}");
            }
        }
    }
    for kind in begun {
        for server in &servers {
            server.create_last(kind).await?;
        }
        let [genuine, memory] = &from[&kind];
        let (expected, found) =
            (servers[0].watched(kind, genuine, "last").await?, servers[1].watched(kind, memory, "last").await?);
        ensure!(expected.len() > 50, "{} events", expected.len());
        ensure!(expected == found, "watches of {kind:?} differ: genuine {expected:#?}, in memory {found:#?}");
    }
    Ok(())
}
