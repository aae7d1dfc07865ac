//! A node's reboot with pods bound to it: they restart in place and never pass admission again.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::api::Api;

use crate::harness::{Harness, has_proxy, runs, status};

pub async fn after_a_reboot_meshed_pods_start_and_missed_pods_never_do(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("reboot").await?;
    let story = async {
        let missed = harness.create::<Pod>(&linkerd.shop, linkerd.never("missed", linkerd.gate()).json()).await?;
        ensure!(!has_proxy(&missed));
        harness.until_log(&missed, "linkerd-gate", "waiting: ").await?;
        linkerd.start().await?;
        let meshed = harness.create::<Pod>(&linkerd.shop, linkerd.app("meshed", linkerd.gate()).json()).await?;
        ensure!(has_proxy(&meshed));
        harness.until_pod(&linkerd.shop, "meshed", "running", runs).await?;

        // Power is cut: Linkerd is gone as well, and comes back after the node.
        linkerd.stop().await?;
        let node = harness.cluster.node();
        let nodes: Api<Node> = Api::all(harness.cluster.client().await?);
        let boot = |node: Node| node.status.and_then(|status| status.node_info).map(|info| info.boot_id);
        let before = boot(nodes.get(node.name()).await?);
        harness.cluster.reboot(node).await?;
        let after = boot(nodes.get(node.name()).await?);
        ensure!(before != after, "the node did not boot anew: {before:?}");

        // The same pods, on the new boot: the proxy has no certificate yet, so neither app may start.
        let again = |pod: &Pod, container: &str| {
            status(pod, container).is_some_and(|status| {
                status.restart_count > 0 && status.state.as_ref().is_some_and(|state| state.running.is_some())
            })
        };
        let held = harness.until_pod(&linkerd.shop, "missed", "held again", |pod| again(pod, "linkerd-gate")).await?;
        ensure!(held.uid() == missed.uid());
        let uncertified =
            harness.until_pod(&linkerd.shop, "meshed", "proxy again", |pod| again(pod, "linkerd-proxy")).await?;
        ensure!(uncertified.uid() == meshed.uid());
        harness.ensure_never_started(&held, "app").await?;
        let now: Pod = harness.api(&linkerd.shop).await?.get("meshed").await?;
        ensure!(!runs(&now), "the meshed app runs before its proxy is certified");

        linkerd.start().await?;
        let back = harness.until_pod(&linkerd.shop, "meshed", "running again", |pod| {
            runs(pod) && status(pod, "app").is_some_and(|app| app.restart_count > 0)
        });
        ensure!(back.await?.uid() == meshed.uid());
        harness.until_log(&held, "linkerd-gate", "must be created again").await?;
        harness.ensure_never_started(&held, "app").await?;

        // containerd's word on the app that did start; what is left of the last boot's container is beside it.
        let containers = node.containers()?;
        harness.ensure_nothing_slipped_through()?;
        let is_running = containers.iter().any(|found| {
            found.namespace == linkerd.shop
                && found.pod == "meshed"
                && found.name == "app"
                && found.task.as_deref() == Some("RUNNING")
        });
        ensure!(is_running, "containerd runs no app of the meshed pod: {containers:#?}");
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}
