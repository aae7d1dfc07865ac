//! Replacements that come back bare: an injector that does not inject after all, and one that comes and goes.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{Patch, PatchParams};
use linkerd_gate_kit::standin::Fault;
use serde_json::json;

use super::harness::controller;
use super::workloads::{
    SHOP, all_bare, all_meshed, are_meshed, merge, of, opened, recover, removals, set, succeeded, uids, unscheduled,
    until_event, until_pods,
};

const INJECT: &str = "linkerd.io/inject";

#[tokio::test]
async fn three_pods_return_bare_and_no_more_until_the_webhook_changes() -> Result<()> {
    let harness = opened().await?;
    // The injector thinks otherwise of the namespace than the namespace itself; of pods that ask themselves it does not.
    harness.namespaces.annotate(SHOP, INJECT, "disabled");
    harness.create::<ReplicaSet>(SHOP, unscheduled(set("web", 6))).await?;
    let mut asking = unscheduled(set("asking", 4));
    merge(&mut asking, &json!({"spec": {"template": {"metadata": {"annotations": {INJECT: "enabled"}}}}}));
    harness.create::<ReplicaSet>(SHOP, asking).await?;
    let bare = until_pods(&harness, "bare", |pods| all_bare(pods, 10)).await?;
    let replica = harness.start_apart(controller("one").with("REPAIR_COOLDOWN", "1s"), "controller").await?;
    let done = async {
        replica.until_said("first scan complete pods=10 missed=10").await?;
        recover(&harness).await?;
        let event = until_event(&harness, "ReplicaSet", "web", "ReplacementsOutsideMesh").await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
        ensure!(replica.metric("linkerd_gate_breaker_open_owners", "").await? == 1, "nobody is left alone");
        // Whoever is injected is replaced all the same, and others that are not as often: the first has a turn no more.
        for name in ["second", "third"] {
            harness.create::<ReplicaSet>(SHOP, unscheduled(set(name, 6))).await?;
            until_event(&harness, "ReplicaSet", name, "ReplacementsOutsideMesh").await?;
        }
        let after = until_pods(&harness, "asking meshed", |pods| are_meshed(&of(pods, "asking"), 4)).await?;
        // The last of the three may be one that came instead of another.
        let (before, now) = (uids(of(&bare, "web")), uids(of(&after, "web")));
        ensure!(now.len() == 6 && before.intersection(&now).count() >= 3, "of {before:?} there are {now:?}");
        let requests = harness.requests_of("controller").await?;
        for set in ["web-", "second-", "third-"] {
            let done = succeeded(&removals(&requests));
            let count = done.into_iter().filter(|request| request.name.starts_with(set)).count();
            ensure!(count == 3, "not three but {count} removals of {set}");
        }

        harness.namespaces.annotate(SHOP, INJECT, "enabled");
        let webhooks = harness.webhooks().await?;
        let name =
            webhooks.list(&kube::api::ListParams::default()).await?.items.pop().and_then(|one| one.metadata.name);
        let name = name.context("no webhook configuration")?;
        let later = json!([{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 9}]);
        let patch: Patch<()> = Patch::Json(serde_json::from_value(later)?);
        webhooks.patch(&name, &PatchParams::default(), &patch).await?;
        until_pods(&harness, "all meshed", |pods| all_meshed(pods, 22)).await?;
        replica.until_said("no pod is outside the mesh any more namespace=shop owner=ReplicaSet web").await?;
        ensure!(replica.metric("linkerd_gate_breaker_open_owners", "").await? == 0, "somebody is still left alone");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

#[tokio::test]
async fn an_injector_that_fails_repeatedly_costs_only_pods_in_flight() -> Result<()> {
    /// How often it goes.
    const TIMES: usize = 3;
    const PODS: usize = 200;
    let harness = opened().await?;
    harness.create::<ReplicaSet>(SHOP, unscheduled(set("web", u32::try_from(PODS)?))).await?;
    let bare = until_pods(&harness, "bare", |pods| all_bare(pods, PODS)).await?;
    let settings = controller("one").with("REPAIR_COOLDOWN", "1s");
    let replica = harness.start_apart(settings, "controller").await?;
    let done = async {
        replica.until_said("first scan complete pods=200 missed=200").await?;
        for _ in 0..TIMES {
            recover(&harness).await?;
            replica.until_says("proof: open").await?;
            replica.until_says(" deleted pod ").await?;
            harness.injector.suffer(Fault::Absent).await?;
            replica.until_says("proof: closed").await?;
        }
        recover(&harness).await?;
        let meshed = until_pods(&harness, "meshed", |pods| all_meshed(pods, PODS)).await?;
        ensure!(uids(bare.values()).is_disjoint(&uids(meshed.values())), "a bare pod became a meshed one");
        // The outages explain what came back bare: nobody is to blame.
        ensure!(replica.metric("linkerd_gate_breaker_open_owners", "").await? == 0, "somebody is left alone");
        let requests = harness.requests_of("controller").await?;
        let removed = succeeded(&removals(&requests)).len();
        ensure!((PODS..2 * PODS).contains(&removed), "{removed} removals for {PODS} pods");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}
