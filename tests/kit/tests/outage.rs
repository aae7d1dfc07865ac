//! What a whole cluster goes through, proven on the genuine programs: Linkerd played by pods, DaemonSets on the nodes' own
//! network, a node that joins later, and a cut of all power.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node as NodeObject, Pod, Taint},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use libtest_mimic::{Arguments, Trial};
use linkerd_gate_kit::{
    cluster::{
        self, ApiOptions, BOOT_ID_FILE, Cluster, ClusterOptions, NODE_DIRECTORY, NodeOptions,
        sandbox::{self, Entered},
    },
    image::{Architecture, Image, kit_binary},
    object::{control_plane, namespace, pod, with_boot_id},
    parts::ApiParts,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

const PATIENCE: Duration = Duration::from_mins(2);

const PAUSE: &str = "kit.test/pause:1";
const STANDIN: &str = "kit.test/linkerd-standin:1";
const KUBECTL: &str = "kit.test/kubectl:1";

fn main() -> ExitCode {
    match sandbox::enter(make_images) {
        Entered::Inside => libtest_mimic::run(&Arguments::from_args(), vec![trial()]).exit_code(),
        Entered::Outside(code) => code,
    }
}

/// One test, since it is one cluster: booting it twice would cost more than it tells.
fn trial() -> Trial {
    Trial::test("a_linkerd_cluster_with_a_new_node_survives_a_power_cut", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            let closed =
                Taint { key: "linkerd-gate/closed".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
            let later = vec![NodeOptions { taints: vec![closed], network_awaited: true }];
            let api = ApiOptions { audit: true, ..ApiOptions::default() };
            let cluster = Cluster::start_with(ClusterOptions { api, nodes: 2, later }).await?;
            cluster.reported(&["shop", "linkerd", "kube-system"], exercise(&cluster)).await
        });
        outcome.map_err(|error| format!("{error:#}").into())
    })
}

async fn exercise(cluster: &Cluster) -> Result<()> {
    for name in [STANDIN, KUBECTL] {
        cluster.load_image(&archive(name)).await?;
    }
    let linkerd = control_plane("linkerd", STANDIN, "/linkerd-standin")?.where_namespace_asks("shop").injectors(2);
    apply(cluster, linkerd.objects()?).await?;
    cluster.create_namespace(&serde_json::from_value(namespace("shop").asking().json())?).await?;
    let web = injected_pod(cluster).await?;
    nodes_reach_what_they_need(cluster, &web).await?;
    an_agent_sees_its_nodes_boot(cluster).await?;
    a_node_joins(cluster).await?;
    all_power_is_cut(cluster, &web).await?;
    two_api_servers_are_endpoints(cluster).await
}

/// The API server calls injectors that are pods behind a Service, and what it gets from them runs.
async fn injected_pod(cluster: &Cluster) -> Result<Pod> {
    let client = cluster.client().await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "linkerd");
    for name in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
        cluster::until(&deployments, name, "available", PATIENCE, |deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            deployment.status.as_ref().is_some_and(|status| status.available_replicas == wanted)
        })
        .await?;
    }
    let pods: Api<Pod> = Api::namespaced(client, "shop");
    let web: Pod =
        serde_json::from_value(pod("web").running(STANDIN).with_args(&["app", "8080"]).serving_on(8080).json())?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let called = async {
        // The API server takes a moment to learn of endpoints, and Linkerd's webhook lets through what it cannot look at.
        while !is_injected(&pods.create(&dry_run, &web).await?) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, called).await.context("no pod is injected")??;
    pods.create(&PostParams::default(), &web).await?;
    let web = cluster::until(&pods, "web", "ready", PATIENCE, is_ready).await?;
    ensure!(is_injected(&web), "ready, but not injected");
    Ok(web)
}

/// From the network of either node: the API server by the address of its Service, and a pod.
async fn nodes_reach_what_they_need(cluster: &Cluster, web: &Pod) -> Result<()> {
    let address = web.status.as_ref().and_then(|status| status.pod_ip.clone()).context("a pod without an address")?;
    let server = format!("--server=http://{address}:8080");
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, "default");
    let asks: [(&str, &[&str]); 2] = [("api", &["get", "--raw", "/readyz"]), ("pod", &[&server, "get", "--raw", "/"])];
    for node in cluster.nodes().iter().filter(|node| node.is_on()) {
        for (what, words) in asks {
            let name = format!("{what}-from-{}", node.name());
            let asking = pod(&name).running(KUBECTL).with_args(words).on_the_hosts_network().on_node(node.name());
            pods.create(&PostParams::default(), &serde_json::from_value(asking.restarting("OnFailure").json())?)
                .await?;
        }
    }
    for node in cluster.nodes().iter().filter(|node| node.is_on()) {
        for (what, _) in asks {
            let name = format!("{what}-from-{}", node.name());
            cluster::until(&pods, &name, "answered", PATIENCE, |pod| phase(pod) == Some("Succeeded")).await?;
        }
        // The API server knows which pod of which node asked.
        let requests = cluster.requests_of("system:serviceaccount:default:default")?;
        let asked = requests.iter().find(|request| request.node.as_deref() == Some(node.name()));
        let asked = asked.with_context(|| format!("nothing counted of {}: {requests:#?}", node.name()))?;
        ensure!(asked.pod == Some(format!("api-from-{}", node.name())), "{asked:#?}");
        ensure!(asked.short() == "get /readyz" && asked.code == Some(200), "{asked:#?}");
    }
    Ok(())
}

async fn an_agent_sees_its_nodes_boot(cluster: &Cluster) -> Result<()> {
    let show = json!([{
        "name": "agent",
        "image": PAUSE,
        "imagePullPolicy": "Never",
        "args": ["show", "/run/linkerd-gate/boot_id"],
        "securityContext": {"readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 2102},
    }]);
    apply(cluster, vec![with_boot_id(daemon_set("agent", &show), BOOT_ID_FILE)?]).await?;
    until_agents_show_boots(cluster).await
}

/// Waits until the agent of every node that is on has printed the identifier of the node's present boot.
async fn until_agents_show_boots(cluster: &Cluster) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, "default");
    for node in cluster.nodes().iter().filter(|node| node.is_on()) {
        let of_node = ListParams::default().labels("app=agent").fields(&format!("spec.nodeName={}", node.name()));
        let what = format!("an agent on {}", node.name());
        let agent = cluster::until_any(&pods, &of_node, &what, PATIENCE, |pods| {
            pods.values().find(|pod| is_ready(pod)).map(kube::ResourceExt::name_any)
        })
        .await?;
        let boot_id = node.boot_id()?;
        let shown = async {
            // After a power cut the last boot's container may be taken for ready for a moment.
            while !cluster.logs_of("default", &agent, "agent").await.is_ok_and(|log| log.trim() == boot_id) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, shown).await.with_context(|| format!("{agent} does not show {boot_id}"))?;
    }
    Ok(())
}

/// Its taint is there from its first moment, and it is not Ready before a pod has set up its network.
async fn a_node_joins(cluster: &Cluster) -> Result<()> {
    let [.., node] = cluster.nodes() else { unreachable!("a cluster has nodes") };
    let nodes: Api<NodeObject> = Api::all(cluster.client().await?);
    ensure!(nodes.get_opt(node.name()).await?.is_none(), "{} is there already", node.name());
    cluster.switch_on(node).await?;
    let joined = cluster::until(&nodes, node.name(), "not ready for want of a network", PATIENCE, |node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| {
            let words = condition.message.as_deref().unwrap_or_default();
            condition.type_ == "Ready" && condition.status == "False" && words.contains("network")
        })
    })
    .await?;
    ensure!(has_our_taint(&joined), "not tainted: {:?}", joined.spec);
    let copy = json!([{
        "name": "install",
        "image": PAUSE,
        "imagePullPolicy": "Never",
        "args": ["copy", "/node/pods.conflist", "/node/net.d/10-pods.conflist"],
        "volumeMounts": [{"name": "node", "mountPath": "/node"}],
    }]);
    let mut cni = daemon_set("cni", &copy);
    cni["spec"]["template"]["spec"]["volumes"] = json!([{"name": "node", "hostPath": {"path": NODE_DIRECTORY}}]);
    apply(cluster, vec![cni]).await?;
    cluster.until_ready(node).await?;
    ensure!(has_our_taint(&nodes.get(node.name()).await?), "the taint is gone");
    // It has the images that were loaded before it came.
    until_agents_show_boots(cluster).await
}

async fn all_power_is_cut(cluster: &Cluster, web: &Pod) -> Result<()> {
    cluster.power_cycle().await?;
    ensure!(cluster.nodes().iter().all(cluster::Node::is_on), "a node stayed off");
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, "shop");
    let again = cluster::until(&pods, "web", "ready again", PATIENCE, |pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        is_ready(pod) && statuses.into_iter().all(|status| status.restart_count > 0)
    })
    .await?;
    ensure!(again.uid() == web.uid(), "another pod");
    until_agents_show_boots(cluster).await
}

/// Whoever looks for API servers where Kubernetes says them finds the second one too.
async fn two_api_servers_are_endpoints(cluster: &Cluster) -> Result<()> {
    let second = cluster.second_server(None).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(second.client().await?, "default");
    let expected = BTreeSet::from([cluster.address(), second.address()].map(|address| address.to_string()));
    cluster::until(&slices, "kubernetes", "both API servers", PATIENCE, |slice| {
        slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect::<BTreeSet<_>>() == expected
    })
    .await
    .map(drop)
}

/// A DaemonSet on the nodes' own network, in namespace `default`, which tolerates everything.
fn daemon_set(name: &str, containers: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": containers,
                },
            },
        },
    })
}

async fn apply(cluster: &Cluster, objects: Vec<Value>) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let mut command = Command::new(cluster.kubectl());
    command.args(["apply", "--server-side", "--filename=-"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("kubectl without a stdin")?.write_all(list.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn make_images() -> Result<()> {
    let programs = [(STANDIN, kit_binary("linkerd-standin")?), (KUBECTL, ApiParts::find()?.kubectl)];
    for (name, program) in programs {
        let inside = format!("/{}", program.file_name().context("a program without a name")?.to_string_lossy());
        Image::new(name, Architecture::host()?)
            .with_program(&inside, &program)?
            .with_entrypoint(&[&inside])
            .write(&archive(name))?;
    }
    Ok(())
}

fn archive(image: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(image.replace(['/', ':'], "-") + ".tar")
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_injected(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(|c| c.name == "linkerd-proxy")
}

fn has_our_taint(node: &NodeObject) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == "linkerd-gate/closed")
}
