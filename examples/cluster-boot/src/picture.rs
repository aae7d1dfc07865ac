//! The timeline as a picture: one panel per boot over one time axis, one lane per pod, drawn for somebody who has not read
//! anything. It brings its own background, so that it is legible on a light page and on a dark one, and it names no font.

use crate::{
    story::{self, Part, Variant},
    timeline::{PodLine, State, Timeline},
};
use std::{fmt::Write as _, time::Duration};

const WIDTH: f64 = 960.0;
/// Where the time axis begins and ends.
const LEFT: f64 = 134.0;
const RIGHT: f64 = 932.0;
const MARGIN: f64 = 28.0;
/// From one lane to the next, and how much of it a bar fills.
const LANE: f64 = 18.0;
const BAR: f64 = 13.0;
/// From the panel's top to its first row, which leaves room for its heading.
const HEADING: f64 = 76.0;

/// Colours by class, so that a dark page can have its own.
const STYLE: &str = "
text { font-family: ui-sans-serif, system-ui, sans-serif; font-size: 12px; fill: #26323d }
.card { fill: #fdfdfc; stroke: #d8dde2 }
.title { font-size: 20px; font-weight: 700 }
.heading { font-size: 18px; font-weight: 700 }
.muted { fill: #5f6c79 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.bar { font-size: 10px; fill: #ffffff; font-weight: 600 }
.bar.dark { fill: #4a3500 }
.grid { stroke: #e6e9ec }
.early { fill: #f1f3f5 }
.ready { stroke: #26323d; stroke-width: 1.5 }
.off { stroke: #a9b3bd; stroke-dasharray: 1 4; stroke-linecap: round; stroke-width: 2 }
.on { fill: #5d6f81 }
.outside { fill: #c93a32 }
.held { fill: #f0bb45 }
.certifying { fill: #9cc3e6 }
.inside { fill: #2b8a5e }
.bad { fill: #b52d26 }
.good { fill: #1f7a50 }
.again { fill: #fdfdfc; stroke: #26323d; stroke-width: 1.2 }
.arrow { fill: none; stroke: #26323d; stroke-width: 1.2 }
.tip { fill: #26323d }
@media (prefers-color-scheme: dark) {
text { fill: #dfe5ea }
.card { fill: #161c22; stroke: #36414b }
.muted { fill: #9aa7b3 }
.bar { fill: #ffffff }
.bar.dark { fill: #2b1f00 }
.grid { stroke: #29323a }
.early { fill: #1e262d }
.ready { stroke: #dfe5ea }
.off { stroke: #5d6a76 }
.on { fill: #677c91 }
.outside { fill: #d2483f }
.held { fill: #d9a638 }
.certifying { fill: #5c8db8 }
.inside { fill: #2f9365 }
.bad { fill: #ff8a80 }
.good { fill: #6fd3a3 }
.again { fill: #161c22; stroke: #dfe5ea }
.arrow { stroke: #dfe5ea }
.tip { fill: #dfe5ea }
}
";

/// A drawing under way.
struct Canvas {
    text: String,
}

/// Both boots, as an SVG document.
pub fn draw(without: &Timeline, with: &Timeline) -> String {
    let top = 126.0;
    let second = top + panel_height(without) + 22.0;
    let height = second + panel_height(with) + 14.0;
    let mut canvas = Canvas::new(height);
    canvas.text(MARGIN, 40.0, "title", "One cluster boot, played twice");
    let pods = without.pods.len();
    let about = format!(
        "{pods} pods that request the Linkerd mesh are created. Linkerd itself still comes up. Drawn by make demo."
    );
    canvas.text(MARGIN, 61.0, "muted", &about);
    canvas.text(MARGIN, 79.0, "muted", story::SCALE);
    canvas.legend(104.0);
    canvas.panel(without, top);
    canvas.panel(with, second);
    canvas.finish()
}

fn panel_height(timeline: &Timeline) -> f64 {
    rows(timeline.pods.len() + 2) + HEADING + 34.0
}

fn rows(count: usize) -> f64 {
    LANE * f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Where an instant lies.
fn x(instant: Duration) -> f64 {
    LEFT + (RIGHT - LEFT) * (instant.as_secs_f64() / story::END.as_secs_f64()).min(1.0)
}

/// What a panel proves, whether that is good, and why.
fn heading(timeline: &Timeline) -> (String, &'static str, String) {
    let pods = timeline.pods.len();
    match timeline.variant {
        Variant::WithoutGate => (
            format!("Without linkerd-gate: {} of {pods} apps run outside the mesh", timeline.started_outside()),
            "heading bad",
            "The injector does not answer, so the API server admits each pod without a proxy. Nothing adds one later."
                .to_owned(),
        ),
        Variant::WithGate => {
            let after = timeline.last_early_pod_inside().map_or_else(
                || "(not all of them).".to_owned(),
                |after| format!("(all within {:.1} s).", (after.as_secs_f64() * 10.0).ceil() / 10.0),
            );
            (
                format!("With linkerd-gate: {} of {pods} apps run in the mesh", timeline.inside()),
                "heading good",
                format!(
                    "The API server holds such a pod. Once Linkerd is ready, the controller deletes it and its owner creates it again {after}"
                ),
            )
        }
    }
}

/// About how much room words in a bar take.
fn width(words: &str) -> f64 {
    6.3 * f64::from(u32::try_from(words.len()).unwrap_or(u32::MAX))
}

/// A state's bar, its words' class, and its words.
fn look(state: State) -> (&'static str, &'static str, &'static str) {
    match state {
        State::Outside => ("outside", "bar", "runs outside the mesh"),
        State::Held => ("held", "bar dark", "held: not started"),
        State::Certifying => ("certifying", "bar dark", "proxy waits"),
        State::Inside => ("inside", "bar", "in the mesh"),
    }
}

// === impl Canvas ===

impl Canvas {
    fn new(height: f64) -> Self {
        let mut canvas = Self { text: String::new() };
        canvas.put(&format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
        ));
        canvas.put("<title>One cluster boot without and with linkerd-gate</title>");
        canvas.put(&format!("<style>{STYLE}</style>"));
        canvas.put(&format!(
            r#"<rect class="card" x="0.5" y="0.5" width="{}" height="{}" rx="10"/>"#,
            WIDTH - 1.0,
            height - 1.0
        ));
        canvas
    }

    fn finish(mut self) -> String {
        self.put("</svg>");
        self.text
    }

    fn put(&mut self, element: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{element}");
    }

    /// The words are this program's own: nothing in them needs escaping.
    fn text(&mut self, x: f64, y: f64, class: &str, words: &str) {
        self.put(&format!(r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{words}</text>"#));
    }

    fn bar(&mut self, from: f64, to: f64, y: f64, class: &str) {
        let (width, top) = ((to - from).max(1.5), y - BAR / 2.0);
        self.put(&format!(
            r#"<rect class="{class}" x="{from:.1}" y="{top:.1}" width="{width:.1}" height="{BAR}" rx="2.5"/>"#
        ));
    }

    fn line(&mut self, (from_x, from_y): (f64, f64), (to_x, to_y): (f64, f64), class: &str) {
        self.put(&format!(
            r#"<line class="{class}" x1="{from_x:.1}" y1="{from_y:.1}" x2="{to_x:.1}" y2="{to_y:.1}"/>"#
        ));
    }

    /// A turning arrow.
    fn again(&mut self, x: f64, y: f64) {
        self.put(&format!(r#"<g transform="translate({x:.1} {y:.1})"><circle class="again" r="6.5"/>"#));
        self.put(r#"<path class="arrow" d="M 2.9 -1.6 A 3.3 3.3 0 1 0 3.2 1"/><path class="tip" d="M 4.6 -3.6 L 3.9 0.4 L 0.7 -1.9 Z"/></g>"#);
    }

    fn legend(&mut self, y: f64) {
        let mut x = MARGIN;
        // Wide enough for the widest of the common fonts.
        for (state, words, width) in [
            (State::Outside, "app runs outside the mesh", 208.0),
            (State::Held, "held: app not started", 184.0),
            (State::Certifying, "proxy waits for a certificate", 230.0),
            (State::Inside, "app runs in the mesh", 178.0),
        ] {
            self.bar(x, x + 18.0, y - 4.0, look(state).0);
            self.text(x + 24.0, y, "", words);
            x += width;
        }
        self.again(x + 6.0, y - 4.0);
        self.text(x + 18.0, y, "", "created again");
    }

    fn panel(&mut self, timeline: &Timeline, top: f64) {
        let (words, class, why) = heading(timeline);
        self.text(MARGIN, top + 18.0, class, &words);
        self.text(MARGIN, top + 37.0, "muted", &why);
        let first = top + HEADING;
        let bottom = first + rows(timeline.pods.len() + 2) + 2.0;
        self.axis(first - LANE / 2.0, bottom);
        // Behind the bars: what is written in them stays legible, and the gaps between them make it a dashed line.
        let ready = x(story::READY);
        self.line((ready, first - LANE / 2.0 - 2.0), (ready, bottom), "ready");
        self.text(ready, first - LANE / 2.0 - 7.0, "middle", "Linkerd is ready");
        self.linkerd(timeline, first);
        let mut y = first + rows(2) + 4.0;
        for pod in &timeline.pods {
            self.pod(pod, y);
            y += LANE;
        }
    }

    fn axis(&mut self, top: f64, bottom: f64) {
        self.put(&format!(
            r#"<rect class="early" x="{LEFT}" y="{top:.1}" width="{:.1}" height="{:.1}"/>"#,
            x(story::READY) - LEFT,
            bottom - top
        ));
        for second in 0..=story::END.as_secs() {
            let x = x(Duration::from_secs(second));
            self.line((x, top), (x, bottom), "grid");
            let words = if second == 0 { "nodes are back".to_owned() } else { format!("{second} s") };
            self.text(x, bottom + 15.0, "muted middle", &words);
        }
    }

    /// When Linkerd's two parts answer.
    fn linkerd(&mut self, timeline: &Timeline, first: f64) {
        for (part, name, y) in
            [(Part::Injector, "Linkerd injector", first), (Part::Identity, "Linkerd identity", first + LANE)]
        {
            self.text(LEFT - 10.0, y + 4.0, "muted end", name);
            self.line((LEFT, y), (RIGHT, y), "off");
            let mut since = None;
            for (at, _, answers) in timeline.linkerd.iter().filter(|(_, changed, _)| *changed == part) {
                match (since, answers) {
                    (None, true) => since = Some(*at),
                    (Some(from), false) => {
                        self.answering(from, *at, y);
                        since = None;
                    }
                    _ => {}
                }
            }
            if let Some(from) = since {
                self.answering(from, story::END, y);
            }
        }
    }

    fn answering(&mut self, from: Duration, to: Duration, y: f64) {
        self.bar(x(from), x(to), y, "on");
        if x(to) - x(from) > 8.0 + width("answers") {
            self.text(f64::midpoint(x(from), x(to)), y + 3.6, "bar middle", "answers");
        }
    }

    fn pod(&mut self, pod: &PodLine, y: f64) {
        self.text(LEFT - 10.0, y + 4.0, "end", pod.name);
        let ends = pod.states.iter().skip(1).map(|(at, _)| *at).chain([story::END]);
        for ((from, state), to) in pod.states.iter().zip(ends) {
            let (class, text_class, words) = look(*state);
            self.bar(x(*from), x(to), y, class);
            // About as much room as the words take; a sign of re-creation takes some of it.
            let sign = if *state == State::Inside && pod.created_again.is_some() { 7.0 } else { 0.0 };
            let room = x(to) - x(*from);
            let brief = words.split(':').next().unwrap_or(words);
            if let Some(words) = [words, brief].into_iter().find(|words| room > 16.0 + width(words)) {
                self.text(x(*from) + 7.0 + sign, y + 3.6, text_class, words);
            }
        }
        if let Some(at) = pod.created_again {
            self.again(x(at), y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(variant: Variant, states: Vec<(Duration, State)>) -> Timeline {
        let pods = vec![PodLine { name: "web", states, created_again: None }];
        let linkerd = vec![(Duration::from_secs(5), Part::Identity, true), (story::READY, Part::Injector, true)];
        Timeline { variant, pods, linkerd, logged: Vec::new() }
    }

    #[test]
    fn the_picture_says_how_many_started_outside() {
        let without = timeline(Variant::WithoutGate, vec![(Duration::from_secs(1), State::Outside)]);
        let with = timeline(
            Variant::WithGate,
            vec![(Duration::from_secs(1), State::Held), (Duration::from_millis(6800), State::Inside)],
        );
        let picture = draw(&without, &with);
        assert!(picture.contains("1 of 1 apps run outside the mesh"));
        assert!(picture.contains("(all within 0.8 s)"));
        assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
    }

    #[test]
    fn nothing_is_drawn_beyond_the_end() {
        assert!((x(story::END * 2) - RIGHT).abs() < 0.01);
        assert!((x(Duration::ZERO) - LEFT).abs() < 0.01);
    }
}
