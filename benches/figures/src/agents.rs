//! Agents as processes, on the nodes of a genuine control plane.
//!
//! The cluster has the manifests in it, and a Linkerd of which only the injector is a server. kwok plays the nodes and the
//! agents' pods; what runs in each of these is a process here, with the token of its pod. So RBAC and the policies that confine
//! agents are in the way of every request that is measured, and the audit log tells one agent's requests from another's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate_kit::cluster::{self, ApiOptions, AuditedRequest, LoopbackAddress};
use linkerd_gate_kit::object::{endpoint_slice, namespace, service, webhook_configuration};
use linkerd_gate_kit::standin::{Calls, Certificates, Fault, Injector, Namespaces, Sidecar, Standin, client};
use nix::unistd::Pid;
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{Process, cpu};

/// Longer than anything here takes; nothing waits for it but a run that fails.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// The agents' namespace, and their service account there.
pub const NAMESPACE: &str = "linkerd-gate";
const ACCOUNT: &str = "system:serviceaccount:linkerd-gate:linkerd-gate-agent";
const CONTROLLERS_ACCOUNT: &str = "system:serviceaccount:linkerd-gate:linkerd-gate-controller";

/// The taint of a closed node, and the annotation that says in which boot it was opened.
const TAINT: &str = "linkerd-gate/closed";
const OPENED_BOOT: &str = "linkerd-gate/opened-boot";

/// Linkerd's Services behind which an agent looks for endpoints.
const BEHIND: [(&str, u16); 2] = [("linkerd-proxy-injector", 8443), ("linkerd-identity", 8080)];

/// Requests of ours at once.
const AT_ONCE: usize = 16;

/// How often an agent is asked what it does not tell by itself.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The first port that an agent is given: below those that the kernel gives to clients.
const FIRST_PORT: u16 = 21000;

/// A cluster with linkerd-gate installed, and a Linkerd that is down at first.
pub struct Harness {
    pub cluster: cluster::Api,
    client: Client,
    pub injector: Standin,
    /// What the injector has answered at once.
    pub calls: Calls,
    _address: LoopbackAddress,
    /// Boot ids and logs.
    directory: tempfile::TempDir,
}

/// An agent at work.
pub struct Agent {
    pub process: Process,
    pub port: u16,
    log: PathBuf,
}

// === impl Stage ===

impl Harness {
    pub async fn set() -> Result<Self> {
        Self::set_with(ApiOptions::default()).await
    }

    /// The same with other options; the audit log is written in any case.
    pub async fn set_with(options: ApiOptions) -> Result<Self> {
        let cluster = cluster::Api::start_with(ApiOptions { audit: true, ..options }).await?;
        cluster.start_kwok().await?;
        let client = cluster.client().await?;
        let address = LoopbackAddress::claim()?;
        let (certificates, calls) = (Certificates::for_injector("linkerd")?, Calls::default());
        // An API server without nodes reaches a Service by its external name alone, and at the Service's port.
        let injector = Injector::new(
            certificates.clone(),
            &Namespaces::any().asking("linkerd-gate-probe").asking("shop"),
            Sidecar::genuine("linkerd"),
        )
        .counting(&calls)
        .serving_on((address.ip(), 443).into())
        .start()
        .await
        .context("the injector's stand-in needs port 443, which takes root")?;
        injector.suffer(Fault::Absent).await?;

        let linkerd = namespace("linkerd").without_admission_webhooks();
        cluster.create_namespace(&serde_json::from_value(linkerd.json())?).await?;
        let by_name = service("linkerd-proxy-injector").external_name(&address.ip().to_string());
        let services: Api<Service> = Api::namespaced(client.clone(), "linkerd");
        services.create(&PostParams::default(), &serde_json::from_value(by_name.json())?).await?;
        let configuration = webhook_configuration("linkerd").ca_bundle(certificates.ca_bundle());
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        webhooks.create(&PostParams::default(), &serde_json::from_value(configuration.json())?).await?;
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "linkerd");
        for (name, port) in BEHIND {
            // Nobody asks there: the API takes no loopback address for an endpoint, and the agents take its word.
            let slice = endpoint_slice(name).not_ready("192.0.2.1").port("port", port);
            slices.create(&PostParams::default(), &serde_json::from_value(slice.json())?).await?;
        }
        let harness = Self { cluster, client, injector, calls, _address: address, directory: tempfile::tempdir()? };
        harness.install().await?;
        Ok(harness)
    }

    /// The files of agent and controller in `deploy/manifests`.
    async fn install(&self) -> Result<()> {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests");
        let mut files: Vec<_> = fs::read_dir(manifests)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|path| path.is_file() && path.file_name().is_some_and(|name| *name < *"60"));
        files.sort();
        let mut command = Command::new(self.cluster.kubectl());
        let files = files.iter().flat_map(|file| [OsStr::new("--filename"), file.as_os_str()]);
        let output = command.arg("apply").args(files).output().await?;
        ensure!(output.status.success(), "cannot install:\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Nodes that were open in an earlier boot, by name, each with the name of its agent's pod.
    pub async fn nodes_of_an_earlier_boot(&self, count: usize) -> Result<BTreeMap<String, String>> {
        let names = self.cluster.fake_nodes(count).await?;
        let nodes: Api<Node> = Api::all(self.client());
        let opened = Patch::Merge(json!({"metadata": {"annotations": {OPENED_BOOT: "an-earlier-boot"}}}));
        stream::iter(&names)
            .map(|name| {
                let (nodes, opened) = (&nodes, &opened);
                async move { nodes.patch(name, &PatchParams::default(), opened).await.map(drop) }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let pods: Api<Pod> = Api::namespaced(self.client(), NAMESPACE);
        let all = |pods: &BTreeMap<String, Pod>| {
            let by_node: BTreeMap<String, String> = pods
                .values()
                .filter_map(|pod| Some((pod.spec.as_ref()?.node_name.clone()?, pod.metadata.name.clone()?)))
                .collect();
            (by_node.len() >= count).then_some(by_node)
        };
        // A controller's pod on the same node has another account.
        let agents = ListParams::default().labels("app.kubernetes.io/component=agent");
        cluster::until_any(&pods, &agents, "an agent's pod on every node", PATIENCE, all).await
    }

    /// Starts the agent of a node, with its pod's token, and waits until it has seen its node and the Lease.
    pub async fn start(&self, binary: &Path, node: &str, pod: &str, port: u16) -> Result<Agent> {
        let boot = self.directory.path().join(format!("{node}.boot"));
        fs::write(&boot, format!("{node}-this-boot\n"))?;
        let mut command = Command::new(binary);
        command.arg("agent").env_clear().env("LINKERD_GATE_BOOT_ID_FILE", boot);
        self.start_role(command, node, pod, port).await
    }

    /// Starts a controller with the token of one of the pods of its Deployment, and waits until it serves. It is ready long before it
    /// has seen everything.
    pub async fn start_controller(&self, binary: &Path, port: u16) -> Result<Agent> {
        let pods: Api<Pod> = Api::namespaced(self.client(), NAMESPACE);
        let controllers = ListParams::default().labels("app.kubernetes.io/component=controller");
        let placed = |pods: &BTreeMap<String, Pod>| {
            pods.values().find_map(|pod| Some((pod.clone(), pod.spec.as_ref()?.node_name.clone()?)))
        };
        let (pod, node) = cluster::until_any(&pods, &controllers, "a controller's pod", PATIENCE, placed).await?;
        let mut command = Command::new(binary);
        command.arg("controller").env_clear().env("LINKERD_GATE_POD_UID", pod.metadata.uid.unwrap_or_default());
        self.start_role(command, &node, &pod.metadata.name.unwrap_or_default(), port).await
    }

    async fn start_role(&self, mut command: Command, node: &str, pod: &str, port: u16) -> Result<Agent> {
        let kubeconfig = self.cluster.kubeconfig_as_pod(NAMESPACE, pod).await?;
        let log = self.directory.path().join(format!("{pod}.log"));
        command
            .env("LINKERD_GATE_NODE_NAME", node)
            .env("LINKERD_GATE_POD_NAME", pod)
            .env("LINKERD_GATE_POD_NAMESPACE", NAMESPACE)
            .env("LINKERD_GATE_KUBECONFIG", kubeconfig)
            .env("LINKERD_GATE_API_SERVERS", format!("{}:6443", self.cluster.address()))
            .env("LINKERD_GATE_IDENTITY", "endpoints")
            .env("LINKERD_GATE_LISTEN_PORT", port.to_string())
            .env("LINKERD_GATE_TERMINATION_LOG", "/nonexistent");
        let process = Process::start_with_log(command, File::create(&log)?)?;
        let mut agent = Agent { process, port, log };
        agent.until("/ready", "ready", |answer| answer.status.is_success()).await?;
        Ok(agent)
    }

    /// Linkerd goes away, and its endpoints with it.
    pub async fn fall(&self) -> Result<()> {
        self.injector.suffer(Fault::Absent).await?;
        self.say_ready(false).await
    }

    /// Linkerd answers again, and its endpoints say so.
    pub async fn rise(&self) -> Result<()> {
        self.injector.recover().await?;
        self.say_ready(true).await
    }

    async fn say_ready(&self, ready: bool) -> Result<()> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client(), "linkerd");
        let patch = json!({"endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": ready}}]});
        for (name, _) in BEHIND {
            slices.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
        Ok(())
    }

    /// Waits until every node is closed, or every node is open.
    pub async fn until_nodes(&self, closed: bool) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client());
        let what = if closed { "every node closed" } else { "every node open" };
        let all = |nodes: &BTreeMap<String, Node>| nodes.values().all(|node| is_closed(node) == closed).then_some(());
        cluster::until_any(&nodes, &ListParams::default(), what, PATIENCE, all).await
    }

    /// What controllers have asked the API server for so far, in the order of arrival.
    pub fn requests_of_controllers(&self) -> Result<Vec<AuditedRequest>> {
        self.cluster.requests_of(CONTROLLERS_ACCOUNT)
    }

    /// What agents have asked the API server for so far, in the order of arrival.
    pub fn requests(&self) -> Result<Vec<AuditedRequest>> {
        self.cluster.requests_of(ACCOUNT)
    }

    /// CPU time that the API server has used so far.
    pub fn api_server_cpu(&self) -> Result<Duration> {
        cpu(self.api_server()?)
    }

    fn api_server(&self) -> Result<Pid> {
        self.cluster.api_server_pid().context("the API server has ended")
    }
}

fn is_closed(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == TAINT)
}

/// So many ports that nobody listens on.
pub fn ports(count: usize) -> Vec<u16> {
    let free = |port: &u16| TcpListener::bind(("::", *port)).is_ok();
    (FIRST_PORT..).filter(free).take(count).collect()
}

// === impl Agent ===

impl Agent {
    /// Where a `wait` of its node asks it.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Waits until so many clients wait for it to open.
    pub async fn until_waiters(&mut self, count: usize) -> Result<()> {
        self.until_metric("linkerd_gate_gate_waiting_requests", count).await
    }

    /// Waits until `/gate` says closed.
    pub async fn until_closed(&mut self) -> Result<()> {
        self.until_metric("linkerd_gate_open", 0).await
    }

    /// Waits until `/gate` says open.
    pub async fn until_open(&mut self) -> Result<()> {
        self.until_metric("linkerd_gate_open", 1).await
    }

    async fn until_metric(&mut self, name: &str, value: usize) -> Result<()> {
        let value = value.to_string();
        let shows = |text: &str| samples(text, name).any(|sample| sample == value);
        self.until("/metrics", &format!("{name} {value}"), |answer| shows(&String::from_utf8_lossy(&answer.body))).await
    }

    async fn until(&mut self, path: &str, what: &str, found: impl Fn(&client::Answer) -> bool) -> Result<()> {
        let asked = async {
            loop {
                self.process.check()?;
                // Refused until it listens.
                if client::get(self.address(), path).await.is_ok_and(|answer| found(&answer)) {
                    return anyhow::Ok(());
                }
                sleep(ASK_EVERY).await;
            }
        };
        let Ok(outcome) = timeout(PATIENCE, asked).await else {
            bail!("{} does not say {what}; it said\n{}", self.address(), self.said());
        };
        outcome.with_context(|| format!("an agent said\n{}", self.said()))
    }

    /// The sum of a metric's samples now, over all values of its label.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let answer = client::get(self.address(), "/metrics").await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        samples(&text, name).map(|sample| sample.parse::<f64>().with_context(|| format!("{name} is {sample}"))).sum()
    }

    /// When its gate opened last, by its own log.
    pub fn opened(&self) -> Result<Instant> {
        let log = self.said();
        said_at(log.lines().rfind(|line| line.contains("gate: open")).context("its gate has not opened")?)
    }

    /// Waits until it has said a line that contains `text`, and returns when it said the first such line.
    pub async fn until_said(&mut self, text: &str) -> Result<Instant> {
        let said = async {
            loop {
                if let Some(line) = self.said().lines().find(|line| line.contains(text)) {
                    return said_at(line);
                }
                self.process.check()?;
                sleep(ASK_EVERY).await;
            }
        };
        timeout(PATIENCE, said).await.with_context(|| format!("it did not say {text:?}"))?
    }

    /// Its log.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// When a line of a log was said.
fn said_at(line: &str) -> Result<Instant> {
    let at = line.split(' ').next().unwrap_or_default();
    Ok(instant(humantime::parse_rfc3339(at).with_context(|| format!("no time in {line:?}"))?))
}

/// A time of the wall's clock, which this machine's processes share, on this process's own.
pub fn instant(time: SystemTime) -> Instant {
    let ago = SystemTime::now().duration_since(time).unwrap_or_default();
    Instant::now().checked_sub(ago).unwrap_or_else(Instant::now)
}

/// The values of a metric, one for each value of its label.
fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        // Not of a metric whose name begins alike.
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_differs_from_one_whose_name_begins_with_it() {
        let text = "a_total{result=\"x y\"} 3\na_total{result=\"z\"} 4\na_total_of 5\n";
        assert_eq!(samples(text, "a_total").collect::<Vec<_>>(), ["3", "4"]);
        assert_eq!(samples(text, "a_total_of").collect::<Vec<_>>(), ["5"]);
    }
}
