//! The oldest API server that is supported, and the newest that is tried: the manifests that are for each, and the chart, which
//! asks the server what it can.

use std::process::Output;

use anyhow::{Context as _, Result, bail, ensure};
use http::Request;
use linkerd_gate_kit::cluster::ApiOptions;
use linkerd_gate_kit::object::pod;
use linkerd_gate_kit::parts::{Release, find_helm};
use serde_json::Value;

use crate::harness::{Harness, Outcome, QUIET, SHOP, asking, repository};

/// So many pods each way, on the newest server.
const PODS: usize = 100;

const IMAGE: &str = "image.repository=registry.test/linkerd-gate";

#[tokio::test]
async fn the_oldest_api_server_has_the_guard_alone() -> Result<()> {
    let harness = Harness::set(ApiOptions { release: Release::Oldest, ..ApiOptions::default() }).await?;
    let exercise = async {
        is_of(&harness, Release::Oldest).await?;
        let namespaces = repository("deploy/manifests-pre-1.36/10-namespaces.yaml");
        harness.apply(&namespaces).await?;
        let chart = path("deploy/chart")?;
        let install = ["install", "linkerd-gate", &chart, "--namespace", "linkerd-gate", "--no-hooks", "--set", IMAGE];

        // What the server cannot do is refused, and says what to do instead.
        let hold = helm(&harness, &[&install[..], &["--set", "admission=hold"]].concat()).await?;
        let said = String::from_utf8_lossy(&hold.stderr).into_owned();
        ensure!(!hold.status.success(), "hold was rendered for a server that lacks it");
        ensure!(said.contains("1.36") && said.contains("admission"), "{said}");

        succeed(&helm(&harness, &install).await?)?;
        let chosen = chosen(&harness).await?;
        ensure!(chosen.starts_with("refuse"), "{chosen}");
        missed_pods_are_refused(&harness).await?;
        succeed(&helm(&harness, &["uninstall", "linkerd-gate", "--namespace", "linkerd-gate", "--no-hooks"]).await?)?;
        harness.until("nothing is left", &asking("web"), |outcome| *outcome == Outcome::Bare).await?;

        apply_all(&harness, "deploy/manifests-pre-1.36").await?;
        missed_pods_are_refused(&harness).await
    };
    harness.cluster.reported(&[SHOP, QUIET], exercise).await
}

#[tokio::test]
async fn the_newest_api_server_holds() -> Result<()> {
    let harness = Harness::set(ApiOptions { release: Release::Newest, ..ApiOptions::default() }).await?;
    let exercise = async {
        is_of(&harness, Release::Newest).await?;
        apply_all(&harness, "deploy/manifests").await?;
        harness.injector_is_down().await?;
        harness.until("pods are held", &asking("web"), |outcome| *outcome == Outcome::Held).await?;
        for number in 0..PODS {
            let held = harness.create(&asking(&format!("down-{number}"))).await?;
            ensure!(Outcome::of(&held) == Outcome::Held, "down-{number}: {}", Outcome::of(&held));
        }
        let quiet = pod("web").in_namespace(QUIET).running("app:1").json();
        ensure!(harness.ask(&quiet).await? == Outcome::Bare, "a pod that does not ask was held");
        let bound = pod("web").in_namespace(SHOP).running("app:1").on_node("node-a").json();
        ensure!(harness.ask(&bound).await? == Outcome::Missed, "a pod that names its node was not refused");
        harness.injector_is_up().await?;
        for number in 0..PODS {
            let up = harness.create(&asking(&format!("up-{number}"))).await?;
            ensure!(Outcome::of(&up) == Outcome::Meshed, "up-{number}: {}", Outcome::of(&up));
            let trace = serde_json::to_value(&up.spec)?.get("schedulingGates").cloned();
            ensure!(trace.is_none(), "up-{number} has a trace: {trace:?}");
        }

        // And by the chart, which asks the server.
        harness.kubectl(&["delete", "--kustomize", &path("deploy/manifests")?]).await?;
        harness.apply(&repository("deploy/manifests/10-namespaces.yaml")).await?;
        let chart = path("deploy/chart")?;
        let install = ["install", "linkerd-gate", &chart, "--namespace", "linkerd-gate", "--no-hooks", "--set", IMAGE];
        succeed(&helm(&harness, &install).await?)?;
        ensure!(chosen(&harness).await? == "hold", "{}", chosen(&harness).await?);
        harness.injector_is_down().await?;
        harness.until("the chart's policies hold", &asking("web"), |outcome| *outcome == Outcome::Held).await
    };
    harness.cluster.reported(&[SHOP, QUIET], exercise).await
}

async fn missed_pods_are_refused(harness: &Harness) -> Result<()> {
    harness.injector_is_down().await?;
    harness.until("missed pods are refused", &asking("web"), |outcome| *outcome == Outcome::Missed).await?;
    let quiet = pod("web").in_namespace(QUIET).running("app:1").json();
    ensure!(harness.ask(&quiet).await? == Outcome::Bare, "a pod that does not ask was refused");
    harness.injector_is_up().await?;
    let injected = harness.ask(&asking("web")).await?;
    ensure!(injected == Outcome::Meshed, "{injected}");
    harness.injector_is_down().await
}

/// The server is of the release that it was asked for, and has what that release has.
async fn is_of(harness: &Harness, release: Release) -> Result<()> {
    let version: Value = harness.admin.request(Request::get("/version").body(Vec::new())?).await?;
    ensure!(version["gitVersion"] == release.version(), "{version}");
    let group = Request::get("/apis/admissionregistration.k8s.io/v1").body(Vec::new())?;
    let group: Value = harness.admin.request(group).await?;
    let offers =
        |kind: &str| group["resources"].as_array().is_some_and(|all| all.iter().any(|one| one["kind"] == kind));
    ensure!(offers("ValidatingAdmissionPolicy"), "{group}");
    ensure!(offers("MutatingAdmissionPolicy") == (release != Release::Oldest), "{group}");
    Ok(())
}

/// What `admission: auto` became when the chart was installed, as the guard notes it.
async fn chosen(harness: &Harness) -> Result<String> {
    let guard = policy(harness, "validatingadmissionpolicy", "linkerd-gate-guard").await?;
    let noted = &guard["metadata"]["annotations"];
    ensure!(noted["linkerd-gate/admission-value"] == "auto", "{noted}");
    Ok(noted["linkerd-gate/admission-chosen"].as_str().context("nothing is noted")?.to_owned())
}

/// A directory, as a person applies it: `kubectl apply --kustomize`.
async fn apply_all(harness: &Harness, directory: &str) -> Result<()> {
    let directory = path(directory)?;
    harness.kubectl(&["apply", "--validate=strict", "--kustomize", &directory]).await.map(drop)
}

fn path(of_repository: &str) -> Result<String> {
    Ok(repository(of_repository).to_str().context("a path that is no text")?.to_owned())
}

async fn policy(harness: &Harness, kind: &str, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&harness.kubectl(&["get", kind, name, "--output=json"]).await?)?)
}

async fn helm(harness: &Harness, words: &[&str]) -> Result<Output> {
    let program = tokio::task::spawn_blocking(find_helm).await??;
    let home = tempfile::tempdir()?;
    let mut helm = tokio::process::Command::new(program);
    helm.args(words).env("KUBECONFIG", harness.cluster.kubeconfig()).env("HOME", home.path());
    Ok(helm.output().await?)
}

fn succeed(output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
