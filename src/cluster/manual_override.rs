//! The manual override in the annotation `linkerd-gate/override`: on a Node, or on the Lease for all Nodes.

use std::fmt;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use serde_json::json;

use super::refused::Refused;
use crate::decide::election::lease_record;
use crate::decide::{ManualOverride, manual_override};

/// The most nodes among which a nearest name is looked for.
const LISTED: u32 = 5000;

/// What a manual override is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideTarget {
    /// One node.
    Node(String),
    /// All of them: the Lease in the agents' namespace.
    All {
        /// That namespace.
        namespace: String,
    },
}

/// What became of the annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Annotated {
    /// It is as it was to be.
    Written,
    /// There was no Lease, so it was created without a holder.
    Created,
    /// There is no Lease, so there was no override to clear.
    Absent,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {why}")]
pub struct OverrideError {
    subject: OverrideTarget,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("there is no such node; {0}")]
    NoNode(String),
    #[error("there is no namespace {0}: name the agents' namespace with --namespace, or create it")]
    NoNamespace(String),
    #[error(transparent)]
    Refused(Refused),
}

// === impl OverrideTarget ===

impl fmt::Display for OverrideTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node/{name}"),
            Self::All { namespace } => write!(f, "lease/{} in namespace {namespace}", lease_record::PROVER_LEASE),
        }
    }
}

impl OverrideTarget {
    /// The command that grants what is needed, for whoever may.
    fn right(&self) -> String {
        match self {
            Self::Node(_) => "patch on nodes (kubectl create clusterrole linkerd-gate-override --verb=get,list,patch \
                              --resource=nodes, and a clusterrolebinding)"
                .to_owned(),
            Self::All { namespace } => format!(
                "patch and create on leases in namespace {namespace} (kubectl create role linkerd-gate-override --namespace \
                 {namespace} --verb=get,patch,create --resource=leases.coordination.k8s.io, and a rolebinding)"
            ),
        }
    }
}

/// Writes the override, or removes it if `None` is given. Changes that one annotation only.
///
/// With `dry_run` the API server does everything but store it (`dryRun=All`).
pub async fn annotate(
    client: &Client,
    subject: &OverrideTarget,
    word: Option<&ManualOverride>,
    dry_run: bool,
) -> Result<Annotated, OverrideError> {
    let written = match subject {
        OverrideTarget::Node(name) => annotate_node(client, name, word, dry_run).await,
        OverrideTarget::All { namespace } => annotate_lease(client, namespace, word, dry_run).await,
    };
    written.map_err(|error| {
        let why = match error {
            Failure::Said(why) => why,
            Failure::Api(error) => Why::Refused(Refused::of(&error, &subject.right())),
        };
        OverrideError { subject: subject.clone(), why }
    })
}

enum Failure {
    Said(Why),
    Api(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Api(error)
    }
}

/// A merge patch of one annotation: `null` takes it away.
fn patch(word: Option<&ManualOverride>) -> Patch<serde_json::Value> {
    let value = word.map(ToString::to_string);
    Patch::Merge(json!({"metadata": {"annotations": {manual_override::ANNOTATION: value}}}))
}

fn parameters(dry_run: bool) -> PatchParams {
    PatchParams { field_manager: Some("linkerd-gate".to_owned()), dry_run, ..PatchParams::default() }
}

async fn annotate_node(
    client: &Client,
    name: &str,
    word: Option<&ManualOverride>,
    dry_run: bool,
) -> Result<Annotated, Failure> {
    let nodes = Api::<Node>::all(client.clone());
    match nodes.patch_metadata(name, &parameters(dry_run), &patch(word)).await {
        Ok(_) => Ok(Annotated::Written),
        Err(Error::Api(status)) if status.is_not_found() => {
            Err(Failure::Said(Why::NoNode(nearest(&nodes, name).await)))
        }
        Err(error) => Err(error.into()),
    }
}

/// What to do about a name that is no node's. That the nodes cannot be listed is no second error.
async fn nearest(nodes: &Api<Node>, name: &str) -> String {
    let listed =
        nodes.list_metadata(&ListParams::default().limit(LISTED)).await.map(|list| list.items).unwrap_or_default();
    let names = listed.into_iter().filter_map(|node| node.metadata.name);
    let likeness = |other: &str| strsim::jaro_winkler(name, other);
    let nearest =
        names.filter(|other| likeness(other) > 0.7).max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match nearest {
        Some(nearest) => format!("did you mean {nearest}? `kubectl get nodes` lists them"),
        None => "`kubectl get nodes` lists them".to_owned(),
    }
}

async fn annotate_lease(
    client: &Client,
    namespace: &str,
    word: Option<&ManualOverride>,
    dry_run: bool,
) -> Result<Annotated, Failure> {
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    match leases.patch_metadata(lease_record::PROVER_LEASE, &parameters(dry_run), &patch(word)).await {
        Ok(_) => return Ok(Annotated::Written),
        Err(Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let Some(word) = word else { return Ok(Annotated::Absent) };
    let metadata = ObjectMeta {
        name: Some(lease_record::PROVER_LEASE.to_owned()),
        annotations: Some([(manual_override::ANNOTATION.to_owned(), word.to_string())].into()),
        ..ObjectMeta::default()
    };
    let parameters = PostParams { field_manager: Some("linkerd-gate".to_owned()), dry_run };
    match leases.create(&parameters, &Lease { metadata, spec: None }).await {
        Ok(_) => Ok(Annotated::Created),
        // An agent was faster: there is one now.
        Err(Error::Api(status)) if status.is_already_exists() => {
            leases.patch_metadata(lease_record::PROVER_LEASE, &self::parameters(dry_run), &patch(Some(word))).await?;
            Ok(Annotated::Written)
        }
        Err(Error::Api(status)) if status.is_not_found() => Err(Failure::Said(Why::NoNamespace(namespace.to_owned()))),
        Err(error) => Err(error.into()),
    }
}
