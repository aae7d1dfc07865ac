//! Mode `replace`: prove that the next pod would be injected, then delete this very pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::narrator::{Narrator, Tone};
use super::words;
use crate::cluster::{self, ClientError, Deletion, RequestError};
use crate::config::OwnPod;
use crate::decide::Outcome;
use crate::retry::Schedule;

/// Dry-runs in a row that must come back injected, each on a connection of its own.
const PROOFS: u32 = 3;

/// The state of a replacement across attempts.
#[derive(Debug)]
pub(super) struct Replacement {
    schedule: Schedule,
    requested: bool,
}

/// Why a pod is not deleted now.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the next pod would not be injected either, so nothing is deleted: {0}")]
    NotInjected(Outcome),
    #[error("it has no controller that would create it again, so it is not deleted; create it again by hand")]
    Ownerless,
}

// === impl Replacement ===

impl Replacement {
    pub(super) fn new() -> Self {
        Self { schedule: Schedule::asking(), requested: false }
    }

    /// One attempt, and how long to pause after it. Ends with the pod being deleted; SIGTERM ends the process then.
    pub(super) async fn attempt(&mut self, pod: &OwnPod, narrator: &mut Narrator) -> Duration {
        if !self.requested {
            match replace(pod).await {
                Ok(Deletion::Deleted) => {
                    self.requested = true;
                    self.schedule.reset();
                    narrator.state(Tone::Warn, words::replaced(pod));
                }
                Ok(Deletion::AlreadyGone) => {
                    self.requested = true;
                    narrator.state(Tone::Info, format!("{} is being replaced already", words::pod(pod)));
                }
                Err(why) => {
                    let next = words::delete_command(pod);
                    let line = format!(
                        "Linkerd is ready, but {} cannot replace itself: {why}. By hand: {next}",
                        words::pod(pod)
                    );
                    narrator.state(Tone::Warn, line);
                }
            }
        }
        self.schedule.next_pause()
    }
}

async fn replace(pod: &OwnPod) -> Result<Deletion, NotYet> {
    // The configuration has all three: `replace` is refused without them.
    let [namespace, name, uid] = [&pod.namespace, &pod.name, &pod.uid].map(|part| part.as_deref().unwrap_or_default());
    let own = match cluster::get(cluster::in_cluster()?, namespace, name).await? {
        Some(own) if own.metadata.uid.as_deref() == Some(uid) && own.metadata.deletion_timestamp.is_none() => own,
        _ => return Ok(Deletion::AlreadyGone),
    };
    if controller(&own).is_none() {
        return Err(NotYet::Ownerless);
    }
    for _ in 0..PROOFS {
        match cluster::prove(cluster::in_cluster()?, &own).await? {
            Outcome::Ready => {}
            other => return Err(NotYet::NotInjected(other)),
        }
    }
    Ok(cluster::delete(cluster::in_cluster()?, namespace, name, uid).await?)
}

fn controller(pod: &Pod) -> Option<&OwnerReference> {
    pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}
