//! Stand-ins in the form of such a directory: what proves that the switch works, where there is no Linkerd.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use super::NAMESPACE;
use crate::object::ControlPlane;

/// A resource that `crds.yaml` defines and `linkerd.yaml` has one of: it can only be applied after the other.
const KIND: &str = "StandIn";

/// Writes a control plane of stand-ins into a directory in the form that [`super::LinkerdDirectory`] reads, with copies of these
/// archives as its images.
pub fn pack(directory: &Path, plane: &ControlPlane, archives: &[PathBuf]) -> Result<()> {
    let images = directory.join("images");
    std::fs::create_dir_all(&images).with_context(|| format!("cannot make {}", images.display()))?;
    for archive in archives {
        let name = archive.file_name().context("an archive without a name")?;
        std::fs::copy(archive, images.join(name)).with_context(|| archive.display().to_string())?;
    }
    std::fs::write(directory.join("crds.yaml"), documents(&[definition()]))?;
    let mut objects = plane.objects()?;
    objects.push(issuer_secret(&issuer(2100)?));
    objects.push(json!({
        "apiVersion": "linkerd-gate.test/v1",
        "kind": KIND,
        "metadata": {"name": "any", "namespace": NAMESPACE},
    }));
    std::fs::write(directory.join("linkerd.yaml"), documents(&objects))?;
    Ok(())
}

/// An issuer's certificate, PEM, whose last day is the first of this year.
pub(super) fn issuer(until_year: i32) -> Result<String> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
    Ok(params.self_signed(&KeyPair::generate()?)?.pem())
}

/// The Secret that holds it, as the chart names it.
pub(super) fn issuer_secret(pem: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "linkerd-identity-issuer", "namespace": NAMESPACE},
        "stringData": {"crt.pem": pem},
    })
}

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "standins.linkerd-gate.test"},
        "spec": {
            "group": "linkerd-gate.test",
            "names": {"kind": KIND, "plural": "standins"},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}},
            }],
        },
    })
}

/// JSON is YAML.
fn documents(objects: &[Value]) -> String {
    let documents: Vec<String> = objects.iter().map(|object| format!("---\n{object}\n")).collect();
    documents.concat()
}
