//! Linkerd without linkerd-gate: what is wrong with it, and with pods.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::object::{namespace, pod};
use linkerd_gate_kit::standin::Fault;
use serde_json::{Value, json};

use crate::stage::{Ran, Stage, control_plane, running};

/// What is said as long as linkerd-gate is not installed.
const BASE: [&str; 2] = ["LG102 warning", "LG403 warning"];

fn and<'a>(more: &[&'a str]) -> Vec<&'a str> {
    BASE.iter().chain(more).copied().collect()
}

/// A webhook of another program's.
fn other(kind: &str, name: &str, service_namespace: &str, policy: &str, selector: &Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "webhooks": [{
            "name": "other.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": policy, "namespaceSelector": selector, "timeoutSeconds": 1,
            "clientConfig": {"service": {"namespace": service_namespace, "name": "other"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        }],
    })
}

// === impl Stage ===

impl Stage {
    pub async fn linkerd_is_there(&self) -> Result<()> {
        self.finds("Linkerd is there", &[], &BASE).await?;
        self.finds("Linkerd is there, before installing", &["--pre"], &["LG403 warning"]).await?;

        self.injector.suffer(Fault::Absent).await?;
        let report = self.finds("the injector is away", &[], &and(&["LG301 error", "LG404 warning"])).await?;
        ensure!(report.to_string().contains("linkerd check"), "{report:#}");
        self.injector.recover().await?;

        let mut webhook = self.webhook();
        webhook["webhooks"][0]["clientConfig"]["caBundle"] = "Cg==".into();
        self.apply(&webhook).await?;
        self.finds("a placeholder for a bundle", &[], &and(&["LG301 error", "LG404 error"])).await?;

        let mut webhook = self.webhook();
        webhook["webhooks"][0]["failurePolicy"] = "Fail".into();
        self.apply(&webhook).await?;
        self.finds("failing closed", &[], &["LG102 warning"]).await?;

        let mut webhook = self.webhook();
        webhook["webhooks"][0]["matchConditions"] = json!([{"name": "any", "expression": "true"}]);
        self.apply(&webhook).await?;
        self.finds("match conditions", &[], &and(&["LG204 warning"])).await?;
        self.apply(&self.webhook()).await?;

        let mut second = self.webhook();
        second["metadata"]["name"] = "a-stale-one".into();
        self.apply(&second).await?;
        self.finds("two Linkerds", &[], &and(&["LG402 warning"])).await?;
        self.kubectl(&["delete", "mutatingwebhookconfiguration", "a-stale-one"], "").await?;

        self.apply(&other("MutatingWebhookConfiguration", "zz-other", "other", "Ignore", &json!({}))).await?;
        let report = self.finds("a later webhook", &[], &and(&["LG205 warning"])).await?;
        ensure!(report.to_string().contains("mutatingwebhookconfiguration/zz-other"), "{report:#}");
        self.kubectl(&["delete", "mutatingwebhookconfiguration", "zz-other"], "").await?;

        let itself = json!({"matchLabels": {"kubernetes.io/metadata.name": "policy"}});
        self.kubectl(&["create", "namespace", "policy"], "").await?;
        self.apply(&other("ValidatingWebhookConfiguration", "policy", "policy", "Fail", &itself)).await?;
        let report = self.finds("a webhook that needs itself", &[], &and(&["LG802 warning"])).await?;
        ensure!(
            report.to_string().contains("validatingwebhookconfiguration/policy: called for pods of policy"),
            "{report:#}"
        );
        self.kubectl(&["delete", "validatingwebhookconfiguration", "policy"], "").await?;

        for (name, namespace, found) in [
            ("a namespace left out", namespace("odd").asking().without_admission_webhooks(), "LG405 warning"),
            (
                "an annotation that breaks the patch",
                namespace("odd").annotated("config.linkerd.io/proxy-log-level", "a\"b"),
                "LG406 error",
            ),
            ("a word that is none", namespace("odd").annotated("linkerd.io/inject", "Enabled"), "LG407 warning"),
        ] {
            self.cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
            let report = self.finds(name, &[], &and(&[found])).await?;
            ensure!(report.to_string().contains("namespace/odd"), "{report:#}");
            self.kubectl(&["delete", "namespace", "odd", "--wait"], "").await?;
        }

        self.apply(&control_plane("identity", 1, "edge-26.8.3")).await?;
        let report = self.finds("one replica", &[], &and(&["LG503 warning"])).await?;
        ensure!(report.to_string().contains("deployment/linkerd-identity -n linkerd"), "{report:#}");
        self.finds("one replica, suppressed", &["-S", "LG503=deployment/linkerd-identity -n linkerd"], &BASE).await?;
        let Ran { err, .. } = self.run(&["check", "-S", "LG503=deployment/none -n linkerd"]).await?;
        ensure!(err.contains("suppresses nothing"), "{err}");
        let Ran { code, err, .. } = self.run(&["check", "-S", "LG999"]).await?;
        ensure!(code == Some(2) && err.contains("LG999 is no code") && err.contains("for example"), "{err}");
        self.apply(&control_plane("identity", 2, "edge-26.8.3")).await?;

        let unread = ["LG102", "LG108", "LG202", "LG301", "LG401", "LG503", "LG601", "LG701", "LG801"]
            .map(|code| format!("{code} warning"));
        let unread: Vec<&str> = unread.iter().map(String::as_str).collect();
        let report = self.finds("no rights", &["--as", "jane"], &unread).await?;
        self.page("no-rights", &["--as", "jane"]).await?;
        for right in ["list mutatingwebhookconfigurations", "list nodes", "list namespaces"] {
            ensure!(report.to_string().contains(right), "{right}: {report:#}");
        }
        Ok(())
    }

    pub async fn pods_are_there(&self) -> Result<()> {
        let proxy = json!({"name": "linkerd-proxy", "image": "cr.l5d.io/linkerd/proxy:edge-26.8.3"});
        let meshed = |version: &str| {
            let mut pod = pod("web-1")
                .in_namespace("shop")
                .running("app:test")
                .labelled("linkerd.io/control-plane-ns", "linkerd")
                .annotated("linkerd.io/proxy-version", version)
                .json();
            pod["spec"]["containers"].as_array_mut().into_iter().flatten().next();
            if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
                containers.push(proxy.clone());
            }
            pod
        };
        self.pod(&meshed("edge-26.8.3"), running()).await?;
        let report = self.finds("a meshed pod that nothing guards", &[], &and(&["LG801 warning"])).await?;
        ensure!(report.to_string().contains("asked pods: 1 of 1 meshed"), "{report:#}");
        self.kubectl(&["delete", "pod", "web-1", "-n", "shop", "--force"], "").await?;
        self.pod(&meshed("edge-26.1.1"), running()).await?;
        self.finds("an old proxy", &[], &and(&["LG501 warning", "LG801 warning"])).await?;
        self.kubectl(&["delete", "pod", "web-1", "-n", "shop", "--force"], "").await?;

        for name in ["one", "two"] {
            let pod = pod(name)
                .in_namespace("linkerd")
                .running("linkerd:test")
                .labelled("linkerd.io/control-plane-component", "identity")
                .on_node("n1");
            self.pod(&pod.json(), running()).await?;
        }
        self.finds("all on one node", &[], &and(&["LG504 warning"])).await?;
        self.kubectl(&["delete", "pod", "one", "two", "-n", "linkerd", "--force"], "").await?;

        self.injector.suffer(Fault::Absent).await?;
        let bare = |name: &str| pod(name).in_namespace("shop").running("app:test");
        self.pod(&bare("waiting").json(), json!({"phase": "Pending"})).await?;
        let wrong = and(&["LG301 error", "LG404 warning", "LG701 error", "LG801 warning"]);
        let report = self.finds("a pod that waits, and that nothing holds", &[], &wrong).await?;
        ensure!(report.to_string().contains("pod/waiting -n shop"), "{report:#}");
        let mut held = bare("held").json();
        held["spec"]["schedulingGates"] = json!([{"name": "linkerd-gate/injected"}]);
        self.pod(&held, json!({"phase": "Pending"})).await?;
        self.pod(&bare("runs").json(), running()).await?;
        self.pod(&bare("forged").labelled("linkerd.io/control-plane-ns", "linkerd").json(), running()).await?;
        let broken = bare("broken").annotated("config.linkerd.io/proxy-version", "a\"b");
        self.pod(&broken.json(), running()).await?;
        self.injector.recover().await?;
        let wrong = and(&["LG701 error", "LG702 warning", "LG703 error", "LG704 error", "LG801 warning"]);
        let report = self.finds("pods outside the mesh", &[], &wrong).await?;
        for told in ["asked pods: 0 of 5 meshed", "pod/runs -n shop", "pod/forged -n shop", "breaks Linkerd's patch"] {
            ensure!(report.to_string().contains(told), "{told}: {report:#}");
        }
        self.finds("of another namespace", &["-n", "default"], &BASE).await?;
        self.kubectl(&["delete", "pods", "--all", "-n", "shop", "--force"], "").await?;
        Ok(())
    }

    /// Thirty bare pods, and every question of whoever finds them, by what a person types.
    pub async fn an_incident_is_understood(&self) -> Result<()> {
        self.injector.suffer(Fault::Absent).await?;
        for number in 0..30 {
            let (kind, owner) = match number % 3 {
                0 => ("ReplicaSet", "web-7d4b9c"),
                1 => ("StatefulSet", "db"),
                _ => ("Job", "import"),
            };
            let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
            let mut pod = pod(&format!("{owner}-{number}")).in_namespace("shop").running("app:test");
            if kind == "ReplicaSet" {
                pod = pod.labelled("pod-template-hash", "7d4b9c");
            }
            let mut pod = pod.json();
            let uid = format!("00000000-0000-0000-0000-00000000000{}", number % 3);
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": version, "kind": kind, "name": owner, "uid": uid, "controller": true}]);
            // The first three are held, the next three are about to start.
            if number < 3 {
                pod["spec"]["schedulingGates"] = json!([{"name": "linkerd-gate/injected"}]);
            }
            let status = if number < 6 { json!({"phase": "Pending"}) } else { running() };
            self.pod(&pod, status).await?;
        }
        self.injector.recover().await?;
        self.finds("thirty bare pods", &[], &and(&["LG701 error", "LG702 warning", "LG801 warning"])).await?;
        self.page("thirty-bare-pods", &[]).await?;
        let Ran { code, out, err } = self.run(&["explain", "-A", "--missed"]).await?;
        ensure!(code == Some(0), "{err}");
        let lines: Vec<_> = out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        ensure!(lines[0] == "NAMESPACE OWNER MISSED HELD REASON", "{out}");
        ensure!(lines[1].starts_with("shop deployment/web 10 1 the injector did not answer"), "{out}");
        ensure!(lines[4] == "30 of 30 pods that ask are outside the mesh, 3 of them held", "{out}");
        let Ran { out, .. } = self.run(&["explain", "-A", "--missed", "-o", "json"]).await?;
        let rows: Value = serde_json::from_str(&out)?;
        ensure!(rows.as_array().is_some_and(|rows| rows.len() == 3) && rows[0]["missed"] == 10, "{out}");
        let Ran { out, .. } = self.run(&["explain", "-A", "--missed", "-o", "commands"]).await?;
        let commands: Vec<_> = out.lines().collect();
        let place = |text: &str| commands.iter().position(|line| line.starts_with(text)).context(text.to_owned());
        let deleted = place("kubectl delete pod -n shop web-7d4b9c-0 web-7d4b9c-3")?;
        let restarted = place("kubectl rollout restart deployment/web -n shop")?;
        let set = place("kubectl rollout restart statefulset/db -n shop")?;
        ensure!(deleted < restarted && restarted < set && set < place("# job/import -n shop")?, "{out}");
        let Ran { out, .. } = self.run(&["explain", "--missed", "-n", "default"]).await?;
        ensure!(out == "0 of 0 pods that ask are outside the mesh, 0 of them held\n", "{out}");

        let Ran { code, out, err } = self.run(&["explain", "pod/db-7", "-n", "shop"]).await?;
        ensure!(code == Some(0) && out.starts_with("Pod shop/db-7\n  decision  inject\n"), "{out}{err}");
        ensure!(out.contains("it was missed, and runs outside the mesh") && !out.contains("assumed"), "{out}");
        let Ran { code, out, .. } =
            self.run(&["explain", "pods", "-n", "shop", "-l", "pod-template-hash=7d4b9c", "-o", "json"]).await?;
        let found: Value = serde_json::from_str(&out)?;
        ensure!(code == Some(0) && found.as_array().is_some_and(|all| all.len() == 10), "{out}");
        ensure!(found.as_array().into_iter().flatten().all(|pod| pod["missed"] == true), "{out}");
        let Ran { code, out, .. } = self.run(&["explain", "deploy/linkerd-identity", "-n", "linkerd"]).await?;
        ensure!(code == Some(0) && out.contains("not-called"), "{out}");
        let Ran { code, err, .. } = self.run(&["explain", "pod/none", "-n", "shop"]).await?;
        ensure!(code == Some(69) && err.contains("pods/none"), "{err}");
        let words = ["explain", "po/db-7", "ds/none", "po/none", "rs/none", "pod/db-1", "-n", "shop", "-o", "json"];
        let Ran { code, out, err } = self.run(&words).await?;
        let found: Value = serde_json::from_str(&out)?;
        ensure!(code == Some(69) && found.as_array().is_some_and(|all| all.len() == 2), "{out}{err}");
        ensure!(["daemonsets/none", "pods/none", "replicasets/none"].iter().all(|it| err.contains(it)), "{err}");
        let Ran { code, err, .. } = self.run(&["explain", "-A", "--fail-on", "missing-entry"]).await?;
        ensure!(code == Some(1) && err.contains("missing-entry"), "{err}");
        self.kubectl(&["delete", "pods", "--all", "-n", "shop", "--force"], "").await?;
        Ok(())
    }
}
