//! What could not be read is said, and nothing is said about it.

use super::fixtures::{Cluster, forbidden};
use crate::report::{markdown, report};

#[test]
fn where_nothing_may_be_read_nothing_is_stated() {
    let mut facts = Cluster::power_cut().facts();
    facts.events = Err(forbidden("list events in all namespaces"));
    facts.nodes = Err(forbidden("list nodes"));
    facts.leases = Err(forbidden("list leases.coordination.k8s.io in namespace linkerd-gate"));
    facts.pods = Err(forbidden("list pods in all namespaces"));
    facts.linkerd = Err(forbidden("list pods in all namespaces"));
    let report = report(&facts);
    assert_eq!(
        report.summary,
        [
            "Whether a node booted in the last 1h is not known: you may not list events in all namespaces.",
            "Which pods run outside the mesh is not known: see what could not be read.",
        ]
    );
    assert_eq!(
        report.unread,
        [
            "Events: you may not list events in all namespaces",
            "nodes: you may not list nodes",
            "Leases: you may not list leases.coordination.k8s.io in namespace linkerd-gate",
            "pods: you may not list pods in all namespaces",
            "Linkerd's pods: you may not list pods in all namespaces",
        ]
    );
    assert_eq!(
        (&report.nodes, &report.outside, report.pods.meshed, report.pods.running_outside),
        (&None, &None, None, None)
    );
    assert_eq!(report.timeline, []);
    let page = markdown(&report);
    assert!(page.contains("## Not read\n\n- Events: you may not list events"), "{page}");
}

#[test]
fn without_pods_events_say_what_was_held() {
    let mut facts = Cluster::power_cut().facts();
    facts.pods = Err(forbidden("list pods in all namespaces"));
    let report = report(&facts);
    assert!(report.summary.contains(&"41 pods were created again; whether with a proxy is not known.".to_owned()));
    assert!(report.summary.last().unwrap().starts_with("Which pods run outside the mesh is not known"));
}

#[test]
fn without_nodes_a_boot_is_not_said_to_be_of_all() {
    let mut facts = Cluster::power_cut().facts();
    facts.nodes = Err(forbidden("list nodes"));
    let report = report(&facts);
    assert_eq!(report.summary[0], "3 nodes booted from 03:12:05 on, within 40 s: node-0, node-1 and node-2.");
    assert_eq!(report.nodes, None);
}

#[test]
fn without_the_events_of_nodes_a_boot_is_not_known() {
    let mut facts = Cluster::power_cut().facts();
    facts.namespace = Some("shop".to_owned());
    if let Ok(events) = &mut facts.events {
        events.kept.retain(|event| event.kind != "Node");
        events.nodes_unread = Some(forbidden("list events in namespace default"));
    }
    let report = report(&facts);
    assert_eq!(
        report.summary[0],
        "Whether a node booted in the last 1h is not known: you may not list events in namespace default."
    );
    assert!(report.summary[1].starts_with("41 pods were held"), "{:?}", report.summary);
    assert_eq!(report.unread, ["Events of nodes: you may not list events in namespace default"]);
}
