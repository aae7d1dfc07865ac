//! `report` of a boot whose Events, Nodes, Leases and pods are on a genuine API server.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::harness::{Harness, OURS, Ran, is_golden};
use crate::healthy::OPEN;

/// The namespace of the pods.
const BOOTED: &str = "booted";

/// How long ago the first node booted, in seconds: less than the API server's time may differ from a reporter's.
const AGO: i64 = 600;

/// The page in `docs` whose ClusterRole is tried.
const PAGE: &str = "docs/report.md";

/// An instant, by seconds since the first node booted.
struct Clock(i64);

// === impl Clock ===

impl Clock {
    fn at(&self, seconds: i64) -> Result<String> {
        Ok(Timestamp::from_second(self.0 + seconds)?.to_string())
    }
}

// === impl Stage ===

impl Harness {
    /// Two nodes boot, three pods are held and created again, one runs outside the mesh.
    pub async fn a_boot_is_reported(&self) -> Result<()> {
        let clock = Clock(Timestamp::now().as_second() - AGO);
        self.nodes_boot(&clock).await?;
        self.pods_are_held_and_replaced(&clock).await?;

        let words = ["report", "-n", BOOTED];
        let Ran { code, out, err } = self.run(&words).await?;
        ensure!(code == Some(0), "{err}");
        is_golden("a-boot-is-reported", &without_instants(&out, &clock))?;

        let Ran { code, out, err } = self.run(&["report", "-n", BOOTED, "-o", "json", "--since", "15m"]).await?;
        ensure!(code == Some(0), "{err}");
        let report: Value = serde_json::from_str(&out)?;
        ensure!(report["version"] == 1 && report["unread"] == json!([]), "{report:#}");
        ensure!(report["boot"]["nodes"] == json!(["n1", "n2"]) && report["boot"]["of"] == 2, "{report:#}");
        let pods = &report["pods"];
        ensure!(
            pods["held"] == 3 && pods["held_seconds_max"] == 130 && pods["created_again_meshed"] == 3,
            "{report:#}"
        );
        ensure!(pods["running_outside"] == 1 && report["outside"][0]["owner"] == "pod/bare", "{report:#}");

        let Ran { code, out, err } = self.run(&["report", "-n", BOOTED, "-o", "html"]).await?;
        ensure!(code == Some(0), "{err}");
        ensure!(out.starts_with("<!doctype html>") && out.contains("2 of 2") && !out.contains("<script"), "{out}");
        self.report_needs_its_rights(&report).await?;
        self.all_is_as_before().await
    }

    /// The next state is not of this boot.
    async fn all_is_as_before(&self) -> Result<()> {
        self.kubectl(&["delete", "pods", "--all", "--namespace", BOOTED, "--force", "--grace-period=0"], "").await?;
        self.lease("linkerd-gate", "n1", OPEN, SignedDuration::ZERO).await?;
        self.lease("linkerd-gate-controller", "linkerd-gate-controller-0", "", SignedDuration::ZERO).await
    }

    async fn nodes_boot(&self, clock: &Clock) -> Result<()> {
        for (node, booted) in [("n1", 0), ("n2", 12)] {
            let status = json!({"status": {
                "nodeInfo": {"bootID": "boot-2", "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "",
                    "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "", "architecture": ""},
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": clock.at(booted + 2)?,
                    "lastHeartbeatTime": clock.at(booted + 2)?, "reason": "KubeletReady", "message": "ready"}],
            }});
            self.kubectl(&["patch", "node", node, "--subresource=status", "--patch", &status.to_string()], "").await?;
            let opened = json!({"metadata": {"annotations": {"linkerd-gate/opened-boot": "boot-2"}}});
            self.kubectl(&["patch", "node", node, "--patch", &opened.to_string()], "").await?;
            let object = json!({"kind": "Node", "name": node, "uid": node, "apiVersion": "v1"});
            let event = |reason: &'static str, seconds: i64, message: String| (reason, seconds, message);
            for (reason, seconds, message) in [
                event("Rebooted", booted, format!("Node {node} has been rebooted, boot id: boot-2")),
                event("GateClosed", booted + 9, "closed: injection is not proven in this boot".to_owned()),
                event("GateOpened", 150 + booted, "open: the gate is open".to_owned()),
            ] {
                self.event(clock, reason, &object, seconds, &message).await?;
            }
        }
        for (name, holder, acquired) in
            [("linkerd-gate", "n1/agent/boot-2", 20), ("linkerd-gate-controller", "controller-0/n1/u", 30)]
        {
            let time = clock.at(acquired)?.replace('Z', ".000000Z");
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": OURS},
                "spec": {"holderIdentity": holder, "acquireTime": time, "renewTime": time, "leaseTransitions": 2},
            });
            self.apply(&lease).await?;
        }
        Ok(())
    }

    async fn pods_are_held_and_replaced(&self, clock: &Clock) -> Result<()> {
        // It asks only once its pods are there, so that admission leaves them as they are.
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": BOOTED}});
        self.cluster.create_namespace(&serde_json::from_value(namespace.clone())?).await?;
        let owner = json!({"kind": "ReplicaSet", "apiVersion": "apps/v1", "namespace": BOOTED, "name": "web-5f", "uid": "u-web"});
        for pod in 0..3 {
            let name = format!("web-5f-{pod}");
            let object = json!({"kind": "Pod", "apiVersion": "v1", "namespace": BOOTED, "name": name, "uid": format!("u-{pod}")});
            let held = "This pod requests injection and was created without a proxy; it is held by a scheduling gate, and has no node.";
            self.event(clock, "OutsideMesh", &object, 40 + pod, held).await?;
            let since = clock.at(25)?;
            let message = format!(
                "Deleted pod: {name} of ReplicaSet web-5f. Its owner creates it again. It was held since {since}."
            );
            self.event(clock, "Replacing", &owner, 153 + pod, &message).await?;
            let meshed = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("web-5f-again-{pod}"), "namespace": BOOTED,
                    "labels": {"linkerd.io/control-plane-ns": "linkerd"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5f", "uid": "u-web", "controller": true}]},
                "spec": {"containers": [{"name": "app", "image": "app:1"}, {"name": "linkerd-proxy", "image": "proxy:1"}]},
            });
            let state = json!({"running": {"startedAt": clock.at(160 + pod)?}});
            let status = json!({"phase": "Running", "containerStatuses":
                [{"name": "app", "image": "app:1", "imageID": "", "ready": true, "restartCount": 0, "state": state}]});
            self.pod(&meshed, status).await?;
        }
        let refused = "Error creating: pods \"api-\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding \
                       'linkerd-gate-guard' denied request: no proxy";
        let api = json!({"kind": "ReplicaSet", "apiVersion": "apps/v1", "namespace": BOOTED, "name": "api-6d", "uid": "u-api"});
        self.event(clock, "FailedCreate", &api, 33, refused).await?;
        let bare = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": BOOTED},
            "spec": {"nodeName": "n1", "containers": [{"name": "app", "image": "app:1"}]},
        });
        self.pod(&bare, crate::harness::running()).await?;
        let asks = json!({"metadata": {"annotations": {"linkerd.io/inject": "enabled"}}});
        self.kubectl(&["patch", "namespace", BOOTED, "--patch", &asks.to_string()], "").await?;
        Ok(())
    }

    async fn event(&self, clock: &Clock, reason: &str, object: &Value, seconds: i64, message: &str) -> Result<()> {
        let namespace = object["namespace"].as_str().unwrap_or("default");
        let of_kubernetes = ["Rebooted", "FailedCreate"].contains(&reason);
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": "e.", "namespace": namespace},
            "involvedObject": object, "reason": reason, "message": message, "type": "Normal", "count": 1,
            "firstTimestamp": clock.at(seconds)?, "lastTimestamp": clock.at(seconds)?,
            "reportingComponent": if of_kubernetes { "kubelet" } else { "linkerd-gate" }, "reportingInstance": "x",
        });
        let events: Api<Event> = Api::namespaced(self.admin.clone(), namespace);
        events.create(&PostParams::default(), &serde_json::from_value(event)?).await?;
        Ok(())
    }

    /// With the rights that the page names the whole is reported; without any, that.
    async fn report_needs_its_rights(&self, expected: &Value) -> Result<()> {
        let Ran { code, out, .. } = self.run(&["report", "--as", "jane", "-o", "json"]).await?;
        let report: Value = serde_json::from_str(&out)?;
        ensure!(code == Some(0) && report["unread"].as_array().is_some_and(|all| all.len() == 5), "{report:#}");
        ensure!(
            report["outside"].is_null() && report["nodes"].is_null() && report["timeline"] == json!([]),
            "{report:#}"
        );
        let known = |text: &str| text.contains("is not known");
        let mut sentences = report["summary"].as_array().context("summary")?.iter();
        ensure!(sentences.all(|it| it.as_str().is_some_and(known)), "{report:#}");

        let page = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE))?;
        let block =
            page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).context("a ClusterRole")?;
        let role: Value = serde_saphyr::from_str(block)?;
        self.apply(&role).await?;
        let name = role["metadata"]["name"].as_str().context("a name")?;
        let words = ["create", "clusterrolebinding", "jane-reports", "--user=jane", &format!("--clusterrole={name}")];
        self.kubectl(&words, "").await?;
        let mut report = Value::Null;
        // Rights count a moment after they were given.
        for _ in 0..50 {
            let words = ["report", "--as", "jane", "-n", BOOTED, "-o", "json", "--since", "15m"];
            report = serde_json::from_str(&self.run(&words).await?.out)?;
            if report["unread"] == json!([]) {
                ensure!(report["timeline"] == expected["timeline"] && report["pods"] == expected["pods"], "{report:#}");
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        anyhow::bail!("with the rights of {PAGE}: {report:#}")
    }
}

/// The page with each time as seconds since the first node booted, and without its last line and its date.
fn without_instants(page: &str, clock: &Clock) -> String {
    let (page, _) = page.trim_end().rsplit_once('\n').unwrap_or((page, ""));
    let Ok(first) = Timestamp::from_second(clock.0) else { return page.to_owned() };
    let day = clock.0.rem_euclid(86_400);
    let mut words = Vec::new();
    for word in page.split(' ') {
        let bare: String = word.chars().filter(|it| it.is_ascii_digit() || *it == ':').collect();
        let parts: Vec<i64> = bare.trim_end_matches(':').split(':').filter_map(|part| part.parse().ok()).collect();
        let time = bare.trim_end_matches(':');
        match parts.as_slice() {
            [hours, minutes, seconds] if time.len() == 8 && word.contains(time) => {
                let offset = (hours * 3600 + minutes * 60 + seconds - day).rem_euclid(86_400);
                words.push(word.replace(time, &format!("T+{offset}")));
            }
            _ => words.push(word.to_owned()),
        }
    }
    let date = first.to_string().split('T').next().unwrap_or_default().to_owned();
    words.join(" ").replace(&format!("{date} "), "").replace(&date, "DATE") + "\n"
}
