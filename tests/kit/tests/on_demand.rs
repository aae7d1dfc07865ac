//! What a control plane does only for those who ask: its requests counted.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    core::v1::{ConfigMap, Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchParams},
};
use linkerd_gate_kit::{
    cluster::{self, ApiOptions, AuditStage, AuditedRequest},
    object::pod,
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn requests_are_counted_one_by_one() -> Result<()> {
    let cluster = cluster::Api::start_with(ApiOptions { audit: true, ..ApiOptions::default() }).await?;
    let namespace = cluster.namespace("count", &[]).await?;
    cluster.reported(&[&namespace], count(&cluster, &namespace)).await
}

async fn count(cluster: &cluster::Api, namespace: &str) -> Result<()> {
    let admin = cluster.client().await?;
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "counted"}}))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &account).await?;
    grant(&admin, namespace, "counted").await?;
    let web: Pod = serde_json::from_value(pod("web").running("app:1").as_service_account("counted").json())?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &web).await?;
    let user = format!("system:serviceaccount:{namespace}:counted");
    ensure!(cluster.requests_of(&user)?.is_empty(), "counted before anything was asked");

    let maps: Api<ConfigMap> = Api::namespaced(cluster.client_as_pod(namespace, "web").await?, namespace);
    let list = maps.list(&ListParams::default()).await?;
    let version = list.metadata.resource_version.context("a list without a version")?;
    let mut watch = Box::pin(maps.watch(&WatchParams::default(), &version).await?);
    let patch = Patch::Merge(json!({"data": {"key": "value"}}));
    maps.patch("kube-root-ca.crt", &PatchParams { dry_run: true, ..PatchParams::default() }, &patch).await?;
    ensure!(maps.delete("kube-root-ca.crt", &kube::api::DeleteParams::default()).await.is_err(), "a right too many");

    let requests = cluster.requests_of(&user)?;
    let short: Vec<_> = requests.iter().map(AuditedRequest::short).collect();
    let expected = [
        format!("list {namespace}/configmaps"),
        format!("watch {namespace}/configmaps"),
        format!("patch {namespace}/configmaps kube-root-ca.crt dry-run"),
        format!("delete {namespace}/configmaps kube-root-ca.crt"),
    ];
    ensure!(short == expected, "{requests:#?}");
    let codes: Vec<_> = requests.iter().map(|request| request.code).collect();
    ensure!(codes == [Some(200), Some(200), Some(200), Some(403)], "{requests:#?}");
    let stages: Vec<_> = requests.iter().map(|request| request.stage).collect();
    let complete = AuditStage::ResponseComplete;
    ensure!(stages == [complete, AuditStage::ResponseStarted, complete, complete], "{requests:#?}");
    ensure!(requests.iter().all(|request| request.pod.as_deref() == Some("web")), "{requests:#?}");

    // A watch that ends is still one request, and what others do meanwhile is none of ours.
    Api::<ConfigMap>::namespaced(admin, namespace).patch("kube-root-ca.crt", &PatchParams::default(), &patch).await?;
    watch.next().await.context("no event")??;
    drop(watch);
    let ended = async {
        loop {
            let requests = cluster.requests_of(&user)?;
            ensure!(requests.len() == expected.len(), "{requests:#?}");
            if requests[1].stage == complete {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.context("the end of the watch is not told")?
}

/// Lets a service account do everything to configmaps but delete them, and waits until the API server knows.
async fn grant(admin: &kube::Client, namespace: &str, account: &str) -> Result<()> {
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": account},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch", "patch"]}],
    }))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &role).await?;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &binding).await?;
    let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
        "user": format!("system:serviceaccount:{namespace}:{account}"),
        "resourceAttributes": {"namespace": namespace, "verb": "patch", "resource": "configmaps"},
    }}))?;
    let reviews: Api<SubjectAccessReview> = Api::all(admin.clone());
    for _ in 0..600 {
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the API server does not learn of the role")
}
