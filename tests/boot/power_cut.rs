//! The power cut that makes bare pods: the control plane is back first, and has seconds to make and to bind pods again before the
//! first kubelet, and so Linkerd, runs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use linkerd_gate_kit::cluster::{self, Node};

use super::harness::{Harness, LINKERD, PATIENCE, SHOP, is_closed, is_scheduled, opened};
use super::history::{History, Made};
use super::release::Admission;
use super::timeline::Column;
use super::workloads::{self, JOBS, OWNERS, PINNED, Pods, is_gated, of, on, runs_meshed};

/// How long the control plane is alone.
const ALONE: Duration = Duration::from_secs(10);

/// How often the creator of the pod with a `nodeName` tries again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

pub const SETTLED: &str = "every workload runs in the mesh";
pub const JOBS_COMPLETE: &str = "every Job is complete";
pub const PINNED_RUNS: &str = "the pod with a `nodeName` is admitted and runs in the mesh";

/// What happens to the creation of a pod that asks while the injector is away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Created {
    /// It is admitted, and born with our gate.
    Held,
    /// It is refused: by the guard, or by the API server itself because of `failurePolicy: Fail`.
    Refused,
    /// It is admitted as it is.
    Bare,
}

/// A power cut, and the boot that follows.
pub struct PowerCut<'a> {
    pub harness: &'a Harness,
    pub history: History,
    pub column: Column,
    /// The pods as they were when kubelets were started.
    pub early: Pods,
    /// Why the pod with a `nodeName` was refused at first, where it was.
    pub refusal: Option<String>,
}

// === impl Created ===

impl From<Admission> for Created {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::Auto => Self::Held,
            Admission::Refuse => Self::Refused,
            Admission::Off => Self::Bare,
        }
    }
}

// === impl PowerCut ===

impl<'a> PowerCut<'a> {
    /// Cuts the power, lets the control plane make all pods again, and starts the kubelets after ten seconds. `meanwhile` is what
    /// else happens in those.
    pub async fn happens(
        harness: &'a Harness,
        title: &str,
        created: Created,
        meanwhile: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<Self> {
        workloads::open(harness, true).await?;
        let mut history = History::begin(harness)?;
        let nodes: Vec<&Node> = on(harness).collect();
        harness.cluster.cut_power().await?;
        harness.cluster.power_on_control_plane().await?;
        let mut column = Column::begin(title);
        history.follow(harness).await?;
        let since = workloads::now(harness).await?;
        harness.recreate_pods(&[LINKERD, SHOP], "").await?;
        workloads::create_jobs(harness, true).await?;
        let refusal = workloads::try_ownerless(harness, PINNED, Some(nodes[0].name())).await?;
        meanwhile().await?;
        column.mark("all pods of Linkerd and of the workloads are deleted; Jobs are created");
        until_made_again(harness, created, nodes.len(), &since).await?;
        column.mark("each owner has tried to make its pods again");
        tokio::time::sleep_until((column.began() + ALONE).into()).await;
        let early: Pods = harness.pods(SHOP).await?.into_iter().map(|pod| (pod.name_any(), pod)).collect();
        let count = |condition: fn(&Pod) -> bool| early.values().filter(|pod| condition(pod)).count();
        column.say("pods that have a node by then", count(is_scheduled));
        column.say("pods that are held by a scheduling gate", count(is_gated));
        try_join_all(nodes.iter().map(|node| harness.cluster.switch_on(node))).await?;
        column.mark("kubelets are started");
        Ok(Self { harness, history, column, early, refusal })
    }

    /// Follows the boot until the nodes are open, and notes when what happened on the way.
    pub async fn boots(&mut self) -> Result<()> {
        let marks = self.until_booted().await?;
        self.note(marks);
        Ok(())
    }

    /// Follows the boot until all Jobs are complete and the pods are like that, the one with a `nodeName` among them.
    pub async fn boots_and_settles(&mut self, what: &str, condition: impl Fn(&Pods) -> bool) -> Result<Pods> {
        let (harness, began) = (self.harness, self.column.began());
        let pods: Api<Pod> = harness.api(SHOP).await?;
        let found = |pods: &Pods| condition(pods).then(|| pods.clone());
        let all = ListParams::default();
        let settles = cluster::until_any(&pods, &all, what, PATIENCE, found);
        let (mut marks, (settled, pods), (complete, ()), (pinned, ())) = tokio::try_join!(
            Box::pin(self.until_booted()),
            Box::pin(timed(began, settles)),
            Box::pin(timed(began, workloads::until_jobs_complete(harness))),
            Box::pin(timed(began, self.until_pinned_runs())),
        )?;
        marks.push((what.to_owned(), settled));
        marks.push((JOBS_COMPLETE.to_owned(), complete));
        if self.refusal.is_some() {
            marks.push((PINNED_RUNS.to_owned(), pinned));
        }
        self.note(marks);
        Ok(pods)
    }

    /// That nothing started outside the mesh: by containerd's history no app container was made for a bare pod, and some were made.
    pub async fn ensure_all_meshed(&mut self) -> Result<()> {
        let made = self.conclude().await?;
        ensure!(made.bare.is_empty(), "app containers were made outside the mesh: {:?}", made.bare);
        ensure!(made.meshed > 0, "containerd's history has no app container at all: it proves nothing");
        Ok(())
    }

    /// What was made, noted in the column.
    pub async fn conclude(&mut self) -> Result<Made> {
        let made = self.history.made(self.harness).await?;
        self.column.say("app containers made in the mesh, by containerd", made.meshed);
        self.column.say("app containers made **outside the mesh**", made.bare.len());
        self.column.say("apps that run outside the mesh at the end", self.harness.unmeshed_and_running().await?);
        self.column.say("Jobs that failed", workloads::failed_jobs(self.harness).await?);
        Ok(made)
    }

    async fn until_booted(&self) -> Result<Vec<(String, f64)>> {
        let (harness, began) = (self.harness, self.column.began());
        let nodes: Vec<&Node> = on(harness).collect();
        let closed = nodes.iter().map(|node| harness.until_node(node.name(), "closed", is_closed));
        let ready = nodes.iter().map(|node| harness.cluster.until_ready(node));
        let open = nodes.iter().map(async |node| {
            let boot = node.boot_id()?;
            let is_open = |node: &_| !is_closed(node) && opened(node).as_deref() == Some(boot.as_str());
            harness.until_node(node.name(), "open", is_open).await
        });
        let ((closed, _), (ready, _), (linkerd, ()), (open, _)) = tokio::try_join!(
            timed(began, try_join_all(closed)),
            timed(began, try_join_all(ready)),
            timed(began, harness.until_linkerd_is_ready()),
            timed(began, try_join_all(open)),
        )?;
        Ok([
            ("nodes are Ready", ready),
            ("nodes are closed, by their agents", closed),
            ("Linkerd is ready", linkerd),
            ("nodes are open: injection is proven", open),
        ]
        .map(|(row, seconds)| (row.to_owned(), seconds))
        .to_vec())
    }

    /// Where admission refused the pod with a `nodeName`, its creator tries again every second until it is taken.
    async fn until_pinned_runs(&self) -> Result<()> {
        if self.refusal.is_none() {
            return Ok(());
        }
        let node = self.harness.cluster.node().name();
        let admitted = async {
            while workloads::try_ownerless(self.harness, PINNED, Some(node)).await?.is_some() {
                tokio::time::sleep(RETRY_EVERY).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, admitted).await??;
        let pods: Api<Pod> = self.harness.api(SHOP).await?;
        cluster::until(&pods, PINNED, "runs in the mesh", PATIENCE, runs_meshed).await?;
        Ok(())
    }

    fn note(&mut self, mut marks: Vec<(String, f64)>) {
        marks.sort_by(|one, other| one.1.total_cmp(&other.1));
        for (row, seconds) in marks {
            self.column.mark_at(&row, seconds);
        }
    }
}

/// Waits until every owner's controller has acted on the loss of its pods.
async fn until_made_again(harness: &Harness, created: Created, nodes: usize, since: &str) -> Result<()> {
    // A StatefulSet makes its second pod once the first one is ready.
    let first = |name: &str, wanted: usize| if name == "store" { 1 } else { wanted };
    let all = |pods: &Pods, condition: fn(&Pod) -> bool| {
        let owners = OWNERS.iter().map(|owner| (owner.name, first(owner.name, owner.wanted(nodes))));
        owners.chain(JOBS.map(|job| (job, 1))).all(|(name, wanted)| {
            let own = of(pods, name);
            own.len() == wanted && own.into_iter().all(condition)
        })
    };
    let pods: Api<Pod> = harness.api(SHOP).await?;
    let until = async |what: &str, condition: fn(&Pod) -> bool| {
        let found = |pods: &Pods| all(pods, condition).then_some(());
        cluster::until_any(&pods, &ListParams::default(), what, PATIENCE, found).await
    };
    match created {
        Created::Held => until("all pods are made again, held", is_gated).await?,
        Created::Bare => until("all pods are made again, and have a node", is_scheduled).await?,
        Created::Refused => {
            let owners = OWNERS.iter().map(|owner| match owner.kind {
                "Deployment" => ("ReplicaSet", owner.name),
                kind => (kind, owner.name),
            });
            for (kind, name) in owners.chain(JOBS.map(|job| ("Job", job))) {
                workloads::until_create_refused(harness, kind, name, since).await?;
            }
        }
    }
    harness.until_scheduled(LINKERD, 3).await?;
    Ok(())
}

/// When it was done, in seconds from the beginning, and what came of it.
async fn timed<T>(began: Instant, what: impl Future<Output = Result<T>>) -> Result<(f64, T)> {
    let outcome = what.await?;
    Ok((began.elapsed().as_secs_f64(), outcome))
}
