//! The report as one page of HTML: no script, nothing from elsewhere, for light and dark, for paper and a phone.

mod picture;
mod tables;

use std::fmt::{self, Write as _};

use super::markdown::{COUNTED, after};
use super::model::{Entry, Report};
use super::phrase::{between, clock, count, date, duration};

/// How many entries and rows are shown before the others are folded.
const SHOWN: usize = 12;

/// How many entries of the timeline are shown before the others are folded.
const ENTRIES: usize = 40;

/// How many are written at all: a page that no browser opens helps no reader.
const WRITTEN: usize = 2000;

/// The page. Whatever an object says stands in it as text, and a policy in its head forbids scripts and foreign resources.
pub fn html(report: &Report) -> String {
    let mut page = String::new();
    let _ = write(&mut page, report); // Text in memory takes everything.
    page
}

fn write(page: &mut String, report: &Report) -> fmt::Result {
    let day = date(report.boot.as_ref().map_or(report.to, |boot| boot.from));
    let scope =
        report.namespace.as_ref().map(|namespace| format!(", namespace {}", Text(namespace))).unwrap_or_default();
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Boot report: {day}{scope}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>",
        include_str!("style.css")
    )?;
    writeln!(page, "<header>\n<h1>linkerd-gate boot report, {day}{scope}; times are UTC</h1>")?;
    let mut sentences = report.summary.iter();
    writeln!(page, "<p class=\"lead\">{}</p>", Text(sentences.next().map_or("", String::as_str)))?;
    let rest: Vec<String> = sentences.map(|sentence| Text(sentence).to_string()).collect();
    if !rest.is_empty() {
        writeln!(page, "<p>{}</p>", rest.join(" "))?;
    }
    if let Some(next) = &report.next {
        writeln!(page, "<p class=\"next\"><b>Next:</b><code>{}</code></p>", Text(next))?;
    }
    writeln!(page, "</header>")?;
    tiles(page, report)?;
    unread(page, report)?;
    picture::write(page, report)?;
    timeline(page, report)?;
    tables::outside(page, report)?;
    tables::nodes(page, report)?;
    if !report.notes.is_empty() {
        writeln!(page, "<section>\n<h2>Notes</h2>\n<ul>")?;
        report.notes.iter().take(WRITTEN).try_for_each(|note| writeln!(page, "<li>{}</li>", Text(note)))?;
        writeln!(page, "</ul>\n</section>")?;
    }
    let at = |at| clock(at, report.to);
    writeln!(
        page,
        "<footer>\n<p>linkerd-gate report, {} to {} UTC.{COUNTED}</p>\n</footer>\n</main>\n</body>\n</html>",
        at(report.from),
        at(report.to)
    )
}

/// Four numbers that answer what is asked first.
fn tiles(page: &mut String, report: &Report) -> fmt::Result {
    let pods = &report.pods;
    writeln!(page, "<dl class=\"tiles\">")?;
    let mut tile = |name: &str, value: &str, detail: &str, warning: bool| {
        let (class, mark) = if warning { (" class=\"warn\"", "<b>&#9650;</b> ") } else { ("", "") };
        writeln!(page, "<div{class}><dt>{name}</dt><dd>{mark}{value}<small>{detail}</small></dd></div>")
    };
    let unknown = "not known";
    match &report.boot {
        Some(boot) => {
            let of = boot.of.map(|of| format!(" of {of}")).unwrap_or_default();
            let detail = format!("at {}", clock(boot.from, report.to));
            tile("Nodes booted", &format!("{}{of}", boot.nodes.len()), &detail, false)?;
        }
        None => tile("Nodes booted", "none seen", "in the Events that were read", false)?,
    }
    match (&report.injection, &report.boot) {
        (Some(found), Some(boot)) => {
            let waited = duration(between(boot.from, found.at));
            tile("Linkerd could inject after", &waited, &format!("by {}", clock(found.at, report.to)), false)?;
        }
        (Some(found), None) => tile("Linkerd could inject", &clock(found.at, report.to), "at the latest", false)?,
        (None, boot) => tile("Linkerd could inject after", unknown, "no proof in the Events", boot.is_some())?,
    }
    let longest = pods.held_seconds_max.map(|seconds| format!("{} at most", duration(seconds))).unwrap_or_default();
    let still = pods.held_now.filter(|now| *now > 0).map(|now| format!("{now} still held; ")).unwrap_or_default();
    tile("Pods held", &pods.held.to_string(), &format!("{still}{longest}"), !still.is_empty())?;
    match pods.running_outside {
        Some(running) => {
            let of = pods.meshed.map(|meshed| format!("{} in the mesh", count(meshed, "pod"))).unwrap_or_default();
            tile("Running outside the mesh", &running.to_string(), &of, running > 0)?;
        }
        None => tile("Running outside the mesh", unknown, "pods could not be read", true)?,
    }
    writeln!(page, "</dl>")
}

fn unread(page: &mut String, report: &Report) -> fmt::Result {
    if report.unread.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section>\n<h2>Not read</h2>\n<p>This page says nothing about what could not be read:</p>\n<ul>")?;
    report.unread.iter().try_for_each(|line| writeln!(page, "<li>{}</li>", Text(line)))?;
    writeln!(page, "</ul>\n</section>")
}

fn timeline(page: &mut String, report: &Report) -> fmt::Result {
    writeln!(page, "<section>\n<h2>What happened</h2>")?;
    if report.timeline.is_empty() {
        return writeln!(page, "<p>Nothing that linkerd-gate reports.</p>\n</section>");
    }
    let (shown, folded) = report.timeline.split_at(report.timeline.len().min(ENTRIES));
    entries(page, report, shown)?;
    if !folded.is_empty() {
        writeln!(page, "<details>\n<summary>and {} more</summary>", folded.len())?;
        entries(page, report, &folded[..folded.len().min(WRITTEN)])?;
        writeln!(page, "</details>")?;
    }
    writeln!(page, "</section>")
}

fn entries(page: &mut String, report: &Report, entries: &[Entry]) -> fmt::Result {
    writeln!(page, "<ol class=\"timeline\">")?;
    for entry in entries {
        let (class, mark) = if entry.warning { (" class=\"warn\"", "<b>&#9650; Warning:</b> ") } else { ("", "") };
        let begin = report.boot.as_ref().map(|boot| boot.from);
        let since = begin.map(|begin| after(between(begin, entry.at))).unwrap_or_default();
        let lasted = entry
            .until
            .map(|until| format!(" <span class=\"quiet\">(within {})</span>", duration(between(entry.at, until))));
        writeln!(
            page,
            "<li{class}><time datetime=\"{}\">{}</time><span class=\"after\">{since}</span><span>{mark}{}{}</span></li>",
            entry.at,
            clock(entry.at, report.to),
            Text(&entry.text),
            lasted.unwrap_or_default()
        )?;
    }
    writeln!(page, "</ol>")
}

/// Text that is nothing but text, between tags and in attributes.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            _ => f.write_char(character),
        })
    }
}
