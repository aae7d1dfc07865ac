//! Pods, alone or as templates.

use super::{gate::Gate, list, metadata, namespaced};
use serde_json::{Value, json};

/// A Pod under construction.
#[derive(Clone, Debug)]
pub struct Pod {
    object: Value,
}

/// A pod of that name, labelled `app` with it, with one container `app` whose image is still to be said ([`Pod::running`]) and
/// no patience when it is asked to end.
pub fn pod(name: &str) -> Pod {
    Pod {
        object: json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "containers": [{"name": "app", "image": "example.invalid/nothing:0"}],
                "terminationGracePeriodSeconds": 1,
            },
        }),
    }
}

metadata!(Pod, "the pod");
namespaced!(Pod);

// === impl Pod ===

impl Pod {
    /// Asks to be injected, whatever its namespace says.
    #[must_use]
    pub fn asking(self) -> Self {
        self.annotated("linkerd.io/inject", "enabled")
    }

    /// Asks not to be injected, although its namespace asks.
    #[must_use]
    pub fn not_asking(self) -> Self {
        self.annotated("linkerd.io/inject", "disabled")
    }

    /// Asks for a sidecar that is an ordinary container.
    #[must_use]
    pub fn with_classic_sidecar(self) -> Self {
        self.annotated("config.linkerd.io/proxy-enable-native-sidecar", "false")
    }

    /// The image of its app, which must not be tagged `latest`: nothing is pulled.
    #[must_use]
    pub fn running(self, image: &str) -> Self {
        self.container_field("image", image).container_field("imagePullPolicy", "IfNotPresent")
    }

    /// The arguments of its app.
    #[must_use]
    pub fn with_args(self, args: &[&str]) -> Self {
        self.container_field("args", args)
    }

    /// One variable of its app.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        list(&mut self.object["spec"]["containers"][0]["env"]).push(json!({"name": name, "value": value}));
        self
    }

    /// Any field of its app container.
    #[must_use]
    pub fn container_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.object["spec"]["containers"][0][name] = value.into();
        self
    }

    /// Any field of its `spec`.
    #[must_use]
    pub fn spec_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.object["spec"][name] = value.into();
        self
    }

    /// Holds its app back with `linkerd-gate wait`: an image alone, or a [`Gate`] that says more. It goes before the init
    /// containers that are there already.
    #[must_use]
    pub fn with_gate(mut self, gate: impl Into<Gate>) -> Self {
        list(&mut self.object["spec"]["initContainers"]).insert(0, gate.into().json());
        self
    }

    /// One init container more, after those that are there.
    #[must_use]
    pub fn with_init_container(mut self, container: Value) -> Self {
        list(&mut self.object["spec"]["initContainers"]).push(container);
        self
    }

    /// Its app answers HTTP on this port, and is ready when it does.
    #[must_use]
    pub fn serving_on(self, port: u16) -> Self {
        self.container_field("ports", json!([{"containerPort": port}]))
            .container_field("readinessProbe", json!({"httpGet": {"path": "/", "port": port}, "periodSeconds": 1}))
    }

    /// On the node's own network.
    #[must_use]
    pub fn on_the_hosts_network(self) -> Self {
        self.spec_field("hostNetwork", true)
    }

    /// On this node, without a scheduler's help.
    #[must_use]
    pub fn on_node(self, name: &str) -> Self {
        self.spec_field("nodeName", name)
    }

    /// As this ServiceAccount.
    #[must_use]
    pub fn as_service_account(self, name: &str) -> Self {
        self.spec_field("serviceAccountName", name)
    }

    /// `Always`, `OnFailure` or `Never`.
    #[must_use]
    pub fn restarting(self, policy: &str) -> Self {
        self.spec_field("restartPolicy", policy)
    }

    /// As a workload's template: without name and namespace.
    pub(super) fn template(self) -> Value {
        let mut template = self.object;
        let mut metadata = template["metadata"].take();
        if let Some(fields) = metadata.as_object_mut() {
            fields.remove("name");
            fields.remove("namespace");
        }
        json!({"metadata": metadata, "spec": template["spec"].take()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_comes_before_every_other_init_container() {
        let pod = pod("web").with_init_container(json!({"name": "setup"})).with_gate("gate:1").json();
        let names: Vec<&Value> =
            pod["spec"]["initContainers"].as_array().expect("a list").iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["linkerd-gate", "setup"]);
    }

    #[test]
    fn a_template_has_no_name() {
        let template = pod("web").in_namespace("shop").asking().template();
        assert_eq!(
            template["metadata"],
            json!({"labels": {"app": "web"}, "annotations": {"linkerd.io/inject": "enabled"}})
        );
    }
}
