//! What happens in the campaign's outages, step by step.

use super::step::Step::{
    self, ControlPlane, Controllers, CutPower, Injector, Jobs, KillApiServer, Lose, LoseLeases, Node, Nodes, PowerOff,
    Reboot, Restart, Wait, Webhook,
};
use crate::harness::{GATE, LINKERD, SHOP};

/// An outage. Whatever it does, everything is healthy again at its end: nodes are on, and an injector answers.
pub struct Scenario {
    /// In words, for the table.
    pub name: &'static str,
    pub steps: &'static [Step],
    /// Whether hold and guard promise anything of it: `docs/limits.md` says where they do not.
    pub promised: bool,
}

const fn scenario(name: &'static str, steps: &'static [Step]) -> Scenario {
    Scenario { name, steps, promised: true }
}

/// Without the webhook configuration Linkerd is not installed: pods are admitted as they are.
const fn beyond_limits(name: &'static str, steps: &'static [Step]) -> Scenario {
    Scenario { name, steps, promised: false }
}

/// All pods that were there are gone: what a drain, an eviction or a crashed node does.
const EVERYTHING: &[&str] = &[LINKERD, SHOP];

pub const SCENARIOS: [Scenario; 32] = [
    // All power, and who is back first.
    scenario("all power lost: control plane and nodes are back together", &[CutPower, ControlPlane, Nodes]),
    scenario(
        "all power lost: the control plane is back 10 s before the nodes",
        &[CutPower, ControlPlane, Wait(10), Nodes],
    ),
    scenario(
        "all power lost, the control plane 10 s before the nodes, all pods made again meanwhile",
        &[CutPower, ControlPlane, Lose(EVERYTHING), Wait(10), Nodes],
    ),
    scenario(
        "all power lost, the control plane 10 s before the nodes, all pods made again and Jobs created meanwhile",
        &[CutPower, ControlPlane, Lose(EVERYTHING), Jobs, Wait(10), Nodes],
    ),
    scenario(
        "all power lost, the control plane 30 s before the nodes, all pods made again meanwhile",
        &[CutPower, ControlPlane, Lose(EVERYTHING), Wait(30), Nodes],
    ),
    scenario(
        "all power lost, pods made again, one node 15 s after the other",
        &[CutPower, ControlPlane, Lose(EVERYTHING), Wait(5), Node(0), Wait(15), Node(1)],
    ),
    scenario(
        "all power lost, pods made again, the first node last",
        &[CutPower, ControlPlane, Lose(EVERYTHING), Wait(5), Node(1), Wait(15), Node(0)],
    ),
    scenario(
        "all power lost twice within 15 s",
        &[CutPower, ControlPlane, Lose(EVERYTHING), Nodes, Wait(15), CutPower, ControlPlane, Lose(EVERYTHING), Nodes],
    ),
    scenario("all power lost while a rollout is under way", &[Restart, CutPower, ControlPlane, Wait(10), Nodes]),
    scenario(
        "all power lost, and a rollout begins before the nodes are back",
        &[CutPower, ControlPlane, Lose(EVERYTHING), Restart, Wait(10), Nodes],
    ),
    scenario(
        "all power lost, and the API server is killed while the nodes boot",
        &[CutPower, ControlPlane, Lose(EVERYTHING), Wait(5), Nodes, Wait(5), KillApiServer],
    ),
    scenario(
        "all power lost, and the leases of the gate are deleted meanwhile",
        &[CutPower, ControlPlane, Lose(EVERYTHING), LoseLeases, Wait(10), Nodes],
    ),
    scenario(
        "all power lost, and the gate's own pods are made again as well",
        &[CutPower, ControlPlane, Lose(&[LINKERD, SHOP, GATE]), Wait(10), Nodes],
    ),
    // Nodes.
    scenario("one node reboots", &[Reboot(1)]),
    scenario("the node with most of Linkerd reboots", &[Reboot(0)]),
    scenario("one node reboots while no injector runs", &[Injector(0), Reboot(1), Wait(5), Injector(1)]),
    scenario("the nodes reboot one after the other", &[Reboot(0), Reboot(1)]),
    scenario(
        "the nodes reboot one after the other while no injector runs",
        &[Injector(0), Reboot(0), Reboot(1), Injector(1)],
    ),
    scenario(
        "one node is off for 20 s, its pods are made again elsewhere",
        &[PowerOff(1), Lose(&[SHOP]), Wait(20), Node(1)],
    ),
    scenario(
        "a node crashes while the other has no injector",
        &[Injector(0), PowerOff(0), Lose(EVERYTHING), Wait(10), Node(0), Injector(1)],
    ),
    // The injector.
    scenario("no injector for 20 s, and nothing else happens", &[Injector(0), Wait(20), Injector(1)]),
    scenario("no injector, and all pods are made again", &[Injector(0), Lose(&[SHOP]), Wait(10), Injector(1)]),
    scenario("no injector, and a rollout", &[Injector(0), Restart, Wait(10), Injector(1)]),
    scenario("no injector, and Jobs are created", &[Injector(0), Jobs, Wait(10), Injector(1)]),
    scenario(
        "the injector comes and goes three times, with a rollout each time",
        &[
            Injector(0),
            Restart,
            Wait(5),
            Injector(1),
            Wait(2),
            Injector(0),
            Restart,
            Wait(5),
            Injector(1),
            Wait(2),
            Injector(0),
            Restart,
            Wait(5),
            Injector(1),
        ],
    ),
    beyond_limits(
        "Linkerd's webhook configuration is deleted for 15 s, and all pods are made again",
        &[Webhook(false), Lose(&[SHOP]), Wait(15), Webhook(true)],
    ),
    scenario("Linkerd loses all its pods, and so does the shop", &[Lose(EVERYTHING)]),
    // The API server.
    scenario("the API server is killed", &[KillApiServer]),
    scenario(
        "the API server is killed while no injector runs and pods are made again",
        &[Injector(0), Lose(&[SHOP]), Wait(3), KillApiServer, Wait(5), Injector(1)],
    ),
    // The gate.
    scenario(
        "no injector, pods made again, and the gate's own pods with them",
        &[Injector(0), Lose(&[SHOP, GATE]), Wait(10), Injector(1)],
    ),
    scenario(
        "no injector, pods made again, and no controller for 20 s",
        &[Controllers(0), Injector(0), Lose(&[SHOP]), Wait(10), Injector(1), Wait(10), Controllers(2)],
    ),
    scenario(
        "the controllers are killed while they replace pods",
        &[Injector(0), Lose(&[SHOP]), Wait(10), Injector(1), Wait(2), Lose(&[GATE])],
    ),
];
