//! Which versions run in the cluster.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::PodSpec;
use kube::{Api, Client, api::ListParams};

use super::Refused;
use crate::linkerd::names;

/// The annotation in which Linkerd's chart says what rendered an object: `linkerd/helm edge-26.8.3`.
const CREATED_BY: &str = names::annotation::CREATED_BY;

/// The API server's version.
///
/// # Errors
/// A cluster that cannot be asked.
pub async fn kubernetes(client: &Client) -> Result<Vec<String>, Refused> {
    let version = client.apiserver_version().await.map_err(|error| Refused::of(&error, "get on /version"))?;
    Ok(vec![version.git_version])
}

/// The versions of Linkerd's injectors, wherever they are installed.
///
/// # Errors
/// What may not be read.
pub async fn linkerd(client: &Client) -> Result<Vec<String>, Refused> {
    let label = format!("{}={}", names::label::CONTROL_PLANE_COMPONENT, names::component::PROXY_INJECTOR);
    let found = Api::<Deployment>::all(client.clone()).list(&ListParams::default().labels(&label)).await;
    let found = found.map_err(|error| Refused::of(&error, "list on deployments.apps in all namespaces"))?;
    let versions = found.items.into_iter().filter_map(|deployment| {
        let annotations = deployment.metadata.annotations.unwrap_or_default();
        let created_by = annotations.get(CREATED_BY)?;
        created_by.split_whitespace().last().map(ToOwned::to_owned)
    });
    Ok(once_each(versions))
}

/// The images of linkerd-gate's agents and controllers in their namespace.
///
/// # Errors
/// What may not be read.
pub async fn linkerd_gate(client: &Client, namespace: &str) -> Result<Vec<String>, Refused> {
    let right = |resource: &str| format!("list on {resource}.apps in namespace {namespace}");
    let agents = Api::<DaemonSet>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
    let agents = agents.map_err(|error| Refused::of(&error, &right("daemonsets")))?;
    let controllers = Api::<Deployment>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
    let controllers = controllers.map_err(|error| Refused::of(&error, &right("deployments")))?;
    let agents = agents.items.into_iter().filter_map(|agent| agent.spec?.template.spec);
    let controllers = controllers.items.into_iter().filter_map(|controller| controller.spec?.template.spec);
    Ok(once_each(agents.chain(controllers).flat_map(images)))
}

/// The images of the containers that run one of our roles.
fn images(spec: PodSpec) -> Vec<String> {
    let ours = |args: &Option<Vec<String>>| {
        args.as_ref().and_then(|args| args.first()).is_some_and(|role| ["agent", "controller"].contains(&role.as_str()))
    };
    spec.containers
        .into_iter()
        .filter(|container| ours(&container.args))
        .filter_map(|container| container.image)
        .collect()
}

fn once_each(found: impl Iterator<Item = String>) -> Vec<String> {
    let mut found: Vec<_> = found.collect();
    found.sort();
    found.dedup();
    found
}
