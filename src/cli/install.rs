//! What `install` and `status` take.

use super::PersonArguments;
use crate::{
    check::state::Version,
    cluster::{Person, check::Scope},
    command::{
        install::{Admission, Install, Mode},
        pod_name, status,
    },
    linkerd::TokenProjection,
};

pub(super) const INSTALL_EXAMPLES: &str = "Examples:
  linkerd-gate install --image registry.example.com/linkerd-gate:0.1.0 | kubectl apply -f -
  linkerd-gate install --image registry.example.com/linkerd-gate:0.1.0 --mode audit --kubernetes-version 1.35";

/// What `install` takes.
#[derive(Debug, clap::Args)]
pub struct InstallArguments {
    /// The image that you built and pushed, with its tag or digest
    #[arg(long, value_parser = image)]
    pub image: String,

    /// Whether linkerd-gate acts
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,

    /// What becomes of a pod that asks for Linkerd and is created without its proxy
    #[arg(long, value_enum, default_value_t)]
    pub admission: Admission,

    /// Which Kubernetes it is for, such as 1.36 [default: the cluster is asked]
    #[arg(long, value_name = "VERSION", value_parser = kubernetes)]
    pub kubernetes_version: Option<(u32, u32)>,

    /// Label the namespace, so that `linkerd check` runs `linkerd-gate check`, and fails where this program is not on its path
    #[arg(long)]
    pub linkerd_extension: bool,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    /// For a person or for a program
    #[arg(short, long, value_enum, default_value_t)]
    pub output: status::Output,

    /// The namespace whose pods are counted [default: all]
    #[arg(long, short, value_parser = pod_name::namespace)]
    pub namespace: Option<String>,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

// === impl InstallArguments ===

impl InstallArguments {
    /// What to install, and how to ask for the version.
    pub fn read(self) -> (Install, Person) {
        let Self { image, mode, admission, kubernetes_version, linkerd_extension, person } = self;
        (Install { image, mode, admission, kubernetes_version, linkerd_extension }, person.read())
    }
}

// === impl StatusArguments ===

impl StatusArguments {
    /// The scope, the output format, and the access to the cluster.
    pub fn read(self) -> (Scope, status::Output, Person) {
        let Self { output, namespace, person } = self;
        let scope = Scope {
            pre: false,
            namespace,
            selector: None,
            probe_namespace: "linkerd-gate-probe".to_owned(),
            proves: false,
            dials: false,
            projection: TokenProjection::Enabled,
        };
        (scope, output, person.read())
    }
}

fn kubernetes(text: &str) -> Result<(u32, u32), String> {
    let version = Version::read(text).ok_or("it is no version; for example --kubernetes-version 1.36")?;
    Ok(version.minor)
}

/// The name goes into YAML as it is.
fn image(text: &str) -> Result<String, String> {
    let usual = |character: char| character.is_ascii_alphanumeric() || "./:@_-".contains(character);
    if text.is_empty() || !text.chars().all(usual) {
        return Err("it is no image; for example --image registry.example.com/linkerd-gate:0.1.0".to_owned());
    }
    Ok(text.to_owned())
}
