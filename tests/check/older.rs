//! The oldest API server that is supported: it cannot hold pods, and the guard refuses them.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::object::namespace;
use linkerd_gate_kit::parts::Release;

use crate::stage::{IMAGE, Ran, Stage};

#[tokio::test]
async fn an_older_kubernetes_refuses_and_check_says_so() -> Result<()> {
    let stage = Stage::of(Release::Oldest).await?;
    let exercise = async {
        stage.install_linkerd().await?;
        stage.cluster.create_namespace(&serde_json::from_value(namespace("shop").asking().json())?).await?;
        let Ran { code, out, err } = stage.run(&["install", "--image", IMAGE, "--admission", "hold"]).await?;
        ensure!(code == Some(69) && out.is_empty(), "{code:?} {out}");
        ensure!(err.contains("Kubernetes 1.33 cannot hold pods") && err.contains("--admission auto"), "{err}");

        stage.install_ours().await?;
        let report = stage.finds("an older Kubernetes", &[], &[]).await?;
        stage.page("older-kubernetes", &[]).await?;
        let text = report.to_string();
        ensure!(text.contains("cannot hold pods: the guard refuses them instead (hold needs 1.36)"), "{report:#}");
        ensure!(text.contains("the guard is bound: a pod that asks and is created while"), "{report:#}");

        stage.kubectl(&["delete", "validatingadmissionpolicybinding", "linkerd-gate-guard"], "").await?;
        let report = stage.finds("the guard is not bound", &[], &["LG202 warning", "LG403 warning"]).await?;
        stage.paste(&report, "LG202").await.context("the guard")?;
        stage.finds("the guard is bound again", &[], &[]).await?;
        Ok(())
    };
    stage.cluster.reported(&["shop"], exercise).await
}
