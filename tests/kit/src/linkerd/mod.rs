//! A genuine Linkerd in a test cluster, where the machine has one.
//!
//! This repository has neither Linkerd's images nor its manifests. The variable `LINKERD_GATE_TESTS_LINKERD` names a directory
//! that has them:
//!
//! | file | what |
//! |---|---|
//! | `images/*.tar` | every image that `linkerd.yaml` names, as `docker save` or `crane pull` write it |
//! | `crds.yaml` | the definitions, as `linkerd install --crds` or `helm template` print them |
//! | `linkerd.yaml` | the control plane, as `linkerd install` or `helm template` print it, in namespace `linkerd` |
//!
//! They are loaded and applied in this order. What is missing or expired is refused by name, before any cluster boots.

mod images;
mod issuer;
mod packed;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;
use tokio::process::Command;

pub use self::packed::pack;
use crate::{
    cluster::{Cluster, until},
    object::namespace,
};

/// Names the directory.
pub const VARIABLE: &str = "LINKERD_GATE_TESTS_LINKERD";

/// Where the suites expect Linkerd.
pub const NAMESPACE: &str = "linkerd";

/// How long Linkerd's pods may take to be ready. Measured on two idle cores, images loaded: 20 s.
const PATIENCE: Duration = Duration::from_mins(5);

/// A directory with Linkerd's images and manifests, found complete.
#[derive(Clone, Debug)]
pub struct LinkerdDirectory {
    path: PathBuf,
    archives: Vec<PathBuf>,
    objects: Vec<Value>,
}

// === impl LinkerdDirectory ===

impl LinkerdDirectory {
    /// The one that `LINKERD_GATE_TESTS_LINKERD` names, or nothing where the variable is not set or empty: then stand-ins play
    /// Linkerd.
    pub fn from_environment() -> Result<Option<Self>> {
        let path = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        path.map(|path| Self::at(&path).with_context(|| format!("{VARIABLE}={}", path.display()))).transpose()
    }

    /// The one at this path.
    ///
    /// # Errors
    ///
    /// A file is missing or cannot be read, an image that `linkerd.yaml` names is in none of the archives, Linkerd is in another
    /// namespace than [`NAMESPACE`], or the issuer's certificate is expired.
    pub fn at(path: &Path) -> Result<Self> {
        ensure!(path.is_dir(), "{} is not a directory", path.display());
        let crds = read(path, "crds.yaml", "linkerd install --crds")?;
        ensure!(crds.contains("CustomResourceDefinition"), "crds.yaml defines no resources");
        let text = read(path, "linkerd.yaml", "linkerd install")?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).context("linkerd.yaml is not YAML")?;
        let objects: Vec<Value> = objects.into_iter().filter(|object| !object.is_null()).collect();
        ensure!(!objects.is_empty(), "linkerd.yaml has no objects");
        check_namespace(&objects)?;
        issuer::check(&objects, SystemTime::now())?;
        let archives = images::archives(&path.join("images"))?;
        images::check(&objects, &archives)?;
        Ok(Self { path: path.to_path_buf(), archives, objects })
    }

    /// Loads the images, applies the definitions and the control plane, and waits until its Deployments are available.
    pub async fn install(&self, cluster: &Cluster) -> Result<()> {
        for archive in &self.archives {
            cluster.load_image(archive).await.with_context(|| archive.display().to_string())?;
        }
        apply(cluster, &self.path.join("crds.yaml")).await?;
        let established =
            ["wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=60s"];
        kubectl(cluster, &established).await?;
        let is_namespace = |object: &&Value| object["kind"] == "Namespace" && object["metadata"]["name"] == NAMESPACE;
        // `helm template` prints no namespace: Helm makes it.
        if !self.objects.iter().any(|object| is_namespace(&object)) {
            cluster.create_namespace(&serde_json::from_value(namespace(NAMESPACE).json())?).await?;
        }
        apply(cluster, &self.path.join("linkerd.yaml")).await?;
        self.until_available(cluster).await
    }

    /// Waits until every Deployment of Linkerd's has the pods that it wants, and they are ready.
    pub async fn until_available(&self, cluster: &Cluster) -> Result<()> {
        let deployments = kube::Api::<Deployment>::namespaced(cluster.client().await?, NAMESPACE);
        for name in self.deployments() {
            until(&deployments, name, "available", PATIENCE, |deployment| {
                let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                deployment.status.as_ref().is_some_and(|status| {
                    status.observed_generation == deployment.metadata.generation
                        && status.updated_replicas == Some(wanted)
                        && status.available_replicas == Some(wanted)
                })
            })
            .await?;
        }
        Ok(())
    }

    /// The names of Linkerd's Deployments.
    pub fn deployments(&self) -> impl Iterator<Item = &str> {
        let of_kind = self.objects.iter().filter(|object| object["kind"] == "Deployment");
        of_kind.filter_map(|object| object["metadata"]["name"].as_str())
    }

    /// Says that a test, or a part of one, does not run: a stand-in can do something that Linkerd cannot.
    pub fn leave_out(&self, test: &str, why: &str) {
        eprintln!("left out, as {VARIABLE} is set: {test}: {why}");
    }
}

fn read(directory: &Path, name: &str, printed_by: &str) -> Result<String> {
    let path = directory.join(name);
    std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: it is what `{printed_by}` prints", path.display()))
}

/// The suites look for Linkerd in one place.
fn check_namespace(objects: &[Value]) -> Result<()> {
    let webhook = objects.iter().find(|object| {
        object["kind"] == "MutatingWebhookConfiguration"
            && object["metadata"]["labels"]["linkerd.io/control-plane-component"] == "proxy-injector"
    });
    let webhook = webhook.context("linkerd.yaml has no MutatingWebhookConfiguration of the proxy injector")?;
    let service = &webhook["webhooks"][0]["clientConfig"]["service"]["namespace"];
    ensure!(service == NAMESPACE, "linkerd.yaml is for namespace {service}, and the suites expect {NAMESPACE}");
    Ok(())
}

async fn apply(cluster: &Cluster, file: &Path) -> Result<()> {
    let file = file.to_str().context("a path that is no text")?;
    // Definitions are larger than what a client-side apply may remember of them.
    kubectl(cluster, &["apply", "--server-side", "--force-conflicts", "--filename", file]).await
}

async fn kubectl(cluster: &Cluster, words: &[&str]) -> Result<()> {
    let output = Command::new(cluster.kubectl()).args(words).stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        bail!("kubectl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        image::{Architecture, Image},
        object::control_plane,
    };

    const STANDIN: &str = "kit.test/linkerd-standin:1";

    /// A directory of stand-ins, as complete as one of Linkerd's.
    fn complete() -> Result<tempfile::TempDir> {
        let directory = tempfile::tempdir()?;
        let archive = directory.path().join("standin.tar");
        Image::new(STANDIN, Architecture::Amd64).with_file("/standin", b"nothing")?.write(&archive)?;
        pack(directory.path(), &control_plane(NAMESPACE, STANDIN, "/linkerd-standin")?, &[archive])?;
        Ok(directory)
    }

    fn refusal(directory: &Path) -> String {
        LinkerdDirectory::at(directory).map_or_else(|error| format!("{error:#}"), |_| "taken".to_owned())
    }

    #[test]
    fn what_is_complete_is_taken() -> Result<()> {
        let directory = complete()?;
        let linkerd = LinkerdDirectory::at(directory.path())?;
        let deployments: Vec<&str> = linkerd.deployments().collect();
        assert_eq!(deployments, ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"]);
        assert_eq!(linkerd.archives.len(), 1);
        Ok(())
    }

    #[test]
    fn a_missing_image_is_refused_by_name() -> Result<()> {
        let directory = complete()?;
        let other = directory.path().join("images/standin.tar");
        Image::new("kit.test/other:1", Architecture::Amd64).with_file("/standin", b"nothing")?.write(&other)?;
        let said = refusal(directory.path());
        assert!(said.contains(STANDIN) && said.contains("linkerd-identity") && said.contains("crane pull"), "{said}");
        Ok(())
    }

    #[test]
    fn an_expired_issuer_is_refused_by_name() -> Result<()> {
        let directory = complete()?;
        let path = directory.path().join("linkerd.yaml");
        let text = std::fs::read_to_string(&path)?;
        let good = packed::issuer_secret(&packed::issuer(2100)?);
        assert!(text.contains("linkerd-identity-issuer"));
        let without: Vec<&str> = text.split("---\n").filter(|part| !part.contains("identity-issuer")).collect();
        for (secret, accepted) in [(good, true), (packed::issuer_secret(&packed::issuer(2021)?), false)] {
            std::fs::write(&path, format!("{}---\n{secret}\n", without.join("---\n")))?;
            let said = refusal(directory.path());
            assert_eq!(said == "taken", accepted, "{said}");
            if !accepted {
                assert!(said.contains("linkerd-identity-issuer") && said.contains("2021"), "{said}");
                assert!(said.contains("linkerd install"), "{said}");
            }
        }
        std::fs::write(&path, without.join("---\n"))?;
        assert!(refusal(directory.path()).contains("linkerd-identity-issuer"));
        Ok(())
    }

    #[test]
    fn a_missing_file_is_refused_with_what_prints_it() -> Result<()> {
        for (file, word) in [
            ("crds.yaml", "linkerd install --crds"),
            ("linkerd.yaml", "linkerd install"),
            ("images/standin.tar", "images"),
        ] {
            let directory = complete()?;
            std::fs::remove_file(directory.path().join(file))?;
            let said = refusal(directory.path());
            assert!(said.contains(word), "{file}: {said}");
        }
        assert!(refusal(Path::new("/nonexistent")).contains("not a directory"));
        Ok(())
    }

    #[test]
    fn a_linkerd_elsewhere_is_refused() -> Result<()> {
        let directory = complete()?;
        let path = directory.path().join("linkerd.yaml");
        let text = std::fs::read_to_string(&path)?.replace(r#""namespace":"linkerd""#, r#""namespace":"mesh""#);
        std::fs::write(&path, text)?;
        assert!(refusal(directory.path()).contains("mesh"));
        Ok(())
    }
}
