//! What came of the campaign's outages.

use std::fmt::{self, Write as _};

use super::Mode;

/// One outage in one mode.
#[derive(Debug)]
pub struct Row {
    pub mode: Mode,
    pub scenario: &'static str,
    /// Whether nothing may start outside the mesh, and everything has to end up in it without a person.
    pub promised: bool,
    /// App containers that were made outside the mesh, by containerd's history.
    pub bare: usize,
    /// Apps that run outside the mesh at the end.
    pub outside: usize,
    /// From when nodes and Linkerd were ready to when every workload ran in the mesh; nothing if that did not come.
    pub seconds: Option<f64>,
    pub failed_jobs: usize,
    /// Of the gate's accounts.
    pub writes: usize,
    /// Why it could not be played to its end.
    pub error: Option<String>,
}

// === impl Row ===

impl Row {
    pub fn failed(mode: Mode, scenario: &'static str, error: &anyhow::Error) -> Self {
        let error = Some(format!("{error:#}"));
        Self { mode, scenario, promised: false, bare: 0, outside: 0, seconds: None, failed_jobs: 0, writes: 0, error }
    }

    pub fn breaks_a_promise(&self) -> bool {
        let kept = self.bare == 0 && self.outside == 0 && self.failed_jobs == 0 && self.seconds.is_some();
        self.error.is_some() || self.promised && !kept
    }

    /// What a person has to do at the end.
    fn person(&self) -> String {
        let mut deeds = Vec::new();
        if self.outside > 0 {
            deeds.push(format!("delete {} pods", self.outside));
        }
        if self.failed_jobs > 0 {
            deeds.push(format!("create {} Jobs again", self.failed_jobs));
        }
        if deeds.is_empty() { "nothing".to_owned() } else { deeds.join(", ") }
    }

    fn time(&self) -> String {
        self.seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.0} s"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return write!(f, "{}: not played to its end: {error}", self.scenario);
        }
        let (bare, time, writes, person) = (self.bare, self.time(), self.writes, self.person());
        write!(f, "{}: {bare} started outside, all meshed {time}, {writes} writes, a person: {person}", self.scenario)
    }
}

/// A line for each outage and mode, as Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| outage | installed | apps started outside the mesh | all in the mesh after | writes | a person has to |\n\
         |---|---|--:|--:|--:|---|\n",
    );
    let mut scenarios: Vec<&str> = Vec::new();
    for row in rows {
        if !scenarios.contains(&row.scenario) {
            scenarios.push(row.scenario);
        }
    }
    for scenario in scenarios {
        for (place, row) in rows.iter().filter(|row| row.scenario == scenario).enumerate() {
            let name = if place == 0 { scenario } else { "" };
            let _ = match &row.error {
                Some(_) => writeln!(text, "| {name} | {} | not played to its end | | | |", row.mode.name()),
                None => writeln!(
                    text,
                    "| {name} | {} | {} | {} | {} | {} |",
                    row.mode.name(),
                    row.bare,
                    row.time(),
                    row.writes,
                    row.person()
                ),
            };
        }
    }
    text
}
