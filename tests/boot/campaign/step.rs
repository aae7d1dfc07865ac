//! What can be done to the cluster in the campaign.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::Mode;
use crate::admission::INJECTOR;
use crate::harness::{GATE, Harness, LINKERD, SHOP};
use crate::variants::CONTROLLER;
use crate::workloads;

/// The configuration that has the API server call the injector.
const WEBHOOK: &str = "linkerd-proxy-injector-webhook-config";

/// One step of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Control plane and nodes lose their power at once.
    CutPower,
    /// The control plane has power again, and answers.
    ControlPlane,
    /// A node has power again.
    Node(usize),
    /// All have.
    Nodes,
    /// A node loses its power alone.
    PowerOff(usize),
    /// A node goes down and comes back, and is Ready.
    Reboot(usize),
    /// Nothing happens for so many seconds.
    Wait(u64),
    /// All pods of these namespaces are deleted at once, so that their owners make them again.
    Lose(&'static [&'static str]),
    /// So many injectors.
    Injector(u32),
    /// The injector's webhook configuration is there, or is not.
    Webhook(bool),
    /// `kubectl rollout restart` of the shop's Deployments.
    Restart,
    /// Jobs that forgive no failure are created.
    Jobs,
    /// The API server is killed and starts again.
    KillApiServer,
    /// So many controllers of the gate.
    Controllers(u32),
    /// The gate's Leases are deleted.
    LoseLeases,
}

/// What a scenario leaves for its later steps.
#[derive(Default)]
pub struct Kept {
    webhook: Option<MutatingWebhookConfiguration>,
}

// === impl Step ===

impl Step {
    pub async fn happens(self, harness: &Harness, mode: Mode, kept: &mut Kept) -> Result<()> {
        let cluster = &harness.cluster;
        match self {
            Self::CutPower => cluster.cut_power().await,
            Self::ControlPlane => cluster.power_on_control_plane().await,
            Self::Node(place) => cluster.switch_on(&cluster.nodes()[place]).await,
            Self::Nodes => try_join_all(cluster.nodes().iter().map(|node| cluster.switch_on(node))).await.map(drop),
            Self::PowerOff(place) => cluster.nodes()[place].power_off().await,
            Self::Reboot(place) => cluster.reboot(&cluster.nodes()[place]).await,
            Self::Wait(seconds) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(())
            }
            Self::Lose(namespaces) => {
                let there: Vec<&str> =
                    namespaces.iter().copied().filter(|name| *name != GATE || mode.is_installed()).collect();
                harness.recreate_pods(&there, "").await
            }
            Self::Injector(count) => {
                harness.scale(LINKERD, INJECTOR, count).await?;
                // The next one has to be scheduled before anything says that it is there.
                if count == 0 { harness.until_not_injected().await } else { Ok(()) }
            }
            Self::Webhook(there) => webhook(harness, there, kept).await,
            Self::Restart => {
                harness.kubectl(&["rollout", "restart", "deployment", "--namespace", SHOP]).await.map(drop)
            }
            Self::Jobs => workloads::create_jobs(harness, mode.is_installed()).await,
            Self::KillApiServer => {
                cluster.kill_api_server()?;
                cluster.start_api_server().await
            }
            Self::Controllers(count) if mode.is_installed() => harness.scale(GATE, CONTROLLER, count).await,
            Self::LoseLeases if mode.is_installed() => {
                let leases: Api<Lease> = harness.api(GATE).await?;
                let all = ListParams::default();
                leases.delete_collection(&DeleteParams::default(), &all).await?;
                Ok(())
            }
            Self::Controllers(_) | Self::LoseLeases => Ok(()),
        }
    }
}

async fn webhook(harness: &Harness, there: bool, kept: &mut Kept) -> Result<()> {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(harness.cluster.client().await?);
    if there {
        let mut webhook = kept.webhook.take().context("no webhook configuration was taken away")?;
        webhook.metadata.resource_version = None;
        webhook.metadata.uid = None;
        webhooks.create(&PostParams::default(), &webhook).await?;
    } else {
        kept.webhook = Some(webhooks.get(WEBHOOK).await?);
        webhooks.delete(WEBHOOK, &DeleteParams::default()).await?;
        harness.until_not_injected().await?;
    }
    Ok(())
}

/// Everything as a scenario expects it at its beginning, whatever the one before has left.
pub async fn heal(harness: &Harness, mode: Mode, kept: &mut Kept) -> Result<()> {
    for node in harness.cluster.nodes().iter().filter(|node| !node.is_on()) {
        harness.cluster.power_on(node).await?;
    }
    if kept.webhook.is_some() {
        webhook(harness, true, kept).await?;
    }
    harness.scale(LINKERD, INJECTOR, 1).await?;
    harness.until_linkerd_is_ready().await?;
    if mode.is_installed() {
        let patch = Patch::Merge(json!({"spec": {"replicas": 2}}));
        let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = harness.api(GATE).await?;
        deployments.patch(CONTROLLER, &PatchParams::default(), &patch).await?;
        harness.until_available(GATE, CONTROLLER).await?;
        harness.until_all_nodes_are_open().await?;
    }
    Ok(())
}
