//! Linkerd and linkerd-gate: nothing is wrong, and then one thing after another.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use linkerd_gate_kit::object::pod;
use linkerd_gate_kit::parts::find_helm;
use linkerd_gate_kit::standin::Fault;
use serde_json::{Value, json};

use crate::harness::{Harness, IMAGE, OURS, Ran, running};

/// The verdict of a gate that is open.
pub const OPEN: &str = r#"{"version":1,"gate":"open","basis":"proven","proof":1}"#;

// === impl Stage ===

impl Harness {
    /// What `install` prints, and what its parts would write once they run.
    pub async fn install_ours(&self) -> Result<()> {
        let Ran { code, out, err } = self.run(&["install", "--image", IMAGE]).await?;
        ensure!(code == Some(0), "{err}");
        self.kubectl(&["apply", "--server-side", "--filename=-"], &out).await?;
        self.parts_are_ready(2, 2).await?;
        for node in ["n1", "n2"] {
            self.node(node).await?;
            self.agent_on(node).await?;
        }
        self.lease("linkerd-gate", "n1", OPEN, SignedDuration::ZERO).await?;
        self.lease("linkerd-gate-controller", "linkerd-gate-controller-0", "", SignedDuration::ZERO).await?;
        Ok(())
    }

    pub async fn linkerd_gate_is_there(&self) -> Result<()> {
        self.install_ours().await?;
        self.finds("all is well", &[], &[]).await?;
        self.page("all-is-well", &[]).await?;
        self.the_api_server_goes_after_each_request().await?;
        self.a_certificate_is_looked_at().await?;
        self.a_cron_job_checks().await?;
        self.status_is_one_screen().await?;
        self.parts_fail().await?;
        self.admission_fails().await?;
        self.verdicts_are_reported().await?;
        self.nodes_are_reported().await?;
        self.held_pods_are_reported().await
    }

    /// The chart's CronJob: with its rights alone everything is looked at, and nothing can be changed; an error is an Event.
    async fn a_cron_job_checks(&self) -> Result<()> {
        let mut helm = std::process::Command::new(find_helm()?);
        helm.args(["template", "linkerd-gate", "deploy/chart", "--namespace", OURS, "--set"])
            .arg("check.enabled=true,image.repository=registry.example.com/linkerd-gate")
            .args(["--show-only", "templates/check/rights.yaml", "--show-only", "templates/check/cronjob.yaml"]);
        let output = helm.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rendered = String::from_utf8(output.stdout)?;
        self.kubectl(&["apply", "--server-side", "--filename=-"], &rendered).await?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&rendered)?;
        for role in documents.iter().filter(|it| it["kind"] == "ClusterRole") {
            for verb in
                role["rules"].as_array().into_iter().flatten().filter_map(|rule| rule["verbs"].as_array()).flatten()
            {
                ensure!(verb == "get" || verb == "list", "{role:#}");
            }
        }
        let job = documents.iter().find(|it| it["kind"] == "CronJob").context("a CronJob")?;
        let container = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
        let typed: Vec<String> = serde_json::from_value(container["args"].clone())?;
        let user = format!("system:serviceaccount:{OURS}:linkerd-gate-check");
        let typed: Vec<&str> = typed.iter().map(String::as_str).filter(|it| !it.starts_with("--wait")).collect();
        let groups = "--as-group=[system:serviceaccounts,system:authenticated]";
        let as_it: Vec<&str> = typed.iter().copied().chain(["--as", &user, groups]).collect();

        let Ran { code, out, err } = self.run(&as_it).await?;
        ensure!(code == Some(0) && out == "Status check results are √\n" && err.is_empty(), "{out}{err}");
        // In a pod it also looks for the injector's addresses; here there are none.
        let in_a_pod: Vec<&str> = as_it.iter().copied().chain(["--dial"]).collect();
        let Ran { code, out, err } = self.run(&in_a_pod).await?;
        ensure!(code == Some(0) && out == "Status check results are √\n" && err.is_empty(), "{out}{err}");
        let events = ["get", "events", "-n", OURS, "--field-selector=reason=CheckFailed", "-o", "json"];
        let events_in = |text: String| -> Result<Vec<Value>> {
            Ok(serde_json::from_str::<Value>(&text)?["items"].as_array().cloned().unwrap_or_default())
        };
        ensure!(events_in(self.kubectl(&events, "").await?)?.is_empty(), "an Event, and nothing is wrong");

        self.parts_are_ready(0, 2).await?;
        let Ran { code, err, .. } = self.run(&as_it).await?;
        ensure!(code == Some(1) && err.is_empty(), "{code:?} {err}");
        let found = events_in(self.kubectl(&events, "").await?)?;
        let [event] = found.as_slice() else { bail!("{found:#?}") };
        ensure!(event["involvedObject"]["kind"] == "CronJob" && event["type"] == "Warning", "{event:#}");
        ensure!(event["message"].as_str().is_some_and(|it| it.starts_with("LG103: 0 of 2 agents")), "{event:#}");
        self.parts_are_ready(2, 2).await?;

        // Nothing else: no other namespace's Events, no pod that stays.
        for words in [
            &["create", "events", "-n", "shop"][..],
            &["create", "pods", "-n", "shop"],
            &["get", "secrets", "-n", OURS],
            &["delete", "pods", "-n", OURS],
            &["patch", "nodes"],
        ] {
            let words: Vec<&str> =
                ["auth", "can-i"].into_iter().chain(words.iter().copied()).chain(["--as", &user]).collect();
            ensure!(self.kubectl(&words, "").await.is_err(), "{words:?}");
        }
        let pod = pod("stays").in_namespace("linkerd-gate-probe").running("app:test").json().to_string();
        let create = ["create", "--filename=-", "--as", &user];
        ensure!(self.kubectl(&create, &pod).await.is_err(), "it created a pod that stays");
        Ok(())
    }

    /// So many agents and controllers of two are ready.
    async fn parts_are_ready(&self, agents: u32, controllers: u32) -> Result<()> {
        let status = json!({"status": {
            "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberReady": agents, "numberMisscheduled": 0,
        }});
        self.patch_status("daemonset/linkerd-gate", &status).await?;
        let status = json!({"status": {"replicas": 2, "readyReplicas": controllers}});
        self.patch_status("deployment/linkerd-gate-controller", &status).await
    }

    async fn patch_status(&self, what: &str, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        let words = ["patch", what, "-n", OURS, "--subresource=status", "--type=merge", "--patch", &patch];
        self.kubectl(&words, "").await?;
        Ok(())
    }

    async fn agent_on(&self, node: &str) -> Result<()> {
        let pod = pod(&format!("agent-{node}"))
            .in_namespace(OURS)
            .not_asking()
            .running(IMAGE)
            .labelled("app.kubernetes.io/name", "linkerd-gate")
            .labelled("app.kubernetes.io/component", "agent")
            .on_node(node);
        self.pod(&pod.json(), running()).await?;
        Ok(())
    }

    /// A Lease that was renewed so long ago.
    pub async fn lease(&self, name: &str, holder: &str, verdict: &str, ago: SignedDuration) -> Result<()> {
        let renewed = Timestamp::now() - ago;
        let renewed = format!("{renewed:.6}");
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": OURS},
            "spec": {"holderIdentity": holder, "renewTime": renewed, "acquireTime": renewed, "leaseDurationSeconds": 15},
        });
        if !verdict.is_empty() {
            lease["metadata"]["annotations"] = json!({"linkerd-gate/verdict": verdict});
        }
        self.apply(&lease).await
    }

    async fn verdict(&self, verdict: &str) -> Result<()> {
        self.lease("linkerd-gate", "n1", verdict, SignedDuration::ZERO).await
    }

    async fn status_is_one_screen(&self) -> Result<()> {
        let Ran { code, out, err } = self.run(&["status"]).await?;
        ensure!(code == Some(0), "{err}");
        for line in [
            "verdict       open",
            "prover        n1, since",
            "nodes         2 of 2 open, 0 closed",
            "pods          0 of 0",
        ] {
            ensure!(out.contains(line), "{line}: {out}");
        }
        let Ran { out, .. } = self.run(&["status", "-o", "json"]).await?;
        let status: Value = serde_json::from_str(&out)?;
        ensure!(status["verdict"] == "open" && status["mode"] == "enforce" && status["nodes"]["all"] == 2, "{out}");
        ensure!(status["versions"]["agents"] == IMAGE && status["problems"] == json!([]), "{out}");
        Ok(())
    }

    async fn parts_fail(&self) -> Result<()> {
        for (agents, controllers, found) in
            [(1, 2, "LG103 warning"), (0, 2, "LG103 error"), (2, 1, "LG104 warning"), (2, 0, "LG104 error")]
        {
            self.parts_are_ready(agents, controllers).await?;
            self.finds(&format!("{agents} agents, {controllers} controllers"), &[], &[found]).await?;
        }
        self.parts_are_ready(2, 2).await?;
        self.lease("linkerd-gate", "n1", OPEN, SignedDuration::from_hours(1)).await?;
        let report = self.finds("the prover is away", &[], &["LG105 warning", "LG302 warning"]).await?;
        ensure!(report.to_string().contains("not looked at: the verdict is from"), "{report:#}");
        self.verdict(OPEN).await?;
        self.lease("linkerd-gate-controller", "", "", SignedDuration::ZERO).await?;
        self.finds("no controller leads", &[], &["LG106 warning"]).await?;
        self.lease("linkerd-gate-controller", "linkerd-gate-controller-0", "", SignedDuration::ZERO).await?;
        let image = "deployment/linkerd-gate-controller";
        self.kubectl(&["set", "image", image, "controller=registry.example.com/linkerd-gate:0.2.0", "-n", OURS], "")
            .await?;
        let report = self.finds("two versions", &[], &["LG502 warning"]).await?;
        self.paste(&report, "LG502").await?;
        self.finds("two versions, mended", &[], &[]).await?;
        let set = "daemonset/linkerd-gate";
        self.kubectl(&["set", "env", set, "LINKERD_GATE_MODE=audit", "-n", OURS], "").await?;
        self.finds("agents in audit mode", &[], &["LG107 warning"]).await?;
        self.kubectl(&["set", "env", set, "LINKERD_GATE_MODE-", "-n", OURS], "").await?;
        Ok(())
    }

    async fn admission_fails(&self) -> Result<()> {
        let Ran { out: manifests, .. } = self.run(&["install", "--image", IMAGE]).await?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&manifests)?;
        for (what, found) in [
            ("MutatingAdmissionPolicyBinding", &["LG202 warning"][..]),
            ("ValidatingAdmissionPolicy", &["LG202 warning"]),
        ] {
            let name = if what.starts_with("Mutating") { "linkerd-gate-hold" } else { "linkerd-gate-guard" };
            let object = documents.iter().find(|it| it["kind"] == what && it["metadata"]["name"] == name);
            let object = object.context(what)?;
            self.kubectl(&["delete", what, name], "").await?;
            let report = self.finds(&format!("without {what}"), &[], found).await?;
            ensure!(report.to_string().contains("hold is bound") == (name == "linkerd-gate-guard"), "{report:#}");
            self.apply(object).await?;
        }
        let label = "linkerd.io/control-plane-component";
        let configuration = "mutatingwebhookconfiguration/linkerd-proxy-injector-webhook-config";
        self.kubectl(&["label", configuration, &format!("{label}-")], "").await?;
        let report = self.finds("Linkerd's label is gone", &[], &["LG203 error", "LG403 warning"]).await?;
        self.paste(&report, "LG203").await?;
        self.finds("Linkerd's label is back", &[], &[]).await?;
        self.policies_differ_from_the_webhook(&documents).await?;
        let Ran { out: audit, .. } = self.run(&["install", "--image", IMAGE, "--mode", "audit"]).await?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename=-"], &audit).await?;
        let report = self.finds("audit", &[], &["LG107 warning", "LG202 warning"]).await?;
        self.paste(&report, "LG107").await?;
        self.finds("well again", &[], &[]).await?;
        Ok(())
    }

    async fn verdicts_are_reported(&self) -> Result<()> {
        for (name, verdict, found) in [
            (
                "closed",
                r#"{"version":1,"gate":"closed","failedProbes":[{"probe":"identity","result":"not-ready","reason":"refused"}]}"#,
                &["LG302 error"][..],
            ),
            ("settling", r#"{"version":1,"gate":"settling"}"#, &["LG302 warning"]),
            ("not looked yet", r#"{"version":1,"gate":"closed"}"#, &["LG302 warning"]),
            ("of another time", r#"{"version":9,"gate":"open"}"#, &["LG302 warning"]),
            (
                "taint-suppressed",
                r#"{"version":1,"gate":"open","basis":"proven","taintSuppressedBy":{"kube-system/cni":["n1"]}}"#,
                &["LG602 warning"],
            ),
        ] {
            self.verdict(verdict).await?;
            self.finds(name, &[], found).await?;
        }
        self.verdict(OPEN).await
    }

    async fn nodes_are_reported(&self) -> Result<()> {
        self.kubectl(&["taint", "node", "n2", "linkerd-gate/closed=b:NoSchedule"], "").await?;
        let report = self.finds("a closed node", &[], &["LG601 warning"]).await?;
        ensure!(report.to_string().contains("node/n2 (booted about 2026-11-29T10:00:00Z)"), "{report:#}");
        self.kubectl(&["taint", "node", "n2", "linkerd-gate/closed-"], "").await?;
        let until = Timestamp::now() + SignedDuration::from_hours(1);
        let word = format!("linkerd-gate/override=open {until:.0}");
        self.kubectl(&["annotate", "node", "n1", &word], "").await?;
        let report = self.finds("an override", &[], &["LG604 warning"]).await?;
        ensure!(report.to_string().contains("linkerd-gate clear n1"), "{report:#}");
        self.paste(&report, "LG604").await?;
        self.finds("the override is over", &[], &[]).await?;
        self.kubectl(&["delete", "pod", "agent-n2", "-n", OURS, "--force"], "").await?;
        self.finds("a node without an agent", &[], &["LG603 warning"]).await?;
        self.finds("a node without an agent, of one namespace", &["-n", "shop"], &["LG603 warning"]).await?;
        self.agent_on("n2").await?;
        self.finds("agents are in another namespace", &["-n", "shop"], &[]).await?;
        self.kubectl(&["label", "node", "n1", "karpenter.sh/nodepool=default"], "").await?;
        let report = self.finds("an autoscaler", &[], &["LG804 warning"]).await?;
        ensure!(report.to_string().contains("readiness.k8s.io/"), "{report:#}");
        self.kubectl(&["label", "node", "n1", "karpenter.sh/nodepool-"], "").await?;
        let set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "cni", "namespace": "kube-system"},
            "spec": {
                "selector": {"matchLabels": {"app": "cni"}},
                "template": {
                    "metadata": {"labels": {"app": "cni"}},
                    "spec": {"containers": [{"name": "cni", "image": "cni:test"}]},
                },
            },
        });
        self.apply(&set).await?;
        let report = self.finds("an intolerant DaemonSet", &[], &["LG803 warning"]).await?;
        ensure!(report.to_string().contains("daemonset/cni -n kube-system"), "{report:#}");
        self.paste(&report, "LG803").await?;
        self.finds("a DaemonSet that tolerates", &[], &[]).await?;
        self.kubectl(&["delete", "daemonset", "cni", "-n", "kube-system"], "").await?;
        Ok(())
    }

    /// Nine pods of three owners, all held, while the injector is away and after it came back.
    async fn held_pods_are_reported(&self) -> Result<()> {
        self.injector.suffer(Fault::Absent).await?;
        for number in 0..9 {
            let (version, kind, owner) = [
                ("apps/v1", "ReplicaSet", "web-7d4b9c"),
                ("apps/v1", "StatefulSet", "db"),
                ("batch/v1", "Job", "import"),
            ][number % 3];
            let mut held = pod(&format!("{owner}-{number}")).in_namespace("shop").running("app:test");
            if kind == "ReplicaSet" {
                held = held.labelled("pod-template-hash", "7d4b9c");
            }
            let mut held = held.json();
            let uid = format!("00000000-0000-0000-0000-00000000000{}", number % 3);
            held["metadata"]["ownerReferences"] =
                json!([{"apiVersion": version, "kind": kind, "name": owner, "uid": uid, "controller": true}]);
            let created = self.pod(&held, json!({"phase": "Pending"})).await?;
            ensure!(created.spec.is_some_and(|spec| spec.scheduling_gates.is_some()), "it is not held");
        }
        let away = ["LG301 error", "LG404 warning", "LG702 warning"];
        self.finds("held, while the injector is away", &[], &away).await?;
        self.page("everything-is-held", &[]).await?;
        self.injector.recover().await?;
        let report = self.finds("held", &[], &["LG702 warning"]).await?;
        ensure!(report.to_string().contains("9 pods, 9 by linkerd-gate's scheduling gate"), "{report:#}");
        let Ran { code, out, .. } = self.run(&["check", "-o", "short"]).await?;
        ensure!(
            code == Some(0) && out.contains("‼ no pod is held") && out.ends_with("Status check results are √\n"),
            "{out}"
        );
        self.finds("held, suppressed", &["--suppress", "LG702"], &[]).await?;
        self.kubectl(&["delete", "pods", "--all", "-n", "shop", "--force"], "").await?;
        Ok(())
    }
}
