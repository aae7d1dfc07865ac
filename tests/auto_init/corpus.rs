//! The corpus against the policy: one answer with `linkerd::injection`, which the corpus holds to Linkerd's own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use linkerd_gate::linkerd::{TokenProjection, WebhookView, injection::injection};
use linkerd_gate_kit::object::{namespace, pod, webhook_configuration};
use serde_json::{Value, json};

use crate::load::{Case, Corpus, Expect, load};
use crate::stage::{Stage, WEBHOOKS, admit, entry, send, until, variable};

/// Where Linkerd would inject and the policy adds nothing, by design.
const SPARED: [&str; 2] =
    ["without selectors even kube-system is called for", "a pod for Windows is patched like any other"];

/// Changes what the API server admits pods by, and knows when it does.
struct Scene<'a> {
    stage: &'a Stage,
    corpus: &'a Corpus,
    client: Client,
    /// Counts the changes, of webhooks and namespaces on the one hand and of the policy on the other.
    changes: u32,
    policies: u32,
    /// What the policy was told of tokens.
    token_projection: Option<bool>,
    /// The names of what is installed.
    installed: Vec<String>,
    /// Corpus namespaces that were created, by what the cases say of them.
    namespaces: BTreeMap<String, String>,
}

pub async fn every_case() -> Result<()> {
    let stage = Stage::set().await?;
    stage.cluster.reported(&[], judged(&stage)).await
}

async fn judged(stage: &Stage) -> Result<()> {
    let corpus = load()?;
    let mut scene = Scene::set(stage, &corpus).await?;
    // Cases beside each other that want the same.
    let mut cases: Vec<&Case> = corpus.cases.iter().collect();
    cases.sort_by_key(|case| (!case.token_projection, &case.webhook));
    let (mut wrong, mut spared, mut judged) = (Vec::new(), BTreeSet::new(), 0);
    let mut prepared = None;
    for case in cases {
        let wanted = Some((case.token_projection, &case.webhook));
        if prepared != wanted {
            scene.prepare(case.token_projection, &case.webhook).await?;
            prepared = wanted;
        }
        let namespace = scene.namespace(&case.namespace).await?;
        let mut sent = serde_json::to_value(&case.pod)?;
        sent["metadata"]["namespace"] = namespace.into();
        let admitted = match admit(&scene.client, &sent).await {
            Ok(admitted) => admitted,
            Err(error) => {
                let words = format!("{}: {error:#}", case.name);
                ensure!(case.api_server.refuses.is_some() && !words.contains("linkerd-gate"), "{words}");
                judged += 1;
                continue;
            }
        };
        ensure!(case.api_server.refuses.is_none(), "{}: it was admitted", case.name);
        let added = entry(&admitted).is_some();
        let asks = scene.rust_says_inject(case, admitted)?;
        // What the API server changes beforehand the policy sees changed, as the injector would.
        if case.api_server.changes.is_none() {
            ensure!(asks == (case.expect == Expect::Inject), "{}: Rust disagrees with the corpus", case.name);
        }
        if asks && !added && SPARED.contains(&case.name.as_str()) {
            spared.insert(case.name.as_str());
        } else if asks != added {
            wrong.push(format!("{}: {}: asks {asks}, added {added}", case.file, case.name));
        }
        judged += 1;
    }
    ensure!(wrong.is_empty(), "{} of {judged} cases:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(spared == SPARED.into(), "of {SPARED:?} only {spared:?} were spared");
    ensure!(judged == corpus.cases.len() && judged >= 190, "{judged} cases");
    Ok(())
}

// === impl Scene ===

impl<'a> Scene<'a> {
    async fn set(stage: &'a Stage, corpus: &'a Corpus) -> Result<Self> {
        stage.make(namespace("canary").asking()).await?;
        let client = stage.cluster.client().await?;
        let canary = webhook_configuration("linkerd").named("canary").json();
        send(&client, Method::POST, WEBHOOKS, "application/json", &canary).await?;
        let (installed, namespaces) = (Vec::new(), BTreeMap::new());
        Ok(Self { stage, corpus, client, changes: 0, policies: 0, token_projection: None, installed, namespaces })
    }

    /// Installs the webhook configurations of that name instead of those that are there, and tells the policy what Linkerd
    /// does with tokens.
    async fn prepare(&mut self, token_projection: bool, webhook: &str) -> Result<()> {
        for name in self.installed.drain(..) {
            let path = format!("{WEBHOOKS}/{name}");
            send(&self.client, Method::DELETE, &path, "application/json", &Value::Null).await?;
        }
        for configuration in &self.corpus.webhooks[webhook] {
            let mut configuration = serde_json::to_value(configuration)?;
            // Nobody serves them: pods are admitted as they are, which is not what is asked here.
            for webhook in configuration["webhooks"].as_array_mut().into_iter().flatten() {
                webhook["failurePolicy"] = "Ignore".into();
            }
            send(&self.client, Method::POST, WEBHOOKS, "application/json", &configuration).await?;
            self.installed.push(configuration["metadata"]["name"].as_str().context("a nameless configuration")?.into());
        }
        // Of another policy an API server takes note once a second (measured).
        if self.token_projection != Some(token_projection) {
            self.policies += 1;
            let (projects, number) = (token_projection.to_string(), format!("['NUMBER={}']", self.policies));
            self.stage.set_values(&[("tokenProjection", &projects), ("settings", &number)]).await?;
            self.token_projection = Some(token_projection);
        }
        self.settle().await
    }

    /// Waits until the API server goes by everything that was written so far. It follows each kind of object in the order of its
    /// changes, so the last change of each kind is enough: a webhook, a namespace and (in the entry itself) the policy, that only
    /// together add an entry with this number to a pod.
    async fn settle(&mut self) -> Result<()> {
        self.changes += 1;
        let label = json!({"canary": self.changes.to_string()});
        self.stage.merge("/api/v1/namespaces/canary", &json!({"metadata": {"labels": label.clone()}})).await?;
        let mut canary = webhook_configuration("linkerd").json()["webhooks"].take();
        canary[0]["namespaceSelector"] = json!({"matchLabels": label});
        self.stage.merge(&format!("{WEBHOOKS}/canary"), &json!({"webhooks": canary})).await?;
        let sent = pod("canary").in_namespace("canary").json();
        let number = self.policies.to_string();
        until(&self.client, "the canary", &sent, |pod| variable(pod, "NUMBER") == Some(&number)).await?;
        Ok(())
    }

    /// A namespace as a case says. Those of the corpus' own name get one that is nobody else's; the others are there once.
    async fn namespace(&mut self, wanted: &Namespace) -> Result<String> {
        let name = wanted.metadata.name.clone().context("a namespace without a name")?;
        let key = serde_json::to_string(&wanted.metadata)?;
        if name == "corpus" {
            if let Some(made) = self.namespaces.get(&key) {
                return Ok(made.clone());
            }
            let mut namespace = wanted.clone();
            let own = format!("corpus-{}", self.namespaces.len());
            namespace.metadata.name = Some(own.clone());
            self.stage.cluster.create_namespace(&namespace).await?;
            self.namespaces.insert(key, own.clone());
            return Ok(own);
        }
        if self.namespaces.get(&name) != Some(&key) {
            self.say(&name, wanted).await?;
            self.namespaces.insert(name.clone(), key);
        }
        Ok(name)
    }

    /// Gives a namespace exactly these labels and annotations.
    async fn say(&mut self, name: &str, wanted: &Namespace) -> Result<()> {
        let path = format!("/api/v1/namespaces/{name}");
        let found = send(&self.client, Method::GET, &path, "application/json", &Value::Null).await;
        let Ok(mut namespace) = found else {
            self.stage.cluster.create_namespace(wanted).await?;
            return self.settle().await;
        };
        let mut labels = wanted.metadata.labels.clone().unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        namespace["metadata"]["labels"] = json!(labels);
        namespace["metadata"]["annotations"] = json!(wanted.metadata.annotations.clone().unwrap_or_default());
        send(&self.client, Method::PUT, &path, "application/json", &namespace).await?;
        self.settle().await
    }

    /// What Rust says of the pod that the injector would be sent: what was admitted, without the entry.
    fn rust_says_inject(&self, case: &Case, mut admitted: Value) -> Result<bool> {
        if let Some(containers) = admitted["spec"]["initContainers"].as_array_mut() {
            containers.retain(|container| container["name"] != "linkerd-gate");
        }
        let pod: Pod = serde_json::from_value(admitted)?;
        let view = WebhookView::new(&self.corpus.webhooks[&case.webhook])?;
        let projection = if case.token_projection { TokenProjection::Enabled } else { TokenProjection::Disabled };
        Ok(injection(&pod, &case.namespace, &view, projection).is_inject())
    }
}
