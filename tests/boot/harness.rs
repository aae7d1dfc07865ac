//! A cluster with Linkerd in pods, a shop that asks for it, and linkerd-gate as users install it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt as _};
use linkerd_gate::decide::election::lease_record::VERDICT;
use linkerd_gate::decide::node::taint::{NodeView, OPENED_BOOT, TAINT_KEY};
use linkerd_gate_kit::cluster::{self, BOOT_ID_FILE, Cluster, ClusterOptions};
use linkerd_gate_kit::linkerd::LinkerdDirectory;
use linkerd_gate_kit::object::{ControlPlane, control_plane, deployment, gate, namespace, pod, with_boot_id};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Nothing waits for it but a test that fails.
pub const PATIENCE: Duration = Duration::from_mins(4);

pub const LINKERD: &str = "linkerd";
pub const GATE: &str = "linkerd-gate";
pub const SHOP: &str = "shop";

/// The policy that refuses pods, as its refusals name it.
const GUARD: &str = "linkerd-gate-guard";

/// The pods of each of the shop's Deployments.
pub const REPLICAS: u32 = 3;

/// The images that the nodes have.
pub mod images {
    use std::path::PathBuf;

    use anyhow::{Context as _, Result};
    use linkerd_gate_kit::image::{Architecture, Image, kit_binary, make_image};
    use linkerd_gate_kit::linkerd::LinkerdDirectory;

    /// As `make image` calls it where IMAGE is not set.
    pub const GATE: &str = concat!("registry.example.com/linkerd-gate:", env!("CARGO_PKG_VERSION"));
    pub const STANDIN: &str = "kit.test/linkerd-standin:1";
    pub const STANDIN_PROGRAM: &str = "/linkerd-standin";
    pub const PAUSE: &str = "kit.test/pause:1";
    /// The stand-ins' program under another name, for the workloads' apps alone: containerd's history tells what was made of it.
    pub const APP: &str = "kit.test/workload:1";

    /// The programs' profile: only the release's link-time optimisation is missing, which takes minutes.
    const PROFILE: &str = "quick-release";

    /// Outside the sandbox, where cargo can build: the image as users get it but for [`PROFILE`], and the stand-ins'.
    pub fn make() -> Result<()> {
        // What is wrong with a genuine Linkerd is said before anything is built.
        LinkerdDirectory::from_environment()?;
        make_image(&archive(GATE), PROFILE)?;
        for (name, program) in [(STANDIN, "linkerd-standin"), (APP, "linkerd-standin"), (PAUSE, "pause")] {
            let inside = format!("/{program}");
            Image::new(name, Architecture::host()?)
                .with_program(&inside, &kit_binary(program)?)?
                .with_entrypoint(&[&inside])
                // Containerd takes images of the same content for one, and calls it by either name.
                .with_label("kit.test/name", name)
                .write(&archive(name))?;
        }
        Ok(())
    }

    /// The program that is in the image, where `make image` has built it: for a person's shell.
    pub fn program() -> Result<PathBuf> {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../static");
        let built = std::fs::read_dir(&target).with_context(|| target.display().to_string())?;
        let programs = built.flatten().map(|entry| entry.path().join(PROFILE).join("linkerd-gate"));
        programs
            .filter(|path| path.is_file())
            .max_by_key(|path| path.metadata().and_then(|about| about.modified()).ok())
            .context("no static linkerd-gate")
    }

    pub fn archive(image: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("boot-{}.tar", image.replace(['/', ':'], "-")))
    }
}

/// The cluster.
pub struct Harness {
    pub cluster: Cluster,
}

// === impl Stage ===

impl Harness {
    /// A cluster, with Linkerd in it and a shop whose pods ask for it. No gate yet.
    pub async fn set(options: ClusterOptions, linkerd: impl FnOnce(ControlPlane) -> ControlPlane) -> Result<Self> {
        let cluster = Cluster::start_with(options).await?;
        for image in [images::GATE, images::STANDIN, images::APP, images::PAUSE] {
            cluster.load_image(&images::archive(image)).await?;
        }
        let harness = Self { cluster };
        if let Some(directory) = LinkerdDirectory::from_environment()? {
            directory.install(&harness.cluster).await?;
        } else {
            let plane = control_plane(LINKERD, images::STANDIN, images::STANDIN_PROGRAM)?
                .where_namespace_asks(SHOP)
                .where_namespace_asks("linkerd-gate-probe");
            harness.apply(&linkerd(plane).objects()?).await?;
        }
        for namespace in [namespace(SHOP).asking(), namespace("cert-manager")] {
            harness.cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
        }
        // What else a mesh needs at boot: it stands in the way of nobody, and nobody may stand in its way.
        let cainjector = pod("cainjector").running(images::PAUSE);
        harness.apply(&[deployment("cainjector").in_namespace("cert-manager").of(cainjector).json()]).await?;
        harness.until_linkerd_is_ready().await?;
        Ok(harness)
    }

    /// Runs a scenario; where it fails, it prints what the cluster and the agents said.
    pub async fn reported(&self, scenario: impl Future<Output = Result<()>>) -> Result<()> {
        let outcome = self.cluster.reported(&[SHOP, LINKERD, GATE, "kube-system"], scenario).await;
        if outcome.is_err() {
            for (agent, log) in self.agents_logs().await.unwrap_or_default() {
                eprintln!("--- {agent}\n{log}");
            }
        }
        outcome
    }

    pub async fn api<T>(&self, namespace: &str) -> Result<Api<T>>
    where
        T: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        T::DynamicType: Default,
    {
        Ok(Api::namespaced(self.cluster.client().await?, namespace))
    }

    pub async fn nodes(&self) -> Result<Api<Node>> {
        Ok(Api::all(self.cluster.client().await?))
    }

    pub async fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let mut command = Command::new(self.cluster.kubectl());
        command.args(["apply", "--server-side", "--force-conflicts", "--validate=strict", "--filename=-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("kubectl without a stdin")?.write_all(list.as_bytes()).await?;
        let output = child.wait_with_output().await?;
        ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What a person types, and what it printed.
    pub async fn kubectl(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(self.cluster.kubectl()).args(words).stdin(Stdio::null()).output().await?;
        ensure!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies the agent's files of `deploy/manifests` as they stand, but for the image, for the boot id, which containers of these nodes do not
    /// see, and these variables of the agent.
    pub async fn install_the_gate(&self, variables: &[(&str, &str)]) -> Result<()> {
        let mut objects = Vec::new();
        for path in manifests()? {
            let text = std::fs::read_to_string(&path)?;
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&text).with_context(|| path.display().to_string())?;
            for mut document in documents {
                if document["kind"] == "DaemonSet" {
                    document = with_boot_id(document, BOOT_ID_FILE)?;
                    let containers = &mut document["spec"]["template"]["spec"]["containers"];
                    containers[0]["image"] = images::GATE.into();
                    let environment = containers[0]["env"].as_array_mut().context("no env")?;
                    for (name, value) in variables {
                        environment.retain(|variable| variable["name"] != *name);
                        environment.push(json!({"name": name, "value": value}));
                    }
                }
                objects.push(document);
            }
        }
        self.apply(&objects).await?;
        let daemon_sets: Api<DaemonSet> = self.api(GATE).await?;
        cluster::until(&daemon_sets, GATE, "agents ready everywhere", PATIENCE, |daemon_set| {
            let generation = daemon_set.metadata.generation;
            daemon_set.status.as_ref().is_some_and(|status| {
                status.observed_generation == generation
                    && status.desired_number_scheduled > 0
                    && status.number_ready == status.desired_number_scheduled
                    && status.updated_number_scheduled == Some(status.desired_number_scheduled)
            })
        })
        .await?;
        Ok(())
    }

    /// The shop: one Deployment of pods as anybody writes them, one whose pods have the entry of `wait`.
    pub async fn create_workloads(&self, with_entry: bool) -> Result<()> {
        let mut objects = vec![workload("plain", None)];
        if with_entry {
            objects.push(workload("held", Some(())));
        }
        self.apply(&objects).await?;
        let names: &[&str] = if with_entry { &["plain", "held"] } else { &["plain"] };
        for name in names {
            self.until_available(SHOP, name).await?;
        }
        ensure!(self.unmeshed_and_running().await? == 0, "the shop begins outside the mesh");
        Ok(())
    }

    pub async fn until_available(&self, namespace: &str, name: &str) -> Result<()> {
        let deployments: Api<Deployment> = self.api(namespace).await?;
        cluster::until(&deployments, name, "available", PATIENCE, |deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            let generation = deployment.metadata.generation;
            deployment.status.as_ref().is_some_and(|status| {
                status.observed_generation == generation
                    && status.available_replicas.unwrap_or_default() == wanted.unwrap_or(1)
                    && status.replicas == wanted
            })
        })
        .await?;
        Ok(())
    }

    pub async fn until_linkerd_is_ready(&self) -> Result<()> {
        for name in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
            self.until_available(LINKERD, name).await?;
        }
        Ok(())
    }

    /// Deletes the pods of these namespaces at once, as a drain, an eviction or a crashed node would, so that their owners create
    /// them again now.
    pub async fn recreate_pods(&self, namespaces: &[&str], labels: &str) -> Result<()> {
        for namespace in namespaces {
            let pods: Api<Pod> = self.api(namespace).await?;
            let labelled = ListParams::default().labels(labels);
            pods.delete_collection(&DeleteParams::default().grace_period(0), &labelled).await?;
        }
        Ok(())
    }

    pub async fn pods(&self, namespace: &str) -> Result<Vec<Pod>> {
        Ok(self.api::<Pod>(namespace).await?.list(&ListParams::default()).await?.items)
    }

    /// Waits until a pod that is created in the shop now gets no proxy, or is refused by the guard, by dry-runs: the API server learns a
    /// moment later than its clients that the injector's pods are gone.
    pub async fn until_not_injected(&self) -> Result<()> {
        let pods: Api<Pod> = self.api(SHOP).await?;
        let probe: Pod = serde_json::from_value(pod("is-it-injected").running(images::PAUSE).json())?;
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let gone = async {
            loop {
                match pods.create(&dry_run, &probe).await {
                    Ok(pod) if linkerd_gate::linkerd::meshed(&pod) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(kube::Error::Api(refusal)) if refusal.code == 403 && refusal.message.contains(GUARD) => break,
                    outcome => {
                        outcome?;
                        break;
                    }
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, gone).await.context("pods of the shop are injected still")?
    }

    /// Waits until every pod of the shop is this, and there are as many as there should be.
    pub async fn until_pods(
        &self,
        labels: &str,
        count: u32,
        what: &str,
        condition: impl Fn(&Pod) -> bool,
    ) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = self.api(SHOP).await?;
        let found = |pods: &BTreeMap<String, Pod>| {
            let living = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            let good: Vec<Pod> = living.clone().filter(|pod| condition(pod)).cloned().collect();
            (good.len() == count as usize && living.count() == good.len()).then_some(good)
        };
        cluster::until_any(&pods, &ListParams::default().labels(labels), what, PATIENCE, found).await
    }

    /// How many pods of the shop run their app outside the mesh.
    pub async fn unmeshed_and_running(&self) -> Result<usize> {
        Ok(self.pods(SHOP).await?.iter().filter(|pod| !linkerd_gate::linkerd::meshed(pod) && app_runs(pod)).count())
    }

    pub async fn until_node(&self, name: &str, what: &str, condition: impl Fn(&Node) -> bool) -> Result<Node> {
        cluster::until(&self.nodes().await?, name, what, PATIENCE, condition).await
    }

    /// Waits until every node that is on is open, and was opened in its present boot.
    pub async fn until_all_nodes_are_open(&self) -> Result<()> {
        for node in self.cluster.nodes().iter().filter(|node| node.is_on()) {
            let boot = node.boot_id()?;
            self.until_node(node.name(), "open", |node| {
                !is_closed(node) && opened(node).as_deref() == Some(boot.as_str())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every node that is on is closed.
    pub async fn until_all_nodes_are_closed(&self) -> Result<()> {
        for node in self.cluster.nodes().iter().filter(|node| node.is_on()) {
            self.until_node(node.name(), "closed", is_closed).await?;
        }
        Ok(())
    }

    pub async fn scale(&self, namespace: &str, name: &str, replicas: u32) -> Result<()> {
        let deployments: Api<Deployment> = self.api(namespace).await?;
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch(name, &PatchParams::default(), &patch).await?;
        if replicas == 0 {
            self.recreate_pods(&[namespace], &format!("linkerd.io/proxy-deployment={name}")).await?;
        }
        Ok(())
    }

    /// Waits until the published verdict is this.
    pub async fn until_verdict(&self, what: &str, condition: impl Fn(&str) -> bool) -> Result<()> {
        let leases: Api<Lease> = self.api(GATE).await?;
        cluster::until(&leases, GATE, &format!("the verdict is {what}"), PATIENCE, |lease| {
            lease.metadata.annotations.as_ref().and_then(|all| all.get(VERDICT)).is_some_and(|word| condition(word))
        })
        .await?;
        Ok(())
    }

    pub async fn agents_logs(&self) -> Result<Vec<(String, String)>> {
        let mut logs = Vec::new();
        for pod in self.pods(GATE).await? {
            let name = pod.name_any();
            let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
            let log = self.cluster.logs_of(GATE, &name, "agent").await.unwrap_or_else(|error| error.to_string());
            logs.push((format!("{name} on {node}"), log));
        }
        Ok(logs)
    }

    /// Waits until this many living pods of the namespace have a node; returns how many.
    pub async fn until_scheduled(&self, namespace: &str, count: usize) -> Result<usize> {
        let pods: Api<Pod> = self.api(namespace).await?;
        let found = |pods: &BTreeMap<String, Pod>| {
            let living: Vec<&Pod> = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
            (living.len() == count && living.iter().all(|pod| is_scheduled(pod))).then_some(count)
        };
        cluster::until_any(&pods, &ListParams::default(), &format!("pods of {namespace} have a node"), PATIENCE, found)
            .await
    }

    pub async fn any_node_is_open(&self) -> Result<bool> {
        Ok(self.nodes().await?.list(&ListParams::default()).await?.iter().any(|node| !is_closed(node)))
    }

    /// How often the Events say that a node was closed.
    pub async fn closures(&self, node: &str) -> Result<usize> {
        let events: Api<Event> = self.api("default").await?;
        let about = ListParams::default().fields(&format!("involvedObject.name={node},reason=GateClosed"));
        Ok(events.list(&about).await?.items.len())
    }

    /// Waits until the log of a pod's container has a line with this text.
    pub async fn until_said(&self, pod: &Pod, container: &str, text: &str) -> Result<String> {
        let namespace = pod.namespace().unwrap_or_default();
        let (name, mut last) = (pod.name_any(), String::new());
        let said = async {
            // kubelet refuses a log until the container has started; a log ends with its container.
            loop {
                last = self
                    .cluster
                    .logs_of(&namespace, &name, container)
                    .await
                    .unwrap_or_else(|error| format!("{error:#}"));
                if let Some(line) = last.lines().find(|line| line.contains(text)) {
                    return line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let said = tokio::time::timeout(PATIENCE, said).await;
        said.ok().with_context(|| format!("{container} of {namespace}/{name} does not say {text:?}:\n{last}"))
    }

    /// The agent's pod on a node, once it is there and Ready.
    pub async fn agent_on(&self, node: &str) -> Result<Pod> {
        let pods: Api<Pod> = self.api(GATE).await?;
        let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let found = |pods: &BTreeMap<String, Pod>| pods.values().find(|pod| app_runs(pod)).cloned();
        cluster::until_any(&pods, &on_node, &format!("an agent on {node}"), PATIENCE, found).await
    }

    pub async fn until_agent_said(&self, node: &str, text: &str) -> Result<String> {
        self.until_said(&self.agent_on(node).await?, "agent", text).await
    }

    pub async fn create<T>(&self, api: &Api<T>, json: Value) -> Result<T>
    where
        T: Resource + Clone + DeserializeOwned + Serialize + Debug,
    {
        Ok(api.create(&PostParams::default(), &serde_json::from_value(json)?).await?)
    }
}

/// The agent's files, in the order in which users apply them, without those of controller and admission: what is looked at here
/// are pods that are created bare and stay so.
fn manifests() -> Result<Vec<PathBuf>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.is_file() && path.file_name().is_some_and(|name| *name < *"50"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "there are no manifests");
    Ok(files)
}

fn workload(name: &str, entry: Option<()>) -> Value {
    let mut app = pod(name).running(images::STANDIN).with_args(&["app", "8080"]).serving_on(8080);
    if entry.is_some() {
        app = app.with_gate(gate(images::GATE));
    }
    deployment(name).in_namespace(SHOP).replicas(REPLICAS).of(app).json()
}

pub fn is_closed(node: &Node) -> bool {
    NodeView::of(node).taint(TAINT_KEY).is_some()
}

pub fn opened(node: &Node) -> Option<String> {
    node.metadata.annotations.as_ref()?.get(OPENED_BOOT).cloned()
}

pub fn is_scheduled(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

/// Whether the app itself, which is the first container, runs.
pub fn app_runs(pod: &Pod) -> bool {
    let app = pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|container| container.name.clone());
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().any(|status| {
        Some(&status.name) == app.as_ref() && status.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}
