//! What a control plane does only for those who ask: requests counted, a second API server, a bad way
//! to the first, fake nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    authorization::v1::SubjectAccessReview,
    core::v1::{ConfigMap, Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use linkerd_gate_kit::{
    cluster::{self, ApiOptions, AuditStage, AuditedRequest},
    object::{deployment, namespace, pod, webhook_configuration},
    standin::{Certificates, Fault, Injector, Namespaces, Relay, Sidecar},
};
use serde_json::json;
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn requests_are_counted_one_by_one() -> Result<()> {
    let cluster = cluster::Api::start_with(ApiOptions { audit: true, ..ApiOptions::default() }).await?;
    let namespace = cluster.namespace("count", &[]).await?;
    cluster.reported(&[&namespace], count(&cluster, &namespace)).await
}

async fn count(cluster: &cluster::Api, namespace: &str) -> Result<()> {
    let admin = cluster.client().await?;
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "counted"}}))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &account).await?;
    grant(&admin, namespace, "counted").await?;
    let web: Pod = serde_json::from_value(pod("web").running("app:1").as_service_account("counted").json())?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &web).await?;
    let user = format!("system:serviceaccount:{namespace}:counted");
    ensure!(cluster.requests_of(&user)?.is_empty(), "counted before anything was asked");

    let maps: Api<ConfigMap> = Api::namespaced(cluster.client_as_pod(namespace, "web").await?, namespace);
    let list = maps.list(&ListParams::default()).await?;
    let version = list.metadata.resource_version.context("a list without a version")?;
    let mut watch = Box::pin(maps.watch(&WatchParams::default(), &version).await?);
    let patch = Patch::Merge(json!({"data": {"key": "value"}}));
    maps.patch("kube-root-ca.crt", &PatchParams { dry_run: true, ..PatchParams::default() }, &patch).await?;
    ensure!(maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.is_err(), "a right too many");

    let requests = cluster.requests_of(&user)?;
    let short: Vec<_> = requests.iter().map(AuditedRequest::short).collect();
    let expected = [
        format!("list {namespace}/configmaps"),
        format!("watch {namespace}/configmaps"),
        format!("patch {namespace}/configmaps kube-root-ca.crt dry-run"),
        format!("delete {namespace}/configmaps kube-root-ca.crt"),
    ];
    ensure!(short == expected, "{requests:#?}");
    let codes: Vec<_> = requests.iter().map(|request| request.code).collect();
    ensure!(codes == [Some(200), Some(200), Some(200), Some(403)], "{requests:#?}");
    let stages: Vec<_> = requests.iter().map(|request| request.stage).collect();
    let complete = AuditStage::ResponseComplete;
    ensure!(stages == [complete, AuditStage::ResponseStarted, complete, complete], "{requests:#?}");
    ensure!(requests.iter().all(|request| request.pod.as_deref() == Some("web")), "{requests:#?}");

    // A watch that ends is still one request, and what others do meanwhile is none of ours.
    Api::<ConfigMap>::namespaced(admin, namespace).patch("kube-root-ca.crt", &PatchParams::default(), &patch).await?;
    watch.next().await.context("no event")??;
    drop(watch);
    let ended = async {
        loop {
            let requests = cluster.requests_of(&user)?;
            ensure!(requests.len() == expected.len(), "{requests:#?}");
            if requests[1].stage == complete {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.context("the client does not see the end of the watch")?
}

#[tokio::test]
async fn an_api_server_may_be_slow_silent_or_gone() -> Result<()> {
    let cluster = cluster::Api::start().await?;
    let relay = cluster.relay().start().await?;
    let kubeconfig = cluster.kubeconfig_at(&cluster.kubeconfig(), relay.address())?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
    config.default_retry = false;
    config.read_timeout = None;
    let through = Client::try_from(config)?;

    let version = || through.apiserver_version();
    version().await?;
    let late = Duration::from_secs(2);
    relay.suffer(Fault::Slow(late)).await?;
    let asked = Instant::now();
    version().await?;
    ensure!(asked.elapsed() >= late, "answered after {:?}", asked.elapsed());

    // Events of a watch are late as well, and a watch that is swallowed goes on where it stood.
    relay.recover().await?;
    let maps: Api<ConfigMap> = Api::namespaced(through.clone(), "default");
    let mut watch = Box::pin(maps.watch(&WatchParams::default(), "0").await?);
    let mut watched = async |name: &str| {
        while let Some(event) = watch.next().await {
            if let WatchEvent::Added(map) = event?
                && map.metadata.name.as_deref() == Some(name)
            {
                return Ok(());
            }
        }
        bail!("the watch ended before it sent {name}")
    };
    let direct: Api<ConfigMap> = Api::namespaced(cluster.client().await?, "default");
    let named = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name}}));
    relay.suffer(Fault::Hang).await?;
    direct.create(&PostParams::default(), &named("meanwhile")?).await?;
    let change = tokio::time::timeout(Duration::from_millis(500), watched("meanwhile")).await;
    ensure!(change.is_err(), "sent: {change:?}");
    ensure!(tokio::time::timeout(Duration::from_millis(500), version()).await.is_err(), "answered");
    relay.recover().await?;
    tokio::time::timeout(PATIENCE, watched("meanwhile")).await??;

    relay.suffer(Fault::Refuse).await?;
    ensure!(version().await.is_err(), "not refused");
    ensure!(tokio::time::timeout(PATIENCE, watched("nothing")).await?.is_err(), "the watch survived the cut");
    relay.recover().await?;
    version().await?;
    Ok(())
}

#[tokio::test]
async fn of_two_api_servers_one_does_not_reach_the_injector() -> Result<()> {
    let cluster = cluster::Api::start_with(ApiOptions { audit: true, ..ApiOptions::default() }).await?;
    let shop = cluster.namespace("shop", &[("linkerd.io/inject", "enabled")]).await?;
    cluster.reported(&[&shop], two_servers(&cluster, &shop)).await
}

async fn two_servers(cluster: &cluster::Api, shop: &str) -> Result<()> {
    let address = cluster::LoopbackAddress::claim()?;
    let certificates = Certificates::for_injector("linkerd")?;
    let injector = Injector::new(certificates.clone(), &Namespaces::none().asking(shop), Sidecar::genuine("linkerd"));
    let _injector = injector.serving_on((address.ip(), 443).into()).start().await?;
    let first = cluster.client().await?;
    cluster.create_namespace(&serde_json::from_value(namespace("linkerd").json())?).await?;
    cluster.expose("linkerd", "linkerd-proxy-injector", address.ip(), &[(443, 443)]).await?;
    let webhook = webhook_configuration("linkerd").ca_bundle(certificates.ca_bundle()).json();
    let webhook: MutatingWebhookConfiguration = serde_json::from_value(webhook)?;
    Api::all(first.clone()).create(&PostParams::default(), &webhook).await?;

    let way = Relay::to_anywhere().start().await?;
    let server = cluster.second_server(Some(way.address())).await?;
    ensure!(server.address() != cluster.address(), "the same address");
    let second = server.client().await?;
    for client in [&first, &second] {
        let called = async {
            while !injects(client, shop).await? {}
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, called).await.context("an API server does not call the injector")??;
    }
    ensure!(way.connections() > 0, "the second went another way");

    way.suffer(Fault::Refuse).await?;
    ensure!(!injects(&second, shop).await?, "the second API server still reaches it");
    ensure!(injects(&first, shop).await?, "the first does not any more");
    way.recover().await?;
    ensure!(injects(&second, shop).await?, "the second does not reach it again");

    // What both were asked is counted, and a kubeconfig leads to either.
    let kubeconfig = cluster.kubeconfig_as(shop, "default").await?;
    let user = format!("system:serviceaccount:{shop}:default");
    for address in [cluster.address(), server.address()] {
        let kubeconfig = cluster.kubeconfig_at(&kubeconfig, (address, 6443).into())?;
        let mut asks = Command::new(cluster.kubectl());
        asks.args(["get", "--raw=/readyz"]).env("KUBECONFIG", kubeconfig);
        ensure!(asks.output().await?.status.success(), "{address} does not answer");
    }
    let short: Vec<_> = cluster.requests_of(&user)?.iter().map(AuditedRequest::short).collect();
    ensure!(short == ["get /readyz", "get /readyz"], "{short:?}");
    Ok(())
}

#[tokio::test]
async fn fake_nodes_are_ready_and_their_pods_run() -> Result<()> {
    let cluster = cluster::Api::start_with(ApiOptions { audit: true, ..ApiOptions::default() }).await?;
    let shop = cluster.namespace("shop", &[]).await?;
    cluster.reported(&[&shop], many_nodes(&cluster, &shop)).await
}

async fn many_nodes(cluster: &cluster::Api, shop: &str) -> Result<()> {
    cluster.start_kwok().await?;
    let nodes = cluster.fake_nodes(50).await?;
    ensure!(nodes.len() == 50 && nodes[49] == "fake-49", "{nodes:?}");
    // One on each, and one that cannot be: the scheduler knows these nodes.
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"},
    ]}});
    let web = pod("web").running("app:1").spec_field("affinity", affinity);
    let web: Deployment = serde_json::from_value(deployment("web").replicas(51).of(web).json())?;
    let client = cluster.client().await?;
    Api::namespaced(client.clone(), shop).create(&PostParams::default(), &web).await?;
    let pods: Api<Pod> = Api::namespaced(client, shop);
    let running = |pods: &BTreeMap<String, Pod>| {
        let running = pods.values().filter(|pod| {
            let status = pod.status.as_ref();
            status.is_some_and(|status| status.phase.as_deref() == Some("Running") && status.pod_ip.is_some())
        });
        let of_nodes: BTreeSet<_> = running.filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
        (of_nodes.len() == 50 && pods.len() == 51).then_some(of_nodes)
    };
    let of_nodes = cluster::until_any(&pods, &ListParams::default(), "50 running", PATIENCE, running).await?;
    ensure!(of_nodes == nodes.into_iter().collect(), "on other nodes: {of_nodes:?}");
    // A pod's token names its node, as it would where kubelet had asked for it.
    let all = pods.list(&ListParams::default()).await?.items;
    let on_node = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let one = all.iter().find(on_node).context("no pod on a node")?;
    let name = one.metadata.name.as_deref().unwrap_or_default();
    cluster.client_as_pod(shop, name).await?.apiserver_version().await?;
    let requests = cluster.requests_of(&format!("system:serviceaccount:{shop}:default"))?;
    ensure!(requests.len() == 1 && requests[0].short() == "get /version", "{requests:#?}");
    ensure!(requests[0].pod.as_deref() == Some(name), "{requests:#?}");
    ensure!(requests[0].node == one.spec.as_ref().and_then(|spec| spec.node_name.clone()), "{requests:#?}");
    // Those that come later have names of their own.
    ensure!(cluster.fake_nodes(1).await? == ["fake-50"], "another name");
    cluster::until_any(&pods, &ListParams::default(), "51 running", PATIENCE, |pods| {
        let nodes = pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref());
        nodes.into_iter().any(|node| node == "fake-50").then_some(())
    })
    .await
}

/// Whether a pod that is created here would have a sidecar.
async fn injects(client: &Client, namespace: &str) -> Result<bool> {
    let web: Pod = serde_json::from_value(pod("web").running("app:1").json())?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let answer = Api::<Pod>::namespaced(client.clone(), namespace).create(&dry_run, &web).await?;
    let containers = answer.spec.and_then(|spec| spec.init_containers).unwrap_or_default();
    Ok(containers.iter().any(|container| container.name == "linkerd-proxy"))
}

/// Lets a service account do everything to configmaps but delete them, and waits until the API server knows.
async fn grant(admin: &Client, namespace: &str, account: &str) -> Result<()> {
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": account},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch", "patch"]}],
    }))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &role).await?;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &binding).await?;
    let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
        "user": format!("system:serviceaccount:{namespace}:{account}"),
        "resourceAttributes": {"namespace": namespace, "verb": "patch", "resource": "configmaps"},
    }}))?;
    let reviews: Api<SubjectAccessReview> = Api::all(admin.clone());
    for _ in 0..600 {
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the API server does not learn of the role")
}
