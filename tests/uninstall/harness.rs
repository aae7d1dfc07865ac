//! A genuine control plane, an injector stand-in that it calls, what `deploy/manifests` holds, and the program as people run it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{Api, PostParams};
use linkerd_gate::decide::hold;
use linkerd_gate_kit::cluster::{Api as Cluster, LoopbackAddress};
use linkerd_gate_kit::object::{namespace, pod, service, webhook_configuration};
use linkerd_gate_kit::standin::{Certificates, Injector, Namespaces, Sidecar, Standin};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How long anything here may take that is awaited.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The cluster and the injector.
pub struct Harness {
    /// The cluster.
    pub cluster: Cluster,
    /// The injector.
    pub injector: Standin,
    _address: LoopbackAddress,
}

/// What the program said.
#[derive(Debug)]
pub struct Said {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// An object of what a builder made.
pub fn object<T: DeserializeOwned>(json: Value) -> Result<T> {
    serde_json::from_value(json).context("a builder made something that is no such object")
}

/// Whether the stand-in has put a proxy into it.
pub fn has_proxy(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let inits = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(inits).any(|container| container.name == "linkerd-proxy")
}

// === impl Stage ===

impl Harness {
    /// A cluster with Linkerd's webhook, and nothing of ours.
    pub async fn set() -> Result<Self> {
        // Nobody reports the nodes' status, which this controller would write onto them again and again.
        let controllers = "--controllers=*,-node-lifecycle-controller".to_owned();
        let options = linkerd_gate_kit::cluster::ApiOptions {
            controller_manager: vec![controllers],
            ..linkerd_gate_kit::cluster::ApiOptions::default()
        };
        let cluster = Cluster::start_with(options).await?;
        let address = LoopbackAddress::claim()?;
        let certificates = Certificates::for_injector("linkerd")?;
        let asking = ["first", "down", "up", "linkerd-gate-probe"];
        let namespaces = asking.into_iter().fold(Namespaces::any(), Namespaces::asking);
        let injector = Injector::new(certificates.clone(), &namespaces, Sidecar::genuine("linkerd"))
            .serving_on((address.ip(), 443).into())
            .start()
            .await?;

        let client = cluster.client().await?;
        cluster.create_namespace(&object(namespace("linkerd").without_admission_webhooks().json())?).await?;
        let behind = service("linkerd-proxy-injector").in_namespace("linkerd").external_name(&address.ip().to_string());
        let services: Api<Service> = Api::namespaced(client.clone(), "linkerd");
        services.create(&PostParams::default(), &object(behind.json())?).await?;
        let configuration = webhook_configuration("linkerd").ca_bundle(certificates.ca_bundle());
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client);
        configurations.create(&PostParams::default(), &object(configuration.json())?).await?;
        Ok(Self { cluster, injector, _address: address })
    }

    /// Makes a namespace that asks for injection.
    pub async fn cluster_namespace(&self, name: &str) -> Result<()> {
        let wanted: Namespace = object(namespace(name).asking().json())?;
        self.cluster.create_namespace(&wanted).await.map(drop)
    }

    /// Installs what is in `deploy/manifests`.
    pub async fn install(&self) -> Result<()> {
        for file in manifests()? {
            self.kubectl(&["apply", "--server-side", "--filename", file.to_str().context("a path")?]).await?;
        }
        Ok(())
    }

    /// Removes the same, as `deploy/manifests/README.md` says.
    pub async fn remove(&self) -> Result<()> {
        for file in manifests()?.iter().rev() {
            let file = file.to_str().context("a path")?;
            self.kubectl(&["delete", "--ignore-not-found", "--filename", file]).await?;
        }
        Ok(())
    }

    /// Creates an object.
    pub async fn create(&self, namespace: &str, object: &Value) -> Result<()> {
        let mut kubectl = Command::new(self.cluster.kubectl());
        kubectl.args(["create", "--filename=-"]);
        if !namespace.is_empty() {
            kubectl.args(["--namespace", namespace]);
        }
        let output = spoken_to(kubectl, &object.to_string()).await?;
        ensure!(output.status.success(), "{object}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What kubectl prints.
    pub async fn kubectl(&self, words: &[&str]) -> Result<String> {
        let mut kubectl = Command::new(self.cluster.kubectl());
        kubectl.args(words);
        let output = spoken_to(kubectl, "").await?;
        ensure!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs the program as the administrator.
    pub async fn gate(&self, words: &[&str]) -> Result<Said> {
        self.gate_as(&self.cluster.kubeconfig(), words).await
    }

    /// Runs the program by a kubeconfig.
    pub async fn gate_as(&self, kubeconfig: &Path, words: &[&str]) -> Result<Said> {
        let mut gate = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"));
        gate.args(words).env_clear().env("KUBECONFIG", kubeconfig);
        let output = spoken_to(gate, "").await?;
        Ok(Said {
            ok: output.status.success(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// Waits until a pod of that namespace would be held: policies count a moment after they were written.
    pub async fn until_held_in(&self, namespace: &str) -> Result<()> {
        self.until_tried(namespace, "held", |pod| hold::is_gated(pod) && !has_proxy(pod)).await
    }

    /// Waits until a pod of that namespace would be in the mesh.
    pub async fn until_meshed_in(&self, namespace: &str) -> Result<()> {
        self.until_tried(namespace, "in the mesh", |pod| has_proxy(pod) && !hold::is_gated(pod)).await
    }

    async fn until_tried(&self, namespace: &str, what: &str, good: impl Fn(&Pod) -> bool) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, namespace);
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let probe: Pod = object(pod("is-it").running("app:1").json())?;
        let mut last = String::new();
        let tried = async {
            loop {
                match pods.create(&dry_run, &probe).await {
                    Ok(pod) if good(&pod) => return,
                    Ok(pod) => last = format!("{:?}", pod.spec),
                    Err(error) => last = error.to_string(),
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, tried).await {
            Ok(()) => Ok(()),
            Err(_) => bail!("no pod of {namespace} would be {what}: {last}"),
        }
    }
}

/// The files of `deploy/manifests`, in their order.
fn manifests() -> Result<Vec<PathBuf>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    let numbered = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(|first: char| first.is_ascii_digit()) && name.ends_with(".yaml")
    };
    files.retain(numbered);
    files.sort();
    ensure!(files.len() >= 7, "{files:?}");
    Ok(files)
}

/// Runs a program, with that on its standard input.
async fn spoken_to(mut program: Command, input: &str) -> Result<Output> {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = program.spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    // One that does not read it has said what it has to say.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    Ok(child.wait_with_output().await?)
}
