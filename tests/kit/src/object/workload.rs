//! Owners of pods.

use super::{metadata, namespaced, pod::Pod};
use serde_json::{Value, json};

/// A Deployment or StatefulSet under construction.
#[derive(Clone, Debug)]
pub struct Workload {
    object: Value,
}

/// A Job under construction.
#[derive(Clone, Debug)]
pub struct Job {
    object: Value,
}

/// A Deployment of one replica; [`Workload::of`] says what it runs.
pub fn deployment(name: &str) -> Workload {
    Workload { object: apps("Deployment", name) }
}

/// A StatefulSet of one replica behind the headless service of its own name.
pub fn stateful_set(name: &str) -> Workload {
    let mut object = apps("StatefulSet", name);
    object["spec"]["serviceName"] = name.into();
    Workload { object }
}

/// A Job of one completion whose pods never restart in place.
pub fn job(name: &str) -> Job {
    Job {
        object: json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"template": {"spec": {"restartPolicy": "Never"}}},
        }),
    }
}

fn apps(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}},
    })
}

metadata!(Workload, "the workload itself, not on its pods");
namespaced!(Workload);
metadata!(Job, "the Job itself, not on its pods");
namespaced!(Job);

// === impl Workload ===

impl Workload {
    /// How many pods.
    #[must_use]
    pub fn replicas(mut self, count: u32) -> Self {
        self.object["spec"]["replicas"] = count.into();
        self
    }

    /// The pod it makes copies of. The selector is the workload's name in the label `app`, which the pod is given.
    #[must_use]
    pub fn of(mut self, pod: Pod) -> Self {
        let name = self.object["metadata"]["name"].clone();
        self.object["spec"]["template"] = pod.template();
        self.object["spec"]["template"]["metadata"]["labels"]["app"] = name;
        self
    }

    /// Any field of its `spec`.
    #[must_use]
    pub fn spec_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.object["spec"][name] = value.into();
        self
    }
}

// === impl Job ===

impl Job {
    /// The pod it runs; its restart policy stays the Job's ([`Job::restarting`]) unless the pod says its own.
    #[must_use]
    pub fn of(mut self, pod: Pod) -> Self {
        let restart = self.object["spec"]["template"]["spec"]["restartPolicy"].clone();
        let mut template = pod.template();
        if template["spec"]["restartPolicy"].is_null() {
            template["spec"]["restartPolicy"] = restart;
        }
        self.object["spec"]["template"] = template;
        self
    }

    /// `Never` or `OnFailure`.
    #[must_use]
    pub fn restarting(mut self, policy: &str) -> Self {
        self.object["spec"]["template"]["spec"]["restartPolicy"] = policy.into();
        self
    }

    /// How many failed pods it puts up with.
    #[must_use]
    pub fn backoff_limit(mut self, count: u32) -> Self {
        self.object["spec"]["backoffLimit"] = count.into();
        self
    }

    /// A `podFailurePolicy` that does not count pods in which a container ended with this code.
    #[must_use]
    pub fn ignoring_exit_code(mut self, code: u8) -> Self {
        self.object["spec"]["podFailurePolicy"] =
            json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [code]}}]});
        self
    }

    /// Any field of its `spec`.
    #[must_use]
    pub fn spec_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.object["spec"][name] = value.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::pod;

    #[test]
    fn a_workload_selects_the_pods_it_makes() {
        let object = stateful_set("db").replicas(2).of(pod("whatever")).json();
        assert_eq!(object["spec"]["selector"]["matchLabels"], object["spec"]["template"]["metadata"]["labels"]);
        assert_eq!(object["spec"]["serviceName"], "db");
    }

    #[test]
    fn a_jobs_restart_policy_may_be_said_before_or_after_its_pod() {
        let before = job("once").restarting("OnFailure").of(pod("once")).json();
        let after = job("once").of(pod("once")).restarting("OnFailure").json();
        assert_eq!(before, after);
        assert_eq!(before["spec"]["template"]["spec"]["restartPolicy"], "OnFailure");
    }
}
