//! The controller: what it may do to pods, to what makes them, to nodes, and what it may tell.

pub mod asked;
mod lease_and_events;
mod nodes;
mod owners;
pub mod pods;
pub mod rights;
mod ungate;

use anyhow::{Context as _, Result};
use linkerd_gate::decide::repair::object::REPAIR;
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

use crate::harness::{Harness, NAMESPACE};
use crate::write::{Refusal, Write, get, send};

/// A pod that asks, has no proxy, never ran, and says itself that it may be replaced, whoever made it. No scheduler touches it,
/// so that it stays the version that it was created as.
fn missed(name: &str) -> Value {
    let pod = pod(name).annotated("linkerd.io/inject", "enabled").annotated(REPAIR, "held").running("app:test");
    let mut pod = pod.json();
    pod["spec"]["schedulerName"] = "nobody".into();
    pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
    pod
}

/// Something that owns pods and that no controller of Kubernetes' does anything with: as it stands in its pods.
async fn owner(harness: &Harness, namespace: &str) -> Result<Value> {
    let admin = harness.admin().await?;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    match send(&admin, &Write::create(&maps, &json!({"metadata": {"name": "owner"}}))).await {
        Ok(_) | Err(Refusal { code: 409, .. }) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    let uid = get(&admin, &format!("{maps}/owner")).await?["metadata"]["uid"].clone();
    Ok(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "controller": true}))
}

/// Creates a pod that has an owner. Returns its path.
async fn owned(harness: &Harness, namespace: &str, mut pod: Value) -> Result<String> {
    pod["metadata"]["ownerReferences"] = json!([owner(harness, namespace).await?]);
    harness.create_pod(namespace, &pod).await
}

/// The preconditions of a removal, of what is there now.
async fn preconditions(harness: &Harness, path: &str) -> Result<Value> {
    let metadata = get(&harness.admin().await?, path).await?["metadata"].clone();
    Ok(json!({"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}))
}

/// A deletion as the controller makes it.
async fn deletion(harness: &Harness, path: &str) -> Result<Write> {
    Ok(Write::delete_with(path, &json!({"preconditions": preconditions(harness, path).await?})))
}

/// A Job whose pods ask, with this in its `spec`.
fn job(name: &str, suspend: bool) -> Value {
    let mut template = missed(name);
    template["spec"]["restartPolicy"] = "Never".into();
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"a": "b"}, "annotations": {"example.com/somebody": "else"}},
        "spec": {
            "suspend": suspend,
            "parallelism": 0,
            "template": {"metadata": {"annotations": template["metadata"]["annotations"]}, "spec": template["spec"]},
        },
    })
}

/// One attack against each of the controller's policies, with which all others are content.
pub async fn first_attacks(harness: &Harness) -> Result<Vec<(&'static str, Write)>> {
    let admin = harness.admin().await?;
    let waiting = owned(harness, "shop", missed("first-missed")).await?;
    let mut skipped = missed("first-skipped");
    skipped["metadata"]["annotations"]["linkerd.io/inject"] = "disabled".into();
    let skipped = owned(harness, "shop", skipped).await?;
    let jobs = "/apis/batch/v1/namespaces/shop/jobs";
    send(&admin, &Write::create(jobs, &job("first", false))).await.context("a Job")?;
    let label = json!({"metadata": {"labels": {"a": "c"}}});
    Ok(vec![
        ("linkerd-gate-controller-pods", Write::delete(&waiting)),
        ("linkerd-gate-controller-asked", deletion(harness, &skipped).await?),
        ("linkerd-gate-controller-ungate", Write::merge(&waiting, &json!({"metadata": {"labels": {"a": "c"}}}))),
        ("linkerd-gate-controller-owners", Write::merge(&format!("{jobs}/first"), &label)),
        ("linkerd-gate-controller-nodes", Write::merge("/api/v1/nodes/node-a", &label)),
        (
            "linkerd-gate-controller-lease",
            Write::create(
                &format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"),
                &json!({"metadata": {"name": "another"}}),
            ),
        ),
        (
            "linkerd-gate-controller-events",
            Write::create(
                "/api/v1/namespaces/default/events",
                &json!({
                    "metadata": {"generateName": "e-"},
                    "involvedObject": {"apiVersion": "v1", "kind": "Namespace", "name": "shop"},
                }),
            ),
        ),
    ])
}
