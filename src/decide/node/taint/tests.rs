//! The plan of a node, rule by rule.

use super::*;
use crate::decide::{Basis, Gate};

const BOOT: &str = "3f2a9c1e-5b1d-4c7e-9a39-0d3f4a1c2b3d";
const EARLIER: &str = "aaaaaaaa-5b1d-4c7e-9a39-0d3f4a1c2b3d";

fn policy() -> NodePolicy {
    NodePolicy {
        taint_key: TAINT_KEY.to_owned(),
        tainting: Tainting::Enforce,
        max_closed: Duration::from_mins(10),
        repair_grace: Duration::from_secs(30),
    }
}

fn open() -> Gate {
    Gate::Open { basis: Basis::Proven, since: Duration::ZERO, latest: Duration::ZERO, degraded: None }
}

fn tainted(value: &str) -> NodeView {
    let node = NodeView { opened_boot: Some(EARLIER.to_owned()), ..NodeView::default() };
    NodeView { taints: Some(node.with_taint(TAINT_KEY, Some(value))), ..node }
}

fn facts<'a>(node: &'a NodeView, gate: &'a Gate) -> NodeFacts<'a> {
    NodeFacts {
        node,
        boot: BOOT,
        uptime: Duration::from_secs(40),
        closed_since: None,
        age: Age::AfterUs,
        gate,
        suppressed_by: &[],
        repair: RepairWait::Nothing,
        manual_override: None,
    }
}

fn taint(value: Option<&str>) -> NodeChange {
    let taint = value.map_or(Edit::Remove, |value| Edit::Set(value.to_owned()));
    NodeChange { taint, ..NodeChange::NOTHING }
}

fn opened_boot(taint: Edit) -> NodeChange {
    NodeChange { taint, opened_boot: Edit::Set(BOOT.to_owned()), ..NodeChange::NOTHING }
}

fn manual_override(open: bool) -> ManualOverride {
    ManualOverride { open, until: "2026-01-01T06:00:00Z".parse().unwrap() }
}

#[test]
fn a_reboot_closes_a_node_and_a_proof_opens_it_in_one_write() {
    let rebooted = NodeView { opened_boot: Some(EARLIER.to_owned()), ..NodeView::default() };
    let plan = NodePlan::of(&policy(), &facts(&rebooted, &Gate::closed()));
    assert_eq!(plan.state, NodeState::Closed { since: Duration::from_secs(40), why: Closed::Unproven });
    assert_eq!(plan.change, Some(taint(Some("3f2a9c1e5b1d-40"))));

    let closed = tainted("3f2a9c1e5b1d-40");
    assert_eq!(NodePlan::of(&policy(), &facts(&closed, &Gate::closed())).change, None, "nothing to write twice");
    let plan = NodePlan::of(&policy(), &facts(&closed, &open()));
    assert_eq!(plan.state, NodeState::Open(Opened::Proven));
    assert_eq!(plan.change, Some(opened_boot(Edit::Remove)));
}

#[test]
fn an_opened_node_stays_open_for_its_boot() {
    let node = NodeView { opened_boot: Some(BOOT.to_owned()), ..NodeView::default() };
    for gate in [Gate::closed(), open()] {
        let plan = NodePlan::of(&policy(), &facts(&node, &gate));
        assert_eq!(plan, NodePlan { state: NodeState::Open(Opened::ThisBoot), change: None, would: None });
    }
    let left = NodeView { opened_boot: Some(BOOT.to_owned()), ..tainted("x") };
    assert_eq!(
        NodePlan::of(&policy(), &facts(&left, &Gate::closed())).change,
        Some(taint(None)),
        "a taint left is lifted"
    );
}

#[test]
fn an_install_closes_only_nodes_that_join_later() {
    let fresh = NodeView { created: Some(100), ..NodeView::default() };
    let gate = Gate::closed();
    let of = |installed| {
        let age = Age::of(&fresh, installed);
        NodePlan::of(&policy(), &NodeFacts { age, ..facts(&fresh, &gate) })
    };
    let adopted = of(Some(200));
    assert_eq!(adopted.state, NodeState::Open(Opened::Adopted));
    assert_eq!(adopted.change, Some(opened_boot(Edit::Keep)));
    assert!(matches!(of(Some(99)).state, NodeState::Closed { .. }));
    assert_eq!(of(None), NodePlan { state: NodeState::Undecided, change: None, would: None });
    // A registration taint says that it is to be closed, whenever it joined.
    let registered = NodeView { opened_boot: None, ..tainted("") };
    let age = Age::BeforeUs;
    let plan = NodePlan::of(&policy(), &NodeFacts { age, ..facts(&registered, &gate) });
    assert_eq!(plan.change, Some(taint(Some("3f2a9c1e5b1d-40"))), "{plan:?}");
}

#[test]
fn agent_restarts_do_not_extend_the_longest_time_closed() {
    let node = tainted("3f2a9c1e5b1d-40");
    let gate = Gate::closed();
    let at = |seconds| {
        let uptime = Duration::from_secs(seconds);
        // Each time a new process, which remembers nothing.
        NodePlan::of(&policy(), &NodeFacts { uptime, ..facts(&node, &gate) })
    };
    assert!(matches!(at(639).state, NodeState::Closed { .. }));
    assert_eq!(at(640).state, NodeState::Open(Opened::TooLongClosed));
    assert_eq!(at(640).change, Some(opened_boot(Edit::Remove)));
    // And where somebody removes the taint, the process still knows.
    let removed = NodeView { taints: None, ..node.clone() };
    let facts = NodeFacts {
        uptime: Duration::from_secs(640),
        closed_since: Some(Duration::from_secs(40)),
        ..facts(&removed, &gate)
    };
    assert_eq!(NodePlan::of(&policy(), &facts).state, NodeState::Open(Opened::TooLongClosed));
}

#[test]
fn a_taint_of_an_earlier_boot_does_not_count_towards_the_bound() {
    let node = tainted("aaaaaaaa5b1d-3");
    let gate = Gate::closed();
    let plan = NodePlan::of(&policy(), &NodeFacts { uptime: Duration::from_hours(1), ..facts(&node, &gate) });
    assert_eq!(plan.change, Some(taint(Some("3f2a9c1e5b1d-3600"))));
}

#[test]
fn a_removed_taint_is_restored_while_nothing_is_proven() {
    let node = NodeView { opened_boot: Some(EARLIER.to_owned()), ..NodeView::default() };
    let gate = Gate::closed();
    let facts = NodeFacts { closed_since: Some(Duration::from_secs(12)), ..facts(&node, &gate) };
    assert_eq!(NodePlan::of(&policy(), &facts).change, Some(taint(Some("3f2a9c1e5b1d-12"))));
}

#[test]
fn what_must_run_here_comes_before_the_taint() {
    let node = tainted("3f2a9c1e5b1d-40");
    let gate = Gate::closed();
    let to = ["kube-system/cni".to_owned()];
    let plan = NodePlan::of(&policy(), &NodeFacts { suppressed_by: &to, ..facts(&node, &gate) });
    assert_eq!(
        (plan.state.as_str(), plan.change),
        ("taint-suppressed", Some(taint(None))),
        "and it is not remembered as opened"
    );
}

#[test]
fn a_manual_override_takes_precedence_over_everything() {
    let opened = NodeView { opened_boot: Some(BOOT.to_owned()), ..NodeView::default() };
    let gate = open();
    let closed =
        NodePlan::of(&policy(), &NodeFacts { manual_override: Some(manual_override(false)), ..facts(&opened, &gate) });
    assert_eq!(closed.change, Some(taint(Some("3f2a9c1e5b1d-hand"))));
    let late = NodeFacts {
        uptime: Duration::from_hours(9),
        manual_override: Some(manual_override(false)),
        ..facts(&opened, &gate)
    };
    assert!(matches!(NodePlan::of(&policy(), &late).state, NodeState::Closed { .. }), "it has an end of its own");

    let node = tainted("3f2a9c1e5b1d-40");
    let gate = Gate::closed();
    let plan =
        NodePlan::of(&policy(), &NodeFacts { manual_override: Some(manual_override(true)), ..facts(&node, &gate) });
    assert_eq!(plan.change, Some(taint(None)), "and what was opened by hand is not remembered as proven");
}

#[test]
fn a_node_not_to_be_tainted_loses_its_taint_and_notes_the_boot() {
    let gate = Gate::closed();
    let rebooted = NodeView { opened_boot: Some(EARLIER.to_owned()), ..NodeView::default() };
    let noted = NodeView { left_open_boot: Some(BOOT.to_owned()), ..rebooted.clone() };
    let note = |taint| NodeChange { taint, left_open_boot: Edit::Set(BOOT.to_owned()), ..NodeChange::NOTHING };
    for tainting in [Tainting::Audit, Tainting::Never] {
        let policy = NodePolicy { tainting, ..policy() };
        let of = |node: &NodeView, gate: &Gate| NodePlan::of(&policy, &facts(node, gate)).change;
        assert_eq!(of(&rebooted, &gate), Some(note(Edit::Keep)));
        assert_eq!(of(&tainted("3f2a9c1e5b1d-40"), &gate), Some(note(Edit::Remove)), "closed for ever otherwise");
        assert_eq!((of(&noted, &gate), of(&noted, &open())), (None, None), "nothing to write twice");
        let opened = NodeView { opened_boot: Some(BOOT.to_owned()), ..NodeView::default() };
        assert_eq!(of(&opened, &gate), None);
        // By a person's word likewise.
        let manual_override = NodeFacts { manual_override: Some(manual_override(false)), ..facts(&noted, &gate) };
        assert_eq!(NodePlan::of(&policy, &manual_override).change, None);
    }
}

#[test]
fn audit_says_what_it_would_write() {
    let audit = NodePolicy { tainting: Tainting::Audit, ..policy() };
    let noted = NodeView {
        opened_boot: Some(EARLIER.to_owned()),
        left_open_boot: Some(BOOT.to_owned()),
        ..NodeView::default()
    };
    let would = |gate: &Gate| NodePlan::of(&audit, &facts(&noted, gate)).would;
    assert_eq!(would(&Gate::closed()), Some(taint(Some("3f2a9c1e5b1d-40"))));
    assert!(would(&open()).is_some_and(|change| change.opened_boot == Edit::Set(BOOT.to_owned())));
}

#[test]
fn a_boot_that_ran_unclosed_is_not_closed_when_nodes_are() {
    let gate = Gate::closed();
    for opened_boot in [None, Some(EARLIER.to_owned())] {
        let ran = NodeView { opened_boot, left_open_boot: Some(BOOT.to_owned()), ..NodeView::default() };
        let plan = NodePlan::of(&policy(), &facts(&ran, &gate));
        assert_eq!(plan.state, NodeState::Open(Opened::LeftOpen));
        let noted =
            NodeChange { taint: Edit::Keep, opened_boot: Edit::Set(BOOT.to_owned()), left_open_boot: Edit::Remove };
        assert_eq!(plan.change, Some(noted));
    }
    // Of another boot that says nothing.
    let ran = NodeView {
        opened_boot: Some(EARLIER.to_owned()),
        left_open_boot: Some(EARLIER.to_owned()),
        ..NodeView::default()
    };
    assert_eq!(NodePlan::of(&policy(), &facts(&ran, &gate)).change, Some(taint(Some("3f2a9c1e5b1d-40"))));
}

#[test]
fn time_closed_by_an_override_does_not_count() {
    let gate = Gate::closed();
    let at = |node: &NodeView, seconds, manual_override, closed_since| {
        let uptime = Duration::from_secs(seconds);
        NodePlan::of(&policy(), &NodeFacts { uptime, closed_since, manual_override, ..facts(node, &gate) })
    };
    let unproven = tainted("3f2a9c1e5b1d-40");
    let closed = at(&unproven, 100, Some(manual_override(false)), Some(Duration::from_secs(40)));
    assert_eq!(closed.change, Some(taint(Some("3f2a9c1e5b1d-hand"))));
    assert_eq!(closed.closed_since(Some(Duration::from_secs(40))), None);

    // Hours later the person takes the word back: closed since then, whatever the process remembers or forgot.
    let manual_override = tainted("3f2a9c1e5b1d-hand");
    let cleared = at(&manual_override, 9000, None, None);
    assert_eq!(cleared.state, NodeState::Closed { since: Duration::from_mins(150), why: Closed::Unproven });
    assert_eq!(cleared.change, Some(taint(Some("3f2a9c1e5b1d-9000"))));
    let stamped = tainted("3f2a9c1e5b1d-9000");
    assert!(matches!(at(&stamped, 9599, None, None).state, NodeState::Closed { .. }));
    assert_eq!(at(&stamped, 9600, None, None).state, NodeState::Open(Opened::TooLongClosed));
}

#[test]
fn time_opened_by_an_override_does_not_count() {
    let gate = Gate::closed();
    let node = NodeView { taints: None, ..tainted("x") };
    let opened =
        NodePlan::of(&policy(), &NodeFacts { manual_override: Some(manual_override(true)), ..facts(&node, &gate) });
    assert_eq!(opened.closed_since(Some(Duration::from_secs(40))), None);
    let uptime = Duration::from_hours(2);
    let over = NodePlan::of(&policy(), &NodeFacts { uptime, closed_since: None, ..facts(&node, &gate) });
    assert_eq!(over.state, NodeState::Closed { since: uptime, why: Closed::Unproven });
}

#[test]
fn without_linkerd_a_node_is_open_and_that_is_not_remembered() {
    let absent =
        Gate::Open { basis: Basis::NotInstalled, since: Duration::ZERO, latest: Duration::ZERO, degraded: None };
    let plan = NodePlan::of(&policy(), &facts(&tainted("3f2a9c1e5b1d-40"), &absent));
    assert_eq!((plan.state, plan.change), (NodeState::Open(Opened::NotInstalled), Some(taint(None))));
    // A GitOps bootstrap: Linkerd comes, and nothing is proven yet.
    let open = NodeView { taints: None, ..tainted("x") };
    assert_eq!(NodePlan::of(&policy(), &facts(&open, &Gate::closed())).change, Some(taint(Some("3f2a9c1e5b1d-40"))));
}

#[test]
fn a_taint_of_our_key_that_ends_pods_is_not_ours() {
    let ending = Taint { key: TAINT_KEY.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
    let node = NodeView { taints: Some(vec![ending.clone()]), ..NodeView::default() };
    assert_eq!((node.ending_taint(TAINT_KEY), node.taint(TAINT_KEY)), (Some(&ending), None));
    assert_eq!(tainted("x").ending_taint(TAINT_KEY), None);
}

#[test]
fn a_shutdown_closes_a_node_and_an_uninstall_removes_all_marks() {
    let node = NodeView { opened_boot: Some(BOOT.to_owned()), shutting_down: true, ..NodeView::default() };
    let gate = open();
    assert_eq!(NodePlan::of(&policy(), &facts(&node, &gate)).change, Some(taint(Some("3f2a9c1e5b1d-40"))));
    let up_again = NodeView { shutting_down: false, taints: Some(node.with_taint(TAINT_KEY, Some("x"))), ..node };
    assert_eq!(NodePlan::of(&policy(), &facts(&up_again, &gate)).change, Some(taint(None)), "it was called off");
    let gone = Some(NodeChange { taint: Edit::Remove, opened_boot: Edit::Remove, ..NodeChange::NOTHING });
    assert_eq!(NodePlan::for_removal(&policy(), &tainted("x")), gone);
    assert_eq!(NodePlan::for_removal(&policy(), &NodeView::default()), None);
}

#[test]
fn taints_of_others_are_left_alone() {
    let other =
        Taint { key: "node.kubernetes.io/not-ready".to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
    // The same key with another effect is not ours either.
    let like = Taint { key: TAINT_KEY.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
    let node = NodeView { taints: Some(vec![other.clone(), like.clone()]), ..NodeView::default() };
    let with = node.with_taint(TAINT_KEY, Some("b-1"));
    assert_eq!(with[..2], [other.clone(), like.clone()]);
    assert_eq!(NodeView { taints: Some(with), ..node }.with_taint(TAINT_KEY, None), [other, like]);
}

#[test]
fn the_node_condition_reports_a_shutdown() {
    let node = |message: &str| {
        let condition =
            serde_json::json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": message});
        NodeView::of(&serde_json::from_value(serde_json::json!({"status": {"conditions": [condition]}})).unwrap())
    };
    assert!(node("node is shutting down").shutting_down);
    assert!(!node("container runtime network not ready").shutting_down);
}

#[test]
fn the_taints_value_is_one_that_the_api_server_takes() {
    for boot in [BOOT, "", "---", "0123456789012345678901234567890123456789"] {
        let value = stamp(boot, Duration::from_hours(99_999));
        assert!(value.len() <= 63, "{value}");
    }
    assert!(stamp(BOOT, Duration::ZERO).starts_with(char::is_alphanumeric));
}

#[test]
fn a_node_that_could_open_waits_until_the_controller_is_done() {
    let node = tainted("3f2a9c1e5b1d-40");
    let gate = open();
    let at = |seconds: u64, repair| {
        let uptime = Duration::from_secs(seconds);
        NodePlan::of(&policy(), &NodeFacts { uptime, repair, ..facts(&node, &gate) })
    };
    let waits = at(60, RepairWait::Pods(3));
    assert_eq!(waits.change, None, "it stays closed, and nothing is written for that");
    assert_eq!(waits.state.to_string(), "stays closed: the controller still replaces 3 pods");
    assert!(!waits.state.is_news(&at(61, RepairWait::Pods(2)).state), "one line, not one a pod");
    assert_eq!(at(60, RepairWait::Unseen).change, None, "what could not be looked at opens nothing");

    let opened = Some(opened_boot(Edit::Remove));
    assert_eq!(
        at(62, RepairWait::Nothing),
        NodePlan { state: NodeState::Open(Opened::Proven), change: opened.clone(), would: None }
    );
    let over = at(90, RepairWait::Over(2));
    assert_eq!((&over.change, over.state.is_warning()), (&opened, true));
    // The way out of a deadlock comes before every wait.
    assert_eq!(at(640, RepairWait::Pods(2)).change, opened);
}

#[test]
fn an_override_or_a_missing_daemon_opens_a_node_that_waits() {
    let node = tainted("3f2a9c1e5b1d-40");
    let gate = open();
    let waits = NodeFacts { repair: RepairWait::Pods(3), ..facts(&node, &gate) };
    let to = ["kube-system/cni".to_owned()];
    let suppressions = NodePlan::of(&policy(), &NodeFacts { suppressed_by: &to, ..waits.clone() });
    assert_eq!((suppressions.state.as_str(), suppressions.change), ("taint-suppressed", Some(taint(None))));
    let unproven = Gate::closed();
    let manual_override = NodeFacts { manual_override: Some(manual_override(true)), gate: &unproven, ..waits };
    assert_eq!(NodePlan::of(&policy(), &manual_override).change, Some(taint(None)));
}

#[test]
fn a_node_registered_with_our_taint_is_opened_when_proven() {
    let fresh = NodeView { created: Some(100), ..NodeView::default() };
    // As the policy of `agent.bornClosed` and a kubelet's --register-with-taints leave it: no value, no note of a boot.
    let registered = Taint { key: TAINT_KEY.to_owned(), effect: TAINT_EFFECT.to_owned(), ..Taint::default() };
    let born = NodeView { taints: Some(vec![registered]), ..fresh };
    let closed = Gate::closed();
    for age in [Age::BeforeUs, Age::AfterUs, Age::Unknown] {
        let plan = NodePlan::of(&policy(), &NodeFacts { age, ..facts(&born, &closed) });
        assert_eq!(plan.state, NodeState::Closed { since: Duration::from_secs(40), why: Closed::Unproven });
        assert_eq!(plan.change, Some(taint(Some("3f2a9c1e5b1d-40"))), "closed since now, {age:?}");
        let proven = open();
        let plan = NodePlan::of(&policy(), &NodeFacts { age, ..facts(&born, &proven) });
        assert_eq!(plan.change, Some(opened_boot(Edit::Remove)));
    }
}

#[test]
fn each_state_says_what_why_and_whether_to_await_repair() {
    let closed = |why| NodeState::Closed { since: Duration::from_secs(40), why };
    let until = "2026-01-01T06:00:00Z";
    // The word of `/gate`, whether the controllers' Lease is followed, whether a person should look, the message, and the cause.
    for (state, word, follows, warns, message, cause) in [
        (NodeState::Open(Opened::ThisBoot), "open", false, false, "open", "earlier in this boot"),
        (NodeState::Open(Opened::Adopted), "open", false, false, "open", "older than the installation"),
        (NodeState::Open(Opened::Proven), "open", false, false, "open", PROVEN),
        (NodeState::Open(Opened::BeforeRepair(3)), "open", false, true, "open", "LINKERD_GATE_REPAIR_GRACE"),
        (NodeState::Open(Opened::NotInstalled), "open", false, false, "open", "not installed"),
        (NodeState::Open(Opened::LeftOpen), "open", false, false, "open", "ran unclosed"),
        (NodeState::Open(Opened::TooLongClosed), "open", false, true, "open, unproven", "LINKERD_GATE_NODE_MAX_CLOSED"),
        (NodeState::Open(Opened::Overridden(manual_override(true))), "open", false, false, "open", until),
        (closed(Closed::ShuttingDown), "closed", true, false, "closed", "shutting down"),
        (closed(Closed::Unproven), "closed", true, false, "closed", "not proven"),
        (closed(Closed::AwaitsRepair(RepairWait::Unseen)), "closed", true, false, "stays closed", "not been seen"),
        (closed(Closed::AwaitsRepair(RepairWait::Pods(1))), "closed", true, false, "stays closed", "replaces 1 pod"),
        (closed(Closed::Overridden(manual_override(false))), "closed", true, false, "closed", until),
        (
            NodeState::TaintSuppressed(vec!["kube-system/cni".to_owned()]),
            "taint-suppressed",
            true,
            true,
            "not tainted",
            "kube-system/cni",
        ),
        (NodeState::Undecided, "unknown", false, false, "unchanged", "install time"),
    ] {
        assert_eq!((state.as_str(), state.message()), (word, message), "{state}");
        assert_eq!((state.follows_controller(), state.is_warning()), (follows, warns), "{state}");
        assert!(state.reason().contains(cause), "{state}");
    }
}
