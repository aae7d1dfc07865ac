//! The builders and the injector stand-in, held to a genuine API server: it validates every object as strictly as it can, and
//! it calls the injector, applies its patch, and fails open where Linkerd's would.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use linkerd_gate_kit::{
    cluster::{self, LoopbackAddress},
    object::{
        control_plane, deployment, endpoint_slice, gate, job, namespace, pod, service, stateful_set,
        webhook_configuration,
    },
    standin::{Certificates, Fault, Flaw, Injector, Namespaces, Sidecar, Standin},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// One control plane for all of it: booting another would cost more than it tells.
#[tokio::test]
async fn a_real_api_server_accepts_the_objects_and_calls_the_injector() -> Result<()> {
    let cluster = cluster::Api::start().await?;
    let shop = cluster.namespace("shop", &[("linkerd.io/inject", "enabled")]).await?;
    let exercise = async {
        every_object_is_valid(&cluster, &shop).await?;
        the_injector_is_called(&cluster, &shop).await
    };
    cluster.reported(&[&shop], exercise).await
}

async fn every_object_is_valid(cluster: &cluster::Api, shop: &str) -> Result<()> {
    // Never served in this size of cluster: the webhook configuration is left out, and named by the next test.
    let linkerd = control_plane("linkerd-played", "standin:1", "/linkerd-standin")?
        .where_namespace_asks(shop)
        .identity_suffering(Fault::Hang)
        .injectors(2)
        .objects()?;
    let (webhooks, others): (Vec<_>, Vec<_>) =
        linkerd.into_iter().partition(|object| object["kind"] == "MutatingWebhookConfiguration");
    create(cluster, &["--dry-run=server"], &webhooks).await?;
    create(cluster, &[], &others).await?;

    let entry = gate("gate:1").variable("LINKERD_GATE_ON_MISSED", "exit");
    let web = || pod("web").running("app:1").with_gate("gate:1").serving_on(8080).with_variable("A", "b");
    create(
        cluster,
        &["--dry-run=server"],
        &[
            namespace("other").asking().privileged().without_admission_webhooks().json(),
            web().in_namespace(shop).asking().with_classic_sidecar().as_service_account("default").json(),
            web().in_namespace(shop).not_asking().on_the_hosts_network().restarting("Never").json(),
            deployment("web").in_namespace(shop).replicas(2).of(web()).json(),
            stateful_set("db").in_namespace(shop).of(web()).json(),
            job("once")
                .in_namespace(shop)
                .backoff_limit(0)
                .ignoring_exit_code(75)
                .of(pod("once").running("app:1").with_args(&["once"]).with_gate(entry))
                .json(),
            service("web").in_namespace(shop).selecting("app", "web").port("http", 80, 8080).json(),
            service("db").in_namespace(shop).headless().port("db", 5432, "db").json(),
            endpoint_slice("web").in_namespace(shop).port("http", 8080).ready("10.1.2.3").not_ready("10.1.2.4").json(),
            webhook_configuration("linkerd").calling("https://10.1.2.3:8443/").failing_closed().json(),
        ],
    )
    .await
}

async fn the_injector_is_called(cluster: &cluster::Api, shop: &str) -> Result<()> {
    let address = LoopbackAddress::claim()?;
    let certificates = Certificates::in_the_charts_form("linkerd")?;
    let injector = Injector::new(certificates.clone(), &Namespaces::none().asking(shop), Sidecar::genuine("linkerd"))
        .serving_on((address.ip(), 443).into())
        .start()
        .await?;
    create(
        cluster,
        &[],
        &[
            namespace("linkerd").json(),
            service("linkerd-proxy-injector").in_namespace("linkerd").external_name(&address.ip().to_string()).json(),
            webhook_configuration("linkerd").ca_bundle(certificates.ca_bundle()).timeout_seconds(1).json(),
        ],
    )
    .await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, shop);
    let called = async {
        while injector.requests() == 0 {
            names(&pods, pod("early").json()).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_mins(1), called).await.context("the injector is never called")??;

    let native = names(&pods, pod("web").with_gate("gate:1").json()).await?;
    ensure!(native == "linkerd-init linkerd-proxy linkerd-gate | app", "{native}");
    let classic = names(&pods, pod("web").with_classic_sidecar().with_gate("gate:1").json()).await?;
    ensure!(classic == "linkerd-gate linkerd-init | linkerd-proxy app", "{classic}");
    let disabled = names(&pods, pod("web").not_asking().json()).await?;
    ensure!(disabled == "| app", "{disabled}");

    what_faults_do_to_admission(&injector, &pods).await
}

/// Whatever keeps the call from succeeding lets the pod in as it is; a denial does not.
async fn what_faults_do_to_admission(injector: &Standin, pods: &Api<Pod>) -> Result<()> {
    for fault in [
        Fault::Absent,
        Fault::Reset,
        Fault::Hang,
        Fault::HangAfterHandshake,
        Fault::Status(500),
        Fault::Stranger,
        Fault::PlainHttp,
        Fault::Certificate(Flaw::Name),
        Fault::Certificate(Flaw::Authority),
        Fault::Certificate(Flaw::Expired),
    ] {
        // A certificate is looked at when a connection is made, and the API server keeps those that it has.
        injector.stop().await?;
        injector.suffer(fault).await?;
        let admitted = names(pods, pod("web").json()).await?;
        ensure!(admitted == "| app", "{fault}: {admitted}");
    }
    for (fault, why) in [(Fault::Deny, "no such file or directory"), (Fault::NotReady, "not found")] {
        injector.suffer(fault).await?;
        let refused = names(pods, pod("web").json()).await.err().with_context(|| format!("{fault}: admitted"))?;
        let refused = format!("{refused:#}");
        ensure!(refused.contains("linkerd-proxy-injector.linkerd.io") && refused.contains(why), "{fault}: {refused}");
    }
    injector.recover().await?;
    let injected = names(pods, pod("web").json()).await?;
    ensure!(injected == "linkerd-init linkerd-proxy | app", "{injected}");
    Ok(())
}

/// Names the containers, init containers first, of a pod as the API server would store it.
async fn names(pods: &Api<Pod>, pod: Value) -> Result<String> {
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let spec = pods.create(&dry_run, &serde_json::from_value(pod)?).await?.spec.context("a pod without a spec")?;
    let init = spec.init_containers.unwrap_or_default();
    let names = init.iter().map(|container| container.name.as_str());
    let names = names.chain(["|"]).chain(spec.containers.iter().map(|container| container.name.as_str()));
    Ok(names.collect::<Vec<_>>().join(" "))
}

/// Creates objects with `kubectl`, unknown fields being errors.
async fn create(cluster: &cluster::Api, flags: &[&str], objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut kubectl = Command::new(cluster.kubectl())
        .args(["create", "--validate=strict", "--filename=-"])
        .args(flags)
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = kubectl.stdin.take().context("kubectl without a standard input")?;
    input.write_all(list.to_string().as_bytes()).await?;
    drop(input);
    let output = kubectl.wait_with_output().await?;
    ensure!(output.status.success(), "kubectl create: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
