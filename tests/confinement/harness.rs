//! A cluster with the manifests in it, and tokens of agents and of a controller.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions, until_any};
use linkerd_gate_kit::object::{namespace, pod, webhook_configuration};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::write::{Write, send};

/// The agents' namespace.
pub const NAMESPACE: &str = "linkerd-gate";

/// Where injection is proven.
pub const PROBE: &str = "linkerd-gate-probe";

/// How long anything here may take that is awaited.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The agents' service account.
pub const AGENT: &str = "linkerd-gate-agent";

/// The controllers' service account.
pub const CONTROLLER: &str = "linkerd-gate-controller";

/// A node for attacks, another one, and one that is written to.
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// What the chart's webhook does not select, what it is served from, what the operator adds, and a user's.
const NAMESPACES: [&str; 4] = ["cert-manager", "linkerd", "storage", "shop"];

/// A cluster on which the files of agent and controller in `deploy/manifests` were applied, with an agent's pod on each of three
/// nodes, and controllers' pods on none: they wait for a node that is ready.
pub struct Harness {
    /// The cluster.
    pub cluster: Cluster,
}

/// The manifests' directory.
pub fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests")
}

/// The files of agent and controller, in their order. What stands beyond them is for admission: attacks begin with bare pods.
fn files() -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(manifests())?.map(|entry| anyhow::Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.is_file() && path.file_name().is_some_and(|name| *name < *"60"));
    files.sort();
    Ok(files)
}

/// All documents of these files, in the order in which they are applied.
pub fn documents() -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for file in files()? {
        documents.extend(serde_saphyr::from_multiple::<Value>(&std::fs::read_to_string(file)?)?);
    }
    Ok(documents)
}

/// The documents of a file that is applied only where somebody wants it.
pub fn optional(file: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(&std::fs::read_to_string(manifests().join("optional").join(file))?)?)
}

/// The stage on which both service accounts may do everything, as far as RBAC goes. One for all tests.
pub async fn with_every_right() -> Result<&'static Harness> {
    static HARNESS: OnceCell<Harness> = OnceCell::const_new();
    HARNESS
        .get_or_try_init(|| async {
            let harness = Harness::as_installed().await?;
            let admin = harness.admin().await?;
            let binding = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "every-right"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [
                    {"kind": "ServiceAccount", "name": AGENT, "namespace": NAMESPACE},
                    {"kind": "ServiceAccount", "name": CONTROLLER, "namespace": NAMESPACE},
                ],
            });
            send(&admin, &Write::create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding)).await?;
            // RBAC follows a change a moment later: the first right that only this binding gives.
            let secret = json!({"metadata": {"name": "any"}});
            let write = Write::create("/api/v1/namespaces/shop/secrets", &secret).dry_run();
            for client in [harness.agent("node-a").await?, harness.controller().await?] {
                tokio::time::timeout(PATIENCE, async {
                    while send(&client, &write).await.is_err() {
                        tokio::task::yield_now().await;
                    }
                })
                .await
                .context("a service account did not get every right")?;
            }
            Ok(harness)
        })
        .await
}

// === impl Stage ===

impl Harness {
    /// The stage on which the agents have the rights that the manifests give them.
    pub async fn as_installed() -> Result<Self> {
        // Nobody reports these nodes' status, which this controller would write onto them again and again.
        let controllers = "--controllers=*,-node-lifecycle-controller".to_owned();
        let options = ApiOptions { controller_manager: vec![controllers], ..ApiOptions::default() };
        let harness = Self { cluster: Cluster::start_with(options).await? };
        let admin = harness.admin().await?;
        for name in NODES {
            send(&admin, &Write::create("/api/v1/nodes", &node(name))).await?;
        }
        for name in NAMESPACES {
            let namespace = match name {
                "storage" => namespace(name).labelled("linkerd-gate/essential", "true"),
                _ => namespace(name),
            };
            harness.cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
        }
        // Nobody serves it, and its failure policy lets every pod pass.
        let configuration = webhook_configuration("linkerd").json();
        let configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        send(&admin, &Write::create(configurations, &configuration)).await?;
        harness.install().await?;
        Ok(harness)
    }

    /// An administrator.
    pub async fn admin(&self) -> Result<Client> {
        self.cluster.client().await
    }

    /// The agent on a node, by the token of its pod.
    pub async fn agent(&self, node: &str) -> Result<Client> {
        self.cluster.client_as_pod(NAMESPACE, &self.agents_pod(node).await?).await
    }

    /// The agents' service account, by a token that belongs to no pod.
    pub async fn agent_without_a_node(&self) -> Result<Client> {
        self.cluster.client_as(NAMESPACE, AGENT).await
    }

    /// A controller, by the token of its pod.
    pub async fn controller(&self) -> Result<Client> {
        self.cluster.client_as_pod(NAMESPACE, &self.controllers_pod().await?).await
    }

    /// The controllers' service account, by a token that belongs to no pod.
    pub async fn controller_without_a_pod(&self) -> Result<Client> {
        self.cluster.client_as(NAMESPACE, CONTROLLER).await
    }

    /// The name of a controller's pod, always the same one of the two.
    pub async fn controllers_pod(&self) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.admin().await?, NAMESPACE);
        let ours = ListParams::default().labels("app.kubernetes.io/component=controller");
        until_any(&pods, &ours, "both controllers", PATIENCE, |pods| {
            let mut names: Vec<_> = pods.values().filter_map(|pod| pod.metadata.name.clone()).collect();
            names.sort();
            names.into_iter().next().filter(|_| pods.len() == 2)
        })
        .await
    }

    /// The name of the agent's pod on a node.
    pub async fn agents_pod(&self, node: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.admin().await?, NAMESPACE);
        until_any(&pods, &ListParams::default(), &format!("an agent on {node}"), PATIENCE, |pods| {
            let here = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
            pods.values().find(here).and_then(|pod| pod.metadata.name.clone())
        })
        .await
    }

    /// Creates a pod that no node takes: all of them are tainted as not ready. Returns its path.
    pub async fn waiting_pod(&self, namespace: &str, name: &str) -> Result<String> {
        self.create_pod(namespace, &pod(name).running("app:test").json()).await
    }

    /// Creates a pod, and returns its path.
    pub async fn create_pod(&self, namespace: &str, pod: &Value) -> Result<String> {
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let created = send(&self.admin().await?, &Write::create(&pods, pod)).await?;
        Ok(format!("{pods}/{}", created["metadata"]["name"].as_str().context("a pod without a name")?))
    }

    async fn install(&self) -> Result<()> {
        let output = tokio::process::Command::new(self.cluster.kubectl())
            .args(["apply", "--validate=strict"])
            .args(files()?.iter().flat_map(|file| [OsStr::new("--filename"), file.as_os_str()]))
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig())
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.lines().count() == documents()?.len(), "not everything was applied:\n{said}");
        self.until_confined().await
    }

    /// Policies count a moment after they were written: makes an attack against each until it is refused.
    async fn until_confined(&self) -> Result<()> {
        let (agent, admin) = (self.agent("node-a").await?, self.admin().await?);
        let essential = self.waiting_pod("linkerd", "first").await?;
        let ordinary = self.waiting_pod("shop", "first").await?;
        let cordon = json!({"spec": {"unschedulable": true}});
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        let tolerate = json!([{"op": "add", "path": "/spec/tolerations/-", "value": crate::pods::toleration()}]);
        let lease = json!({"metadata": {"name": "another"}});
        let event = json!({
            "metadata": {"generateName": "e-"},
            "involvedObject": {"kind": "Node", "name": "another", "apiVersion": "v1"},
        });
        let job = json!({"metadata": {"name": "any"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "app", "image": "app:test"}],
        }}}});
        let attacks = [
            ("linkerd-gate-agent-nodes", &agent, Write::merge("/api/v1/nodes/node-a", &cordon)),
            // Each of the two for pods with what the other one allows.
            ("linkerd-gate-agent-pods", &agent, Write::merge(&essential, &label)),
            ("linkerd-gate-agent-essential", &agent, Write::json_patch(&ordinary, &tolerate)),
            (
                "linkerd-gate-agent-lease",
                &agent,
                Write::create("/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases", &lease),
            ),
            ("linkerd-gate-agent-events", &agent, Write::create("/api/v1/namespaces/default/events", &event)),
            ("linkerd-gate-probe", &admin, Write::create(&format!("/apis/batch/v1/namespaces/{PROBE}/jobs"), &job)),
        ];
        for (policy, client, write) in attacks {
            self.until_refused(policy, client, &write.dry_run()).await?;
        }
        for (policy, write) in crate::controller::first_attacks(self).await? {
            self.until_refused(policy, &self.controller().await?, &write.dry_run()).await?;
        }
        Ok(())
    }

    async fn until_refused(&self, policy: &str, client: &Client, attack: &Write) -> Result<()> {
        let mut last = String::new();
        let refused = async {
            loop {
                match send(client, attack).await {
                    Err(refusal) if refusal.by(policy) => return,
                    Err(refusal) => last = refusal.to_string(),
                    Ok(_) => "it passed".clone_into(&mut last),
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, refused).await {
            Ok(()) => Ok(()),
            Err(_) => bail!("{policy} does not refuse: {last}"),
        }
    }
}

/// A node that the scheduler can use, with something on it that must be left alone. The API server adds the taint that says
/// that it is not ready.
fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name},
            "annotations": {"example.com/somebody": "else"},
        },
        "spec": {"taints": [{"key": "example.com/gpu", "value": "yes", "effect": "NoSchedule"}]},
        "status": {
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        },
    })
}
