//! What the controller needs, and what it must not have.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate::decide::node::taint::{TAINT_EFFECT, TAINT_KEY};
use linkerd_gate::decide::repair::object::{RETRIED_AT, SUSPENDED};
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

use super::ungate::held_pod;
use super::{deletion, job, missed, owned, preconditions};
use crate::harness::{Harness, NAMESPACE, PATIENCE, PROBE, manifests, optional};
use crate::rights::{Question, Rights};
use crate::write::{Write, get, send};

/// What the controller needs. Eviction is not among it (`optional/70-controller-eviction-rbac.yaml`).
pub const RIGHTS: [Rights; 17] = [
    (None, "pods", None, &["list", "watch", "patch", "delete"]),
    (None, "namespaces", None, &["list", "watch"]),
    (None, "replicasets.apps", None, &["list", "watch", "patch"]),
    (None, "statefulsets.apps", None, &["list", "watch", "patch"]),
    (None, "daemonsets.apps", None, &["list", "watch", "patch"]),
    (None, "jobs.batch", None, &["list", "watch", "patch"]),
    (None, "replicationcontrollers", None, &["list", "watch"]),
    (None, "nodes", None, &["list", "watch", "patch"]),
    (None, "events", None, &["list", "watch", "create"]),
    (None, "mutatingwebhookconfigurations.admissionregistration.k8s.io", None, &["list", "watch"]),
    (None, "mutatingadmissionpolicybindings.admissionregistration.k8s.io", Some("linkerd-gate-hold"), &["get"]),
    (None, "validatingadmissionpolicybindings.admissionregistration.k8s.io", Some("linkerd-gate-guard"), &["get"]),
    (None, "endpointslices.discovery.k8s.io", None, &["list", "watch"]),
    (Some(NAMESPACE), "leases.coordination.k8s.io", None, &["create"]),
    (Some(NAMESPACE), "leases.coordination.k8s.io", Some("linkerd-gate-controller"), &["list", "watch", "patch"]),
    (Some(NAMESPACE), "leases.coordination.k8s.io", Some("linkerd-gate"), &["list", "watch"]),
    (Some(PROBE), "pods", None, &["create"]),
];

/// What an intruder would want first.
pub const DANGEROUS: [Question; 45] = [
    ("shop", "pods", None, "create"),
    ("shop", "pods", None, "update"),
    ("shop", "pods", None, "deletecollection"),
    (NAMESPACE, "pods", None, "create"),
    ("shop", "pods/eviction", None, "create"),
    ("shop", "pods/exec", None, "create"),
    ("shop", "pods/exec", None, "get"),
    ("shop", "pods/attach", None, "create"),
    ("shop", "pods/portforward", None, "create"),
    ("shop", "pods/ephemeralcontainers", None, "patch"),
    ("shop", "pods/binding", None, "create"),
    ("shop", "pods/resize", None, "patch"),
    ("shop", "pods/status", None, "patch"),
    ("shop", "pods/log", None, "get"),
    ("shop", "replicasets.apps", None, "create"),
    ("shop", "replicasets.apps", None, "delete"),
    ("shop", "replicasets/scale.apps", None, "patch"),
    ("shop", "replicasets/status.apps", None, "patch"),
    ("shop", "deployments.apps", None, "patch"),
    ("shop", "statefulsets.apps", None, "create"),
    ("shop", "daemonsets.apps", None, "create"),
    ("shop", "daemonsets.apps", None, "delete"),
    ("shop", "jobs.batch", None, "create"),
    ("shop", "jobs.batch", None, "delete"),
    ("shop", "jobs/status.batch", None, "patch"),
    ("shop", "cronjobs.batch", None, "create"),
    ("shop", "replicationcontrollers", None, "patch"),
    ("", "nodes", None, "delete"),
    ("", "nodes", None, "create"),
    ("", "nodes/status", None, "patch"),
    ("", "nodes/proxy", None, "get"),
    ("", "namespaces", None, "patch"),
    ("", "namespaces", None, "delete"),
    ("shop", "events", None, "delete"),
    ("shop", "events", None, "patch"),
    ("kube-system", "secrets", None, "get"),
    (NAMESPACE, "secrets", None, "list"),
    ("kube-system", "configmaps", None, "get"),
    (NAMESPACE, "serviceaccounts/token", None, "create"),
    (NAMESPACE, "leases.coordination.k8s.io", Some("linkerd-gate"), "patch"),
    (NAMESPACE, "leases.coordination.k8s.io", Some("linkerd-gate-controller"), "delete"),
    ("kube-system", "leases.coordination.k8s.io", None, "create"),
    ("", "clusterrolebindings.rbac.authorization.k8s.io", None, "create"),
    ("", "validatingadmissionpolicies.admissionregistration.k8s.io", None, "delete"),
    ("", "mutatingwebhookconfigurations.admissionregistration.k8s.io", None, "patch"),
];

/// Every kind of request that a controller makes, with the rights that the manifests give and no others; then an eviction, when
/// somebody has switched it on.
pub async fn day(harness: &Harness) -> Result<()> {
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    for path in [
        "/api/v1/pods",
        "/api/v1/namespaces",
        "/apis/apps/v1/replicasets",
        "/apis/apps/v1/statefulsets",
        "/apis/apps/v1/daemonsets",
        "/apis/batch/v1/jobs",
        "/api/v1/replicationcontrollers",
        "/api/v1/nodes",
        "/api/v1/events?fieldSelector=reason%3DFailedCreate",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases?fieldSelector=metadata.name%3Dlinkerd-gate-controller",
        "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases?fieldSelector=metadata.name%3Dlinkerd-gate",
    ] {
        get(&controller, path).await.with_context(|| format!("GET {path}"))?;
    }
    let held = owned(harness, "shop", missed("day")).await?;
    send(&controller, &deletion(harness, &held).await?).await?;
    // What it does to pods that our gate holds: it lets one go, and lets a Job forget another.
    let gate = held_pod(harness, "day-held").await?;
    send(&controller, &Write::json_patch(&gate, &json!([{"op": "remove", "path": "/spec/schedulingGates/1"}]))).await?;
    let tracked = held_pod(harness, "day-tracked").await?;
    send(&controller, &Write::json_patch(&tracked, &json!([{"op": "remove", "path": "/metadata/finalizers/1"}])))
        .await?;
    for path in
        ["mutatingadmissionpolicybindings/linkerd-gate-hold", "validatingadmissionpolicybindings/linkerd-gate-guard"]
    {
        // Whether or not it is bound here: it may look.
        let path = format!("/apis/admissionregistration.k8s.io/v1/{path}");
        if let Err(error) = get(&controller, &path).await {
            ensure!(error.to_string().contains("not found"), "GET {path}: {error:#}");
        }
    }
    let proof = pod("linkerd-gate-probe").running("app:test").json();
    send(&controller, &Write::create(&format!("/api/v1/namespaces/{PROBE}/pods"), &proof).dry_run()).await?;

    let retry = json!({"metadata": {"annotations": {RETRIED_AT: "2026-01-01T00:00:00Z"}}});
    let template = json!({"metadata": {"labels": {"app": "day"}}, "spec": missed("day")["spec"]});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"app": "day"}}, "template": template});
    for kind in ["replicasets", "statefulsets"] {
        let path = format!("/apis/apps/v1/namespaces/shop/{kind}");
        let mut owner = json!({"metadata": {"name": "day"}, "spec": spec});
        if kind == "statefulsets" {
            owner["spec"]["serviceName"] = "day".into();
        }
        send(&admin, &Write::create(&path, &owner)).await?;
        send(&controller, &Write::merge(&format!("{path}/day"), &retry)).await?;
    }
    send(&controller, &Write::merge("/apis/apps/v1/namespaces/linkerd-gate/daemonsets/linkerd-gate", &retry)).await?;
    let jobs = "/apis/batch/v1/namespaces/shop/jobs";
    send(&admin, &Write::create(jobs, &job("day", false))).await?;
    for (suspend, mark) in [(true, json!("2026-01-01T00:00:00Z")), (false, Value::Null), (true, json!("later"))] {
        let pause = json!({"metadata": {"annotations": {SUSPENDED: mark}}, "spec": {"suspend": suspend}});
        send(&controller, &Write::merge(&format!("{jobs}/day"), &pause)).await?;
    }

    let closed = json!({"key": TAINT_KEY, "value": "3f2a9c1e5b1d-7", "effect": TAINT_EFFECT});
    let close = json!([{"op": "add", "path": "/spec/taints/-", "value": closed}]);
    let node = send(&admin, &Write::json_patch("/api/v1/nodes/node-b", &close)).await?;
    let ours = node["spec"]["taints"].as_array().context("taints")?.len() - 1;
    let open = json!([{"op": "remove", "path": format!("/spec/taints/{ours}")}]);
    send(&controller, &Write::json_patch("/api/v1/nodes/node-b", &open)).await?;

    let holder = format!("node-a/{}/boot", harness.controllers_pod().await?);
    let lease = json!({"metadata": {"name": "linkerd-gate-controller"}, "spec": {"holderIdentity": holder}});
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    send(&controller, &Write::create(&leases, &lease)).await?;
    let renewal = json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    send(&controller, &Write::merge(&format!("{leases}/linkerd-gate-controller"), &renewal)).await?;
    let event = json!({
        "metadata": {"generateName": "linkerd-gate-"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "day", "namespace": "shop"},
        "source": {"component": "linkerd-gate"},
    });
    send(&controller, &Write::create("/api/v1/namespaces/shop/events", &event)).await?;
    evicts_once_it_may(harness).await
}

async fn evicts_once_it_may(harness: &Harness) -> Result<()> {
    let controller = harness.controller().await?;
    let path = owned(harness, "shop", missed("evicted-by-day")).await?;
    let options = json!({"preconditions": preconditions(harness, &path).await?});
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "evicted-by-day"},
        "deleteOptions": options,
    });
    let evict = Write::create(&format!("{path}/eviction"), &eviction);
    let refused = send(&controller, &evict).await;
    ensure!(refused.as_ref().is_err_and(|refusal| refusal.code == 403), "{refused:?}");
    ensure!(optional("70-controller-eviction-rbac.yaml")?.len() == 2, "another right than that");
    kubectl(harness, &["apply", "--validate=strict", "--filename", "optional/70-controller-eviction-rbac.yaml"])
        .await?;
    // RBAC follows a change a moment later.
    let evicted = async {
        loop {
            match send(&controller, &evict).await {
                Err(refusal) if refusal.code == 403 => tokio::task::yield_now().await,
                outcome => return outcome,
            }
        }
    };
    tokio::time::timeout(PATIENCE, evicted).await.context("it may not evict")??;

    // And to try out what would be made instead, which is a file of its own.
    let tried = pod("tried-out").running("app:test").json();
    let create = || Write::create("/api/v1/namespaces/shop/pods", &tried);
    let trying = create().dry_run();
    let refused = send(&controller, &trying).await;
    ensure!(refused.as_ref().is_err_and(|refusal| refusal.code == 403), "{refused:?}");
    ensure!(optional("74-controller-successors-rbac.yaml")?.len() == 2, "another right than that");
    kubectl(harness, &["apply", "--validate=strict", "--filename", "optional/74-controller-successors-rbac.yaml"])
        .await?;
    let counts = async {
        loop {
            match send(&controller, &trying).await {
                Err(refusal) if refusal.code == 403 => tokio::task::yield_now().await,
                outcome => return outcome,
            }
        }
    };
    tokio::time::timeout(PATIENCE, counts).await.context("it may not try out")??;
    let stored = send(&controller, &create()).await;
    ensure!(stored.as_ref().is_err_and(|refusal| refusal.by("linkerd-gate-controller-pods")), "{stored:?}");
    Ok(())
}

/// With the manifests' directory as the working directory. Returns what it printed.
async fn kubectl(harness: &Harness, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new(harness.cluster.kubectl());
    command.args(arguments).arg("--kubeconfig").arg(harness.cluster.kubeconfig()).current_dir(manifests());
    let output = command.stdin(std::process::Stdio::null()).output().await?;
    ensure!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The commands of `deploy/manifests/README.md` for Jobs that a controller suspended and nobody resumed: the one that lists
/// them, and the one that resumes one. The day above has left such a Job.
pub async fn readme_commands(harness: &Harness) -> Result<()> {
    let page = std::fs::read_to_string(manifests().join("README.md"))?;
    let command = |start: &str| -> Result<String> {
        let line = page.lines().find(|line| line.starts_with(start)).with_context(|| start.to_owned())?;
        Ok(line.to_owned())
    };
    let list = command("kubectl get jobs --all-namespaces ")?;
    let template = list.split('\'').nth(1).context("a template in quotes")?;
    let template = format!("go-template={template}");
    let found = kubectl(harness, &["get", "jobs", "--all-namespaces", "--output", &template]).await?;
    ensure!(found == "shop day\n", "{found:?}");

    let patch = command("kubectl patch job ")?;
    let patch = patch.split('\'').nth(1).context("a patch in quotes")?;
    kubectl(harness, &["patch", "job", "day", "--namespace", "shop", "--type", "merge", "--patch", patch]).await?;
    let job = get(&harness.admin().await?, "/apis/batch/v1/namespaces/shop/jobs/day").await?;
    ensure!(job["spec"]["suspend"] == false && job["metadata"]["annotations"].get(SUSPENDED).is_none(), "{job:#}");
    Ok(())
}
