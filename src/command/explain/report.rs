//! Explanations are written as they come, each in the form that was asked for.

use super::{Explanation, Finding, Output, plain};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
};

/// Writes explanations, and counts what they say.
pub(super) struct Report<'a, W> {
    output: Output,
    fail_on: &'a [Finding],
    out: &'a mut W,
    summary: Summary,
}

/// What the explanations of all files said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) objects: usize,
    decisions: BTreeMap<&'static str, usize>,
    findings: BTreeMap<Finding, usize>,
    /// Whether there is a finding that was asked for.
    pub(super) failed: bool,
}

// === impl Report ===

impl<'a, W: Write> Report<'a, W> {
    pub(super) fn new(output: Output, fail_on: &'a [Finding], out: &'a mut W) -> io::Result<Self> {
        match output {
            Output::Json => out.write_all(b"[")?,
            Output::Sarif => sarif_head(out)?,
            Output::Text | Output::Name | Output::Commands => {}
        }
        Ok(Self { output, fail_on, out, summary: Summary::default() })
    }

    pub(super) fn add(&mut self, explanation: &Explanation) -> io::Result<()> {
        let first = self.summary.objects == 0;
        let asked = |finding: &&Finding| self.fail_on.is_empty() || self.fail_on.contains(*finding);
        let found: Vec<_> = explanation.findings.iter().filter(asked).copied().collect();
        match self.output {
            Output::Text => {
                if !first {
                    writeln!(self.out)?;
                }
                explanation.write(self.out)?;
            }
            Output::Json => {
                write!(self.out, "{}\n  ", if first { "" } else { "," })?;
                indented(explanation, 1, self.out)?;
            }
            Output::Name => {
                if !found.is_empty() {
                    let Explanation { namespace, kind, name, .. } = explanation;
                    writeln!(self.out, "{}", plain(&format!("{namespace} {}/{name}", kind.to_ascii_lowercase())))?;
                }
            }
            // Only of missed pods, which are counted and not explained.
            Output::Commands => {}
            Output::Sarif => {
                for finding in found {
                    let results = self.summary.findings.values().sum::<usize>();
                    write!(self.out, "{}\n        ", if results == 0 { "" } else { "," })?;
                    indented(&sarif_result(explanation, finding), 4, self.out)?;
                    *self.summary.findings.entry(finding).or_default() += 1;
                }
            }
        }
        let summary = &mut self.summary;
        summary.objects += 1;
        *summary.decisions.entry(explanation.decision).or_default() += 1;
        if self.output != Output::Sarif {
            for finding in &explanation.findings {
                *summary.findings.entry(*finding).or_default() += 1;
            }
        }
        summary.failed |= explanation.findings.iter().any(|finding| self.fail_on.contains(finding));
        Ok(())
    }

    pub(super) fn end(self) -> io::Result<Summary> {
        match self.output {
            Output::Json if self.summary.objects == 0 => self.out.write_all(b"]\n")?,
            Output::Json => self.out.write_all(b"\n]\n")?,
            Output::Sarif => self.out.write_all(b"\n      ]\n    }\n  ]\n}\n")?,
            Output::Text | Output::Name | Output::Commands => {}
        }
        self.out.flush()?;
        Ok(self.summary)
    }
}

/// Writes a value in the middle of a document that is written by hand around it.
fn indented(value: &impl Serialize, depth: usize, out: &mut impl Write) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    out.write_all(text.replace('\n', &format!("\n{}", "  ".repeat(depth))).as_bytes())
}

fn sarif_head(out: &mut impl Write) -> io::Result<()> {
    let rules: Vec<_> = Finding::ALL
        .iter()
        .map(|finding| json!({"id": finding.key(), "shortDescription": {"text": finding.meaning()}}))
        .collect();
    let driver = json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "rules": rules,
    });
    write!(
        out,
        "{{\n  \"$schema\": \"https://json.schemastore.org/sarif-2.1.0.json\",\n  \"version\": \"2.1.0\",\n  \"runs\": [\n    {{\n      \
         \"tool\": {{\n        \"driver\": "
    )?;
    indented(&driver, 4, out)?;
    write!(out, "\n      }},\n      \"results\": [")
}

fn sarif_result(explanation: &Explanation, finding: Finding) -> Value {
    let Explanation { kind, namespace, name, source, because, warnings, next, wait, .. } = explanation;
    let why = match finding {
        Finding::MissingEntry => vec!["no linkerd-gate entry among its init containers".to_owned()],
        Finding::BrokenEntry => {
            wait.remarks().iter().filter(|remark| remark.wrong).map(|remark| remark.text.clone()).collect()
        }
        Finding::NotInjected => because.clone(),
        Finding::Warning => warnings.clone(),
    };
    let level = if finding == Finding::BrokenEntry { "error" } else { "warning" };
    let text = format!("{kind} {namespace}/{name}: {}. Next: {}", why.join("; "), next.join("; "));
    json!({
        "ruleId": finding.key(),
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": if source.file == "-" { "stdin" } else { &source.file }},
            "region": {"startLine": source.line},
        }}],
    })
}

// === impl Summary ===

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.objects == 0 {
            return f.write_str("there is neither a pod nor anything that makes pods: nothing to explain");
        }
        let listed = |counts: Vec<(&str, usize)>| {
            counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
        };
        write!(
            f,
            "explained {}: {}",
            self.objects,
            listed(self.decisions.iter().map(|(word, n)| (*word, *n)).collect())
        )?;
        if !self.findings.is_empty() {
            write!(
                f,
                "; findings: {}",
                listed(self.findings.iter().map(|(finding, n)| (finding.key(), *n)).collect())
            )?;
        }
        Ok(())
    }
}
