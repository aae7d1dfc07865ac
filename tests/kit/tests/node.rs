//! A cluster with a node, proven on the genuine programs.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use libtest_mimic::{Arguments, Trial};
use linkerd_gate_kit::cluster::{
    self, Cluster, ClusterOptions, Container, ContainerEvent, Node,
    sandbox::{self, Entered},
};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

const PATIENCE: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    match sandbox::enter(|| Ok(())) {
        Entered::Inside => libtest_mimic::run(&Arguments::from_args(), vec![trial()]).exit_code(),
        Entered::Outside(code) => code,
    }
}

/// One test, since it is one cluster: booting it twice would cost more than it tells.
fn trial() -> Trial {
    Trial::test("pods_run_reach_a_service_and_survive_a_reboot", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            let cluster = Cluster::start_with(ClusterOptions { nodes: 2, ..ClusterOptions::default() }).await?;
            let namespace = cluster.namespace("kit", &[]).await?;
            cluster.reported(&[&namespace, "kube-system"], exercise(&cluster, &namespace)).await
        });
        outcome.map_err(|error| format!("{error:#}").into())
    })
}

async fn exercise(cluster: &Cluster, namespace: &str) -> Result<()> {
    let client = cluster.client().await?;
    let greeter = sandbox::new_address()?;
    tokio::spawn(greet(TcpListener::bind((greeter, 7000)).await?));
    cluster.expose(namespace, "greeter", greeter, &[(80, 7000)]).await?;

    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    // One on each node: at most one of them has the DNS server beside it.
                    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                        "labelSelector": {"matchLabels": {"app": "web"}},
                        "topologyKey": "kubernetes.io/hostname",
                    }]}},
                    "containers": [{
                        "name": "app",
                        "image": "kit.test/pause:1",
                        "imagePullPolicy": "Never",
                        "args": ["reach", format!("greeter.{namespace}.svc.cluster.local:80")],
                        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    }],
                },
            },
        },
    }))?;
    Api::<Deployment>::namespaced(client.clone(), namespace).create(&PostParams::default(), &deployment).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let web = ListParams::default().labels("app=web");
    let running = cluster::until_any(&pods, &web, "two running", PATIENCE, |pods| {
        let ready = pods.values().filter(|pod| app(pod).is_some_and(|app| app.ready));
        Some(ready.cloned().collect::<Vec<_>>()).filter(|pods| pods.len() == 2)
    })
    .await?;

    // They reached us by the Service's name, and what they wrote can be read.
    for pod in &running {
        until_greeted(cluster, pod).await?;
    }

    // What keeps failing is tried again soon, or tests of it would take minutes.
    let fails: Pod = serde_json::from_value(json!({
        "metadata": {"name": "fails"},
        "spec": {"containers": [{"name": "app", "image": "kit.test/pause:1", "args": ["nonsense"]}]},
    }))?;
    pods.create(&PostParams::default(), &fails).await?;
    let soon = Duration::from_secs(30);
    cluster::until(&pods, "fails", "restarted", soon, |pod| app(pod).is_some_and(|app| app.restart_count > 2)).await?;

    // containerd's word.
    let pod = &running[0];
    let node = node_of(cluster, pod)?;
    let container = running_container(node, pod)?;

    let events = node.container_events()?;
    ensure!(events.contains(&ContainerEvent::Started { id: container.id.clone() }), "never started: {events:#?}");

    // The same pod starts again in place, on another boot.
    let boot_id = node.boot_id()?;
    cluster.reboot(node).await?;
    ensure!(node.boot_id()? != boot_id, "the boot id stayed");
    let again = cluster::until(&pods, &pod.name_any(), "running again", PATIENCE, |pod| {
        app(pod).is_some_and(|app| app.ready && app.restart_count > 0)
    })
    .await?;
    ensure!(again.uid() == pod.uid(), "another pod");
    ensure!(running_container(node, pod)?.id != container.id, "the same container");
    until_greeted(cluster, pod).await?;

    // All power is cut, and comes back: the cluster finds itself again.
    for node in cluster.nodes() {
        node.power_off().await?;
    }
    cluster.power_off_control_plane();
    for node in cluster.nodes() {
        cluster.switch_on(node).await?;
    }
    cluster.power_on_control_plane().await?;
    for node in cluster.nodes() {
        cluster.until_ready(node).await?;
    }
    cluster::until(&pods, &pod.name_any(), "running once more", PATIENCE, |pod| {
        app(pod).is_some_and(|app| app.ready && app.restart_count > 1)
    })
    .await?;
    until_greeted(cluster, pod).await
}

/// Says hello to whoever connects.
async fn greet(listener: TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"hello\n").await?;
    }
}

fn app(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == "app")
}

fn node_of<'a>(cluster: &'a Cluster, pod: &Pod) -> Result<&'a Node> {
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    cluster.nodes().iter().find(|node| Some(node.name()) == name).context("a pod on no node of ours")
}

/// Waits for the words of the server in the pod's log. Nothing tells of new lines but reading them.
async fn until_greeted(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let greeted = async {
        while !cluster.logs_of(&namespace, &name, "app").await?.contains("says: hello") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, greeted).await.with_context(|| format!("{name} does not reach the Service"))?
}

/// The running container `app` of a pod, by containerd's word.
fn running_container(node: &Node, pod: &Pod) -> Result<Container> {
    let containers = node.containers()?;
    let running = containers.iter().find(|container| {
        container.pod == pod.name_any() && container.name == "app" && container.task.as_deref() == Some("RUNNING")
    });
    running.cloned().with_context(|| format!("not running: {containers:#?}"))
}
