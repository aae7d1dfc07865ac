//! With the injector down: what asks is refused, or held, whoever creates it; everything else is admitted as it is.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use linkerd_gate::linkerd::names;
use linkerd_gate_kit::cluster::until_any;
use linkerd_gate_kit::object::{Namespace, control_plane, deployment, job, namespace, pod, stateful_set};
use serde_json::{Value, json};

use crate::answer::{Answer, dry_run};
use crate::harness::{Admission, Harness, PATIENCE, Parameters, manifests};

/// The node that a DaemonSet's pods are for. Nobody plays its kubelet.
const NODE: &str = "node-a";

#[tokio::test]
async fn with_the_injector_down_everything_but_what_asks_is_admitted() -> Result<()> {
    let harness = with_namespaces().await?;
    let asking: Pod = serde_json::from_value(pod("web").in_namespace("shop").running("app:test").json())?;
    for admission in [Admission::Refuse, Admission::Hold] {
        if admission == Admission::Hold {
            harness.await_admission(admission, true, Parameters::Labelled).await?;
        }
        let caught = async || match (dry_run(&harness.admin, &asking).await?, admission) {
            (Answer::Missed(_), Admission::Refuse) | (Answer::Held(..), Admission::Hold) => Ok(()),
            (other, _) => bail!("a pod that asks: {other:?}"),
        };
        caught().await?;
        for (what, pod) in others()? {
            let answer = dry_run(&harness.admin, &serde_json::from_value(pod)?).await?;
            ensure!(answer.is_admitted(), "{admission:?}: {what}: {answer:?}");
        }
        caught().await?;
    }
    Ok(())
}

#[tokio::test]
async fn owners_of_every_kind_see_the_refusal_and_others_get_pods() -> Result<()> {
    let harness = with_namespaces().await?;
    // Its controllers make a DaemonSet's pods for nodes; the API server taints it as not ready, which they tolerate.
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {}});
    harness.create_object("v1", "Node", "nodes", None, node).await?;

    for (namespace, asks) in [("shop", true), ("quiet", false)] {
        for owner in owners() {
            let kind = owner["kind"].as_str().context("a kind")?.to_owned();
            let version = owner["apiVersion"].as_str().context("a version")?.to_owned();
            let plural = format!("{}s", kind.to_lowercase());
            harness.create_object(&version, &kind, &plural, Some(namespace), owner).await?;
        }
        // A Deployment's pods are its ReplicaSet's.
        for kind in ["ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController"] {
            if asks {
                let said = failed_create_message(&harness, namespace, kind).await?;
                ensure!(said.contains("requests injection and has no linkerd-proxy"), "{kind}: {said}");
                ensure!(said.contains("retries after a pause"), "{kind}: {said}");
            } else {
                owned(&harness, namespace, kind).await?;
            }
        }
    }
    let pods: Api<Pod> = Api::namespaced(harness.admin.clone(), "shop");
    let slipped = pods.list(&ListParams::default()).await?.items;
    ensure!(slipped.is_empty(), "{} pods that ask were admitted", slipped.len());
    Ok(())
}

/// A cluster with the guard on, behind a Linkerd of Helm's, whose namespace has no labels.
async fn with_namespaces() -> Result<Harness> {
    let harness = Harness::set().await?;
    let text = std::fs::read_to_string(manifests().join("10-namespaces.yaml"))?;
    let ours: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let others = [
        namespace("shop").asking(),
        namespace("quiet"),
        namespace("cert-manager").asking(),
        namespace("outside").asking().without_admission_webhooks(),
        namespace("storage").asking().labelled("linkerd-gate/essential", "true"),
        // Even one that asks: its own pods are left out by their labels.
        namespace("linkerd").asking(),
    ];
    for namespace in others.into_iter().map(Namespace::json).chain(ours) {
        harness.cluster.create_namespace(&serde_json::from_value(namespace)?).await?;
    }
    harness.await_admission(Admission::Refuse, true, Parameters::Labelled).await?;
    Ok(harness)
}

/// Pods that must start whatever becomes of Linkerd, or that Linkerd has nothing to do with, each with what it is.
fn others() -> Result<Vec<(&'static str, Value)>> {
    let plain = |namespace: &str| pod("web").in_namespace(namespace).running("app:test");
    let proxy = json!({"name": names::container::PROXY, "image": "proxy:test", "restartPolicy": "Always"});
    let mut classic = plain("shop").json();
    let containers = classic["spec"]["containers"].as_array_mut().context("containers")?;
    containers.push(json!({"name": names::container::PROXY, "image": "proxy:test"}));

    let mut others = vec![
        ("a pod that does not ask", plain("quiet").json()),
        ("a pod that declines in a namespace that asks", plain("shop").not_asking().json()),
        ("a value that Linkerd does not know", plain("shop").annotated("linkerd.io/inject", "true").json()),
        ("a pod on its host's network", plain("shop").on_the_hosts_network().json()),
        ("a pod in kube-system that asks", plain("kube-system").asking().json()),
        ("a pod in cert-manager", plain("cert-manager").json()),
        ("a pod in a namespace that Linkerd's webhooks leave out", plain("outside").asking().json()),
        ("a pod that the gate waits for", plain("storage").json()),
        ("a pod where the injector is, even if it asks", plain("linkerd").asking().json()),
        ("Linkerd's CNI", plain("shop").labelled(names::label::CNI_RESOURCE, "true").json()),
        ("an injected pod", plain("shop").with_init_container(proxy).json()),
        ("an injected pod with a classic sidecar", classic),
        ("a pod in our own namespace that asks", plain("linkerd-gate").asking().json()),
        ("a proof of injection", plain("linkerd-gate-probe").json()),
        ("our own agent", from_template("linkerd-gate", &agent()?)),
    ];
    let plane = control_plane("linkerd", "linkerd:test", "/linkerd-standin")?;
    for (what, workload) in [
        ("Linkerd's identity", plane.identity()),
        ("Linkerd's injector", plane.injector()?),
        ("Linkerd's destination", plane.destination()),
    ] {
        others.push((what, from_template("linkerd", &workload.json())));
    }
    Ok(others)
}

/// One of each kind, with three pods where it says how many.
fn owners() -> Vec<Value> {
    let pods = || pod("any").running("app:test");
    let mut daemon_set = deployment("daemons").of(pods()).json();
    daemon_set["kind"] = "DaemonSet".into();
    if let Some(spec) = daemon_set["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    let controller = json!({
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": "controlled"},
        "spec": {"replicas": 3, "selector": {"app": "controlled"}, "template": {
            "metadata": {"labels": {"app": "controlled"}},
            "spec": {"containers": [{"name": "app", "image": "app:test"}]},
        }},
    });
    vec![
        deployment("replicated").replicas(3).of(pods()).json(),
        stateful_set("stateful").replicas(3).of(pods()).json(),
        daemon_set,
        job("once").of(pods()).json(),
        controller,
    ]
}

/// What the first event says by which such an owner learns that a pod was refused.
async fn failed_create_message(harness: &Harness, namespace: &str, kind: &str) -> Result<String> {
    let events: Api<Event> = Api::namespaced(harness.admin.clone(), namespace);
    let what = format!("a {kind} gets an Event");
    let refused = ListParams::default().fields(&format!("reason=FailedCreate,involvedObject.kind={kind}"));
    until_any(&events, &refused, &what, PATIENCE, |events| events.values().find_map(|event| event.message.clone()))
        .await
}

/// Waits for a pod that such an owner has.
async fn owned(harness: &Harness, namespace: &str, kind: &str) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(harness.admin.clone(), namespace);
    let what = format!("a {kind} has a pod");
    until_any(&pods, &ListParams::default(), &what, PATIENCE, |pods| {
        let by_it = |pod: &&Pod| pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == kind);
        pods.values().find(by_it).and_then(|pod| pod.metadata.name.clone())
    })
    .await
}

/// The pod that a workload makes of its template.
fn from_template(namespace: &str, workload: &Value) -> Value {
    let mut pod = workload["spec"]["template"].clone();
    pod["metadata"]["name"] = "one-of-them".into();
    pod["metadata"]["namespace"] = namespace.into();
    // An account that is not there is refused before any policy is asked.
    pod["spec"]["serviceAccountName"] = "default".into();
    pod
}

fn agent() -> Result<Value> {
    let text = std::fs::read_to_string(manifests().join("40-agent.yaml"))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    documents.into_iter().find(|document| document["kind"] == "DaemonSet").context("a DaemonSet")
}

// === impl Stage ===

impl Harness {
    async fn create_object(
        &self,
        version: &str,
        kind: &str,
        plural: &str,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<()> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource =
            ApiResource::from_gvk_with_plural(&kube::core::GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.admin.clone(), namespace, &resource),
            None => Api::all_with(self.admin.clone(), &resource),
        };
        api.create(&kube::api::PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    }
}
