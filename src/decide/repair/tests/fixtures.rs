//! Who is on the stage: genuine objects, from builders that read as sentences.

use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::object::{OwnerView, PodView};

/// The namespace that asks for injection.
pub const SHOP: &str = "shop";

/// An object in the making.
#[derive(Clone, Debug)]
pub struct Draft(pub Value);

/// A bare pod on a node, whose app has not started yet: held, where its namespace asks.
pub fn pod(name: &str) -> Draft {
    Draft(json!({
        "metadata": {"name": name, "namespace": SHOP, "uid": format!("uid of {name}"), "resourceVersion": "1"},
        "spec": {
            "nodeName": "node",
            "initContainers": [{"name": "linkerd-gate"}],
            "containers": [{"name": "app"}],
        },
        "status": {"phase": "Pending", "conditions": [{"type": "Initialized", "status": "False"}]},
    }))
}

/// An owner that has the pods it wants.
fn owner(kind: &str, version: &str, name: &str) -> Draft {
    Draft(json!({
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": SHOP, "uid": format!("uid of {name}"), "resourceVersion": "1"},
    }))
}

pub fn replica_set(name: &str) -> Draft {
    owner("ReplicaSet", "apps/v1", name).and("/spec", json!({"replicas": 3})).and("/status", json!({"replicas": 3}))
}

pub fn stateful_set(name: &str) -> Draft {
    owner("StatefulSet", "apps/v1", name).and("/spec", json!({"replicas": 3})).and("/status", json!({"replicas": 3}))
}

pub fn daemon_set(name: &str) -> Draft {
    let status = json!({"currentNumberScheduled": 10, "desiredNumberScheduled": 10});
    owner("DaemonSet", "apps/v1", name).and("/spec", json!({})).and("/status", status)
}

pub fn replication_controller(name: &str) -> Draft {
    owner("ReplicationController", "v1", name)
}

pub fn job(name: &str) -> Draft {
    owner("Job", "batch/v1", name)
        .and(
            "/spec",
            json!({
                "parallelism": 1, "completions": 1, "backoffLimit": 0,
                "template": {"metadata": {}, "spec": {"containers": [{"name": "app"}]}},
            }),
        )
        .and("/status", json!({"active": 1}))
}

/// A kind that nobody here knows.
pub fn rollout(name: &str) -> Draft {
    owner("Rollout", "argoproj.io/v1alpha1", name)
}

impl Draft {
    /// With this value at this place; objects on the way there are made.
    pub fn and(mut self, pointer: &str, value: Value) -> Self {
        let mut place = &mut self.0;
        for key in pointer.split('/').skip(1) {
            let key = key.replace("~1", "/");
            place = &mut place[key];
        }
        *place = value;
        self
    }

    pub fn annotated(self, key: &str, value: &str) -> Self {
        self.and(&format!("/metadata/annotations/{}", key.replace('/', "~1")), value.into())
    }

    pub fn labelled(self, key: &str, value: &str) -> Self {
        self.and(&format!("/metadata/labels/{}", key.replace('/', "~1")), value.into())
    }

    pub fn repaired(self, how: &str) -> Self {
        self.annotated("linkerd-gate/repair", how)
    }

    /// With this as its controller.
    pub fn of(self, owner: &Draft) -> Self {
        let reference = json!([{
            "apiVersion": owner.0["apiVersion"],
            "kind": owner.0["kind"],
            "name": owner.0["metadata"]["name"],
            "uid": owner.0["metadata"]["uid"],
            "controller": true,
        }]);
        self.and("/metadata/ownerReferences", reference)
    }

    /// The next of the same name.
    pub fn anew(self) -> Self {
        let uid = format!("next {}", self.0["metadata"]["uid"].as_str().unwrap());
        self.and("/metadata/uid", uid.into())
    }

    /// Our scheduling gate keeps it from every node, since noon.
    pub fn gated(self) -> Self {
        let mut gated = self
            .and("/spec/schedulingGates", json!([{"name": "example.com/quota"}, {"name": "linkerd-gate/injected"}]))
            .and("/metadata/creationTimestamp", "2026-01-01T12:00:00Z".into())
            .and("/status", json!({"phase": "Pending"}));
        gated.0["spec"]
            .as_object_mut()
            .unwrap()
            .retain(|key, _| !["nodeName", "initContainers"].contains(&key.as_str()));
        gated
    }

    /// A Job counts it.
    pub fn tracked(self) -> Self {
        self.and("/metadata/finalizers", json!(["batch.kubernetes.io/job-tracking"]))
    }

    /// It has found no node.
    pub fn unscheduled(self) -> Self {
        let mut pod = self.and("/status", json!({"phase": "Pending"}));
        pod.0["spec"].as_object_mut().unwrap().remove("nodeName");
        pod
    }

    /// Its app has started.
    pub fn running(self) -> Self {
        self.and("/status", json!({"phase": "Running"}))
    }

    /// And is ready.
    pub fn ready(self) -> Self {
        self.running().and("/status/conditions", json!([{"type": "Ready", "status": "True"}]))
    }

    pub fn going(self) -> Self {
        self.and("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z".into())
    }

    pub fn finished(self) -> Self {
        self.and("/status", json!({"phase": "Succeeded"}))
    }

    /// The injector put its label and its container there.
    pub fn meshed(self) -> Self {
        self.labelled("linkerd.io/control-plane-ns", "linkerd")
            .and("/spec/containers", json!([{"name": "app"}, {"name": "linkerd-proxy"}]))
    }

    /// It says itself that it wants no proxy.
    pub fn declining(self) -> Self {
        self.annotated("linkerd.io/inject", "disabled")
    }

    pub fn name(&self) -> String {
        self.0["metadata"]["name"].as_str().unwrap().to_owned()
    }

    pub fn build<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.0.clone()).unwrap()
    }

    pub fn view(&self) -> PodView {
        PodView::of(&self.build::<Pod>())
    }

    pub fn owner_view(&self) -> OwnerView {
        match self.0["kind"].as_str().unwrap() {
            "ReplicaSet" => OwnerView::of_replica_set(&self.build::<ReplicaSet>()),
            "StatefulSet" => OwnerView::of_stateful_set(&self.build::<StatefulSet>()),
            "DaemonSet" => OwnerView::of_daemon_set(&self.build::<DaemonSet>()),
            "ReplicationController" => OwnerView::of_replication_controller(&self.build::<ReplicationController>()),
            "Job" => OwnerView::of_job(&self.build::<Job>()),
            other => panic!("{other} has no view"),
        }
    }
}
