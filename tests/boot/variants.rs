//! The same power cut where more is out of order: `failurePolicy: Fail`, an injector that comes and goes, no controller.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use linkerd_gate_kit::cluster;
use serde_json::json;
use tokio::process::Command;

use super::harness::{GATE, Harness, LINKERD, PATIENCE, SHOP, app_runs};
use super::power_cut::{Created, PowerCut, SETTLED};
use super::timeline::Column;
use super::workloads::{self, JOBS, OWNERS, Pods, is_gated, of, on, owners_settled, runs_meshed, uids};

/// The Deployment of controllers.
pub const CONTROLLER: &str = "linkerd-gate-controller";

/// A pod without an owner, which has no node of its own choice.
const ALONE: &str = "alone";

/// The API server refuses each pod while it cannot call the injector: owners are asked to try again.
pub async fn where_the_webhook_fails_closed(harness: &Harness) -> Result<Column> {
    failure_policy(harness, "Fail").await?;
    let title = "auto, `failurePolicy: Fail`";
    let mut cut = PowerCut::happens(harness, title, Created::Refused, async || Ok(())).await?;
    let refusal = cut.refusal.clone().unwrap_or_default();
    ensure!(refusal.contains("failed calling webhook"), "the webhook refused nothing: {refusal:?}");
    cut.boots_and_settles(SETTLED, |pods| owners_settled(harness, pods)).await?;
    cut.ensure_all_meshed().await?;
    failure_policy(harness, "Ignore").await?;
    Ok(cut.column)
}

/// The injector answers for ten seconds, and is gone for ten.
pub async fn where_the_injector_flaps(harness: &Harness) -> Result<Column> {
    let injector = |variable: &'static str| {
        let words = ["set", "env", "deployment/linkerd-proxy-injector", "--namespace", LINKERD, variable];
        let rollout =
            ["rollout", "status", "deployment/linkerd-proxy-injector", "--namespace", LINKERD, "--timeout=2m"];
        async move {
            harness.kubectl(&words).await?;
            harness.kubectl(&rollout).await
        }
    };
    injector("LINKERD_STANDIN_FAULT=flap=10s/10s").await?;
    let title = "auto, the injector flaps";
    let mut cut = PowerCut::happens(harness, title, Created::Held, async || Ok(())).await?;
    cut.boots_and_settles(SETTLED, |pods| owners_settled(harness, pods)).await?;
    cut.ensure_all_meshed().await?;
    injector("LINKERD_STANDIN_FAULT-").await?;
    harness.until_linkerd_is_ready().await?;
    Ok(cut.column)
}

/// Without a controller nothing has held pods made again. Nothing releases them either: a person does, one by one or all at once.
pub async fn where_no_controller_runs(harness: &Harness) -> Result<Column> {
    harness.scale(GATE, CONTROLLER, 0).await?;
    let pods: Api<Pod> = harness.api(GATE).await?;
    let controllers = ListParams::default().labels("app.kubernetes.io/component=controller");
    cluster::until_any(&pods, &controllers, "no controller is left", PATIENCE, |pods: &Pods| {
        pods.is_empty().then_some(())
    })
    .await?;
    let alone = async || {
        let refusal = workloads::try_ownerless(harness, ALONE, None).await?;
        ensure!(refusal.is_none(), "a pod without an owner was not held but refused: {refusal:?}");
        Ok(())
    };
    let mut cut = PowerCut::happens(harness, "auto, no controller", Created::Held, alone).await?;
    cut.boots().await?;
    let now: Pods = harness.pods(SHOP).await?.into_iter().map(|pod| (pod.name_any(), pod)).collect();
    ensure!(now.values().all(is_gated), "a held pod was released, though no controller runs: {now:#?}");
    ensure!(uids(now.values()) == uids(cut.early.values()), "a held pod was replaced, though no controller runs");
    ensure!(cut.history.count(harness)? == 0, "an app was started, though no controller runs");
    cut.column.say("held pods then, none replaced or released", now.len());

    recreate_one_without_an_owner(harness).await?;
    let released = release_one(harness, &now).await?;
    delete_those_of_an_owner(harness, &now).await?;
    suspend_and_resume_a_job(harness).await?;
    cut.column.mark("a person has recreated, released, deleted and resumed one of each");
    controllers_return(harness).await?;
    let nodes = on(harness).count();
    let settled = |pods: &Pods| {
        let is_settled = |pod: &&Pod| runs_meshed(pod) || pod.name_any() == released && app_runs(pod);
        let of_owner = |owner: &workloads::Owner| {
            of(pods, owner.name).iter().filter(|pod| is_settled(pod)).count() == owner.wanted(nodes)
        };
        OWNERS.iter().all(of_owner).then_some(())
    };
    let pods: Api<Pod> = harness.api(SHOP).await?;
    cluster::until_any(&pods, &ListParams::default(), "no pod is held any more", PATIENCE, settled).await?;
    workloads::until_jobs_complete(harness).await?;
    cut.column.mark("controllers run again: no pod is held");
    let made = cut.conclude().await?;
    ensure!(
        made.bare == [released.clone()],
        "{:?} were made outside the mesh, and only {released} was released",
        made.bare
    );
    Ok(cut.column)
}

/// The Event on such a pod names this command.
async fn recreate_one_without_an_owner(harness: &Harness) -> Result<()> {
    linkerd_gate(harness, &["recreate", &format!("pod/{ALONE}"), "--namespace", SHOP]).await?;
    let pods: Api<Pod> = harness.api(SHOP).await?;
    cluster::until(&pods, ALONE, "runs in the mesh", PATIENCE, runs_meshed).await?;
    Ok(())
}

/// A person decides that this one may run outside the mesh.
async fn release_one(harness: &Harness, held: &Pods) -> Result<String> {
    let name = of(held, "web").first().context("no pod of web is held")?.name_any();
    linkerd_gate(harness, &["release", &format!("pod/{name}"), "--namespace", SHOP]).await?;
    let pods: Api<Pod> = harness.api(SHOP).await?;
    cluster::until(&pods, &name, "runs outside the mesh", PATIENCE, app_runs).await?;
    Ok(name)
}

/// What has an owner needs no command of ours.
async fn delete_those_of_an_owner(harness: &Harness, held: &Pods) -> Result<()> {
    let before = uids(of(held, "legacy"));
    harness.kubectl(&["delete", "pod", "--selector", "app=legacy", "--namespace", SHOP]).await?;
    let pods: Api<Pod> = harness.api(SHOP).await?;
    let found = |pods: &Pods| {
        let own = of(pods, "legacy");
        let all = own.len() == before.len() && own.iter().all(|pod| runs_meshed(pod));
        (all && uids(own).is_disjoint(&before)).then_some(())
    };
    cluster::until_any(&pods, &ListParams::default(), "legacy runs in the mesh", PATIENCE, found).await
}

/// Deleting the held pod of a Job with `backoffLimit: 0` would fail the Job; suspending and resuming it loses nothing.
async fn suspend_and_resume_a_job(harness: &Harness) -> Result<()> {
    let patch = |patch: &'static str| async move {
        harness.kubectl(&["patch", "job", JOBS[0], "--namespace", SHOP, "--patch", patch]).await
    };
    patch(r#"{"spec":{"suspend":true}}"#).await?;
    let words = ["wait", "--for=condition=Suspended", "--timeout=60s", "--namespace", SHOP, "job", JOBS[0]];
    harness.kubectl(&words).await?;
    patch(r#"{"spec":{"suspend":false}}"#).await?;
    workloads::until_job_completes(harness, JOBS[0]).await
}

async fn controllers_return(harness: &Harness) -> Result<()> {
    let deployments: Api<Deployment> = harness.api(GATE).await?;
    let patch = Patch::Merge(json!({"spec": {"replicas": 2}}));
    deployments.patch(CONTROLLER, &PatchParams::default(), &patch).await?;
    harness.until_available(GATE, CONTROLLER).await
}

/// The command, as a person has it.
pub async fn linkerd_gate(harness: &Harness, words: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
        .args(words)
        .env_clear()
        .env("KUBECONFIG", harness.cluster.kubeconfig())
        .stdin(Stdio::null())
        .output()
        .await?;
    let (said, erred) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "linkerd-gate {words:?}: {}: {said}{erred}", output.status);
    println!("linkerd-gate {}: {}{}", words.join(" "), said.trim(), erred.trim());
    Ok(said.into_owned())
}

async fn failure_policy(harness: &Harness, policy: &str) -> Result<()> {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(harness.cluster.client().await?);
    let patch = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": policy}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch)?);
    webhooks.patch("linkerd-proxy-injector-webhook-config", &PatchParams::default(), &patch).await?;
    Ok(())
}
