//! linkerd-gate as a release of Helm, so that one value at a time can be changed as users change it.

use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::cluster::BOOT_ID_FILE;
use linkerd_gate_kit::parts::find_helm;
use tokio::process::Command;

use super::harness::{GATE, Harness, images};

/// Where Helm is, or why it is not to be had.
static HELM: LazyLock<Result<std::path::PathBuf, String>> =
    LazyLock::new(|| find_helm().map_err(|error| format!("{error:#}")));

/// What `admission` may be in these stories.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// The default: hold and guard on this server.
    Auto,
    /// The guard alone.
    Refuse,
    /// Neither: agents and controller alone.
    Off,
}

// === impl Admission ===

impl Admission {
    /// As the chart's value has it.
    pub fn value(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Refuse => "refuse",
            Self::Off => "off",
        }
    }
}

// === impl Stage ===

impl Harness {
    /// Installs the chart with this admission, or changes the release to it, and waits until everything of it is ready. All other
    /// values are the defaults, but for the image and the boot id, which containers of these nodes do not see.
    pub async fn upgrade(&self, admission: Admission) -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let namespaces = root.join("deploy/manifests/10-namespaces.yaml");
        self.kubectl(&["apply", "--filename", namespaces.to_str().context("a path")?]).await?;
        let (repository, _) = images::GATE.rsplit_once(':').context("an image without a tag")?;
        let settings = [
            format!("image.repository={repository}"),
            format!("agent.bootIdFile={BOOT_ID_FILE}"),
            format!("admission={}", admission.value()),
        ];
        let helm = HELM.as_ref().map_err(|error| anyhow::anyhow!("no Helm: {error}"))?;
        let mut command = Command::new(helm);
        command.args(["upgrade", "--install", GATE]).arg(root.join("deploy/chart"));
        command.args(["--namespace", GATE, "--wait", "--timeout", "4m"]);
        for setting in &settings {
            command.args(["--set-string", setting]);
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HELM_")) {
            command.env_remove(name);
        }
        for name in ["KUBECACHEDIR", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
            command.env(name, "/dev/null");
        }
        for name in ["HOME", "HELM_CONFIG_HOME"] {
            command.env(name, "/nonexistent");
        }
        let output = command.env("KUBECONFIG", self.cluster.kubeconfig()).stdin(Stdio::null()).output().await?;
        ensure!(output.status.success(), "helm upgrade: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
