//! Clusters, as the objects that an API server would list.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::check::{Survey, Unread};
use crate::decide::node::taint::TAINT_KEY;
use crate::decide::repair::event_text::{self, replacing};
use crate::linkerd::{TokenProjection, WebhookView};
use crate::report::facts::{ControlPlane, Events, Facts, LeaseFact, NodeFact, PodFacts, note_control_plane};
use crate::report::{Report, report};

/// The first second of the boot.
const BEGIN: &str = "2026-11-30T03:12:05Z";

/// A cluster that is made up, and read as a real one.
pub struct Cluster {
    pub now: Timestamp,
    pub since: SignedDuration,
    pub namespace: Option<String>,
    pub events: Vec<Value>,
    pub nodes: Vec<Value>,
    pub leases: Vec<Value>,
    pub pods: Vec<Value>,
    pub namespaces: Vec<String>,
}

/// An instant, by seconds since the first node booted.
pub fn at(seconds: i64) -> Timestamp {
    let begin: Timestamp = BEGIN.parse().unwrap();
    Timestamp::from_second(begin.as_second() + seconds).unwrap()
}

fn text(seconds: i64) -> String {
    at(seconds).to_string()
}

// === impl Cluster ===

impl Cluster {
    /// Without anything, ten minutes after the beginning.
    pub fn new() -> Self {
        Self {
            now: at(600),
            since: SignedDuration::from_hours(1),
            namespace: None,
            events: Vec::new(),
            nodes: Vec::new(),
            leases: Vec::new(),
            pods: Vec::new(),
            namespaces: vec!["shop".to_owned()],
        }
    }

    /// A power cut of three nodes: all is held, replaced and meshed, but for two pods that run outside the mesh.
    pub fn power_cut() -> Self {
        let mut cluster = Self::new();
        for (number, booted) in [(0, 0), (1, 16), (2, 40)] {
            let name = format!("node-{number}");
            cluster.node(&name, booted + 3, true);
            cluster.booted(&name, booted);
            let probes = "injector: not ready: the Service linkerd-proxy-injector has no ready endpoint";
            let closed = format!("closed: injection is not proven in this boot: {probes}");
            cluster.gate(&name, "GateClosed", booted + 12, &closed);
            cluster.gate(
                &name,
                "GateAwaitsRepair",
                255,
                "stays closed: the controller still replaces pods: 41 are left",
            );
            cluster.gate(&name, "GateOpened", 266 + number, "open: the gate is open");
        }
        for part in ["identity", "destination", "proxy-injector"] {
            cluster.linkerd(part, 232);
        }
        cluster.lease("linkerd-gate", "node-1/linkerd-gate-x/b-1", 14, 595);
        cluster.lease("linkerd-gate-controller", "linkerd-gate-controller-a/node-0/u", 70, 597);
        for pod in 0..41 {
            let since = 64 + pod / 3;
            let name = format!("web-7d4b9c-{pod:02}");
            cluster.held(&name, since + 20);
            cluster.replaced(&name, "web-7d4b9c", since, 256 + pod / 10);
            cluster.meshed(&format!("web-7d4b9c-n{pod:02}"), "web-7d4b9c", 256 + pod / 10, Some(270 + pod / 10));
        }
        cluster.refused("ReplicaSet", "api-5f6d", 61, 90, 3);
        cluster.running("legacy-6c9f-1", Some("legacy-6c9f"), 50);
        cluster.running("shell", None, 52);
        cluster
    }

    pub fn node(&mut self, name: &str, ready: i64, opened: bool) {
        self.nodes.push(json!({
            "metadata": {
                "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": if opened { json!({"linkerd-gate/opened-boot": "boot-2"}) } else { json!({}) },
            },
            "status": {
                "nodeInfo": {"bootID": "boot-2", "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "",
                    "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "", "architecture": ""},
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": text(ready)}],
            },
        }));
    }

    /// Our taint, on the last node.
    pub fn tainted(&mut self) {
        let node = self.nodes.last_mut().unwrap();
        node["spec"]["taints"] = json!([{"key": TAINT_KEY, "value": "boot2-20", "effect": "NoSchedule"}]);
        node["metadata"]["annotations"] = json!({});
    }

    /// When linkerd-gate wrote to the last node.
    pub fn written(&mut self, seconds: i64) {
        self.nodes.last_mut().unwrap()["metadata"]["managedFields"] = json!([
            {"manager": "kubelet", "operation": "Update", "time": text(590)},
            {"manager": "linkerd-gate", "operation": "Update", "time": text(seconds)},
        ]);
    }

    pub fn event(&mut self, reason: &str, object: &Value, seconds: i64, message: &str) -> &mut Value {
        let ours = reason.starts_with("Gate") || ["OutsideMesh", "Replacing"].contains(&reason);
        self.events.push(json!({
            "metadata": {"name": format!("e{}", self.events.len()), "creationTimestamp": text(seconds)},
            "involvedObject": object, "reason": reason, "message": message, "type": "Normal", "count": 1,
            "firstTimestamp": text(seconds), "lastTimestamp": text(seconds),
            "reportingComponent": if ours { "linkerd-gate" } else { "kubernetes" },
        }));
        self.events.last_mut().unwrap()
    }

    pub fn booted(&mut self, node: &str, seconds: i64) {
        let message = format!("Node {node} has been rebooted, boot id: boot-2");
        self.event("Rebooted", &json!({"kind": "Node", "name": node, "uid": node}), seconds, &message);
    }

    pub fn gate(&mut self, node: &str, reason: &str, seconds: i64, message: &str) -> &mut Value {
        self.event(reason, &json!({"kind": "Node", "name": node, "uid": node}), seconds, message)
    }

    /// A pod that the controller has found, held by our gate.
    pub fn held(&mut self, name: &str, seconds: i64) {
        let object = json!({"kind": "Pod", "namespace": "shop", "name": name, "uid": format!("uid-{name}")});
        let state = event_text::Outside::Gated;
        let message =
            format!("This pod requests injection and was created without a proxy; {state}. Once injection is …");
        self.event("OutsideMesh", &object, seconds, &message);
    }

    /// Its removal.
    pub fn replaced(&mut self, name: &str, owner: &str, since: i64, seconds: i64) {
        let object = json!({"kind": "ReplicaSet", "namespace": "shop", "name": owner, "uid": format!("uid-{owner}")});
        let message = replacing("Deleted pod", &format!("{name} of ReplicaSet {owner}"), Some(at(since)));
        self.event("Replacing", &object, seconds, &message);
    }

    /// Creates that the guard has refused.
    pub fn refused(&mut self, kind: &str, owner: &str, first: i64, last: i64, count: i64) {
        let message = "Error creating: pods \"api-5f6d-\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding \
                       'linkerd-gate-guard' denied request: the pod requests injection and has no proxy";
        let object = json!({"kind": kind, "namespace": "shop", "name": owner, "uid": format!("uid-{owner}")});
        let event = self.event("FailedCreate", &object, first, message);
        event["lastTimestamp"] = text(last).into();
        event["count"] = count.into();
    }

    pub fn lease(&mut self, name: &str, holder: &str, acquired: i64, renewed: i64) {
        let micro = |seconds: i64| text(seconds).replace('Z', ".123456Z");
        self.leases.push(json!({
            "metadata": {"name": name},
            "spec": {"holderIdentity": holder, "acquireTime": micro(acquired), "renewTime": micro(renewed), "leaseTransitions": 4},
        }));
    }

    fn pod(&mut self, name: &str, owner: Option<&str>, seconds: i64) -> &mut Value {
        let owners = owner.map(|owner| {
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": format!("uid-{owner}"), "controller": true}])
        });
        let hash = owner.and_then(|owner| owner.rsplit_once('-')).map(|(_, hash)| hash);
        self.pods.push(json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "creationTimestamp": text(seconds),
                "annotations": {"linkerd.io/inject": "enabled"}, "ownerReferences": owners,
                "labels": hash.map_or_else(|| json!({}), |hash| json!({"pod-template-hash": hash})),
            },
            "spec": {"containers": [{"name": "app", "volumeMounts":
                [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}]},
        }));
        self.pods.last_mut().unwrap()
    }

    /// A pod with its proxy.
    pub fn meshed(&mut self, name: &str, owner: &str, seconds: i64, started: Option<i64>) {
        let pod = self.pod(name, Some(owner), seconds);
        pod["metadata"]["labels"]["linkerd.io/control-plane-ns"] = "linkerd".into();
        pod["spec"]["initContainers"] = json!([{"name": "linkerd-proxy", "restartPolicy": "Always"}]);
        let state = started.map(|started| json!({"running": {"startedAt": text(started)}}));
        pod["status"] = json!({"phase": "Running", "containerStatuses":
            [{"name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state}]});
    }

    /// A pod that runs without a proxy.
    pub fn running(&mut self, name: &str, owner: Option<&str>, seconds: i64) {
        let pod = self.pod(name, owner, seconds);
        pod["spec"]["nodeName"] = "node-0".into();
        pod["status"] = json!({"phase": "Running"});
    }

    /// A pod that our gate holds now.
    pub fn gated(&mut self, name: &str, owner: Option<&str>, seconds: i64) {
        let pod = self.pod(name, owner, seconds);
        pod["spec"]["schedulingGates"] = json!([{"name": "linkerd-gate/injected"}]);
        pod["status"] = json!({"phase": "Pending"});
    }

    /// A pod of Linkerd's control plane.
    pub fn linkerd(&mut self, part: &str, ready: i64) {
        self.pods.push(json!({
            "metadata": {"name": format!("linkerd-{part}"), "namespace": "linkerd", "creationTimestamp": text(ready),
                "labels": {"linkerd.io/control-plane-component": part}},
            "spec": {"containers": [{"name": part}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": text(ready)}]},
        }));
    }

    pub fn facts(&self) -> Facts {
        let of = |value: &Value| serde_json::from_value(value.clone()).unwrap();
        let mut events = Events::default();
        self.events.iter().for_each(|event| events.add(&of_type::<Event>(event)));
        let namespaces: Vec<Namespace> =
            self.namespaces.iter().map(|name| of(&json!({"metadata": {"name": name}}))).collect();
        let webhooks = WebhookView::chart_default();
        let mut pods = PodFacts {
            survey: Survey::new(webhooks, None, TokenProjection::Enabled, &namespaces),
            ..PodFacts::default()
        };
        let mut linkerd = ControlPlane::new();
        for pod in &self.pods {
            let pod: Pod = of_type(pod);
            pods.add(&pod, self.now.checked_sub(self.since).unwrap());
            note_control_plane(&mut linkerd, &pod);
        }
        Facts {
            now: self.now,
            since: self.since,
            namespace: self.namespace.clone(),
            events: Ok(events),
            nodes: Ok(self.nodes.iter().map(|node| NodeFact::of(&of_type::<Node>(node), TAINT_KEY)).collect()),
            leases: Ok(self.leases.iter().map(|lease| LeaseFact::of(&of_type::<Lease>(lease))).collect()),
            pods: Ok(pods),
            linkerd: Ok(linkerd),
        }
    }

    pub fn report(&self) -> Report {
        report(&self.facts())
    }
}

fn of_type<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"))
}

/// A right that is missing.
pub fn forbidden(right: &str) -> Unread {
    Unread::Forbidden(right.to_owned())
}
