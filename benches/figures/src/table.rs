//! The figures, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::growth::Growth;

/// What the measured program is called in the table.
pub const GATE: &str = "linkerd-gate";

/// In MB: the aim, and what no change may exceed.
const SIZE_AIM: f64 = 3.0;
const SIZE_LIMIT: f64 = 4.0;

/// Every figure of a run.
#[derive(Serialize)]
pub struct Table {
    /// When, in UTC.
    when: String,
    /// What this ran on.
    machine: Machine,
    figures: Vec<Figure>,
    /// Figures of clusters of several sizes, which have lines as well.
    pub growths: Vec<Growth>,
    /// What could not be measured, and why.
    without: BTreeMap<String, String>,
}

/// The machine, and how busy it was when the run began.
#[derive(Serialize)]
struct Machine {
    processor: String,
    cores: usize,
    /// In GiB.
    memory: u64,
    kernel: String,
    /// The load of the last minute.
    load: String,
}

/// One line.
#[derive(Serialize)]
pub struct Figure {
    name: String,
    unit: &'static str,
    /// How it was measured.
    how: String,
    /// By program.
    values: BTreeMap<&'static str, f64>,
    target: Option<String>,
    /// Whether the target was reached.
    reached: Option<bool>,
    #[serde(skip)]
    fails: bool,
}

/// What a target is worth, and whether it was reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A run that does not keep it fails.
    Kept(bool),
    /// A busy machine can miss it: it is shown.
    Missable(bool),
}

// === impl Table ===

impl Table {
    pub fn new() -> Self {
        let when = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self { when, machine: Machine::this(), figures: Vec::new(), growths: Vec::new(), without: BTreeMap::new() }
    }

    /// The line of that name: one more, unless another program has made it.
    pub fn figure(&mut self, name: &str, unit: &'static str, how: &str) -> &mut Figure {
        if let Some(at) = self.figures.iter().position(|figure| figure.name == name) {
            return &mut self.figures[at];
        }
        self.figures.push(Figure {
            name: name.to_owned(),
            unit,
            how: how.to_owned(),
            values: BTreeMap::new(),
            target: None,
            reached: None,
            fails: false,
        });
        let last = self.figures.len() - 1;
        &mut self.figures[last]
    }

    /// A line for each size of a cluster, and one for the exponent; `limit` is the greatest that is as it should be.
    pub fn growth(&mut self, growth: Growth, limit: f64, how: &str) {
        for (size, value) in &growth.points {
            self.figure(&format!("{size} {}: {}", growth.of, growth.name), growth.unit, how).value(GATE, *value);
        }
        let exponent = growth.exponent();
        let name = format!("{}, by the number of {}", growth.name, growth.of);
        let how = "the slope of the line of least squares through the logarithms: 1 grows as the cluster does";
        self.figure(&name, "exponent", how)
            .value(GATE, exponent)
            .target(&format!("≤ {limit}"), Target::Missable(exponent <= limit));
        self.growths.push(growth);
    }

    /// What could not be measured here.
    pub fn without(&mut self, what: &str, why: &anyhow::Error) {
        self.without.insert(what.to_owned(), format!("{why:#}"));
    }

    /// The size of a program that waits.
    pub fn size(&mut self, program: &'static str, path: &Path) -> Result<()> {
        let megabytes = megabytes(path)?;
        let how = "the static release binary that waits in users' pods, stripped";
        let figure = self.figure("binary", "MB", how).value(program, megabytes);
        if program == GATE {
            let target = Target::Missable(megabytes <= SIZE_AIM);
            figure.target("≤ 3, never 4", if megabytes > SIZE_LIMIT { Target::Kept(false) } else { target });
        }
        Ok(())
    }

    /// The size of the full program.
    pub fn full_size(&mut self, path: &Path) -> Result<()> {
        let how =
            "the static release binary of agents, controllers and people; the image holds these two and nothing else";
        self.figure("binary of all other roles", "MB", how).value(GATE, megabytes(path)?);
        Ok(())
    }

    /// Whether every target that a run must keep was kept.
    pub fn holds(&self) -> bool {
        !self.figures.iter().any(|figure| figure.fails)
    }

    /// The programs that have a value, ours first.
    fn programs(&self) -> Vec<&'static str> {
        let mut programs = vec![GATE];
        for program in self.figures.iter().flat_map(|figure| figure.values.keys()) {
            if !programs.contains(program) {
                programs.push(program);
            }
        }
        programs
    }
}

// === impl Machine ===

impl Machine {
    /// As the kernel describes it; empty what it does not say.
    fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
            value.map(|value| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: kibibytes.div_ceil(1024 * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, memory, kernel, load } = self;
        write!(out, "{cores} cores of {processor}, {memory} GiB, Linux {kernel}, load {load} at the start")
    }
}

/// Markdown, which a terminal shows as well as a page does.
impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let programs = self.programs();
        let mut notes: Vec<&str> = Vec::new();
        let mut head = vec!["figure".to_owned(), "unit".to_owned()];
        head.extend(programs.iter().map(|program| (*program).to_owned()));
        head.extend(["target".to_owned(), "how".to_owned()]);
        let mut rows = vec![head];
        for figure in &self.figures {
            let note = notes.iter().position(|how| *how == figure.how).unwrap_or_else(|| {
                notes.push(&figure.how);
                notes.len() - 1
            });
            let mut row = vec![figure.name.clone(), figure.unit.to_owned()];
            row.extend(programs.iter().map(|program| figure.values.get(program).map_or_else(String::new, number)));
            let mark = match figure.reached {
                Some(true) | None => "",
                Some(false) if figure.fails => " FAILED",
                Some(false) => " missed",
            };
            row.push(figure.target.as_ref().map_or_else(String::new, |target| format!("{target}{mark}")));
            row.push(format!("({})", note + 1));
            rows.push(row);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        for (at, row) in rows.iter().enumerate() {
            write!(out, "|")?;
            for (cell, width) in row.iter().zip(&widths) {
                write!(out, " {cell:<width$} |")?;
            }
            writeln!(out)?;
            if at == 0 {
                let lines: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
                writeln!(out, "|{}|", lines.join("|"))?;
            }
        }
        writeln!(out)?;
        for (at, how) in notes.iter().enumerate() {
            writeln!(out, "- ({}) {how}", at + 1)?;
        }
        for (what, why) in &self.without {
            writeln!(out, "\nWithout {what}: {why}")?;
        }
        write!(out, "\nMeasured at {} on {}.", self.when, self.machine)
    }
}

/// Of a file, in MB.
fn megabytes(path: &Path) -> Result<f64> {
    let metadata = path.metadata().with_context(|| format!("no program at {}", path.display()))?;
    // Lossless up to 2⁵³ bytes.
    #[expect(clippy::cast_precision_loss)]
    let megabytes = metadata.len() as f64 / 1e6;
    Ok(megabytes)
}

/// Three digits that mean something.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "it is called on values of a map")]
fn number(value: &f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

// === impl Figure ===

impl Figure {
    /// What a program's value is.
    pub fn value(&mut self, program: &'static str, value: f64) -> &mut Self {
        self.values.insert(program, value);
        self
    }

    /// A program's value, where it has one.
    pub fn of(&self, program: &str) -> Option<f64> {
        self.values.get(program).copied()
    }

    /// What linkerd-gate's value should be.
    pub fn target(&mut self, words: &str, target: Target) -> &mut Self {
        let (Target::Kept(reached) | Target::Missable(reached)) = target;
        self.target = Some(words.to_owned());
        self.reached = Some(reached);
        self.fails = target == Target::Kept(false);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_kept_target_fails_the_run() {
        let mut table = Table::new();
        table.figure("a", "ms", "by hand").value(GATE, 3.0).target("≤ 2", Target::Missable(false));
        assert!(table.holds());
        assert!(table.to_string().contains("≤ 2 missed"));
        table.figure("b", "ms", "by hand").value(GATE, 3.0).target("≤ 2", Target::Kept(false));
        assert!(!table.holds());
        assert!(table.to_string().contains("≤ 2 FAILED"));
    }

    #[test]
    fn figures_measured_in_the_same_way_share_a_note() {
        let mut table = Table::new();
        table.figure("a", "ms", "by hand").value(GATE, 0.1234);
        table.figure("b", "MB", "by hand").value("kubectl wait", 1234.5);
        let text = table.to_string();
        assert_eq!(text.matches("by hand").count(), 1);
        assert!(text.contains("0.123") && text.contains(" 1234 ") | text.contains(" 1235 "), "{text}");
    }
}
