//! Which namespaces are essential: the policy's CEL and the agent's Rust give one answer, whatever the live webhook selects.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use linkerd_gate::decide::node::essential::{EssentialNamespace, namespaces};
use linkerd_gate::linkerd::WebhookView;
use linkerd_gate_kit::object::{namespace, webhook_configuration};
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE};
use crate::pods::toleration;
use crate::write::{Refusal, Write, get, send};

const POLICY: &str = "linkerd-gate-agent-essential";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/linkerd-proxy-injector-webhook-config";

/// Namespace selectors beside the chart's, each with another shape.
fn selectors() -> Vec<Value> {
    let requirement = |key: &str, operator: &str, values: &[&str]| {
        let mut requirement = json!({"key": key, "operator": operator});
        if !values.is_empty() {
            requirement["values"] = json!(values);
        }
        requirement
    };
    let expressions = |all: &[Value]| json!({"matchExpressions": all});
    vec![
        json!({}),
        json!({"matchLabels": {"team": "red"}}),
        json!({"matchLabels": {"team": "red", "mesh": "on"}}),
        expressions(&[requirement("team", "In", &["red", "blue"])]),
        expressions(&[requirement("team", "NotIn", &["red", "blue"])]),
        expressions(&[requirement("mesh", "Exists", &[])]),
        expressions(&[requirement("mesh", "DoesNotExist", &[])]),
        expressions(&[requirement("team", "In", &["red"]), requirement("mesh", "DoesNotExist", &[])]),
        json!({"matchLabels": {"mesh": "on"}, "matchExpressions": [requirement("team", "NotIn", &["blue"])]}),
    ]
}

/// On a stage with the rights that the manifests give; it changes the webhook configuration, so nobody else may use it.
pub async fn exercise(harness: &Harness) -> Result<()> {
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let subjects = [
        ("plain", &[][..]),
        ("red", &[("team", "red")]),
        ("blue", &[("team", "blue")]),
        ("red-on", &[("team", "red"), ("mesh", "on")]),
        ("green-on", &[("team", "green"), ("mesh", "on")]),
        ("off", &[("mesh", "off")]),
        ("not-essential", &[("linkerd-gate/essential", "yes")]),
    ];
    let mut paths = Vec::new();
    for (name, labels) in subjects {
        let object = labels.iter().fold(namespace(name), |object, (key, value)| object.labelled(key, value));
        harness.cluster.create_namespace(&serde_json::from_value(object.json())?).await?;
        paths.push((name, harness.waiting_pod(name, "waits").await?));
    }
    let tolerate = json!([{"op": "add", "path": "/spec/tolerations/-", "value": toleration()}]);
    let may = async |path: &str| -> Result<Result<Value, Refusal>> {
        Ok(match send(&agent, &Write::json_patch(path, &tolerate).dry_run()).await {
            Err(refusal) if !refusal.by(POLICY) => bail!("{path}: {refusal}"),
            outcome => outcome,
        })
    };
    // The API server learns of a new configuration a moment later. A sign of it is a namespace that is the control plane's
    // and so essential with each selector to be tried, and is not with the one between two of them, which selects everything.
    let until_essential = async |path: &str, essential: bool| -> Result<()> {
        let learned = async {
            while may(path).await?.is_ok() != essential {
                tokio::task::yield_now().await;
            }
            anyhow::Ok(())
        };
        let learned = tokio::time::timeout(PATIENCE, learned).await;
        learned.with_context(|| format!("{path} does not become essential={essential}"))?
    };

    let configure = async |control_plane: &str, selector: &Value| -> Result<()> {
        let mut configuration = webhook_configuration(control_plane).json();
        configuration["webhooks"][0]["namespaceSelector"] = selector.clone();
        configuration["metadata"]["resourceVersion"] =
            get(&admin, CONFIGURATION).await?["metadata"]["resourceVersion"].clone();
        send(&admin, &Write::replace(CONFIGURATION, &configuration)).await?;
        Ok(())
    };
    harness.cluster.create_namespace(&serde_json::from_value(namespace("control-plane").json())?).await?;
    let sign = harness.waiting_pod("control-plane", "waits").await?;
    let mut answers = BTreeSet::new();
    for selector in selectors() {
        configure("linkerd", &json!({})).await?;
        until_essential(&sign, false).await?;
        configure("control-plane", &selector).await?;
        until_essential(&sign, true).await?;

        let live: MutatingWebhookConfiguration = serde_json::from_value(get(&admin, CONFIGURATION).await?)?;
        let view = WebhookView::new([&live])?;
        for (name, path) in &paths {
            let labels = get(&admin, &format!("/api/v1/namespaces/{name}")).await?["metadata"]["labels"].clone();
            let subject = EssentialNamespace { name: (*name).to_owned(), labels: serde_json::from_value(labels)? };
            let essential = !namespaces(&view, [&subject], &BTreeSet::new()).is_empty();
            let outcome = may(path).await?;
            ensure!(outcome.is_ok() == essential, "{name} under {selector}: essential={essential}, but {outcome:?}");
            answers.insert((*name, essential));
        }
    }
    // Seen both ways, all of them: the selectors tell these namespaces apart.
    ensure!(answers.len() == 2 * paths.len(), "{answers:?}");

    // A second control plane: a namespace that it selects is not essential, whatever the first one says.
    let second = webhook_configuration("linkerd").named("a-second").json();
    send(&admin, &Write::create(CONFIGURATIONS, &second)).await?;
    until_essential(&sign, false).await?;
    send(&admin, &Write::delete(&format!("{CONFIGURATIONS}/a-second"))).await?;

    // Linkerd uninstalled: the policy has nothing to go by. Other programs change and delete pods as ever.
    configure("linkerd", &json!({})).await?;
    let waiting = harness.waiting_pod("shop", "without-linkerd").await?;
    until_essential(&waiting, false).await?;
    send(&admin, &Write::delete(CONFIGURATION)).await?;
    until_essential(&waiting, true).await?;
    let label = json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]);
    send(&admin, &Write::json_patch(&waiting, &label)).await?;
    send(&admin, &Write::delete(&waiting)).await?;
    Ok(())
}
