//! AdmissionReview in, AdmissionReview out.

use super::{
    decision::{self, Annotations},
    patch::{self, Sidecar},
};
use anyhow::{Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// A request for review that names its request.
pub(super) struct Review(Value);

/// What the injector says to it.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// Allowed as it is.
    Allow,
    /// Allowed with these JSON patch operations.
    Patch(Vec<Value>),
    /// The handler failed: allowed is false, whatever the webhook's failure policy.
    Deny(String),
}

// === impl Review ===

impl Review {
    /// Decodes leniently, as the genuine handler does, and wants a request with a uid.
    pub(super) fn decode(body: &[u8]) -> Result<Self> {
        let review: Value = serde_json::from_slice(body)?;
        if review["request"]["uid"].as_str().is_none_or(str::is_empty) {
            bail!("the review has no request with a uid");
        }
        Ok(Self(review))
    }

    /// The namespace of the object under review.
    pub(super) fn namespace(&self) -> &str {
        self.0["request"]["namespace"].as_str().unwrap_or("")
    }

    fn kind(&self) -> &str {
        self.0["request"]["kind"]["kind"].as_str().unwrap_or("")
    }

    /// The object under review.
    pub(super) fn object(&self) -> &Value {
        &self.0["request"]["object"]
    }

    /// The review with the response in it; the whole request is echoed.
    pub(super) fn answered(mut self, reply: &Reply) -> Value {
        let uid = self.0["request"]["uid"].clone();
        self.0["response"] = match reply {
            Reply::Allow => json!({"uid": uid, "allowed": true}),
            Reply::Patch(operations) => json!({
                "uid": uid,
                "allowed": true,
                "patchType": "JSONPatch",
                "patch": STANDARD.encode(written(operations)),
            }),
            Reply::Deny(message) => {
                json!({"uid": uid, "allowed": false, "status": {"metadata": {}, "message": message}})
            }
        };
        self.0
    }
}

/// The patch as the genuine template writes it, which does not escape the values of annotations
/// (charts/patch/templates/patch.json): some make it no JSON.
fn written(operations: &[Value]) -> String {
    let each = operations.iter().map(|operation| match (operation["path"].as_str(), operation["value"].as_str()) {
        (Some(path), Some(value)) if path.starts_with("/metadata/annotations/") => {
            format!(r#"{{"op":"add","path":{},"value":"{value}"}}"#, json!(path))
        }
        _ => operation.to_string(),
    });
    format!("[{}]", each.collect::<Vec<_>>().join(","))
}

// === impl Reply ===

impl Reply {
    /// What a cold cache, or a namespace made a moment ago, gives.
    pub(super) fn namespace_unknown(namespace: &str) -> Self {
        Self::Deny(format!("namespaces {namespace:?} not found"))
    }
}

/// The injector's answer, given the namespace's annotations.
pub(super) fn reply(review: &Review, namespace: &Annotations, sidecar: &Sidecar) -> Reply {
    let object = review.object();
    let operations = match review.kind() {
        "Pod" if decision::injects(object, namespace) => patch::inject(object, review.namespace(), namespace, sidecar),
        "Pod" | "Service" => patch::opaque_ports(object, review.kind(), namespace),
        _ => Vec::new(),
    };
    if operations.is_empty() { Reply::Allow } else { Reply::Patch(operations) }
}
