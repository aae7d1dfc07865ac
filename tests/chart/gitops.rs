//! How Argo CD and Flux apply the chart, by commands that do the same: `docs/gitops.md` says what they do beyond that.

use anyhow::{Result, bail, ensure};

use crate::harness::{Harness, PATIENCE};
use crate::helm::{Document, NAMESPACE, all_on, render, set};

/// Argo CD's name in `managedFields`.
const ARGO_CD: &str = "--field-manager=argocd-controller";

/// Flux's.
const FLUX: &str = "--field-manager=helm-controller";

// === impl Harness ===

impl Harness {
    /// Argo CD renders without a cluster, applies no hook that it does not know, and applies the rest at once. An apply that
    /// changed something each time would show as a difference for ever.
    pub async fn is_applied_as_argo_cd_does(&self) -> Result<()> {
        let mut settings = all_on();
        settings
            .extend(["createNamespaces", "controller.networkPolicy", "monitoring.dashboard"].map(|it| set(it, true)));
        let mut rendered = render(NAMESPACE, &settings);
        rendered.retain(|document| !document.text.contains("helm.sh/hook:"));
        // Namespaces come first, as in Argo CD. The others come in the opposite of Helm's order: none needs another before it.
        let (namespaces, mut others): (Vec<Document>, Vec<Document>) =
            rendered.into_iter().partition(|document| document.value()["kind"] == "Namespace");
        others.reverse();
        ensure!(namespaces.len() == 2 && others.len() > 30, "{} and {}", namespaces.len(), others.len());
        let text = |documents: Vec<Document>| {
            documents.into_iter().map(|document| document.text).collect::<Vec<_>>().join("---\n")
        };
        let (namespaces, others) = (text(namespaces), text(others));
        let all = format!("{namespaces}---\n{others}");

        // Kubernetes' controllers write the status of some objects meanwhile.
        let settled = async {
            let mut before = self.applied(&all).await?;
            loop {
                let after = self.applied(&all).await?;
                if after == before {
                    return anyhow::Ok(());
                }
                before = after;
            }
        };
        match tokio::time::timeout(PATIENCE, settled).await {
            Ok(outcome) => outcome?,
            Err(_) => bail!("each apply changes something"),
        }
        self.differs_in_nothing(ARGO_CD, &all).await?;

        // What a person changes is seen.
        let scale = ["scale", "deployment", "linkerd-gate-controller", "--namespace", NAMESPACE, "--replicas=5"];
        self.kubectl(&scale, "").await?;
        ensure!(self.differs_in_nothing(ARGO_CD, &all).await.is_err(), "five replicas are no difference");
        // The namespaces are the next installation's: the end of one takes seconds.
        self.kubectl(&["delete", "--filename=-"], &others).await?;
        Ok(())
    }

    /// Flux installs by Helm's library, and then compares what Helm recorded with the cluster, by a dry run of a server-side apply.
    pub async fn has_no_drift_that_flux_would_see(&self) -> Result<()> {
        let words = ["get", "manifest", "linkerd-gate", "--namespace", NAMESPACE];
        let manifest = self.helm(&words, &[]).await.map_err(anyhow::Error::msg)?;
        ensure!(manifest.matches("\nkind: ").count() > 30, "{manifest}");
        self.differs_in_nothing(FLUX, &manifest).await
    }

    /// What would change if this were applied; nothing, or it is an error.
    async fn differs_in_nothing(&self, manager: &str, objects: &str) -> Result<()> {
        let words = ["diff", "--server-side", "--force-conflicts", manager, "--filename=-"];
        let said = self.kubectl(&words, objects).await?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    }

    /// Applies objects as Argo CD does. The resource version of each after that.
    async fn applied(&self, objects: &str) -> Result<String> {
        let each = "{range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        let output = format!("--output=jsonpath={each}");
        let words = ["apply", "--server-side", "--force-conflicts", ARGO_CD, "--filename=-", &output];
        let versions = self.kubectl(&words, objects).await?;
        ensure!(versions.lines().count() > 30, "{versions}");
        Ok(versions)
    }
}
