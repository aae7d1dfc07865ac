//! What the controller may change of pods: our scheduling gate, and a Job's finalizer on a pod that stays held.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate::decide::repair::object::JOB_TRACKING;
use serde_json::{Value, json};

use super::{missed, owned};
use crate::harness::{Harness, with_every_right};
use crate::write::{Attack, Change, Form, Write, change, get, send};

const POLICY: &str = "linkerd-gate-controller-ungate";
const HELD: &str = "no pod but those that the scheduling gate linkerd-gate/injected holds";
const GATES: &str = "leaves all others as they are";
const FINALIZERS: &str = "from a pod that stays held, and no other finalizer";
const METADATA: &str = "labels, annotations, owners and other metadata";
const SPEC: &str = "everything else of a pod's spec";

/// A pod of a Job that our gate and another one hold, and that another program has a finalizer on. Returns its path.
pub async fn held_pod(harness: &Harness, name: &str) -> Result<String> {
    let mut pod = missed(name);
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}, {"name": "linkerd-gate/injected"}]);
    pod["spec"]["nodeSelector"] = json!({"a": "b"});
    pod["metadata"]["labels"] = json!({"a": "b"});
    pod["metadata"]["finalizers"] = json!(["example.com/keep", JOB_TRACKING]);
    owned(harness, "shop", pod).await
}

fn without_ours(pod: &mut Value) {
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
}

fn untracked(pod: &mut Value) {
    pod["metadata"]["finalizers"] = json!(["example.com/keep"]);
}

#[tokio::test]
async fn the_controller_takes_our_gate_and_a_jobs_finalizer_off() -> Result<()> {
    let harness = with_every_right().await?;
    let controller = harness.controller().await?;
    // The two others merge these lists by their keys: what is left out stays.
    for form in [Form::JsonPatch, Form::MergePatch, Form::Replace] {
        let name = format!("ungated-by-{form:?}").to_lowercase();
        let path = held_pod(harness, &name).await?;
        change(&controller, form, &path, false, untracked).await?.context("every form can")??;
        change(&controller, form, &path, false, without_ours).await?.context("every form can")??;
        let pod = get(&controller, &path).await?;
        ensure!(pod["spec"]["schedulingGates"] == json!([{"name": "example.com/quota"}]), "{pod:#}");
        ensure!(pod["metadata"]["finalizers"] == json!(["example.com/keep"]), "{pod:#}");
    }
    Ok(())
}

#[tokio::test]
async fn the_controller_changes_nothing_else_of_a_held_pod() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let path = held_pod(harness, "attacked-while-held").await?;
    let attacks: [(&str, &str, Change); 7] = [
        ("another image", SPEC, |pod| pod["spec"]["containers"][0]["image"] = "evil:1".into()),
        ("a deadline", SPEC, |pod| pod["spec"]["activeDeadlineSeconds"] = 1.into()),
        ("a toleration", SPEC, |pod| {
            let tolerations = pod["spec"]["tolerations"].as_array_mut().expect("tolerations");
            tolerations.push(json!({"key": "a", "operator": "Exists"}));
        }),
        ("a label", METADATA, |pod| pod["metadata"]["labels"]["a"] = "c".into()),
        ("an annotation", METADATA, |pod| pod["metadata"]["annotations"]["linkerd.io/inject"] = "disabled".into()),
        ("a release", METADATA, |pod| pod["metadata"]["annotations"]["linkerd-gate/release"] = "true".into()),
        ("a finalizer", FINALIZERS, |pod| {
            pod["metadata"]["finalizers"] = json!(["example.com/keep", JOB_TRACKING, "example.com/never"]);
        }),
    ];
    for (what, words, wanted) in attacks {
        attack.is_refused(what, &path, wanted, words).await.with_context(|| what.to_owned())?;
    }
    for (what, words, patch) in [
        ("another's gate", GATES, json!([{"op": "remove", "path": "/spec/schedulingGates/0"}])),
        ("all gates", GATES, json!([{"op": "remove", "path": "/spec/schedulingGates"}])),
        ("another node selector", SPEC, json!([{"op": "add", "path": "/spec/nodeSelector/c", "value": "d"}])),
        ("no owner", METADATA, json!([{"op": "remove", "path": "/metadata/ownerReferences"}])),
        (
            "another image with our gate",
            SPEC,
            json!([
                {"op": "replace", "path": "/spec/containers/0/image", "value": "evil:1"},
                {"op": "remove", "path": "/spec/schedulingGates/1"},
            ]),
        ),
        (
            "a label with our gate",
            METADATA,
            json!([
                {"op": "replace", "path": "/metadata/labels/a", "value": "c"},
                {"op": "remove", "path": "/spec/schedulingGates/1"},
            ]),
        ),
        ("another's finalizer", FINALIZERS, json!([{"op": "remove", "path": "/metadata/finalizers/0"}])),
        ("all finalizers", FINALIZERS, json!([{"op": "remove", "path": "/metadata/finalizers"}])),
        (
            "a Job's finalizer of a pod that may start",
            FINALIZERS,
            json!([
                {"op": "remove", "path": "/metadata/finalizers/1"},
                {"op": "remove", "path": "/spec/schedulingGates/1"},
            ]),
        ),
    ] {
        attack.write_is_refused(what, &Write::json_patch(&path, &patch), words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_controller_changes_no_pod_that_our_gate_does_not_hold() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let mut of_another = missed("gated-by-another");
    of_another["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
    of_another["metadata"]["finalizers"] = json!([JOB_TRACKING]);
    let of_another = owned(harness, "shop", of_another).await?;
    let mut bare = missed("not-gated");
    bare["metadata"]["finalizers"] = json!([JOB_TRACKING]);
    let bare = owned(harness, "shop", bare).await?;
    for path in [&of_another, &bare] {
        let patch = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
        attack.write_is_refused("a finalizer", &Write::json_patch(path, &patch), HELD).await?;
        attack.is_refused("a label", path, |pod| pod["metadata"]["labels"] = json!({"a": "c"}), HELD).await?;
    }
    let patch = json!([{"op": "remove", "path": "/spec/schedulingGates"}]);
    attack.write_is_refused("another's gate", &Write::json_patch(&of_another, &patch), HELD).await?;
    // Once it may be scheduled, nothing of it is ours to change.
    let freed = held_pod(harness, "freed").await?;
    send(&controller, &Write::json_patch(&freed, &json!([{"op": "remove", "path": "/spec/schedulingGates/1"}])))
        .await?;
    let patch = json!([{"op": "remove", "path": "/metadata/finalizers/1"}]);
    attack.write_is_refused("a finalizer afterwards", &Write::json_patch(&freed, &patch), HELD).await?;
    Ok(())
}
