//! The corpus live and offline: what an API server serves is explained as the same objects in files are.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use http::Response;
use hyper::body::Bytes;
use linkerd_gate::cluster::Person;
use linkerd_gate::command::explain::{Explain, Kind, Live, Output, explain_live};
use linkerd_gate::linkerd::TokenProjection;
use serde_json::{Value, json};

use crate::front::{Answer, Front};
use crate::load::{Case, Corpus, Expect, load};
use crate::support::{of, run};

/// What the API server has at the moment.
#[derive(Debug, Default)]
struct Cluster {
    namespace: Value,
    webhooks: Vec<Value>,
    pod: Value,
}

/// As an API server writes a list: its items do not say what they are.
fn list(kind: &str, version: &str, items: impl IntoIterator<Item = Value>) -> Value {
    let items: Vec<Value> = items
        .into_iter()
        .map(|mut item| {
            if let Some(item) = item.as_object_mut() {
                item.remove("apiVersion");
                item.remove("kind");
            }
            item
        })
        .collect();
    json!({"apiVersion": version, "kind": format!("{kind}List"), "metadata": {"resourceVersion": "1"}, "items": items})
}

/// Answers as an API server that has these objects and no other.
fn serving(cluster: Arc<Mutex<Cluster>>) -> Answer {
    Arc::new(move |request| {
        let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let (namespace, name) = (&cluster.namespace["metadata"]["name"], &cluster.pod["metadata"]["name"]);
        let (namespace, name) = (namespace.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
        let path = request.uri().path();
        let found = if path == "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations" {
            let version = "admissionregistration.k8s.io/v1";
            Some(list("MutatingWebhookConfiguration", version, cluster.webhooks.iter().cloned()))
        } else if path == format!("/api/v1/namespaces/{namespace}") {
            Some(cluster.namespace.clone())
        } else if path == "/api/v1/namespaces" {
            Some(list("Namespace", "v1", [cluster.namespace.clone()]))
        } else if path == format!("/api/v1/namespaces/{namespace}/pods/{name}") {
            Some(cluster.pod.clone())
        } else if path == "/api/v1/pods" || path == format!("/api/v1/namespaces/{namespace}/pods") {
            Some(list("Pod", "v1", [cluster.pod.clone()]))
        } else if path.ends_with("/resourcequotas") {
            Some(list("ResourceQuota", "v1", []))
        } else if path.ends_with("/limitranges") {
            Some(list("LimitRange", "v1", []))
        } else {
            None
        };
        let (status, text) = found.map_or_else(
            || (http::StatusCode::NOT_FOUND, format!("{path} is not served")),
            |found| (http::StatusCode::OK, found.to_string()),
        );
        let mut answer = Response::new(Bytes::from(text));
        *answer.status_mut() = status;
        Box::pin(async { Some(answer) })
    })
}

/// What a pod in a cluster has and one in a file has not: otherwise the API server's own changes are foretold.
fn stored(case: &Case) -> Value {
    let mut pod = json!(case.pod);
    pod["metadata"]["uid"] = "11111111-1111-1111-1111-111111111111".into();
    pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    pod
}

fn projection(case: &Case) -> TokenProjection {
    if case.token_projection { TokenProjection::Enabled } else { TokenProjection::Disabled }
}

/// By files; an error in words where nothing was explained.
fn offline(corpus: &Corpus, case: &Case, folder: &Path) -> Result<Result<Value, String>> {
    let file = |name: &str, content: Value| -> Result<Option<String>> {
        let path = folder.join(name);
        std::fs::write(&path, content.to_string())?;
        Ok(Some(path.to_str().context("a path that is no text")?.to_owned()))
    };
    let webhooks = json!({"apiVersion": "v1", "kind": "List", "items": corpus.webhooks[&case.webhook]});
    let arguments = Explain {
        namespace_file: file("namespace.json", json!(case.namespace))?,
        webhook_file: file("webhooks.json", webhooks)?,
        token_projection: projection(case),
        output: Output::Json,
        ..of(&["-"])
    };
    let ran = run(&arguments, &stored(case).to_string());
    ran.map(|(out, _)| Ok(serde_json::from_str(&out)?))
        .map_or_else(|error| Ok(Err(error)), |found: Result<_>| found.map(Ok))
}

/// How an API server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// For the pod by its name, and for all pods of its namespace: it is explained twice.
    InNamespace,
    /// For all pods of all namespaces.
    Everywhere,
}

/// By the API server.
async fn live(case: &Case, kubeconfig: &Path, how: Asked) -> Result<Result<Value, String>> {
    let name = case.pod.metadata.name.clone().context("a name")?;
    let asked = Live {
        kinds: match how {
            Asked::InNamespace => vec![(Kind::PODS, vec![name]), (Kind::PODS, Vec::new())],
            Asked::Everywhere => vec![(Kind::PODS, Vec::new())],
        },
        namespace: case.namespace.metadata.name.clone().filter(|_| how == Asked::InNamespace),
        selector: None,
        missed: false,
        token_projection: projection(case),
        output: Output::Json,
        fail_on: Vec::new(),
    };
    let access = Person { kubeconfig: Some(kubeconfig.to_owned()), ..Person::default() };
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let done =
        explain_live(&access, &asked, &mut out, &mut notes).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    if done.incomplete {
        return Ok(Err(String::from_utf8(notes)?));
    }
    Ok(Ok(serde_json::from_slice(&out)?))
}

/// Without where it stood.
fn decided(mut found: Value) -> Value {
    for pod in found.as_array_mut().into_iter().flatten() {
        if let Some(pod) = pod.as_object_mut() {
            pod.remove("source");
        }
    }
    found
}

#[tokio::test]
async fn the_corpus_is_explained_live_as_by_files() -> Result<()> {
    // What the program does first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let corpus = load()?;
    let cluster = Arc::new(Mutex::new(Cluster::default()));
    let front = Front::start(serving(Arc::clone(&cluster))).await?;
    let home = tempfile::tempdir()?;
    let kubeconfig = home.path().join("kubeconfig");
    front.write_kubeconfig(&kubeconfig)?;
    let mut compared = 0;
    for (place, case) in corpus.cases.iter().enumerate() {
        *cluster.lock().unwrap_or_else(PoisonError::into_inner) = Cluster {
            namespace: json!(case.namespace),
            webhooks: corpus.webhooks[&case.webhook].iter().map(|it| json!(it)).collect(),
            pod: stored(case),
        };
        let by_files = offline(&corpus, case, home.path())?;
        // All namespaces are read in another way, which costs a client for each case: some show it.
        let ways: &[Asked] =
            if place % 8 == 0 { &[Asked::InNamespace, Asked::Everywhere] } else { &[Asked::InNamespace] };
        for how in ways {
            let found = live(case, &kubeconfig, *how).await.with_context(|| case.name.clone())?;
            let (found, by_files) = match (found, &by_files) {
                (Ok(found), Ok(by_files)) => (decided(found), decided(by_files.clone())),
                // A pod that no API server stores is refused either way.
                (Err(_), Err(_)) if case.api_server.refuses.is_some() => break,
                (found, by_files) => anyhow::bail!("{}: {found:?}, by files {by_files:?}", case.name),
            };
            let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
            ensure!(found.len() == if *how == Asked::InNamespace { 2 } else { 1 }, "{}: {found:#?}", case.name);
            for found in found {
                ensure!(json!([found]) == by_files, "{}: live {found:#}\nby files {by_files:#}", case.name);
                // What the API server changes before the injector sees it, it has not changed in the corpus.
                if case.api_server.changes.is_none() {
                    let expected = match case.expect {
                        Expect::Inject => "inject",
                        Expect::Skip => "skip",
                        Expect::NotCalled => "not-called",
                        Expect::Conditional => "conditional",
                    };
                    ensure!(found["decision"] == expected, "{}: {found:#}", case.name);
                    ensure!(found["reasons"] == json!(case.reasons), "{}: {found:#}", case.name);
                    ensure!(found["meshed"] == case.meshed, "{}: {found:#}", case.name);
                }
            }
        }
        compared += 1;
    }
    ensure!(compared > 180, "{compared} compared");
    Ok(())
}
