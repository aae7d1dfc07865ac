//! Builders for Kubernetes objects that read as sentences and end in JSON.
//!
//! ```
//! use linkerd_gate_kit::object::{deployment, gate, job, namespace, pod, webhook_configuration};
//!
//! let shop = namespace("shop").asking().labelled("test", "a7").json();
//! let web = pod("web").in_namespace("shop").running("app:1").with_gate("gate:1").json();
//! let hold = gate("gate:1").variable("LINKERD_GATE_ON_MISSED", "exit");
//! let once = job("once").in_namespace("shop").ignoring_exit_code(75).of(pod("once").running("app:1").with_gate(hold)).json();
//! let many = deployment("web").in_namespace("shop").replicas(3).of(pod("web").running("app:1").with_gate("gate:1")).json();
//! let webhook = webhook_configuration("linkerd").ca_bundle("-----BEGIN…").only_namespaces_labelled("test", "a7").json();
//! # assert_eq!(web["spec"]["initContainers"][0]["name"], "linkerd-gate");
//! # assert_eq!(shop["metadata"]["annotations"]["linkerd.io/inject"], "enabled");
//! # assert_eq!(once["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"][0], 75);
//! # assert_eq!(many["spec"]["template"]["metadata"]["labels"]["app"], "web");
//! # assert_eq!(webhook["webhooks"][0]["namespaceSelector"]["matchLabels"]["test"], "a7");
//! ```

mod control_plane;
mod daemon_set;
mod gate;
mod namespace;
mod pod;
mod service;
mod webhook;
mod workload;

pub use self::{
    control_plane::{ControlPlane, control_plane},
    daemon_set::with_boot_id,
    gate::{Gate, gate},
    namespace::{Namespace, namespace},
    pod::{Pod, pod},
    service::{EndpointSlice, Service, endpoint_slice, service},
    webhook::{WebhookConfiguration, webhook_configuration},
    workload::{Job, Workload, deployment, job, stateful_set},
};

/// What every builder here can say about its object's metadata, and the way out.
macro_rules! metadata {
    ($builder:ident, $its:literal) => {
        impl $builder {
            #[doc = concat!("One label on ", $its, ".")]
            #[must_use]
            pub fn labelled(mut self, key: &str, value: &str) -> Self {
                self.object["metadata"]["labels"][key] = value.into();
                self
            }

            #[doc = concat!("One annotation on ", $its, ".")]
            #[must_use]
            pub fn annotated(mut self, key: &str, value: &str) -> Self {
                self.object["metadata"]["annotations"][key] = value.into();
                self
            }

            /// The object, as an API server takes it.
            pub fn json(self) -> serde_json::Value {
                self.object
            }
        }
    };
}

/// For builders of objects that live in a namespace.
macro_rules! namespaced {
    ($builder:ident) => {
        impl $builder {
            /// The namespace it lives in; `default` where nothing is said.
            #[must_use]
            pub fn in_namespace(mut self, namespace: &str) -> Self {
                self.object["metadata"]["namespace"] = namespace.into();
                self
            }
        }
    };
}

use {metadata, namespaced};

/// The list at this place of an object, made if there is none.
fn list(place: &mut serde_json::Value) -> &mut Vec<serde_json::Value> {
    if !place.is_array() {
        *place = serde_json::Value::Array(Vec::new());
    }
    place.as_array_mut().expect("made a list just above")
}
