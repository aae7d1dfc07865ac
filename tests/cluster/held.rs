//! A Deployment through an outage, as it would be written by a user, with Linkerd where it is by default.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use linkerd_gate_kit::object::deployment;
use serde_json::{Value, json};

use crate::harness::{Harness, has_proxy, images, runs};

pub async fn a_deployment_created_in_an_outage_is_held_until_recreated(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("linkerd").await?;
    let namespaces = [linkerd.shop.as_str(), "kube-system"];
    let story = async {
        let web = deployment("web").of(linkerd.app("web", linkerd.gate()));
        harness.create::<Deployment>(&linkerd.shop, web.json()).await?;

        // Admitted bare, silently.
        let missed = harness.until_pod(&linkerd.shop, "web", "a pod", |_| true).await?;
        ensure!(!has_proxy(&missed), "it was injected although the injector is away");
        let line = harness.until_log(&missed, "linkerd-gate", "waiting: ").await?;
        ensure!(line.contains("injector not ready") && line.contains("identity not ready"), "{line}");
        harness.ensure_never_started(&missed, "app").await?;

        linkerd.start().await?;
        let line = harness.until_log(&missed, "linkerd-gate", "this pod must be created again").await?;
        harness.ensure_never_started(&missed, "app").await?;

        // What a person would do: run what the log says.
        let command =
            line.split("after: ").nth(1).and_then(|rest| rest.split(" (").next()).context("no command in the log")?;
        let arguments: Vec<&str> = command.split_whitespace().collect();
        ensure!(arguments.first() == Some(&"kubectl"), "{command}");
        let output = tokio::process::Command::new(harness.cluster.kubectl())
            .args(&arguments[1..])
            .arg("--kubeconfig")
            .arg(harness.cluster.kubeconfig())
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));

        let next = harness.until_pod(&linkerd.shop, "web", "running", runs).await?;
        ensure!(next.uid() != missed.uid() && has_proxy(&next), "the pod that runs is not a meshed one");
        let said = harness.cluster.logs_of(&linkerd.shop, &next.name_any(), "linkerd-gate").await?;
        ensure!(said.contains("is meshed: injected by linkerd"), "{said}");
        harness.until_log(&next, "app", "started beside a ready proxy").await?;
        Ok(())
    };
    harness.cluster.reported(&namespaces, story).await
}

/// The files of `examples/`, with the stand-in's image in place of the app's, and ours: what else they say is what is run.
pub async fn the_examples_run_meshed(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("examples").await?;
    linkerd.start().await?;
    let namespaces = [linkerd.shop.as_str()];
    let story = async {
        for (file, app) in [("deployment.yaml", "web"), ("statefulset.yaml", "store"), ("job.yaml", "report")] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
            let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path)?)?;
            for mut document in documents {
                if let Some(pod) = document.pointer_mut("/spec/template/spec") {
                    let container = &mut pod["containers"][0];
                    container["image"] = images::STANDIN.into();
                    container["args"] = json!(["app", if file == "job.yaml" { "once" } else { "8080" }]);
                    pod["initContainers"][0]["image"] = images::GATE.into();
                    let variables = pod["initContainers"][0]["env"].as_array_mut().context("no variables")?;
                    variables.push(json!({"name": "LINKERD_GATE_LINKERD_NAMESPACE", "value": linkerd.namespace}));
                }
                match document["kind"].as_str() {
                    Some("Deployment") => drop(harness.create::<Deployment>(&linkerd.shop, document).await?),
                    Some("StatefulSet") => drop(harness.create::<StatefulSet>(&linkerd.shop, document).await?),
                    Some("Job") => drop(harness.create::<Job>(&linkerd.shop, document).await?),
                    Some("Service") => drop(harness.create::<Service>(&linkerd.shop, document).await?),
                    other => anyhow::bail!("{file} has a {other:?}"),
                }
            }
            let started = harness.until_pod(&linkerd.shop, app, "started", |pod| {
                runs(pod) || crate::harness::exit_code(pod, "app") == Some(0)
            });
            ensure!(has_proxy(&started.await?), "{file}: the pod is not meshed");
        }
        Ok(())
    };
    harness.cluster.reported(&namespaces, story).await
}
