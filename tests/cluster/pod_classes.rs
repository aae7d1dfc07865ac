//! What this pod is, and what follows, on a genuine kubelet.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::harness::{Harness, exit_code, has_proxy, runs, status};

pub async fn a_native_sidecar_is_certified_before_the_gate_passes(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("native").await?;
    let story = async {
        // Injected, but identity is away: the proxy is not certified, and nothing after it may start.
        linkerd.start_injector().await?;
        let pod = harness.create::<Pod>(&linkerd.shop, linkerd.app("web", linkerd.gate()).json()).await?;
        ensure!(has_proxy(&pod));
        let names: Vec<_> =
            pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).map(|c| &*c.name).collect();
        ensure!(names == ["linkerd-init", "linkerd-proxy", "linkerd-gate"], "{names:?}");
        harness
            .until_pod(&linkerd.shop, "web", "its proxy runs", |pod| {
                status(pod, "linkerd-proxy")
                    .is_some_and(|proxy| proxy.state.as_ref().is_some_and(|state| state.running.is_some()))
            })
            .await?;
        harness.ensure_never_started(&pod, "linkerd-gate").await?;
        harness.ensure_never_started(&pod, "app").await?;
        linkerd.start_identity().await?;
        harness.until_pod(&linkerd.shop, "web", "running", runs).await?;
        harness.until_log(&pod, "app", "started beside a ready proxy").await?;
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn a_classic_sidecar_passes_and_can_wait_for_identity(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("classic").await?;
    let story = async {
        linkerd.start_injector().await?;
        let waiting = linkerd.gate().variable("LINKERD_GATE_WHEN_MESHED", "identity");
        let pod = linkerd.app("waits", waiting).with_classic_sidecar();
        let pod = harness.create::<Pod>(&linkerd.shop, pod.json()).await?;
        let names: Vec<_> =
            pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).map(|c| &*c.name).collect();
        ensure!(names == ["linkerd-gate", "linkerd-init"], "{names:?}");
        let line = harness.until_log(&pod, "linkerd-gate", "waiting: ").await?;
        ensure!(line.contains("identity not ready") && !line.contains("injector"), "{line}");
        harness.ensure_never_started(&pod, "app").await?;

        let passing = linkerd.app("passes", linkerd.gate()).with_classic_sidecar();
        harness.create::<Pod>(&linkerd.shop, passing.json()).await?;
        harness
            .until_pod(&linkerd.shop, "passes", "past the gate", |pod| exit_code(pod, "linkerd-gate") == Some(0))
            .await?;

        linkerd.start_identity().await?;
        for app in ["waits", "passes"] {
            harness.until_pod(&linkerd.shop, app, "running", runs).await?;
        }
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn a_pod_that_says_disabled_starts_once_linkerd_is_ready(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("disabled").await?;
    let story = async {
        let pod = linkerd.app("web", linkerd.gate()).not_asking();
        let pod = harness.create::<Pod>(&linkerd.shop, pod.json()).await?;
        harness.until_log(&pod, "linkerd-gate", "waiting: ").await?;
        harness.ensure_never_started(&pod, "app").await?;
        linkerd.start().await?;
        let running = harness.until_pod(&linkerd.shop, "web", "running", runs).await?;
        ensure!(!has_proxy(&running) && running.uid() == pod.uid());
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn a_pod_on_the_host_network_starts_once_linkerd_is_ready(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("host").await?;
    let story = async {
        let pod = linkerd
            .app("web", linkerd.gate())
            .on_the_hosts_network()
            .with_args(&["app", "18080"])
            .spec_field("dnsPolicy", "ClusterFirstWithHostNet");
        let pod = harness.create::<Pod>(&linkerd.shop, pod.json()).await?;
        harness.until_log(&pod, "linkerd-gate", "is on the host network").await?;
        harness.until_log(&pod, "linkerd-gate", "waiting: ").await?;
        harness.ensure_never_started(&pod, "app").await?;
        linkerd.start().await?;
        harness.until_pod(&linkerd.shop, "web", "running", runs).await?;
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn open_starts_outside_the_mesh_once_linkerd_is_ready(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("open").await?;
    let story = async {
        let pod = linkerd.app("web", linkerd.gate().variable("LINKERD_GATE_ON_MISSED", "open"));
        let pod = harness.create::<Pod>(&linkerd.shop, pod.json()).await?;
        harness.until_log(&pod, "linkerd-gate", "waiting: ").await?;
        harness.ensure_never_started(&pod, "app").await?;
        linkerd.start().await?;
        let running = harness.until_pod(&linkerd.shop, "web", "running", runs).await?;
        ensure!(!has_proxy(&running), "it was created while the injector was away");
        let said = harness.cluster.logs_of(&linkerd.shop, &pod.name_any(), "linkerd-gate").await?;
        ensure!(said.contains("OUTSIDE the mesh"), "{said}");
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}

pub async fn an_entry_without_the_label_exits_2_and_a_forged_one_passes(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("pasted").await?;
    let story = async {
        let gate = linkerd.gate().without_variable("LINKERD_GATE_INJECTED_BY");
        let pod = linkerd.never("pasted", gate).restarting("Never");
        let pod = harness.create::<Pod>(&linkerd.shop, pod.json()).await?;
        let ended = harness
            .until_pod(&linkerd.shop, "pasted", "refused", |pod| exit_code(pod, "linkerd-gate").is_some())
            .await?;
        ensure!(exit_code(&ended, "linkerd-gate") == Some(2));
        let message = status(&ended, "linkerd-gate")
            .and_then(|gate| gate.state.as_ref()?.terminated.as_ref()?.message.clone())
            .unwrap_or_default();
        ensure!(message.contains("LINKERD_GATE_INJECTED_BY is not set"), "kubelet has: {message:?}");
        harness.ensure_never_started(&pod, "app").await?;

        // The documented limit of `wait`: it can see the label only.
        let forged = linkerd.app("forged", linkerd.gate()).labelled("linkerd.io/control-plane-ns", "linkerd");
        harness.create::<Pod>(&linkerd.shop, forged.json()).await?;
        let running = harness.until_pod(&linkerd.shop, "forged", "running", runs).await?;
        ensure!(!has_proxy(&running));
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}
