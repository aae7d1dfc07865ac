//! Services and what is behind them.

use super::{list, metadata, namespaced};
use serde_json::{Value, json};

/// A Service under construction.
#[derive(Clone, Debug)]
pub struct Service {
    object: Value,
}

/// An EndpointSlice under construction, for Services without a selector.
#[derive(Clone, Debug)]
pub struct EndpointSlice {
    object: Value,
}

/// A Service without ports and without a selector: nothing fills its endpoints but an [`endpoint_slice`].
pub fn service(name: &str) -> Service {
    Service { object: json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {}}) }
}

/// Endpoints of the Service of that name.
pub fn endpoint_slice(service: &str) -> EndpointSlice {
    EndpointSlice {
        object: json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "endpoints": [],
            "ports": [],
        }),
    }
}

metadata!(Service, "the Service");
namespaced!(Service);
metadata!(EndpointSlice, "the EndpointSlice");
namespaced!(EndpointSlice);

// === impl Service ===

impl Service {
    /// One port, and the port or port name behind it.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16, target: impl Into<Value>) -> Self {
        let mut entry = json!({"name": name, "port": port});
        entry["targetPort"] = target.into();
        list(&mut self.object["spec"]["ports"]).push(entry);
        self
    }

    /// In front of the pods with this label.
    #[must_use]
    pub fn selecting(mut self, key: &str, value: &str) -> Self {
        self.object["spec"]["selector"][key] = value.into();
        self
    }

    /// Without an address of its own: its name resolves to those of its pods.
    #[must_use]
    pub fn headless(mut self) -> Self {
        self.object["spec"]["clusterIP"] = "None".into();
        self
    }

    /// Another name for a host. With `localhost` an API server without a node reaches a stand-in on its own machine through
    /// a Service, in the chart's form.
    #[must_use]
    pub fn external_name(mut self, host: &str) -> Self {
        self.object["spec"]["type"] = "ExternalName".into();
        self.object["spec"]["externalName"] = host.into();
        self
    }
}

// === impl EndpointSlice ===

impl EndpointSlice {
    /// One endpoint that is ready.
    #[must_use]
    pub fn ready(self, address: &str) -> Self {
        self.endpoint(address, true)
    }

    /// One endpoint that is not.
    #[must_use]
    pub fn not_ready(self, address: &str) -> Self {
        self.endpoint(address, false)
    }

    /// One port, under the name that the Service's port has.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16) -> Self {
        list(&mut self.object["ports"]).push(json!({"name": name, "port": port, "protocol": "TCP"}));
        self
    }

    fn endpoint(mut self, address: &str, ready: bool) -> Self {
        list(&mut self.object["endpoints"]).push(json!({"addresses": [address], "conditions": {"ready": ready}}));
        self
    }
}
