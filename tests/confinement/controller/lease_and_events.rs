//! What the controller says of itself and of others: the Lease, in the name of its pod, and events, in its own.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::harness::with_every_right;
use crate::write::{Attack, Change, Form, Write, change, get, send};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases/linkerd-gate-controller";

fn lease(holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "linkerd-gate-controller"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
    })
}

/// One test, since there is one Lease.
#[tokio::test]
async fn a_controller_leads_in_its_own_name() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let pod = harness.controllers_pod().await?;
    let uid = get(&admin, &format!("/api/v1/namespaces/linkerd-gate/pods/{pod}")).await?["metadata"]["uid"].clone();
    let uid = uid.as_str().context("a uid")?;
    let own = format!("node-a/{pod}/3f2a9c1e");
    let attack = Attack { anybody: &admin, attacker: &controller, policy: "linkerd-gate-controller-lease" };
    let (one, name, untouched) =
        ("no Lease but linkerd-gate-controller", "in the name of its pod", "labels, owners and finalizers as they are");
    let annotation = "no annotation on the Lease but linkerd-gate/pending-repair";
    let named = |field: &str, value: Value| {
        let mut lease = lease(&own);
        lease["metadata"][field] = value;
        lease
    };
    let mut nobodys = lease("");
    nobodys["spec"].as_object_mut().context("a spec")?.remove("holderIdentity");
    for (what, path, body, words) in [
        ("the agents'", LEASES, named("name", "linkerd-gate".into()), one),
        ("another name", LEASES, named("name", "another".into()), one),
        ("another namespace", &LEASES.replace("linkerd-gate", "kube-system"), lease(&own), one),
        ("another holder", LEASES, lease("node-a/linkerd-gate-controller-another/3f2a9c1e"), name),
        ("a holder that begins alike", LEASES, lease(&format!("node-a/{pod}b/3f2a9c1e")), name),
        ("no holder", LEASES, nobodys.clone(), name),
        ("a label", LEASES, named("labels", json!({"a": "b"})), untouched),
        ("a person's word", LEASES, named("annotations", json!({"linkerd-gate/override": "open"})), annotation),
    ] {
        attack.write_is_refused(what, &Write::create(path, &body), words).await?;
    }
    let nowhere = harness.controller_without_a_pod().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    without_node.write_is_refused("a token of no pod", &Write::create(LEASES, &lease(&own)), name).await?;
    send(&controller, &Write::create(LEASES, &lease(&own))).await?;

    let attacks: [(&str, &str, Change); 6] = [
        ("a long count", "has at most 1024 characters", |lease| {
            lease["metadata"]["annotations"] = json!({"linkerd-gate/pending-repair": "9".repeat(1025)});
        }),
        ("another holder", name, |lease| lease["spec"]["holderIdentity"] = "another".into()),
        ("a label", untouched, |lease| lease["metadata"]["labels"] = json!({"a": "b"})),
        ("an annotation", annotation, |lease| lease["metadata"]["annotations"] = json!({"a": "b"})),
        ("a finalizer", untouched, |lease| lease["metadata"]["finalizers"] = json!(["example.com/never"])),
        ("an owner", untouched, |lease| {
            lease["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": "gone"}]);
        }),
    ];
    for (what, words, wanted) in attacks {
        attack.is_refused(what, LEASE, wanted, words).await?;
    }
    attack.write_is_refused("its end", &Write::delete(LEASE), "does not delete leases").await?;

    let give_up = |lease: &mut Value| drop(lease["spec"].as_object_mut().expect("a spec").remove("holderIdentity"));
    for form in Form::ALL {
        let renew = |lease: &mut Value| {
            lease["spec"]["renewTime"] = format!("2026-01-01T00:00:0{}.000000Z", form as u8).into();
        };
        change(&controller, form, LEASE, false, renew).await?.context("every form can")??;
    }
    for pods in [3, 0] {
        let count = |lease: &mut Value| {
            let pending = format!(r#"{{"version":1,"pods":{pods}}}"#);
            lease["metadata"]["annotations"] = json!({"linkerd-gate/pending-repair": pending});
        };
        change(&controller, Form::MergePatch, LEASE, false, count).await?.context("a merge patch can")??;
    }
    let uncounted =
        |lease: &mut Value| drop(lease["metadata"].as_object_mut().expect("metadata").remove("annotations"));
    change(&controller, Form::MergePatch, LEASE, false, uncounted).await?.context("a merge patch can")??;
    change(&controller, Form::MergePatch, LEASE, false, give_up).await?.context("a merge patch can")??;
    let take = |lease: &mut Value| lease["spec"]["holderIdentity"] = uid.into();
    change(&controller, Form::MergePatch, LEASE, false, take).await?.context("a merge patch can")??;
    // Another's is taken over when it has expired, and never given up.
    let theirs =
        |lease: &mut Value| lease["spec"]["holderIdentity"] = "node-b/linkerd-gate-controller-another/b".into();
    change(&admin, Form::MergePatch, LEASE, false, theirs).await?.context("a merge patch can")??;
    let refused = change(&controller, Form::MergePatch, LEASE, false, give_up).await?.context("a merge patch can")?;
    ensure!(refused.as_ref().is_err_and(|refusal| refusal.by(attack.policy)), "given up for another: {refused:?}");
    change(&controller, Form::MergePatch, LEASE, false, take).await?.context("a merge patch can")??;
    Ok(())
}

fn about(namespace: &str, api_version: &str, kind: &str) -> (String, Value) {
    let event = json!({
        "metadata": {"generateName": "linkerd-gate-"},
        "type": "Warning",
        "reason": "Missed",
        "message": "it runs outside the mesh",
        "involvedObject": {"apiVersion": api_version, "kind": kind, "name": "any", "namespace": namespace},
        "source": {"component": "linkerd-gate"},
        "reportingComponent": "linkerd-gate",
    });
    (format!("/api/v1/namespaces/{namespace}/events"), event)
}

#[tokio::test]
async fn the_controller_writes_pod_owner_and_node_events_as_itself() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: "linkerd-gate-controller-events" };
    for (api_version, kind) in [
        ("v1", "Pod"),
        ("v1", "ReplicationController"),
        ("apps/v1", "ReplicaSet"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("batch/v1", "Job"),
    ] {
        let (path, event) = about("shop", api_version, kind);
        send(&controller, &Write::create(&path, &event)).await.with_context(|| kind.to_owned())?;
    }
    let (default, mut node) = about("default", "v1", "Node");
    node["involvedObject"].as_object_mut().context("about what")?.remove("namespace");
    send(&controller, &Write::create(&default, &node)).await?;

    let (of, own) = ("only about pods, their owners and nodes", "in its own name");
    for (api_version, kind) in [("v1", "Secret"), ("apps/v1", "Deployment"), ("example.com/v1", "Pod"), ("", "Pod")] {
        let (path, event) = about("shop", api_version, kind);
        attack.write_is_refused(kind, &Write::create(&path, &event), of).await?;
    }
    let (path, event) = about("shop", "v1", "Pod");
    let forged: [(&str, Change); 3] = [
        ("the kubelet's word", |event| event["source"]["component"] = "kubelet".into()),
        ("a reporter's word", |event| event["reportingComponent"] = "kubelet".into()),
        ("nobody's word", |event| {
            for field in ["source", "reportingComponent"] {
                event.as_object_mut().expect("an event").remove(field);
            }
        }),
    ];
    for (what, forge) in forged {
        let mut event = event.clone();
        forge(&mut event);
        attack.write_is_refused(what, &Write::create(&path, &event), own).await?;
    }
    let nowhere = harness.controller_without_a_pod().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    without_node
        .write_is_refused("a token of no pod", &Write::create(&path, &event), "by the token of its pod")
        .await?;

    // The same objects by their other name.
    let new = json!({
        "metadata": {"name": "new"},
        "type": "Warning",
        "reason": "Missed",
        "action": "Leave",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "linkerd-gate",
        "reportingInstance": "any",
        "regarding": {"apiVersion": "v1", "kind": "Secret", "name": "any", "namespace": "shop"},
    });
    let write = Write::create("/apis/events.k8s.io/v1/namespaces/shop/events", &new);
    attack.write_is_refused("by events.k8s.io", &write, of).await?;
    let mut theirs = event.clone();
    theirs["metadata"] = json!({"name": "theirs-in-shop"});
    send(&admin, &Write::create(&path, &theirs)).await?;
    let path = format!("{path}/theirs-in-shop");
    let words = "changes and deletes none";
    attack.write_is_refused("a change", &Write::merge(&path, &json!({"message": "another"})), words).await?;
    attack.write_is_refused("an end", &Write::delete(&path), words).await
}
