//! The proof of injection: a pod that is sent and never stored.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Capabilities, Container, Namespace, Pod, PodSpec, SeccompProfile, SecurityContext};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Error};

use super::error::{describe, is_missing_right};
use crate::decide::ProbeResult;
use crate::decide::readiness::dry_run;
use crate::decide::readiness::dry_run::DryRunResponse;
use crate::linkerd::mesh_state::has_proxy;
use crate::linkerd::{TokenProjection, WebhookView, injection, names};

/// What came back from one API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// It answered: this is what its answer says of injection.
    Answered(ProbeResult),
    /// RBAC does not let this user send it, in the API server's words.
    Forbidden(String),
    /// No connection to it could be made: it has no say.
    Unreachable(String),
}

// === impl DryRun ===

impl DryRun {
    /// What this API server says of injection.
    ///
    /// # Errors
    /// Why no connection to it could be made: it has no say.
    pub fn answer(self) -> Result<ProbeResult, String> {
        match self {
            Self::Answered(outcome) => Ok(outcome),
            Self::Forbidden(why) => Ok(ProbeResult::unknown(format!("a dry-run pod may not be sent: {why}"))),
            Self::Unreachable(why) => Err(why),
        }
    }
}

/// Sends a dry-run pod with these labels to the probe namespace, which asks for its pods. Where it comes back bare, `webhooks` and the
/// namespace tell whether the injector is called for such a pod at all.
pub async fn send(
    client: Client,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    webhooks: Option<&WebhookView>,
) -> DryRun {
    try_create(client, namespace, &pod(labels), webhooks).await
}

/// Sends one that asks for itself, to any namespace.
pub async fn send_asking(client: Client, namespace: &str) -> DryRun {
    let mut pod = pod(&BTreeMap::new());
    let asks = (names::annotation::INJECT.to_owned(), names::inject::ENABLED.to_owned());
    pod.metadata.annotations = Some([asks].into());
    try_create(client, namespace, &pod, None).await
}

async fn try_create(client: Client, namespace: &str, sent: &Pod, webhooks: Option<&WebhookView>) -> DryRun {
    let parameters = PostParams { dry_run: true, field_manager: Some(super::FIELD_MANAGER.to_owned()) };
    match Api::<Pod>::namespaced(client.clone(), namespace).create(&parameters, sent).await {
        Ok(pod) if !has_proxy(&pod) => {
            let unasked = match webhooks {
                Some(webhooks) => why_unasked(client, namespace, sent, webhooks).await,
                None => None,
            };
            DryRun::Answered(unasked.unwrap_or_else(|| dry_run::result(DryRunResponse::Admitted(&pod))))
        }
        Ok(pod) => DryRun::Answered(dry_run::result(DryRunResponse::Admitted(&pod))),
        Err(Error::Api(status)) if status.code == 404 => DryRun::Answered(ProbeResult::unknown(format!(
            "there is no namespace {namespace} to send a dry-run pod to: apply deploy/manifests again"
        ))),
        Err(Error::Api(status)) if is_missing_right(&status) => DryRun::Forbidden(status.message.clone()),
        // 429 and 5xx are errors of the API server, unless they name a webhook or policy.
        Err(Error::Api(status)) => {
            DryRun::Answered(dry_run::result(DryRunResponse::Refused(status.code, &status.message)))
        }
        Err(error) => {
            let description = describe("create a dry-run pod", &error);
            // One that takes the request and gives no answer may be waiting for the injector: it has a say.
            if is_connecting(&error) {
                DryRun::Unreachable(description)
            } else {
                DryRun::Answered(ProbeResult::unknown(description))
            }
        }
    }
}

/// Why the injector does not inject such a pod even if everything works; nothing where it would, or where that cannot be known.
async fn why_unasked(client: Client, namespace: &str, pod: &Pod, webhooks: &WebhookView) -> Option<ProbeResult> {
    // By a list: that is a right which both roles have.
    let only = ListParams::default().fields(&format!("metadata.name={namespace}"));
    let found = Api::<Namespace>::all(client).list(&only).await.ok()?.items.pop()?;
    dry_run::unasked(namespace, &injection(pod, &found, webhooks, TokenProjection::Enabled))
}

/// Whether the request never left.
fn is_connecting(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(link) = cause {
        if let Some(client) = link.downcast_ref::<hyper_util::client::legacy::Error>() {
            return client.is_connect();
        }
        cause = link.source();
    }
    false
}

/// The smallest pod that every PodSecurity level takes. Its name is fixed and it has no owner: the injector looks owners up and
/// would write an event on one.
fn pod(labels: &BTreeMap<String, String>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("linkerd-gate-probe".to_owned()),
            labels: Some(labels.clone()).filter(|labels| !labels.is_empty()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "probe".to_owned(),
                image: Some("registry.k8s.io/pause:3.10".to_owned()),
                security_context: Some(SecurityContext {
                    allow_privilege_escalation: Some(false),
                    capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
                    run_as_non_root: Some(true),
                    run_as_user: Some(2102),
                    seccomp_profile: Some(SeccompProfile {
                        type_: "RuntimeDefault".to_owned(),
                        localhost_profile: None,
                    }),
                    ..SecurityContext::default()
                }),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}
