//! One node that boots, its agent, and Linkerd, which answers once the node is closed and its agent proves.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use linkerd_gate::decide::PublishedVerdict;
use linkerd_gate::decide::election::lease_record::{PROVER_LEASE, VERDICT};
use linkerd_gate::decide::election::published_verdict::WireVerdict;
use linkerd_gate::decide::node::taint::{OPENED_BOOT, TAINT_KEY};
use linkerd_gate_kit::memory_api::{Change, Faults, Key, MemoryApi, Selection};
use linkerd_gate_kit::object::namespace;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::world::{Linkerd, PATIENCE, Process, TEMPO, answer, install};

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

/// The boot that is played; the node was open in the one before.
const BOOT: &str = "this-boot";

/// A cluster of one node; it ends with this value.
pub struct NodeWorld {
    api: Arc<MemoryApi>,
    files: TempDir,
    /// The version of the store from which on Linkerd answers.
    answers_since: watch::Receiver<Option<usize>>,
    _linkerd: JoinSet<()>,
}

// === impl NodeWorld ===

impl NodeWorld {
    pub async fn start(faults: Faults) -> Result<Self> {
        let linkerd = Arc::new(Linkerd::default());
        let api = Arc::new(MemoryApi::start_with(Arc::clone(&linkerd) as _, faults).await?);
        install(api.store(), namespace("shop").json())?;
        let annotations = json!({OPENED_BOOT: "the-boot-before"});
        api.store().put(
            &node(),
            json!({"metadata": {"name": "node-0", "annotations": annotations}, "spec": {}, "status": {}}),
        );
        let (since, answers_since) = watch::channel(None);
        let (mut playing, played) = (JoinSet::new(), Arc::clone(&api));
        playing.spawn(async move {
            let store = played.store();
            store.until(&node(), |node| node.is_some_and(is_tainted)).await;
            store.until(&lease(), |lease| lease.is_some_and(|lease| verdict(lease).is_some())).await;
            sleep(TEMPO).await;
            since.send_replace(Some(store.list(&Selection::default()).1));
            answer(store, &linkerd);
        });
        Ok(Self { api, files: TempDir::new()?, answers_since, _linkerd: playing })
    }

    /// Starts the agent, as the node's kubelet does: again under the same name after it was killed.
    pub fn agent(&self) -> Result<Process> {
        let boot_id = self.files.path().join("boot_id");
        std::fs::write(&boot_id, BOOT)?;
        let boot_id = boot_id.display().to_string();
        let variables = [("LINKERD_GATE_POD_NAME", "linkerd-gate-x2x9z"), ("LINKERD_GATE_BOOT_ID_FILE", &*boot_id)];
        Process::start("agent", &self.api, self.files.path(), &variables)
    }

    pub fn faults(&self) -> &Faults {
        self.api.faults()
    }

    /// What the Lease says at present.
    pub fn lease(&self) -> Option<Value> {
        self.api.store().get(&lease())
    }

    /// Waits until the node is open, and the agent has written the Lease, which is not as it was before.
    pub async fn until_open(&self, agent: &Process, before: Option<&Value>) -> Result<()> {
        let store = self.api.store();
        let open = async {
            store.until(&node(), |node| node.is_some_and(is_open)).await;
            store.until(&lease(), |lease| lease.is_some() && lease != before).await;
        };
        if timeout(PATIENCE, open).await.is_err() {
            let (node, log) = (store.get(&node()), agent.end().await?);
            bail!("the node is not open: {node:#?} {:#?}; the agent logged:\n{log}", self.lease());
        }
        Ok(())
    }

    /// What holds wherever the agent was killed: the node is closed before anything else, and opens by a proof that was published after
    /// Linkerd answered. Returns what is left on the node.
    pub async fn check(&self) -> Result<Value> {
        let answers_since = self.answers_since.borrow().context("Linkerd does not answer yet")?;
        let changes = async |collection: &str| {
            let all = Selection { collection: collection.to_owned(), ..Selection::default() };
            self.api.store().changes(&all, 0).await.0
        };
        let proven = changes(LEASES).await.into_iter().find(|change| verdict(&change.object).is_some_and(is_proven));
        let proven = version(&proven.context("nothing was proven")?)?;
        ensure!(proven > answers_since, "injection was proven before the injector answered");
        let nodes = changes(NODES).await;
        let (booted, written) = nodes.split_first().context("no node")?;
        ensure!(written.first().is_some_and(|first| is_tainted(&first.object)), "not closed first: {written:#?}");
        for change in written {
            let (open, at) = (is_open(&change.object), version(change)?);
            ensure!(open == (at > proven), "open: {open}, at {at}, and proven at {proven}: {change:#?}");
        }
        ensure!(written.len() == 2, "written more often than to close and to open it: {nodes:#?}");
        let left = &written.last().unwrap_or(booted).object;
        Ok(json!([left["metadata"]["annotations"], left["spec"]]))
    }
}

fn node() -> Key {
    Key { collection: NODES.to_owned(), namespace: String::new(), name: "node-0".to_owned() }
}

fn lease() -> Key {
    Key { collection: LEASES.to_owned(), namespace: "linkerd-gate".to_owned(), name: PROVER_LEASE.to_owned() }
}

fn verdict(lease: &Value) -> Option<WireVerdict> {
    PublishedVerdict::read(lease["metadata"]["annotations"][VERDICT].as_str()?).ok().map(|read| read.verdict)
}

fn is_proven(verdict: WireVerdict) -> bool {
    matches!(verdict, WireVerdict::Open { degraded, .. } if degraded.is_empty())
}

fn is_tainted(node: &Value) -> bool {
    node["spec"]["taints"].as_array().is_some_and(|all| all.iter().any(|taint| taint["key"] == TAINT_KEY))
}

/// In this boot.
fn is_open(node: &Value) -> bool {
    node["metadata"]["annotations"][OPENED_BOOT] == BOOT && !is_tainted(node)
}

/// The version of the store that this change made.
fn version(change: &Change) -> Result<usize> {
    Ok(change.object["metadata"]["resourceVersion"].as_str().unwrap_or_default().parse()?)
}
