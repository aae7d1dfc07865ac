//! Pods of every kind of owner, some held and some running: who is replaced, how fast, and who is left alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::AuditedRequest;
use serde_json::{Value, json};

use super::harness::{Harness, controller};
use super::workloads::{
    Pods, SHOP, are_meshed, ignoring, is_ready, is_running, job, merge, of, opened, owned_by, pod, pods, recover,
    removals, set, stateful, succeed, succeeded, uids, unscheduled, until_event, until_pods, waiting,
};

/// How many evictions a second at most.
const RATE: u32 = 25;

/// Those that are to be replaced, and how many pods each has.
const RUNNING_SETS: usize = 4;
const IN_A_RUNNING_SET: u32 = 10;
const HELD_SETS: usize = 4;
const IN_A_HELD_SET: u32 = 15;
const OTHERS: [(&str, usize); 8] = [
    ("controlled", 12),
    ("controlled-held", 20),
    ("ordered", 5),
    ("ordered-held", 5),
    ("everywhere", NODES),
    // A Job's controller waits for 10 s before it makes the first pod anew that is no failure, and twice as long each time.
    ("batch", 2),
    ("batch-held", 12),
    ("budgeted", 3),
];

const NODES: usize = 8;

/// Those that nobody is to touch, and how many pods each has.
const LEFT: [(&str, usize); 7] =
    [("alone", 1), ("alone-held", 1), ("foreign", 1), ("mirror", 1), ("done", 2), ("off", 3), ("host", 2)];

/// The most that was ever seen not to be ready at a time.
#[derive(Default)]
struct Worst {
    ordered: Cell<usize>,
    everywhere: Cell<usize>,
    /// One of those that are not meshed yet.
    lacking: RefCell<Option<String>>,
}

#[tokio::test]
async fn running_pods_of_every_owner_are_replaced_within_all_limits() -> Result<()> {
    let harness = opened().await?;
    let before = admitted_bare(&harness).await?;
    let settings = controller("one")
        .with("REPAIR", "running")
        .with("EVICTION", "true")
        .with("REPAIR_COOLDOWN", "1s")
        .with("EVICTION_RATE", &format!("{RATE}/s"));
    let replica = harness.start_apart(settings, "controller").await?;
    let replaced = async {
        let all = wanted().iter().map(|(_, count)| count).chain(LEFT.iter().map(|(_, count)| count)).sum::<usize>();
        replica.until_said(&format!("first scan complete pods={all} ")).await?;
        recover(&harness).await?;
        let worst = Worst::default();
        until_event(&harness, "ReplicaSet", "budgeted", "ReplacementRefused").await?;
        let after = until_pods(&harness, "all meshed but those of the budget", |pods| {
            worst.note(pods);
            let lacking =
                wanted().into_iter().find(|(app, count)| app != "budgeted" && !are_meshed(&of(pods, app), *count));
            worst.lacking.replace(lacking.map(|(app, _)| app));
            worst.lacking.borrow().is_none()
        })
        .await
        .with_context(|| format!("{:?} is not meshed", worst.lacking.borrow()))?;
        ensure!(worst.ordered.get() <= 1, "{} of a StatefulSet's pods were away at a time", worst.ordered.get());
        ensure!(worst.everywhere.get() <= 2, "{} of a DaemonSet's pods were", worst.everywhere.get());
        ensure!(uids(of(&after, "budgeted")) == uids(of(&before, "budgeted")), "the budget was not kept");

        let budgets: Api<PodDisruptionBudget> = Api::namespaced(harness.cluster.client().await?, SHOP);
        budgets.delete("budgeted", &DeleteParams::default()).await?;
        let after = until_pods(&harness, "all meshed", |pods| are_meshed(&of(pods, "budgeted"), 3)).await?;
        for (app, count) in LEFT {
            let (then, now) = (uids(of(&before, app)), uids(of(&after, app)));
            ensure!(then == now && now.len() == count, "{app} was touched: {then:?} are {now:?}");
        }
        replica.until_said("no pod is outside the mesh any more namespace=shop owner=ReplicaSet budgeted").await?;
        ensure!(replica.metric("linkerd_gate_missed_pods", "").await? == 4, "not those that nobody makes anew");
        ensure_paced(&harness.requests_of("controller").await?, &before)?;
        let jobs: Api<Job> = Api::namespaced(harness.cluster.client().await?, SHOP);
        for name in ["batch", "batch-held"] {
            let status = jobs.get(name).await?.status.unwrap_or_default();
            ensure!(status.failed.unwrap_or(0) == 0, "{name} counts failures: {status:?}");
        }
        anyhow::Ok(())
    };
    replaced.await.with_context(|| replica.said())
}

/// Everything there is, while the injector is down.
async fn admitted_bare(harness: &Harness) -> Result<Pods> {
    harness.cluster.start_kwok().await?;
    let nodes = harness.cluster.fake_nodes(NODES).await?;
    for (name, count) in sets() {
        let held = name.starts_with("held");
        let set = set(&name, u32::try_from(count)?);
        harness.create::<ReplicaSet>(SHOP, if held { unscheduled(set) } else { set }).await?;
    }
    harness.create::<ReplicationController>(SHOP, by_labels(set("controlled", 12))).await?;
    harness.create::<ReplicationController>(SHOP, by_labels(unscheduled(set("controlled-held", 20)))).await?;
    harness.create::<StatefulSet>(SHOP, stateful("ordered", 5)).await?;
    harness.create::<StatefulSet>(SHOP, unscheduled(stateful("ordered-held", 5))).await?;
    let mut everywhere = set("everywhere", 0);
    everywhere["spec"].as_object_mut().context("no spec")?.remove("replicas");
    merge(&mut everywhere, &json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}}));
    harness.create::<DaemonSet>(SHOP, everywhere).await?;
    harness.create::<Job>(SHOP, ignoring(job("batch", 2))).await?;
    harness.create::<Job>(SHOP, unscheduled(waiting(job("batch-held", 12)))).await?;
    let budget = json!({
        "metadata": {"name": "budgeted"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "budgeted"}}},
    });
    harness.create::<PodDisruptionBudget>(SHOP, budget).await?;
    harness.create::<ReplicaSet>(SHOP, set("budgeted", 3)).await?;
    left(harness, &nodes[0]).await?;
    let bare = until_pods(harness, "bare, and running where they can", |pods| {
        let is_as_wanted = |(app, count): &(&str, usize)| {
            let pods = of(pods, app);
            let runs = !app.contains("held") && !matches!(*app, "done");
            pods.len() == *count && pods.iter().all(|pod| !meshed(pod) && (!runs || is_running(pod) && is_ready(pod)))
        };
        wanted().iter().map(|(app, count)| (app.as_str(), *count)).all(|one| is_as_wanted(&one))
            && LEFT.iter().all(is_as_wanted)
    })
    .await?;
    // One pod after the other becomes ready then, as it would once its node opens.
    let anywhere = json!({"spec": {"template": {"spec": {"nodeSelector": null}}}});
    let sets: Api<StatefulSet> = Api::namespaced(harness.cluster.client().await?, SHOP);
    sets.patch("ordered-held", &PatchParams::default(), &Patch::Merge(anywhere)).await?;
    Ok(bare)
}

/// Pods that are bare, and that nobody is to touch.
async fn left(harness: &Harness, node: &str) -> Result<()> {
    harness.create::<Pod>(SHOP, pod("alone")).await?;
    let mut held = pod("alone-held");
    merge(&mut held, &json!({"spec": {"nodeSelector": {"nowhere": "true"}}}));
    harness.create::<Pod>(SHOP, held).await?;
    harness.create::<Pod>(SHOP, owned_by("example.com/v1", "Rollout", "foreign", "no-uid", pod("foreign"))).await?;
    let uid = harness.nodes().await?.get(node).await?.metadata.uid.context("a node without a uid")?;
    let mut mirror = owned_by("v1", "Node", node, &uid, pod("mirror"));
    merge(
        &mut mirror,
        &json!({
            "metadata": {"annotations": {"kubernetes.io/config.mirror": "of-a-file"}},
            "spec": {"nodeName": node},
        }),
    );
    harness.create::<Pod>(SHOP, mirror).await?;
    let mut off = set("off", 3);
    merge(&mut off, &json!({"spec": {"template": {"metadata": {"annotations": {"linkerd.io/inject": "disabled"}}}}}));
    harness.create::<ReplicaSet>(SHOP, off).await?;
    let mut host = set("host", 2);
    merge(&mut host, &json!({"spec": {"template": {"spec": {"hostNetwork": true}}}}));
    harness.create::<ReplicaSet>(SHOP, host).await?;
    harness.create::<Job>(SHOP, job("done", 2)).await?;
    let ran =
        until_pods(harness, "running", |pods| of(pods, "done").into_iter().filter(|pod| is_running(pod)).count() == 2);
    for pod in of(&ran.await?, "done") {
        succeed(&pods(harness).await?, pod).await?;
    }
    Ok(())
}

/// No more evictions in any span of time than the rate allows, one removal for each pod, and a pause after each that a budget refused.
fn ensure_paced(requests: &[AuditedRequest], before: &Pods) -> Result<()> {
    let removals = removals(requests);
    let done = succeeded(&removals);
    let once: BTreeSet<_> = done.iter().map(|request| request.name.as_str()).collect();
    ensure!(once.len() == done.len(), "a pod was removed twice");
    ensure!(
        once.iter().all(|name| before.contains_key(&format!("{SHOP}/{name}"))),
        "a pod that was not bare was removed"
    );
    // Those of the suspended Job went without a request of their own.
    let expected: usize = wanted().iter().filter(|(app, _)| app != "batch-held").map(|(_, count)| count).sum();
    ensure!(done.len() == expected, "not {expected} but {} removals", done.len());
    let evictions: Vec<_> = removals.iter().filter(|request| request.subresource == "eviction").collect();
    for (first, from) in evictions.iter().enumerate() {
        for (last, to) in evictions.iter().enumerate().skip(first) {
            let span = to.received.duration_since(from.received).as_secs_f64();
            // What was planned for at once may arrive later.
            let most = 3.0 + span * f64::from(RATE);
            let count = last - first + 1;
            ensure!(f64::from(u32::try_from(count)?) <= most, "{count} evictions in {span} s, from the {first}th on");
        }
    }
    let refused: Vec<_> = removals.iter().filter(|request| request.code == Some(429)).collect();
    ensure!(!refused.is_empty(), "the budget refused nothing");
    let budgeted = uids_by_name(before, "budgeted");
    ensure!(
        refused.iter().all(|request| budgeted.contains_key(&request.name)),
        "somebody else was refused: {refused:?}"
    );
    let mut tries = removals.iter().filter(|request| budgeted.contains_key(&request.name)).take(refused.len() + 1);
    let mut pause = Duration::from_secs(15);
    let mut last = tries.next().context("nothing was tried")?;
    for next in tries {
        let waited = Duration::try_from(next.received.duration_since(last.received))?;
        ensure!(waited >= pause.mul_f64(0.95), "tried again after {waited:?}, and not {pause:?}");
        (last, pause) = (next, pause * 2);
    }
    Ok(())
}

// === impl Worst ===

impl Worst {
    fn note(&self, pods: &Pods) {
        let most = |cell: &Cell<usize>, count: usize| cell.set(cell.get().max(count));
        let ready = |app: &str| of(pods, app).into_iter().filter(|pod| is_ready(pod)).count();
        most(&self.ordered, 5_usize.saturating_sub(ready("ordered")));
        most(&self.everywhere, NODES.saturating_sub(ready("everywhere")));
    }
}

/// Whoever is to be replaced, with the number of its pods.
fn wanted() -> Vec<(String, usize)> {
    let others = OTHERS.iter().map(|(app, count)| ((*app).to_owned(), *count));
    sets().into_iter().chain(others).collect()
}

/// The ReplicaSets among them.
fn sets() -> Vec<(String, usize)> {
    let running = (0..RUNNING_SETS).map(|index| (format!("runs-{index}"), IN_A_RUNNING_SET as usize));
    let held = (0..HELD_SETS).map(|index| (format!("held-{index}"), IN_A_HELD_SET as usize));
    running.chain(held).collect()
}

/// A ReplicationController selects by labels alone.
fn by_labels(mut set: Value) -> Value {
    set["spec"]["selector"] = set["spec"]["selector"]["matchLabels"].clone();
    set
}

fn uids_by_name(pods: &Pods, app: &str) -> BTreeMap<String, String> {
    let both = |pod: &Pod| Some((pod.metadata.name.clone()?, pod.metadata.uid.clone()?));
    of(pods, app).into_iter().filter_map(both).collect()
}
