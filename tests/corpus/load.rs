//! Reads the corpus: see `README.md` beside this file.

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{Namespace, Pod},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

/// One case, with everything filled in that its file leaves out.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about, in words.
    pub name: String,
    /// Which file it is from.
    pub file: &'static str,
    /// Where the pod is created.
    pub namespace: Namespace,
    /// The pod, as it is sent to the API server.
    pub pod: Pod,
    /// The webhook configurations that are installed: a key of [`Corpus::webhooks`].
    pub webhook: String,
    /// Linkerd's value `identity.serviceAccountTokenProjection`.
    pub token_projection: bool,
    /// What becomes of the pod.
    pub expect: Expect,
    /// Why, by keys.
    pub reasons: Vec<String>,
    /// Whether it carries a proxy that Linkerd injected.
    pub meshed: bool,
    /// Where a genuine API server differs.
    pub api_server: ApiServer,
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// It is injected.
    Inject,
    /// The injector is called and leaves it alone.
    Skip,
    /// The injector is not called.
    NotCalled,
    /// It is injected if match conditions hold.
    Conditional,
}

/// Where, and how, a genuine API server differs from "admits the pod as it is".
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiServer {
    /// It refuses the pod as it is.
    pub refuses: Option<String>,
    /// It refuses the pod after the injector's patch.
    pub refuses_injected: Option<String>,
    /// It changes the pod before the injector sees it.
    pub changes: Option<String>,
}

/// All cases, and the webhook configurations that they name.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// In the order of the files.
    pub cases: Vec<Case>,
    /// By the name that cases use.
    pub webhooks: BTreeMap<String, Vec<MutatingWebhookConfiguration>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    #[serde(default)]
    namespace: Map<String, Value>,
    #[serde(default)]
    pod: Map<String, Value>,
    webhook: Option<String>,
    token_projection: Option<bool>,
    expect: Expect,
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    meshed: bool,
    #[serde(default)]
    api_server: ApiServer,
}

const FILES: [&str; 3] = ["annotations.yaml", "webhook.yaml", "pod.yaml"];

/// Reads all of it. An unknown field anywhere, in a pod as in a case, is an error: a typo must not weaken a case.
pub fn load() -> anyhow::Result<Corpus> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).with_context(|| file.to_owned());

    let mut webhooks = BTreeMap::new();
    let raw: BTreeMap<String, Vec<Value>> = serde_saphyr::from_str(&read("webhooks.yaml")?).context("webhooks.yaml")?;
    for (name, configurations) in raw {
        let configurations =
            configurations.iter().map(exactly).collect::<anyhow::Result<Vec<_>>>().context(name.clone())?;
        webhooks.insert(name, configurations);
    }

    let mut cases = Vec::new();
    for file in FILES {
        let raw: Vec<Raw> = serde_saphyr::from_str(&read(file)?).context(file)?;
        for raw in raw {
            let name = raw.name.clone();
            cases.push(complete(file, raw).with_context(|| format!("{file}: {name}"))?);
        }
    }
    for case in &cases {
        ensure!(webhooks.contains_key(&case.webhook), "{}: no webhook {}", case.name, case.webhook);
    }
    Ok(Corpus { cases, webhooks })
}

fn complete(file: &'static str, raw: Raw) -> anyhow::Result<Case> {
    let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "corpus"}});
    overlay(&mut namespace, raw.namespace);
    let namespace: Namespace = exactly(&namespace)?;

    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "namespace": namespace.metadata.name},
        "spec": {"containers": [{"name": "app", "image": "registry.k8s.io/pause:3.10.1"}]},
    });
    overlay(&mut pod, raw.pod);

    Ok(Case {
        name: raw.name,
        file,
        namespace,
        pod: exactly(&pod)?,
        webhook: raw.webhook.unwrap_or_else(|| "chart".to_owned()),
        token_projection: raw.token_projection.unwrap_or(true),
        expect: raw.expect,
        reasons: raw.reasons,
        meshed: raw.meshed,
        api_server: raw.api_server,
    })
}

/// Lays `over` on top of `base`: maps are merged, everything else is replaced, and `null` removes.
fn overlay(base: &mut Value, over: Map<String, Value>) {
    let Value::Object(base) = base else {
        *base = Value::Object(over);
        return;
    };
    for (key, value) in over {
        match value {
            Value::Null => {
                base.remove(&key);
            }
            Value::Object(value) => overlay(base.entry(key).or_insert_with(|| json!({})), value),
            value => {
                base.insert(key, value);
            }
        }
    }
}

/// Reads a Kubernetes object and holds that nothing was passed over on the way.
fn exactly<K: DeserializeOwned + Serialize>(value: &Value) -> anyhow::Result<K> {
    let object: K = serde_json::from_value(value.clone())?;
    let back = serde_json::to_value(&object)?;
    ensure!(back == *value, "fields are unknown or misplaced:\n{value}\nwas read as\n{back}");
    Ok(object)
}
