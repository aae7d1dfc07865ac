//! What a report says of several boots.

use k8s_openapi::jiff::SignedDuration;

use super::fixtures::{Cluster, at};
use crate::report::model::{Gate, Kind, Report};

fn kinds(report: &Report) -> Vec<Kind> {
    report.timeline.iter().map(|entry| entry.kind).collect()
}

#[test]
fn a_power_cut_is_said_in_six_sentences() {
    let report = Cluster::power_cut().report();
    assert_eq!(
        report.summary,
        [
            "All 3 nodes booted from 03:12:05 on, within 40 s: node-0, node-1 and node-2.",
            "Linkerd could inject again by 03:16:20, 4 min 15 s later.",
            "3 nodes were closed, for 4 min 14 s at most; none is closed now.",
            "41 pods were held, for 3 min 12 s at most.",
            "41 pods were created again, all with a proxy.",
            "3 creates were refused by admission.",
            "2 pods run outside the mesh, though they request injection: deployment/legacy -n shop and pod/shell -n shop.",
        ]
    );
    assert_eq!(report.next.as_deref(), Some("linkerd-gate explain -A --missed -o commands"));
    let injection = report.injection.as_ref().unwrap();
    assert_eq!((injection.at, &*injection.evidence), (at(255), "Event GateAwaitsRepair on node node-0"));
}

#[test]
fn what_happened_to_many_within_a_minute_is_one_entry() {
    let report = Cluster::power_cut().report();
    assert_eq!(
        kinds(&report),
        [
            Kind::NodeBooted,
            Kind::NodeReady,
            Kind::GateClosed,
            Kind::ProverElected,
            Kind::CreatesRefused,
            Kind::PodsHeld,
            Kind::ControllerElected,
            Kind::LinkerdReady,
            Kind::InjectionProven,
            Kind::GateAwaitsRepair,
            Kind::PodsReplaced,
            Kind::GateOpened,
            Kind::PodsStarted,
        ]
    );
    let closed = &report.timeline[2];
    assert_eq!((closed.at, closed.until, closed.count), (at(12), Some(at(52)), 3));
    assert!(
        closed.text.starts_with("3 nodes were closed: node-0, node-1 and node-2: injection is not proven"),
        "{closed:?}"
    );
    let held = &report.timeline[5];
    assert_eq!((held.at, held.until, held.count, held.objects.len()), (at(64), Some(at(77)), 41, 1));
    assert!(report.timeline[4].text.starts_with("3 creates refused, for 1 owner: replicaset/api-5f6d -n shop:"));
}

#[test]
fn a_node_is_closed_awaits_repair_and_opens() {
    let report = Cluster::power_cut().report();
    let lane = &report.nodes.unwrap()[0];
    let spans: Vec<_> = lane.spans.iter().map(|span| (span.state, span.from, span.to)).collect();
    assert_eq!(
        spans,
        [
            (Gate::Closed, Some(at(12)), Some(at(255))),
            (Gate::AwaitsRepair, Some(at(255)), Some(at(266))),
            (Gate::Open, Some(at(266)), None),
        ]
    );
    assert_eq!((lane.closed_seconds, lane.closed, lane.booted), (Some(254), false, Some(at(0))));
    assert_eq!(lane.spans[2].why, "the gate is open");
}

#[test]
fn one_node_of_three_that_opens_unproven_is_a_warning() {
    let mut cluster = Cluster::new();
    for name in ["node-0", "node-1", "node-2"] {
        cluster.node(name, -90_000, true);
    }
    cluster.booted("node-1", 0);
    cluster.gate("node-1", "GateClosed", 10, "closed: injection is not proven in this boot");
    let unproven =
        "open, unproven: the node was closed for LINKERD_GATE_NODE_MAX_CLOSED; pods may start outside the mesh";
    cluster.gate("node-1", "GateOpenedUnproven", 130, unproven);
    let report = cluster.report();
    assert_eq!(
        report.summary,
        [
            "Node node-1 booted at 03:12:05, 1 of 3.",
            "No Event since then shows that Linkerd could inject.",
            "1 node was closed, for 2 min; 1 node opened without a proof or before repair was done: node-1; none is closed now.",
            "No pod that requests injection runs outside the mesh.",
        ]
    );
    let entry = report.timeline.last().unwrap();
    assert!(entry.warning && entry.kind == Kind::GateOpenedUnproven, "{entry:?}");
    assert_eq!(report.injection, None);
    // Its condition is of the boot before: a short one does not change it.
    let ready = report.nodes.unwrap().into_iter().map(|lane| lane.ready_since).collect::<Vec<_>>();
    assert_eq!(ready, [Some(at(-90_000)), None, Some(at(-90_000))]);
}

#[test]
fn what_was_before_a_boot_is_no_part_of_it() {
    let mut cluster = Cluster::new();
    cluster.node("node-0", -90_000, true);
    for (closed, opened) in [(-36, -18), (4, 7)] {
        cluster.gate("node-0", "GateClosed", closed, "closed: injection is not proven in this boot");
        cluster.gate("node-0", "GateOpened", opened, "open: the gate is open");
    }
    cluster.booted("node-0", 0);
    let report = cluster.report();
    assert_eq!(
        kinds(&report),
        [
            Kind::GateClosed,
            Kind::GateOpened,
            Kind::NodeBooted,
            Kind::GateClosed,
            Kind::InjectionProven,
            Kind::GateOpened
        ]
    );
    assert_eq!(report.summary[2], "1 node was closed, for 3 s; none is closed now.");
    assert_eq!(report.nodes.unwrap()[0].closed_seconds, Some(3));
}

#[test]
fn where_nothing_happened_it_says_when_a_node_became_ready() {
    let mut cluster = Cluster::new();
    cluster.node("node-0", -90_000, true);
    cluster.event("NodeReady", &serde_json::json!({"kind": "Pod", "name": "x"}), -3000, "");
    let report = cluster.report();
    assert_eq!(
        report.summary,
        [
            "No Event of the last 1h says that a node booted. Node node-0 became ready last, at 2026-11-29 02:12:05.",
            "No pod that requests injection runs outside the mesh.",
        ]
    );
    assert_eq!((report.timeline.len(), report.next), (0, None));
}

#[test]
fn a_node_whose_event_is_missing_is_what_the_node_says() {
    let mut cluster = Cluster::new();
    cluster.node("node-0", 5, true);
    cluster.written(200);
    cluster.gate("node-0", "GateClosed", 10, "closed: injection is not proven in this boot");
    cluster.node("node-1", 5, true);
    cluster.written(210);
    cluster.node("node-2", 5, true);
    cluster.gate("node-2", "GateClosed", 10, "closed: injection is not proven in this boot");
    cluster.node("node-3", 5, false);
    cluster.tainted();
    let lanes = cluster.report().nodes.unwrap();
    // Closed by its Event, opened by the time of the last write.
    assert_eq!((lanes[0].closed_seconds, lanes[0].spans[1].from), (Some(190), Some(at(200))));
    assert!(lanes[0].spans[1].why.contains("last write"), "{:?}", lanes[0]);
    // Opened likewise, and nothing says when it was closed.
    assert_eq!((lanes[1].closed_seconds, lanes[1].spans[0].from), (None, Some(at(210))));
    // Opened, and nothing says when: for how long it was closed is not made up.
    assert_eq!((lanes[2].closed_seconds, lanes[2].spans.len()), (None, 1));
    assert!(lanes[2].spans[0].why.contains("no Event says when"), "{:?}", lanes[2]);
    // Closed, and nothing says since when.
    assert_eq!((lanes[3].closed, lanes[3].closed_seconds, lanes[3].spans[0].from), (true, None, None));
}

#[test]
fn what_is_still_closed_or_held_is_counted() {
    let mut cluster = Cluster::new();
    cluster.node("node-0", 5, false);
    cluster.tainted();
    cluster.booted("node-0", 0);
    cluster.gate("node-0", "GateClosed", 10, "closed: injection is not proven in this boot");
    cluster.gated("web-7d4b9c-a", Some("web-7d4b9c"), 20);
    cluster.gated("web-7d4b9c-b", Some("web-7d4b9c"), 30);
    let report = cluster.report();
    assert_eq!(
        report.summary,
        [
            "The only node, node-0, booted at 03:12:05.",
            "No Event since then shows that Linkerd could inject.",
            "Nodes have been closed for 9 min 50 s at most; node-0 is still closed.",
            "2 pods were held, for 9 min 40 s at most; 2 still are.",
            "No pod that requests injection runs outside the mesh.",
        ]
    );
    assert_eq!(report.next.as_deref(), Some("linkerd-gate check"));
    assert_eq!(report.pods.held_over_time.iter().map(|step| step.held).max(), Some(2));
}

#[test]
fn a_thousand_pods_are_one_entry_and_one_row() {
    let mut cluster = Cluster::new();
    cluster.node("node-0", 5, true);
    cluster.booted("node-0", 0);
    for pod in 0..1000 {
        let name = format!("web-7d4b9c-{pod:04}");
        cluster.held(&name, 60 + pod / 25);
        cluster.replaced(&name, "web-7d4b9c", 40, 300 + pod / 25);
        cluster.meshed(&format!("web-7d4b9c-n{pod:04}"), "web-7d4b9c", 300 + pod / 25, None);
        cluster.running(&format!("old-5f-{pod:04}"), Some("old-5f"), 30);
    }
    let report = cluster.report();
    assert_eq!((report.pods.held, report.pods.replaced, report.pods.created_again_meshed), (1000, 1000, Some(1000)));
    assert_eq!(report.pods.held_seconds_max, Some(299));
    assert_eq!(report.pods.held_over_time.first().map(|step| step.held), Some(1000));
    assert_eq!(report.pods.held_over_time.last().map(|step| step.held), Some(0));
    let held: Vec<_> = report.timeline.iter().filter(|entry| entry.kind == Kind::PodsHeld).collect();
    assert_eq!((held.len(), held[0].count), (1, 1000));
    assert_eq!(held[0].text, "1000 pods were held: replicaset/web-7d4b9c -n shop");
    assert_eq!(report.outside.as_ref().unwrap().len(), 1);
    assert_eq!(report.next.as_deref(), Some("kubectl rollout restart deployment/old -n shop"));
    assert!(crate::report::markdown(&report).len() < 4000);
}

#[test]
fn clocks_that_go_backwards_make_no_negative_time() {
    let mut cluster = Cluster::new();
    cluster.node("node-0", 5, true);
    cluster.booted("node-0", 0);
    // The node's clock was years behind when the agent closed it: the API server's time counts.
    let event = cluster.gate("node-0", "GateClosed", 20, "closed: injection is not proven in this boot");
    event["firstTimestamp"] = "1970-01-01T00:00:07Z".into();
    event["lastTimestamp"] = "1970-01-01T00:00:07Z".into();
    cluster.gate("node-0", "GateOpened", 12, "open: the gate is open");
    // Removed before it was held, by the clocks of two machines.
    cluster.held("web-7d4b9c-a", 50);
    cluster.replaced("web-7d4b9c-a", "web-7d4b9c", 50, 45);
    let report = cluster.report();
    assert!(report.notes[0].starts_with("1 Event comes from a clock that was up to "), "{:?}", report.notes);
    assert_eq!(report.pods.held_seconds_max, Some(0));
    let lanes = report.nodes.as_ref().unwrap();
    assert!(lanes[0].spans.iter().all(|span| span.to.is_none_or(|to| span.from.is_none_or(|from| to >= from))));
    assert_eq!(report.timeline.iter().filter(|entry| entry.at < at(0)).count(), 0);
}

#[test]
fn of_two_boots_the_last_one_counts_and_the_other_is_noted() {
    let mut cluster = Cluster::new();
    cluster.node("node-0", 5, true);
    cluster.booted("node-0", -2000);
    cluster.booted("node-0", 0);
    cluster.gate("node-0", "GateOpened", -1900, "open: the gate is open");
    let report = cluster.report();
    assert_eq!(report.boot.as_ref().unwrap().from, at(0));
    // The proof before the last boot is none after it.
    assert_eq!(report.injection, None);
    assert!(report.notes.iter().any(|note| note.starts_with("Nodes booted 2 times in these 1h")), "{:?}", report.notes);
}

#[test]
fn of_a_day_what_expired_is_said() {
    let mut cluster = Cluster::power_cut();
    cluster.since = SignedDuration::from_hours(24);
    let notes = cluster.report().notes;
    assert!(notes[0].starts_with("No Event is older than 03:12:05: Kubernetes keeps Events for an hour"), "{notes:?}");
    cluster.since = SignedDuration::from_hours(1);
    assert_eq!(cluster.report().notes, [] as [String; 0]);
}

#[test]
fn an_override_is_noted_with_whether_it_holds() {
    let mut cluster = Cluster::power_cut();
    cluster.nodes[1]["metadata"]["annotations"]["linkerd-gate/override"] = "open 2026-11-30T04:00:00Z".into();
    cluster.leases[0]["metadata"]["annotations"] =
        serde_json::json!({"linkerd-gate/override": "closed 2026-11-30T03:13:00Z"});
    assert_eq!(
        cluster.report().notes,
        [
            "Node node-1 has the manual override \"open 2026-11-30T04:00:00Z\".",
            "The cluster has the manual override \"closed 2026-11-30T03:13:00Z\", which has ended.",
        ]
    );
}

#[test]
fn an_event_of_another_program_under_our_reason_is_ignored() {
    let mut cluster = Cluster::new();
    cluster.node("node-0", 5, true);
    cluster.gate("node-0", "GateOpenedUnproven", 10, "open")["reportingComponent"] = "other".into();
    assert_eq!(cluster.report().timeline, []);
}
