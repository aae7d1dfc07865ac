//! `report`: what was read of a cluster becomes the story of its last boot.
//!
//! Pure: [`Facts`] in, a [`Report`] out, and text out of that. Reading is in `cluster::report`, writing in `command::report`.
//!
//! - [`facts`]: what is read, reduced.
//! - [`model`]: the report as a value, and as JSON.
//! - `lanes`: what each node was, one after the other.
//! - `pods`: held, created again, refused, outside the mesh.
//! - `timeline`: what happened, in order.
//! - `summary`: the sentences on top.
//! - `markdown`, `html`: the report as a page.

pub mod facts;
mod html;
mod lanes;
mod markdown;
pub mod model;
mod phrase;
mod pods;
mod summary;
mod timeline;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

pub use self::facts::Facts;
use self::facts::{EventFact, Events, seconds};
pub use self::html::html;
pub use self::markdown::markdown;
pub use self::model::Report;
use self::model::{LeaseLine, VERSION};
use self::phrase::{clock, count, typed};
use crate::check::Unread;
use crate::decide::ManualOverride;
use crate::decide::election::lease_record;

/// Kubernetes' own default, `kube-apiserver --event-ttl`.
const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// What the facts tell.
pub fn report(facts: &Facts) -> Report {
    let now = seconds(facts.now);
    let from = now.checked_sub(facts.since).unwrap_or(Timestamp::UNIX_EPOCH);
    let read = facts.events.as_ref().ok();
    let events: Vec<EventFact> =
        read.map(|events| events.kept.iter().filter(|event| event.last >= from).cloned().collect()).unwrap_or_default();
    let nodes = facts.nodes.as_ref().ok();
    let lanes = lanes::of(nodes.map_or(&[], Vec::as_slice), &events, from, now);
    let boots = timeline::boots(&lanes, &events, nodes.map(Vec::len));
    let boot = boots.last().cloned();
    let begin = boot.as_ref().map_or(from, |boot| boot.from);
    let injection = timeline::injection(&events, begin);
    let story = pods::Story::of(&events, facts);
    let timeline = timeline::of(facts, &events, &lanes, &story, injection.as_ref(), (&boots, from));
    let outside = facts.pods.as_ref().ok().map(|pods| pods::outside(&pods.survey));
    let mut report = Report {
        version: VERSION,
        from,
        to: now,
        namespace: facts.namespace.clone(),
        summary: Vec::new(),
        next: None,
        boot,
        injection,
        nodes: nodes.map(|_| lanes),
        pods: story.count(&events, facts),
        outside_by_namespace: outside.as_deref().map(pods::by_namespace),
        outside,
        leases: leases(facts),
        timeline,
        notes: notes(facts, read, &events, boots.len(), from),
        unread: unread(facts),
    };
    report.next = summary::next(&report);
    report.summary = summary::of(&report, facts);
    report
}

fn leases(facts: &Facts) -> Vec<LeaseLine> {
    let role = |name: &str| match name {
        lease_record::PROVER_LEASE => Some("prover"),
        lease_record::CONTROLLER_LEASE => Some("controller"),
        _ => None,
    };
    let line = |lease: &facts::LeaseFact| {
        Some(LeaseLine {
            role: role(&lease.name)?,
            holder: lease.holder.clone(),
            since: lease.acquired,
            renewed: lease.renewed,
            transitions: lease.transitions,
        })
    };
    facts.leases.iter().flatten().filter_map(line).collect()
}

/// What could not be read, once each.
fn unread(facts: &Facts) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let of_nodes = facts.events.as_ref().ok().and_then(|events| events.nodes_unread.as_ref());
    let reads: [(&str, Option<&Unread>); 6] = [
        ("Events", facts.events.as_ref().err()),
        ("Events of nodes", of_nodes),
        ("nodes", facts.nodes.as_ref().err()),
        ("Leases", facts.leases.as_ref().err()),
        ("pods", facts.pods.as_ref().err()),
        ("Linkerd's pods", facts.linkerd.as_ref().err()),
    ];
    for (what, unread) in reads {
        all.extend(unread.map(|why| crate::check::clean(&format!("{what}: {why}"))));
    }
    all
}

/// What limits what is reported.
fn notes(facts: &Facts, read: Option<&Events>, events: &[EventFact], boots: usize, from: Timestamp) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(read) = read {
        let late = |oldest: Timestamp| oldest.duration_since(from) > SignedDuration::from_mins(5);
        match read.oldest {
            None => notes.push("The cluster has no Event at all: they may have expired.".to_owned()),
            Some(oldest) if facts.since > KEPT && late(oldest) => notes.push(format!(
                "No Event is older than {}: Kubernetes keeps Events for an hour, unless kube-apiserver has another --event-ttl. \
                 What happened before is not in this report.",
                clock(oldest, facts.now)
            )),
            Some(_) => {}
        }
    }
    if boots > 1 {
        notes.push(format!(
            "Nodes booted {boots} times in these {}: sentences are about the last boot, numbers of pods about all of it. A shorter \
             --since leaves the others out.",
            typed(facts.since)
        ));
    }
    let skewed: Vec<&EventFact> = events.iter().filter(|event| event.skew.is_some()).collect();
    if let Some(worst) = skewed.iter().filter_map(|event| event.skew).max_by_key(|skew| skew.as_secs().abs()) {
        notes.push(format!(
            "{} from a clock that was up to {} off: the API server's time is shown instead.",
            count(skewed.len(), "Event") + if skewed.len() == 1 { " comes" } else { " come" },
            phrase::duration(worst.as_secs().abs())
        ));
    }
    let of_nodes = facts.nodes.iter().flatten();
    let of_nodes = of_nodes.filter_map(|node| Some((format!("Node {}", node.name), node.manual_override.as_ref()?)));
    let of_all = facts.leases.iter().flatten().filter(|lease| lease.name == lease_record::PROVER_LEASE);
    let of_all = of_all.filter_map(|lease| Some(("The cluster".to_owned(), lease.manual_override.as_ref()?)));
    notes.extend(of_nodes.chain(of_all).map(|(what, text)| {
        let ended = match ManualOverride::in_force(Some(text), facts.now) {
            Ok(Some(_)) => "",
            Ok(None) => ", which has ended",
            Err(_) => ", which is not of a form that counts",
        };
        format!("{what} has the manual override \"{text}\"{ended}.")
    }));
    notes
}

#[cfg(test)]
mod tests;
