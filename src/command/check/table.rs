//! A report as `linkerd check` writes one.

use super::super::explain::plain;
use crate::check::{Check, Level, NOTE, Report};
use std::io::{self, Write};

/// How it is written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// Leaves out what is as it should be.
    pub(super) short: bool,
    /// With colours.
    pub(super) colour: bool,
    /// For a terminal of so many columns: sentences end at its edge, at the end of a word. Commands are left whole, to be copied.
    pub(super) columns: Option<usize>,
}

/// The fewest columns for which lines are broken: fewer leave no room for a sentence.
const FEWEST: usize = 40;

/// Writes it.
pub(super) fn write(report: &Report, look: Look, out: &mut impl Write) -> io::Result<()> {
    for category in &report.categories {
        let wanted = |check: &&Check| !look.short || check.result > Level::Success;
        let checks: Vec<_> = category.checks.iter().filter(wanted).collect();
        if checks.is_empty() {
            continue;
        }
        writeln!(out, "{}\n{}", category.category_name, "-".repeat(category.category_name.len()))?;
        for check in checks {
            write_check(check, look, out)?;
        }
        writeln!(out)?;
    }
    let mark = mark(if report.success { Level::Success } else { Level::Error }, look.colour);
    writeln!(out, "Status check results are {mark}")
}

fn write_check(check: &Check, look: Look, out: &mut impl Write) -> io::Result<()> {
    let columns = look.columns.filter(|columns| *columns >= FEWEST).unwrap_or(usize::MAX);
    let mark = mark(check.result, look.colour);
    for (place, line) in lines(&plain(&check.description), columns - "√ ".chars().count()).iter().enumerate() {
        writeln!(out, "{} {line}", if place == 0 { &mark } else { " " })?;
    }
    for (place, line) in check.error.iter().flat_map(|error| error.split('\n')).enumerate() {
        match line.strip_prefix("\t* ") {
            _ if place == 0 => sentence("    ", "    ", line, columns, out)?,
            Some(item) => sentence("        * ", "          ", item, columns, out)?,
            None => sentence("        ", "        ", line.trim_start_matches('\t'), columns, out)?,
        }
    }
    if let Some(fix) = &check.fix {
        match fix.split_once(NOTE) {
            Some((command, note)) if "    fix: ".len() + fix.chars().count() > columns => {
                writeln!(out, "    fix: {}", plain(command))?;
                sentence("         # ", "         # ", note, columns, out)?;
            }
            _ => writeln!(out, "    fix: {}", plain(fix))?,
        }
    }
    if let Some(hint) = &check.hint {
        writeln!(out, "    see {hint} for hints")?;
    }
    Ok(())
}

/// Writes a text behind `first`, and what does not fit on that line behind `next`, which is as long.
fn sentence(first: &str, next: &str, text: &str, columns: usize, out: &mut impl Write) -> io::Result<()> {
    for (place, line) in lines(&plain(text), columns - first.len()).iter().enumerate() {
        writeln!(out, "{}{line}", if place == 0 { first } else { next })?;
    }
    Ok(())
}

/// A text in lines of at most so many characters, unless a word is longer.
fn lines(text: &str, columns: usize) -> Vec<String> {
    if text.chars().count() <= columns {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
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

    fn written(look: Look) -> String {
        let mut out = Vec::new();
        let mut report = unreachable("no such host");
        report.categories[0].checks[0].error.as_mut().unwrap().push_str("\n\t* or so");
        write(&report, look, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_check_table_has_the_format_of_linkerd_check() {
        assert_eq!(
            written(Look::default()),
            "linkerd-gate-installation\n-------------------------\n× the API server answers\n    no such host\n        * or so\n    \
             fix: kubectl version\n    see https://github.com/linkerd-gate/linkerd-gate/blob/main/docs/check.md#lg101 for \
             hints\n\nStatus check results are ×\n"
        );
        let look = Look { short: true, colour: true, columns: None };
        assert!(written(look).contains("\u{1b}[31m×\u{1b}[0m the API server answers"));
    }

    #[test]
    fn sentences_end_at_the_edge_of_a_terminal_and_commands_do_not() {
        let mut report = unreachable("a sentence that is longer than the terminal is wide, and goes on");
        let check = &mut report.categories[0].checks[0];
        check.error.as_mut().unwrap().push_str("\n\t* deployment/a-long-name -n shop: 12 (for some reason)");
        check.fix = Some(
            "linkerd-gate install --image IMAGE | kubectl apply -f -   # IMAGE is the name under which you pushed it"
                .to_owned(),
        );
        check.hint = None;
        let mut out = Vec::new();
        write(&report, Look { columns: Some(44), colour: true, ..Look::default() }, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "linkerd-gate-installation\n-------------------------\n\u{1b}[31m×\u{1b}[0m the API server answers\n\
             \u{20}   a sentence that is longer than the\n    terminal is wide, and goes on\n\
             \u{20}       * deployment/a-long-name -n shop: 12\n          (for some reason)\n\
             \u{20}   fix: linkerd-gate install --image IMAGE | kubectl apply -f -\n         # IMAGE is the name under which you\n         \
             # pushed it\n\nStatus check results are \u{1b}[31m×\u{1b}[0m\n"
        );
        // Too narrow for sentences: as without a terminal.
        let (mut narrow, mut none) = (Vec::new(), Vec::new());
        write(&report, Look { columns: Some(20), ..Look::default() }, &mut narrow).unwrap();
        write(&report, Look::default(), &mut none).unwrap();
        assert_eq!(narrow, none);
    }

    #[test]
    fn the_reference_has_every_field_of_the_json() {
        let mut report = unreachable("no such host");
        report.categories[0].checks[0].objects.push("deployment/web -n shop".to_owned());
        crate::command::json_tests::the_page_has_the_fields_of("check", &serde_json::to_value(report).unwrap());
    }
}
