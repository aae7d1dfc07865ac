//! The control plane.

use std::{
    fs::Permissions,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::{FutureExt as _, future::LocalBoxFuture};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    api::{LogParams, PostParams},
    client::Body,
};
use nix::unistd::Pid;
use serde_json::json;
use tokio::{
    net::{TcpStream, UnixListener},
    task::{JoinHandle, JoinSet},
};

use super::{
    LoopbackAddress,
    audit::{self, AuditStage, AuditedRequest},
    credentials::Credentials,
    fake,
    process::Process,
    report, sandbox,
    scratch::Scratch,
    watch,
};
use crate::{
    parts::{ApiParts, Release, find_kwok},
    standin::Relay,
};

/// How long one of the programs may take to become usable. Measured: about 3 s for the API server; several of them may
/// be starting on few cores at once.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long an API server that is asked to end may take before it is killed. It stops listening at once, but then waits
/// for its clients' watches for more than 10 s (measured), which no test has to see.
const GRACE: Duration = Duration::from_secs(1);

/// How often a server that has no event to tell of is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The address of Service `default/kubernetes`: the first of [`SERVICES`].
pub(super) const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The range of Service addresses.
pub(super) const SERVICES: &str = "10.96.0.0/16";

/// What may differ from one cluster to another.
#[derive(Clone, Debug, Default)]
pub struct ApiOptions {
    /// Which release the API server is of. Controllers and scheduler are always of [`Release::Current`].
    pub release: Release,
    /// More arguments for the API server, for instance `--feature-gates=…`. Of two equal flags the later one counts.
    pub api_server: Vec<String>,
    /// More arguments for the controller manager.
    pub controller_manager: Vec<String>,
    /// Whether the API server writes an audit log, which [`Api::requests_of`] reads.
    pub audit: bool,
}

/// A genuine control plane: etcd, API server, controller manager, scheduler.
///
/// Dropping it ends everything and removes its data. So does this process's end, whichever way it comes.
pub struct Api {
    address: Ipv4Addr,
    parts: ApiParts,
    options: ApiOptions,
    credentials: Credentials,
    kubectl: PathBuf,
    /// Before those that it asks.
    kwok: OnceLock<Process>,
    processes: Mutex<Processes>,
    /// Held, not read: the claim on the address, in API size.
    _claim: Option<LoopbackAddress>,
    /// Last, since the others write there.
    scratch: Scratch,
    routing: Routing,
}

/// How the API server finds the server behind a Service that a webhook configuration names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Routing {
    /// By the Service's own address or external name: there are no nodes, only the latter leads anywhere.
    Service,
    /// By the addresses in its EndpointSlices: the API server is on no node, so nothing routes Service addresses for it.
    Endpoints,
}

/// One more API server of a cluster: [`Api::second_server`]. Dropping it ends it.
pub struct SecondServer<'a> {
    api: &'a Api,
    address: Ipv4Addr,
    process: Process,
    /// These are held, not read.
    _bridge: Option<Bridge>,
    _claim: Option<LoopbackAddress>,
}

/// A task that ends with this value, and with it the connections that it has passed on.
struct Bridge(JoinHandle<()>);

/// Where an API server is, and what it alone has.
struct Place {
    address: Ipv4Addr,
    /// Of its process and its log.
    name: String,
    /// The beginning of the names of its certificate's files.
    certificate: String,
    arguments: Vec<String>,
}

/// In the order in which they are started; they end in the opposite one.
#[derive(Default)]
struct Processes {
    etcd: Option<Process>,
    api_server: Option<Process>,
    controller_manager: Option<Process>,
    scheduler: Option<Process>,
}

// === impl Api ===

impl Api {
    /// Boots a control plane and waits until it is usable: namespaces get their service accounts.
    pub async fn start() -> Result<Self> {
        Self::start_with(ApiOptions::default()).await
    }

    /// Like [`Api::start`], with other options.
    pub async fn start_with(options: ApiOptions) -> Result<Self> {
        let release = options.release;
        let parts = find_parts(move || ApiParts::find_with(release)).await?;
        let claim = LoopbackAddress::claim()?;
        let api = Self::prepare(claim.ip(), Some(claim), parts, options, Routing::Service, &[])?;
        api.boot().await?;
        Ok(api)
    }

    /// Everything but the processes.
    pub(super) fn prepare(
        address: Ipv4Addr,
        claim: Option<LoopbackAddress>,
        parts: ApiParts,
        options: ApiOptions,
        routing: Routing,
        nodes: &[&str],
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        scratch.directory("log")?;
        let credentials = Credentials::make(scratch.directory("credentials")?, address, KUBERNETES_SERVICE, nodes)?;
        let kubectl = scratch.path().join("kubectl");
        let script = format!(
            "#!/bin/sh\nexport KUBECACHEDIR='{}' KUBECONFIG=\"${{KUBECONFIG:-{}}}\"\nexec '{}' \"$@\"\n",
            scratch.path().join("kubectl-cache").display(),
            credentials.file("admin.kubeconfig").display(),
            parts.kubectl.display(),
        );
        std::fs::write(&kubectl, script)?;
        std::fs::set_permissions(&kubectl, Permissions::from_mode(0o755))?;
        let processes = Mutex::default();
        let kwok = OnceLock::new();
        Ok(Self { address, parts, options, credentials, kubectl, kwok, processes, _claim: claim, scratch, routing })
    }

    pub(super) async fn boot(&self) -> Result<()> {
        let started = Instant::now();
        self.start_processes().await?;
        let accounts = kube::Api::<ServiceAccount>::namespaced(self.client().await?, "default");
        let account = watch::until(&accounts, "default", "made", PATIENCE, |_| true).await;
        self.check()?;
        account.context("the controller manager does not make service accounts")?;
        eprintln!("cluster: control plane at {} usable after {:.1} s", self.address, started.elapsed().as_secs_f64());
        Ok(())
    }

    /// The address that everything of this cluster listens on.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The API server's URL.
    pub fn server(&self) -> &str {
        self.credentials.server()
    }

    /// The certificate authority of the API server's certificate, in PEM.
    pub fn authority_pem(&self) -> &str {
        self.credentials.authority_pem()
    }

    /// The administrator's kubeconfig, for `kubectl` and for programs under test.
    pub fn kubeconfig(&self) -> PathBuf {
        self.credentials.file("admin.kubeconfig")
    }

    /// The genuine `kubectl` of the same release: a script that runs it as the administrator, unless `--kubeconfig` or
    /// `KUBECONFIG` say otherwise, and keeps what it caches out of `~/.kube`.
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// An administrator's client, for the calling async runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        self.credentials.client(self.credentials.admin()).await
    }

    /// A client with the rights of a service account, for the calling async runtime. The token is a genuine one, for ten
    /// minutes, the shortest that the API server issues.
    pub async fn client_as(&self, namespace: &str, service_account: &str) -> Result<kube::Client> {
        let token = self.token(namespace, service_account).await?;
        self.credentials.client(&token).await
    }

    /// A client with the rights of a pod's service account and the token that kubelet would give the pod, which names
    /// the pod and its node: policies see them, and so does [`Api::requests_of`].
    pub async fn client_as_pod(&self, namespace: &str, pod: &str) -> Result<kube::Client> {
        let token = self.token_of_pod(namespace, pod).await?;
        self.credentials.client(&token).await
    }

    /// A kubeconfig file with the rights of a service account, for programs under test. It is removed with the cluster.
    pub async fn kubeconfig_as(&self, namespace: &str, service_account: &str) -> Result<PathBuf> {
        let token = self.token(namespace, service_account).await?;
        self.write_kubeconfig(&format!("{namespace}.{service_account}"), &token, namespace)
    }

    /// A kubeconfig file with the token that kubelet would give a pod: [`Api::client_as_pod`] for programs under test.
    pub async fn kubeconfig_as_pod(&self, namespace: &str, pod: &str) -> Result<PathBuf> {
        let token = self.token_of_pod(namespace, pod).await?;
        self.write_kubeconfig(&format!("{namespace}.pod.{pod}"), &token, namespace)
    }

    /// A copy of a kubeconfig file of this cluster that leads to this address instead: to a [`Relay`] before the API server,
    /// or to a [`SecondServer`].
    pub fn kubeconfig_at(&self, kubeconfig: &Path, address: SocketAddr) -> Result<PathBuf> {
        let shown = || format!("cannot read {}", kubeconfig.display());
        let text = std::fs::read_to_string(kubeconfig).with_context(shown)?;
        let mut config: serde_json::Value = serde_json::from_str(&text).with_context(shown)?;
        config["clusters"][0]["cluster"]["server"] = format!("https://{address}").into();
        let name = kubeconfig.file_stem().unwrap_or_default().to_string_lossy();
        let path = self.credentials.file(&format!("{name}.at-{}-{}.kubeconfig", address.ip(), address.port()));
        std::fs::write(&path, format!("{config:#}\n"))?;
        Ok(path)
    }

    /// A relay before the API server, to be started: whoever asks there is answered by the API server, or late, or never, as
    /// the relay suffers. The API server's certificate is right for it; [`Api::kubeconfig_at`] leads there.
    pub fn relay(&self) -> Relay {
        Relay::to((self.address, super::API_SERVER_PORT).into())
    }

    /// A token of a service account, for the API server itself.
    pub async fn token(&self, namespace: &str, service_account: &str) -> Result<String> {
        self.request_token(namespace, service_account, None).await
    }

    /// The token that kubelet would give a pod, for the API server itself. It dies with the pod.
    pub async fn token_of_pod(&self, namespace: &str, pod: &str) -> Result<String> {
        let pods = kube::Api::<Pod>::namespaced(self.client().await?, namespace);
        let found = pods.get(pod).await.with_context(|| format!("no pod {namespace}/{pod} to ask a token for"))?;
        let account = found.spec.and_then(|spec| spec.service_account_name);
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_owned()),
            uid: found.metadata.uid,
        };
        self.request_token(namespace, account.as_deref().unwrap_or("default"), Some(bound)).await
    }

    /// What `user` has asked the API server for so far, each request once, in the order of arrival, other than what it has not
    /// answered yet. The user of a service account is `system:serviceaccount:NAMESPACE:NAME`.
    ///
    /// A request is there when its answer has arrived as a whole, a watch when it has begun. It needs
    /// [`ApiOptions::audit`].
    pub fn requests_of(&self, user: &str) -> Result<Vec<AuditedRequest>> {
        ensure!(self.options.audit, "this cluster's API server writes no audit log: ApiOptions::audit asks for one");
        audit::requests(&self.audit_directory(), user)
    }

    /// The same, once each request that has been received is answered: what a write changes is seen before its answer.
    ///
    /// Not after [`Api::kill_api_server`]: what it was working on is never answered.
    pub async fn answered_requests_of(&self, user: &str) -> Result<Vec<AuditedRequest>> {
        ensure!(self.options.audit, "this cluster's API server writes no audit log: ApiOptions::audit asks for one");
        let began = Instant::now();
        loop {
            let requests = audit::all_requests(&self.audit_directory(), user)?;
            let waiting = requests.iter().find(|request| request.stage == AuditStage::RequestReceived);
            let Some(waiting) = waiting else { return Ok(requests) };
            ensure!(began.elapsed() < PATIENCE, "the API server has not answered this request: {}", waiting.short());
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The API server's process id, for whoever measures what a load costs it; nothing while it does not run.
    pub fn api_server_pid(&self) -> Option<Pid> {
        self.locked().api_server.as_ref().map(Process::pid)
    }

    fn audit_directory(&self) -> PathBuf {
        self.scratch.path().join("audit")
    }

    fn write_kubeconfig(&self, name: &str, token: &str, namespace: &str) -> Result<PathBuf> {
        let path = self.credentials.file(&format!("{name}.kubeconfig"));
        std::fs::write(&path, self.credentials.kubeconfig(token, namespace))?;
        Ok(path)
    }

    async fn request_token(
        &self,
        namespace: &str,
        service_account: &str,
        bound: Option<BoundObjectReference>,
    ) -> Result<String> {
        let accounts = kube::Api::<ServiceAccount>::namespaced(self.client().await?, namespace);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(4 * 60 * 60),
            bound_object_ref: bound,
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(service_account, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("no token for service account {namespace}/{service_account}"))?;
        Ok(answer.status.context("a TokenRequest without a status")?.token)
    }

    /// Makes a namespace whose name begins with `prefix` and is nobody else's, with these annotations, and waits until
    /// pods can be created in it. Returns its name.
    pub async fn namespace(&self, prefix: &str, annotations: &[(&str, &str)]) -> Result<String> {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let namespace = serde_json::from_value(json!({
            "metadata": {"generateName": format!("{prefix}-"), "annotations": annotations},
        }))?;
        self.create_namespace(&namespace).await
    }

    /// Creates `namespace` and waits until pods can be created in it: until it has the service account that they run
    /// under. Returns its name.
    pub async fn create_namespace(&self, namespace: &Namespace) -> Result<String> {
        let client = self.client().await?;
        let created = kube::Api::<Namespace>::all(client.clone()).create(&PostParams::default(), namespace).await?;
        let name = created.metadata.name.context("a created namespace without a name")?;
        let accounts = kube::Api::<ServiceAccount>::namespaced(client, &name);
        watch::until(&accounts, "default", "made", PATIENCE, |_| true).await?;
        Ok(name)
    }

    /// Makes a Service `name` that leads to a server at `address`, in the test's own process for instance: for the API
    /// server, and where there are nodes for pods. `ports` are pairs of the Service's port and the server's.
    ///
    /// Without nodes the server has to listen on the Service's port: an external name has no other.
    pub async fn expose(&self, namespace: &str, name: &str, address: Ipv4Addr, ports: &[(u16, u16)]) -> Result<()> {
        let client = self.client().await?;
        let service_ports: Vec<_> =
            ports.iter().map(|(port, _)| json!({"name": format!("p{port}"), "port": port})).collect();
        let spec = match self.routing {
            Routing::Service => json!({"type": "ExternalName", "externalName": address, "ports": service_ports}),
            Routing::Endpoints => json!({"ports": service_ports}),
        };
        let service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        kube::Api::<Service>::namespaced(client.clone(), namespace).create(&PostParams::default(), &service).await?;
        if self.routing == Routing::Endpoints {
            let slice_ports: Vec<_> =
                ports.iter().map(|(port, target)| json!({"name": format!("p{port}"), "port": target})).collect();
            let slice = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "linkerd-gate-kit",
                }},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
                "ports": slice_ports,
            }))?;
            let slices = kube::Api::<EndpointSlice>::namespaced(client, namespace);
            slices.create(&PostParams::default(), &slice).await?;
        }
        Ok(())
    }

    /// What a container of a pod has written.
    pub async fn logs_of(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        let pods = kube::Api::<Pod>::namespaced(self.client().await?, namespace);
        let parameters = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        pods.logs(pod, &parameters).await.with_context(|| format!("no log of {container} in {namespace}/{pod}"))
    }

    /// Starts kwok, which plays the kubelets of fake nodes; it keeps doing so for the cluster's life. User `kwok` is its own.
    pub async fn start_kwok(&self) -> Result<()> {
        let program = find_parts(find_kwok).await?;
        let log = self.log("kwok");
        ensure!(self.kwok.get().is_none(), "kwok is running already");
        let process = fake::start(&program, self.address, &self.credentials, &self.scratch, &log)?;
        // Two calls at once: the second one's goes with the error.
        self.kwok.set(process).map_err(|_| anyhow!("kwok is running already"))
    }

    /// Makes so many nodes more, called `fake-0`, `fake-1`, …, and waits until all of them are Ready. Returns the names of
    /// the new ones. Pods on them are Running as soon as they are scheduled, and nothing runs in them.
    ///
    /// It needs [`Api::start_kwok`].
    pub async fn fake_nodes(&self, count: usize) -> Result<Vec<String>> {
        let kwok = self.kwok.get().context("nobody plays nodes: start_kwok() comes first")?;
        let client = self.client().await?;
        tokio::select! {
            biased;
            // Without it no node becomes ready.
            _ = kwok.end() => kwok.check().map(|()| Vec::new()),
            made = fake::make(&client, count, PATIENCE) => made,
        }
    }

    /// Stops the whole control plane at once, as a power cut would; what is in etcd stays.
    pub fn power_off_control_plane(&self) {
        // Dropping them kills them.
        drop(std::mem::take(&mut *self.locked()));
    }

    /// Starts the whole control plane after [`Api::power_off_control_plane`], and waits until the API server is ready.
    /// The controllers start to act at some moment after that.
    pub async fn power_on_control_plane(&self) -> Result<()> {
        if self.locked().etcd.is_some() {
            bail!("the control plane is running already");
        }
        self.start_processes().await
    }

    /// Stops the API server; what it knew stays in etcd. The rest of the control plane keeps running and retries.
    pub async fn stop_api_server(&self) -> Result<()> {
        let process = self.locked().api_server.take();
        match process {
            Some(process) => process.stop(GRACE).await,
            None => bail!("the API server is not running"),
        }
        Ok(())
    }

    /// Kills the API server in the middle of whatever it does; what it knew stays in etcd. [`Api::stop_api_server`] lets it end.
    pub fn kill_api_server(&self) -> Result<()> {
        // Dropping it kills it.
        self.locked().api_server.take().map(drop).context("the API server is not running")
    }

    /// Starts the API server after [`Api::stop_api_server`] or [`Api::kill_api_server`], and waits until it says that it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let process = self.spawn_api_server(&Place::first(self.address))?;
        {
            let mut processes = self.locked();
            if processes.api_server.is_some() {
                bail!("the API server is running already");
            }
            processes.api_server = Some(process);
        }
        self.until_api_server_is_ready(&self.client().await?, "kube-apiserver", || self.check()).await
    }

    /// Starts one more API server on the same etcd, at an address of its own, which takes the same credentials, and waits until
    /// it is ready. It ends when it is dropped.
    ///
    /// `way` is an HTTP proxy that knows `CONNECT` ([`Relay::to_anywhere`](crate::standin::Relay::to_anywhere)): what this
    /// server, and no other, calls webhooks and nodes through. Without one it calls them directly. With one it belongs to the
    /// calling async runtime.
    pub async fn second_server(&self, way: Option<SocketAddr>) -> Result<SecondServer<'_>> {
        let (claim, address) = match self.routing {
            Routing::Service => {
                let claim = LoopbackAddress::claim()?;
                let address = claim.ip();
                (Some(claim), address)
            }
            Routing::Endpoints => (None, sandbox::new_address()?),
        };
        let name = format!("kube-apiserver-{address}");
        self.credentials.sign_server(&name, address, KUBERNETES_SERVICE)?;
        let mut arguments = Vec::new();
        let mut bridge = None;
        if let Some(way) = way {
            // Over TCP an API server asks its proxy for a certificate; over a Unix socket it does not.
            let socket = self.scratch.path().join(format!("egress-{address}.sock"));
            let listener = UnixListener::bind(&socket).with_context(|| format!("no socket {}", socket.display()))?;
            bridge = Some(Bridge(tokio::spawn(pass_on(listener, way))));
            let file = self.credentials.file(&format!("{name}.egress.json"));
            let transport = json!({"uds": {"udsName": socket}});
            let configuration = json!({
                "apiVersion": "apiserver.k8s.io/v1beta1",
                "kind": "EgressSelectorConfiguration",
                "egressSelections": [
                    {"name": "cluster", "connection": {"proxyProtocol": "HTTPConnect", "transport": transport}},
                ],
            });
            std::fs::write(&file, configuration.to_string())?;
            arguments.push(format!("--egress-selector-config-file={}", file.display()));
        }
        let place = Place { address, name: name.clone(), certificate: name.clone(), arguments };
        let process = self.spawn_api_server(&place)?;
        let second = SecondServer { api: self, address, process, _bridge: bridge, _claim: claim };
        self.until_api_server_is_ready(&second.client().await?, &name, || second.process.check()).await?;
        Ok(second)
    }

    /// Waits until the API server that `client` asks, and that logs under `name`, says that it is ready. `check` tells
    /// whether that can still come.
    async fn until_api_server_is_ready(
        &self,
        client: &kube::Client,
        name: &str,
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let ready = async {
            let mut ask = tokio::time::interval(ASK_EVERY);
            loop {
                ask.tick().await;
                check()?;
                let request = http::Request::get("/readyz").body(Body::empty())?;
                // Refused connections and "not ready" alike: the reason is in its log, which the error shows.
                if client.send(request).await.is_ok_and(|response| response.status().is_success()) {
                    return Ok(());
                }
            }
        };
        if let Ok(outcome) = tokio::time::timeout(PATIENCE, ready).await {
            return outcome;
        }
        let words = report::api_server(&self.log(name));
        bail!("the API server is not ready after {} s; {words}", PATIENCE.as_secs())
    }

    /// What a person would ask for after a failure: pods and their states, the logs of their init containers where a
    /// node runs them, recent events, and the last errors of the API server and the others.
    ///
    /// `namespaces` limits it to a test's own; empty means all.
    pub async fn report(&self, namespaces: &[&str]) -> String {
        report::of(self.client().await, namespaces, self.logs()).await
    }

    /// Runs a test; when it fails or panics, [reports](Api::report) on its namespaces, on stderr.
    pub fn reported<'a, T>(
        &'a self,
        namespaces: &'a [&'a str],
        test: impl Future<Output = Result<T>> + 'a,
    ) -> LocalBoxFuture<'a, Result<T>> {
        let test = AssertUnwindSafe(test).catch_unwind();
        // A test's future is large: it holds every object that the test knows at once.
        Box::pin(async move {
            let outcome = test.await;
            if !matches!(outcome, Ok(Ok(_))) {
                eprintln!("{}", self.report(namespaces).await);
            }
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// An error if one of the programs ended that should be running.
    fn check(&self) -> Result<()> {
        let processes = self.locked();
        let Processes { etcd, api_server, controller_manager, scheduler } = &*processes;
        [etcd, api_server, controller_manager, scheduler].into_iter().flatten().try_for_each(Process::check)
    }

    /// The directory of the log files, one for each program.
    pub(super) fn logs(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    /// A panic while it is locked leaves it as good as it was: nothing is half done there.
    fn locked(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start_processes(&self) -> Result<()> {
        let etcd = self.start_etcd()?;
        self.locked().etcd = Some(etcd);
        self.start_api_server().await?;
        let controller_manager = self.start_controller_manager()?;
        let scheduler = self.start_scheduler()?;
        let mut processes = self.locked();
        processes.controller_manager = Some(controller_manager);
        processes.scheduler = Some(scheduler);
        Ok(())
    }

    fn start_etcd(&self) -> Result<Process> {
        let address = self.address;
        let (client, peer) = (format!("http://{address}:2379"), format!("http://{address}:2380"));
        let arguments = [
            format!("--data-dir={}", self.scratch.directory("etcd")?.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // A test's data need not survive a power cut.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        Process::start("etcd", &self.parts.etcd, arguments, &self.log("etcd"))
    }

    fn spawn_api_server(&self, place: &Place) -> Result<Process> {
        let file = |name: &str| self.credentials.file(name).display().to_string();
        let certificate = &place.certificate;
        let mut arguments = vec![
            format!("--etcd-servers=http://{}:2379", self.address),
            format!("--bind-address={}", place.address),
            format!("--advertise-address={}", place.address),
            format!("--secure-port={}", super::API_SERVER_PORT),
            format!("--tls-cert-file={}", file(&format!("{certificate}.crt"))),
            format!("--tls-private-key-file={}", file(&format!("{certificate}.key"))),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", file("service-accounts.pub")),
            format!("--service-account-signing-key-file={}", file("service-accounts.key")),
            format!("--kubelet-client-certificate={}", file("apiserver-kubelet.crt")),
            format!("--kubelet-client-key={}", file("apiserver-kubelet.key")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ];
        match self.routing {
            // Nor may a loopback address be an endpoint of Service default/kubernetes.
            Routing::Service => arguments.push("--endpoint-reconciler-type=none".to_owned()),
            Routing::Endpoints => arguments.push("--enable-aggregator-routing=true".to_owned()),
        }
        if self.options.audit {
            arguments.extend(audit::arguments(&self.scratch.directory("audit")?, &place.name)?);
        }
        arguments.extend(self.options.api_server.iter().chain(&place.arguments).cloned());
        Process::start(&place.name, &self.parts.kube_apiserver, arguments, &self.log(&place.name))
    }

    fn start_controller_manager(&self) -> Result<Process> {
        let file = |name: &str| self.credentials.file(name).display().to_string();
        let mut arguments = vec![
            format!("--kubeconfig={}", file("kube-controller-manager.kubeconfig")),
            "--leader-elect=false".to_owned(),
            // As every installer does: each controller has the rights of its own role only.
            "--use-service-account-credentials=true".to_owned(),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--service-account-private-key-file={}", file("service-accounts.key")),
            // It asks for some thirty tokens when it starts; at the default of 20 requests a second that is 4 s (measured).
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            // Nobody asks for its metrics, and a port would have to be free.
            "--secure-port=0".to_owned(),
        ];
        arguments.extend(self.options.controller_manager.iter().cloned());
        let log = self.log("kube-controller-manager");
        Process::start("kube-controller-manager", &self.parts.kube_controller_manager, arguments, &log)
    }

    fn start_scheduler(&self) -> Result<Process> {
        let arguments = [
            format!("--kubeconfig={}", self.credentials.file("kube-scheduler.kubeconfig").display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        Process::start("kube-scheduler", &self.parts.kube_scheduler, arguments, &self.log("kube-scheduler"))
    }
}

// === impl SecondServer ===

impl SecondServer<'_> {
    /// The address that it listens on, and no other API server does.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its URL.
    pub fn server(&self) -> String {
        format!("https://{}:{}", self.address, super::API_SERVER_PORT)
    }

    /// An administrator's client, for the calling async runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        self.api.credentials.client_at(&self.server(), self.api.credentials.admin()).await
    }
}

// === impl Bridge ===

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Passes on every connection to a server on TCP. Where that refuses one, it ends.
async fn pass_on(listener: UnixListener, server: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // Connections that ended, so that the set does not grow.
            Some(_) = connections.join_next() => {}
            // A new one. An error here is the caller's, which went away.
            accepted = listener.accept() => if let Ok((mut near, _)) = accepted {
                connections.spawn(async move {
                    let mut far = TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
            },
        }
    }
}

// === impl Place ===

impl Place {
    /// Of the API server that every cluster has.
    fn first(address: Ipv4Addr) -> Self {
        let (name, certificate) = ("kube-apiserver".to_owned(), "apiserver".to_owned());
        Self { address, name, certificate, arguments: Vec::new() }
    }
}

// === impl Processes ===

impl Drop for Processes {
    fn drop(&mut self) {
        // The opposite of the order in which they were started: an API server without its etcd does not go quietly.
        drop(self.scheduler.take());
        drop(self.controller_manager.take());
        drop(self.api_server.take());
        drop(self.etcd.take());
    }
}

/// Looks for the parts where blocking for minutes disturbs nobody.
pub(super) async fn find_parts<P: Send + 'static>(find: impl FnOnce() -> Result<P> + Send + 'static) -> Result<P> {
    tokio::task::spawn_blocking(find).await.context("the build of the parts panicked")?
}
