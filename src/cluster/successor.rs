//! Before a pod that runs is evicted: whether what its owner makes instead would be taken, and would have a proxy.
//!
//! A dry-run of the owner's own template in its own namespace, so that everything there has its say: Pod Security, quotas and limits, other
//! programs' webhooks, and the injector with the namespace's annotations. Nothing is stored.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Namespace, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, ReplicationController,
    ResourceQuota, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Error, Resource};
use serde::de::DeserializeOwned;

use super::error::describe;
use crate::decide::readiness::dry_run::has_proxy;
use crate::decide::repair::quota::Exceeded;
use crate::decide::repair::successor::{RefusalCause, RefusedBy, Trial, full_quota, not_injected, refused_by};
use crate::decide::repair::{Kind, OwnerReference, Target};

/// What an owner makes pods of.
struct Template {
    template: PodTemplateSpec,
    /// Of a StatefulSet: each pod gets a volume for each of these, which its template does not name.
    claims: Vec<PersistentVolumeClaim>,
}

/// The file without which a dry-run in an owner's namespace is forbidden.
const RIGHTS: &str = "; LINKERD_GATE_EVICTION=true needs optional/74-controller-successors-rbac.yaml beside \
                      optional/70-controller-eviction-rbac.yaml";

/// Whether a pod that `owner` makes once `evicted` is gone would be taken and would have Linkerd's proxy; nothing where the owner is
/// gone, or is another by now. Another program's kind of owner has no template that is known: nothing is sent, and the annotation that
/// allows its replacement counts.
pub async fn prove(client: Client, namespace: &str, owner: &OwnerReference, evicted: &Target) -> Option<Trial> {
    let found = match owner.kind {
        Kind::ReplicaSet => find::<ReplicaSet>(&client, namespace, owner, |set| Some(plain(set.spec?.template?))).await,
        Kind::DaemonSet => find::<DaemonSet>(&client, namespace, owner, |set| Some(plain(set.spec?.template))).await,
        Kind::Job => find::<Job>(&client, namespace, owner, |job| Some(plain(job.spec?.template))).await,
        Kind::ReplicationController => {
            find::<ReplicationController>(&client, namespace, owner, |controller| {
                Some(plain(controller.spec?.template?))
            })
            .await
        }
        Kind::StatefulSet => {
            let template = |set: StatefulSet| {
                let spec = set.spec?;
                Some(Template { template: spec.template, claims: spec.volume_claim_templates.unwrap_or_default() })
            };
            find::<StatefulSet>(&client, namespace, owner, template).await
        }
        Kind::Other(_) => return Some(Trial::Accepted),
    };
    match found {
        Ok(Some(template)) => Some(send(client, namespace, owner, template, evicted).await),
        Ok(None) => None,
        Err(error) => {
            let what = format!("read {} {namespace}/{}", owner.kind.names().1, owner.name);
            Some(Trial::Failed(describe(&what, &error)))
        }
    }
}

fn plain(template: PodTemplateSpec) -> Template {
    Template { template, claims: Vec::new() }
}

/// By a list: that is a right which the controller has. Nothing where the owner is gone, or is another by now.
async fn find<K>(
    client: &Client,
    namespace: &str,
    owner: &OwnerReference,
    template: impl FnOnce(K) -> Option<Template>,
) -> Result<Option<Template>, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let only = ListParams::default().fields(&format!("metadata.name={}", owner.name));
    let all = Api::<K>::namespaced(client.clone(), namespace).list(&only).await?;
    let found = all.items.into_iter().find(|found| found.meta().uid.as_deref() == Some(owner.uid.as_str()));
    Ok(found.and_then(template))
}

async fn send(client: Client, namespace: &str, owner: &OwnerReference, template: Template, evicted: &Target) -> Trial {
    let parameters = PostParams { dry_run: true, field_manager: Some(super::FIELD_MANAGER.to_owned()) };
    let sent = pod(owner, template);
    match Api::<Pod>::namespaced(client.clone(), namespace).create(&parameters, &sent).await {
        Ok(pod) if has_proxy(&pod) => Trial::Accepted,
        Ok(_) => not_injected(&sent, metadata_of(client, namespace).await.ok().as_ref(), None),
        Err(Error::Api(status)) => match refused_by(status.code, &status.message) {
            RefusedBy::Rights => Trial::Failed(format!(
                "not evicted: cannot try out the pod that would be made instead: {}{RIGHTS}",
                status.message
            )),
            RefusedBy::FullQuota(exceeded) => make_room(client, namespace, &exceeded, evicted, &sent).await,
            RefusedBy::InjectorOrServer => {
                let refusal = Some((status.code, status.message.as_str()));
                not_injected(&sent, metadata_of(client, namespace).await.ok().as_ref(), refusal)
            }
            RefusedBy::Known(cause, why) => Trial::Refused(cause, why),
        },
        Err(error) => Trial::Failed(describe("try out the pod that would be made instead", &error)),
    }
}

/// Whether the eviction makes room in a quota that is full: by the quotas, and by the pod as it is now.
async fn make_room(client: Client, namespace: &str, exceeded: &Exceeded, evicted: &Target, sent: &Pod) -> Trial {
    let all = ListParams::default();
    let quotas = Api::<ResourceQuota>::namespaced(client.clone(), namespace);
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let only = ListParams::default().fields(&format!("metadata.name={}", evicted.name));
    let found = tokio::try_join!(quotas.list(&all), pods.list(&only), metadata_of(client, namespace));
    match found {
        Ok((quotas, pods, of_namespace)) => {
            let pod = pods.items.iter().find(|pod| pod.metadata.uid.as_ref() == Some(&evicted.uid));
            full_quota(exceeded, &quotas.items, &of_namespace, pod, sent)
        }
        Err(error) => {
            let rights = if matches!(&error, Error::Api(status) if status.is_forbidden()) { RIGHTS } else { "" };
            let why = describe("read the quotas", &error);
            Trial::Refused(
                RefusalCause::QuotaUndecided,
                format!(
                    "not evicted: whether the eviction makes room in quota {} cannot be decided: {why}{rights}",
                    exceeded.quota
                ),
            )
        }
    }
}

/// A namespace's metadata; empty where it is gone.
async fn metadata_of(client: Client, namespace: &str) -> Result<ObjectMeta, Error> {
    let only = ListParams::default().fields(&format!("metadata.name={namespace}"));
    let found = Api::<Namespace>::all(client).list(&only).await?.items.pop();
    Ok(found.map(|namespace| namespace.metadata).unwrap_or_default())
}

/// As the owner's controller would make it, but for the owner: the injector looks owners up, and would write an Event on one.
fn pod(owner: &OwnerReference, Template { template, claims }: Template) -> Pod {
    let metadata = template.metadata.unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    for claim in claims {
        let Some(name) = claim.metadata.name else { continue };
        let volumes = spec.volumes.get_or_insert_default();
        // The claim's volume takes the place of the template's of that name.
        volumes.retain(|volume| volume.name != name);
        volumes.push(Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: format!("{name}-{}-0", owner.name),
                read_only: None,
            }),
            name,
            ..Volume::default()
        });
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name)),
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stateful_sets_claims_become_volumes_of_the_dry_run_pod() {
        let template = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "db"}, "annotations": {"linkerd.io/inject": "enabled"}},
            "spec": {
                "containers": [{"name": "db", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
            },
        }))
        .unwrap();
        let claims = serde_json::from_value(json!([{"metadata": {"name": "data"}}])).unwrap();
        let owner = OwnerReference { kind: Kind::StatefulSet, name: "db".to_owned(), uid: "u".to_owned() };
        let pod = serde_json::to_value(pod(&owner, Template { template, claims })).unwrap();
        assert_eq!(pod["metadata"]["generateName"], "db-");
        assert_eq!(pod["metadata"]["annotations"]["linkerd.io/inject"], "enabled");
        let volumes = json!([
            {"name": "tmp", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}},
        ]);
        assert_eq!(pod["spec"]["volumes"], volumes);
        assert!(pod["metadata"]["ownerReferences"].is_null());
    }
}
