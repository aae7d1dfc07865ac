//! `release`, `recreate` and `uninstall` on a genuine API server, with held pods of mixed owners: from nothing to what
//! `deploy/manifests` installs and back to nothing, the injector down and up. The injector is a stand-in.

mod harness;

use anyhow::{Context as _, Result, ensure};
use harness::{Harness, PATIENCE, has_proxy, object};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::decide::hold;
use linkerd_gate::decide::repair::object::SUSPENDED;
use linkerd_gate_kit::cluster::{until, until_any};
use linkerd_gate_kit::object::{deployment, job, pod, stateful_set};
use linkerd_gate_kit::standin::Fault;
use serde_json::{Value, json};

#[tokio::test]
async fn what_is_held_is_let_go_and_nothing_is_left() -> Result<()> {
    let stage = Harness::set().await?;
    let exercise = async {
        stage.install().await?;
        stage.releases_one_pod_and_makes_another_again().await?;
        stage.removes_everything_with_the_injector_down().await?;
        stage.install().await?;
        stage.removes_everything_with_the_injector_up().await
    };
    stage.cluster.reported(&[], exercise).await
}

// === impl Stage ===

impl Harness {
    async fn releases_one_pod_and_makes_another_again(&self) -> Result<()> {
        self.cluster_namespace("first").await?;
        self.injector.suffer(Fault::Absent).await?;
        self.until_held_in("first").await?;
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, "first");
        for name in ["released", "shell"] {
            pods.create(&PostParams::default(), &object(pod(name).running("app:1").json())?).await?;
        }

        // The gate stays where a person only patches it away, as another program would.
        let cleared = json!([{"op": "remove", "path": "/spec/schedulingGates"}]);
        let cleared = Patch::<()>::Json(serde_json::from_value(cleared)?);
        // Policies count a moment after they were written: tried until this one refuses.
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        let kept = async {
            while !pods
                .patch("released", &dry_run, &cleared)
                .await
                .is_err_and(|error| error.to_string().contains("linkerd-gate-release"))
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, kept).await.context("our gate can be cleared")?;
        let said = self.gate(&["release", "pod/released", "-n", "first"]).await?;
        ensure!(said.ok && said.out.contains("Warning: it starts outside the mesh"), "{said:?}");
        let released = pods.get("released").await?;
        ensure!(!hold::is_gated(&released) && hold::is_released(&released), "{released:?}");
        let events =
            self.kubectl(&["get", "events", "-n", "first", "--field-selector=reason=Released", "-o", "json"]).await?;
        ensure!(events.contains("\"type\": \"Warning\""), "{events}");
        let again = self.gate(&["release", "pod/released", "-n", "first"]).await?;
        ensure!(again.ok && again.out.contains("was released before"), "{again:?}");

        // While the injector is down, nothing is deleted.
        let said = self.gate(&["recreate", "pod/shell", "-n", "first"]).await?;
        ensure!(!said.ok && said.err.contains("nothing was done: in a dry run it comes back held again"), "{said:?}");
        let debug = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "shell:1"}]}});
        let debug = Patch::Strategic(debug);
        pods.patch_subresource("ephemeralcontainers", "shell", &PatchParams::default(), &debug).await?;
        let before = pods.get("shell").await?;
        self.injector.recover().await?;
        self.until_meshed_in("first").await?;
        let said = self.gate(&["recreate", "pod/shell", "-n", "first"]).await?;
        ensure!(said.ok && said.out.ends_with("created again, in the mesh\n"), "{said:?}");
        let after = pods.get("shell").await?;
        ensure!(after.metadata.uid != before.metadata.uid, "it is the same pod");
        ensure!(has_proxy(&after) && !hold::is_gated(&after), "{after:?}");
        let said = self.gate(&["recreate", "pod/shell", "-n", "first"]).await?;
        ensure!(!said.ok && said.err.contains("it is in the mesh"), "{said:?}");
        self.kubectl(&["delete", "pods", "--all", "-n", "first", "--grace-period=0", "--force"]).await.map(drop)
    }

    async fn removes_everything_with_the_injector_down(&self) -> Result<()> {
        self.cluster_namespace("down").await?;
        self.injector.suffer(Fault::Absent).await?;
        self.holds_one_of_each("down").await?;
        let marked = self.marks_what_we_mark("down").await?;

        let looked = self.gate(&["uninstall"]).await?;
        ensure!(looked.ok, "{looked:?}");
        for line in [
            "deployment/linkerd-gate-controller -n linkerd-gate: would be deleted, its pods first",
            "mutatingadmissionpolicybinding/linkerd-gate-hold: would be deleted",
            "pod/shell -n down: would be released, and start outside the mesh: no controller creates it again",
            "nothing was done: `linkerd-gate uninstall --now` does it",
        ] {
            ensure!(looked.out.lines().any(|said| said == line), "{line}: {looked:?}");
        }
        ensure!(self.gated("down").await?.len() == 5, "looking changed something: {looked:?}");

        let said = self.gate(&["uninstall", "--now"]).await?;
        ensure!(said.ok && said.out.contains("injection: not proven ("), "{said:?}");
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, "down");
        ensure!(self.gated("down").await?.is_empty(), "held pods are left: {said:?}");
        for pod in pods.list(&ListParams::default()).await? {
            // The suspended Job's came afterwards, when nothing was held any more.
            let released = hold::is_released(&pod);
            let name = pod.metadata.name.unwrap_or_default();
            ensure!(released || name.starts_with("suspended"), "{name} was not released");
        }
        self.is_without_our_marks("down", &marked).await?;
        let again = self.gate(&["uninstall", "--now"]).await?;
        ensure!(again.ok && again.out.contains("pods: none is held"), "{again:?}");
        self.leaves_nothing().await
    }

    async fn removes_everything_with_the_injector_up(&self) -> Result<()> {
        self.cluster_namespace("up").await?;
        self.injector.suffer(Fault::Absent).await?;
        self.holds_one_of_each("up").await?;
        let marked = self.marks_what_we_mark("up").await?;
        self.injector.recover().await?;
        self.until_meshed_in("up").await?;

        let said = self.gate(&["uninstall", "--now"]).await?;
        ensure!(said.ok && said.out.contains("injection: proven"), "{said:?}");
        ensure!(said.out.contains("pod/shell -n up: released"), "{said:?}");
        let client = self.cluster.client().await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), "up");
        for owner in ["web", "stock", "import"] {
            let labels = ListParams::default().labels(&format!("app={owner}"));
            until_any(&pods, &labels, "made again, in the mesh", PATIENCE, |pods| {
                let meshed = |pod: &Pod| has_proxy(pod) && !hold::is_gated(pod);
                (!pods.is_empty() && pods.values().all(meshed)).then_some(())
            })
            .await
            .with_context(|| owner.to_owned())?;
        }
        // The Job had no failure to spare, and has not failed.
        let job = Api::<Job>::namespaced(client, "up").get("import").await?;
        let status = job.status.unwrap_or_default();
        ensure!(status.failed.unwrap_or_default() == 0, "{status:?}");
        ensure!(status.conditions.unwrap_or_default().iter().all(|condition| condition.type_ != "Failed"), "it failed");
        self.is_without_our_marks("up", &marked).await?;
        self.leaves_nothing().await
    }

    /// A Deployment of two pods, a StatefulSet, a Job that may not fail, a pod without an owner: all held.
    async fn holds_one_of_each(&self, namespace: &str) -> Result<()> {
        self.until_held_in(namespace).await?;
        let app = |name: &str| pod(name).running("app:1");
        let import = job("import").backoff_limit(0).of(app("import").labelled("app", "import"));
        for workload in [
            deployment("web").replicas(2).of(app("web")).json(),
            stateful_set("stock").of(app("stock")).json(),
            import.json(),
            app("shell").json(),
        ] {
            self.create(namespace, &workload).await?;
        }
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, namespace);
        let all = ListParams::default();
        until_any(&pods, &all, "five held pods", PATIENCE, |pods| {
            (pods.len() == 5 && pods.values().all(hold::is_gated)).then_some(())
        })
        .await
    }

    /// What agents and a controller leave on a cluster: on a node, on a Job, in Leases. Returns the node's name.
    async fn marks_what_we_mark(&self, namespace: &str) -> Result<String> {
        let name = format!("node-{namespace}");
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            // No agent goes there: nothing here runs its pod, nor ends it.
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "windows"}, "annotations": {
                "linkerd-gate/opened-boot": "b", "linkerd-gate/override": "open 2026-01-01T00:00:00Z", "example.com/kept": "1"}},
            "spec": {"taints": [
                {"key": "linkerd-gate/closed", "value": "b", "effect": "NoSchedule"},
                {"key": "example.com/kept", "effect": "NoSchedule"},
            ]},
        });
        self.create("", &node).await?;
        let mut suspended = job("suspended").annotated(SUSPENDED, "2026-01-01T00:00:00Z");
        suspended = suspended.spec_field("suspend", true).of(pod("suspended").running("app:1"));
        self.create(namespace, &suspended.json()).await?;
        for lease in ["linkerd-gate", "linkerd-gate-controller"] {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": lease}});
            self.create("linkerd-gate", &lease).await?;
        }
        Ok(name)
    }

    async fn is_without_our_marks(&self, namespace: &str, node: &str) -> Result<()> {
        let client = self.cluster.client().await?;
        let node = Api::<Node>::all(client.clone()).get(node).await?;
        let annotations = node.metadata.annotations.unwrap_or_default();
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        ensure!(annotations.keys().all(|key| !key.starts_with("linkerd-gate/")), "{annotations:?}");
        ensure!(taints.iter().all(|taint| taint.key != "linkerd-gate/closed"), "{taints:?}");
        ensure!(annotations.contains_key("example.com/kept"), "{annotations:?}");
        ensure!(taints.iter().any(|taint| taint.key == "example.com/kept"), "{taints:?}");
        let jobs: Api<Job> = Api::namespaced(client, namespace);
        until(&jobs, "suspended", "resumed", PATIENCE, |job| {
            job.spec.as_ref().is_some_and(|spec| spec.suspend != Some(true))
                && job.metadata.annotations.as_ref().is_none_or(|all| !all.contains_key(SUSPENDED))
        })
        .await?;
        Ok(())
    }

    /// What the manifests installed goes by the one command that is documented, and then there is nothing of that name.
    async fn leaves_nothing(&self) -> Result<()> {
        self.remove().await?;
        for kinds in [
            "deployments.apps,daemonsets.apps,leases.coordination.k8s.io,serviceaccounts,roles,rolebindings,poddisruptionbudgets",
            "clusterroles,clusterrolebindings,namespaces",
            "validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingadmissionpolicies,mutatingadmissionpolicybindings",
        ] {
            let found = self.kubectl(&["get", kinds, "--all-namespaces", "--output=name"]).await?;
            let ours: Vec<&str> = found.lines().filter(|name| name.contains("linkerd-gate")).collect();
            ensure!(ours.is_empty(), "{ours:?} is left");
        }
        Ok(())
    }

    async fn gated(&self, namespace: &str) -> Result<Vec<Value>> {
        let listed = self.kubectl(&["get", "pods", "-n", namespace, "-o", "json"]).await?;
        let listed: Value = serde_json::from_str(&listed)?;
        let gated = |pod: &&Value| pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
        Ok(listed["items"].as_array().into_iter().flatten().filter(gated).cloned().collect())
    }
}
