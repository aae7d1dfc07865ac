//! A report as `linkerd check` writes one.

use super::super::explain::plain;
use crate::check::{Check, Level, Report};
use std::io::{self, Write};

/// Writes it; `short` leaves out what is as it should be.
pub(super) fn write(report: &Report, short: bool, colour: bool, out: &mut impl Write) -> io::Result<()> {
    for category in &report.categories {
        let checks: Vec<_> = category.checks.iter().filter(|check| !short || check.result > Level::Success).collect();
        if checks.is_empty() {
            continue;
        }
        writeln!(out, "{}\n{}", category.category_name, "-".repeat(category.category_name.len()))?;
        for check in checks {
            write_check(check, colour, out)?;
        }
        writeln!(out)?;
    }
    let mark = mark(if report.success { Level::Success } else { Level::Error }, colour);
    writeln!(out, "Status check results are {mark}")
}

fn write_check(check: &Check, colour: bool, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} {}", mark(check.result, colour), plain(&check.description))?;
    if let Some(error) = &check.error {
        for (place, line) in error.split('\n').enumerate() {
            let indent = if place == 0 { "    " } else { "        " };
            writeln!(out, "{indent}{}", plain(line.trim_start_matches('\t')))?;
        }
    }
    if let Some(fix) = &check.fix {
        writeln!(out, "    fix: {}", plain(fix))?;
    }
    if let Some(hint) = &check.hint {
        writeln!(out, "    see {hint} for hints")?;
    }
    Ok(())
}

/// As Linkerd's CLI colours them.
fn mark(level: Level, colour: bool) -> String {
    let (mark, number) = match level {
        Level::Success => ("√", 32),
        Level::Warning => ("‼", 33),
        Level::Error => ("×", 31),
    };
    if colour { format!("\u{1b}[{number}m{mark}\u{1b}[0m") } else { mark.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::unreachable;

    fn written(short: bool, colour: bool) -> String {
        let mut out = Vec::new();
        let mut report = unreachable("no such host");
        report.categories[0].checks[0].error.as_mut().unwrap().push_str("\n\t* or so");
        write(&report, short, colour, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_check_table_has_the_format_of_linkerd_check() {
        assert_eq!(
            written(false, false),
            "linkerd-gate-installation\n-------------------------\n× the API server answers\n    no such host\n        * or so\n    \
             fix: kubectl version\n    see https://github.com/linkerd-gate/linkerd-gate/blob/main/docs/check.md#lg101 for \
             hints\n\nStatus check results are ×\n"
        );
        assert!(written(true, true).contains("\u{1b}[31m×\u{1b}[0m the API server answers"));
    }
}
