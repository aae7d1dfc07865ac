//! The sentences on top of a report, and the command to type next.

use k8s_openapi::jiff::Timestamp;

use super::facts::Facts;
use super::model::{Boot, Gate, Kind, Lane, Report};
use super::phrase::{between, clock, count, duration, names, typed};

/// What to type next; nothing where nothing is to be done, or where that is not known.
pub fn next(report: &Report) -> Option<String> {
    let running: Vec<_> = report.outside.iter().flatten().filter(|row| row.running > 0).collect();
    let held: Vec<_> = report.outside.iter().flatten().filter(|row| row.running == 0).collect();
    let scope = match &report.namespace {
        Some(namespace) => format!("-n {namespace}"),
        None => "-A".to_owned(),
    };
    match (running.as_slice(), held.as_slice()) {
        ([one], _) if !one.next.starts_with('#') => Some(one.next.clone()),
        ([_, ..], _) => Some(format!("linkerd-gate explain {scope} --missed -o commands")),
        ([], [_, ..]) => Some("linkerd-gate check".to_owned()),
        ([], []) => {
            let closed = report.nodes.iter().flatten().any(|lane| lane.closed);
            closed.then(|| "linkerd-gate status".to_owned())
        }
    }
}

/// The sentences.
pub fn of(report: &Report, facts: &Facts) -> Vec<String> {
    let mut all = vec![boot(report, facts)];
    all.extend(injection(report));
    all.extend(closed(report));
    all.extend(pods(report));
    all.push(outside(report));
    all
}

fn boot(report: &Report, facts: &Facts) -> String {
    let since = typed(facts.since);
    let unread = match &facts.events {
        Ok(events) => events.nodes_unread.as_ref(),
        Err(why) => Some(why),
    };
    if let Some(why) = unread {
        return format!(
            "Whether a node booted in the last {since} is not known: {}.",
            crate::check::clean(&why.to_string())
        );
    }
    let Some(Boot { from, to, nodes, of }) = &report.boot else {
        let joined = report.nodes.iter().flatten().filter_map(|lane| lane.joined);
        let joined = match joined.count() {
            0 => String::new(),
            number => format!("; {} joined", count(number, "node")),
        };
        return format!("No Event of the last {since} says that a node booted{joined}.{}", earlier(report));
    };
    let at = clock(*from, report.to);
    let spread = match between(*from, *to) {
        ..=0 => format!("at {at}"),
        seconds => format!("from {at} on, within {}", duration(seconds)),
    };
    match (nodes.as_slice(), of) {
        ([one], Some(1)) => format!("The only node, {one}, booted {spread}."),
        ([one], Some(of)) => format!("Node {one} booted {spread}, 1 of {of}."),
        ([one], None) => format!("Node {one} booted {spread}."),
        (all @ [_, _], Some(2)) => format!("Both nodes booted {spread}: {}.", names(all, 2)),
        (all, Some(of)) if all.len() == *of => format!("All {of} nodes booted {spread}: {}.", names(all, all.len())),
        (all, Some(of)) => format!("{} of {of} nodes booted {spread}: {}.", all.len(), names(all, all.len())),
        (all, None) => format!("{} nodes booted {spread}: {}.", all.len(), names(all, all.len())),
    }
}

/// Where no boot is in the window: when nodes became ready last, which lasts longer than Events.
fn earlier(report: &Report) -> String {
    let ready = report
        .nodes
        .iter()
        .flatten()
        .filter(|lane| lane.ready)
        .filter_map(|lane| Some((lane.ready_since?, &lane.name)));
    match ready.max() {
        Some((at, name)) if at < report.from => {
            format!(" Node {name} became ready last, at {}.", clock(at, report.to))
        }
        _ => String::new(),
    }
}

fn injection(report: &Report) -> Option<String> {
    if report.unread.iter().any(|what| what.starts_with("Events")) {
        return None;
    }
    let boot = report.boot.as_ref().map(|boot| boot.from);
    if let Some(found) = &report.injection {
        let at = clock(found.at, report.to);
        return Some(match boot {
            Some(boot) => format!("Linkerd could inject again by {at}, {} later.", duration(between(boot, found.at))),
            None => format!("Linkerd could inject by {at}."),
        });
    }
    boot.map(|_| "No Event since then shows that Linkerd could inject.".to_owned())
}

fn closed(report: &Report) -> Option<String> {
    let lanes = report.nodes.as_ref()?;
    let now: Vec<&str> = lanes.iter().filter(|lane| lane.closed).map(|lane| lane.name.as_str()).collect();
    let longest =
        lanes.iter().filter_map(|lane| Some((lane.closed_seconds?, lane))).max_by_key(|(seconds, _)| *seconds);
    let unproven: Vec<&str> = with(lanes, Gate::OpenUnproven);
    let mut parts = vec![match longest {
        Some((seconds, lane)) if !lane.closed => {
            let number = lanes.iter().filter(|lane| lane.closed_seconds.is_some()).count();
            match number {
                1 => format!("1 node was closed, for {}", duration(seconds)),
                _ => format!("{number} nodes were closed, for {} at most", duration(seconds)),
            }
        }
        Some((seconds, _)) => format!("Nodes have been closed for {} at most", duration(seconds)),
        None if now.is_empty() && unproven.is_empty() => return None,
        None => "Nodes were closed".to_owned(),
    }];
    if !unproven.is_empty() {
        parts.push(format!(
            "{} opened without a proof or before repair was done: {}",
            count(unproven.len(), "node"),
            names(&unproven, unproven.len())
        ));
    }
    parts.push(match now.len() {
        0 => "none is closed now".to_owned(),
        1 => format!("{} is still closed", now[0]),
        number => format!("{number} are still closed: {}", names(&now, number)),
    });
    Some(format!("{}.", parts.join("; ")))
}

fn with(lanes: &[Lane], state: Gate) -> Vec<&str> {
    let has = |lane: &&Lane| lane.spans.iter().any(|span| span.state == state);
    lanes.iter().filter(has).map(|lane| lane.name.as_str()).collect()
}

fn pods(report: &Report) -> Vec<String> {
    let pods = &report.pods;
    let mut all = Vec::new();
    let was = |number: usize| if number == 1 { "was" } else { "were" };
    if pods.held > 0 {
        let longest =
            pods.held_seconds_max.map(|seconds| format!(", for {} at most", duration(seconds))).unwrap_or_default();
        let now = match pods.held_now {
            Some(now) if now > 0 => format!("; {now} still {}", if now == 1 { "is" } else { "are" }),
            _ => String::new(),
        };
        all.push(format!("{} {} held{longest}{now}.", count(pods.held, "pod"), was(pods.held)));
    }
    if pods.replaced > 0 {
        let meshed = match pods.created_again_meshed {
            Some(meshed) if meshed < pods.replaced => format!("; {meshed} of them are back with a proxy"),
            Some(_) => ", all with a proxy".to_owned(),
            None => "; whether with a proxy is not known".to_owned(),
        };
        all.push(format!("{} {} created again{meshed}.", count(pods.replaced, "pod"), was(pods.replaced)));
    }
    if pods.refused_creates > 0 {
        all.push(format!(
            "{} {} refused by admission.",
            count(pods.refused_creates, "create"),
            was(pods.refused_creates)
        ));
    }
    if pods.released_without_proxy > 0 {
        all.push(format!(
            "{} {} released without a proxy.",
            count(pods.released_without_proxy, "pod"),
            was(pods.released_without_proxy)
        ));
    }
    all
}

fn outside(report: &Report) -> String {
    let Some(rows) = &report.outside else {
        return "Which pods run outside the mesh is not known: see what could not be read.".to_owned();
    };
    let running: Vec<_> = rows.iter().filter(|row| row.running > 0).collect();
    let number: usize = running.iter().map(|row| row.running).sum();
    let scope = report.namespace.as_ref().map(|it| format!(" in namespace {it}")).unwrap_or_default();
    if number == 0 {
        return format!("No pod that requests injection runs outside the mesh{scope}.");
    }
    let owners: Vec<String> = running.iter().map(|row| format!("{} -n {}", row.owner, row.namespace)).collect();
    let (run, request) = if number == 1 { ("runs", "requests") } else { ("run", "request") };
    format!(
        "{} {run} outside the mesh, though {} {request} injection: {}.",
        count(number, "pod"),
        if number == 1 { "it" } else { "they" },
        names(&owners, owners.len())
    )
}

/// The instants that a picture of the boot has to show: from shortly before its beginning to shortly after the last of what
/// happened.
pub fn focus(report: &Report) -> (Timestamp, Timestamp) {
    let first = report.boot.as_ref().map(|boot| boot.from);
    // Pods may have been held before the first node was up.
    let entries = || report.timeline.iter().filter(|entry| entry.kind != Kind::NodeJoined);
    let near = |at: Timestamp| first.is_none_or(|first| at >= first || between(at, first) <= 600);
    let begin = entries().map(|entry| entry.at).filter(|at| near(*at)).min().unwrap_or(report.from);
    let end = entries().map(|entry| entry.until.unwrap_or(entry.at)).max().unwrap_or(report.to);
    let still =
        report.nodes.iter().flatten().any(|lane| lane.closed) || report.pods.held_now.is_some_and(|now| now > 0);
    let end = if still { report.to } else { end };
    let margin = between(begin, end).max(20) / 12;
    let add = |at: Timestamp, seconds: i64| Timestamp::from_second(at.as_second() + seconds).unwrap_or(at);
    // What lasts goes on to the edge.
    (add(begin, -margin), if still { end.max(begin) } else { add(end.max(begin), margin) })
}
