//! The entry that nobody pasted: the policy adds it, and on a genuine node it does what the pasted one does.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams};
use linkerd_gate_kit::object::{Pod as PodBuilder, deployment, pod};
use serde_json::{Value, json};

use crate::stage::{Linkerd, PATIENCE, Stage, has_proxy, images, object, runs};

const NAME: &str = "auto-init";

pub async fn an_entry_that_nobody_pasted_holds_a_missed_pod_and_passes_a_meshed_one(stage: &Stage) -> Result<()> {
    let linkerd = stage.linkerd(NAME).await?;
    let namespaces = [linkerd.shop.as_str()];
    let story = async {
        apply_for_this_test(stage).await?;
        until_added(stage, &linkerd).await?;
        let web = deployment("web").of(app(&linkerd, "web"));
        stage.create::<Deployment>(&linkerd.shop, web.json()).await?;

        // The injector is away. It is told where this Linkerd is by the webhook's configuration alone.
        let missed = stage.until_pod(&linkerd.shop, "web", "a pod", |_| true).await?;
        ensure!(!has_proxy(&missed) && has_entry(&missed), "{:#?}", missed.spec);
        let line = stage.until_log(&missed, "linkerd-gate", "waiting: ").await?;
        ensure!(line.contains("injector not ready") && line.contains("identity not ready"), "{line}");
        stage.ensure_never_started(&missed, "app").await?;

        linkerd.start().await?;
        stage.until_log(&missed, "linkerd-gate", "Linkerd is ready, but").await?;
        stage.ensure_never_started(&missed, "app").await?;

        stage.api::<Pod>(&linkerd.shop).await?.delete(&missed.name_any(), &DeleteParams::default()).await?;
        let next = stage.until_pod(&linkerd.shop, "web", "running", runs).await?;
        ensure!(next.uid() != missed.uid() && has_proxy(&next) && has_entry(&next), "{:#?}", next.spec);
        let said = stage.cluster.logs_of(&linkerd.shop, &next.name_any(), "linkerd-gate").await?;
        ensure!(said.contains(&format!("is meshed (by {})", linkerd.namespace)), "{said}");
        stage.until_log(&next, "app", "started beside a ready proxy").await?;
        Ok(())
    };
    stage.cluster.reported(&namespaces, story).await
}

/// What a user writes who has never heard of us.
fn app(linkerd: &Linkerd<'_>, name: &str) -> PodBuilder {
    pod(name).in_namespace(&linkerd.shop).running(images::STANDIN).with_args(&["app", "8080"])
}

fn has_entry(pod: &Pod) -> bool {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.filter(|container| container.name == "linkerd-gate").count() == 1
}

/// The manifest, for this test's namespace only: others share the cluster.
async fn apply_for_this_test(stage: &Stage) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests/optional/60-auto-init.yaml");
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path)?)?;
    let selector = &mut documents[0]["spec"]["matchConstraints"]["namespaceSelector"];
    selector["matchLabels"] = json!({"test": NAME});
    let mut file = tempfile::NamedTempFile::new()?;
    for document in &documents {
        writeln!(file, "---\n{document}")?;
    }
    let output = tokio::process::Command::new(stage.cluster.kubectl())
        .args(["apply", "--validate=strict", "--filename"])
        .arg(file.path())
        .stdin(Stdio::null())
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// An API server learns of a new policy a moment after it was made.
async fn until_added(stage: &Stage, linkerd: &Linkerd<'_>) -> Result<()> {
    let pods = stage.api::<Pod>(&linkerd.shop).await?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let probe: Pod = object(app(linkerd, "is-it-added").json())?;
    let added = async {
        while !has_entry(&pods.create(&dry_run, &probe).await?) {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, added).await.context("the policy adds nothing")?
}
