//! Webhook configurations as clusters have them: with selectors that pods and namespaces opt in to, and one more that an earlier
//! installation left.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::harness::{BARE, Harness, PROBE, agent_of, is_closed, logs_of, object, opened};

/// Linkerd's only webhook configuration.
async fn linkerds(stage: &Harness) -> Result<MutatingWebhookConfiguration> {
    stage.webhooks().await?.list(&ListParams::default()).await?.items.pop().context("no webhook configuration")
}

/// Makes the webhook select by this too.
async fn select(stage: &Harness, selector: &str, wanted: Value) -> Result<()> {
    let mut configuration = serde_json::to_value(linkerds(stage).await?)?;
    configuration["webhooks"][0][selector]["matchLabels"] = wanted;
    let configuration: MutatingWebhookConfiguration = object(configuration)?;
    stage.webhooks().await?.replace(&configuration.name_any(), &PostParams::default(), &configuration).await?;
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_wants_labels_injects_the_probe_that_has_them() -> Result<()> {
    let stage = Harness::set().await?;
    stage.injector.recover().await?;
    select(&stage, "namespaceSelector", json!({"mesh": "on"})).await?;
    stage.node_of_an_earlier_boot("node-0").await?;
    let mut agent = stage.start(agent_of("node-0", "boot-1"))?;
    let story = async {
        let line = agent.until_says("gate: waiting: injection not ready: the injector is not called").await?;
        ensure!(line.contains("it wants of the namespace's labels: mesh is \"on\""), "{line}");
        ensure!(line.contains(&format!("give namespace {PROBE} the labels")), "{line}");
        stage.until_node("node-0", "closed", is_closed).await?;
        agent.answers(503).await?;

        // As the chart's probeNamespaceLabels does.
        let namespaces: Api<Namespace> = Api::all(stage.cluster.client().await?);
        let labels = json!({"metadata": {"labels": {"mesh": "on"}}});
        namespaces.patch(PROBE, &PatchParams::default(), &Patch::Merge(labels)).await?;
        agent.until_says("gate: open: proven").await?;
        stage.until_node("node-0", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;

        select(&stage, "objectSelector", json!({"team": "shop"})).await?;
        let line = agent.until_says("gate: closed: injection not ready: ").await?;
        ensure!(line.contains("it wants of the pod's labels: team is \"shop\""), "{line}");
        ensure!(line.contains("LINKERD_GATE_PROBE_LABELS"), "{line}");
        agent.answers(503).await?;
        ensure!(agent.times_said(BARE) == 0, "the injector was blamed:\n{}", agent.said());
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&agent]))?;
    ensure!(agent.terminate().await? == 0, "{}", agent.said());

    let agent = stage.start(agent_of("node-0", "boot-1").with("PROBE_LABELS", "team=shop"))?;
    let proven = agent.until_says("gate: open: proven").await;
    proven.map(|_| ()).with_context(|| logs_of([&agent]))
}

#[tokio::test]
async fn what_an_earlier_installation_left_is_passed_over_and_named() -> Result<()> {
    const LEFT: &str = "linkerd-proxy-injector-webhook-config-of-an-earlier-revision";
    let stage = Harness::set().await?;
    stage.injector.recover().await?;
    let mut left = linkerds(&stage).await?;
    left.metadata.name = Some(LEFT.to_owned());
    (left.metadata.resource_version, left.metadata.uid) = (None, None);
    for webhook in left.webhooks.iter_mut().flatten() {
        let service = webhook.client_config.service.as_mut().context("no Service")?;
        "linkerd-proxy-injector-of-an-earlier-revision".clone_into(&mut service.name);
    }
    let webhooks = stage.webhooks().await?;
    let left = webhooks.create(&PostParams::default(), &left).await?;
    stage.node_of_an_earlier_boot("node-0").await?;
    let agent = stage.start(agent_of("node-0", "boot-1"))?;
    let story = async {
        let line = agent.until_said("webhook configuration ignored").await?;
        ensure!(line.contains(&format!("kubectl delete mutatingwebhookconfiguration {LEFT}")), "{line}");
        agent.until_says("gate: open: proven").await?;
        stage.until_node("node-0", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;

        // It stands in for no injector.
        stage.move_injector(false).await?;
        let line = agent.until_says("gate: closed: injector not ready: ").await?;
        ensure!(line.contains("Service linkerd/linkerd-proxy-injector has no endpoint"), "{line}");
        stage.move_injector(true).await?;
        agent.until_says("gate: open: proven").await?;

        // Were it called for pods that the other one is not called for, they would come bare: that is no leftover.
        let mut wider = left;
        for webhook in wider.webhooks.iter_mut().flatten() {
            webhook.namespace_selector = None;
        }
        webhooks.replace(LEFT, &PostParams::default(), &wider).await?;
        let line = agent.until_says("gate: closed: injector not ready: ").await?;
        ensure!(line.contains("linkerd-proxy-injector-of-an-earlier-revision has no endpoint"), "{line}");
        ensure!(line.contains(&format!("(webhook configuration {LEFT})")), "{line}");
        webhooks.delete(LEFT, &DeleteParams::default()).await?;
        agent.until_says("gate: open: proven").await?;
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&agent]))
}
