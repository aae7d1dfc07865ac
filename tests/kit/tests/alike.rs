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
const REQUESTS: usize = 400;

const NAMES: [&str; 3] = ["a", "b", "c"];

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
    collection: String,
    /// By name: the uid and the version as they were last seen, of an object that may be gone.
    seen: BTreeMap<String, (String, String)>,
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
    Create(&'static str, u64),
    Get(&'static str),
    List(Option<u64>),
    Merge(&'static str, u64, Precondition),
    /// A JSON patch that begins with a test of the label's value.
    Test(&'static str, u64, u64),
    Delete(&'static str, Precondition),
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
        match self.below(8) {
            0..=1 => Ask::Create(name, value),
            2 => Ask::Get(name),
            3 => Ask::List((self.below(2) == 0).then_some(value)),
            4 => Ask::Merge(name, value, precondition),
            5 => Ask::Test(name, value, self.below(3)),
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
        Self { client, collection: format!("/api/v1/namespaces/{namespace}/configmaps"), seen: BTreeMap::new() }
    }

    /// The code, the reason of a refusal, and what is left of the objects when names of the server's own are gone.
    async fn answer(&mut self, ask: &Ask) -> Result<Value> {
        let object = |name: &str| format!("{}/{name}", self.collection);
        let unknown = (String::from("0b6f9e52-0000-0000-0000-000000000000"), String::from("1"));
        let seen = |name: &str| self.seen.get(name).cloned().unwrap_or_else(|| unknown.clone());
        let merge = "application/merge-patch+json";
        let (method, path, format, body) = match ask {
            Ask::Create(name, value) => (
                "POST",
                self.collection.clone(),
                "application/json",
                json!({"metadata": {"name": name, "labels": {"v": value.to_string()}}}),
            ),
            Ask::Get(name) => ("GET", object(name), merge, Value::Null),
            Ask::List(value) => {
                let selector = value.map_or(String::new(), |value| format!("?labelSelector=v%3D{value}"));
                ("GET", format!("{}{selector}", self.collection), merge, Value::Null)
            }
            Ask::Merge(name, value, precondition) => {
                let mut body = json!({"metadata": {"labels": {"v": value.to_string()}}});
                match precondition {
                    Precondition::Right => body["metadata"]["resourceVersion"] = json!(seen(name).1),
                    Precondition::WrongVersion => body["metadata"]["resourceVersion"] = json!("999999999"),
                    Precondition::None | Precondition::WrongUid => {}
                }
                ("PATCH", object(name), merge, body)
            }
            Ask::Test(name, expected, value) => {
                let body = json!([
                    {"op": "test", "path": "/metadata/labels/v", "value": expected.to_string()},
                    {"op": "replace", "path": "/metadata/labels/v", "value": value.to_string()},
                ]);
                ("PATCH", object(name), "application/json-patch+json", body)
            }
            Ask::Delete(name, precondition) => {
                let (uid, version) = seen(name);
                let preconditions = match precondition {
                    Precondition::None => json!({}),
                    Precondition::Right => json!({"uid": uid, "resourceVersion": version}),
                    Precondition::WrongVersion => json!({"uid": uid, "resourceVersion": "999999999"}),
                    Precondition::WrongUid => json!({"uid": unknown.0}),
                };
                ("DELETE", object(name), "application/json", json!({"preconditions": preconditions}))
            }
        };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", format).body(body.into())?;
        let response = self.client.send(request).await?;
        let code = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
        let body: Value = serde_json::from_slice(&bytes)?;
        if let Some(name) = body["metadata"]["name"].as_str().filter(|_| code < 300) {
            let text = |field: &str| body["metadata"][field].as_str().unwrap_or_default().to_owned();
            self.seen.insert(name.to_owned(), (text("uid"), text("resourceVersion")));
        }
        // Of a deletion some kinds answer with the object, others with a Status.
        let shown = match (&body["items"], method) {
            _ if code >= 300 => json!({"reason": body["reason"]}),
            (_, "DELETE") => Value::Null,
            (Value::Array(items), _) => items.iter().filter(|item| is_drawn(item)).map(short).collect(),
            _ => short(&body),
        };
        Ok(json!({"code": code, "shown": shown}))
    }

    /// What a watch from the beginning tells, up to the object of that name.
    async fn watched(&self, from: &str, last: &str) -> Result<Vec<Value>> {
        let path = format!("{}?watch=true&resourceVersion={from}", self.collection);
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

    async fn version(&self) -> Result<String> {
        let list: Value = self.client.request(Request::get(&self.collection).body(Vec::new())?).await?;
        Ok(list["metadata"]["resourceVersion"].as_str().context("a list without a version")?.to_owned())
    }
}

/// A genuine namespace has a ConfigMap of its own.
fn is_drawn(object: &Value) -> bool {
    NAMES.iter().any(|name| object["metadata"]["name"] == *name)
}

fn short(object: &Value) -> Value {
    json!({"name": object["metadata"]["name"], "v": object["metadata"]["labels"]["v"]})
}

#[tokio::test]
async fn the_api_server_in_memory_answers_as_a_genuine_one_does() -> Result<()> {
    let genuine = Api::start().await?;
    let namespace = genuine.namespace("drawn", &[]).await?;
    let memory = MemoryApi::start(Arc::new(Everything)).await?;
    let mut servers = [Server::new(genuine.client().await?, &namespace), Server::of_memory(&memory).await?];
    let begun = [servers[0].version().await?, servers[1].version().await?];
    let mut random = Random(20_261_130);
    let mut codes = BTreeSet::new();
    for number in 0..REQUESTS {
        let ask = random.ask();
        let [genuine, memory] = &mut servers;
        let (expected, found) = (genuine.answer(&ask).await?, memory.answer(&ask).await?);
        ensure!(expected == found, "request {number}, {ask:?}: genuine {expected}, in memory {found}");
        codes.insert(expected["code"].as_u64());
    }
    // Nothing was drawn in vain: every kind of answer came.
    for code in [200, 201, 404, 409, 422] {
        ensure!(codes.contains(&Some(code)), "no request was answered {code}: {codes:?}");
    }
    for server in &servers {
        let last = json!({"metadata": {"name": "last"}}).to_string().into_bytes();
        let request = Request::post(&server.collection).header("content-type", "application/json").body(last)?;
        server.client.request::<Value>(request).await?;
    }
    let (expected, found) =
        (servers[0].watched(&begun[0], "last").await?, servers[1].watched(&begun[1], "last").await?);
    ensure!(expected.len() > 50, "{} events", expected.len());
    ensure!(expected == found, "watches differ: genuine {expected:#?}, in memory {found:#?}");
    Ok(())
}
