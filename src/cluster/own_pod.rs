//! The requests that `wait` makes in mode `replace`, about the pod that it runs in and about no other.

use std::fmt;

use k8s_openapi::api::core::v1::{Capabilities, Container, Pod, PodSpec, SeccompProfile, SecurityContext};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Error};

use crate::decide::ProbeResult;
use crate::decide::readiness::dry_run;
use crate::decide::readiness::dry_run::DryRunResponse;

/// The API server refused: a right is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejection {
    verb: &'static str,
    namespace: String,
    service_account: Option<String>,
}

/// What became of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The pod is going away because of us.
    Deleted,
    /// That pod is gone, or another of the same name has taken its place: another client was faster, nothing was deleted.
    AlreadyGone,
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A right is missing.
    #[error(transparent)]
    Refused(#[from] Rejection),
    /// Anything else.
    #[error("the API server did not {verb} pod {namespace}/{name}: {source}")]
    Failed {
        /// What was asked.
        verb: &'static str,
        /// Of which pod.
        namespace: String,
        /// Of which pod.
        name: String,
        /// What came back.
        source: Box<Error>,
    },
}

/// Reads the pod.
pub async fn get(client: Client, namespace: &str, name: &str) -> Result<Option<Pod>, RequestError> {
    match Api::<Pod>::namespaced(client, namespace).get_opt(name).await {
        Ok(pod) => Ok(pod),
        Err(error) => Err(failed("get", namespace, name, error)),
    }
}

/// Sends a dry-run pod that asks for injection exactly as `own` does, in the same namespace. Stores nothing.
///
/// It proves what matters here: that the *next* pod of this owner would be injected. Labels and annotations are those of
/// `own`, and so are the outlines of its containers and what else the injector looks at, because they decide; what the
/// containers run, mount and know is left out.
pub async fn prove(client: Client, own: &Pod) -> Result<ProbeResult, RequestError> {
    let twin = twin(own);
    let namespace = twin.metadata.namespace.clone().unwrap_or_default();
    let name = twin.metadata.name.clone().unwrap_or_default();
    let parameters = PostParams { dry_run: true, field_manager: Some("linkerd-gate".to_owned()) };
    match Api::<Pod>::namespaced(client, &namespace).create(&parameters, &twin).await {
        Ok(pod) => Ok(dry_run::result(DryRunResponse::Admitted(&pod))),
        Err(error) => match refusal("create", &namespace, &error) {
            Some(refusal) => Err(refusal.into()),
            None => match error {
                Error::Api(status) => {
                    Ok(match dry_run::result(DryRunResponse::Refused(status.code, &status.message)) {
                        // Injected and then refused: proof of the injector, but the next pod of this owner would not exist.
                        ProbeResult::Ready => {
                            ProbeResult::not_ready(format!("once injected it is refused: {}", status.message))
                        }
                        outcome => outcome,
                    })
                }
                other => Err(failed("create", &namespace, &name, other)),
            },
        },
    }
}

/// Deletes the pod of that uid and no other, with its own grace period.
pub async fn delete(client: Client, namespace: &str, name: &str, uid: &str) -> Result<Deletion, RequestError> {
    let precondition = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let parameters = DeleteParams::default().preconditions(precondition);
    match Api::<Pod>::namespaced(client, namespace).delete(name, &parameters).await {
        Ok(_) => Ok(Deletion::Deleted),
        // 409: the precondition failed, so the name belongs to another pod now.
        Err(Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(Deletion::AlreadyGone),
        Err(error) => Err(failed("delete", namespace, name, error)),
    }
}

fn twin(own: &Pod) -> Pod {
    let metadata = &own.metadata;
    Pod {
        metadata: ObjectMeta {
            // Fixed and unique, and no owner: the injector looks the owner up and would write an event on it.
            name: Some(format!("linkerd-gate-proof-{}", metadata.uid.as_deref().unwrap_or("pod"))),
            namespace: metadata.namespace.clone(),
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            ..ObjectMeta::default()
        },
        spec: own.spec.as_ref().map(|own| PodSpec {
            containers: own.containers.iter().map(reduced).collect(),
            init_containers: own.init_containers.as_ref().map(|all| all.iter().map(reduced).collect()),
            host_network: own.host_network,
            automount_service_account_token: own.automount_service_account_token,
            os: own.os.clone(),
            service_account_name: own.service_account_name.clone(),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// What of a container the injector and the API server judge by: its name, its image, what it takes of the quota. What it
/// runs and knows stays here.
fn reduced(own: &Container) -> Container {
    Container {
        name: own.name.clone(),
        image: own.image.clone(),
        resources: own.resources.clone(),
        restart_policy: own.restart_policy.clone(),
        // What the strictest PodSecurity level asks for, so that a refusal is about what the injector added.
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            run_as_non_root: Some(true),
            run_as_user: Some(2102),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn failed(verb: &'static str, namespace: &str, name: &str, error: Error) -> RequestError {
    match refusal(verb, namespace, &error) {
        Some(refusal) => refusal.into(),
        None => RequestError::Failed {
            verb,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            source: Box::new(error),
        },
    }
}

/// RBAC's refusals are 403 like an admission plugin's; only RBAC's say which verb the user "cannot".
fn refusal(verb: &'static str, namespace: &str, error: &Error) -> Option<Rejection> {
    let Error::Api(status) = error else { return None };
    if status.code != 403 || !status.message.contains(&format!("cannot {verb} resource \"pods\"")) {
        return None;
    }
    let user = status.message.split("system:serviceaccount:").nth(1).and_then(|rest| rest.split('"').next());
    let service_account = user.and_then(|user| user.split(':').nth(1)).map(str::to_owned);
    Some(Rejection { verb, namespace: namespace.to_owned(), service_account })
}

// === impl Rejection ===

impl fmt::Display for Rejection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, namespace, service_account } = self;
        let account = service_account.as_deref().unwrap_or("SERVICE_ACCOUNT");
        write!(
            out,
            "service account {namespace}/{account} may not {verb} pods; LINKERD_GATE_ON_MISSED=replace needs a Role with \
             get, create and delete on pods: kubectl create role linkerd-gate-replace --namespace {namespace} \
             --verb=get,create,delete --resource=pods && kubectl create rolebinding linkerd-gate-replace --namespace \
             {namespace} --role=linkerd-gate-replace --serviceaccount={namespace}:{account}"
        )
    }
}
