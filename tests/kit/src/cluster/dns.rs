//! The cluster's DNS: CoreDNS, as a Deployment behind Service `kube-dns`, as every installer sets it up.

use anyhow::{Context, Result};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{Api, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

/// The address of Service `kube-dns`.
pub(super) const DNS_SERVICE: &str = "10.96.0.10";

/// The cluster's domain.
pub(super) const DOMAIN: &str = "cluster.local";

/// CoreDNS' image, made by us.
pub(super) const IMAGE: &str = "kit.test/coredns:1";

const NAMESPACE: &str = "kube-system";

/// Answers are cached for a second only: tests change what names stand for and do not want to wait.
const COREFILE: &str = ".:53 {
    errors
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        ttl 1
    }
    cache 1
}
";

/// Creates the objects that make CoreDNS run.
pub(super) async fn install(client: &kube::Client) -> Result<()> {
    let labels = json!({"k8s-app": "kube-dns"});
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "coredns"}}))?;
    create(&Api::namespaced(client.clone(), NAMESPACE), &account).await?;
    let role: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }))?;
    create(&Api::all(client.clone()), &role).await?;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE}],
    }))?;
    create(&Api::all(client.clone()), &binding).await?;
    let configuration: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "coredns"}, "data": {"Corefile": COREFILE}}))?;
    create(&Api::namespaced(client.clone(), NAMESPACE), &configuration).await?;
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "coredns", "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "serviceAccountName": "coredns",
                "priorityClassName": "system-cluster-critical",
                // Not by way of itself.
                "dnsPolicy": "Default",
                "containers": [{
                    "name": "coredns",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "args": ["-conf", "/etc/coredns/Corefile"],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
                }],
                "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
            }},
        },
    }))?;
    create(&Api::namespaced(client.clone(), NAMESPACE), &deployment).await?;
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "kube-dns", "labels": labels},
        "spec": {
            "clusterIP": DNS_SERVICE,
            "selector": labels,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    }))?;
    create(&Api::namespaced(client.clone(), NAMESPACE), &service).await
}

/// The Deployment, to wait for.
pub(super) fn deployments(client: &kube::Client) -> (Api<Deployment>, &'static str) {
    (Api::namespaced(client.clone(), NAMESPACE), "coredns")
}

async fn create<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let name = object.meta().name.clone().unwrap_or_default();
    api.create(&PostParams::default(), object)
        .await
        .with_context(|| format!("cannot create {} {name}", K::kind(&())))?;
    Ok(())
}
