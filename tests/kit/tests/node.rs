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
    self, Cluster,
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
    Trial::test("a_pod_runs_reaches_a_service_and_survives_a_reboot", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            let cluster = Cluster::start().await?;
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
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
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
    let pod = cluster::until_any(&pods, &web, "running", PATIENCE, |pods| {
        pods.values().find(|pod| app(pod).is_some_and(|app| app.ready)).cloned()
    })
    .await?;
    let name = pod.name_any();

    // It reached us by the Service's name, and what it wrote can be read.
    let greeting = || async {
        loop {
            let log = cluster.logs_of(namespace, &name, "app").await?;
            if log.contains("says: hello") {
                return anyhow::Ok(log);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, greeting()).await.context("the pod does not reach the Service")??;

    // containerd's word.
    let container = of(cluster, &name)?;
    ensure!(container.task.as_deref() == Some("RUNNING"), "{container:?}");

    // The same pod starts again in place, on another boot.
    let node = cluster.node();
    let boot_id = node.boot_id()?;
    cluster.reboot(node).await?;
    ensure!(node.boot_id()? != boot_id, "the boot id stayed");
    let again = cluster::until(&pods, &name, "running again", PATIENCE, |pod| {
        app(pod).is_some_and(|app| app.ready && app.restart_count > 0)
    })
    .await?;
    ensure!(again.uid() == pod.uid(), "another pod");
    ensure!(of(cluster, &name)?.id != container.id, "the same container");
    tokio::time::timeout(PATIENCE, greeting()).await.context("the pod does not reach the Service again")??;
    Ok(())
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

/// The running container `app` of a pod.
fn of(cluster: &Cluster, pod: &str) -> Result<cluster::Container> {
    let containers = cluster.node().containers()?;
    let running = containers.iter().find(|container| {
        container.pod == pod && container.name == "app" && container.task.as_deref() == Some("RUNNING")
    });
    running.cloned().with_context(|| format!("not running: {containers:#?}"))
}
