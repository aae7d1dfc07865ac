//! The init container that a user pastes.

use super::list;
use serde_json::{Value, json};

/// The `initContainers` entry under construction.
#[derive(Clone, Debug)]
pub struct Gate {
    container: Value,
}

/// The entry exactly as the documentation gives it, with this image.
pub fn gate(image: &str) -> Gate {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    Gate {
        container: json!({
            "name": "linkerd-gate",
            "image": image,
            "args": ["wait"],
            "env": [
                field("LINKERD_GATE_INJECTED_BY", "metadata.labels['linkerd.io/control-plane-ns']"),
                field("LINKERD_GATE_INJECT", "metadata.annotations['linkerd.io/inject']"),
                field("LINKERD_GATE_POD_NAME", "metadata.name"),
                field("LINKERD_GATE_POD_NAMESPACE", "metadata.namespace"),
                field("LINKERD_GATE_POD_IP", "status.podIP"),
                field("LINKERD_GATE_HOST_IP", "status.hostIP"),
            ],
            "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "16Mi"}},
            "securityContext": {
                "runAsUser": 2102,
                "runAsNonRoot": true,
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }),
    }
}

// === impl Gate ===

impl Gate {
    /// One variable more, or another value for one that is there.
    #[must_use]
    pub fn variable(self, name: &str, value: &str) -> Self {
        let mut gate = self.without_variable(name);
        gate.environment().push(json!({"name": name, "value": value}));
        gate
    }

    /// A variable that takes its value from a field of the pod (`fieldPath`), in the downward API's words.
    #[must_use]
    pub fn variable_from(self, name: &str, field_path: &str) -> Self {
        let mut gate = self.without_variable(name);
        gate.environment().push(json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field_path}}}));
        gate
    }

    /// The entry pasted without this variable.
    #[must_use]
    pub fn without_variable(mut self, name: &str) -> Self {
        self.environment().retain(|variable| variable["name"] != name);
        self
    }

    /// Runs as another user than Linkerd's proxy, where 2102 is not wanted.
    #[must_use]
    pub fn as_user(mut self, uid: u32) -> Self {
        self.container["securityContext"]["runAsUser"] = uid.into();
        self
    }

    /// Any other field of the container, in place of what is there.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.container[name] = value.into();
        self
    }

    /// The entry.
    pub fn json(self) -> Value {
        self.container
    }

    fn environment(&mut self) -> &mut Vec<Value> {
        list(&mut self.container["env"])
    }
}

impl From<&str> for Gate {
    fn from(image: &str) -> Self {
        gate(image)
    }
}

impl From<&String> for Gate {
    fn from(image: &String) -> Self {
        gate(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_given_twice_has_the_last_value_only() {
        let entry = gate("gate:1").variable("LINKERD_GATE_INJECT", "a").variable("LINKERD_GATE_INJECT", "b").json();
        let values: Vec<&Value> = entry["env"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|variable| variable["name"] == "LINKERD_GATE_INJECT")
            .collect();
        assert_eq!(values, [&json!({"name": "LINKERD_GATE_INJECT", "value": "b"})]);
    }
}
