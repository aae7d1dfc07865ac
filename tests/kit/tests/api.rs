//! The control plane, proven on the genuine programs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Service},
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use linkerd_gate_kit::cluster;
use serde_json::json;
use tokio::{net::TcpListener, process::Command};

const PATIENCE: Duration = Duration::from_mins(1);

/// One test, since it is one control plane: booting it twice would cost more than it tells.
#[tokio::test]
async fn a_control_plane_makes_pods_and_keeps_its_data_over_a_restart() -> Result<()> {
    let cluster = cluster::Api::start().await?;
    let namespace = cluster.namespace("kit", &[("linkerd.io/inject", "enabled")]).await?;
    cluster.reported(&[&namespace], exercise(&cluster, &namespace)).await
}

async fn exercise(cluster: &cluster::Api, namespace: &str) -> Result<()> {
    let client = cluster.client().await?;

    // The controllers act: a Deployment becomes a ReplicaSet becomes a Pod.
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "app", "image": "app:test"}]},
            },
        },
    }))?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    deployments.create(&PostParams::default(), &deployment).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let web = ListParams::default().labels("app=web");
    let pod = cluster::until_any(&pods, &web, "a pod", PATIENCE, |pods| pods.values().next().cloned()).await?;
    let name = pod.metadata.name.clone().context("a pod without a name")?;
    // The scheduler acts: it says that there is no node.
    cluster::until(&pods, &name, "judged unschedulable", PATIENCE, |pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.reason.as_deref() == Some("Unschedulable"))
    })
    .await?;

    // The API server dials a webhook's Service, which says an address of the test's own process.
    let address = cluster::LoopbackAddress::claim()?;
    let listener = TcpListener::bind((address.ip(), 443)).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = serde_json::from_value(json!({
        "metadata": {"name": "injector"},
        "spec": {"type": "ExternalName", "externalName": address.ip().to_string()},
    }))?;
    services.create(&PostParams::default(), &service).await?;
    let webhook: MutatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": namespace},
        "webhooks": [{
            "name": "injector.linkerd-gate.test",
            "clientConfig": {"service": {"name": "injector", "namespace": namespace}},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }],
    }))?;
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    webhooks.create(&PostParams::default(), &webhook).await?;
    let create = async {
        // The API server takes a moment to learn of the webhook; until then a create succeeds without calling it.
        let configmaps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let any = serde_json::from_value(json!({"metadata": {"generateName": "any-"}}))?;
        while configmaps.create(&PostParams::default(), &any).await.is_ok() {}
        anyhow::Ok(())
    };
    // What is not a TLS server is no webhook: the create is refused, and that the API server came here is what counts.
    let called = async { listener.accept().await.map(drop) };
    let (called, refused) = tokio::join!(tokio::time::timeout(PATIENCE, called), create);
    called??;
    refused?;

    // A service account has the rights of a service account.
    let unprivileged = cluster.client_as(namespace, "default").await?;
    let refused = Api::<ConfigMap>::namespaced(unprivileged, namespace).list(&ListParams::default()).await;
    let refused = refused.err().context("a service account without a role could list")?;
    ensure!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "not a 403: {refused}");

    // The same with kubectl.
    let kubeconfig = cluster.kubeconfig_as(namespace, "default").await?;
    let whoami =
        Command::new(cluster.kubectl()).args(["auth", "whoami"]).env("KUBECONFIG", kubeconfig).output().await?;
    let words = String::from_utf8_lossy(&whoami.stdout);
    ensure!(words.contains(&format!("system:serviceaccount:{namespace}:default")), "{whoami:?}");

    // What was in etcd is there after a restart, and an API server that is away is waited for.
    cluster.stop_api_server().await?;
    let away = pods.get(&name).await;
    ensure!(away.is_err(), "the API server still answers");
    let uid = pod.metadata.uid.clone();
    let (back, started) =
        tokio::join!(cluster::until(&pods, &name, "seen again", PATIENCE, |_| true), cluster.start_api_server());
    started?;
    ensure!(back?.metadata.uid == uid, "another pod than before");

    // The report names the pod and why it is not running.
    let report = cluster.report(&[namespace]).await;
    ensure!(report.contains(&name) && report.contains("PodScheduled"), "a report that does not say it:\n{report}");
    Ok(())
}
