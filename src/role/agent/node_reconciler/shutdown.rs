//! The node reconciler's last writes, at shutdown.

use std::sync::Arc;

use tracing::{info, warn};

use super::NodeReconciler;
use crate::cluster::installation::{Installation, installation};
use crate::cluster::node::{self as cluster_node, PatchError};
use crate::decide::node::taint::{NodeChange, NodePlan, NodeView, Tainting};

impl NodeReconciler {
    /// The last writes: closes the node where its machine goes down, and leaves nothing where linkerd-gate is removed.
    pub(in super::super) async fn shut_down(&mut self) {
        self.acting = None;
        let inputs = self.update_gate();
        let Some(node) = self.node() else { return };
        let policy = &self.context.settings.node_policy;
        if node.shutting_down {
            if policy.tainting == Tainting::Enforce
                && let Some(change) = self.plan(&node, &inputs).change
            {
                self.write_last("the machine shuts down: closed, so that it comes back closed", &node, &change, false)
                    .await;
            }
            return;
        }
        match installation(self.context.client.clone(), &self.context.settings.namespace).await {
            Ok(Installation::Since(_)) => {}
            Ok(Installation::Removed) => {
                if let Some(change) = NodePlan::for_removal(policy, &node) {
                    self.write_last("linkerd-gate is being removed: freed", &node, &change, true).await;
                }
            }
            Err(why) => warn!(
                error = why,
                command = format!(
                    "kubectl taint node {0} {1}- ; kubectl annotate node {0} linkerd-gate/opened-boot-",
                    node.name, policy.taint_key
                ),
                "cannot read whether linkerd-gate is being removed; if it is, run the command"
            ),
        }
    }

    /// `removal`: whether the change frees the node for good, and is worked out again where the node has changed.
    async fn write_last(&mut self, what: &str, node: &NodeView, change: &NodeChange, removal: bool) {
        let context = Arc::clone(&self.context);
        let key = &context.settings.node_policy.taint_key;
        let mut node = node.clone();
        let mut change = change.clone();
        loop {
            match cluster_node::patch(context.client.clone(), key, &node, &change).await {
                Ok(_) => {
                    info!(reason = what, "last write of the node");
                    return;
                }
                Err(PatchError::Conflict) => {
                    // Kubelet writes its status in the same moments.
                    if self.ends.node.changed().await.is_err() {
                        return;
                    }
                    let Some(current) = self.node() else { return };
                    if removal {
                        match NodePlan::for_removal(&context.settings.node_policy, &current) {
                            Some(again) => change = again,
                            None => return,
                        }
                    }
                    node = current;
                }
                Err(why) => {
                    warn!(reason = what, error = %why, "last write of the node failed");
                    return;
                }
            }
        }
    }
}
