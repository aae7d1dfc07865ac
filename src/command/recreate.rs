//! `linkerd-gate recreate`: makes an ownerless held pod again, in the mesh, without losing it.
//!
//! Nothing is deleted before a dry run under another name has shown that the pod can be created, and comes back with a proxy and
//! without our gate; and before its manifest is in a file, so that not even the end of this process loses it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::not_done::NotDone;
use crate::cluster::held_pod::Purpose;
use crate::cluster::{Client, Person, Refused, access_of_person, held_pod};
use crate::decide::repair::recreate;

/// How long a deleted pod may take to be gone, beside its own grace period. One without a node is gone at once.
const GONE_LIMIT: Duration = Duration::from_mins(1);

/// What is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recreate {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The directory in which the manifest is kept meanwhile.
    pub directory: PathBuf,
}

/// Makes it again by a person's kubeconfig.
///
/// # Errors
/// Why not, and where its manifest is if it was deleted already.
pub async fn run(access: &Person, recreate: &Recreate, out: &mut impl Write) -> Result<(), NotDone> {
    let not_done = |error: crate::cluster::ClientError| NotDone::one(error.to_string());
    let access = access_of_person(access).await.map_err(not_done)?;
    let (client, watching) = (access.client().map_err(not_done)?, access.watching().map_err(not_done)?);
    run_with(&client, &watching, recreate, out).await
}

/// Makes it again with clients that are there, one for requests and one for the watch.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    client: &Client,
    watching: &Client,
    recreate: &Recreate,
    out: &mut impl Write,
) -> Result<(), NotDone> {
    let Recreate { namespace, pod: name, directory } = recreate;
    let shown = format!("pod/{name} -n {namespace}");
    let refused = |why: String| NotDone::one(format!("{shown}: {why}"));

    let stored =
        held_pod::read(client, Purpose::Recreate, namespace, name).await.map_err(|why| refused(why.to_string()))?;
    let Some(stored) = stored else {
        return Err(refused(format!("there is no such pod; `kubectl get pods -n {namespace}` lists them")));
    };
    recreate::check(&stored).map_err(|why| refused(why.to_string()))?;
    let uid = stored.metadata.uid.clone().unwrap_or_default();
    let manifest = recreate::manifest(&stored);

    let tried = held_pod::try_create(client, Purpose::Recreate, namespace, &recreate::trial(&manifest, &uid)).await;
    let tried = tried
        .map_err(|why| refused(format!("nothing was done: it could not be created again: {why}{}", hint(&why))))?;
    recreate::judge(&tried).map_err(|why| refused(format!("nothing was done: in a dry run {why}")))?;
    writeln!(out, "{shown}: a dry run shows that it can be created again, with linkerd-proxy and without our gate")?;

    let kept = Kept::write(directory, &manifest, &uid).map_err(|why| {
        refused(format!(
            "nothing was done: its manifest cannot be kept in {}: {why}; name another directory with --directory",
            directory.display()
        ))
    })?;
    if let Err(why) = held_pod::delete(client, Purpose::Recreate, &stored).await {
        // An answer that did not come may have been a yes.
        return Err(match why {
            Refused::Unreachable(_) => refused(format!(
                "whether it was deleted is not known: {why}. If `kubectl get pod {name} -n {namespace}` does not find it: {}",
                kept.keep()
            )),
            why => {
                kept.remove();
                refused(format!("nothing was done: {why}"))
            }
        });
    }
    writeln!(out, "{shown}: deleted; its manifest is in {} until it is there again", kept.path().display())?;

    let grace = stored.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or_default();
    let limit = GONE_LIMIT.saturating_add(Duration::from_secs(u64::try_from(grace).unwrap_or_default()));
    if !held_pod::until_pod_gone(watching, namespace, name, &uid, limit).await {
        return Err(refused(format!(
            "it was deleted, and is not gone after {}: once it is: {}",
            humantime::format_duration(limit),
            kept.keep()
        )));
    }
    match held_pod::create(client, namespace, &manifest).await {
        Err(why) => Err(refused(format!(
            "it was deleted, and could not be created again: {why}. Nothing is lost: {}",
            kept.keep()
        ))),
        Ok(created) => {
            kept.remove();
            if let Err(why) = recreate::judge(&created) {
                return Err(refused(format!("it was created again, but {why}; run this command again later")));
            }
            writeln!(out, "{shown}: created again, in the mesh")?;
            out.flush()?;
            Ok(())
        }
    }
}

/// What helps against some refusals.
fn hint(why: &Refused) -> &'static str {
    if why.to_string().contains("exceeded quota") {
        "; a dry run needs room for one pod more: raise the quota by one pod for a moment, or use `linkerd-gate release`"
    } else {
        ""
    }
}

/// The manifest in a file that only this user can read: a pod may hold secrets in its variables.
struct Kept(PathBuf);

// === impl Kept ===

impl Kept {
    fn write(directory: &Path, manifest: &Pod, uid: &str) -> io::Result<Self> {
        let path = directory.join(format!("linkerd-gate-recreate-{uid}.json"));
        // What an earlier run left of the same pod.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut writer = io::BufWriter::new(&file);
        serde_json::to_writer_pretty(&mut writer, manifest)?;
        writer.write_all(b"\n")?;
        writer.flush()?;
        file.sync_all()?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves the file, and says what to do with it.
    fn keep(&self) -> String {
        format!("kubectl create -f {}", self.0.display())
    }

    fn remove(self) {
        let _ = std::fs::remove_file(self.0); // A file too many loses nothing.
    }
}
