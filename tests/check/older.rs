//! The oldest API server that is supported: it cannot hold pods, and the guard refuses them.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::object::namespace;
use linkerd_gate_kit::parts::Release;

use crate::harness::{Harness, IMAGE, Ran};

#[tokio::test]
async fn an_older_kubernetes_refuses_and_check_says_so() -> Result<()> {
    let harness = Harness::of(Release::Oldest).await?;
    let exercise = async {
        harness.install_linkerd().await?;
        harness.cluster.create_namespace(&serde_json::from_value(namespace("shop").asking().json())?).await?;
        let Ran { code, out, err } = harness.run(&["install", "--image", IMAGE, "--admission", "hold"]).await?;
        ensure!(code == Some(69) && out.is_empty(), "{code:?} {out}");
        ensure!(err.contains("Kubernetes 1.33 cannot hold pods") && err.contains("--admission auto"), "{err}");

        harness.install_ours().await?;
        let report = harness.finds("an older Kubernetes", &[], &[]).await?;
        harness.page("older-kubernetes", &[]).await?;
        let text = report.to_string();
        ensure!(text.contains("cannot hold pods: the guard refuses them instead (hold needs 1.36)"), "{report:#}");
        ensure!(text.contains("the guard is bound: a pod that asks and is created while"), "{report:#}");

        harness.kubectl(&["delete", "validatingadmissionpolicybinding", "linkerd-gate-guard"], "").await?;
        let report = harness.finds("the guard is not bound", &[], &["LG202 warning", "LG403 warning"]).await?;
        harness.paste(&report, "LG202").await.context("the guard")?;
        harness.finds("the guard is bound again", &[], &[]).await?;
        Ok(())
    };
    harness.cluster.reported(&["shop"], exercise).await
}
