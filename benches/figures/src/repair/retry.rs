//! Owners that the guard refused while the injector was absent.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::held::{apply, is_meshed, until_asked};
use super::{
    HURRIED, KINDS, LOOK_EVERY, SHOP, check_meshed, create, load, number, owner, pods, resource_of, set, until_pods,
};
use crate::agents::{Agent, Harness, PATIENCE, ports};
use crate::gate::Gate;
use crate::said;
use crate::table::{GATE, Table, Target};

/// By when all owners should have gone on, in seconds.
const AIM: f64 = 5.0;

/// From their refusal on: a controller pauses for 20 s and more by then.
const REFUSED_FOR: Duration = Duration::from_secs(45);

/// How an injector that is back is met.
struct Recovery {
    /// From the proof to the last pod.
    took: Duration,
    /// The widest window that was seen.
    window: f64,
    /// The most calls that the injector answered at once.
    calls: usize,
    /// How many owners were retried.
    retries: usize,
}

/// How many requests of the one client are under way at a time, as with the floor of held pods.
const CHANGED_AT_ONCE: usize = 100;

/// By the least that as many pods take.
const RATIO: f64 = 1.6;

/// `least`: what 500 and 1,000 pods take that one client creates at once.
pub(super) async fn measure(gate: &Gate, table: &mut Table, least: [Duration; 2]) -> Result<()> {
    let five_hundred = recover(gate, 500, &HURRIED).await?;
    let how = "from the log line of the first retries to the last pod, looked at every 50 ms; ReplicaSets, StatefulSets, DaemonSets \
               and Jobs in equal parts, refused for 45 s; the controller manager's clients unhindered (--kube-api-qps=1000)";
    let took = five_hundred.took.as_secs_f64();
    table
        .figure("500 refused owners: all have their pods", "s", how)
        .value(GATE, took)
        .target("≤ 5", Target::Missable(took <= AIM));
    let ratio = took / least[0].as_secs_f64();
    table
        .figure("500 refused owners, by 500 created at once", "×", "the row before this by 500 pods created at once")
        .value(GATE, ratio)
        .target("≤ 1.6", Target::Missable(ratio <= RATIO));
    let how = "in the same time from the injector's return, in another run: how many of 500 go on by themselves";
    let alone = by_themselves(five_hundred.took).await?;
    table.figure("500 refused owners: without retries", "", how).value(GATE, number(alone));

    let changed = changed_at_once(500).await?;
    let how = "by one client that changes an annotation of all of them, 100 requests at a time, with the injector up and no controller of \
               ours: until the last pod";
    table.figure("500 refused owners changed at once", "s", how).value(GATE, changed.as_secs_f64());
    let how = "500 refused owners by the row before this: what remains is the controller's own part";
    table.figure("500 refused owners, by 500 changed at once", "×", how).value(GATE, took / changed.as_secs_f64());

    let by_default = recover(gate, 500, &[]).await?;
    let how = "the same with the controller manager's own defaults, 20 requests a second for each controller";
    table.figure("500 refused owners, its clients as they are", "s", how).value(GATE, by_default.took.as_secs_f64());

    let thousand = recover(gate, 1000, &HURRIED).await?;
    let how = "as 500 refused owners: all have their pods, of 1,000";
    table.figure("1,000 refused owners: all have their pods", "s", how).value(GATE, thousand.took.as_secs_f64());
    let ratio = thousand.took.as_secs_f64() / least[1].as_secs_f64();
    let how = "the row before this by 1,000 pods created at once";
    table
        .figure("1,000 refused owners, by 1,000 created at once", "×", how)
        .value(GATE, ratio)
        .target("≤ 1.6", Target::Missable(ratio <= RATIO));
    let how = "1,000 by the seconds that they took";
    table.figure("1,000 refused owners: pods a second", "1/s", how).value(GATE, 1000.0 / thousand.took.as_secs_f64());
    let how = "linkerd_gate_retry_window_owners, asked every 50 ms";
    table.figure("1,000 refused owners: the widest window", "", how).value(GATE, thousand.window);
    let how = "counted by the injector's stand-in, proofs included";
    table.figure("1,000 refused owners: calls of the injector at once", "", how).value(GATE, number(thousand.calls));
    let how = "audit log: patches of owners";
    table.figure("1,000 refused owners: retries", "", how).value(GATE, number(thousand.retries));
    Ok(())
}

/// A cluster in which so many owners have been refused for a while.
async fn refused(count: usize, controller_manager: &[&str]) -> Result<Harness> {
    let harness = set(count.div_ceil(200), controller_manager).await?;
    harness.fall().await?;
    guard(&harness).await?;
    said(&format!("repair: {count} owners are refused; load {}", load()?));
    let nodes = count.div_ceil(200);
    let owners = (0..count).map(|place| {
        let kind = KINDS[place % KINDS.len()].1;
        (kind, owner(kind, &format!("{}-{place}", kind.to_lowercase()), 1, place / KINDS.len() % nodes))
    });
    create(&harness, SHOP, owners.collect()).await?;
    let began = Instant::now();
    let events: Api<Event> = Api::namespaced(harness.client(), SHOP);
    loop {
        let mut with_event = BTreeSet::new();
        for event in events.list(&ListParams::default().fields("reason=FailedCreate")).await? {
            with_event.insert(event.involved_object.name);
        }
        if with_event.len() == count && began.elapsed() >= REFUSED_FOR {
            return Ok(harness);
        }
        ensure!(began.elapsed() < PATIENCE, "{} of {count} owners were refused", with_event.len());
        sleep(Duration::from_secs(1)).await;
    }
}

async fn recover(gate: &Gate, count: usize, controller_manager: &[&str]) -> Result<Recovery> {
    let harness = refused(count, controller_manager).await?;
    let mut controller = harness.start_controller(gate.full(), ports(1)[0]).await?;
    controller.until_said("first scan complete").await?;
    ensure!(pods(&harness, SHOP).await? == 0, "nobody goes on");
    said(&format!("repair: the injector is back; load {}", load()?));
    let before = harness.api_server_cpu()?;
    harness.rise().await?;
    let proven = controller.until_said("retried owner whose pods were refused").await?;
    let (window, last) = watch(&harness, &controller, count).await?;
    check_meshed(&harness, SHOP, count).await?;
    let spent = harness.api_server_cpu()?.saturating_sub(before);
    let requests = harness.requests_of_controllers()?;
    let retries = requests.iter().filter(|request| request.verb == "patch" && request.resource != "leases");
    let times: Vec<_> = retries.map(|request| request.received).collect();
    let after = |place: usize| times.get(place).map_or(f64::NAN, |at| at.duration_since(times[0]).as_secs_f64());
    said(&format!(
        "repair: {} nudges, half of them within {:.1} s, the last after {:.1}; all pods there after {:.1}; {:.1} s of the API \
         server's CPU",
        times.len(),
        after(times.len() / 2),
        after(times.len().saturating_sub(1)),
        (last - proven).as_secs_f64(),
        spent.as_secs_f64(),
    ));
    let retries = times.len();
    Ok(Recovery { took: last - proven, window, calls: harness.calls.most(), retries })
}

/// Until all pods are there: the widest window, and when that was.
async fn watch(harness: &Harness, controller: &Agent, count: usize) -> Result<(f64, Instant)> {
    let began = Instant::now();
    let mut window: f64 = 0.0;
    loop {
        window = window.max(controller.metric("linkerd_gate_retry_window_owners").await?);
        let now = pods(harness, SHOP).await?;
        if now >= count {
            return Ok((window, Instant::now()));
        }
        ensure!(began.elapsed() < PATIENCE, "{now} of {count} pods:\n{}", controller.said());
        sleep(LOOK_EVERY).await;
    }
}

/// How many of 500 refused owners have their pod after that time, if nobody nudges them.
async fn by_themselves(time: Duration) -> Result<usize> {
    let harness = refused(500, &HURRIED).await?;
    harness.rise().await?;
    sleep(time).await;
    pods(&harness, SHOP).await
}

/// How long a client takes that changes all refused owners at once, until they have their pods.
async fn changed_at_once(count: usize) -> Result<Duration> {
    let harness = refused(count, &HURRIED).await?;
    let mut owners = Vec::new();
    for (_, kind) in KINDS {
        let all: Api<DynamicObject> = Api::namespaced_with(harness.client(), SHOP, &resource_of(kind));
        let names =
            all.list_metadata(&ListParams::default()).await?.items.into_iter().filter_map(|one| one.metadata.name);
        owners.extend(names.map(|name| (all.clone(), name)));
    }
    ensure!(owners.len() == count, "{} of {count} owners are there", owners.len());
    let spent = harness.api_server_cpu()?;
    harness.rise().await?;
    until_asked(&harness, "a pod is meshed", |pod| pod.is_some_and(|pod| is_meshed(&pod))).await?;
    let began = Instant::now();
    let change = Patch::Merge(json!({"metadata": {"annotations": {"example.com/changed": "1"}}}));
    stream::iter(&owners)
        .map(|(all, name)| async { all.patch_metadata(name, &PatchParams::default(), &change).await.map(drop) })
        .buffer_unordered(CHANGED_AT_ONCE)
        .try_collect::<()>()
        .await?;
    let answered = began.elapsed();
    let took = until_pods(&harness, SHOP, count).await? - began;
    check_meshed(&harness, SHOP, count).await?;
    said(&format!(
        "repair: {count} refused owners changed by one client within {:.1} s, all pods there after {:.1}; {:.1} s of the API server's CPU",
        answered.as_secs_f64(),
        took.as_secs_f64(),
        harness.api_server_cpu()?.saturating_sub(spent).as_secs_f64(),
    ));
    Ok(took)
}

/// Puts the guard there, and waits until it refuses.
async fn guard(harness: &Harness) -> Result<()> {
    apply(harness, "61-admission-guard.yaml").await?;
    until_asked(harness, "the guard refuses", |pod| pod.is_none()).await
}
