//! Replacing the pod that this process runs in: everything that is asked and written, in order.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;

use super::client::ClientError;
use super::own_pod::{self, Deletion, RequestError};
use crate::decide::ProbeResult;
use crate::decide::hold::RECREATING_OWNERS;

/// Dry-runs in a row that must come back injected, each on a new connection: where there are several API servers
/// behind one address, they may reach different ones.
const PROOFS: u32 = 3;

/// What became of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacing {
    /// It was deleted by us just now.
    Deleted,
    /// It was going away already.
    AlreadyGoing,
}

/// Why the pod was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum NotReplaced {
    /// The API server cannot be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The API server did not do what it was asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no such pod: the given name or uid is wrong.
    #[error(
        "there is no pod {namespace}/{name} with uid {uid}: are LINKERD_GATE_POD_NAME, _NAMESPACE and _UID its own?"
    )]
    Unknown {
        /// As given.
        namespace: String,
        /// As given.
        name: String,
        /// As given.
        uid: String,
    },
    /// The next pod would be bare too.
    #[error("the next pod would not be injected either, so nothing is deleted: {0}")]
    NotInjected(ProbeResult),
    /// No controller would create it again.
    #[error("it has no controller that would create it again, so it is not deleted; create it again yourself")]
    Ownerless,
    /// The deletion would count as a failure.
    #[error(
        "it belongs to Job {0}, where a deletion counts as a failure: use LINKERD_GATE_ON_MISSED=exit and a \
         podFailurePolicy that ignores code 75"
    )]
    Job(String),
    /// It is not known what its owner would do.
    #[error("its owner is a {0}, which may not create it again; only pods of {owners} replace themselves", owners = owners())]
    Owner(String),
}

/// Deletes the pod of that name and uid, once three dry-runs in a row show that its successor would be injected.
///
/// `connect` makes a client with a new connection.
///
/// # Errors
/// Why nothing was deleted. Trying again later may succeed.
pub async fn replace(
    connect: impl Fn() -> Result<Client, ClientError>,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<Replacing, NotReplaced> {
    let own = own_pod::get(connect()?, namespace, name).await?;
    let Some(own) = own.filter(|own| own.metadata.uid.as_deref() == Some(uid)) else {
        return Err(NotReplaced::Unknown { namespace: namespace.into(), name: name.into(), uid: uid.into() });
    };
    if own.metadata.deletion_timestamp.is_some() {
        return Ok(Replacing::AlreadyGoing);
    }
    ensure_created_again(&own)?;
    for _ in 0..PROOFS {
        match own_pod::prove(connect()?, &own).await? {
            ProbeResult::Ready => {}
            other => return Err(NotReplaced::NotInjected(other)),
        }
    }
    match own_pod::delete(connect()?, namespace, name, uid).await? {
        Deletion::Deleted => Ok(Replacing::Deleted),
        Deletion::AlreadyGone => Ok(Replacing::AlreadyGoing),
    }
}

fn ensure_created_again(pod: &Pod) -> Result<(), NotReplaced> {
    let OwnerReference { api_version, kind, name, .. } = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
        .ok_or(NotReplaced::Ownerless)?;
    if RECREATING_OWNERS.contains(&(api_version, kind)) {
        return Ok(());
    }
    if (api_version.as_str(), kind.as_str()) == ("batch/v1", "Job") {
        return Err(NotReplaced::Job(name.clone()));
    }
    Err(NotReplaced::Owner(format!("{kind} ({api_version})")))
}

fn owners() -> String {
    RECREATING_OWNERS.map(|(_, kind)| format!("{kind}s")).join(", ")
}
