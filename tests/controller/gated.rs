//! Pods that the hold policy keeps from every node: made again once injection is proven, whatever owns them, or let go where the rules
//! say so.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ReplicationController};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use linkerd_gate::decide::hold;
use linkerd_gate_kit::cluster;
use linkerd_gate_kit::object::pod as pod_named;
use serde_json::{Value, json};

use super::harness::{GATE, Harness, PATIENCE, controller, object};
use super::rights::apply;
use super::workloads::{
    Pods, SHOP, all_meshed, are_meshed, is_running, job, merge, of, opened, pod, pods, recover, removals, set,
    stateful, succeeded, uids, until_event, until_meshed, until_pods,
};

/// A cluster with nodes, the hold policy of the manifests, and an injector that is absent.
pub async fn holding() -> Result<Harness> {
    let harness = opened().await?;
    harness.cluster.start_kwok().await?;
    harness.cluster.fake_nodes(4).await?;
    apply(&harness, "60-admission-hold.yaml").await?;
    // Policies count a moment after they were written.
    let asked: Pod = object(pod_named("asked").json())?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let shop = pods(&harness).await?;
    let held = async { while !shop.create(&dry_run, &asked).await.is_ok_and(|pod| hold::is_gated(&pod)) {} };
    tokio::time::timeout(PATIENCE, held).await.context("the policy holds nothing")?;
    Ok(harness)
}

pub fn all_gated(pods: &[&Pod], count: usize) -> bool {
    pods.len() == count && pods.iter().all(|pod| hold::is_gated(pod) && pod.metadata.deletion_timestamp.is_none())
}

fn all(pods: &Pods) -> Vec<&Pod> {
    pods.values().collect()
}

async fn jobs(harness: &Harness) -> Result<Api<Job>> {
    Ok(Api::namespaced(harness.cluster.client().await?, SHOP))
}

/// No Job has counted a failure, and none has failed.
pub async fn ensure_no_failures(harness: &Harness) -> Result<()> {
    for job in jobs(harness).await?.list(&ListParams::default()).await? {
        let status = job.status.unwrap_or_default();
        let failed = status.conditions.iter().flatten().any(|condition| condition.type_ == "Failed");
        ensure!(status.failed.unwrap_or(0) == 0 && !failed, "{:?} counts failures: {status:?}", job.metadata.name);
    }
    Ok(())
}

fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true)
}

#[tokio::test]
async fn held_pods_of_every_owner_are_made_again_and_run() -> Result<()> {
    let harness = holding().await?;
    harness.create::<ReplicaSet>(SHOP, set("web", 5)).await?;
    harness.create::<StatefulSet>(SHOP, stateful("db", 3)).await?;
    let mut daemon = set("log", 0);
    daemon["spec"].as_object_mut().context("a spec")?.remove("replicas");
    harness.create::<DaemonSet>(SHOP, daemon).await?;
    let mut controlled = set("old", 2);
    controlled["spec"]["selector"] = controlled["spec"]["selector"]["matchLabels"].clone();
    harness.create::<ReplicationController>(SHOP, controlled).await?;
    harness.create::<Job>(SHOP, job("once", 2)).await?;
    harness.create::<Pod>(SHOP, pod("lonely")).await?;
    let held = until_pods(&harness, "held", |pods| all_gated(&all(pods), 17)).await?;

    let replica = harness.start_apart(controller("one"), "controller").await?;
    let done = async {
        replica.until_said("first scan complete pods=17 missed=17").await?;
        // Before anything is proven: its clock stands.
        cluster::until(&jobs(&harness).await?, "once", "suspended", PATIENCE, is_suspended).await?;
        until_pods(&harness, "without the Job's", |pods| pods.len() == 15).await?;
        replica.until_said("no pod is outside the mesh any more namespace=shop owner=Job once").await?;
        ensure!(replica.metric("linkerd_gate_held_pods", "namespace=\"shop\"").await? == 15);
        let event = until_event(&harness, "Pod", "lonely", "OutsideMesh").await?.message.unwrap_or_default();
        ensure!(event.contains("linkerd-gate recreate pod/lonely -n shop"), "{event}");

        recover(&harness).await?;
        let after = until_pods(&harness, "meshed and running, but for the one without an owner", |pods| {
            let (lonely, others): (Vec<_>, Vec<_>) =
                pods.values().partition(|pod| pod.metadata.name.as_deref() == Some("lonely"));
            all_gated(&lonely, 1) && are_meshed(&others, 16) && others.iter().all(|pod| is_running(pod))
        })
        .await?;
        let made_again = after.values().filter(|pod| !hold::is_gated(pod));
        ensure!(uids(held.values()).is_disjoint(&uids(made_again)));
        replica.until_said("resumed Job namespace=shop owner=Job once").await?;
        ensure_no_failures(&harness).await?;
        let once = jobs(&harness).await?.get("once").await?;
        ensure!(!is_suspended(&once) && once.metadata.annotations.as_ref().is_none_or(BTreeMap::is_empty), "{once:?}");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

/// A Job of which one pod runs in the mesh, and two more are held.
async fn partly_held(harness: &Harness, mut job: Value) -> Result<()> {
    merge(&mut job, &json!({"spec": {"parallelism": 1, "completions": 3}}));
    harness.create::<Job>(SHOP, job).await?;
    Ok(())
}

#[tokio::test]
async fn held_pods_of_a_running_job_are_replaced_uncounted() -> Result<()> {
    let harness = holding().await?;
    recover(&harness).await?;
    let injected = |answer: &kube::Result<Pod>| answer.as_ref().is_ok_and(linkerd_gate::linkerd::meshed);
    harness.until_dry_run("injected", injected).await?;
    let mut indexed = job("indexed", 1);
    merge(
        &mut indexed,
        &json!({"spec": {"completionMode": "Indexed", "backoffLimitPerIndex": 0, "backoffLimit": null}}),
    );
    let rule = json!({"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let mut fails = job("fails", 1);
    merge(&mut fails, &json!({"spec": {"podFailurePolicy": {"rules": [rule]}}}));
    let mut queued = job("queued", 1);
    merge(&mut queued, &json!({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "night"}}}));
    let names = ["strict", "indexed", "fails"];
    for job in [job("strict", 1), indexed, fails] {
        partly_held(&harness, job).await?;
    }
    let running = until_pods(&harness, "running", |pods| all_meshed(pods, 3) && pods.values().all(is_running)).await?;

    harness.injector.suffer(linkerd_gate_kit::standin::Fault::Absent).await?;
    // Wholly held, and its `suspend` is another program's.
    harness.create::<Job>(SHOP, queued).await?;
    let wider = json!({"spec": {"parallelism": 3}});
    for name in names {
        jobs(&harness).await?.patch(name, &PatchParams::default(), &Patch::Merge(&wider)).await?;
    }
    let held = until_pods(&harness, "held", |pods| {
        pods.len() == 10 && pods.values().filter(|pod| hold::is_gated(pod)).count() == 7
    })
    .await?;
    // As a controller leaves it that is killed between the patch and the deletion.
    let untracked = of(&held, "strict").into_iter().find(|pod| hold::is_gated(pod)).context("a held pod")?;
    let untracked = untracked.metadata.name.clone().context("a name")?;
    let none = json!({"metadata": {"finalizers": null}});
    pods(&harness).await?.patch(&untracked, &PatchParams::default(), &Patch::Merge(none)).await?;

    let replica = harness.start_apart(controller("one"), "controller").await?;
    let done = async {
        replica.until_said("first scan complete").await?;
        recover(&harness).await?;
        let after = until_pods(&harness, "meshed and running", |pods| {
            let alive: Vec<_> = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
            are_meshed(&alive, 10) && alive.into_iter().all(is_running)
        })
        .await?;
        ensure!(uids(running.values()).is_subset(&uids(after.values())), "a pod that ran was touched");
        ensure_no_failures(&harness).await?;
        let requests = harness.requests_of("controller").await?;
        ensure!(
            requests.iter().all(|request| request.resource != "jobs" || request.verb != "patch"),
            "a Job was changed"
        );
        let done = removals(&requests);
        let mut names: Vec<_> = succeeded(&done).into_iter().map(|request| request.name.clone()).collect();
        // It is the first of its Job's that is due; what is due together is sent together, and arrives in any order.
        ensure!(names.contains(&untracked), "{untracked} was begun, and is not among {names:?}");
        names.sort();
        names.dedup();
        ensure!(names.len() >= 7, "{names:?}");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

#[tokio::test]
async fn held_pods_of_many_owners_are_each_recreated_once() -> Result<()> {
    const SETS: usize = 10;
    const EACH: usize = 10;
    const BESIDE: usize = 25;
    let count = SETS * EACH + 2 * BESIDE;
    let harness = holding().await?;
    for index in 0..SETS {
        harness.create::<ReplicaSet>(SHOP, set(&format!("web-{index}"), u32::try_from(EACH)?)).await?;
    }
    harness.create::<StatefulSet>(SHOP, stateful("db", u32::try_from(BESIDE)?)).await?;
    let mut controlled = set("old", u32::try_from(BESIDE)?);
    controlled["spec"]["selector"] = controlled["spec"]["selector"]["matchLabels"].clone();
    harness.create::<ReplicationController>(SHOP, controlled).await?;
    let held = until_pods(&harness, "held", |pods| all_gated(&all(pods), count)).await?;
    let replica = harness.start_apart(controller("one"), "controller").await?;
    let done = async {
        replica.until_said(&format!("first scan complete pods={count} ")).await?;
        recover(&harness).await?;
        replica.until_said("proof: open").await?;
        let after = until_meshed(&harness, count, |pods| all_meshed(pods, count)).await?;
        ensure!(uids(held.values()).is_disjoint(&uids(after.values())));
        let removed = succeeded(&removals(&harness.requests_of("controller").await?)).len();
        ensure!(removed == count, "{removed} removals of {count} pods");
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

/// Waits until our gate is off a pod, which is there as it was.
async fn until_let_go(harness: &Harness, name: &str) -> Result<()> {
    let free = |pod: &Pod| !hold::is_gated(pod);
    cluster::until(&pods(harness).await?, name, "without our gate", PATIENCE, free).await?;
    Ok(())
}

async fn patch_namespace(harness: &Harness, metadata: Value) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(harness.cluster.client().await?);
    namespaces.patch(SHOP, &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata}))).await?;
    Ok(())
}

#[tokio::test]
async fn our_gate_comes_off_where_the_rules_say_so_and_others_stay() -> Result<()> {
    let harness = holding().await?;
    let mut other = pod("with-another-gate");
    other["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
    harness.create::<Pod>(SHOP, other).await?;
    for name in ["exempt", "released", "stays"] {
        harness.create::<Pod>(SHOP, pod(name)).await?;
    }
    until_pods(&harness, "held", |pods| all_gated(&all(pods), 4)).await?;
    let replica = harness.start_apart(controller("one"), "controller").await?;
    let done = async {
        replica.until_said("first scan complete pods=4 ").await?;
        let shop = pods(&harness).await?;
        for (name, metadata) in [
            ("exempt", json!({"labels": {"linkerd-gate/admission": "exempt"}})),
            ("released", json!({"annotations": {"linkerd-gate/release": "true"}})),
            ("with-another-gate", json!({"annotations": {"linkerd.io/inject": "disabled"}})),
        ] {
            shop.patch(name, &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata}))).await?;
            until_let_go(&harness, name).await?;
        }
        let gates = hold::gates(&shop.get("with-another-gate").await?).to_vec();
        ensure!(gates.len() == 1 && gates[0].name == "example.com/quota", "{gates:?}");
        let event = until_event(&harness, "Pod", "released", "ReleasedWithoutProxy").await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
        ensure!(hold::is_gated(&shop.get("stays").await?), "one that none of it is about");

        // A person's word for everything.
        let until = Timestamp::now() + SignedDuration::from_hours(1);
        let lease =
            json!({"metadata": {"name": GATE, "annotations": {"linkerd-gate/override": format!("open {until}")}}});
        harness.create::<k8s_openapi::api::coordination::v1::Lease>(GATE, lease).await?;
        until_let_go(&harness, "stays").await?;
        replica.until_said("`linkerd-gate open --all` is in force namespace=shop pod=stays").await?;
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

#[tokio::test]
async fn a_pod_is_let_go_after_the_longest_time_and_not_in_audit_mode() -> Result<()> {
    let harness = holding().await?;
    harness.create::<ReplicaSet>(SHOP, set("web", 1)).await?;
    harness.create::<Job>(SHOP, job("once", 1)).await?;
    let held = until_pods(&harness, "held", |pods| all_gated(&all(pods), 2)).await?;
    let name = of(&held, "web")[0].metadata.name.clone().context("a name")?;
    // Before that time a Job that is held as a whole would be suspended, after it no more.
    let mut audited = harness.start(controller("one").with("MODE", "audit"))?;
    audited.until_said("audit mode: not executed: suspend Job namespace=shop owner=Job once").await?;
    ensure!(audited.terminate().await? == 0, "{}", audited.said());
    ensure!(audited.times_said("scheduling gate not removed") == 0, "{}", audited.said());
    let mut audited = harness.start(controller("one").with("MODE", "audit").with("HOLD_MAX", "1s"))?;
    audited
        .until_said("scheduling gate not removed: it has been held for LINKERD_GATE_HOLD_MAX namespace=shop pod=web-")
        .await?;
    audited
        .until_said("scheduling gate not removed: it has been held for LINKERD_GATE_HOLD_MAX namespace=shop pod=once-")
        .await?;
    ensure!(audited.terminate().await? == 0, "{}", audited.said());
    let same = until_pods(&harness, "as they were", |pods| all_gated(&all(pods), 2)).await?;
    ensure!(uids(same.values()) == uids(held.values()));

    let mut replica = harness.start(controller("one").with("HOLD_MAX", "1s"))?;
    let done = async {
        until_let_go(&harness, &name).await?;
        replica.until_said("removed the scheduling gate: the pod starts without a proxy: it has been held for LINKERD_GATE_HOLD_MAX").await?;
        // The Job's pods are not held again and again: that would never end.
        let running = |pods: &Pods| pods.len() == 2 && pods.values().all(is_running);
        until_pods(&harness, "running without a proxy", running).await?;
        ensure_no_failures(&harness).await
    };
    done.await.with_context(|| replica.said())?;
    ensure!(replica.terminate().await? == 0, "{}", replica.said());
    Ok(())
}

#[tokio::test]
async fn held_pods_survive_audit_mode_and_a_suspended_job_resumes() -> Result<()> {
    let harness = holding().await?;
    harness.create::<ReplicaSet>(SHOP, set("web", 2)).await?;
    harness.create::<Job>(SHOP, job("once", 1)).await?;
    until_pods(&harness, "held", |pods| all_gated(&all(pods), 3)).await?;
    let mut enforcing = harness.start(controller("one"))?;
    cluster::until(&jobs(&harness).await?, "once", "suspended", PATIENCE, is_suspended).await?;
    ensure!(enforcing.terminate().await? == 0, "{}", enforcing.said());

    let mut audited = harness.start(controller("one").with("MODE", "audit"))?;
    let resumed = |job: &Job| !is_suspended(job);
    let story = async {
        cluster::until(&jobs(&harness).await?, "once", "resumed", PATIENCE, resumed).await?;
        until_pods(&harness, "held again", |pods| all_gated(&all(pods), 3)).await
    };
    story.await.with_context(|| audited.said())?;
    ensure!(audited.terminate().await? == 0, "{}", audited.said());

    let replica = harness.start(controller("one"))?;
    let done = async {
        cluster::until(&jobs(&harness).await?, "once", "suspended", PATIENCE, is_suspended).await?;
        recover(&harness).await?;
        until_pods(&harness, "meshed and running", |pods| all_meshed(pods, 3) && pods.values().all(is_running)).await?;
        ensure_no_failures(&harness).await
    };
    done.await.with_context(|| replica.said())
}

#[tokio::test]
async fn a_recreated_webhook_configuration_releases_no_pod() -> Result<()> {
    let harness = holding().await?;
    harness.create::<ReplicaSet>(SHOP, set("web", 2)).await?;
    harness.create::<Pod>(SHOP, pod("lonely")).await?;
    let held = until_pods(&harness, "held", |pods| all_gated(&all(pods), 3)).await?;
    let replica = harness.start_apart(controller("one"), "controller").await?;
    let done = async {
        replica.until_said("first scan complete pods=3 ").await?;
        let webhooks = harness.webhooks().await?;
        let metadata = |list: kube::core::ObjectList<_>| -> Option<ObjectMeta> {
            list.items
                .into_iter()
                .next()
                .map(|one: k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration| one.metadata)
        };
        let there = metadata(webhooks.list(&ListParams::default()).await?).context("no webhook configuration")?;
        webhooks.delete(&there.name.context("a name")?, &DeleteParams::default()).await?;
        replica
            .until_said("no webhook configuration of Linkerd\'s injector: held pods will start without a proxy held=3")
            .await?;
        harness.create_webhook().await?;
        replica.until_said("a webhook configuration of Linkerd\'s injector exists").await?;
        let same = until_pods(&harness, "held", |pods| all_gated(&all(pods), 3)).await?;
        ensure!(uids(same.values()) == uids(held.values()));
        let requests = harness.requests_of("controller").await?;
        ensure!(
            requests.iter().all(|request| request.resource != "pods" || request.verb != "patch"),
            "a pod was changed"
        );
        recover(&harness).await?;
        until_pods(&harness, "meshed, but for the one without an owner", |pods| are_meshed(&of(pods, "web"), 2))
            .await?;
        patch_namespace(&harness, json!({"labels": {"linkerd-gate/admission": "exempt"}})).await?;
        until_let_go(&harness, "lonely").await
    };
    done.await.with_context(|| replica.said())
}

#[tokio::test]
async fn the_controllers_lease_counts_pods_that_would_start_early() -> Result<()> {
    const PODS: usize = 100;
    // Admission is off, and no node takes anything: they are Pending, and not gated.
    let harness = opened().await?;
    harness.create::<ReplicaSet>(SHOP, set("web", u32::try_from(PODS)?)).await?;
    until_pods(&harness, "bare", |pods| super::workloads::all_bare(pods, PODS)).await?;
    let replica = harness.start_apart(controller("one"), "controller").await?;
    let published = |lease: &k8s_openapi::api::coordination::v1::Lease| {
        let annotations = lease.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get("linkerd-gate/pending-repair")).cloned().unwrap_or_default()
    };
    let done = async {
        let leases = harness.leases().await?;
        let says = async |text: &'static str| {
            let same = |lease: &k8s_openapi::api::coordination::v1::Lease| published(lease) == text;
            cluster::until(&leases, "linkerd-gate-controller", text, PATIENCE, same).await.map(drop)
        };
        says(r#"{"version":1,"pods":100}"#).await?;
        ensure!(replica.metric("linkerd_gate_pending_repair_pods", "").await? == 100);
        recover(&harness).await?;
        until_pods(&harness, "meshed", |pods| all_meshed(pods, PODS)).await?;
        says(r#"{"version":1,"pods":0}"#).await
    };
    done.await.with_context(|| replica.said())
}
