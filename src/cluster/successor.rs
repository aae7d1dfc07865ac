//! Whether what an owner makes instead of a removed pod is taken, and has a proxy.
//!
//! Before a pod that runs is evicted, a dry-run tells: of the owner's own template in its own namespace, so that everything there has
//! its say: Pod Security, quotas and limits, other programs' webhooks, and the injector with the namespace's annotations. Nothing is
//! stored. After a pod was removed and no other came, the Events of its owner tell the same.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Event, Namespace, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec,
    ReplicationController, ResourceQuota, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Error, Resource};
use serde::de::DeserializeOwned;

use super::error::describe;
use crate::decide::repair::late::{FailedCreate, NotCreated};
use crate::decide::repair::quota::Exceeded;
use crate::decide::repair::successor::{
    Refusal, RefusalCause, RefusedBy, Trial, code_of, full_quota, not_injected, refused_by,
};
use crate::decide::repair::{Kind, OwnerReference, Target};
use crate::linkerd::mesh_state::has_proxy;

/// What an owner makes pods of.
struct Template {
    template: PodTemplateSpec,
    /// Of a StatefulSet: each pod gets a volume for each of these, which its template does not name.
    claims: Vec<PersistentVolumeClaim>,
}

/// How many Events of one owner are read: each of its refusals differs from the others by a pod's name, and some by a number.
const MOST_EVENTS: u32 = 100;

/// The file without which a dry-run in an owner's namespace is forbidden.
const RIGHTS: &str = "; LINKERD_GATE_EVICTION=true needs optional/74-controller-successors-rbac.yaml beside \
                      optional/70-controller-eviction-rbac.yaml";

/// Whether a pod that `owner` makes once `evicted` is gone would be taken and would have Linkerd's proxy; nothing where the owner is
/// gone, or is another by now. Another program's kind of owner has no template that is known: nothing is sent, and the annotation that
/// allows its replacement counts.
pub async fn prove(client: Client, namespace: &str, owner: &OwnerReference, evicted: &Target) -> Option<Trial> {
    if matches!(owner.kind, Kind::Other(_)) {
        return Some(Trial::Accepted);
    }
    match template(&client, namespace, owner).await {
        Ok(Some(template)) => Some(send(client, namespace, owner, template, evicted).await),
        Ok(None) => None,
        Err(error) => {
            let what = format!("read {} {namespace}/{}", owner.kind.names().1, owner.name);
            Some(Trial::Failed(describe(&what, &error)))
        }
    }
}

/// What an owner makes its pods of; nothing where it is gone, is another by now, or is of a kind that is not known.
async fn template(client: &Client, namespace: &str, owner: &OwnerReference) -> Result<Option<Template>, Error> {
    match owner.kind {
        Kind::ReplicaSet => find::<ReplicaSet>(client, namespace, owner, |set| Some(plain(set.spec?.template?))).await,
        Kind::DaemonSet => find::<DaemonSet>(client, namespace, owner, |set| Some(plain(set.spec?.template))).await,
        Kind::Job => find::<Job>(client, namespace, owner, |job| Some(plain(job.spec?.template))).await,
        Kind::ReplicationController => {
            find::<ReplicationController>(client, namespace, owner, |controller| {
                Some(plain(controller.spec?.template?))
            })
            .await
        }
        Kind::StatefulSet => {
            let template = |set: StatefulSet| {
                let spec = set.spec?;
                Some(Template { template: spec.template, claims: spec.volume_claim_templates.unwrap_or_default() })
            };
            find::<StatefulSet>(client, namespace, owner, template).await
        }
        Kind::Other(_) => Ok(None),
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
        Ok(_) => bare(client, namespace, &sent, None).await,
        Err(Error::Api(status)) => match refused_by(status.code, &status.message) {
            RefusedBy::Rights => Trial::Failed(format!(
                "not evicted: cannot try out the pod that would be made instead: {}{RIGHTS}",
                status.message
            )),
            RefusedBy::FullQuota(exceeded) => make_room(client, namespace, &exceeded, evicted, &sent).await,
            RefusedBy::Unclear(code, message) => bare(client, namespace, &sent, Some((code, message))).await,
            RefusedBy::Known(cause) => Refusal { cause, words: status.message.clone() }.into(),
        },
        Err(error) => Trial::Failed(describe("try out the pod that would be made instead", &error)),
    }
}

/// A dry-run that came back without a proxy, or was refused with `refused` without a cause in its words.
async fn bare(client: Client, namespace: &str, sent: &Pod, refused: Option<(u16, &str)>) -> Trial {
    let of_namespace = metadata_of(client, namespace).await.ok();
    if let Some(refusal) = not_injected(Some(&sent.metadata), of_namespace.as_ref(), refused) {
        return refusal.into();
    }
    let (code, message) = refused.unwrap_or_default();
    Trial::Failed(format!("not evicted: cannot try out the pod that would be made instead (HTTP {code}): {message}"))
}

/// Why `owner` has not created a pod since `since`, by the latest of its Events `FailedCreate`. Injection has been proven without a
/// break since `proven_since`.
pub async fn not_created(
    client: Client,
    namespace: &str,
    owner: &OwnerReference,
    since: Timestamp,
    proven_since: Timestamp,
) -> NotCreated {
    let of_owner = format!("involvedObject.uid={},reason=FailedCreate", owner.uid);
    let only = ListParams::default().fields(&of_owner).limit(MOST_EVENTS);
    let events = match Api::<Event>::namespaced(client.clone(), namespace).list(&only).await {
        Ok(events) => events.items,
        Err(error) => return NotCreated::Failed(describe("list the owner's Events", &error)),
    };
    let events: Vec<FailedCreate> = events.iter().filter_map(|event| FailedCreate::of(event, owner)).collect();
    let Some(latest) = FailedCreate::latest(&events, since, proven_since) else { return NotCreated::Unknown };
    let message = latest.message.as_str();
    let refusal = match refused_by(code_of(message), message) {
        RefusedBy::Known(cause) => Some(Refusal { cause, words: message.to_owned() }),
        RefusedBy::FullQuota(_) => Some(Refusal { cause: RefusalCause::Quota, words: message.to_owned() }),
        RefusedBy::Rights => Some(Refusal { cause: RefusalCause::Admission, words: message.to_owned() }),
        RefusedBy::Unclear(code, message) => {
            let of_namespace = metadata_of(client.clone(), namespace).await.ok();
            let template = template(&client, namespace, owner).await.ok().flatten();
            let of_pod = template.map(|template| template.template.metadata.unwrap_or_default());
            not_injected(of_pod.as_ref(), of_namespace.as_ref(), Some((code, message)))
        }
    };
    refusal.map_or_else(|| NotCreated::Failed(message.to_owned()), NotCreated::Refused)
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
