//! The picture of the boot: a bar for Linkerd, for each node, for the pods that were held. Text says all of it as well.

use std::fmt::{self, Write as _};

use k8s_openapi::jiff::Timestamp;

use super::{SHOWN, Text};
use crate::report::lanes::is_closed;
use crate::report::model::{Gate, Lane, Report, Span};
use crate::report::phrase::{between, clock, count, duration};
use crate::report::summary::focus;

/// Steps of an axis, in seconds.
const STEPS: [i64; 16] = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

/// How many instants an axis names at most.
const TICKS: i64 = 7;

/// The part of the time that is drawn.
struct Axis {
    begin: Timestamp,
    end: Timestamp,
    day: Timestamp,
}

/// Writes the figure, where there is anything to draw.
pub fn write(page: &mut String, report: &Report) -> fmt::Result {
    let lanes = report.nodes.as_deref().unwrap_or_default();
    let drawn: Vec<&Lane> = {
        let mut drawn: Vec<&Lane> =
            lanes.iter().filter(|lane| !lane.spans.is_empty() || lane.booted.is_some()).collect();
        let worst = |lane: &Lane| {
            (lane.closed, lane.spans.iter().any(|it| it.state == Gate::OpenUnproven), lane.closed_seconds)
        };
        drawn.sort_by_key(|lane| std::cmp::Reverse(worst(lane)));
        let mut shown: Vec<&Lane> = drawn.into_iter().take(SHOWN).collect();
        shown.sort_by(|one, other| one.name.cmp(&other.name));
        shown
    };
    if drawn.is_empty() && report.pods.held_over_time.is_empty() {
        return Ok(());
    }
    let (begin, end) = focus(report);
    let axis = Axis { begin, end, day: report.to };
    writeln!(page, "<section>\n<h2>The boot in one picture</h2>\n<figure>")?;
    axis.write(page)?;
    linkerd(page, report, &axis)?;
    drawn.iter().try_for_each(|lane| node(page, lane, &axis))?;
    held(page, report, &axis)?;
    legend(page, report, &drawn)?;
    let others = lanes.len() - drawn.len();
    if others > 0 {
        writeln!(
            page,
            "<figcaption class=\"quiet\">{} not drawn: see the table.</figcaption>",
            count(others, "other node")
        )?;
    }
    writeln!(page, "</figure>\n</section>")
}

// === impl Axis ===

impl Axis {
    /// Where an instant is, in percent.
    fn place(&self, at: Timestamp) -> f64 {
        let all = between(self.begin, self.end).max(1);
        let percent = percent(between(self.begin, at), all);
        percent.clamp(0.0, 100.0)
    }

    fn ticks(&self) -> Vec<Timestamp> {
        let all = between(self.begin, self.end);
        let step = STEPS.into_iter().find(|step| all / step <= TICKS).unwrap_or(86_400 * (1 + all / 86_400 / TICKS));
        let first = self.begin.as_second().div_euclid(step) + 1;
        let instants = (first..).map(|number| number * step).take_while(|second| *second < self.end.as_second());
        instants.filter_map(|second| Timestamp::from_second(second).ok()).collect()
    }

    fn write(&self, page: &mut String) -> fmt::Result {
        write!(page, "<div class=\"lane axis\" aria-hidden=\"true\"><div class=\"name\"></div><div class=\"bar\">")?;
        for (number, at) in self.ticks().into_iter().enumerate() {
            let place = self.place(at);
            // At the edges, and between the others on a narrow screen, there is no room.
            if (4.0..96.0).contains(&place) {
                let narrow = number % 2 == 0 && (12.0..88.0).contains(&place);
                let minor = if narrow { "" } else { " class=\"minor\"" };
                let text = clock(at, self.day);
                write!(page, "<span{minor} style=\"left:{place:.2}%\">{text}</span>")?;
            }
        }
        writeln!(page, "</div></div>")
    }

    /// A lane: its name, what it says, and what is in its bar.
    fn lane(&self, page: &mut String, name: &str, what: &str, bar: &str) -> fmt::Result {
        let ticks: String = self.ticks().into_iter().fold(String::new(), |mut all, at| {
            let _ = write!(all, "<i class=\"tick\" style=\"left:{:.2}%\"></i>", self.place(at)); // Text in memory.
            all
        });
        writeln!(
            page,
            "<div class=\"lane\"><div class=\"name\">{}<span class=\"what\">{}</span></div><div class=\"bar\" role=\"img\" \
             aria-label=\"{}: {}\">{bar}{ticks}</div></div>",
            Text(name),
            Text(what),
            Text(name),
            Text(what),
        )
    }

    fn span(&self, class: &str, from: Timestamp, to: Timestamp) -> String {
        let (left, right) = (self.place(from), self.place(to));
        // A moment is seen as well.
        let width = (right - left).max(0.3);
        format!("<span class=\"{class}\" style=\"left:{left:.2}%;width:{width:.2}%\"></span>")
    }

    fn mark(&self, class: &str, at: Timestamp) -> String {
        format!("<i class=\"{class}\" style=\"left:{:.2}%\"></i>", self.place(at))
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a week, for a picture")]
fn percent(part: i64, all: i64) -> f64 {
    part as f64 * 100.0 / all as f64
}

fn linkerd(page: &mut String, report: &Report, axis: &Axis) -> fmt::Result {
    let begin = report.boot.as_ref().map(|boot| boot.from);
    let (what, bar) = match (begin, &report.injection) {
        (Some(begin), Some(found)) => (
            format!(
                "not proven for {}, injects from {}",
                duration(between(begin, found.at)),
                clock(found.at, axis.day)
            ),
            axis.span("closed", begin, found.at) + &axis.span("open", found.at, axis.end),
        ),
        (Some(begin), None) => ("no proof that it injects".to_owned(), axis.span("closed", begin, axis.end)),
        (None, Some(found)) => {
            (format!("injects by {}", clock(found.at, axis.day)), axis.span("open", found.at, axis.end))
        }
        (None, None) => return Ok(()),
    };
    axis.lane(page, "Linkerd's injector", &what, &bar)
}

fn node(page: &mut String, lane: &Lane, axis: &Axis) -> fmt::Result {
    let mut bar: String = lane.spans.iter().map(|span| drawn(span, axis)).collect();
    bar.extend(
        lane.ready_since.filter(|at| *at >= axis.begin && lane.booted.is_some()).map(|at| axis.mark("ready", at)),
    );
    bar.extend(lane.booted.filter(|at| *at >= axis.begin).map(|at| axis.mark("boot", at)));
    let mut parts: Vec<String> = lane.booted.map(|at| format!("booted {}", clock(at, axis.day))).into_iter().collect();
    match lane.closed_seconds {
        Some(seconds) if lane.closed => parts.push(format!("closed for {} so far", duration(seconds))),
        Some(seconds) => parts.push(format!("closed {}", duration(seconds))),
        None if lane.closed => parts.push("closed".to_owned()),
        None => {}
    }
    if let Some(span) = lane.spans.last().filter(|span| !is_closed(span.state)) {
        let since = span.from.map(|at| format!(" {}", clock(at, axis.day))).unwrap_or_default();
        parts.push(match span.state {
            Gate::OpenUnproven => format!("opened unproven{since}"),
            Gate::TaintSuppressed => format!("not closed, for a DaemonSet{since}"),
            _ => format!("open{since}"),
        });
    }
    axis.lane(page, &lane.name, &parts.join(", "), &bar)
}

fn drawn(span: &Span, axis: &Axis) -> String {
    let Some(from) = span.from else { return String::new() };
    axis.span(class(span.state), from, span.to.unwrap_or(axis.end))
}

const fn class(state: Gate) -> &'static str {
    match state {
        Gate::Open => "open",
        Gate::OpenUnproven => "unproven",
        Gate::Closed => "closed",
        Gate::AwaitsRepair => "awaits",
        Gate::TaintSuppressed => "suppressed",
    }
}

/// How many pods were held: an area, whose height is their number.
fn held(page: &mut String, report: &Report, axis: &Axis) -> fmt::Result {
    let steps = &report.pods.held_over_time;
    let most = steps.iter().map(|step| step.held).max().unwrap_or_default();
    if most == 0 {
        return Ok(());
    }
    let height =
        |held: usize| 100.0 - percent(i64::try_from(held).unwrap_or(0), i64::try_from(most).unwrap_or(1)) * 0.9;
    let mut path = "M0 100".to_owned();
    let mut last = 0;
    for step in steps {
        let x = axis.place(step.at) * 10.0;
        write!(path, " L{x:.1} {:.1} L{x:.1} {:.1}", height(last), height(step.held))?;
        last = step.held;
    }
    write!(path, " L1000 {:.1} L1000 100 Z", height(last))?;
    let longest =
        report.pods.held_seconds_max.map(|seconds| format!(", {} at most", duration(seconds))).unwrap_or_default();
    let what = format!("{most} at once{longest}");
    let bar = format!(
        "<svg viewBox=\"0 0 1000 100\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><path class=\"area\" d=\"{path}\"/></svg>"
    );
    axis.lane(page, "Pods held", &what, &bar)
}

fn legend(page: &mut String, report: &Report, drawn: &[&Lane]) -> fmt::Result {
    let has = |state: Gate| drawn.iter().any(|lane| lane.spans.iter().any(|span| span.state == state));
    let booted = drawn.iter().any(|lane| lane.booted.is_some());
    let begun = report.boot.is_some();
    let all = [
        ("boot", "the machine booted", booted),
        ("ready", "the node became ready", booted),
        ("closed", "closed: injection not proven", has(Gate::Closed) || begun),
        ("awaits", "closed: pods are replaced first", has(Gate::AwaitsRepair)),
        ("open", "open: pods may start", has(Gate::Open) || report.injection.is_some()),
        ("unproven", "opened without a proof, or early", has(Gate::OpenUnproven)),
        ("suppressed", "not closed, for a DaemonSet", has(Gate::TaintSuppressed)),
    ];
    writeln!(page, "<ul class=\"legend\">")?;
    for (class, text, _) in all.into_iter().filter(|(_, _, shown)| *shown) {
        writeln!(page, "<li><i class=\"{class}\"></i>{text}</li>")?;
    }
    writeln!(page, "</ul>")
}
