//! What is the same in all states, and what objects are made as.

use std::cell::RefCell;
use std::time::Duration;

use linkerd_gate_core::decide::Policy;
use linkerd_gate_core::decide::election::lease_record::LeaseHolder;
use linkerd_gate_core::decide::node::essential;
use linkerd_gate_core::decide::node::essential::{EssentialNamespace, UnboundPod};
use linkerd_gate_core::decide::node::taint::{NodePolicy, TAINT_KEY, Tainting};
use linkerd_gate_core::decide::repair::{Kind, OwnerReference, Repair, RepairPolicy};
use linkerd_gate_core::decide::wait::OnMissed;
use linkerd_gate_core::linkerd::WebhookView;

use crate::agent::{Cluster, Policies};
use crate::memo::Turns;
use crate::objects::{AppPod, Ask, Owner, Reported, Template};
use crate::render;
use crate::replica::Rules;
use crate::state::{Essential, MAX_CLOSED, REPAIR_GRACE};

/// What is the same in all states.
pub struct Setting {
    pub policies: Policies,
    pub rules: Rules,
    pub namespaces: Vec<EssentialNamespace>,
    /// What agents' turns came to.
    pub turns: RefCell<Turns>,
}

// === impl Setting ===

impl Setting {
    pub fn new() -> Self {
        let webhooks = WebhookView::chart_default();
        let namespace = |name: &str| EssentialNamespace { name: name.to_owned(), ..EssentialNamespace::default() };
        Self {
            policies: Policies {
                proven: Policy::proven(),
                node: NodePolicy {
                    taint_key: TAINT_KEY.to_owned(),
                    tainting: Tainting::Enforce,
                    max_closed: MAX_CLOSED,
                    repair_grace: REPAIR_GRACE,
                },
                proven_again: Duration::from_millis(12_500),
            },
            rules: Rules {
                repair: RepairPolicy {
                    repair: Repair::Held,
                    enforces: true,
                    evicts: false,
                    eviction_rate: "10/m".parse().unwrap(),
                    cooldown: Duration::from_secs(30),
                    hold_max: None,
                },
                webhooks: webhooks.clone(),
                namespaces: render::namespaces().map(|(name, view)| (name.to_owned(), view)).into(),
                wall: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            },
            namespaces: ["kube-system", "linkerd", "shop"].map(namespace).into(),
            turns: RefCell::default(),
        }
    }

    /// What an agent's watches show beside its node and the Lease.
    pub fn cluster(&self, essential: &Essential) -> Cluster {
        let tolerations = essential.tolerates.then(|| vec![essential::toleration(TAINT_KEY)]);
        Cluster {
            webhooks: self.rules.webhooks.clone(),
            namespaces: self.namespaces.clone(),
            pods: vec![UnboundPod {
                namespace: "linkerd".to_owned(),
                name: "injector".to_owned(),
                uid: format!("injector-{}", essential.number),
                tolerations,
                settled: essential.node.is_some(),
            }],
            ..Cluster::default()
        }
    }
}

pub fn holder(node: usize, boot: u8) -> LeaseHolder {
    LeaseHolder { name: node_name(node), detail: format!("agent-{node}"), incarnation: format!("boot{node}x{boot}") }
}

pub fn node_name(node: usize) -> String {
    format!("node-{node}")
}

/// Asks by its namespace, and has nothing else of ours.
const TEMPLATE: Template =
    Template { ask: Ask::ByNamespace, waits: false, on_missed: OnMissed::Hold, exempt: false, report: false };

fn reference(app: usize) -> OwnerReference {
    OwnerReference { kind: Kind::ReplicaSet, name: format!("app-{app}"), uid: format!("owner-{app}") }
}

/// A pod of an application, as its owner makes it.
pub fn made(app: usize, number: u64, meshed: bool, gated: bool) -> AppPod {
    AppPod {
        namespace: "shop",
        name: format!("app-{app}-pod-{number:06}"),
        uid: format!("pod-{number:06}"),
        version: 1_000_000 + number * 1000,
        created: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        owner: Some(app),
        reference: Some(reference(app)),
        template: TEMPLATE,
        pin: None,
        node: None,
        meshed,
        gated,
        tracked: false,
        released: false,
        deleting: false,
        reported: Reported::Nothing,
        restarts: 0,
        enforced: app == 0,
        excused: false,
        let_go: false,
        runs_since: None,
        came_before: false,
        ran: false,
        removed: false,
        made: Duration::ZERO,
    }
}

/// What makes an application's pod.
pub fn owner(app: usize, has: usize) -> Owner {
    Owner { version: 1, has, ..Owner::new(reference(app), TEMPLATE, 1, Duration::ZERO) }
}
