//! Namespaces.

use super::metadata;
use serde_json::{Value, json};

/// A Namespace under construction.
#[derive(Clone, Debug)]
pub struct Namespace {
    object: Value,
}

/// A namespace of that name, which says nothing about injection.
pub fn namespace(name: &str) -> Namespace {
    Namespace { object: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}) }
}

metadata!(Namespace, "the namespace");

// === impl Namespace ===

impl Namespace {
    /// Asks Linkerd to inject every pod that does not say otherwise.
    #[must_use]
    pub fn asking(self) -> Self {
        self.annotated("linkerd.io/inject", "enabled")
    }

    /// Takes the namespace out of all of Linkerd's webhooks.
    #[must_use]
    pub fn without_admission_webhooks(self) -> Self {
        self.labelled("config.linkerd.io/admission-webhooks", "disabled")
    }

    /// Lets its pods run as they like: linkerd-init wants `NET_ADMIN`.
    #[must_use]
    pub fn privileged(self) -> Self {
        self.labelled("pod-security.kubernetes.io/enforce", "privileged")
    }
}
