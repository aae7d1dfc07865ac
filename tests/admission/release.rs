//! `62-admission-release.yaml`: what takes our gate off a held pod, and what does not; and all that stays possible with one.

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, Request};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use linkerd_gate_kit::object::{namespace, pod};
use serde_json::{Value, json};

use crate::answer::{Answer, GATE, create, dry_run, gates};
use crate::harness::{Admission, Harness, PATIENCE, Parameters};

/// The controller's service account in the manifests.
const CONTROLLER: (&str, &str) = ("linkerd-gate", "linkerd-gate-controller");

#[tokio::test]
async fn only_the_controller_a_person_or_a_proxy_removes_the_gate() -> Result<()> {
    let harness = Harness::set().await?;
    harness.namespace(namespace("shop").asking()).await?;
    harness.namespace(namespace("linkerd-gate")).await?;
    harness.await_admission(Admission::Hold, true, Parameters::Labelled).await?;
    harness.kubectl_apply("62-admission-release.yaml").await?;
    // It counts a moment after it was written.
    let probe = held(&harness, "probe").await?;
    let refused = async { while patch(&harness.admin, &probe, &off(), "dryRun=All").await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.context("the policy does not count")?;

    by_others_in_every_way_it_is_refused(&harness).await?;
    a_person_may(&harness).await?;
    the_controller_may(&harness).await?;
    a_pod_with_a_proxy_may_lose_it(&harness).await?;
    everything_else_stays_possible(&harness).await?;
    the_ends_of_a_held_pod_are_never_in_its_way(&harness).await
}

/// A JSON patch that takes all gates off.
fn off() -> (&'static str, Value) {
    ("application/json-patch+json", json!([{"op": "remove", "path": "/spec/schedulingGates"}]))
}

/// Creates a pod that is held, with two other gates around ours.
async fn held(harness: &Harness, name: &str) -> Result<Pod> {
    let gates = json!([{"name": "example.com/quota"}]);
    let asking = pod(name).in_namespace("shop").running("app:test").spec_field("schedulingGates", gates);
    match create(&harness.admin, &serde_json::from_value(asking.json())?).await? {
        Answer::Held(pod, _) => Ok(*pod),
        other => bail!("{name}: {other:?}"),
    }
}

async fn patch(client: &Client, pod: &Pod, (kind, body): &(&str, Value), parameters: &str) -> Result<Pod, String> {
    let path = format!("/api/v1/namespaces/shop/pods/{}?{parameters}", pod.name_any());
    let request = Request::builder().method(Method::PATCH).uri(path).header("content-type", *kind);
    let request = request.body(body.to_string().into_bytes()).map_err(|error| error.to_string())?;
    client.request(request).await.map_err(|error| error.to_string())
}

fn ensure_refused(what: &str, outcome: Result<Pod, String>) -> Result<()> {
    let said = outcome.err().with_context(|| format!("{what}: it passed"))?;
    let words = "is held until Linkerd can inject it: the scheduling gate linkerd-gate/injected stays";
    ensure!(said.contains("linkerd-gate-release") && said.contains(words), "{what}: {said}");
    ensure!(said.contains("linkerd-gate release pod/") && said.contains(" -n shop"), "{what}: {said}");
    Ok(())
}

async fn by_others_in_every_way_it_is_refused(harness: &Harness) -> Result<()> {
    let pod = held(harness, "attacked").await?;
    ensure!(gates(&pod) == ["example.com/quota", GATE], "{:?}", gates(&pod));
    let merge = "application/merge-patch+json";
    let strategic = "application/strategic-merge-patch+json";
    for (what, body) in [
        ("all gates by JSON patch", off()),
        (
            "ours by JSON patch",
            ("application/json-patch+json", json!([{"op": "remove", "path": "/spec/schedulingGates/1"}])),
        ),
        ("all by merge patch", (merge, json!({"spec": {"schedulingGates": null}}))),
        ("an empty list", (merge, json!({"spec": {"schedulingGates": []}}))),
        ("ours alone, the other stays", (merge, json!({"spec": {"schedulingGates": [{"name": "example.com/quota"}]}}))),
        ("by strategic merge", (strategic, json!({"spec": {"schedulingGates": [{"$patch": "delete", "name": GATE}]}}))),
        (
            "with another value of the annotation",
            (
                merge,
                json!({"metadata": {"annotations": {"linkerd-gate/release": "yes"}},
            "spec": {"schedulingGates": null}}),
            ),
        ),
        (
            "with a label of that name",
            (
                merge,
                json!({"metadata": {"labels": {"linkerd-gate/release": "true"}},
            "spec": {"schedulingGates": null}}),
            ),
        ),
    ] {
        ensure_refused(what, patch(&harness.admin, &pod, &body, "").await)?;
    }
    // As controllers write: the whole object.
    let pods: Api<Pod> = Api::namespaced(harness.admin.clone(), "shop");
    let mut whole = pods.get("attacked").await?;
    whole.spec.as_mut().context("a spec")?.scheduling_gates = None;
    let replaced = pods.replace("attacked", &PostParams::default(), &whole).await;
    ensure_refused("by replacing the object", replaced.map_err(|error| error.to_string()))?;
    // The same name in another namespace is not the controller.
    let accounts: Api<ServiceAccount> = Api::namespaced(harness.admin.clone(), "shop");
    let account = json!({"metadata": {"name": CONTROLLER.1}});
    accounts.create(&PostParams::default(), &serde_json::from_value(account)?).await?;
    let impostor = privileged(harness, "shop", CONTROLLER.1).await?;
    ensure_refused("by an account of that name elsewhere", patch(&impostor, &pod, &off(), "").await)?;
    let left = pods.get("attacked").await?;
    ensure!(gates(&left) == ["example.com/quota", GATE], "{:?}", gates(&left));
    Ok(())
}

/// In one patch, as `linkerd-gate release` does, and in two, as by hand.
async fn a_person_may(harness: &Harness) -> Result<()> {
    let merge = "application/merge-patch+json";
    let both = json!({"metadata": {"annotations": {"linkerd-gate/release": "true"}},
        "spec": {"schedulingGates": [{"name": "example.com/quota"}]}});
    let released = patch(&harness.admin, &held(harness, "at-once").await?, &(merge, both), "").await;
    let released = released.map_err(anyhow::Error::msg)?;
    ensure!(gates(&released) == ["example.com/quota"], "{:?}", gates(&released));
    let pod = held(harness, "in-two-steps").await?;
    let annotated = json!({"metadata": {"annotations": {"linkerd-gate/release": "true"}}});
    patch(&harness.admin, &pod, &(merge, annotated), "").await.map_err(anyhow::Error::msg)?;
    patch(&harness.admin, &pod, &off(), "").await.map_err(anyhow::Error::msg)?;
    Ok(())
}

async fn the_controller_may(harness: &Harness) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(harness.admin.clone(), CONTROLLER.0);
    let account = json!({"metadata": {"name": CONTROLLER.1}});
    accounts.create(&PostParams::default(), &serde_json::from_value(account)?).await?;
    let controller = privileged(harness, CONTROLLER.0, CONTROLLER.1).await?;
    let released = patch(&controller, &held(harness, "by-the-controller").await?, &off(), "").await;
    ensure!(gates(&released.map_err(anyhow::Error::msg)?).is_empty(), "it is held");
    Ok(())
}

/// Nothing gives a pod a container later: one that was held beside its proxy, by a webhook that puts our gate back, say.
async fn a_pod_with_a_proxy_may_lose_it(harness: &Harness) -> Result<()> {
    // Without hold, which takes it off by itself.
    harness.delete("mutatingadmissionpolicybindings/linkerd-gate-hold").await?;
    let asking: Pod = serde_json::from_value(pod("web").in_namespace("shop").running("app:test").json())?;
    harness.until("hold is gone", &asking, Answer::is_missed).await?;
    let proxy = json!({"name": "linkerd-proxy", "image": "proxy:test"});
    let native = pod("native").with_init_container(merged(&proxy, json!({"restartPolicy": "Always"}))).json();
    let mut classic = pod("classic").json();
    classic["spec"]["containers"].as_array_mut().context("containers")?.push(proxy);
    for mut meshed in [native, classic] {
        meshed["metadata"]["namespace"] = "shop".into();
        meshed["spec"]["schedulingGates"] = json!([{"name": GATE}]);
        let Answer::Held(pod, _) = create(&harness.admin, &serde_json::from_value(meshed)?).await? else {
            bail!("it is not held");
        };
        patch(&harness.admin, &pod, &off(), "").await.map_err(anyhow::Error::msg)?;
    }
    harness.await_admission(Admission::Hold, true, Parameters::Labelled).await
}

fn merged(base: &Value, over: Value) -> Value {
    let mut merged = base.clone();
    if let (Some(base), Value::Object(over)) = (merged.as_object_mut(), over) {
        base.extend(over);
    }
    merged
}

/// Of a held pod everything else may change, as of every other pod; other programs' gates too.
async fn everything_else_stays_possible(harness: &Harness) -> Result<()> {
    let pod = held(harness, "changed").await?;
    let merge = "application/merge-patch+json";
    for (what, body) in [
        ("another gate goes", json!({"spec": {"schedulingGates": [{"name": GATE}]}})),
        ("labels and annotations", json!({"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}})),
        ("a node selector", json!({"spec": {"nodeSelector": {"pool": "a"}}})),
        ("a finalizer", json!({"metadata": {"finalizers": ["example.com/kept"]}})),
        ("and none", json!({"metadata": {"finalizers": null}})),
    ] {
        patch(&harness.admin, &pod, &(merge, body), "").await.map_err(|said| anyhow::anyhow!("{what}: {said}"))?;
    }
    let pods: Api<Pod> = Api::namespaced(harness.admin.clone(), "shop");
    let status = Patch::Merge(json!({"status": {"reason": "Looked"}}));
    pods.patch_status("changed", &PatchParams::default(), &status).await.context("its status")?;
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": "debug:test"}]}});
    let parameters = PatchParams::default();
    let debugger = Patch::Strategic(debugger);
    pods.patch_ephemeral_containers("changed", &parameters, &debugger).await.context("an ephemeral container")?;
    let left = pods.get("changed").await?;
    ensure!(gates(&left) == [GATE], "{:?}", gates(&left));

    // A pod that was never held loses its gates as ever.
    let quiet = json!([{"name": "example.com/quota"}]);
    let quiet = self::pod("quiet").in_namespace("shop").not_asking().spec_field("schedulingGates", quiet).json();
    let Answer::Admitted(quiet, _) = create(&harness.admin, &serde_json::from_value(quiet)?).await? else {
        bail!("it is not admitted");
    };
    patch(&harness.admin, &quiet, &off(), "").await.map_err(anyhow::Error::msg)?;
    Ok(())
}

/// Deletion, with a finalizer that is taken off while the pod goes, and of a collection.
async fn the_ends_of_a_held_pod_are_never_in_its_way(harness: &Harness) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(harness.admin.clone(), "shop");
    let pod = held(harness, "going").await?;
    let merge = "application/merge-patch+json";
    let kept = json!({"metadata": {"finalizers": ["example.com/kept"]}});
    patch(&harness.admin, &pod, &(merge, kept), "").await.map_err(anyhow::Error::msg)?;
    pods.delete("going", &DeleteParams::default()).await?;
    let going = pods.get("going").await?;
    ensure!(going.metadata.deletion_timestamp.is_some() && gates(&going).contains(&GATE), "{:?}", going.metadata);
    let free = json!({"metadata": {"finalizers": null}});
    patch(&harness.admin, &pod, &(merge, free), "").await.map_err(anyhow::Error::msg)?;
    ensure!(pods.get_opt("going").await?.is_none(), "it is still there");
    held(harness, "one-of-many").await?;
    pods.delete_collection(&DeleteParams::default(), &kube::api::ListParams::default()).await?;
    let asking: Pod = serde_json::from_value(self::pod("one-of-many").in_namespace("shop").running("app:test").json())?;
    ensure!(dry_run(&harness.admin, &asking).await?.is_held(), "the name is taken");
    Ok(())
}

/// A client with a service account's token, which may do everything as far as RBAC goes.
async fn privileged(harness: &Harness, namespace: &str, account: &str) -> Result<Client> {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": format!("test-{namespace}-{account}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    harness.request(Method::POST, path, "application/json", &binding).await?;
    let client = harness.cluster.client_as(namespace, account).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    // RBAC follows a moment later.
    let allowed = async { while pods.list(&kube::api::ListParams::default().limit(1)).await.is_err() {} };
    tokio::time::timeout(PATIENCE, allowed).await.context("it has no rights")?;
    Ok(client)
}
