//! A cluster with nodes.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use tokio::sync::Mutex;

use super::{
    Node, NodeOptions,
    api::{Api, ApiOptions, Routing, find_parts},
    dns,
    node::{pause_image, program_image},
    sandbox::{self, MACHINE},
    watch,
};
use crate::parts::{NodeParts, Release};

/// How long the cluster's DNS may take, from its node being Ready.
const PATIENCE: Duration = Duration::from_mins(2);

/// What may differ from one cluster with nodes to another.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// For the control plane.
    pub api: ApiOptions,
    /// How many nodes. They are called `node-0`, `node-1`, …
    pub nodes: u8,
    /// Nodes that join later: numbered after the others, and off until they are [switched on](Cluster::switch_on).
    pub later: Vec<NodeOptions>,
}

/// A genuine cluster: a control plane, and nodes that really run pods, with cluster DNS and Service routing.
///
/// It only exists in the [sandbox], one at a time. It derefs to [`Api`], for all that the API server answers.
pub struct Cluster {
    // Before the control plane, whose directory they use.
    nodes: Vec<Node>,
    /// The archives of all images that were loaded: a node that was off gets them when it is switched on.
    images: Mutex<Vec<PathBuf>>,
    api: Api,
}

// === impl ClusterOptions ===

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { api: ApiOptions::default(), nodes: 1, later: Vec::new() }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Boots a cluster of one node and waits until pods with DNS can run in it.
    pub async fn start() -> Result<Self> {
        Self::start_with(ClusterOptions::default()).await
    }

    /// Like [`Cluster::start`], with other options.
    pub async fn start_with(options: ClusterOptions) -> Result<Self> {
        sandbox::check()?;
        ensure!(options.nodes > 0, "a cluster without nodes is an Api");
        ensure!(options.api.release == Release::Current, "nodes are only built for the current release");
        let started = Instant::now();
        let parts = Arc::new(find_parts(NodeParts::find).await?);
        let mut of_nodes = vec![NodeOptions::default(); options.nodes.into()];
        of_nodes.extend(options.later);
        let names: Vec<String> = (0..of_nodes.len()).map(|index| format!("node-{index}")).collect();
        let words: Vec<&str> = names.iter().map(String::as_str).collect();
        let api = Api::prepare(MACHINE, None, parts.api.clone(), options.api, Routing::Endpoints, &words)?;
        let nodes = (0..).zip(names.iter().zip(of_nodes));
        let nodes = nodes.map(|(index, (name, options))| Node::prepare(name, index, parts.clone(), &api, options));
        let cluster = Self { nodes: nodes.collect::<Result<_>>()?, images: Mutex::default(), api };
        let booted = cluster.boot(&parts, options.nodes).await;
        if booted.is_err() {
            eprintln!("{}", cluster.report(&[]).await);
        }
        booted?;
        eprintln!("cluster: {} node(s) with DNS usable after {:.1} s", options.nodes, started.elapsed().as_secs_f64());
        Ok(cluster)
    }

    /// The first node.
    pub fn node(&self) -> &Node {
        &self.nodes[0]
    }

    /// All nodes, those that join later too.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Reads an image archive into every node's containerd. Pods that use it need `imagePullPolicy: Never` or
    /// `IfNotPresent`, and a tag other than `latest`. Nodes that are off get it when they are switched on.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        let mut images = self.images.lock().await;
        images.push(archive.to_path_buf());
        let on = self.nodes.iter().filter(|node| node.is_on());
        try_join_all(on.map(|node| node.load_missing(&images))).await.map(drop)
    }

    /// Switches a node on after [`Node::power_off`], and waits until the cluster says that this boot of it is Ready.
    pub async fn power_on(&self, node: &Node) -> Result<()> {
        self.switch_on(node).await?;
        self.until_ready(node).await
    }

    /// Switches a node on and lets it boot by itself: its kubelet is started, and that is all that is known of it.
    pub async fn switch_on(&self, node: &Node) -> Result<()> {
        node.boot().await?;
        self.connect_nodes()?;
        node.load_missing(&self.images.lock().await).await?;
        node.start_kubelet(&self.api)
    }

    /// Cuts the power of everything: of all nodes that are on, at once, and then of the control plane. Disks stay, and what
    /// is in etcd does. [`Cluster::switch_on`] and [`Api::power_on_control_plane`] bring back one by one what
    /// [`Cluster::power_cycle`] brings back together.
    pub async fn cut_power(&self) -> Result<()> {
        let on = self.nodes.iter().filter(|node| node.is_on());
        let cut = try_join_all(on.map(Node::power_off)).await;
        self.power_off_control_plane();
        cut.map(drop)
    }

    /// Cuts the power of everything and gives it back: the nodes that were on boot while the control plane does. Returns
    /// when the API server answers and the cluster says that this boot of each node is Ready.
    pub async fn power_cycle(&self) -> Result<()> {
        let on: Vec<_> = self.nodes.iter().filter(|node| node.is_on()).collect();
        self.cut_power().await?;
        let nodes = try_join_all(on.iter().map(|node| self.switch_on(node)));
        let (nodes, control_plane) = tokio::join!(nodes, self.power_on_control_plane());
        nodes?;
        control_plane?;
        try_join_all(on.iter().map(|node| self.until_ready(node))).await.map(drop)
    }

    /// Waits until the cluster says that the present boot of a node is Ready.
    pub async fn until_ready(&self, node: &Node) -> Result<()> {
        node.until_ready(&self.api).await
    }

    /// Switches a node off and on: its containers are gone, its boot id is another one, its pods start again in place.
    pub async fn reboot(&self, node: &Node) -> Result<()> {
        node.power_off().await?;
        self.power_on(node).await
    }

    /// Starts kubelet again after [`Node::stop_kubelet`].
    pub async fn start_kubelet(&self, node: &Node) -> Result<()> {
        node.start_kubelet(&self.api)?;
        node.until_ready(&self.api).await
    }

    async fn boot(&self, parts: &NodeParts, count: u8) -> Result<()> {
        let nodes = &self.nodes[..count.into()];
        // Half of the time is waiting, on either side.
        let (controlled, prepared) = tokio::join!(self.api.boot(), self.boot_nodes(parts, nodes));
        controlled?;
        prepared?;
        let client = self.client().await?;
        dns::install(&client).await?;
        for node in nodes {
            node.start_kubelet(&self.api)?;
        }
        try_join_all(nodes.iter().map(|node| node.until_ready(&self.api))).await?;
        let (deployments, name) = dns::deployments(&client);
        watch::until(&deployments, name, "available", PATIENCE, |deployment| {
            deployment.status.as_ref().is_some_and(|status| status.available_replicas >= Some(1))
        })
        .await
        .context("the cluster has no DNS")?;
        Ok(())
    }

    async fn boot_nodes(&self, parts: &NodeParts, nodes: &[Node]) -> Result<()> {
        let (directory, coredns) = (self.api.scratch().path().to_path_buf(), parts.coredns.clone());
        let images = tokio::task::spawn_blocking(move || {
            // The parts' directory is named after what they were built from.
            let key = coredns.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
            anyhow::Ok([pause_image(&directory)?, program_image(dns::IMAGE, &key, &coredns)?])
        });
        try_join_all(nodes.iter().map(Node::boot)).await?;
        self.connect_nodes()?;
        for image in images.await?? {
            self.load_image(&image).await?;
        }
        Ok(())
    }

    /// Tells every node that is on where the others' pods are.
    fn connect_nodes(&self) -> Result<()> {
        for node in &self.nodes {
            for other in self.nodes.iter().filter(|other| other.name() != node.name()) {
                node.route_to(other)?;
            }
        }
        Ok(())
    }
}

impl Deref for Cluster {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}
