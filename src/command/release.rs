//! `linkerd-gate release`: removes our scheduling gate from held pods, for a person. They start outside the mesh.
//!
//! It needs the API server and nothing of ours: no controller, no agent.

use std::io::Write;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::not_done::NotDone;
use crate::cluster::held_pod::Purpose;
use crate::cluster::{Client, Person, Refused, held_pod, of_person};
use crate::decide::hold;
use crate::decide::repair::recreate::controller;

/// How often a pod is read again that has changed between the read and the write.
const TRIES: u32 = 3;

/// What is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The namespace of the pods.
    pub namespace: String,
    /// Their names; all that our gate holds in the namespace where none is given.
    pub pods: Vec<String>,
}

/// What became of one pod.
enum Done {
    Released { pod: Box<Pod>, other_gates: Vec<String> },
    Before,
}

/// Releases them by a person's kubeconfig.
///
/// # Errors
/// What was not released, a line for each pod.
pub async fn run(access: &Person, release: &Release, out: &mut impl Write) -> Result<(), NotDone> {
    let client = of_person(access).await.map_err(|error| NotDone::one(error.to_string()))?;
    run_with(&client, release, Timestamp::now(), out).await
}

/// Releases them at `now`, with a client that is there. Where one of several is refused, the others are released all the same.
///
/// # Errors
/// As [`run`].
pub async fn run_with(client: &Client, release: &Release, now: Timestamp, out: &mut impl Write) -> Result<(), NotDone> {
    let Release { namespace, pods } = release;
    let named = !pods.is_empty();
    let pods = if named {
        pods.clone()
    } else {
        let gated = held_pod::gated(client, namespace).await;
        gated.map_err(|refused| NotDone::one(format!("namespace {namespace}: {refused}")))?
    };
    if pods.is_empty() {
        writeln!(out, "namespace {namespace}: no pod has the scheduling gate {}: nothing to release", hold::GATE)?;
    }
    let mut refused = Vec::new();
    for name in &pods {
        let shown = format!("pod/{name} -n {namespace}");
        match one(client, namespace, name).await {
            Ok(Done::Before) => writeln!(out, "{shown}: was released before: it has no gate of linkerd-gate any more")?,
            Ok(Done::Released { pod, other_gates }) => {
                writeln!(out, "{shown}: released")?;
                writeln!(out, "Warning: it starts outside the mesh, without a proxy; {}", afterwards(&pod))?;
                if !other_gates.is_empty() {
                    writeln!(out, "{shown}: other gates still hold it: {}", other_gates.join(", "))?;
                }
                if let Err(why) = held_pod::note_release(client, &pod, now).await {
                    writeln!(out, "{shown}: no Event tells of it: {why}")?;
                }
            }
            Err(why) => refused.push(format!("{shown}: {why}")),
        }
    }
    out.flush()?;
    if refused.is_empty() { Ok(()) } else { Err(NotDone::Refused(refused)) }
}

async fn one(client: &Client, namespace: &str, name: &str) -> Result<Done, String> {
    let mut tries = 1;
    loop {
        let pod =
            held_pod::read(client, Purpose::Release, namespace, name).await.map_err(|refused| refused.to_string())?;
        let Some(pod) = pod else {
            return Err(format!("there is no such pod; `kubectl get pods -n {namespace}` lists them"));
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return Err("it is being deleted: nothing is left to release".to_owned());
        }
        if !hold::is_gated(&pod) {
            return if hold::is_released(&pod) { Ok(Done::Before) } else { Err(not_gated(&pod)) };
        }
        match held_pod::release(client, Purpose::Release, &pod).await {
            Ok(()) => {
                let other_gates = hold::other_gates(&pod).into_iter().map(|gate| gate.name).collect();
                return Ok(Done::Released { pod: Box::new(pod), other_gates });
            }
            // The controller, or its owner: what is there now decides.
            Err(Refused::Conflict(_) | Refused::NotFound(_)) if tries < TRIES => tries += 1,
            Err(refused) => return Err(refused.to_string()),
        }
    }
}

/// Why there is nothing to take off, and what holds the pod instead.
fn not_gated(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty());
    match node {
        Some(node) => format!(
            "it is not gated: it is bound to node {node}. Where its init container `linkerd-gate wait` holds it: \
             linkerd-gate open {node} --for 1h"
        ),
        None => format!(
            "it is not gated: it has no scheduling gate {}; `kubectl describe pod` says what it waits for",
            hold::GATE
        ),
    }
}

/// How it comes back into the mesh one day.
fn afterwards(pod: &Pod) -> String {
    match controller(pod) {
        Some(owner) => format!(
            "to bring it into the mesh, delete it once the injector answers: its {} {} creates it again",
            owner.kind, owner.name
        ),
        None => {
            "to bring it into the mesh, delete it once the injector answers, and apply its manifest again".to_owned()
        }
    }
}
