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
        let all: Vec<String> = namespaces.into_iter().chain(others).map(|document| document.text).collect();
        let all = all.join("---\n");

        let apply = ["apply", "--server-side", "--force-conflicts", ARGO_CD, "--filename=-"];
        self.kubectl(&apply, &all).await?;
        // Kubernetes' controllers write the status of some objects meanwhile.
        let settled = async {
            loop {
                let before = self.resource_versions(&all).await?;
                self.kubectl(&apply, &all).await?;
                if self.resource_versions(&all).await? == before {
                    return anyhow::Ok(());
                }
            }
        };
        match tokio::time::timeout(PATIENCE, settled).await {
            Ok(outcome) => outcome?,
            Err(_) => bail!("each apply changes something"),
        }
        self.differs_in_nothing(ARGO_CD, &all).await?;

        // What a person changes is seen, and changed back.
        let scale = ["scale", "deployment", "linkerd-gate-controller", "--namespace", NAMESPACE, "--replicas=5"];
        self.kubectl(&scale, "").await?;
        ensure!(self.differs_in_nothing(ARGO_CD, &all).await.is_err(), "five replicas are no difference");
        self.kubectl(&apply, &all).await?;
        self.differs_in_nothing(ARGO_CD, &all).await?;
        self.kubectl(&["delete", "--ignore-not-found", "--filename=-"], &all).await?;
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

    async fn resource_versions(&self, objects: &str) -> Result<String> {
        let each = "{range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        let versions = self.kubectl(&["get", "--filename=-", &format!("--output=jsonpath={each}")], objects).await?;
        ensure!(versions.lines().count() > 30, "{versions}");
        Ok(versions)
    }
}
