//! What happened when, after a cut of power: for people, printed by the test.

use std::fmt::{self, Write as _};
use std::time::Instant;

/// The story of one boot.
pub struct Timeline {
    title: String,
    began: Instant,
    events: Vec<(f64, String)>,
}

// === impl Timeline ===

impl Timeline {
    /// Begins now: the power is back.
    pub fn begin(title: &str) -> Self {
        Self { title: title.to_owned(), began: Instant::now(), events: Vec::new() }
    }

    /// This is so now.
    pub fn mark(&mut self, what: impl Into<String>) {
        self.events.push((self.began.elapsed().as_secs_f64(), what.into()));
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "timeline: {}", self.title)?;
        self.events.iter().try_for_each(|(seconds, what)| writeln!(f, "  {seconds:>6.1} s  {what}"))
    }
}

/// The story of one boot, to be printed beside others: each row has a name that they share.
pub struct Column {
    title: String,
    began: Instant,
    cells: Vec<(String, String)>,
}

// === impl Column ===

impl Column {
    /// Begins now: the power is back.
    pub fn begin(title: &str) -> Self {
        Self { title: title.to_owned(), began: Instant::now(), cells: Vec::new() }
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// This is so now.
    pub fn mark(&mut self, row: &str) {
        self.mark_at(row, self.began.elapsed().as_secs_f64());
    }

    /// This was so that many seconds after the beginning.
    pub fn mark_at(&mut self, row: &str, seconds: f64) {
        self.say(row, format!("{seconds:.1} s"));
    }

    /// What is to be said in that row.
    pub fn say(&mut self, row: &str, what: impl fmt::Display) {
        self.cells.push((row.to_owned(), what.to_string()));
    }

    fn cell(&self, row: &str) -> Option<&str> {
        self.cells.iter().find(|(name, _)| name == row).map(|(_, cell)| &**cell)
    }
}

/// Columns beside one another, as a table of Markdown whose rows are in the order of the first column that has them.
pub fn beside(columns: &[Column]) -> String {
    let mut rows: Vec<&str> = Vec::new();
    for column in columns {
        let mut after = 0;
        for (row, _) in &column.cells {
            let place = rows.iter().position(|known| known == row).unwrap_or_else(|| {
                rows.insert(after, row);
                after
            });
            after = place + 1;
        }
    }
    let widest =
        |cells: &mut dyn Iterator<Item = &str>| cells.map(|cell| cell.chars().count()).max().unwrap_or_default();
    let first = widest(&mut rows.iter().copied());
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| widest(&mut column.cells.iter().map(|(_, cell)| &**cell).chain([&*column.title])))
        .collect();
    let mut table = String::new();
    let mut line = |head: &str, cells: &mut dyn Iterator<Item = &str>| {
        let _ = write!(table, "| {head:<first$} |");
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(table, " {cell:>width$} |");
        }
        table.push('\n');
    };
    line("", &mut columns.iter().map(|column| &*column.title));
    line(&"-".repeat(first), &mut widths.iter().map(|_| "--:"));
    for row in rows {
        line(row, &mut columns.iter().map(|column| column.cell(row).unwrap_or("–")));
    }
    table
}
