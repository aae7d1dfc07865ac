//! `kubectl wait`, beside a genuine API server.

use std::path::{Path, PathBuf};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use linkerd_gate_kit::cluster;
use linkerd_gate_kit::parts::ApiParts;
use serde_json::json;
use tokio::process::Command;
use tokio::time::Instant;

/// The pods of the two parts. No kubelet runs them: the benchmark reports them ready.
const PODS: [&str; 2] = ["linkerd-proxy-injector", "linkerd-identity"];

/// A control plane, and two pods in it.
pub struct Kubectl {
    binary: PathBuf,
    /// Held, not used: it ends with this value.
    _cluster: cluster::Api,
    kubeconfig: PathBuf,
    namespace: String,
    pods: Api<Pod>,
    /// Where it keeps what it discovered, instead of in the user's home.
    home: tempfile::TempDir,
}

// === impl Kubectl ===

impl Kubectl {
    pub async fn find() -> Result<Self> {
        crate::said("booting a control plane for kubectl wait");
        let cluster = cluster::Api::start().await?;
        let namespace = cluster.namespace("linkerd", &[]).await?;
        let pods = Api::namespaced(cluster.client().await?, &namespace);
        for name in PODS {
            let pod = serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"containers": [{"name": "part", "image": "part:none"}]},
            }))?;
            pods.create(&PostParams::default(), &pod).await?;
        }
        // The cluster's own is a script around it.
        let binary = ApiParts::find()?.kubectl;
        let (kubeconfig, home) = (cluster.kubeconfig(), tempfile::tempdir()?);
        Ok(Self { binary, _cluster: cluster, kubeconfig, namespace, pods, home })
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn wait(&self) -> Command {
        let mut command = Command::new(self.binary());
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .args(["wait", "--for=condition=Ready", "--timeout=10m", "--namespace", &self.namespace])
            .args(PODS.map(|pod| format!("pod/{pod}")));
        command
    }

    pub async fn fall(&self) -> Result<()> {
        for pod in PODS {
            self.tell(pod, false).await?;
        }
        Ok(())
    }

    /// The instant is the one before the API server gets the status of the second pod.
    pub async fn rise(&self) -> Result<Instant> {
        let [first, last] = PODS;
        self.tell(first, true).await?;
        let instant = Instant::now();
        self.tell(last, true).await?;
        Ok(instant)
    }

    async fn tell(&self, pod: &str, ready: bool) -> Result<()> {
        let status = if ready { "True" } else { "False" };
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        self.pods.patch_status(pod, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(())
    }
}
