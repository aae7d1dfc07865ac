//! Our Leases: their watch, and what a holder writes. A prover's carries its verdict, a controller's how many pods it will replace.

use std::convert::Infallible;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, Error};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::error::describe;
use super::watch::{Seen, follow};
use crate::decide::election::lease_record::{LEASE_DURATION, LeaseHolder, LeaseRecord};

/// Why the Lease was not written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Another client created, changed or deleted it since it was read.
    #[error("another client changed it at the same time")]
    Conflict,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Follows the Lease of that name, for ever.
pub async fn follow_lease(
    client: Client,
    namespace: &str,
    name: &str,
    sink: watch::Sender<Seen<LeaseRecord>>,
) -> Infallible {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    follow("leases", Api::<Lease>::namespaced(client, namespace), config, LeaseRecord::of, sink).await
}

/// The present, as precisely as a Lease can have it: a [`LeaseRecord`] shows it as it was written.
pub fn renew_time() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// An annotation of a Lease, and its value.
pub type Annotation = (&'static str, String);

/// Takes or renews the Lease of that name for `holder`, with an annotation where it publishes something, if it still is as
/// `record` says (`None`: there is none). Returns it as it is then. What others wrote to it, a manual override say, stays.
///
/// # Errors
/// [`LeaseError`].
pub async fn write(
    client: Client,
    namespace: &str,
    name: &str,
    record: Option<&LeaseRecord>,
    holder: &LeaseHolder,
    annotation: Option<Annotation>,
    now: Timestamp,
) -> Result<LeaseRecord, LeaseError> {
    let leases = Api::<Lease>::namespaced(client, namespace);
    let written = match record {
        None => {
            let parameters = PostParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), dry_run: false };
            leases.create(&parameters, &creation(name, holder, annotation, now)).await
        }
        Some(record) => patch(&leases, name, &renewal(record, holder, annotation, now)).await,
    };
    finish("write", name, written)
}

/// Gives the Lease up, so that no candidate has to wait until it expires. A verdict stays for people to read; without a holder it is
/// of no use.
pub async fn give_up(
    client: Client,
    namespace: &str,
    name: &str,
    record: &LeaseRecord,
    now: Timestamp,
) -> Result<LeaseRecord, LeaseError> {
    let leases = Api::<Lease>::namespaced(client, namespace);
    let document = json!({
        "metadata": {"resourceVersion": record.resource_version},
        // Removed, not emptied: an empty identity is none that the API takes.
        "spec": {"holderIdentity": null, "renewTime": MicroTime(now)},
    });
    finish("give up", name, patch(&leases, name, &document).await)
}

async fn patch(leases: &Api<Lease>, name: &str, document: &Value) -> Result<Lease, Error> {
    let parameters = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    leases.patch(name, &parameters, &Patch::Merge(document)).await
}

fn finish(act: &str, name: &str, written: Result<Lease, Error>) -> Result<LeaseRecord, LeaseError> {
    match written {
        Ok(lease) => Ok(LeaseRecord::of(&lease)),
        // 409 on a create: another client created it. 404 on a patch: another client deleted it.
        Err(Error::Api(status)) if status.code == 409 || status.code == 404 && status.message.contains("leases") => {
            Err(LeaseError::Conflict)
        }
        Err(error) => Err(LeaseError::Failed(describe(&format!("{act} lease {name}"), &error))),
    }
}

fn creation(name: &str, holder: &LeaseHolder, annotation: Option<Annotation>, now: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: annotation.map(|(key, value)| [(key.to_owned(), value)].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_string()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        }),
    }
}

/// A merge patch: `metadata.resourceVersion` in it makes the API server refuse a race that is lost.
fn renewal(record: &LeaseRecord, holder: &LeaseHolder, annotation: Option<Annotation>, now: Timestamp) -> Value {
    let mut spec = json!({
        "holderIdentity": holder.to_string(),
        "leaseDurationSeconds": LEASE_DURATION.as_secs(),
        "renewTime": MicroTime(now),
    });
    if record.holder.as_ref() != Some(holder) {
        spec["acquireTime"] = json!(MicroTime(now));
        spec["leaseTransitions"] = json!(record.transitions.saturating_add(1));
    }
    let mut metadata = json!({"resourceVersion": record.resource_version});
    if let Some((key, value)) = annotation {
        metadata["annotations"] = json!({key: value});
    }
    json!({"metadata": metadata, "spec": spec})
}
