//! What makes pods: an annotation, and a Job's pause with its mark.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate::decide::repair::object::{RETRIED_AT, SUSPENDED};
use serde_json::{Value, json};

use super::{job, missed};
use crate::harness::{Harness, PATIENCE, with_every_right};
use crate::write::{Attack, Change, Form, Write, change, get, send};

const POLICY: &str = "linkerd-gate-controller-owners";
const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";
const NOW: &str = "2026-01-01T00:00:00Z";

/// One of each kind, which makes no pods by itself.
fn owners(name: &str) -> [(&'static str, Value); 4] {
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels}, "spec": missed(name)["spec"]});
    let metadata = json!({"name": name, "labels": {"a": "b"}, "annotations": {"example.com/somebody": "else"}});
    let of = |kind: &str, spec: Value| {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": labels});
        spec["template"] = template.clone();
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let mut nowhere = of("DaemonSet", json!({}));
    nowhere["spec"]["template"]["spec"]["nodeSelector"] = json!({"nowhere": "true"});
    [
        ("/apis/apps/v1/namespaces/shop/replicasets", of("ReplicaSet", json!({"replicas": 0}))),
        ("/apis/apps/v1/namespaces/shop/statefulsets", of("StatefulSet", json!({"replicas": 0, "serviceName": name}))),
        ("/apis/apps/v1/namespaces/shop/daemonsets", nowhere),
        (JOBS, job(name, false)),
    ]
}

fn annotations(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    object["metadata"]["annotations"].as_object_mut().expect("annotations")
}

fn retry(object: &mut Value) {
    object["metadata"]["annotations"][RETRIED_AT] = NOW.into();
}

fn suspend(job: &mut Value) {
    job["spec"]["suspend"] = true.into();
    job["metadata"]["annotations"][SUSPENDED] = NOW.into();
}

fn resume(job: &mut Value) {
    job["spec"]["suspend"] = false.into();
    annotations(job).remove(SUSPENDED);
}

async fn create(harness: &Harness, collection: &str, object: &Value) -> Result<String> {
    send(&harness.admin().await?, &Write::create(collection, object)).await?;
    Ok(format!("{collection}/{}", object["metadata"]["name"].as_str().context("a name")?))
}

#[tokio::test]
async fn the_controller_retries_owners_of_all_four_kinds() -> Result<()> {
    let harness = with_every_right().await?;
    let controller = harness.controller().await?;
    for form in Form::ALL {
        for (collection, owner) in owners(&format!("nudged-{form:?}").to_lowercase()) {
            let path = create(harness, collection, &owner).await?;
            let written = change(&controller, form, &path, false, retry).await?.context("every form can add")?;
            let written = written.with_context(|| format!("{path}, {form:?}"))?;
            ensure!(written["metadata"]["annotations"][RETRIED_AT] == NOW, "{written:#}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_controller_changes_nothing_else_of_them() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let (metadata, annotation, spec) =
        ("finalizers and other metadata", "writes no annotation", "nothing of an owner's spec");
    let attacks: [(&str, &str, Change); 8] = [
        ("a label", metadata, |owner| owner["metadata"]["labels"]["a"] = "c".into()),
        ("no label", metadata, |owner| {
            drop(owner["metadata"]["labels"].as_object_mut().expect("labels").remove("a"));
        }),
        ("a finalizer", metadata, |owner| owner["metadata"]["finalizers"] = json!(["example.com/never"])),
        ("an owner", metadata, |owner| {
            owner["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "gone"}]);
        }),
        ("an annotation", annotation, |owner| owner["metadata"]["annotations"]["a"] = "b".into()),
        ("somebody's annotation", annotation, |owner| {
            owner["metadata"]["annotations"]["example.com/somebody"] = "mine".into();
        }),
        ("no annotation of somebody's", annotation, |owner| drop(annotations(owner).remove("example.com/somebody"))),
        ("a long annotation", "at most 64 characters", |owner| {
            owner["metadata"]["annotations"][RETRIED_AT] = "x".repeat(65).into();
        }),
    ];
    let parts: [(&str, Change); 4] = [
        ("/replicasets", |owner| owner["spec"]["replicas"] = 3.into()),
        ("/statefulsets", |owner| owner["spec"]["replicas"] = 3.into()),
        ("/daemonsets", |owner| owner["spec"]["minReadySeconds"] = 3.into()),
        ("/jobs", |owner| owner["spec"]["parallelism"] = 3.into()),
    ];
    for (collection, owner) in owners("whole") {
        let path = create(harness, collection, &owner).await?;
        for (what, words, wanted) in attacks {
            attack.is_refused(&format!("{path}: {what}"), &path, wanted, words).await?;
        }
        let (_, part) = parts.iter().find(|(part, _)| collection.ends_with(part)).context("a part of its spec")?;
        attack.is_refused(&path, &path, part, spec).await?;
        let both = |owner: &mut Value| {
            retry(owner);
            part(owner);
        };
        attack.is_refused(&format!("{path}, beside a nudge"), &path, both, spec).await?;
        if collection != JOBS {
            // A Job's template cannot be changed at all.
            let image = |owner: &mut Value| {
                owner["spec"]["template"]["spec"]["containers"][0]["image"] = "evil:1".into();
            };
            if !collection.ends_with("/replicasets") {
                attack.is_refused(&format!("{path}, an image"), &path, image, spec).await?;
            }
            let label = |owner: &mut Value| {
                owner["spec"]["template"]["metadata"]["annotations"] = json!({"linkerd.io/inject": "disabled"});
            };
            attack.is_refused(&format!("{path}, a template"), &path, label, spec).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_controller_must_not_create_delete_or_scale_owners() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let words = "neither creates nor deletes them, nor writes their status or scale";
    for ((collection, owner), (_, unborn)) in owners("stays").into_iter().zip(owners("unborn")) {
        let path = create(harness, collection, &owner).await?;
        attack.write_is_refused(&path, &Write::create(collection, &unborn), words).await?;
        attack.write_is_refused(&path, &Write::create(collection, &unborn).dry_run(), words).await?;
        attack.write_is_refused(&path, &Write::apply(&format!("{collection}/unborn"), &unborn), words).await?;
        attack.write_is_refused(&path, &Write::delete(&path), words).await?;
        attack.write_is_refused(&path, &Write::delete(&format!("{collection}?labelSelector=a%3Db")), words).await?;
        let condition = |owner: &mut Value| {
            owner["status"]["conditions"] = json!([{"type": "Any", "status": "True"}]);
        };
        attack.is_refused(&path, &format!("{path}/status"), condition, words).await?;
        if collection.ends_with("/replicasets") || collection.ends_with("/statefulsets") {
            let scale = json!({"spec": {"replicas": 3}});
            attack.write_is_refused(&path, &Write::merge(&format!("{path}/scale"), &scale), words).await?;
        }
        let nowhere = harness.controller_without_a_pod().await?;
        let without_node = Attack { attacker: &nowhere, ..attack };
        without_node.is_refused("a token of no pod", &path, retry, "by the token of its pod").await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_controller_suspends_and_resumes_a_job_with_its_mark() -> Result<()> {
    let harness = with_every_right().await?;
    let controller = harness.controller().await?;
    for form in Form::ALL {
        let path = create(harness, JOBS, &job(&format!("paused-{form:?}").to_lowercase(), false)).await?;
        change(&controller, form, &path, false, suspend).await?.context("every form can")??;
        let form = if form == Form::Apply { Form::MergePatch } else { form };
        let written = change(&controller, form, &path, false, resume).await?.context("this form can")??;
        ensure!(written["spec"]["suspend"] == false, "{written:#}");
        ensure!(written["metadata"]["annotations"] == json!({"example.com/somebody": "else"}), "{written:#}");
    }
    // A person resumed it: what is left of the mark may go.
    let mut resumed = job("resumed", false);
    resumed["metadata"]["annotations"][SUSPENDED] = NOW.into();
    let resumed = create(harness, JOBS, &resumed).await?;
    let unmark = |job: &mut Value| drop(annotations(job).remove(SUSPENDED));
    change(&controller, Form::MergePatch, &resumed, false, unmark).await?.context("a merge patch can")??;
    Ok(())
}

#[tokio::test]
async fn a_suspension_without_our_mark_belongs_to_another_program() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let (pause, mark) =
        ("suspends a Job with the annotation", "adds linkerd-gate/suspended-at only as it suspends a Job");
    let unmark: Change = |job| drop(annotations(job).remove(SUSPENDED));
    let set: Change = |job| job["metadata"]["annotations"][SUSPENDED] = NOW.into();
    let go_on: Change = |job| job["spec"]["suspend"] = false.into();
    let stop: Change = |job| job["spec"]["suspend"] = true.into();

    let runs = create(harness, JOBS, &job("runs", false)).await?;
    attack.is_refused("suspended without a mark", &runs, stop, pause).await?;
    attack.is_refused("marked, and not suspended", &runs, set, mark).await?;
    let empty: Change = |job| {
        job["spec"]["suspend"] = true.into();
        job["metadata"]["annotations"][SUSPENDED] = "".into();
    };
    attack.is_refused("suspended with an empty mark", &runs, empty, pause).await?;
    let theirs = create(harness, JOBS, &job("theirs", true)).await?;
    attack.is_refused("somebody's resumed", &theirs, go_on, pause).await?;
    attack.is_refused("somebody's marked, to be resumed later", &theirs, set, mark).await?;

    let mut ours = job("ours", true);
    ours["metadata"]["annotations"][SUSPENDED] = NOW.into();
    let ours = create(harness, JOBS, &ours).await?;
    attack.is_refused("ours resumed with its mark left", &ours, go_on, pause).await?;
    let refused = change(&controller, Form::MergePatch, &ours, false, unmark).await?.context("a merge patch can")?;
    let refused = refused.err().context("the mark was taken from one that stays suspended")?;
    ensure!(refused.by(POLICY) && refused.message.contains(mark), "{refused}");
    attack
        .is_refused("another time", &ours, |job| job["metadata"]["annotations"][SUSPENDED] = "1".into(), mark)
        .await?;
    // On others the mark is somebody's annotation like any other.
    let [(sets, set_of_pods), ..] = owners("marked");
    let marked = create(harness, sets, &set_of_pods).await?;
    attack.is_refused("a mark on a ReplicaSet", &marked, set, "writes no annotation").await?;
    let before = get(&admin, &ours).await?;
    ensure!(before["spec"]["suspend"] == true, "{before:#}");
    Ok(())
}

#[tokio::test]
async fn a_job_whose_pods_do_not_ask_is_not_suspended() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: "linkerd-gate-controller-asked" };
    let mut bystander = job("bystander", false);
    bystander["spec"]["template"]["metadata"]["annotations"]["linkerd.io/inject"] = "disabled".into();
    let path = create(harness, JOBS, &bystander).await?;
    attack.is_refused("it does not ask", &path, suspend, "injector would inject").await?;
    // A nudge is nothing to be afraid of.
    change(&controller, Form::MergePatch, &path, false, retry).await?.context("a merge patch can")??;
    Ok(())
}

#[tokio::test]
async fn a_job_that_has_a_pod_ready_is_not_suspended() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let mut busy = job("busy", false);
    busy["spec"]["parallelism"] = 1.into();
    let path = create(harness, JOBS, &busy).await?;
    // Its pod, reported ready as a kubelet would report it.
    let ready = async {
        loop {
            let pods = get(&admin, "/api/v1/namespaces/shop/pods?labelSelector=job-name%3Dbusy").await?;
            let pod = pods["items"][0]["metadata"]["name"].as_str().map(ToOwned::to_owned);
            if get(&admin, &path).await?["status"]["ready"] == 1 {
                return anyhow::Ok(());
            }
            if let Some(pod) = pod {
                let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
                let pod = format!("/api/v1/namespaces/shop/pods/{pod}/status");
                send(&admin, &Write::strategic(&pod, &json!({"status": status}))).await?;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.context("the Job's pod does not count as ready")??;
    attack.is_refused("it runs", &path, suspend, "no Job that has a pod ready").await
}
