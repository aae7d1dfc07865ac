//! The tables of the page: the first rows, and the others folded.

use std::fmt::{self, Write as _};

use super::{SHOWN, Text, WRITTEN};
use crate::report::lanes::is_closed;
use crate::report::markdown::now;
use crate::report::model::{Gate, Lane, Outside, Report};
use crate::report::phrase::{clock, count, duration};

const OUTSIDE: [&str; 5] = ["owner", "running", "held", "why", "next"];
const NODES: [&str; 6] = ["node", "booted", "ready", "closed", "opened", "now"];

/// Owners with pods outside the mesh.
pub fn outside(page: &mut String, report: &Report) -> fmt::Result {
    let Some(rows) = report.outside.as_ref().filter(|rows| !rows.is_empty()) else { return Ok(()) };
    writeln!(page, "<section>\n<h2>Pods outside the mesh</h2>")?;
    let (shown, folded) = rows.split_at(rows.len().min(SHOWN));
    table(page, &OUTSIDE, shown, owner)?;
    if !folded.is_empty() {
        writeln!(page, "<details>\n<summary>and {}</summary>\n<ul>", count(folded.len(), "other owner"))?;
        for namespace in report.outside_by_namespace.iter().flatten().take(WRITTEN) {
            let (running, held) = (namespace.running, namespace.held);
            writeln!(page, "<li><code>{}</code>: {running} running, {held} held</li>", Text(&namespace.namespace))?;
        }
        writeln!(page, "</ul>")?;
        table(page, &OUTSIDE, &folded[..folded.len().min(WRITTEN)], owner)?;
        left_out(page, folded.len())?;
        writeln!(page, "</details>")?;
    }
    writeln!(page, "</section>")
}

/// The nodes.
pub fn nodes(page: &mut String, report: &Report) -> fmt::Result {
    let Some(lanes) = report.nodes.as_ref().filter(|lanes| !lanes.is_empty()) else { return Ok(()) };
    writeln!(page, "<section>\n<h2>Nodes</h2>")?;
    let row = |lane: &Lane| node(lane, report);
    let (shown, folded) = lanes.split_at(lanes.len().min(SHOWN));
    table(page, &NODES, shown, row)?;
    if !folded.is_empty() {
        writeln!(page, "<details>\n<summary>and {}</summary>", count(folded.len(), "other node"))?;
        table(page, &NODES, &folded[..folded.len().min(WRITTEN)], row)?;
        left_out(page, folded.len())?;
        writeln!(page, "</details>")?;
    }
    writeln!(page, "</section>")
}

fn left_out(page: &mut String, folded: usize) -> fmt::Result {
    match folded.saturating_sub(WRITTEN) {
        0 => Ok(()),
        more => writeln!(page, "<p class=\"quiet\">{more} more: <code>linkerd-gate report -o json</code> has all.</p>"),
    }
}

/// A table whose cells are HTML already. A screen that is too narrow for it shows rows as blocks, so that roles are written out.
fn table<T, const N: usize>(
    page: &mut String,
    head: &[&str; N],
    rows: &[T],
    cells: impl Fn(&T) -> [String; N],
) -> fmt::Result {
    let class = |name: &str| match name {
        "running" | "held" => " class=\"number\"",
        "booted" | "ready" => " class=\"time\"",
        "owner" | "node" | "now" => " class=\"name\"",
        _ => "",
    };
    writeln!(page, "<table role=\"table\">\n<thead>\n<tr role=\"row\">")?;
    head.iter()
        .try_for_each(|name| writeln!(page, "<th scope=\"col\" role=\"columnheader\"{}>{name}</th>", class(name)))?;
    writeln!(page, "</tr>\n</thead>\n<tbody>")?;
    for row in rows {
        write!(page, "<tr role=\"row\">")?;
        for (name, cell) in head.iter().zip(cells(row)) {
            let label = if *name == head[0] { "" } else { *name };
            write!(page, "<td role=\"cell\"{} data-label=\"{label}\">{cell}</td>", class(name))?;
        }
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</tbody>\n</table>")
}

fn owner(row: &Outside) -> [String; 5] {
    let name = format!("<code>{} -n {}</code>", Text(&row.owner), Text(&row.namespace));
    let next = format!("<code>{}</code>", Text(&row.next));
    [name, row.running.to_string(), row.held.to_string(), Text(&row.why).to_string(), next]
}

fn node(lane: &Lane, report: &Report) -> [String; 6] {
    let time = |at: Option<_>| at.map(|at| clock(at, report.to)).unwrap_or_default();
    let closed = lane.spans.iter().find(|span| is_closed(span.state));
    let why = closed.map(|span| format!(": {}", Text(&span.why))).unwrap_or_default();
    let closed = match (lane.closed_seconds, closed) {
        (Some(seconds), Some(span)) => format!("{} from {}{why}", duration(seconds), time(span.from)),
        (None, Some(_)) => format!("for a time that is not known{why}"),
        (_, None) => "no".to_owned(),
    };
    let opened = lane.spans.iter().rev().find(|span| matches!(span.state, Gate::Open | Gate::OpenUnproven));
    let opened = opened
        .map(|span| format!("{}: {}", span.from.map_or("?".to_owned(), |at| clock(at, report.to)), Text(&span.why)));
    let manual = lane.manual_override.as_ref().map(|text| format!("; override {}", Text(text))).unwrap_or_default();
    [
        format!("<code>{}</code>", Text(&lane.name)),
        time(lane.booted.or(lane.joined)),
        time(lane.ready_since),
        closed,
        opened.unwrap_or_default(),
        format!("{}{manual}", now(lane)),
    ]
}
