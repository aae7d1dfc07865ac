//! How a figure grows with the size of a cluster: its values, its exponent, and a picture of both.

use std::fmt::Write as _;

use serde::Serialize;

/// One figure of clusters of several sizes.
#[derive(Serialize)]
pub struct Growth {
    /// What was measured, and in which unit.
    pub name: String,
    pub unit: &'static str,
    /// What a cluster has more and more of: pods, nodes.
    pub of: &'static str,
    /// The size, and the value. All of them are greater than nothing.
    pub points: Vec<(usize, f64)>,
}

/// A panel of the picture, in pixels, and where its axes are.
const PANEL: (f64, f64) = (300.0, 210.0);
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 36.0;
const COLUMNS: usize = 3;

// === impl Growth ===

impl Growth {
    /// The exponent: 1 grows as the cluster does, 2 as its square, 0 not at all. The slope of the line through the logarithms that
    /// has the least squares.
    pub fn exponent(&self) -> f64 {
        let logarithms: Vec<_> = self.points.iter().map(|(size, value)| (number(*size).ln(), value.ln())).collect();
        let count = number(logarithms.len());
        let mean_size = logarithms.iter().map(|(size, _)| size).sum::<f64>() / count;
        let mean_value = logarithms.iter().map(|(_, value)| value).sum::<f64>() / count;
        let together: f64 = logarithms.iter().map(|(size, value)| (size - mean_size) * (value - mean_value)).sum();
        let alone: f64 = logarithms.iter().map(|(size, _)| (size - mean_size).powi(2)).sum();
        together / alone
    }

    /// The panel of this figure, with its upper left corner at the origin.
    fn draw(&self) -> String {
        let (width, height) = PANEL;
        let sizes: Vec<f64> = self.points.iter().map(|(size, _)| number(*size)).collect();
        let values: Vec<f64> = self.points.iter().map(|(_, value)| *value).collect();
        let along = Axis::over(&sizes, LEFT, width - RIGHT);
        let up = Axis::over(&values, height - BOTTOM, TOP);
        let mut svg = format!(
            "<text class=\"name\" x=\"10\" y=\"18\">{}</text><text x=\"10\" y=\"34\">{}, grows with {}^{:.2}</text>",
            self.name,
            if self.unit.is_empty() { "number" } else { self.unit },
            self.of,
            self.exponent(),
        );
        for decade in up.decades() {
            let y = up.place(decade);
            let _infallible = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/><text class=\"end\" x=\"{:.1}\" \
                 y=\"{:.1}\">{}</text>",
                width - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                short(decade),
            );
        }
        for size in &sizes {
            let x = along.place(*size);
            let _infallible = write!(
                svg,
                "<text class=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                height - BOTTOM + 18.0,
                short(*size)
            );
        }
        let places: Vec<_> = sizes.iter().zip(&values).map(|(x, y)| (along.place(*x), up.place(*y))).collect();
        let line: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _infallible = write!(svg, "<polyline points=\"{}\"/>", line.join(" "));
        for ((x, y), value) in places.iter().zip(&values) {
            let _infallible = write!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/><text class=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                y - 7.0,
                short(*value)
            );
        }
        svg
    }
}

/// All of them in one SVG: logarithmic axes, light and dark.
pub fn picture(all: &[&Growth]) -> String {
    let (width, height) = PANEL;
    let (columns, rows) = (COLUMNS.min(all.len().max(1)), all.len().div_ceil(COLUMNS));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" \
         aria-label=\"How figures grow with a cluster\">\n<style>text{{font:11px sans-serif;fill:#24292f}}.name{{font-weight:bold}}\
         .end{{text-anchor:end}}.middle{{text-anchor:middle}}.grid{{stroke:#d0d7de}}rect{{fill:#fff}}\
         polyline{{fill:none;stroke:#0969da;stroke-width:2}}circle{{fill:#0969da}}\
         @media (prefers-color-scheme:dark){{text{{fill:#e6edf3}}.grid{{stroke:#30363d}}rect{{fill:#0d1117}}\
         polyline{{stroke:#58a6ff}}circle{{fill:#58a6ff}}}}</style>\n<rect width=\"100%\" height=\"100%\"/>\n",
        width * number(columns),
        height * number(rows),
    );
    for (place, growth) in all.iter().enumerate() {
        let (x, y) = (width * number(place % COLUMNS), height * number(place / COLUMNS));
        let _infallible = writeln!(svg, "<g transform=\"translate({x} {y})\">{}</g>", growth.draw());
    }
    svg.push_str("</svg>\n");
    svg
}

/// A logarithmic axis between two pixels.
struct Axis {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

// === impl Axis ===

impl Axis {
    /// From the decade below the least of the values to the one above the greatest; the sizes of a cluster are such already.
    fn over(values: &[f64], from: f64, to: f64) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min).log10();
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max).log10();
        let (least, most) =
            if from > to { (least.floor(), most.ceil().max(least.floor() + 1.0)) } else { (least, most) };
        Self { least, most, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.least) / (self.most - self.least) * (self.to - self.from)
    }

    fn decades(&self) -> Vec<f64> {
        let mut decades = vec![self.least];
        while decades.last().is_some_and(|last| last + 1.0 <= self.most) {
            decades.push(decades.last().unwrap_or(&0.0) + 1.0);
        }
        decades.into_iter().map(|decade| 10f64.powf(decade)).collect()
    }
}

/// A value in a few characters.
fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", value / 1e6),
        1e4.. => format!("{}k", (value / 1e3).round()),
        10.0.. => format!("{value:.0}"),
        0.995.. => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        _ => format!("{value:.2}"),
    }
}

// At most 150,000 here.
#[expect(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(values: [f64; 4]) -> Growth {
        let points = [10, 100, 1000, 10_000].into_iter().zip(values).collect();
        Growth { name: "CPU".to_owned(), unit: "s", of: "pods", points }
    }

    #[test]
    fn the_exponent_is_that_of_a_power() {
        for (values, exponent) in
            [([2.0, 20.0, 200.0, 2000.0], "1.00"), ([1.0, 100.0, 1e4, 1e6], "2.00"), ([7.0; 4], "0.00")]
        {
            assert_eq!(format!("{:.2}", growth(values).exponent()), exponent, "{values:?}");
        }
    }

    #[test]
    fn greater_values_are_higher_and_every_point_is_in_its_panel() {
        let svg = picture(&[&growth([0.3, 4.0, 50.0, 60.0])]);
        let heights: Vec<f64> = svg
            .split("cy=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap_or_default().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), 4);
        assert!(heights.is_sorted_by(|one, next| one > next), "{heights:?}");
        assert!(heights.iter().all(|y| (TOP..=PANEL.1 - BOTTOM).contains(y)), "{heights:?}");
    }
}
