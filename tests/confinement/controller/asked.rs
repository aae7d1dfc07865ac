//! Which pods ask: the policy's CEL and the controller's Rust give one answer, on the corpus, whatever webhooks there are.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use linkerd_gate::linkerd::injection::injection;
use linkerd_gate::linkerd::{TokenProjection, WebhookView};
use serde_json::{Value, json};

use super::{deletion, missed, owned};
use crate::harness::{Harness, PATIENCE};
use crate::load::{self, Case};
use crate::write::{Refusal, Write, get, send};

const POLICY: &str = "linkerd-gate-controller-asked";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// A case, as it stands in the cluster.
struct Standing {
    case: Case,
    path: String,
    namespace: Namespace,
    pod: Pod,
}

/// On a stage of its own: it changes the webhook configurations, and leaves one.
pub async fn exercise(harness: &Harness) -> Result<()> {
    let corpus = load::load()?;
    let mut standing: BTreeMap<String, Vec<Standing>> = BTreeMap::new();
    let mut namespaces = BTreeMap::new();
    for (number, case) in corpus.cases.into_iter().enumerate() {
        // A pod that no API server takes can never be there.
        if case.api_server.refuses.is_none() {
            let webhook = case.webhook.clone();
            let case = stand(harness, &mut namespaces, number, case).await?;
            standing.entry(webhook).or_default().push(case);
        }
    }
    let mut answers: BTreeMap<bool, usize> = BTreeMap::new();
    for (number, (key, configurations)) in corpus.webhooks.iter().enumerate() {
        install(harness, number, configurations).await.context(key.clone())?;
        for standing in standing.remove(key).unwrap_or_default() {
            let asked = asked(&standing, configurations)?;
            let outcome = send(&harness.controller().await?, &deletion(harness, &standing.path).await?.dry_run()).await;
            ensure!(outcome.is_ok() == asked, "{}: asked is {asked}, but {outcome:?}", standing.case.name);
            *answers.entry(asked).or_default() += 1;
        }
    }
    ensure!(standing.is_empty() && answers.values().all(|answers| *answers > 50), "{answers:?}");
    install(harness, corpus.webhooks.len(), &corpus.webhooks["chart"]).await
}

/// Makes the case's pod, and its namespace, where that is not one of the cluster's own or another case's.
async fn stand(
    harness: &Harness,
    namespaces: &mut BTreeMap<String, String>,
    number: usize,
    case: Case,
) -> Result<Standing> {
    let admin = harness.admin().await?;
    let mut namespace = case.namespace.clone();
    let alike = serde_json::to_string(&namespace)?;
    let name = namespace.metadata.name.clone().context("a name")?;
    let name = match namespaces.get(&alike) {
        Some(made) => made.clone(),
        None if name == "corpus" => {
            namespace.metadata.name = Some(format!("corpus-{number}"));
            harness.cluster.create_namespace(&namespace).await?
        }
        None => name,
    };
    namespaces.insert(alike, name.clone());
    let mut pod = serde_json::to_value(&case.pod)?;
    pod["metadata"]["name"] = format!("case-{number}").into();
    pod["metadata"]["namespace"] = name.clone().into();
    // What every other rule wants.
    for field in ["schedulerName", "terminationGracePeriodSeconds"] {
        pod["spec"][field] = missed("any")["spec"][field].clone();
    }
    pod["metadata"]["annotations"]["linkerd-gate/repair"] = "held".into();
    let path = owned(harness, &name, pod).await.with_context(|| case.name.clone())?;
    Ok(Standing {
        case,
        pod: serde_json::from_value(get(&admin, &path).await?)?,
        namespace: serde_json::from_value(get(&admin, &format!("/api/v1/namespaces/{name}")).await?)?,
        path,
    })
}

/// What the policy is to say: every configuration that bears the label asks for the pod. Without one it refuses nothing.
fn asked(standing: &Standing, configurations: &[MutatingWebhookConfiguration]) -> Result<bool> {
    let mut answers = Vec::new();
    for configuration in configurations.iter().filter(|configuration| is_labelled(configuration)) {
        let view = WebhookView::new([configuration])?;
        answers.push(injection(&standing.pod, &standing.namespace, &view, TokenProjection::Enabled).is_inject());
    }
    Ok(answers.iter().all(|asked| *asked))
}

fn is_labelled(configuration: &MutatingWebhookConfiguration) -> bool {
    let labels = configuration.metadata.labels.iter().flatten();
    labels.into_iter().any(|(key, value)| key == "linkerd.io/control-plane-component" && value == "proxy-injector")
}

/// Makes these the webhook configurations of the cluster, and waits until the policy has them. A sign of it is a namespace which
/// a further webhook selects that is in each of them.
async fn install(harness: &Harness, number: usize, configurations: &[MutatingWebhookConfiguration]) -> Result<()> {
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let sign = format!("sign-{number}");
    let namespace = linkerd_gate_kit::object::namespace(&sign).labelled("sign", &sign).json();
    harness.cluster.create_namespace(&serde_json::from_value(namespace)?).await?;
    let pod = owned(harness, &sign, missed("sign")).await?;
    // Refused wherever there is a configuration to go by.
    let mut declining = missed("declining");
    declining["metadata"]["annotations"]["linkerd.io/inject"] = "disabled".into();
    let declining = owned(harness, &sign, declining).await?;

    for old in get(&admin, CONFIGURATIONS).await?["items"].as_array().into_iter().flatten() {
        let name = old["metadata"]["name"].as_str().context("a name")?;
        send(&admin, &Write::delete(&format!("{CONFIGURATIONS}/{name}"))).await?;
    }
    let mut labelled = 0;
    for configuration in configurations {
        let mut object = serde_json::to_value(configuration)?;
        let webhooks = object["webhooks"].as_array_mut().context("webhooks")?;
        for webhook in webhooks.iter_mut() {
            // Nobody serves it, and what follows has to be there all the same.
            webhook["failurePolicy"] = "Ignore".into();
        }
        if is_labelled(configuration) {
            labelled += 1;
            webhooks.push(of_the_sign(&webhooks[0], &sign));
        }
        send(&admin, &Write::create(CONFIGURATIONS, &object)).await?;
    }
    let learned = async {
        loop {
            let may = async |path: &str| match send(&controller, &deletion(harness, path).await?.dry_run()).await {
                Ok(_) => Ok(true),
                Err(refusal @ Refusal { .. }) if refusal.by(POLICY) => Ok(false),
                Err(refusal) => bail!("{refusal}"),
            };
            let known = may(&pod).await? && may(&declining).await? == (labelled == 0);
            if known {
                return anyhow::Ok(());
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, learned).await.context("the policy does not learn of them")?
}

fn of_the_sign(webhook: &Value, sign: &str) -> Value {
    json!({
        "name": "sign.example.com",
        "namespaceSelector": {"matchLabels": {"sign": sign}},
        "clientConfig": webhook["clientConfig"],
        "failurePolicy": "Ignore",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
    })
}
