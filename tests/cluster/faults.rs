//! What genuine cluster DNS answers: each answer is another fault. (The faults of injector and identity themselves: `tests/binary`.)

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams};
use linkerd_gate_kit::cluster;
use serde_json::json;

use crate::harness::{Harness, PATIENCE, exit_code};

pub async fn cluster_dns_failures_have_separate_reasons(harness: &Harness) -> Result<()> {
    let linkerd = harness.linkerd("dns").await?;
    let story = async {
        let elsewhere = linkerd.gate().variable("LINKERD_GATE_LINKERD_NAMESPACE", "nowhere");
        let pod = harness.create::<Pod>(&linkerd.shop, linkerd.never("absent", elsewhere).json()).await?;
        let line = harness.until_log(&pod, "linkerd-gate", "waiting: ").await?;
        ensure!(line.contains("DNS knows no name linkerd-proxy-injector.nowhere.svc"), "{line}");
        ensure!(line.contains("DNS knows no name linkerd-identity-headless.nowhere.svc"), "{line}");

        // A headless service without a ready pod behind it: CoreDNS denies its very name. (The injector's, which has an
        // address of its own, keeps it.)
        let slices: Api<EndpointSlice> = harness.api(&linkerd.namespace).await?;
        slices
            .delete_collection(
                &DeleteParams::default(),
                &kube::api::ListParams::default().labels("kubernetes.io/service-name=linkerd-identity-headless"),
            )
            .await?;
        let pod = harness.create::<Pod>(&linkerd.shop, linkerd.never("empty", linkerd.gate()).json()).await?;
        let line = harness.until_log(&pod, "linkerd-gate", "none of its pods is ready").await?;
        ensure!(line.contains("DNS knows no name linkerd-identity-headless.linkerd-dns.svc"), "{line}");
        ensure!(!line.contains("linkerd-proxy-injector.linkerd-dns.svc"), "{line}");

        // A name server that swallows questions (TEST-NET-1 is routed nowhere), and SIGTERM while one is under way.
        let silent = linkerd
            .never("silent", linkerd.gate())
            .spec_field("dnsPolicy", "None")
            .spec_field("dnsConfig", json!({"nameservers": ["192.0.2.53"], "searches": ["svc.cluster.local"]}))
            .spec_field("terminationGracePeriodSeconds", 60)
            .restarting("Never");
        let pod = harness.create::<Pod>(&linkerd.shop, silent.json()).await?;
        let line = harness.until_log(&pod, "linkerd-gate", "cannot look up").await?;
        ensure!(line.contains("192.0.2.53") || line.contains("cannot be reached"), "{line}");
        harness.ensure_never_started(&pod, "app").await?;
        let pods: Api<Pod> = harness.api(&linkerd.shop).await?;
        let ended = cluster::until(&pods, "silent", "ended by SIGTERM", PATIENCE, |pod| {
            exit_code(pod, "linkerd-gate").is_some()
        });
        let delete = DeleteParams::default();
        let (ended, _) = tokio::try_join!(ended, async { Ok(pods.delete("silent", &delete).await?) })?;
        ensure!(exit_code(&ended, "linkerd-gate") == Some(143), "{:#?}", ended.status);
        Ok(())
    };
    harness.cluster.reported(&[&linkerd.shop], story).await
}
