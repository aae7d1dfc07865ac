//! What an API server says to a pod.

use std::fmt;

use anyhow::Result;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::Value;

/// The scheduling gate that hold adds.
pub const GATE: &str = "linkerd-gate/injected";

/// What an API server said to a pod.
#[derive(Clone)]
pub enum Answer {
    /// It takes the pod, as shown and without our gate, with these warnings.
    Admitted(Box<Pod>, Vec<String>),
    /// It takes the pod, with our gate.
    Held(Box<Pod>, Vec<String>),
    /// The guard's rule refuses the pod, in these words.
    Missed(String),
    /// Refused, but not by that rule: by another one, or because an expression failed.
    Otherwise(String),
    /// No answer, or none about the pod: the server is overloaded, or on its way up or down.
    Unanswered(String),
}

// === impl Answer ===

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted(_, warnings) => write!(f, "admitted with warnings {warnings:?}"),
            Self::Held(_, warnings) => write!(f, "held with warnings {warnings:?}"),
            Self::Missed(words) => write!(f, "refused as missed: {words}"),
            Self::Otherwise(words) => write!(f, "refused otherwise: {words}"),
            Self::Unanswered(error) => write!(f, "not answered: {error}"),
        }
    }
}

impl Answer {
    /// Whether the pod was taken without our gate.
    pub fn is_admitted(&self) -> bool {
        matches!(self, Self::Admitted(..))
    }

    /// Whether the pod was taken with our gate.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held(..))
    }

    /// Whether the guard's rule refused it.
    pub fn is_missed(&self) -> bool {
        matches!(self, Self::Missed(_))
    }
}

/// The names of a pod's scheduling gates, in their order.
pub fn gates(pod: &Pod) -> Vec<&str> {
    let gates = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten());
    gates.map(|gate| gate.name.as_str()).collect()
}

/// Creates a pod in its namespace.
pub async fn create(client: &Client, pod: &Pod) -> Result<Answer> {
    send(client, pod, "").await
}

/// Asks what would become of a pod.
pub async fn dry_run(client: &Client, pod: &Pod) -> Result<Answer> {
    send(client, pod, "?dryRun=All").await
}

async fn send(client: &Client, pod: &Pod, parameters: &str) -> Result<Answer> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods{parameters}"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(pod)?.into())?;
    let response = match client.send(request).await {
        Ok(response) => response,
        Err(error) => return Ok(Answer::Unanswered(error.to_string())),
    };
    let (head, body) = response.into_parts();
    let body = match body.collect_bytes().await {
        Ok(body) => body,
        Err(error) => return Ok(Answer::Unanswered(error.to_string())),
    };
    if head.status.is_success() {
        let warnings = head.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok());
        let warnings = warnings.map(|text| text.trim_end_matches('"').to_owned()).collect();
        let pod: Box<Pod> = serde_json::from_slice(&body)?;
        let has_gate = gates(&pod).contains(&GATE);
        return Ok(if has_gate { Answer::Held(pod, warnings) } else { Answer::Admitted(pod, warnings) });
    }
    let status: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message =
        status["message"].as_str().map_or_else(|| String::from_utf8_lossy(&body).into_owned(), ToOwned::to_owned);
    // Exactly this refusal: an expression that failed is reported in the policy's name as well.
    let by_the_guard =
        "ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding 'linkerd-gate-guard' denied request: ";
    match message.split_once(by_the_guard) {
        Some((_, words)) if head.status == 403 && words.starts_with("pod ") && status["reason"] == "Forbidden" => {
            Ok(Answer::Missed(words.to_owned()))
        }
        _ if head.status.is_server_error() || head.status == 429 => {
            Ok(Answer::Unanswered(format!("{}: {message}", head.status)))
        }
        _ => Ok(Answer::Otherwise(format!("{}: {message}", head.status))),
    }
}
