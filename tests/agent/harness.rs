//! A genuine control plane with Linkerd's objects in it, and agents as processes beside it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::decide::node::taint::{NodeView, OPENED_BOOT, TAINT_KEY};
use linkerd_gate_kit::cluster::{self, Api as Cluster, ApiOptions, AuditedRequest, LoopbackAddress};
use linkerd_gate_kit::object::{endpoint_slice, namespace as namespace_of, service, webhook_configuration};
use linkerd_gate_kit::standin::{Certificates, Fault, Injector, Namespaces, Sidecar, Standin};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Nothing waits for it but a test that fails.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The namespace of the agents.
pub const GATE: &str = "linkerd-gate";

/// Where dry-run pods are sent to.
pub const PROBE: &str = "linkerd-gate-probe";

/// What a dry-run pod says that came back bare.
pub const BARE: &str = "injection not ready: a dry-run pod came back without Linkerd's proxy";

/// The cluster, and a Linkerd whose injector is a server in this process, absent at first, as after a boot.
///
/// API validation takes no loopback address in an EndpointSlice, so the injector's and identity's say one that nobody asks: the
/// API server reaches the injector by an external name, and the agents take the word of identity's endpoints.
pub struct Harness {
    pub cluster: Cluster,
    pub injector: Standin,
    /// What the injector knows of namespaces.
    pub namespaces: Namespaces,
    certificates: Certificates,
    address: LoopbackAddress,
    /// The last byte of the next address that an endpoint gets.
    endpoints: AtomicU8,
}

/// An agent's process.
pub struct Agent {
    child: Child,
    pub port: u16,
    lines: watch::Receiver<Vec<String>>,
    /// How many of its lines [`Agent::until_says`] has passed.
    lines_passed: AtomicUsize,
    _boot_id: tempfile::NamedTempFile,
}

/// What an agent, or another role, starts with.
pub struct Settings {
    role: &'static str,
    variables: BTreeMap<String, String>,
    boot: String,
    port: Option<u16>,
}

pub fn agent_of(node: &str, boot: &str) -> Settings {
    let settings = Settings { role: "agent", variables: BTreeMap::new(), boot: boot.to_owned(), port: None };
    settings
        .with("NODE_NAME", node)
        .with("POD_NAME", &format!("linkerd-gate-{node}"))
        .with("POD_NAMESPACE", GATE)
        .with("IDENTITY", "endpoints")
}

/// A replica of the controller, whose pod has this name.
pub fn controller(pod: &str) -> Settings {
    let settings = Settings { role: "controller", variables: BTreeMap::new(), boot: "none".to_owned(), port: None };
    settings
        .with("NODE_NAME", "node-of-the-controller")
        .with("POD_NAME", pod)
        .with("POD_UID", &format!("uid-of-{pod}"))
        .with("POD_NAMESPACE", GATE)
        .with("IDENTITY", "endpoints")
}

pub fn object<T: DeserializeOwned>(json: Value) -> Result<T> {
    serde_json::from_value(json).context("a builder made something that is no such object")
}

// === impl Stage ===

impl Harness {
    /// With linkerd-gate installed.
    pub async fn set() -> Result<Self> {
        Self::set_with(ApiOptions::default()).await
    }

    /// The same with other options; the audit log is written in any case.
    pub async fn set_with(options: ApiOptions) -> Result<Self> {
        let harness = Self::before_installation_with(options).await?;
        harness.install().await?;
        Ok(harness)
    }

    /// Without our DaemonSet.
    pub async fn before_installation() -> Result<Self> {
        Self::before_installation_with(ApiOptions::default()).await
    }

    /// The same with other options.
    pub async fn before_installation_with(options: ApiOptions) -> Result<Self> {
        let cluster = Cluster::start_with(ApiOptions { audit: true, ..options }).await?;
        let address = LoopbackAddress::claim()?;
        let certificates = Certificates::for_injector("linkerd")?;
        let namespaces = Namespaces::any().asking(PROBE).asking("shop");
        let injector = Injector::new(certificates.clone(), &namespaces, Sidecar::genuine("linkerd"))
            .serving_on((address.ip(), 443).into())
            .start()
            .await?;
        injector.suffer(Fault::Absent).await?;

        let harness = Self { cluster, injector, namespaces, certificates, address, endpoints: AtomicU8::new(1) };
        for namespace in ["linkerd", GATE] {
            let namespace = namespace_of(namespace).without_admission_webhooks();
            harness.cluster.create_namespace(&object(namespace.json())?).await?;
        }
        harness.create_probe_namespace().await?;
        let behind = service("linkerd-proxy-injector").external_name(&harness.address.ip().to_string());
        harness.create::<Service>("linkerd", behind.json()).await?;
        harness.create_webhook().await?;
        for (name, port) in [("linkerd-proxy-injector", 8443), ("linkerd-identity", 8080)] {
            let slice = endpoint_slice(name).ready("192.0.2.1").port("port", port);
            harness.create::<EndpointSlice>("linkerd", slice.json()).await?;
        }
        Ok(harness)
    }

    pub async fn install(&self) -> Result<DaemonSet> {
        self.create(GATE, daemon_set()).await
    }

    pub async fn create_probe_namespace(&self) -> Result<()> {
        let namespace = namespace_of(PROBE).asking().privileged();
        self.cluster.create_namespace(&object(namespace.json())?).await?;
        Ok(())
    }

    /// Linkerd's webhook configuration.
    pub async fn create_webhook(&self) -> Result<()> {
        let configuration = webhook_configuration("linkerd").ca_bundle(self.certificates.ca_bundle());
        self.webhooks().await?.create(&PostParams::default(), &object(configuration.json())?).await?;
        Ok(())
    }

    pub async fn webhooks(&self) -> Result<Api<MutatingWebhookConfiguration>> {
        Ok(Api::all(self.cluster.client().await?))
    }

    /// Gives the injector another endpoint in place of the one before. As after a restart of its pod, a prover looks at once.
    pub async fn move_injector(&self, ready: bool) -> Result<()> {
        // Of 254 addresses for documentation; the next one is always another.
        let address = format!("192.0.2.{}", self.endpoints.fetch_add(1, Ordering::Relaxed) % 254 + 1);
        let endpoints = json!({"endpoints": [{"addresses": [address], "conditions": {"ready": ready}}]});
        let slices: Api<EndpointSlice> = Api::namespaced(self.cluster.client().await?, "linkerd");
        slices.patch("linkerd-proxy-injector", &PatchParams::default(), &Patch::Merge(endpoints)).await?;
        Ok(())
    }

    pub async fn create<T>(&self, namespace: &str, json: Value) -> Result<T>
    where
        T: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + Debug,
        T::DynamicType: Default,
    {
        let api: Api<T> = Api::namespaced(self.cluster.client().await?, namespace);
        Ok(api.create(&PostParams::default(), &object(json)?).await?)
    }

    pub async fn nodes(&self) -> Result<Api<Node>> {
        Ok(Api::all(self.cluster.client().await?))
    }

    pub async fn leases(&self) -> Result<Api<Lease>> {
        Ok(Api::namespaced(self.cluster.client().await?, GATE))
    }

    /// A node that was opened in an earlier boot: what an agent finds after every reboot.
    pub async fn node_of_an_earlier_boot(&self, name: &str) -> Result<Node> {
        self.node(name, json!({"linkerd-gate/opened-boot": "an-earlier-boot"})).await
    }

    pub async fn node(&self, name: &str, annotations: Value) -> Result<Node> {
        let node = json!({"metadata": {"name": name, "annotations": annotations}});
        Ok(self.nodes().await?.create(&PostParams::default(), &object(node)?).await?)
    }

    pub async fn annotate_node(&self, name: &str, key: &str, value: Option<&str>) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.nodes().await?.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Writes a person's word on the Lease.
    pub async fn annotate_lease(&self, key: &str, value: Option<&str>) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.leases().await?.patch(GATE, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Waits until the Lease is like that.
    pub async fn until_lease(&self, what: &str, condition: impl Fn(&Lease) -> bool) -> Result<Lease> {
        cluster::until(&self.leases().await?, GATE, what, PATIENCE, condition).await
    }

    /// Waits for an Event on a node, and returns it.
    pub async fn until_event(&self, node: &str, reason: &str) -> Result<Event> {
        let events: Api<Event> = Api::namespaced(self.cluster.client().await?, "default");
        let only = ListParams::default().fields(&format!("involvedObject.kind=Node,involvedObject.name={node}"));
        let found =
            |all: &BTreeMap<String, Event>| all.values().find(|event| event.reason.as_deref() == Some(reason)).cloned();
        cluster::until_any(&events, &only, &format!("event {reason} on {node}"), PATIENCE, found).await
    }

    /// Sends a dry-run pod to the probe namespace as the administrator, again and again until what comes of it is like
    /// that: policies and quotas count for an API server a moment after they were written.
    pub async fn until_dry_run(&self, what: &str, condition: impl Fn(&kube::Result<Pod>) -> bool) -> Result<()> {
        self.until_dry_run_in(PROBE, what, condition).await
    }

    /// The same in another namespace, which the policies for pods do not leave out.
    pub async fn until_dry_run_in(
        &self,
        namespace: &str,
        what: &str,
        condition: impl Fn(&kube::Result<Pod>) -> bool,
    ) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, namespace);
        let pod: Pod = object(linkerd_gate_kit::object::pod("is-it-so").json())?;
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let asking = async { while !condition(&pods.create(&dry_run, &pod).await) {} };
        tokio::time::timeout(PATIENCE, asking).await.with_context(|| format!("dry-run pods never were {what}"))
    }

    /// What an agent with this account asked for, once all of it is answered.
    pub async fn requests_of(&self, account: &str) -> Result<Vec<AuditedRequest>> {
        self.cluster.answered_requests_of(&format!("system:serviceaccount:{GATE}:{account}")).await
    }

    /// The same, without those that are not answered yet.
    pub fn requests_so_far_of(&self, account: &str) -> Result<Vec<AuditedRequest>> {
        self.cluster.requests_of(&format!("system:serviceaccount:{GATE}:{account}"))
    }

    pub async fn until_node(&self, name: &str, what: &str, condition: impl Fn(&Node) -> bool) -> Result<Node> {
        cluster::until(&self.nodes().await?, name, what, PATIENCE, condition).await
    }

    /// Starts an agent with the rights of the administrator.
    pub fn start(&self, settings: Settings) -> Result<Agent> {
        let kubeconfig = self.cluster.kubeconfig();
        self.start_as(settings, &kubeconfig)
    }

    /// Starts an agent with all rights and an account of its own, by which [`Stage::requests_of`] tells it from others.
    pub async fn start_apart(&self, settings: Settings, account: &str) -> Result<Agent> {
        let kubeconfig = self.account(account).await?;
        self.start_as(settings, &kubeconfig)
    }

    /// A service account with all rights; returns its kubeconfig.
    pub async fn account(&self, account: &str) -> Result<PathBuf> {
        let client = self.cluster.client().await?;
        self.create::<ServiceAccount>(GATE, json!({"metadata": {"name": account}})).await?;
        let binding = json!({
            "metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": GATE}],
        });
        let bindings: Api<ClusterRoleBinding> = Api::all(client);
        bindings.create(&PostParams::default(), &object(binding)?).await?;
        // RBAC follows a change a moment later.
        let nodes: Api<Node> = Api::all(self.cluster.client_as(GATE, account).await?);
        let asking = async { while nodes.list(&ListParams::default()).await.is_err() {} };
        tokio::time::timeout(PATIENCE, asking).await.context("the account has no rights")?;
        self.cluster.kubeconfig_as(GATE, account).await
    }

    pub fn start_as(&self, settings: Settings, kubeconfig: &Path) -> Result<Agent> {
        let Settings { role, variables, boot, port } = settings;
        let boot_id = tempfile::NamedTempFile::new()?;
        std::fs::write(boot_id.path(), format!("{boot}\n"))?;
        let port = port.map_or_else(free_port, Ok)?;
        let boot_id_file = ("LINKERD_GATE_BOOT_ID_FILE", boot_id.path().display().to_string());
        let defaults = [
            ("LINKERD_GATE_KUBECONFIG", kubeconfig.display().to_string()),
            ("LINKERD_GATE_LISTEN_PORT", port.to_string()),
            ("LINKERD_GATE_API_SERVERS", format!("{}:6443", self.cluster.address())),
            ("LINKERD_GATE_TERMINATION_LOG", "/nonexistent".to_owned()),
        ];
        let mut child = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
            .arg(role)
            .env_clear()
            .envs(defaults)
            .envs((role == "agent").then_some(boot_id_file))
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stderr = BufReader::new(child.stderr.take().context("no standard error")?).lines();
        let (sink, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                sink.send_modify(|lines| lines.push(line));
            }
        });
        Ok(Agent { child, port, lines, lines_passed: AtomicUsize::new(0), _boot_id: boot_id })
    }
}

/// Free a moment ago: nobody else takes ports of this range in between.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub fn is_closed(node: &Node) -> bool {
    NodeView::of(node).taint(TAINT_KEY).is_some()
}

/// Which boot of it was opened.
pub fn opened(node: &Node) -> Option<String> {
    node.metadata.annotations.as_ref()?.get(OPENED_BOOT).cloned()
}

/// The node of the Lease's holder; nothing where it has none.
pub fn holder(lease: &Lease) -> Option<String> {
    let identity = lease.spec.as_ref()?.holder_identity.as_deref()?;
    identity.split('/').next().filter(|node| !node.is_empty()).map(str::to_owned)
}

/// The agents' DaemonSet: its age is what counts, it runs nowhere.
fn daemon_set() -> Value {
    json!({
        "metadata": {"name": GATE},
        "spec": {
            "selector": {"matchLabels": {"app": GATE}},
            "template": {
                "metadata": {"labels": {"app": GATE}},
                "spec": {
                    "nodeSelector": {"nowhere": "true"},
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "agent", "image": "gate:1"}],
                },
            },
        },
    })
}

// === impl Settings ===

impl Settings {
    /// Sets `LINKERD_GATE_{name}`.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(format!("LINKERD_GATE_{name}"), value.to_owned());
        self
    }

    /// Listens there, and not on a port of its own.
    pub fn listening_on(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }
}

// === impl Agent ===

impl Agent {
    /// Waits until it has said a line that contains `text`, and returns it.
    pub async fn until_said(&self, text: &str) -> Result<String> {
        let mut lines = self.lines.clone();
        let find = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let said = tokio::time::timeout(PATIENCE, async {
            lines.wait_for(|lines| find(lines).is_some()).await.map(|lines| find(&lines))
        })
        .await;
        match said {
            Ok(Ok(Some(line))) => Ok(line),
            _ => bail!("it does not say {text:?}:\n{}", self.said()),
        }
    }

    /// Waits until it says a line that contains `text`, after the last line that was waited for like this, and returns it.
    pub async fn until_says(&self, text: &str) -> Result<String> {
        let mut lines = self.lines.clone();
        let from = self.lines_passed.load(Ordering::Relaxed);
        let find = |lines: &Vec<String>| lines.iter().skip(from).position(|line| line.contains(text));
        let said = tokio::time::timeout(PATIENCE, lines.wait_for(|lines| find(lines).is_some())).await;
        let place = match said {
            Ok(Ok(lines)) => find(&lines),
            _ => None,
        };
        let Some(place) = place else { bail!("it does not say {text:?} after its first {from} lines") };
        self.lines_passed.store(from + place + 1, Ordering::Relaxed);
        Ok(self.lines.borrow()[from + place].clone())
    }

    /// How many of its lines so far contain `text`.
    pub fn times_said(&self, text: &str) -> usize {
        self.lines.borrow().iter().filter(|line| line.contains(text)).count()
    }

    pub fn said(&self) -> String {
        self.lines.borrow().join("\n")
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().context("it has ended")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Ends it as kubelet does, and returns its exit code.
    pub async fn terminate(&mut self) -> Result<i32> {
        self.signal(Signal::SIGTERM)?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        // Its last lines are read to the end before anybody asks for them.
        let mut lines = self.lines.clone();
        while lines.changed().await.is_ok() {}
        status.code().with_context(|| format!("it was killed:\n{}", self.said()))
    }

    /// Ends it as a power cut does.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Its resident memory, in KiB.
    pub fn resident(&self) -> Result<u64> {
        let pid = self.child.id().context("it has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The sum of a metric's values, over all its labels that contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> Result<u64> {
        let answer = linkerd_gate_kit::standin::client::get(([127, 0, 0, 1], self.port).into(), "/metrics").await?;
        let text = String::from_utf8(answer.body.to_vec())?;
        let of = |line: &str| {
            let (key, value) = line.rsplit_once(' ')?;
            (key.starts_with(name) && key.contains(label)).then(|| value.parse::<u64>().ok())?
        };
        Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(of).sum())
    }

    /// Asks `/gate`, which has to answer with this status, and returns the body.
    pub async fn answers(&self, status: u16) -> Result<Value> {
        let (answered, answer) = self.gate("").await?;
        ensure!(answered == status && answer["open"] == (status == 200), "not {status} but {answered}: {answer}");
        Ok(answer)
    }

    /// Asks `/gate`: the status and the body.
    pub async fn gate(&self, query: &str) -> Result<(u16, Value)> {
        let address = ([127, 0, 0, 1], self.port).into();
        let answer = linkerd_gate_kit::standin::client::get(address, &format!("/gate{query}")).await?;
        ensure!(!answer.body.is_empty(), "an empty body");
        Ok((answer.status.as_u16(), serde_json::from_slice(&answer.body)?))
    }
}

/// What the agents logged, for the error of a test that fails.
pub fn logs_of<'a>(agents: impl IntoIterator<Item = &'a Agent>) -> String {
    let all: Vec<String> = agents.into_iter().map(Agent::said).collect();
    all.join("\n---\n")
}
