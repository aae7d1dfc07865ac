//! Owners that are refused, by whom, and what was done about it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Event, Pod, ResourceQuota};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams, ValidationDirective,
};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::{self, ApiOptions, AuditedRequest};
use linkerd_gate_kit::object::namespace;
use linkerd_gate_kit::standin::Fault;
use serde_json::{Value, json};

use super::super::harness::{Harness, PATIENCE, PROBE, object};
use super::super::workloads::{Pods, SHOP};

/// What makes pods and is nudged, by its `apiVersion`.
pub const KINDS: [(&str, &str); 4] =
    [("apps/v1", "ReplicaSet"), ("apps/v1", "StatefulSet"), ("apps/v1", "DaemonSet"), ("batch/v1", "Job")];

/// How many of each kind are refused.
pub const OF_EACH: usize = 30;

/// How many of each kind somebody else refuses until injection works, whom nobody nudges.
pub const BESIDE: usize = 15;

/// Where those are: namespaces of which the guard knows nothing, and somebody else does.
pub const ELSEWHERE: &str = "elsewhere";

/// A namespace whose quota is used up.
pub const FULL: &str = "full";

/// How often each must have said that it was refused before the injector is back, which is less often than it was: the next pause
/// is 10 s at least then, and a Job's 8 s.
pub const TRIES: i32 = 8;
pub const TRIES_OF_A_JOB: i32 = 4;

/// An owner, or what is left of it: its kind, namespace and name.
pub type Key = (String, String, String);

/// A cluster with a node, an injector that answers, and a namespace that asks.
pub async fn set() -> Result<Harness> {
    // A hundred owners are more than the controllers' clients may tell of by default.
    let hurried = ["--kube-api-qps=500", "--kube-api-burst=1000"];
    let options = ApiOptions { controller_manager: hurried.map(str::to_owned).to_vec(), ..ApiOptions::default() };
    let harness = Harness::set_with(options).await?;
    harness.cluster.start_kwok().await?;
    harness.cluster.fake_nodes(4).await?;
    for namespace in [
        namespace(SHOP).asking(),
        namespace(FULL),
        namespace(ELSEWHERE).labelled("linkerd-gate/admission", "exempt").labelled("somebody", "else"),
    ] {
        harness.cluster.create_namespace(&object(namespace.json())?).await?;
    }
    harness.injector.recover().await?;
    harness.until_dry_run("injected", |answer| answer.as_ref().is_ok_and(meshed)).await?;
    Ok(harness)
}

/// So many meshed pods, besides those of the owner that tries again when it likes.
pub fn complete(pods: &Pods, count: usize) -> bool {
    let ours = || pods.iter().filter(|(key, _)| !key.contains("/old-"));
    ours().count() == count && ours().all(|(_, pod)| meshed(pod))
}

/// Takes the injector away and puts the guard there.
pub async fn refuse(harness: &Harness) -> Result<()> {
    harness.injector.suffer(Fault::Absent).await?;
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests/61-admission-guard.yaml");
    for document in serde_saphyr::from_multiple::<Value>(&std::fs::read_to_string(file)?)? {
        apply(harness, document).await?;
    }
    for document in foreign_policy() {
        apply(harness, document).await?;
    }
    let by_the_guard = |answer: &kube::Result<_>| refused_by(answer, "ValidatingAdmissionPolicy 'linkerd-gate-guard'");
    harness.until_dry_run_in(SHOP, "refused by the guard", by_the_guard).await
}

pub fn refused_by<T>(answer: &kube::Result<T>, who: &str) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.message.contains(who))
}

/// A policy of somebody else, which refuses as the guard does and is none of our concern.
pub fn foreign_policy() -> [Value; 2] {
    let proxy = "exists(c, c.name == 'linkerd-proxy')";
    let meshed = format!("object.spec.containers.{proxy} || object.spec.?initContainers.orValue([]).{proxy}");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "somebody-else"},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"somebody": "else"}},
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
                ],
            },
            "validations": [{"expression": meshed, "message": "no proxy"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "somebody-else"},
        "spec": {"policyName": "somebody-else", "validationActions": ["Deny"]},
    });
    [policy, binding]
}

pub async fn apply(harness: &Harness, document: Value) -> Result<()> {
    let document: DynamicObject = object(document)?;
    let types = document.types.clone().context("no kind")?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
    let api: Api<DynamicObject> = Api::all_with(harness.cluster.client().await?, &resource);
    let parameters =
        PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply("nudge-test") };
    let name = document.metadata.name.clone().context("no name")?;
    api.patch(&name, &parameters, &Patch::Apply(&document)).await?;
    Ok(())
}

/// An owner of one pod.
pub fn owner(kind: &str, name: &str) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "app:1"}],
        },
    });
    let selector = json!({"matchLabels": {"app": name}});
    let spec = match kind {
        "Job" => {
            template["spec"]["restartPolicy"] = json!("Never");
            json!({"backoffLimit": 0, "template": template})
        }
        "DaemonSet" => {
            template["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "fake-0"});
            json!({"selector": selector, "template": template})
        }
        "StatefulSet" => json!({"replicas": 1, "serviceName": name, "selector": selector, "template": template}),
        "ReplicationController" => json!({"replicas": 1, "selector": {"app": name}, "template": template}),
        _ => json!({"replicas": 1, "selector": selector, "template": template}),
    };
    json!({"metadata": {"name": name}, "spec": spec})
}

pub fn resource_of(kind: &str) -> ApiResource {
    let version = KINDS.iter().find(|(_, known)| *known == kind).map_or("v1", |(version, _)| version);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

pub async fn api_of(harness: &Harness, namespace: &str, kind: &str) -> Result<Api<DynamicObject>> {
    Ok(Api::namespaced_with(harness.cluster.client().await?, namespace, &resource_of(kind)))
}

pub async fn create(harness: &Harness, namespace: &str, kind: &str, owner: Value) -> Result<Key> {
    let api = api_of(harness, namespace, kind).await?;
    let made = api.create(&PostParams::default(), &object(owner)?).await?;
    Ok((resource_of(kind).plural, namespace.to_owned(), made.metadata.name.context("no name")?))
}

/// So many owners of each kind.
pub async fn make(harness: &Harness, namespace: &str, name: &str, of_each: usize) -> Result<BTreeSet<Key>> {
    let each = KINDS.iter().flat_map(|(_, kind)| (0..of_each).map(move |index| (*kind, index)));
    stream::iter(each)
        .map(|(kind, index)| {
            let mut owner = owner(kind, &format!("{name}-{}-{index}", kind.to_lowercase()));
            owner["spec"]["template"]["metadata"]["annotations"] = match namespace {
                ELSEWHERE => json!({"linkerd.io/inject": "enabled"}),
                _ => json!({}),
            };
            create(harness, namespace, kind, owner)
        })
        .buffer_unordered(16)
        .try_collect()
        .await
}

/// Owners that want nothing: from the beginning, or no more after they were refused.
pub async fn make_idle(harness: &Harness) -> Result<BTreeSet<Key>> {
    let mut idle = BTreeSet::new();
    for (kind, path, nothing) in
        [("ReplicaSet", "replicas", json!(0)), ("StatefulSet", "replicas", json!(0)), ("Job", "suspend", json!(true))]
    {
        let mut never = owner(kind, &format!("never-{}", kind.to_lowercase()));
        never["spec"][path] = nothing.clone();
        idle.insert(create(harness, SHOP, kind, never).await?);
        let key = create(harness, SHOP, kind, owner(kind, &format!("no-more-{}", kind.to_lowercase()))).await?;
        until_tried(harness, &BTreeSet::from([key.clone()]), 1).await?;
        let patch = json!({"spec": {path: nothing}});
        let api = api_of(harness, SHOP, kind).await?;
        api.patch(&key.2, &PatchParams::default(), &Patch::Merge(patch)).await?;
        idle.insert(key);
    }
    Ok(idle)
}

/// Owners that somebody else refuses: by a quota, or as the guard does. And one that no nudge wakes.
pub async fn make_elsewhere(harness: &Harness) -> Result<BTreeSet<Key>> {
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}});
    harness.create::<ResourceQuota>(FULL, quota).await?;
    make(harness, FULL, "full", 1).await?;
    create(harness, SHOP, "ReplicationController", owner("ReplicationController", "old")).await?;
    make(harness, ELSEWHERE, "beside", BESIDE).await
}

/// Waits until those were refused so often: the next try by themselves is far away then. Each tenth of them has [`PATIENCE`] of its own.
pub async fn until_tried(harness: &Harness, owners: &BTreeSet<Key>, tries: i32) -> Result<()> {
    let events: Api<Event> = Api::all(harness.cluster.client().await?);
    let only = ListParams::default().fields("reason=FailedCreate");
    for tenth in 1..=10 {
        let part = (owners.len() * tenth).div_ceil(10);
        let found = |all: &BTreeMap<String, Event>| (tried(all, owners, tries) >= part).then_some(());
        cluster::until_any(&events, &only, &format!("{part} refused often"), PATIENCE, found).await?;
    }
    Ok(())
}

/// How many of those were refused so often, by these Events.
fn tried(all: &BTreeMap<String, Event>, owners: &BTreeSet<Key>, tries: i32) -> usize {
    let mut counts: BTreeMap<Key, i32> = BTreeMap::new();
    for event in all.values() {
        let about = &event.involved_object;
        let plural = resource_of(about.kind.as_deref().unwrap_or_default()).plural;
        let (namespace, name) = (about.namespace.clone(), about.name.clone());
        let key = (plural, namespace.unwrap_or_default(), name.unwrap_or_default());
        *counts.entry(key).or_default() += event.count.unwrap_or(1);
    }
    let enough = |key: &&Key| {
        let wanted = if key.0 == "jobs" { tries.min(TRIES_OF_A_JOB) } else { tries };
        counts.get(*key).is_some_and(|count| *count >= wanted)
    };
    owners.iter().filter(enough).count()
}

/// All owners that are not to be touched, each with its version.
pub async fn untouched(harness: &Harness) -> Result<BTreeMap<Key, Option<String>>> {
    let mut all = BTreeMap::new();
    for kind in KINDS.iter().map(|(_, kind)| *kind).chain(["ReplicationController"]) {
        for namespace in [SHOP, FULL, ELSEWHERE] {
            for owner in api_of(harness, namespace, kind).await?.list(&ListParams::default()).await? {
                let name = owner.metadata.name.unwrap_or_default();
                if !name.starts_with("refused-") && name != "ordered" {
                    let key = (resource_of(kind).plural, namespace.to_owned(), name);
                    all.insert(key, owner.metadata.resource_version);
                }
            }
        }
    }
    ensure!(all.len() == KINDS.len() * (2 + BESIDE) + 6 + 1, "{:?}", all.keys());
    Ok(all)
}

pub async fn read(harness: &Harness, key: &Key) -> Result<DynamicObject> {
    let kinds = KINDS.iter().map(|(_, kind)| *kind).chain(["ReplicationController"]);
    let kind = kinds.into_iter().find(|kind| resource_of(kind).plural == key.0).context("no such kind")?;
    Ok(api_of(harness, &key.1, kind).await?.get(&key.2).await?)
}

pub fn is_retried(owner: &DynamicObject) -> bool {
    let annotations = owner.metadata.annotations.iter().flatten();
    let managers = owner.metadata.managed_fields.iter().flatten();
    annotations.into_iter().any(|(key, _)| key.starts_with("linkerd-gate/"))
        || managers.into_iter().any(|fields| fields.manager.as_deref() == Some("linkerd-gate"))
}

/// How many pods there are in a namespace.
pub async fn recovered(harness: &Harness, namespace: &str) -> Result<usize> {
    let pods: Api<Pod> = Api::namespaced(harness.cluster.client().await?, namespace);
    Ok(pods.list_metadata(&ListParams::default()).await?.items.len())
}

/// What the controller has patched of owners.
pub async fn retries(harness: &Harness) -> Result<Vec<AuditedRequest>> {
    let of_owners = |request: &AuditedRequest| request.verb == "patch" && request.resource != "leases";
    Ok(harness.requests_of("controller").await?.into_iter().filter(of_owners).collect())
}

pub fn key_of(request: &AuditedRequest) -> Key {
    (request.resource.clone(), request.namespace.clone(), request.name.clone())
}

/// Besides nudges a controller that has nothing to repair writes its Lease, Events, and dry-run pods.
pub async fn wrote_nothing_else(harness: &Harness) -> Result<()> {
    for request in harness.requests_of("controller").await? {
        let reads = ["get", "list", "watch"].contains(&request.verb.as_str());
        let known = ["leases", "events"].contains(&request.resource.as_str())
            || request.resource == "pods" && request.dry_run && request.namespace == PROBE;
        let retries = request.verb == "patch" && request.namespace == SHOP && request.subresource.is_empty();
        ensure!(reads || known || retries, "{request:?}");
    }
    Ok(())
}
