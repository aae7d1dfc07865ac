//! The injector's webhook configuration, as Linkerd's chart renders it.

use super::metadata;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// A MutatingWebhookConfiguration under construction.
#[derive(Clone, Debug)]
pub struct WebhookConfiguration {
    object: Value,
}

/// The injector's webhook of the Linkerd in that namespace, as its chart's default values make it (linkerd2
/// charts/linkerd-control-plane/templates/proxy-injector-rbac.yaml), the CA bundle still empty.
pub fn webhook_configuration(linkerd_namespace: &str) -> WebhookConfiguration {
    let not_in = |key: &str, values: &[&str]| json!({"key": key, "operator": "NotIn", "values": values});
    let absent = |key: &str| json!({"key": key, "operator": "DoesNotExist"});
    WebhookConfiguration {
        object: json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {
                "name": "linkerd-proxy-injector-webhook-config",
                "labels": {
                    "linkerd.io/control-plane-component": "proxy-injector",
                    "linkerd.io/control-plane-ns": linkerd_namespace,
                },
            },
            "webhooks": [{
                "name": "linkerd-proxy-injector.linkerd.io",
                "namespaceSelector": {"matchExpressions": [
                    not_in("config.linkerd.io/admission-webhooks", &["disabled"]),
                    not_in("kubernetes.io/metadata.name", &["kube-system", "cert-manager"]),
                ]},
                "objectSelector": {"matchExpressions": [
                    absent("linkerd.io/control-plane-component"),
                    absent("linkerd.io/cni-resource"),
                ]},
                "clientConfig": {"service": {"name": "linkerd-proxy-injector", "namespace": linkerd_namespace, "path": "/"}},
                "failurePolicy": "Ignore",
                "admissionReviewVersions": ["v1", "v1beta1"],
                "rules": [{
                    "operations": ["CREATE"],
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "resources": ["pods", "services"],
                    "scope": "Namespaced",
                }],
                "sideEffects": "None",
                "timeoutSeconds": 10,
            }],
        }),
    }
}

metadata!(WebhookConfiguration, "the configuration");

// === impl WebhookConfiguration ===

impl WebhookConfiguration {
    /// Another name than the chart's, where several live in one cluster.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.object["metadata"]["name"] = name.into();
        self
    }

    /// Whom the API server trusts to be the injector, PEM.
    #[must_use]
    pub fn ca_bundle(mut self, pem: &str) -> Self {
        self.webhook()["clientConfig"]["caBundle"] = STANDARD.encode(pem).into();
        self
    }

    /// Only for namespaces with this label, besides what the chart says: several tests with an injector each can share a
    /// cluster. The configuration's name ends in the value, so that they do not overwrite each other.
    #[must_use]
    pub fn only_namespaces_labelled(mut self, key: &str, value: &str) -> Self {
        self.webhook()["namespaceSelector"]["matchLabels"][key] = value.into();
        let name = format!("linkerd-proxy-injector-webhook-config-{value}");
        self.named(&name)
    }

    /// `failurePolicy: Fail`, as with the chart's values for high availability.
    #[must_use]
    pub fn failing_closed(mut self) -> Self {
        self.webhook()["failurePolicy"] = "Fail".into();
        self
    }

    /// How long the API server waits for the injector, 1 to 30 seconds; the chart says 10.
    #[must_use]
    pub fn timeout_seconds(mut self, seconds: u8) -> Self {
        self.webhook()["timeoutSeconds"] = seconds.into();
        self
    }

    /// The Service's port, which the chart leaves at 443.
    #[must_use]
    pub fn on_port(mut self, port: u16) -> Self {
        self.webhook()["clientConfig"]["service"]["port"] = port.into();
        self
    }

    /// Calls an address in place of the Service. The certificate has to be for its host.
    #[must_use]
    pub fn calling(mut self, url: &str) -> Self {
        let config = &mut self.webhook()["clientConfig"];
        config["url"] = url.into();
        if let Some(fields) = config.as_object_mut() {
            fields.remove("service");
        }
        self
    }

    fn webhook(&mut self) -> &mut Value {
        &mut self.object["webhooks"][0]
    }
}
