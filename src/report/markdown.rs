//! The report as Markdown, to be pasted into a post-mortem.

use std::fmt::Write as _;

use super::model::{Gate, Report};
use super::phrase::{between, clock, count, date, duration};

/// How many rows of a table are written.
pub const ROWS: usize = 40;

/// The page. Whatever an object says stands in it as text: it can neither be markup nor a link, nor call on a reader.
pub fn markdown(report: &Report) -> String {
    let mut page = String::new();
    let _ = write(&mut page, report); // Text in memory takes everything.
    page
}

fn write(page: &mut String, report: &Report) -> std::fmt::Result {
    let at = |at| clock(at, report.to);
    writeln!(page, "# Boot report: {}", title(report))?;
    writeln!(page)?;
    writeln!(page, "{}", escape(&report.summary.join(" ")))?;
    if let Some(next) = &report.next {
        writeln!(page, "\nNext: {}", code(next))?;
    }
    writeln!(page, "\n## Timeline\n")?;
    if report.timeline.is_empty() {
        writeln!(page, "Nothing that linkerd-gate reports happened.")?;
    } else {
        writeln!(page, "| UTC | after | for | what |\n|---|---:|---:|---|")?;
        let begin = report.boot.as_ref().map(|boot| boot.from);
        for entry in report.timeline.iter().take(ROWS) {
            let after = begin.map(|begin| after(between(begin, entry.at))).unwrap_or_default();
            let lasted = entry.until.map(|until| duration(between(entry.at, until))).unwrap_or_default();
            let warning = if entry.warning { "**Warning:** " } else { "" };
            writeln!(page, "| {} | {after} | {lasted} | {warning}{} |", at(entry.at), escape(&entry.text))?;
        }
        if report.timeline.len() > ROWS {
            writeln!(page, "\nAnd {} more: `-o json` has all.", report.timeline.len() - ROWS)?;
        }
    }
    if let Some(lanes) = &report.nodes {
        writeln!(page, "\n## Nodes\n\n| node | booted | ready | closed | open | now |\n|---|---|---|---|---|---|")?;
        for lane in lanes.iter().take(ROWS) {
            let time = |time: Option<_>| time.map(at).unwrap_or_default();
            let closed = match (lane.closed_seconds, lane.spans.iter().any(|span| super::lanes::is_closed(span.state)))
            {
                (Some(seconds), _) => duration(seconds),
                (None, true) => "not known for how long".to_owned(),
                (None, false) => "no".to_owned(),
            };
            let opened = lane.spans.iter().rev().find(|span| matches!(span.state, Gate::Open | Gate::OpenUnproven));
            let opened = opened.and_then(|span| Some((span.from?, span)));
            let opened = opened.map(|(from, span)| format!("{}: {}", at(from), escape(&span.why))).unwrap_or_default();
            let now = now(lane);
            writeln!(
                page,
                "| {} | {} | {} | {closed} | {opened} | {now} |",
                code(&lane.name),
                time(lane.booted),
                time(lane.ready_since)
            )?;
        }
        if lanes.len() > ROWS {
            writeln!(page, "\nAnd {}: `-o json` has all.", count(lanes.len() - ROWS, "other node"))?;
        }
    }
    if let Some(rows) = report.outside.as_ref().filter(|rows| !rows.is_empty()) {
        writeln!(
            page,
            "\n## Pods outside the mesh\n\n| owner | running | held | why | next |\n|---|---:|---:|---|---|"
        )?;
        for row in rows.iter().take(ROWS) {
            let owner = code(&format!("{} -n {}", row.owner, row.namespace));
            writeln!(
                page,
                "| {owner} | {} | {} | {} | {} |",
                row.running,
                row.held,
                escape(&row.why),
                code(&row.next)
            )?;
        }
        if rows.len() > ROWS {
            writeln!(
                page,
                "\nAnd {} in the same namespaces or others. By namespace:\n",
                count(rows.len() - ROWS, "other owner")
            )?;
            for namespace in report.outside_by_namespace.iter().flatten().take(ROWS) {
                writeln!(
                    page,
                    "- {}: {} running, {} held",
                    code(&namespace.namespace),
                    namespace.running,
                    namespace.held
                )?;
            }
        }
    }
    for (title, lines) in [("Not read", &report.unread), ("Notes", &report.notes)] {
        if !lines.is_empty() {
            writeln!(page, "\n## {title}\n")?;
            lines.iter().take(ROWS).try_for_each(|line| writeln!(page, "- {}", escape(line)))?;
        }
    }
    writeln!(page, "\n`linkerd-gate report`, {} to {} UTC.{}", at(report.from), at(report.to), COUNTED)
}

/// What every page says of its numbers.
pub const COUNTED: &str =
    " Numbers of pods that were held, refused or created again are counted by Events: there may have been more.";

/// `2026-11-30, namespace shop`.
pub fn title(report: &Report) -> String {
    let day = date(report.boot.as_ref().map_or(report.to, |boot| boot.from));
    match &report.namespace {
        Some(namespace) => format!("{day}, namespace {}", escape(namespace)),
        None => day,
    }
}

/// What a node is now.
pub fn now(lane: &super::model::Lane) -> &'static str {
    match (lane.closed, lane.ready) {
        (true, true) => "closed",
        (true, false) => "closed, not ready",
        (false, true) => "open",
        (false, false) => "open, not ready",
    }
}

/// `+3 min 10 s`, `−10 s`.
pub fn after(seconds: i64) -> String {
    if seconds < 0 { format!("−{}", duration(-seconds)) } else { format!("+{}", duration(seconds)) }
}

/// Text that means nothing but itself, in a table too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let characters: Vec<char> = text.chars().collect();
    for (place, character) in characters.iter().enumerate() {
        let near =
            |place: Option<usize>| place.and_then(|place| characters.get(place)).is_some_and(|it| it.is_alphanumeric());
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '@' => escaped.push_str("&#64;"),
            // Code hosts make a link of a bare address.
            ':' if characters[place..].starts_with(&[':', '/', '/']) => escaped.push_str("&#58;"),
            '\\' | '`' | '*' | '[' | ']' | '|' | '~' | '#' | '!' | '$' => escaped.extend(['\\', *character]),
            // Within a word it marks nothing: `LINKERD_GATE_MODE`.
            '_' if !(near(place.checked_sub(1)) && near(Some(place + 1))) => escaped.push_str("\\_"),
            _ => escaped.push(*character),
        }
    }
    escaped
}

/// Text as code, in a table too.
fn code(text: &str) -> String {
    let text = text.replace('`', "'").replace('|', "\\|");
    if text.trim().is_empty() { String::new() } else { format!("`{}`", text.trim()) }
}
