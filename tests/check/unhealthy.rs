//! Linkerd without linkerd-gate: what is wrong with it, and with pods.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::object::{namespace, pod};
use linkerd_gate_kit::standin::Fault;
use serde_json::{Value, json};

use crate::harness::{Harness, Ran, control_plane, running};

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

impl Harness {
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
        let report = self.finds("match conditions", &[], &and(&["LG204 warning"])).await?;
        self.paste(&report, "LG204").await?;
        self.finds("match conditions, mended", &[], &BASE).await?;

        let mut second = self.webhook();
        second["metadata"]["name"] = "a-stale-one".into();
        second["webhooks"][0]["clientConfig"]["service"]["namespace"] = "linkerd-old".into();
        self.apply(&second).await?;
        let report = self.finds("a webhook of a Linkerd that is gone", &[], &and(&["LG402 warning"])).await?;
        self.paste(&report, "LG402").await?;
        self.finds("a webhook of a Linkerd that is gone, mended", &[], &BASE).await?;
        self.install_second_linkerd("linkerd-edge").await?;
        let report = self.finds("two Linkerds", &[], &and(&["LG402 warning"])).await?;
        self.page("two-linkerds", &[]).await?;
        self.paste(&report, "LG402").await?;
        self.kubectl(&["delete", "mutatingwebhookconfiguration", "linkerd-edge-injector"], "").await?;
        self.kubectl(&["delete", "namespace", "linkerd-edge"], "").await?;

        self.apply(&other("MutatingWebhookConfiguration", "zz-other", "other", "Ignore", &json!({}))).await?;
        let report = self.finds("a later webhook", &[], &and(&["LG205 warning"])).await?;
        ensure!(report.to_string().contains("mutatingwebhookconfiguration/zz-other"), "{report:#}");
        self.paste(&report, "LG205").await?;
        self.finds("a later webhook, mended", &[], &BASE).await?;
        self.kubectl(&["delete", "mutatingwebhookconfiguration", "zz-other"], "").await?;

        let itself = json!({"matchLabels": {"kubernetes.io/metadata.name": "policy"}});
        self.kubectl(&["create", "namespace", "policy"], "").await?;
        self.apply(&other("ValidatingWebhookConfiguration", "policy", "policy", "Fail", &itself)).await?;
        let report = self.finds("a webhook that needs itself", &[], &and(&["LG802 warning"])).await?;
        ensure!(
            report.to_string().contains("validatingwebhookconfiguration/policy: called for pods of policy"),
            "{report:#}"
        );
        self.paste(&report, "LG802").await?;
        self.finds("a webhook that needs itself, mended", &[], &BASE).await?;
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
            self.paste(&report, found.split(' ').next().context("a code")?).await?;
            self.finds(&format!("{name}, mended"), &[], &BASE).await?;
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
        self.paste(&report, "LG108").await?;
        let may_not_send = and(&["LG108 warning", "LG301 warning", "LG404 warning"]);
        let report = self.finds("rights to read", &["--as", "jane"], &may_not_send).await?;
        self.paste(&report, "LG108").await?;
        self.finds("all rights", &["--as", "jane"], &BASE).await?;
        for role in ["clusterrole/linkerd-gate-check-reader", "clusterrolebinding/linkerd-gate-check-reader"] {
            self.kubectl(&["delete", role], "").await?;
        }
        self.kubectl(&["delete", "role,rolebinding", "linkerd-gate-check-prover", "-n", "default"], "").await?;
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
        ensure!(report.to_string().contains("pods that ask for Linkerd are meshed: 1 of 1"), "{report:#}");
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
        self.paste(&report, "LG703").await?;
        for part in [
            "pods that ask for Linkerd are meshed: 0 of 5",
            "pod/runs -n shop",
            "pod/forged -n shop",
            "breaks Linkerd's patch",
        ] {
            ensure!(report.to_string().contains(part), "{part}: {report:#}");
        }
        self.finds("of another namespace", &["-n", "default"], &BASE).await?;
        self.kubectl(&["delete", "pods", "--all", "-n", "shop", "--force"], "").await?;
        self.templates_are_mended().await
    }

    /// What the template of a workload says wrong is taken out of it.
    async fn templates_are_mended(&self) -> Result<()> {
        let label = ("linkerd.io/control-plane-ns", "linkerd");
        let annotation = ("config.linkerd.io/proxy-version", "a\"b");
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web", label.0: label.1}, "annotations": {annotation.0: annotation.1}},
                "spec": {"containers": [{"name": "app", "image": "app:test"}]},
            }},
        });
        self.apply(&deployment).await?;
        let pod = pod("web-7d4b9c-1").in_namespace("shop").running("app:test").labelled("pod-template-hash", "7d4b9c");
        let mut pod = pod.labelled(label.0, label.1).annotated(annotation.0, annotation.1).json();
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c",
            "uid": "00000000-0000-0000-0000-000000000000", "controller": true}]);
        self.injector.suffer(Fault::Absent).await?;
        self.pod(&pod, running()).await?;
        self.injector.recover().await?;
        let wrong = and(&["LG701 error", "LG703 error", "LG704 error", "LG801 warning"]);
        let report = self.finds("a template that is wrong", &[], &wrong).await?;
        self.paste(&report, "LG703").await?;
        self.paste(&report, "LG704").await?;
        let template = self.kubectl(&["get", "deployment", "web", "-n", "shop", "-o", "json"], "").await?;
        let template = serde_json::from_str::<Value>(&template)?["spec"]["template"]["metadata"].clone();
        ensure!(!template.to_string().contains("linkerd.io"), "{template}");
        self.kubectl(&["delete", "deployment", "web", "-n", "shop"], "").await?;
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

    /// Linkerd as its chart installs it, nothing of linkerd-gate, and thirty pods that came back bare: what a person types who has
    /// read ten lines of the README, and what that says.
    pub async fn an_unprepared_cluster_is_understood(&self) -> Result<()> {
        self.injector.suffer(Fault::Absent).await?;
        for number in 0..30 {
            let (version, kind, owner) = match number {
                0..12 => ("apps/v1", "ReplicaSet", "web-7d4b9c"),
                12..22 => ("apps/v1", "StatefulSet", "db"),
                22..29 => ("batch/v1", "Job", "import"),
                _ => ("", "", "shell"),
            };
            let mut pod = pod(&format!("{owner}-{number}")).in_namespace("shop").running("app:test");
            if kind == "ReplicaSet" {
                pod = pod.labelled("pod-template-hash", "7d4b9c");
            }
            let mut pod = pod.json();
            if !kind.is_empty() {
                let uid = format!("00000000-0000-0000-0000-0000000000{number:02}");
                pod["metadata"]["ownerReferences"] =
                    json!([{"apiVersion": version, "kind": kind, "name": owner, "uid": uid, "controller": true}]);
            }
            self.pod(&pod, running()).await?;
        }
        self.injector.recover().await?;
        self.finds("thirty pods came back bare", &["--pre"], &["LG403 warning", "LG701 error", "LG801 warning"])
            .await?;
        let commands: [&[&str]; 4] = [
            &["check", "--pre", "-o", "short"],
            &["explain", "-A", "--missed"],
            &["explain", "pod/db-12", "-n", "shop"],
            &["explain", "-A", "--missed", "-o", "commands"],
        ];
        self.pages("an-unprepared-cluster", &commands).await?;
        self.kubectl(&["delete", "pods", "--all", "-n", "shop", "--force"], "").await?;
        Ok(())
    }
}
