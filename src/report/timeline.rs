//! What happened, in order: one entry for what happened to many objects within a minute.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::facts::{EventFact, Facts};
use super::lanes;
use super::model::{Boot, Entry, Injection, Kind, Lane};
use super::phrase::{count, names};
use super::pods::{self, Story};
use crate::decide::election::lease_record;
use crate::decide::node::taint::PROVEN;
use crate::decide::repair::event_text;

/// What is so near to what came before belongs to it.
const NEAR: SignedDuration = SignedDuration::from_secs(60);

/// Boots that are so near to each other are one boot of the cluster.
const ONE_BOOT: SignedDuration = SignedDuration::from_mins(10);

/// How many objects an entry names.
const OBJECTS: usize = 10;

/// One thing that happened to one object.
struct Moment {
    at: Timestamp,
    until: Timestamp,
    kind: Kind,
    object: String,
    why: String,
    count: usize,
}

/// Boots of nodes, of which each group is one boot of the cluster; the last one is the last.
pub fn boots(lanes: &[Lane], events: &[EventFact], of: Option<usize>) -> Vec<Boot> {
    let booted = events.iter().filter(|event| lanes::kind(event) == Some(Kind::NodeBooted));
    let mut all: Vec<(Timestamp, &str)> = booted.map(|event| (event.at, event.name.as_str())).collect();
    all.sort_unstable();
    let mut boots: Vec<Boot> = Vec::new();
    for (at, name) in all {
        // A node that booted again began another one.
        let same = |boot: &&mut Boot| at.duration_since(boot.to) <= ONE_BOOT && !boot.nodes.iter().any(|it| it == name);
        match boots.last_mut().filter(same) {
            Some(boot) => {
                boot.to = at;
                boot.nodes.push(name.to_owned());
            }
            None => boots.push(Boot { from: at, to: at, nodes: vec![name.to_owned()], of }),
        }
    }
    // A node that is gone since then counts as well.
    for boot in &mut boots {
        boot.of =
            boot.of.map(|of| of + boot.nodes.iter().filter(|name| !lanes.iter().any(|it| it.name == **name)).count());
        boot.nodes.sort();
    }
    boots
}

/// The first trace of a proof since `from`.
pub fn injection(events: &[EventFact], from: Timestamp) -> Option<Injection> {
    let evidence = |event: &EventFact| {
        Some(match (lanes::kind(event), event.reason.as_str()) {
            (Some(Kind::GateAwaitsRepair), _) => format!("Event GateAwaitsRepair on node {}", event.name),
            (Some(Kind::GateOpened | Kind::GateOpenedBeforeRepair), reason) if event.message.contains(PROVEN) => {
                format!("Event {reason} on node {}", event.name)
            }
            // The controller removes a pod on its own proof only.
            (None, event_text::REPLACING) => {
                format!("Event Replacing on {} {} -n {}", event.kind, event.name, event.namespace)
            }
            _ => return None,
        })
    };
    let found = events.iter().filter(|event| event.at >= from).filter_map(|event| Some((event.at, evidence(event)?)));
    found.min().map(|(at, evidence)| Injection { at, evidence })
}

/// The timeline.
pub fn of(
    facts: &Facts,
    events: &[EventFact],
    lanes: &[Lane],
    story: &Story,
    injection: Option<&Injection>,
    (boots, from): (&[Boot], Timestamp),
) -> Vec<Entry> {
    let mut moments = of_nodes(events, lanes);
    moments.extend(of_pods(events, story));
    moments.extend(of_parts(facts, from));
    moments.extend(injection.map(|found| Moment::new(found.at, Kind::InjectionProven, "Linkerd", &found.evidence)));
    merged(moments, boots)
}

fn of_nodes(events: &[EventFact], lanes: &[Lane]) -> Vec<Moment> {
    let mut moments: Vec<Moment> = Vec::new();
    for event in events {
        let Some(kind) = lanes::kind(event) else { continue };
        let mut moment = Moment::new(event.at, kind, &event.name, &lanes::why(&event.message));
        moment.until = event.last;
        moments.push(moment);
    }
    let joined = lanes.iter().filter_map(|lane| Some(Moment::new(lane.joined?, Kind::NodeJoined, &lane.name, "")));
    moments.extend(joined);
    // What the Node says, where the Event is missing.
    for lane in lanes {
        let said = moments.iter().any(|it| it.kind == Kind::NodeReady && it.object == lane.name);
        if let (Some(since), Some(booted), true, false) = (lane.ready_since, lane.booted, lane.ready, said)
            && since >= booted
        {
            moments.push(Moment::new(since, Kind::NodeReady, &lane.name, ""));
        }
    }
    moments
}

fn of_pods(events: &[EventFact], story: &Story) -> Vec<Moment> {
    let mut moments: Vec<Moment> = Vec::new();
    for (key, held) in &story.held {
        // Whose pods they are says more than their names.
        let pod = || format!("pod/{} -n {}", key.name, key.namespace);
        let owner = held.owner.clone().unwrap_or_else(pod);
        moments.extend(held.since.map(|since| Moment::new(since, Kind::PodsHeld, &owner, "")));
    }
    let replaced = story.replaced.iter();
    moments.extend(replaced.map(|(owner, at)| Moment::new(*at, Kind::PodsReplaced, owner, "")));
    moments.extend(story.again.iter().flatten().map(|at| Moment::new(*at, Kind::PodsStarted, "", "")));
    for event in events {
        let kind = match event.reason.as_str() {
            "FailedCreate" => Kind::CreatesRefused,
            event_text::OUTSIDE_MESH if !pods::is_held(event) => Kind::PodsOutside,
            "ReplacementRefused" | "ReplacementFailed" => Kind::ReplacementFailed,
            "NotCreatedAgain" => Kind::NotCreatedAgain,
            "ReplacementsOutsideMesh" => Kind::OwnerPaused,
            "ReleasedWithoutProxy" | "Released" if pods::is_bare(event) => Kind::PodsReleasedWithoutProxy,
            "Released" => Kind::PodsReleased,
            "ReleaseFailed" => Kind::ReleaseFailed,
            _ => continue,
        };
        let moment = Moment::new(event.at, kind, &pods::path(event), &event.message);
        moments.push(Moment { until: event.last, count: event.count, ..moment });
    }
    moments
}

fn of_parts(facts: &Facts, from: Timestamp) -> Vec<Moment> {
    let parts = facts.linkerd.iter().flatten().filter(|(_, since)| **since >= from);
    let mut moments: Vec<Moment> =
        parts.map(|(part, since)| Moment::new(*since, Kind::LinkerdReady, &format!("linkerd-{part}"), "")).collect();
    for lease in facts.leases.iter().flatten() {
        let kind = match lease.name.as_str() {
            lease_record::PROVER_LEASE => Kind::ProverElected,
            lease_record::CONTROLLER_LEASE => Kind::ControllerElected,
            _ => continue,
        };
        if let (Some(holder), Some(acquired)) = (&lease.holder, lease.acquired.filter(|at| *at >= from)) {
            moments.push(Moment::new(acquired, kind, holder, ""));
        }
    }
    moments
}

fn merged(mut moments: Vec<Moment>, boots: &[Boot]) -> Vec<Entry> {
    moments.sort_by(|one, other| (one.kind, one.at, &one.object).cmp(&(other.kind, other.at, &other.object)));
    let mut groups: Vec<Vec<Moment>> = Vec::new();
    for moment in moments {
        match groups.last_mut().filter(|group| moment.is_near(group, boots)) {
            Some(group) => group.push(moment),
            None => groups.push(vec![moment]),
        }
    }
    let mut entries: Vec<Entry> = groups.iter().map(|group| entry(group)).collect();
    entries.sort_by_key(|entry| (entry.at, entry.kind));
    entries
}

fn entry(group: &[Moment]) -> Entry {
    let first = &group[0];
    let until = group.iter().map(|moment| moment.until).max().filter(|until| *until > first.at);
    let objects: BTreeSet<&str> = group.iter().map(|moment| &*moment.object).filter(|it| !it.is_empty()).collect();
    let objects: Vec<&str> = objects.into_iter().collect();
    let number: usize = match first.kind {
        Kind::CreatesRefused => group.iter().map(|moment| moment.count).sum(),
        Kind::PodsStarted | Kind::PodsHeld | Kind::PodsReplaced => group.len(),
        _ => objects.len(),
    };
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for moment in group {
        *reasons.entry(&moment.why).or_default() += 1;
    }
    let why = reasons.iter().max_by_key(|(_, count)| **count).map(|(why, _)| *why).unwrap_or_default();
    Entry {
        at: first.at,
        until,
        kind: first.kind,
        warning: is_warning(first.kind),
        count: number,
        objects: objects.iter().take(OBJECTS).map(|object| (*object).to_owned()).collect(),
        text: text(first.kind, &objects, number, why),
    }
}

const fn is_warning(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::CreatesRefused
            | Kind::TaintSuppressed
            | Kind::ForeignTaint
            | Kind::PodsOutside
            | Kind::ReplacementFailed
            | Kind::NotCreatedAgain
            | Kind::OwnerPaused
            | Kind::PodsReleasedWithoutProxy
            | Kind::ReleaseFailed
            | Kind::GateOpenedBeforeRepair
            | Kind::GateOpenedUnproven
            | Kind::GateOpenedOrphanNode
    )
}

/// One sentence, without its full stop.
fn text(kind: Kind, objects: &[&str], number: usize, why: &str) -> String {
    let all = names(objects, number);
    let (node, pod, owner) = (count(number, "node"), count(number, "pod"), count(number, "owner"));
    let (was, s) = if number == 1 { ("was", "") } else { ("were", "s") };
    match kind {
        Kind::NodeShutdown => format!("{node} announced a shutdown: {all}"),
        Kind::NodeNotReady => format!("{node} stopped being ready: {all}"),
        Kind::NodeJoined => format!("{node} joined the cluster: {all}"),
        Kind::NodeBooted => format!("{node} booted: {all}"),
        Kind::NodeReady => format!("{node} became ready: {all}"),
        Kind::GateClosed => format!("{node} {was} closed: {all}: {why}"),
        Kind::GateAwaitsRepair => format!("{node} stayed closed for the controller: {all}: {why}"),
        Kind::GateOpened => format!("{node} {was} opened: {all}: {why}"),
        Kind::GateAdopted => format!("{node} stayed open: {all}: {why}"),
        Kind::GateLeftOpen => format!("{node} {was} left open: {all}: {why}"),
        Kind::TaintSuppressed => format!("{node} {was} not closed: {all}: {why}"),
        Kind::ForeignTaint => format!("{node} had a taint that ends pods: {all}: {why}"),
        Kind::GateOpenedBeforeRepair => format!("{node} {was} opened before all pods were replaced: {all}: {why}"),
        Kind::GateOpenedUnproven => format!("{node} {was} opened without a proof: {all}: {why}"),
        Kind::GateOpenedOrphanNode => format!("the controller opened {node} without an agent: {all}"),
        Kind::LinkerdReady => format!("Linkerd's control plane became ready: {all}"),
        Kind::ProverElected => format!("the agent of {all} became the prover"),
        Kind::ControllerElected => format!("the controller {all} began to lead"),
        Kind::InjectionProven => format!("Linkerd can inject: the first trace of a proof ({why})"),
        Kind::PodsHeld => format!("{pod} {was} held: {}", names(objects, objects.len())),
        Kind::PodsReplaced => {
            let owners = names(objects, objects.len());
            let they = match (number, objects.len()) {
                (1, _) => "its owner creates it",
                (_, 1) => "their owner creates them",
                _ => "their owners create them",
            };
            format!("the controller removed {pod}, and {they} again: {owners}")
        }
        Kind::PodsStarted => format!("{pod} that {was} created again started in the mesh"),
        Kind::CreatesRefused => {
            format!(
                "{number} create{s} refused, for {}: {}: {why}",
                count(objects.len(), "owner"),
                names(objects, objects.len())
            )
        }
        Kind::PodsOutside => format!("{pod} ran outside the mesh: {all}"),
        Kind::ReplacementFailed => format!("pods of {owner} could not be removed: {all}: {why}"),
        Kind::NotCreatedAgain => format!("removed pods of {owner} were not created again: {all}: {why}"),
        Kind::OwnerPaused => format!("the controller paused {owner}: {all}: {why}"),
        Kind::PodsReleased => format!("{pod} {was} let go with a proxy, or without a need for one: {all}"),
        Kind::PodsReleasedWithoutProxy => format!("{pod} {was} released outside the mesh: {all}: {why}"),
        Kind::ReleaseFailed => format!("the scheduling gate of {pod} could not be removed: {all}: {why}"),
    }
}

// === impl Moment ===

impl Moment {
    fn new(at: Timestamp, kind: Kind, object: &str, why: &str) -> Self {
        Self { at, until: at, kind, object: object.to_owned(), why: why.to_owned(), count: 1 }
    }

    fn is_near(&self, group: &[Self], boots: &[Boot]) -> bool {
        let last = group.iter().map(|moment| moment.until).max();
        let same = group[0].kind == self.kind;
        // Which agent leads is news each time.
        let apart = matches!(self.kind, Kind::ProverElected | Kind::ControllerElected);
        // What was before a boot is not what was after it.
        let parted = boots.iter().any(|boot| group[0].at < boot.from && boot.from <= self.at);
        same && !apart && !parted && last.is_some_and(|last| self.at.duration_since(last) <= NEAR)
    }
}
