//! Owners whose pods are refused while the injector is absent: who is asked to try again once it is back, who is not, and how
//! often.

pub mod owners;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use self::owners::{
    ELSEWHERE, KINDS, Key, OF_EACH, TRIES, complete, create, is_retried, key_of, make, make_elsewhere, make_idle,
    owner, read, recovered, refuse, retries, set, until_tried, untouched, wrote_nothing_else,
};
use super::harness::{Agent, Harness, PATIENCE, controller, object};
use super::workloads::{SHOP, recover, until_meshed, until_pods};

#[tokio::test]
async fn refused_owners_of_every_kind_are_retried_and_no_others() -> Result<()> {
    let harness = set().await?;
    // What is complete before anything is refused.
    for (_, kind) in KINDS {
        create(&harness, SHOP, kind, owner(kind, &format!("complete-{}", kind.to_lowercase()))).await?;
    }
    until_pods(&harness, "meshed", |pods| complete(pods, KINDS.len())).await?;
    refuse(&harness).await?;
    let idle = make_idle(&harness).await?;
    let elsewhere = make_elsewhere(&harness).await?;
    let mut refused = make(&harness, SHOP, "refused", OF_EACH).await?;
    let mut ordered = owner("StatefulSet", "ordered");
    ordered["spec"]["replicas"] = json!(3);
    ordered["spec"]["podManagementPolicy"] = json!("OrderedReady");
    refused.insert(create(&harness, SHOP, "StatefulSet", ordered).await?);
    until_tried(&harness, &refused, TRIES).await?;
    let untouched = untouched(&harness).await?;

    let replica = harness.start_apart(controller("one"), "controller").await?;
    let done = async {
        replica.until_said("first scan complete").await?;
        ensure!(retries(&harness).await?.is_empty(), "nobody is nudged while injection is not proven");
        recover(&harness).await?;
        replica.until_said("retried owner whose pods were refused").await?;
        let proven = Instant::now();
        let count = KINDS.len() + refused.len() + 2;
        until_meshed(&harness, count, |pods| complete(pods, count)).await?;
        let took = proven.elapsed();
        let beside = recovered(&harness, ELSEWHERE).await?;
        eprintln!(
            "nudge: {} owners complete {:.1} s after the proof; beside them, without a nudge, {beside} of {}",
            refused.len(),
            took.as_secs_f64(),
            elsewhere.len(),
        );
        // How much sooner that is belongs to the benchmark: a slow machine gives everybody time to go on by themselves.
        let retried = retries(&harness).await?;
        let names: BTreeSet<Key> = retried.iter().map(key_of).collect();
        ensure!(!names.is_empty(), "nobody was nudged");
        ensure!(names.is_subset(&refused), "touched, but not refused: {:?}", names.difference(&refused));
        // The others have gone on by themselves before their turn came.
        ensure!(names.len() * 2 > refused.len(), "only {} were nudged", names.len());
        let of_ordered = retried.iter().filter(|request| request.name == "ordered").count();
        ensure!(of_ordered <= 1, "its next pod is none of our concern: nudged {of_ordered} times");
        // An injector that refuses one of several at once, as on a busy machine, has its owner asked once more.
        ensure!(retried.len() <= 2 * names.len(), "{} nudges of {}", retried.len(), names.len());
        for (key, before) in untouched {
            let after = read(&harness, &key).await?;
            ensure!(!is_retried(&after), "{key:?} was touched");
            if idle.contains(&key) {
                ensure!(after.metadata.resource_version == before, "{key:?} was written");
            }
        }
        wrote_nothing_else(&harness).await?;
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

#[tokio::test]
async fn an_injector_that_refuses_again_gets_fewer_and_fewer_retries() -> Result<()> {
    let harness = set().await?;
    // Dry-run pods are injected all the while; the shop's pods are not, and refused.
    stand_in_the_way(&harness).await?;
    let refused = make(&harness, SHOP, "refused", 15).await?;
    until_tried(&harness, &refused, 1).await?;
    let replica = harness.start_apart(controller("one"), "controller").await?;
    let done = async {
        harness.move_injector(true).await?;
        replica.until_said("retried owner whose pods were refused").await?;
        let before = proofs(&harness).await?;
        until_window(&replica, 1).await?;
        // 10, 5, 2, and one at a time; some of them may have gone on while the figure was asked for.
        let first = retries(&harness).await?;
        ensure!((10..=30).contains(&first.len()), "{} nudges until the window is 1", first.len());
        let since = proofs(&harness).await? - before;
        ensure!(since >= 2, "each time that it was refused again it is proven anew: {since} proofs");

        harness.webhooks().await?.delete(IN_THE_WAY, &DeleteParams::default()).await?;
        until_meshed(&harness, refused.len(), |pods| complete(pods, refused.len())).await?;
        let all = retries(&harness).await?;
        let names: BTreeSet<Key> = all.iter().map(key_of).collect();
        ensure!(names.is_subset(&refused), "touched, but not refused: {:?}", names.difference(&refused));
        for name in &names {
            let times = all.iter().filter(|request| key_of(request) == *name).count();
            ensure!(times <= 5, "{name:?} was nudged {times} times");
        }
        wrote_nothing_else(&harness).await
    };
    done.await.with_context(|| replica.said())
}

/// A webhook by which an injector refuses the shop's pods, and only those.
const IN_THE_WAY: &str = "linkerd-proxy-injector.in-the-way.example";

async fn stand_in_the_way(harness: &Harness) -> Result<()> {
    let configuration = json!({
        "metadata": {"name": IN_THE_WAY},
        "webhooks": [{
            "name": IN_THE_WAY,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SHOP}},
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "failurePolicy": "Fail",
            "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "sideEffects": "None",
        }],
    });
    harness.webhooks().await?.create(&PostParams::default(), &object(configuration)?).await?;
    Ok(())
}

/// How many dry-run pods were sent.
async fn proofs(harness: &Harness) -> Result<usize> {
    Ok(harness.requests_of("controller").await?.iter().filter(|request| request.dry_run).count())
}

/// Waits until so many nudges may be under way, which nobody tells of by himself.
async fn until_window(replica: &Agent, window: u64) -> Result<()> {
    let asked = async {
        while replica.metric("linkerd_gate_retry_window_owners", "").await? != window {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, asked).await.context("the window is another")?
}
