//! The test: one cluster, from nothing to everything.

use anyhow::{Result, ensure};
use linkerd_gate_kit::object::namespace;
use serde_json::{Value, json};

use crate::harness::{Harness, Ran};

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_else_is() -> Result<()> {
    let harness = Harness::set().await?;
    let exercise = async {
        harness.nothing_is_there().await?;
        harness.install_linkerd().await?;
        harness.cluster.create_namespace(&serde_json::from_value(namespace("shop").asking().json())?).await?;
        harness.linkerd_is_there().await?;
        harness.pods_are_there().await?;
        harness.an_incident_is_understood().await?;
        harness.an_unprepared_cluster_is_understood().await?;
        harness.linkerd_gate_is_there().await?;
        harness.versions_are_reported().await?;
        harness.a_boot_is_reported().await?;
        // The last state of this cluster.
        harness.the_api_server_is_killed().await
    };
    harness.cluster.reported(&[], exercise).await
}

// === impl Stage ===

impl Harness {
    async fn nothing_is_there(&self) -> Result<()> {
        self.finds("nothing is there", &[], &["LG102 warning", "LG401 error"]).await?;
        self.page("nothing-is-there", &[]).await?;
        self.finds("nothing, before installing", &["--pre"], &["LG401 error"]).await?;
        // As Linkerd's CLI calls an extension.
        let Ran { code, out, .. } = self
            .run(&[
                "check",
                "--as-group=[]",
                "--linkerd-namespace=linkerd",
                "--verbose=false",
                "--proxy=false",
                "--wait=10s",
                "--output=json",
            ])
            .await?;
        let report: Value = serde_json::from_str(&out)?;
        ensure!(code == Some(1) && report["success"] == false, "{out}");
        let Ran { code, out, .. } = self.run(&["_extension-metadata"]).await?;
        ensure!(code == Some(0) && serde_json::from_str::<Value>(&out)? == json!({"name": "linkerd-gate"}), "{out}");
        let Ran { code, out, .. } = self.run(&["check", "--kubeconfig", "/nonexistent"]).await?;
        ensure!(code == Some(1) && out.contains("× the API server answers") && out.contains("/nonexistent"), "{out}");
        Ok(())
    }

    /// What each command says of versions, of a live server.
    async fn versions_are_reported(&self) -> Result<()> {
        let Ran { code, out, err } = self.run(&["version", "-o", "json"]).await?;
        let versions: Value = serde_json::from_str(&out)?;
        ensure!(code == Some(0), "{err}");
        ensure!(versions["client"] == env!("CARGO_PKG_VERSION"), "{out}");
        ensure!(versions["servers"]["kubernetes"].as_str().is_some_and(|text| text.starts_with("v1.")), "{out}");
        ensure!(versions["servers"]["linkerd"] == json!(["edge-26.8.3"]), "{out}");
        ensure!(versions["servers"]["linkerd_gate"] == json!([crate::harness::IMAGE]), "{out}");
        ensure!(versions["servers"]["problems"] == json!([]), "{out}");
        let Ran { code, out, .. } = self.run(&["version"]).await?;
        ensure!(code == Some(0) && out.contains("linkerd       edge-26.8.3\n"), "{out}");

        let Ran { code, out, err } = self.run(&["version", "-o", "json", "--as", "jane"]).await?;
        let versions: Value = serde_json::from_str(&out)?;
        ensure!(code == Some(69) && err.contains("you may not do this"), "{err}");
        ensure!(versions["servers"]["problems"].as_array().is_some_and(|all| all.len() == 2), "{out}");
        ensure!(versions["servers"]["kubernetes"].is_string(), "{out}");
        Ok(())
    }
}
