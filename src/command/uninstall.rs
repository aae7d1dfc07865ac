//! `linkerd-gate uninstall`: takes everything of ours out of the way before its manifests are deleted, held pods included.
//!
//! The order, and what becomes of each pod, are [`crate::decide::uninstall`]'s. A step that fails is named, and the next ones are
//! taken all the same; to run it again does what is left to do.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::not_done::NotDone;
use crate::cluster::dry_run;
use crate::cluster::uninstall::{self as cluster, Binding, StillHeld, Workload};
use crate::cluster::{Client, Person, Refused, access_of_person};
use crate::decide::ProbeResult;
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};
use crate::decide::uninstall::{ORDER, Step, Treatment, on_node, treatment};
use crate::retry::Schedule;

/// What runs our parts, and its name.
const CONTROLLER: (Workload, &str) = (Workload::Deployment, "linkerd-gate-controller");
const AGENTS: (Workload, &str) = (Workload::DaemonSet, "linkerd-gate");

/// What makes our admission policies count.
const BINDINGS: [(Binding, &str); 4] = [
    (Binding::Mutating, HOLD_POLICY),
    (Binding::Mutating, "linkerd-gate-born-closed"),
    (Binding::Validating, GUARD_POLICY),
    (Binding::Validating, "linkerd-gate-release"),
];

/// The Leases: the agents' and the controllers'.
const LEASES: [&str; 2] = ["linkerd-gate", "linkerd-gate-controller"];

/// How long the controllers and the agents may take to be gone: each has a grace period of 30 s.
const GONE_LIMIT: Duration = Duration::from_secs(75);

/// How long an API server may take to follow a binding's deletion. Seen: less than a second.
const UNBOUND_LIMIT: Duration = Duration::from_secs(30);

/// Dry-run pods in a row that must come back with a proxy.
const PROOFS: u32 = 3;

/// How often all pods are looked through again for some that are held: those that were made while the bindings went.
const ROUNDS: u32 = 5;

/// What is uninstalled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uninstall {
    /// Whether it is done; else it is only said.
    pub now: bool,
    /// The namespace of our parts.
    pub namespace: String,
    /// The namespace of dry-run pods.
    pub probe_namespace: String,
    /// The key of our taint.
    pub taint_key: String,
}

/// Uninstalls by a person's kubeconfig, or by the service account of the pod that it runs in.
///
/// # Errors
/// What was not done, a line each.
pub async fn run(access: &Person, uninstall: &Uninstall, out: &mut impl Write) -> Result<(), NotDone> {
    let refused = |error: crate::cluster::ClientError| NotDone::one(error.to_string());
    let access = access_of_person(access).await.map_err(refused)?;
    let (client, watching) = (access.client().map_err(refused)?, access.watching().map_err(refused)?);
    run_with(&client, &watching, uninstall, out).await
}

/// Uninstalls with clients that are there, one for requests and one for watches.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    client: &Client,
    watching: &Client,
    uninstall: &Uninstall,
    out: &mut impl Write,
) -> Result<(), NotDone> {
    let mut run = Run { client, watching, uninstall, out, no_controller: false, holds: false, failures: Vec::new() };
    for step in ORDER {
        match step {
            Step::StopController => run.stop(CONTROLLER).await?,
            Step::Unbind => run.unbind().await?,
            Step::LetGo => run.let_go().await?,
            Step::ResumeJobs => run.resume_jobs().await?,
            Step::StopAgents => run.stop(AGENTS).await?,
            Step::FreeNodes => run.free_nodes().await?,
            Step::DropLeases => run.drop_leases().await?,
        }
    }
    run.end()
}

/// One run: what it works with, and what it could not do so far.
struct Run<'a, W> {
    client: &'a Client,
    watching: &'a Client,
    uninstall: &'a Uninstall,
    out: &'a mut W,
    /// Whether there is certainly none.
    no_controller: bool,
    /// Whether pods are held that are created now.
    holds: bool,
    failures: Vec<String>,
}

// === impl Run ===

impl<W: Write> Run<'_, W> {
    /// Says what was done, or would be.
    fn say(&mut self, what: &str, done: &str, would: &str) -> Result<(), NotDone> {
        let act = if self.uninstall.now { done } else { would };
        writeln!(self.out, "{what}: {act}")?;
        // Whoever reads the log of a Job that hangs wants to see how far it has come.
        self.out.flush()?;
        Ok(())
    }

    fn failed(&mut self, what: &str, why: impl std::fmt::Display) {
        self.failures.push(format!("{what}: {why}"));
    }

    fn end(self) -> Result<(), NotDone> {
        let Self { uninstall, out, no_controller, holds, mut failures, .. } = self;
        if failures.is_empty() {
            if uninstall.now {
                writeln!(
                    out,
                    "done: what is left (policies, rights, namespaces) starts and holds nothing; delete it by `helm uninstall`, or \
                     by `kubectl delete -k` of the manifests"
                )?;
            } else {
                if holds && no_controller {
                    writeln!(
                        out,
                        "Warning: admission holds pods, and there is no controller that has them created again: they stay held \
                         until a person releases, recreates or deletes them"
                    )?;
                }
                writeln!(out, "nothing was done: `linkerd-gate uninstall --now` does it")?;
            }
            out.flush()?;
            return Ok(());
        }
        out.flush()?;
        failures
            .push(format!("{} not done: see above; run the same command again once that is mended", failures.len()));
        Err(NotDone::Refused(failures))
    }

    async fn stop(&mut self, (workload, name): (Workload, &str)) -> Result<(), NotDone> {
        let namespace = self.uninstall.namespace.as_str();
        let what = format!("{}/{name} -n {namespace}", workload.kind());
        let uid = match workload.find(self.client, namespace, name).await {
            Ok(Some(uid)) => uid,
            Ok(None) => {
                self.no_controller |= workload == CONTROLLER.0;
                return self.say(&what, "is missing", "is missing");
            }
            Err(refused) => {
                self.failed(&what, refused);
                return Ok(());
            }
        };
        if !self.uninstall.now {
            return self.say(&what, "", "would be deleted, its pods first");
        }
        if let Err(refused) = workload.delete(self.client, namespace, name, &uid).await {
            self.failed(&what, refused);
            return Ok(());
        }
        if workload.until_gone(self.watching, namespace, name, &uid, GONE_LIMIT).await {
            return self.say(&what, "deleted", "");
        }
        let limit = humantime::format_duration(GONE_LIMIT);
        let why = format!(
            "it was deleted, but its pods are not gone after {limit}, most likely on nodes that are down: \
             `kubectl get pods -n {namespace} -o wide` shows which; it goes on without them"
        );
        self.failed(&what, why);
        Ok(())
    }

    async fn unbind(&mut self) -> Result<(), NotDone> {
        for (binding, name) in BINDINGS {
            let what = format!("{}/{name}", binding.kind());
            let found = if self.uninstall.now {
                binding.delete(self.client, name).await
            } else {
                binding.is_there(self.client, name).await
            };
            match found {
                Ok(true) => {
                    self.holds |= binding == Binding::Mutating && name == BINDINGS[0].1;
                    self.say(&what, "deleted", "would be deleted")?;
                }
                Ok(false) => self.say(&what, "is missing", "is missing")?,
                Err(refused) => self.failed(&what, refused),
            }
        }
        Ok(())
    }

    async fn let_go(&mut self) -> Result<(), NotDone> {
        let mut proven = None;
        let mut last = Vec::new();
        for round in 0..=ROUNDS {
            let held = match cluster::gated_pods(self.client).await {
                Ok(held) => held,
                Err(refused) => {
                    self.failed("pods", refused);
                    return Ok(());
                }
            };
            let held: Vec<Pod> =
                held.into_iter().filter(|pod| treatment(pod, true) != Some(Treatment::Leave)).collect();
            let Some(first) = held.first() else {
                if round == 0 {
                    self.say("pods", "none is held", "none is held")?;
                }
                return Ok(());
            };
            if round == ROUNDS {
                self.failed("pods", format!("{} are still held, {} among them", held.len(), shown(first)));
                break;
            }
            if round == 0 && self.uninstall.now {
                self.until_unheld(first).await?;
            }
            let proven = match proven {
                Some(proven) => proven,
                None => *proven.insert(self.prove().await?),
            };
            last.clear();
            for pod in &held {
                if let Err(why) = self.treat(pod, proven).await? {
                    last.push((shown(pod), why));
                }
            }
            if !self.uninstall.now {
                break;
            }
        }
        // The last round's: what failed before and succeeded since is no failure.
        for (what, why) in last {
            self.failed(&what, why);
        }
        Ok(())
    }

    /// Waits until a copy of that pod would not be held any more: until then what is deleted comes back held.
    async fn until_unheld(&mut self, pod: &Pod) -> Result<(), NotDone> {
        let what = format!("admission, by a dry-run copy of {}", shown(pod));
        let client = self.client;
        let unheld = async {
            let mut schedule = Schedule::direct_probe();
            loop {
                match cluster::is_still_held(client, pod).await {
                    StillHeld::Yes => tokio::time::sleep(schedule.next_pause()).await,
                    StillHeld::No => return Ok(()),
                    StillHeld::Unknown(why) => return Err(why),
                }
            }
        };
        match tokio::time::timeout(UNBOUND_LIMIT, unheld).await {
            Ok(Ok(())) => self.say(&what, "holds nothing any more", ""),
            // It says nothing of ours: what comes back held is seen in the next round.
            Ok(Err(why)) => self.say(&what, &format!("not known, going on: {why}"), ""),
            Err(_) => {
                let limit = humantime::format_duration(UNBOUND_LIMIT);
                self.failed(&what, format!("still holds after {limit}: is a binding left? see above"));
                Ok(())
            }
        }
    }

    /// Whether a pod that is created now gets a proxy.
    async fn prove(&mut self) -> Result<bool, NotDone> {
        for _ in 0..PROOFS {
            let namespace = &self.uninstall.probe_namespace;
            let answer = dry_run::send(self.client.clone(), namespace, &BTreeMap::new(), None).await.answer();
            let outcome = answer.unwrap_or_else(ProbeResult::unknown);
            if !outcome.is_ready() {
                let why = format!("not proven ({outcome}): held pods");
                self.say(
                    "injection",
                    &format!("{why} are released, and start outside the mesh"),
                    &format!("{why} would be released, and start outside the mesh"),
                )?;
                return Ok(false);
            }
        }
        self.say(
            "injection",
            "proven: held pods are deleted, and their owners create them again, in the mesh",
            "proven: held pods would be deleted, and their owners would create them again, in the mesh",
        )?;
        Ok(true)
    }

    /// Lets one pod go. Why not, where it could not be.
    async fn treat(&mut self, pod: &Pod, proven: bool) -> Result<Result<(), String>, NotDone> {
        let what = shown(pod);
        let Some(treatment) = treatment(pod, proven) else { return Ok(Ok(())) };
        let (done, would) = match &treatment {
            Treatment::Delete { owner, .. } => (
                format!("deleted; its {owner} creates it again"),
                format!("would be deleted; its {owner} would create it again"),
            ),
            Treatment::Release(why) => (
                format!("released, it starts outside the mesh: {why}"),
                format!("would be released, and start outside the mesh: {why}"),
            ),
            Treatment::Ungate => (
                "in the mesh: our gate was taken off".to_owned(),
                "is in the mesh: our gate would be taken off".to_owned(),
            ),
            Treatment::Leave => return Ok(Ok(())),
        };
        if self.uninstall.now {
            let written = match treatment {
                Treatment::Delete { uncounted, .. } => cluster::delete_held(self.client, pod, uncounted).await,
                Treatment::Release(_) => cluster::ungate(self.client, pod, true).await,
                Treatment::Ungate | Treatment::Leave => cluster::ungate(self.client, pod, false).await,
            };
            match written {
                Ok(()) => {}
                // It is gone, or another one by now: the next round sees what is there.
                Err(Refused::NotFound(_)) => return Ok(Ok(())),
                Err(refused) => return Ok(Err(refused.to_string())),
            }
        }
        self.say(&what, &done, &would)?;
        Ok(Ok(()))
    }

    async fn resume_jobs(&mut self) -> Result<(), NotDone> {
        let jobs = match cluster::suspended_jobs(self.client).await {
            Ok(jobs) => jobs,
            Err(refused) => {
                self.failed("jobs", refused);
                return Ok(());
            }
        };
        for job in jobs {
            let metadata = &job.metadata;
            let what = format!(
                "job/{} -n {}",
                metadata.name.as_deref().unwrap_or_default(),
                metadata.namespace.as_deref().unwrap_or_default()
            );
            if self.uninstall.now
                && let Err(why) = cluster::resume(self.client, &job).await
            {
                self.failed(&what, why);
                continue;
            }
            self.say(
                &what,
                "resumed: linkerd-gate had suspended it",
                "would be resumed: linkerd-gate has suspended it",
            )?;
        }
        Ok(())
    }

    async fn free_nodes(&mut self) -> Result<(), NotDone> {
        let key = self.uninstall.taint_key.as_str();
        let nodes = match cluster::marked_nodes(self.client, key).await {
            Ok(nodes) => nodes,
            Err(refused) => {
                self.failed("nodes", refused);
                return Ok(());
            }
        };
        for node in nodes {
            let what = format!("node/{}", node.metadata.name.as_deref().unwrap_or_default());
            let left = on_node(&node, key);
            if self.uninstall.now
                && let Err(refused) = cluster::free_node(self.client, &node, key).await
            {
                self.failed(&what, refused);
                continue;
            }
            let taint = left.taint.then(|| format!("taint {key}"));
            let annotations = left.annotations.iter().map(|key| format!("annotation {key}"));
            let marks = taint.into_iter().chain(annotations).collect::<Vec<_>>().join(", ");
            self.say(&what, &format!("freed of {marks}"), &format!("would be freed of {marks}"))?;
        }
        Ok(())
    }

    async fn drop_leases(&mut self) -> Result<(), NotDone> {
        let namespace = self.uninstall.namespace.as_str();
        for name in LEASES {
            let what = format!("lease/{name} -n {namespace}");
            let found = if self.uninstall.now {
                cluster::delete_lease(self.client, namespace, name).await
            } else {
                cluster::find_lease(self.client, namespace, name).await
            };
            match found {
                Ok(true) => self.say(&what, "deleted", "would be deleted")?,
                Ok(false) => self.say(&what, "is missing", "is missing")?,
                Err(refused) => self.failed(&what, refused),
            }
        }
        Ok(())
    }
}

fn shown(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    format!("pod/{name} -n {}", metadata.namespace.as_deref().unwrap_or_default())
}
