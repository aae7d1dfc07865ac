//! What became of the workloads' pods: the API server says which pods there were, containerd says what was made for them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use anyhow::{Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::ContainerEvent;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::harness::{Harness, PATIENCE, SHOP, images};

/// One pod, as far as it was seen.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    meshed: bool,
    /// The containers of its app, by containerd's identifiers.
    containers: BTreeSet<String>,
}

/// Follows the workloads' pods from its start to its end, and remembers how far containerd's history had come before.
pub struct History {
    before: BTreeMap<String, usize>,
    sender: watch::Sender<BTreeMap<String, Seen>>,
    /// Ends with this.
    following: JoinSet<()>,
}

/// The app containers that were made.
#[derive(Debug, Default)]
pub struct Made {
    pub meshed: usize,
    /// The names of the pods that they were made for, outside the mesh.
    pub bare: Vec<String>,
}

// === impl History ===

impl History {
    /// Begins, before the power is cut: what is made from here on counts.
    pub fn begin(harness: &Harness) -> Result<Self> {
        let on = harness.cluster.nodes().iter().filter(|node| node.is_on());
        let before = on.map(|node| Ok((node.name().to_owned(), node.container_events()?.len())));
        let sender = watch::Sender::default();
        Ok(Self { before: before.collect::<Result<_>>()?, sender, following: JoinSet::new() })
    }

    /// Follows the pods from here on, which needs an API server.
    pub async fn follow(&mut self, harness: &Harness) -> Result<()> {
        let api: Api<Pod> = harness.api(SHOP).await?;
        let sender = self.sender.clone();
        self.following.spawn(async move {
            let mut events = pin!(watcher(api, Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                // An error is followed by another attempt, which lists everything again.
                if let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event {
                    sender.send_modify(|pods| note(pods, &pod));
                }
            }
        });
        Ok(())
    }

    /// What was made of the workloads' image since the beginning, by containerd's word, and for which pods.
    pub async fn made(&self, harness: &Harness) -> Result<Made> {
        let identifiers = self.identifiers(harness)?;
        let is_known =
            |pods: &BTreeMap<String, Seen>, id: &String| pods.values().any(|pod| pod.containers.contains(id));
        let mut pods = self.sender.subscribe();
        // Kubelet reports a container a moment after it was made.
        let all_known = pods.wait_for(|pods| identifiers.iter().all(|id| is_known(pods, id)));
        let Ok(pods) = tokio::time::timeout(PATIENCE, all_known).await else {
            let pods = self.sender.borrow();
            let unknown: Vec<&String> = identifiers.iter().filter(|id| !is_known(&pods, id)).collect();
            bail!("containerd made app containers of no pod that was seen: {unknown:?}; seen: {pods:#?}");
        };
        let pods = pods?;
        let mut made = Made::default();
        for pod in identifiers.iter().filter_map(|id| pods.values().find(|pod| pod.containers.contains(id))) {
            if pod.meshed {
                made.meshed += 1;
            } else {
                made.bare.push(pod.name.clone());
            }
        }
        Ok(made)
    }

    /// How many containers were made of the workloads' image, whether or not kubelet has reported them yet.
    pub fn count(&self, harness: &Harness) -> Result<usize> {
        Ok(self.identifiers(harness)?.len())
    }

    fn identifiers(&self, harness: &Harness) -> Result<Vec<String>> {
        let mut identifiers = Vec::new();
        for node in harness.cluster.nodes().iter().filter(|node| node.is_on()) {
            let before = self.before.get(node.name()).copied().unwrap_or_default();
            identifiers.extend(node.container_events()?.into_iter().skip(before).filter_map(|event| match event {
                ContainerEvent::Created { id, image } if image == images::APP => Some(id),
                _ => None,
            }));
        }
        Ok(identifiers)
    }
}

fn note(pods: &mut BTreeMap<String, Seen>, pod: &Pod) {
    let seen = pods.entry(pod.uid().unwrap_or_default()).or_insert_with(|| Seen {
        name: pod.name_any(),
        meshed: meshed(pod),
        containers: BTreeSet::new(),
    });
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    for status in statuses.filter(|status| status.name == "app") {
        let ended = |state: &Option<ContainerState>| state.as_ref()?.terminated.as_ref()?.container_id.clone();
        let identifiers = [status.container_id.clone(), ended(&status.state), ended(&status.last_state)];
        seen.containers
            .extend(identifiers.iter().flatten().filter_map(|id| id.strip_prefix("containerd://")).map(str::to_owned));
    }
}
