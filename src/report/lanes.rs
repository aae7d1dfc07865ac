//! What each node was, one after the other, by its Events; and by the Node where an Event is missing.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::facts::{EventFact, NodeFact};
use super::model::{Gate, Kind, Lane, Span};
use super::phrase::between;

/// What an Event of a node says, if a report shows it.
pub fn kind(event: &EventFact) -> Option<Kind> {
    if event.kind != "Node" {
        return None;
    }
    Some(match event.reason.as_str() {
        "Rebooted" => Kind::NodeBooted,
        "NodeReady" => Kind::NodeReady,
        "NodeNotReady" => Kind::NodeNotReady,
        "NodeShutdown" => Kind::NodeShutdown,
        "GateClosed" => Kind::GateClosed,
        "GateAwaitsRepair" => Kind::GateAwaitsRepair,
        "GateOpened" => Kind::GateOpened,
        "GateAdopted" => Kind::GateAdopted,
        "GateLeftOpen" => Kind::GateLeftOpen,
        "GateTaintSuppressed" => Kind::TaintSuppressed,
        "GateOpenedUnproven" => Kind::GateOpenedUnproven,
        "GateOpenedBeforeRepair" => Kind::GateOpenedBeforeRepair,
        "GateOpenedOrphanNode" => Kind::GateOpenedOrphanNode,
        "GateForeignTaint" => Kind::ForeignTaint,
        _ => return None,
    })
}

/// The state that begins with it.
const fn begins(kind: Kind) -> Option<Gate> {
    Some(match kind {
        Kind::GateClosed => Gate::Closed,
        Kind::GateAwaitsRepair => Gate::AwaitsRepair,
        Kind::GateOpened | Kind::GateAdopted | Kind::GateLeftOpen => Gate::Open,
        Kind::GateOpenedUnproven | Kind::GateOpenedBeforeRepair | Kind::GateOpenedOrphanNode => Gate::OpenUnproven,
        Kind::TaintSuppressed => Gate::TaintSuppressed,
        _ => return None,
    })
}

/// A lane for each node. Without Events a lane has only what the Node itself says.
pub fn of(nodes: &[NodeFact], events: &[EventFact], from: Timestamp, now: Timestamp) -> Vec<Lane> {
    let mut by_node: BTreeMap<&str, Vec<(Timestamp, Kind, &EventFact)>> = BTreeMap::new();
    for event in events {
        if let Some(kind) = kind(event) {
            by_node.entry(&event.name).or_default().push((event.at, kind, event));
        }
    }
    let mut lanes: Vec<Lane> = nodes
        .iter()
        .map(|node| {
            let mut events = by_node.remove(node.name.as_str()).unwrap_or_default();
            events.sort_by_key(|(at, kind, _)| (*at, *kind));
            lane(node, &events, from, now)
        })
        .collect();
    lanes.sort_by(|one, other| one.name.cmp(&other.name));
    lanes
}

fn lane(node: &NodeFact, events: &[(Timestamp, Kind, &EventFact)], from: Timestamp, now: Timestamp) -> Lane {
    let mut spans: Vec<Span> = Vec::new();
    let mut booted = None;
    for (at, kind, event) in events {
        if *kind == Kind::NodeBooted {
            booted = Some(*at);
            // A node that was closed before its machine went down comes back closed.
            if spans.last().is_some_and(|span| !is_closed(span.state)) {
                end(&mut spans, *at);
            }
        }
        let Some(state) = begins(*kind) else { continue };
        let current = spans.last().filter(|span| span.to.is_none());
        if current.is_some_and(|span| span.state == state) {
            continue;
        }
        end(&mut spans, *at);
        spans.push(Span { state, from: Some(*at), to: None, why: why(&event.message) });
    }
    reconcile(&mut spans, node, from);
    let closed_seconds = closed_seconds(&spans, booted, now);
    Lane {
        name: node.name.clone(),
        booted,
        joined: node.created.filter(|created| *created >= from && booted.is_none()),
        ready: node.ready,
        // A short boot leaves the condition as it was before.
        ready_since: node.ready_since.filter(|since| booted.is_none_or(|booted| *since >= booted)),
        closed: node.closed,
        manual_override: node.manual_override.clone(),
        closed_seconds,
        spans,
    }
}

/// Ends the current span. Never before its beginning: clocks differ.
fn end(spans: &mut [Span], at: Timestamp) {
    if let Some(span) = spans.last_mut().filter(|span| span.to.is_none()) {
        span.to = Some(span.from.map_or(at, |from| at.max(from)));
    }
}

/// Adds what the Node says and no Event does.
fn reconcile(spans: &mut Vec<Span>, node: &NodeFact, from: Timestamp) {
    let current = spans.last().filter(|span| span.to.is_none());
    let written = node.written.filter(|written| *written >= from && node.opened);
    let span = |state, from, why: &str| Span { state, from, to: None, why: why.to_owned() };
    match (node.closed, current.map(|span| (span.state, span.from))) {
        (true, Some((state, _))) if is_closed(state) => {}
        (true, _) => {
            // Since when is not known, and so neither how long it was what it was before.
            spans.retain(|span| span.to.is_some());
            spans.push(span(Gate::Closed, None, "the node has the taint; no Event says since when"));
        }
        (false, Some((state, began))) if is_closed(state) => {
            let opened = written.filter(|written| began.is_none_or(|began| *written >= began));
            if let Some(at) = opened {
                end(spans, at);
                spans.push(span(Gate::Open, Some(at), LAST_WRITE));
            } else {
                // Until when it was closed is not known.
                spans.pop();
                spans.push(span(Gate::Open, None, "it was closed before; no Event says when it was opened"));
            }
        }
        (false, None) if node.opened && spans.is_empty() => {
            if let Some(at) = written {
                spans.push(span(Gate::Open, Some(at), LAST_WRITE));
            }
        }
        (false, _) => {}
    }
}

/// Where the time of an opening comes from, if not from an Event.
const LAST_WRITE: &str =
    "opened in this boot; no Event is left, this is the time of linkerd-gate's last write to the Node";

/// For how long the node was closed; nothing where it never was, or where that is not known.
fn closed_seconds(spans: &[Span], booted: Option<Timestamp>, now: Timestamp) -> Option<i64> {
    // Before its last boot it was closed for another one.
    let counts =
        |span: &&Span| is_closed(span.state) && span.to.is_none_or(|to| booted.is_none_or(|booted| to > booted));
    let since = |from: Timestamp| booted.map_or(from, |booted| from.max(booted));
    let mut all =
        spans.iter().filter(counts).map(|span| Some(between(since(span.from?), span.to.unwrap_or(now)).max(0)));
    let first = all.next()??;
    all.try_fold(first, |sum, seconds| Some(sum + seconds?))
}

pub const fn is_closed(state: Gate) -> bool {
    matches!(state, Gate::Closed | Gate::AwaitsRepair)
}

/// The reason in a message of the agent's, which begins with the state: `closed: injection is not proven …`.
pub fn why(message: &str) -> String {
    message.split_once(": ").map_or(message, |(_, why)| why).to_owned()
}
