//! Linkerd's parts, essential pods, DaemonSets, and the scheduler.

use k8s_openapi::api::core::v1::Toleration;
use linkerd_gate_core::decide::ProbeResult;
use linkerd_gate_core::decide::node::essential::{self, DaemonPodView, DaemonSetView, UnboundPod};
use linkerd_gate_core::decide::node::placement::{NodePlace, Placement};
use linkerd_gate_core::decide::node::taint::{TAINT_EFFECT, TAINT_KEY};
use linkerd_gate_core::linkerd::WebhookView;

use crate::events::Event;
use crate::world::{CHART, Part, Pod, World, node_name};

// === impl World ===

impl World {
    pub fn part_runs(&self, part: Part) -> bool {
        self.pods.iter().any(|pod| {
            pod.part == part && pod.starts <= self.now && pod.node.is_some_and(|node| self.machines[node].powered)
        })
    }

    pub fn identity_up(&self) -> bool {
        !self.identity_down && self.part_runs(Part::Dns) && self.part_runs(Part::Identity)
    }

    /// Whether the API server gets an injected pod from the injector.
    pub fn injects(&self) -> bool {
        self.webhook_present
            && !self.webhook_placeholder
            && !self.certificate_wrong
            && !self.injector_down
            && self.part_runs(Part::Injector)
            && self.identity_up()
    }

    pub fn identity_seen_from(&mut self, node: usize) -> ProbeResult {
        if !self.machines[node].powered {
            ProbeResult::unknown("no power")
        } else if self.identity_up() {
            ProbeResult::Ready
        } else if self.random.chance(50) {
            ProbeResult::not_ready("refused")
        } else {
            ProbeResult::unknown("timed out")
        }
    }

    pub fn make_pod(&mut self, part: Part, node: Option<usize>) {
        self.pods_made += 1;
        let number = self.pods_made;
        let starts = self.now + self.random.between(1000, 4000);
        let namespace = if matches!(part, Part::Dns | Part::Unschedulable) { "kube-system" } else { "linkerd" };
        let tolerations = if self.random.chance(50) {
            None
        } else {
            Some(vec![Toleration { key: Some("node.kubernetes.io/not-ready".to_owned()), ..Toleration::default() }])
        };
        let view = UnboundPod {
            namespace: namespace.to_owned(),
            name: format!("{part:?}-{number}"),
            uid: format!("{part:?}-{number}"),
            tolerations,
            settled: node.is_some(),
        };
        self.pods.push(Pod { part, node, starts, view });
    }

    /// A Deployment makes a part's pod again, on any node.
    pub fn replace_pod(&mut self, part: Part) {
        self.pods.retain(|pod| pod.part != part);
        self.make_pod(part, None);
        self.refresh_cluster();
    }

    /// What the controllers and the scheduler do once a second, while the API server is up.
    pub fn schedule_pods(&mut self) {
        if !self.api_up {
            return;
        }
        for pod in 0..self.pods.len() {
            if self.pods[pod].node.is_some() || self.pods[pod].part == Part::Unschedulable {
                continue;
            }
            let tolerates = self.pods[pod].view.tolerations.iter().flatten().any(|toleration| {
                toleration.key.as_deref() == Some(TAINT_KEY) && toleration.effect.as_deref() == Some(TAINT_EFFECT)
            });
            let fit: Vec<usize> = (0..self.machines.len())
                .filter(|node| self.machines[*node].powered && (tolerates || !self.api.is_tainted(*node)))
                .collect();
            if fit.is_empty() {
                continue;
            }
            let node = fit[self.random.below(fit.len())];
            let starts = self.now + self.random.between(1000, 4000);
            let pod = &mut self.pods[pod];
            (pod.node, pod.starts, pod.view.settled) = (Some(node), starts, true);
            self.refresh_cluster();
        }
    }

    /// What the DaemonSet controller does once a second: it makes no pod for a node whose taint is not tolerated, and ends none.
    pub fn run_daemon_sets(&mut self) {
        for node in 0..self.machines.len() {
            if self.machines[node].cni_since.is_some() {
                continue;
            }
            // Whether or not it can be seen now: the prover sees it as soon as the API server is back.
            if self.daemon_set_lacks && self.webhook_present {
                self.machines[node].cni_lacked = Some(self.now);
            }
            if self.api_up && !(self.daemon_set_lacks && self.api.is_tainted(node)) && self.random.chance(40) {
                self.machines[node].cni_since = Some(self.now);
                self.refresh_cluster();
            }
        }
    }

    /// What the watches of a prover show follows the world.
    pub fn refresh_cluster(&mut self) {
        if !self.webhook_present {
            self.webhook_absent = Some(self.now);
        }
        if self.daemon_set_lacks {
            for machine in self.machines.iter_mut().filter(|machine| machine.cni_since.is_none()) {
                machine.cni_lacked = Some(self.now);
            }
        }
        self.cluster.webhooks = if self.webhook_present { CHART.clone() } else { WebhookView::default() };
        self.cluster.pods = self.pods.iter().map(|pod| pod.view.clone()).collect();
        let exists = essential::toleration(TAINT_KEY);
        let set = |name: &str, tolerations: Vec<Toleration>| DaemonSetView {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            placement: Placement::anywhere(tolerations),
            optional: false,
        };
        let nodes = 0..self.machines.len();
        let has_cni = nodes.clone().filter(|node| self.machines[*node].cni_since.is_some());
        self.cluster.daemon_pods =
            has_cni.map(|node| DaemonPodView { owner: "cni".to_owned(), node: node_name(node) }).collect();
        self.cluster.places = nodes.map(|node| self.place(node)).collect();
        self.cluster.daemon_sets = vec![
            set("proxy", vec![exists.clone()]),
            set("cni", if self.daemon_set_lacks { Vec::new() } else { vec![exists] }),
        ];
        self.refresh_webhooks();
        self.notify_provers();
    }

    pub fn place(&self, node: usize) -> NodePlace {
        let taints = self.api.nodes.get(node).and_then(|view| view.taints.clone()).unwrap_or_default();
        NodePlace { name: node_name(node), taints, ..NodePlace::default() }
    }

    pub fn notify_provers(&mut self) {
        for agent in 0..self.agents.len() {
            if self.agents[agent].process.lives() && self.agents[agent].acts(self.now) {
                let after = self.random.between(20, 500);
                self.schedule(self.now + after, Event::Notice(agent));
            }
        }
    }

    pub fn notice_linkerd(&mut self) {
        let known = (self.injects(), self.identity_up(), self.webhook_present, self.webhook_placeholder);
        if known != self.known {
            self.known = known;
            self.log(|_| format!("-- injects, identity up, webhook present, placeholder: {known:?}"));
            // A power loss is reported by no event, so not every change is noticed.
            if self.random.chance(70) {
                self.notify_provers();
            }
        }
    }
}
