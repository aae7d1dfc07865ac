//! A node's reboot with pods bound to it: they restart in place and never pass admission again.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::api::Api;

use crate::stage::{Stage, has_proxy, runs, status};

pub async fn after_a_reboot_meshed_pods_come_back_and_missed_ones_never_start(stage: &Stage) -> Result<()> {
    let linkerd = stage.linkerd("reboot").await?;
    let story = async {
        let missed = stage.create::<Pod>(&linkerd.shop, linkerd.never("missed", linkerd.gate()).json()).await?;
        ensure!(!has_proxy(&missed));
        stage.until_log(&missed, "linkerd-gate", "waiting: ").await?;
        linkerd.start().await?;
        let meshed = stage.create::<Pod>(&linkerd.shop, linkerd.app("meshed", linkerd.gate()).json()).await?;
        ensure!(has_proxy(&meshed));
        stage.until_pod(&linkerd.shop, "meshed", "running", runs).await?;

        // Power is cut: Linkerd is gone as well, and comes back after the node.
        linkerd.stop().await?;
        let node = stage.cluster.node();
        let nodes: Api<Node> = Api::all(stage.cluster.client().await?);
        let boot = |node: Node| node.status.and_then(|status| status.node_info).map(|info| info.boot_id);
        let before = boot(nodes.get(node.name()).await?);
        stage.cluster.reboot(node).await?;
        let after = boot(nodes.get(node.name()).await?);
        ensure!(before != after, "the node did not boot anew: {before:?}");

        // The same pods, on the new boot: the proxy has no certificate yet, so neither app may start.
        let again = |pod: &Pod, container: &str| {
            status(pod, container).is_some_and(|status| {
                status.restart_count > 0 && status.state.as_ref().is_some_and(|state| state.running.is_some())
            })
        };
        let held = stage.until_pod(&linkerd.shop, "missed", "held again", |pod| again(pod, "linkerd-gate")).await?;
        ensure!(held.uid() == missed.uid());
        let uncertified =
            stage.until_pod(&linkerd.shop, "meshed", "proxy again", |pod| again(pod, "linkerd-proxy")).await?;
        ensure!(uncertified.uid() == meshed.uid());
        stage.ensure_never_started(&held, "app").await?;
        let now: Pod = stage.api(&linkerd.shop).await?.get("meshed").await?;
        ensure!(!runs(&now), "the meshed app runs before its proxy is certified");

        linkerd.start().await?;
        let back = stage.until_pod(&linkerd.shop, "meshed", "running again", |pod| {
            runs(pod) && status(pod, "app").is_some_and(|app| app.restart_count > 0)
        });
        ensure!(back.await?.uid() == meshed.uid());
        stage.until_log(&held, "linkerd-gate", "must be created again").await?;
        stage.ensure_never_started(&held, "app").await?;

        // containerd's word on the app that did start; what is left of the last boot's container is beside it.
        let containers = node.containers()?;
        stage.ensure_nothing_slipped_through()?;
        let is_running = containers.iter().any(|found| {
            found.namespace == linkerd.shop
                && found.pod == "meshed"
                && found.name == "app"
                && found.task.as_deref() == Some("RUNNING")
        });
        ensure!(is_running, "containerd runs no app of the meshed pod: {containers:#?}");
        Ok(())
    };
    stage.cluster.reported(&[&linkerd.shop], story).await
}
