//! What can be done to a held pod, and what cannot be created in the first place.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use linkerd_gate_kit::cluster::{ApiOptions, until_gone};
use linkerd_gate_kit::object::pod;
use serde_json::json;

use crate::harness::{GATE, Harness, Outcome, PATIENCE, QUIET, SHOP, asking};

#[tokio::test]
async fn a_held_pod_is_a_pod_like_any_other() -> Result<()> {
    let harness = Harness::with_admission(ApiOptions::default()).await?;
    let exercise = async {
        a_pod_without_containers_is_invalid_as_ever(&harness).await?;
        a_pod_with_ephemeral_containers_is_invalid_as_ever(&harness).await?;
        a_held_pod_takes_ephemeral_containers_and_stays_held(&harness).await?;
        a_foreign_finalizer_keeps_a_held_pod_until_it_is_removed(&harness).await?;
        held_pods_count_for_a_quota(&harness).await?;
        exempt_pods_and_namespaces_are_let_alone(&harness).await?;
        a_meshed_pod_is_what_it_would_be_without_the_policy(&harness).await
    };
    harness.cluster.reported(&[SHOP, QUIET], exercise).await
}

/// Rule 10: 422, and not a failure of the policy.
async fn a_pod_without_containers_is_invalid_as_ever(harness: &Harness) -> Result<()> {
    for containers in [json!(null), json!([])] {
        for namespace in [SHOP, QUIET] {
            let mut pod = asking("empty");
            pod["metadata"]["namespace"] = namespace.into();
            pod["spec"]["containers"] = containers.clone();
            match harness.ask(&pod).await? {
                Outcome::Refused(422, words) => ensure!(words.contains("spec.containers: Required value"), "{words}"),
                other => anyhow::bail!("containers {containers} in {namespace}: {other}"),
            }
        }
    }
    Ok(())
}

/// Why `kubectl replace --force` of a pod that was debugged loses it: rule 8.
async fn a_pod_with_ephemeral_containers_is_invalid_as_ever(harness: &Harness) -> Result<()> {
    let mut pod = asking("debugged");
    pod["spec"]["ephemeralContainers"] = json!([{"name": "debugger", "image": "debugger:1"}]);
    match harness.ask(&pod).await? {
        Outcome::Refused(422, words) => ensure!(words.contains("ephemeralContainers"), "{words}"),
        other => anyhow::bail!("{other}"),
    }
    Ok(())
}

async fn a_held_pod_takes_ephemeral_containers_and_stays_held(harness: &Harness) -> Result<()> {
    let held = harness.create(&asking("debugged")).await?;
    ensure!(Outcome::of(&held) == Outcome::Held, "{}", Outcome::of(&held));
    let patch = json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": "debugger:1"}]}});
    let pods = harness.pods(SHOP);
    let patch = Patch::Strategic(patch);
    let debugged = pods.patch_ephemeral_containers("debugged", &PatchParams::default(), &patch).await?;
    ensure!(Outcome::of(&debugged) == Outcome::Held, "{}", Outcome::of(&debugged));
    let added = debugged.spec.and_then(|spec| spec.ephemeral_containers).unwrap_or_default();
    ensure!(added.len() == 1, "{added:?}");
    delete(harness, "debugged").await
}

async fn a_foreign_finalizer_keeps_a_held_pod_until_it_is_removed(harness: &Harness) -> Result<()> {
    let mut pod = asking("finalized");
    pod["metadata"]["finalizers"] = json!(["example.com/keep"]);
    let held = harness.create(&pod).await?;
    ensure!(Outcome::of(&held) == Outcome::Held, "{}", Outcome::of(&held));
    let pods = harness.pods(SHOP);
    pods.delete("finalized", &DeleteParams::default()).await?;
    let kept = pods.get("finalized").await?;
    ensure!(kept.metadata.deletion_timestamp.is_some() && Outcome::of(&kept) == Outcome::Held, "{kept:?}");
    // The gate itself does not go, not even now.
    let ungate = Patch::Json::<()>(serde_json::from_value(json!([{"op": "remove", "path": "/spec/schedulingGates"}]))?);
    let refused = pods.patch("finalized", &PatchParams::default(), &ungate).await;
    let refused = refused.err().context("the gate went off a bare pod")?.to_string();
    ensure!(refused.contains("linkerd-gate-release") && refused.contains(GATE), "{refused}");
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("finalized", &PatchParams::default(), &patch).await?;
    until_gone(&pods, "finalized", &held.metadata.uid.unwrap_or_default(), PATIENCE).await
}

/// Full: no more can be created, held or not. One that is deleted makes room for the next.
async fn held_pods_count_for_a_quota(harness: &Harness) -> Result<()> {
    let quotas: Api<ResourceQuota> = Api::namespaced(harness.admin.clone(), SHOP);
    let quota = json!({"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    let used = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.used.is_some());
    linkerd_gate_kit::cluster::until(&quotas, "two", "counted", PATIENCE, used).await?;
    for name in ["first", "second"] {
        let held = harness.create(&asking(name)).await?;
        ensure!(Outcome::of(&held) == Outcome::Held, "{}", Outcome::of(&held));
    }
    match harness.send(&asking("third"), "").await? {
        Err(Outcome::Refused(403, words)) => ensure!(words.contains("exceeded quota"), "{words}"),
        other => anyhow::bail!("{other:?}"),
    }
    delete(harness, "first").await?;
    let room = async {
        // The quota's controller notices the deletion a moment after it.
        loop {
            match harness.send(&asking("third"), "").await? {
                Ok(pod) => return anyhow::Ok(pod),
                Err(Outcome::Refused(403, words)) if words.contains("exceeded quota") => {}
                Err(other) => anyhow::bail!("{other}"),
            }
        }
    };
    let third = tokio::time::timeout(PATIENCE, room).await.context("a deleted pod makes no room")??;
    ensure!(Outcome::of(&third) == Outcome::Held, "{}", Outcome::of(&third));
    quotas.delete("two", &DeleteParams::default()).await?;
    delete(harness, "second").await?;
    delete(harness, "third").await
}

async fn exempt_pods_and_namespaces_are_let_alone(harness: &Harness) -> Result<()> {
    let exempt = pod("web").in_namespace(SHOP).running("app:1").labelled("linkerd-gate/admission", "exempt").json();
    ensure!(harness.ask(&exempt).await? == Outcome::Bare, "an exempt pod is not let alone");
    let unknown = pod("web").in_namespace(SHOP).running("app:1").labelled("linkerd-gate/admission", "no").json();
    ensure!(harness.ask(&unknown).await? == Outcome::Held, "any other value exempts");
    harness.kubectl(&["label", "namespace", SHOP, "linkerd-gate/admission=exempt"]).await?;
    harness.until("an exempt namespace", &asking("web"), |outcome| *outcome == Outcome::Bare).await?;
    harness.kubectl(&["label", "namespace", SHOP, "linkerd-gate/admission-"]).await?;
    harness.until("no exempt namespace", &asking("web"), |outcome| *outcome == Outcome::Held).await
}

/// Byte for byte, but for what the API server draws by lot and the moment.
async fn a_meshed_pod_is_what_it_would_be_without_the_policy(harness: &Harness) -> Result<()> {
    harness.injector_is_up().await?;
    let by_chance = |pod: Pod| {
        let mut pod = serde_json::to_value(pod)?;
        for field in ["uid", "creationTimestamp", "managedFields", "resourceVersion"] {
            pod["metadata"][field].take();
        }
        // The name of the volume with the token has random letters in it.
        let volume = pod["spec"]["volumes"][0]["name"].as_str().unwrap_or_default().to_owned();
        anyhow::Ok(pod.to_string().replace(&volume, "token"))
    };
    let ask = async || {
        let pod = harness.send(&asking("web"), "?dryRun=All").await?.map_err(|outcome| anyhow::anyhow!("{outcome}"))?;
        ensure!(Outcome::of(&pod) == Outcome::Meshed, "{}", Outcome::of(&pod));
        by_chance(pod)
    };
    let with = ask().await?;
    harness.kubectl(&["delete", "mutatingadmissionpolicybinding,mutatingadmissionpolicy", "linkerd-gate-hold"]).await?;
    harness.kubectl(&["delete", "validatingadmissionpolicybinding", "linkerd-gate-guard"]).await?;
    harness.injector_is_down().await?;
    harness.until("hold is away", &asking("web"), |outcome| *outcome == Outcome::Bare).await?;
    harness.injector_is_up().await?;
    let without = ask().await?;
    ensure!(with == without, "with:\n{with}\nwithout:\n{without}");
    Ok(())
}

async fn delete(harness: &Harness, name: &str) -> Result<()> {
    let pods = harness.pods(SHOP);
    let uid = pods.get(name).await?.metadata.uid.unwrap_or_default();
    pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    until_gone(&pods, name, &uid, PATIENCE).await
}
