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
        let chart = root.join("deploy/chart");
        let chart = chart.to_str().context("a path")?;
        let mut words = vec!["upgrade", "--install", GATE, chart, "--namespace", GATE, "--wait", "--timeout", "4m"];
        // `helm test` needs the check's rights. Its CronJob has no turn in these stories.
        words.extend(["--set", "check.enabled=true", "--set-string", "check.schedule=0 0 1 1 *"]);
        words.extend(settings.iter().flat_map(|setting| ["--set-string", setting]));
        self.helm(&words).await.map(drop)
    }

    /// Runs the chart's own test as a pod on a node: `check`, with the rights of its CronJob. In the cluster it sees the certificate
    /// that each injector serves.
    pub async fn helm_test_passes(&self) -> Result<()> {
        let said = self.helm(&["test", GATE, "--namespace", GATE, "--logs", "--timeout", "2m"]).await?;
        for line in [
            "√ you may read what is checked\n",
            "√ a pod that is created now is injected (a dry-run pod in namespace linkerd-gate-probe was)\n",
            "√ the API server trusts the certificate that the injector serves (SHA-256 ",
            "Status check results are √\n",
        ] {
            ensure!(said.contains(line), "helm test does not say {line:?}: {said}");
        }
        Ok(())
    }

    /// Runs Helm as the administrator, with nothing of the machine's own settings, and returns what it prints.
    pub async fn helm(&self, words: &[&str]) -> Result<String> {
        let helm = HELM.as_ref().map_err(|error| anyhow::anyhow!("no Helm: {error}"))?;
        let mut command = Command::new(helm);
        command.args(words);
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
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "helm {}: {why}{said}", words[0]);
        Ok(said.into_owned())
    }
}
