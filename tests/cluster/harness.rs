//! The cluster that the tests share, and a Linkerd of stand-ins for each of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt as _};
use linkerd_gate_kit::cluster::{self, Cluster, ContainerEvent, sandbox};
use linkerd_gate_kit::linkerd::{self, LinkerdDirectory};
use linkerd_gate_kit::object::{
    Gate, Pod as PodBuilder, endpoint_slice, gate, namespace, service, webhook_configuration,
};
use linkerd_gate_kit::standin::{Certificates, Fault, Identity, Injector, Namespaces, Sidecar, Standin};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Nothing waits for it but a test that fails.
pub const PATIENCE: Duration = Duration::from_mins(4);

/// The cluster.
pub struct Harness {
    pub cluster: Cluster,
}

/// A Linkerd of one test's own: its namespace, its services, its webhook configuration, and a namespace that asks for it.
/// Injector and identity are absent at first, as after a boot.
pub struct Linkerd<'a> {
    harness: &'a Harness,
    /// Linkerd's namespace.
    pub namespace: String,
    /// The namespace whose pods ask.
    pub shop: String,
    source: Source,
}

/// What injector and identity are.
enum Source {
    /// Servers in this process.
    Played { injector: Box<Standin>, identity: Box<Standin> },
    /// Deployments of a genuine Linkerd, which all tests share, one after the other.
    Genuine,
}

/// The images that the node has.
pub mod images {
    use std::path::PathBuf;

    use anyhow::Result;
    use linkerd_gate_kit::image::{Architecture, Image, kit_binary};

    /// As `make image` calls it where IMAGE is not set.
    pub const GATE: &str = concat!("registry.example.com/linkerd-gate:", env!("CARGO_PKG_VERSION"));
    pub const STANDIN: &str = "kit.test/linkerd-standin:1";
    /// The same under another name, for apps that no test lets start: containerd's history has it once at most by mistake.
    pub const NEVER: &str = "kit.test/never-started:1";
    pub const STANDIN_PROGRAM: &str = "/linkerd-standin";

    /// What `make image` writes for the tests.
    pub fn gate_archive() -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("linkerd-gate.tar")
    }

    pub fn standin_archive() -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("linkerd-standin.tar")
    }

    pub fn never_archive() -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("never-started.tar")
    }

    pub fn make_standin() -> Result<()> {
        let program = kit_binary("linkerd-standin")?;
        for (name, archive) in [(STANDIN, standin_archive()), (NEVER, never_archive())] {
            Image::new(name, Architecture::host()?)
                .with_program(STANDIN_PROGRAM, &program)?
                .with_entrypoint(&[STANDIN_PROGRAM])
                // Containerd takes images of the same content for one, and calls it by either name.
                .with_label("kit.test/name", name)
                .write(&archive)?;
        }
        Ok(())
    }
}

// === impl Stage ===

impl Harness {
    pub async fn set() -> Result<Self> {
        let cluster = Cluster::start().await?;
        cluster.load_image(&images::gate_archive()).await?;
        cluster.load_image(&images::standin_archive()).await?;
        cluster.load_image(&images::never_archive()).await?;
        if let Some(directory) = LinkerdDirectory::from_environment()? {
            directory.install(&cluster).await?;
        }
        Ok(Self { cluster })
    }

    /// A Linkerd called `name`, and a namespace that asks for it.
    pub async fn linkerd(&self, name: &str) -> Result<Linkerd<'_>> {
        let shop = format!("shop-{name}");
        self.cluster.create_namespace(&object(namespace(&shop).asking().labelled("test", name).json())?).await?;
        if LinkerdDirectory::from_environment()?.is_some() {
            let namespace = linkerd::NAMESPACE.to_owned();
            let linkerd = Linkerd { harness: self, namespace, shop, source: Source::Genuine };
            linkerd.stop().await?;
            return Ok(linkerd);
        }
        let namespace = if name == "linkerd" { name.to_owned() } else { format!("linkerd-{name}") };
        self.cluster
            .create_namespace(&object(self::namespace(&namespace).without_admission_webhooks().json())?)
            .await?;

        let certificates = Certificates::for_injector(&namespace)?;
        let sidecar = Sidecar::standin(&namespace, images::STANDIN, images::STANDIN_PROGRAM);
        let address = sandbox::new_address()?;
        let injector = Injector::new(certificates.clone(), &Namespaces::none().asking(&shop), sidecar)
            .serving_on((address, 8443).into())
            .admin_on((address, 9995).into())
            .start()
            .await?;
        injector.suffer(Fault::Absent).await?;
        self.cluster.expose(&namespace, "linkerd-proxy-injector", address, &[(443, 8443)]).await?;

        let address = sandbox::new_address()?;
        let identity =
            Identity::new().serving_on((address, 8080).into()).admin_on((address, 9990).into()).start().await?;
        identity.suffer(Fault::Absent).await?;
        let headless = service("linkerd-identity-headless").headless().port("grpc", 8080, 8080);
        self.create::<Service>(&namespace, headless.json()).await?;
        let slice = endpoint_slice("linkerd-identity-headless").ready(&address.to_string()).port("grpc", 8080);
        self.create::<EndpointSlice>(&namespace, slice.json()).await?;

        let webhook = webhook_configuration(&namespace)
            .ca_bundle(certificates.ca_bundle())
            .only_namespaces_labelled("test", name);
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.cluster.client().await?);
        webhooks.create(&PostParams::default(), &object(webhook.json())?).await?;

        let source = Source::Played { injector: Box::new(injector), identity: Box::new(identity) };
        let linkerd = Linkerd { harness: self, namespace, shop, source };
        linkerd.until_called().await?;
        Ok(linkerd)
    }

    pub async fn create<T>(&self, namespace: &str, json: Value) -> Result<T>
    where
        T: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug,
        T::DynamicType: Default,
    {
        let api: Api<T> = self.api(namespace).await?;
        Ok(api.create(&PostParams::default(), &object(json)?).await?)
    }

    pub async fn api<T>(&self, namespace: &str) -> Result<Api<T>>
    where
        T: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        T::DynamicType: Default,
    {
        Ok(Api::namespaced(self.cluster.client().await?, namespace))
    }

    /// Waits for a pod of `namespace` with the label `app={app}` that satisfies `condition`.
    pub async fn until_pod(
        &self,
        namespace: &str,
        app: &str,
        what: &str,
        condition: impl Fn(&Pod) -> bool,
    ) -> Result<Pod> {
        let pods: Api<Pod> = self.api(namespace).await?;
        let labelled = ListParams::default().labels(&format!("app={app}"));
        let found = |pods: &BTreeMap<String, Pod>| pods.values().find(|pod| condition(pod)).cloned();
        cluster::until_any(&pods, &labelled, &format!("{app}: {what}"), PATIENCE, found).await
    }

    /// Follows the log of a running container until a line contains `text`, and returns that line.
    pub async fn until_log(&self, pod: &Pod, container: &str, text: &str) -> Result<String> {
        let namespace = pod.namespace().unwrap_or_default();
        let name = pod.name_any();
        let pods: Api<Pod> = self.api(&namespace).await?;
        cluster::until(&pods, &name, &format!("{container} started"), PATIENCE, |pod| {
            status(pod, container).and_then(|status| status.state.as_ref()).is_some_and(has_started)
        })
        .await?;
        let mut seen = Vec::new();
        let read = async {
            // A log ends with its container; where that restarts in place, the next one goes on.
            loop {
                let follow = LogParams { container: Some(container.to_owned()), follow: true, ..LogParams::default() };
                let mut lines = pods.log_stream(&name, &follow).await?.lines();
                while let Some(line) = lines.try_next().await? {
                    if line.contains(text) {
                        return anyhow::Ok(Some(line));
                    }
                    seen.push(line);
                }
                let now = pods.get(&name).await?;
                if status(&now, container).is_none_or(|status| status.state.as_ref().is_some_and(is_over)) {
                    return Ok(None);
                }
            }
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => bail!("{container} of {name} ended without saying {text:?}:\n{}", seen.join("\n")),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => bail!("{container} of {name} does not say {text:?}:\n{}", seen.join("\n")),
        }
    }

    /// That kubelet never started the app of this pod, and containerd has no container of it.
    pub async fn ensure_never_started(&self, pod: &Pod, container: &str) -> Result<()> {
        let namespace = pod.namespace().unwrap_or_default();
        let now = self.api::<Pod>(&namespace).await?.get(&pod.name_any()).await?;
        ensure!(now.uid() == pod.uid(), "{} is another pod now", pod.name_any());
        if let Some(status) = status(&now, container) {
            ensure!(
                status.container_id.is_none()
                    && status.restart_count == 0
                    && status
                        .last_state
                        .as_ref()
                        .is_none_or(|last| { last.terminated.is_none() && last.running.is_none() }),
                "kubelet says that {container} was started: {status:#?}"
            );
        }
        let containers = self.cluster.node().containers()?;
        let of_this = containers
            .iter()
            .find(|found| found.namespace == namespace && found.pod == pod.name_any() && found.name == container);
        ensure!(of_this.is_none(), "containerd has it: {of_this:#?}");
        self.ensure_nothing_slipped_through()
    }

    /// That containerd never made a container of [`images::NEVER`], in any test so far, on any boot.
    pub fn ensure_nothing_slipped_through(&self) -> Result<()> {
        let events = self.cluster.node().container_events()?;
        let made = |wanted: &str| {
            events.iter().any(|event| matches!(event, ContainerEvent::Created { image, .. } if image == wanted))
        };
        ensure!(made(images::GATE), "containerd's history does not even have our own containers: it proves nothing");
        ensure!(!made(images::NEVER), "containerd's history has a container of an app that was to be held");
        Ok(())
    }
}

// === impl Linkerd ===

impl Linkerd<'_> {
    /// The documented entry, pointed to this Linkerd.
    pub fn gate(&self) -> Gate {
        let entry = gate(images::GATE);
        match self.namespace.as_str() {
            "linkerd" => entry,
            other => entry.variable("LINKERD_GATE_LINKERD_NAMESPACE", other),
        }
    }

    /// A pod with an app that serves, held by `gate`.
    pub fn app(&self, name: &str, gate: Gate) -> PodBuilder {
        linkerd_gate_kit::object::pod(name)
            .in_namespace(&self.shop)
            .running(images::STANDIN)
            .with_args(&["app", "8080"])
            .with_gate(gate)
    }

    /// A pod whose app no test lets start.
    pub fn never(&self, name: &str, gate: Gate) -> PodBuilder {
        self.app(name, gate).running(images::NEVER)
    }

    /// Injector and identity begin to answer.
    pub async fn start(&self) -> Result<()> {
        self.start_identity().await?;
        match &self.source {
            Source::Played { injector, .. } => Ok(injector.recover().await?),
            Source::Genuine => self.scale("linkerd-proxy-injector", 1).await,
        }
    }

    /// Identity alone.
    pub async fn start_identity(&self) -> Result<()> {
        match &self.source {
            Source::Played { identity, .. } => Ok(identity.recover().await?),
            Source::Genuine => self.scale("linkerd-identity", 1).await,
        }
    }

    /// The injector alone. A genuine one has to have been certified, so identity is there for a while.
    pub async fn start_injector(&self) -> Result<()> {
        match &self.source {
            Source::Played { injector, .. } => Ok(injector.recover().await?),
            Source::Genuine => {
                self.start().await?;
                self.scale("linkerd-identity", 0).await
            }
        }
    }

    /// As after a power cut: neither answers, open connections are gone.
    pub async fn stop(&self) -> Result<()> {
        match &self.source {
            Source::Played { injector, identity } => {
                injector.suffer(Fault::Absent).await?;
                Ok(identity.suffer(Fault::Absent).await?)
            }
            Source::Genuine => {
                self.scale("linkerd-proxy-injector", 0).await?;
                self.scale("linkerd-identity", 0).await
            }
        }
    }

    /// Waits until so many pods of a genuine Linkerd's Deployment are ready, and there are no others.
    async fn scale(&self, name: &str, replicas: u32) -> Result<()> {
        let deployments: Api<Deployment> = self.harness.api(&self.namespace).await?;
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch(name, &PatchParams::default(), &patch).await?;
        let pods: Api<Pod> = self.harness.api(&self.namespace).await?;
        let of_it = ListParams::default().labels(&format!("linkerd.io/proxy-deployment={name}"));
        if replicas == 0 {
            // A proxy takes its time to end.
            pods.delete_collection(&DeleteParams::default().grace_period(0), &of_it).await?;
        }
        cluster::until_any(&pods, &of_it, &format!("{name}: {replicas} ready pods"), PATIENCE, |pods| {
            let ready = pods.values().filter(|pod| is_ready(pod)).count();
            (pods.len() == replicas as usize && ready == pods.len()).then_some(())
        })
        .await
    }

    /// An API server learns of a new webhook a moment after it was made: dry-runs until the injector was called once.
    async fn until_called(&self) -> Result<()> {
        let Source::Played { injector, .. } = &self.source else { return Ok(()) };
        injector.recover().await?;
        let pods: Api<Pod> = self.harness.api(&self.shop).await?;
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let probe: Pod = object(linkerd_gate_kit::object::pod("is-it-called").running(images::STANDIN).json())?;
        let called = async {
            while injector.requests() == 0 {
                pods.create(&dry_run, &probe).await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, called).await.context("the API server does not call the injector")??;
        injector.suffer(Fault::Absent).await?;
        Ok(())
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub fn object<T: DeserializeOwned>(json: Value) -> Result<T> {
    serde_json::from_value(json).context("a builder made something that is no such object")
}

/// The status of a container or init container.
pub fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.into_iter().find(|status| status.name == container)
}

/// Whether the app runs and is ready, by kubelet's word.
pub fn runs(pod: &Pod) -> bool {
    status(pod, "app").is_some_and(|app| app.state.as_ref().is_some_and(|state| state.running.is_some()))
}

pub fn has_proxy(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|container| container.name == "linkerd-proxy")
}

/// Exit code of a container's last end, now or before its restart.
pub fn exit_code(pod: &Pod, container: &str) -> Option<i32> {
    let status = status(pod, container)?;
    let ended = |state: &Option<ContainerState>| state.as_ref()?.terminated.as_ref().map(|ended| ended.exit_code);
    ended(&status.state).or_else(|| ended(&status.last_state))
}

fn has_started(state: &ContainerState) -> bool {
    state.running.is_some() || state.terminated.is_some()
}

fn is_over(state: &ContainerState) -> bool {
    state.terminated.is_some()
}
