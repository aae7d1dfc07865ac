//! A node that could open waits while the controller still replaces pods: not for ever, and not for one that no longer lives.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use linkerd_gate::decide::PendingRepair;
use linkerd_gate::decide::election::lease_record::CONTROLLER_LEASE;
use linkerd_gate::decide::election::pending_repair::ANNOTATION;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::harness::{GATE, Harness, agent_of, is_closed, logs_of, opened};

/// A controller that leads, as far as its Lease tells.
struct Controller {
    pods: watch::Sender<usize>,
    renewing: JoinHandle<Result<()>>,
}

impl Controller {
    async fn begin(harness: &Harness, pods: usize) -> Result<Self> {
        let lease = json!({
            "metadata": {"name": CONTROLLER_LEASE},
            "spec": {"holderIdentity": "node-9/controller/uid", "leaseDurationSeconds": 15},
        });
        let _created: Lease = harness.create(GATE, lease).await?;
        let leases: Api<Lease> = harness.leases().await?;
        let (pods, mut published) = watch::channel(pods);
        publish(&leases, *published.borrow_and_update()).await?;
        let renewing = tokio::spawn(async move {
            let mut renewal = tokio::time::interval(Duration::from_secs(3));
            loop {
                tokio::select! {
                    changed = published.changed() => changed?,
                    _ = renewal.tick() => {}
                }
                let pods = *published.borrow_and_update();
                publish(&leases, pods).await?;
            }
        });
        Ok(Self { pods, renewing })
    }

    /// As a power cut ends it.
    async fn end(self) {
        self.renewing.abort();
        let _aborted = self.renewing.await;
    }
}

async fn publish(leases: &Api<Lease>, pods: usize) -> Result<()> {
    let renewal = json!({
        "metadata": {"annotations": {ANNOTATION: PendingRepair::new(pods).write()}},
        "spec": {"renewTime": MicroTime(Timestamp::now())},
    });
    leases.patch(CONTROLLER_LEASE, &PatchParams::default(), &Patch::Merge(renewal)).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_could_open_waits_until_pods_are_replaced() -> Result<()> {
    let harness = Harness::set().await?;
    for node in ["node-0", "node-1", "node-2"] {
        harness.node_of_an_earlier_boot(node).await?;
    }
    let controller = Controller::begin(&harness, 3).await?;
    let waiting = harness.start_apart(agent_of("node-0", "boot-1"), "waiting").await?;
    let hasty = harness.start_apart(agent_of("node-1", "boot-1").with("REPAIR_GRACE", "3s"), "hasty").await?;
    let story = async {
        for (agent, node) in [(&waiting, "node-0"), (&hasty, "node-1")] {
            harness.until_node(node, "closed", is_closed).await?;
            agent.until_said("gate: waiting: injection not ready").await?;
        }
        harness.injector.recover().await?;
        let event = harness.until_event("node-0", "GateAwaitsRepair").await?;
        ensure!(event.type_.as_deref() == Some("Normal"), "{event:?}");
        ensure!(event.message.as_deref() == Some("stays closed: the controller still replaces 3 pods"), "{event:?}");
        waiting.until_said("node stays closed: the controller still replaces 3 pods").await?;
        let answer = waiting.answers(200).await?;
        ensure!(answer["node"]["state"] == "closed", "{answer}");

        // One may wait for 3 s only, and says so; the other waits on, and says nothing of each pod.
        harness.until_node("node-1", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;
        let event = harness.until_event("node-1", "GateOpenedBeforeRepair").await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
        ensure!(event.message.is_some_and(|text| text.contains("still replaces 3 pods")), "which pods?");
        ensure!(is_closed(&harness.nodes().await?.get("node-0").await?), "it did not wait");
        controller.pods.send(2)?;
        controller.pods.send(0)?;
        let node = harness.until_node("node-0", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;
        ensure!(!is_closed(&node) && waiting.times_said("stays closed: the controller") == 1, "{node:?}");
        waiting.until_said("node open: the gate is open").await?;
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&waiting, &hasty]))?;

    // What a controller said that lives no longer holds a node for as long as its Lease would.
    controller.end().await;
    publish(&harness.leases().await?, 5).await?;
    let late = harness.start_apart(agent_of("node-2", "boot-1"), "late").await?;
    let story = async {
        harness.until_node("node-2", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;
        late.until_said("node open: the gate is open").await?;
        ensure!(late.times_said("LINKERD_GATE_REPAIR_GRACE has passed") == 0);
        anyhow::Ok(())
    };
    story.await.with_context(|| late.said())?;

    // An open node follows no controller.
    let of_lease = async |account: &str| {
        let requests = harness.requests_of(account).await?;
        let of_lease = requests.into_iter().filter(|request| request.name == CONTROLLER_LEASE);
        anyhow::Ok(of_lease.filter(|request| request.verb == "list").count())
    };
    ensure!(of_lease("waiting").await? <= 1 && of_lease("late").await? <= 1, "listed again and again");
    Ok(())
}
