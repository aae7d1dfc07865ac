//! Mode `replace`, by the pod's own service account.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt as _;
use linkerd_gate_kit::object::{Gate, deployment};
use serde_json::Value;

use crate::harness::{Harness, Linkerd, has_proxy, runs, status};

fn replacing(linkerd: &Linkerd<'_>) -> Gate {
    linkerd.gate().variable("LINKERD_GATE_ON_MISSED", "replace").variable_from("LINKERD_GATE_POD_UID", "metadata.uid")
}

/// What `examples/replace.yaml` grants.
async fn grant(harness: &Harness, namespace: &str) -> Result<()> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/replace.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path)?)?;
    for document in documents {
        match document["kind"].as_str() {
            Some("ServiceAccount") => drop(harness.create::<ServiceAccount>(namespace, document).await?),
            Some("Role") => drop(harness.create::<Role>(namespace, document).await?),
            Some("RoleBinding") => drop(harness.create::<RoleBinding>(namespace, document).await?),
            Some("Deployment") => {}
            other => anyhow::bail!("the example has a {other:?}"),
        }
    }
    Ok(())
}

pub async fn a_pod_replaces_itself_with_the_role_of_the_example(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("replace").await?;
    let story = async {
        grant(harness, &linkerd.shop).await?;
        let web = linkerd.app("web", replacing(&linkerd)).as_service_account("web-replace");
        harness.create::<Deployment>(&linkerd.shop, deployment("web").of(web).json()).await?;
        let missed =
            harness.until_pod(&linkerd.shop, "web", "held", |pod| status(pod, "linkerd-gate").is_some()).await?;
        ensure!(!has_proxy(&missed));
        harness.until_log(&missed, "linkerd-gate", "waiting: ").await?;
        harness.ensure_never_started(&missed, "app").await?;
        linkerd.start().await?;
        let next = harness.until_pod(&linkerd.shop, "web", "running", runs).await?;
        ensure!(next.uid() != missed.uid() && has_proxy(&next), "the pod that runs is not a meshed one");
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn a_pod_without_the_role_is_held_and_says_which_one(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("replace-refused").await?;
    let story = async {
        let web = deployment("web").of(linkerd.never("web", replacing(&linkerd)));
        harness.create::<Deployment>(&linkerd.shop, web.json()).await?;
        let missed =
            harness.until_pod(&linkerd.shop, "web", "held", |pod| status(pod, "linkerd-gate").is_some()).await?;
        linkerd.start().await?;
        let line = harness.until_log(&missed, "linkerd-gate", "cannot replace itself").await?;
        ensure!(line.contains("may not get pods"), "{line}");
        let account = format!("--serviceaccount={}:default", linkerd.shop);
        ensure!(line.contains(&account), "{line}");
        harness.ensure_never_started(&missed, "app").await
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn an_ownerless_pod_does_not_replace_itself(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("replace-lone").await?;
    let story = async {
        grant(harness, &linkerd.shop).await?;
        let ownerless = linkerd.never("lone", replacing(&linkerd)).as_service_account("web-replace");
        let created = harness.create::<Pod>(&linkerd.shop, ownerless.json()).await?;
        linkerd.start().await?;
        let line = harness.until_log(&created, "linkerd-gate", "cannot replace itself").await?;
        ensure!(line.contains("no controller that would create it again"), "{line}");
        let still: Pod = harness.api(&linkerd.shop).await?.get_opt("lone").await?.context("it was deleted")?;
        ensure!(still.uid() == created.uid() && still.metadata.deletion_timestamp.is_none(), "it is being deleted");
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}
