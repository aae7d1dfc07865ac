//! `linkerd-gate explain`: whether a pod would be injected, by which rule, and what to do.
//!
//! Of files no cluster is asked: what it would know (the namespace, the webhook configuration) comes from files, or is assumed
//! and said to be assumed. Of what is in a cluster `explain_live` asks the API server for both.

mod entry;
mod explanation;
mod finding;
mod gated;
mod kind;
mod live;
mod object;
mod problem;
mod read;
mod report;
mod sentences;
mod setting;
mod subject;
mod template;
mod variables;

use std::borrow::Cow;
use std::io::{self, Read, Write};

pub use self::entry::{Entry, Remark};
pub use self::explanation::{Explanation, Source, VERSION};
pub use self::finding::Finding;
pub use self::kind::Kind;
pub use self::live::{Live, run as explain_live};
use self::object::Objects;
pub use self::problem::Problem;
use self::read::Text;
pub(crate) use self::read::source;
use self::report::Report;
use self::setting::{Namespaces, Webhooks, surroundings};
use crate::linkerd::TokenProjection;

/// How many objects that are passed over are named one by one.
const NAMED: usize = 100;

/// What stands for a file's name where there is none.
const CLUSTER: &str = "cluster";

/// What to explain, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explain {
    /// Files and folders of pods and of what makes pods, in order. `-` is the standard input, once.
    pub files: Vec<String>,

    /// Whether folders below a folder are looked into.
    pub recursive: bool,

    /// A file of namespaces. They win over those that the files of pods describe.
    pub namespace_file: Option<String>,

    /// A file of MutatingWebhookConfigurations, Linkerd's among them; without it those beside the pods, else the chart's default.
    pub webhook_file: Option<String>,

    /// Linkerd's value `identity.serviceAccountTokenProjection`, which no file tells.
    pub token_projection: TokenProjection,

    /// The output format.
    pub output: Output,

    /// What makes it a failure.
    pub fail_on: Vec<Finding>,
}

/// The output format of an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For a person
    #[default]
    Text,

    /// For a program: an array in the order given (docs/explain.md)
    Json,

    /// NAMESPACE KIND/NAME of each that has a finding: of those that --fail-on asks for, or of any
    Name,

    /// For a code host: SARIF 2.1.0, a result for each finding
    Sarif,

    /// With --missed: lines to type, safest first
    Commands,
}

/// What came of explaining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Whether something is wrong with the input: the rest of it was explained.
    pub incomplete: bool,

    /// Whether there is a finding that was asked for.
    pub failed: bool,
}

/// Why nothing was explained. Nothing was written to the output, except for [`ExplainError::Write`].
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Something is wrong with the input: all of it, not the first only.
    #[error("{}", lines(.0))]
    Input(Vec<Problem>),

    /// The output could not be written.
    #[error("the explanation could not be written")]
    Write(#[source] io::Error),
}

/// Explains every pod, and everything that makes pods, of the given files.
///
/// What is neither, what is wrong with some of the input, and a summary go to `notes`; nothing but the explanation goes to
/// `out`. Everything is read before the first byte is written.
///
/// # Errors
/// Input of which nothing could be explained, and an output that cannot be written.
pub fn explain(
    arguments: &Explain,
    stdin: &mut impl Read,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<Explained, ExplainError> {
    let mut stdin = Stdin { stdin, taken: false };
    let mut objects = Objects::default();
    for name in &arguments.files {
        objects.of_file(name);
        match source::files(name, arguments.recursive) {
            Ok(files) => files.iter().for_each(|file| stdin.read(file, &mut objects)),
            Err(why) => objects.problems.push(Problem::of(name, why)),
        }
    }
    if arguments.files.is_empty() {
        let message = "there is no file to explain: linkerd-gate explain -f FILE".to_owned();
        objects.problems.push(Problem::of("-f", message));
    }
    let mut given = Objects::default();
    let namespaces = Namespaces::read(arguments.namespace_file.as_deref(), &mut stdin, &mut given, &mut objects);
    let webhooks = Webhooks::read(arguments.webhook_file.as_deref(), &mut stdin, &mut given, &mut objects);
    let Some(webhooks) = webhooks.filter(|_| given.problems.is_empty()) else {
        let mut problems = std::mem::take(&mut objects.problems);
        problems.append(&mut given.problems);
        return Err(ExplainError::Input(problems));
    };
    if objects.subjects.is_empty() && !objects.problems.is_empty() {
        return Err(ExplainError::Input(std::mem::take(&mut objects.problems)));
    }

    write_notes(&objects, notes).map_err(ExplainError::Write)?;
    let mut report = Report::new(arguments.output, &arguments.fail_on, out).map_err(ExplainError::Write)?;
    for subject in &objects.subjects {
        let mut assumptions = Vec::new();
        let namespace = namespaces.of(subject, &mut assumptions);
        assumptions.extend(webhooks.assumption.clone());
        let (quotas, limits) = surroundings(&namespace, &objects);
        let setting = explanation::Setting {
            namespace: &namespace,
            webhooks: &webhooks.view,
            surroundings: crate::linkerd::Surroundings { quotas: &quotas, limits: &limits },
            projection: arguments.token_projection,
            assumptions,
        };
        report.add(&Explanation::new(subject, setting)).map_err(ExplainError::Write)?;
    }
    let summary = report.end().map_err(ExplainError::Write)?;
    let incomplete = !objects.problems.is_empty();
    if summary.objects != 1 || incomplete || !arguments.fail_on.is_empty() {
        writeln!(notes, "{summary}").map_err(ExplainError::Write)?;
    }
    Ok(Explained { incomplete, failed: summary.failed })
}

/// What is wrong with some of the input, and what was passed over.
fn write_notes(objects: &Objects, notes: &mut impl Write) -> io::Result<()> {
    for problem in &objects.problems {
        writeln!(notes, "{problem}")?;
    }
    for (problem, linkerds) in &objects.webhook_problems {
        let whose = if *linkerds { "Linkerd's webhook in it is not used" } else { "passed over" };
        writeln!(notes, "{problem}: {whose}")?;
    }
    for object in objects.passed_over.iter().take(NAMED) {
        writeln!(notes, "{object}")?;
    }
    if objects.passed_over.len() > NAMED {
        writeln!(notes, "… and {} more objects that are passed over", objects.passed_over.len() - NAMED)?;
    }
    Ok(())
}

/// Text that may have come from the input, fit for a terminal: what would move the cursor, end a line, or turn the direction
/// of writing is replaced.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let acts = |character: char| {
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if text.contains(acts) { Cow::Owned(text.replace(acts, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// The standard input, which can be read once.
struct Stdin<'a, R> {
    stdin: &'a mut R,
    taken: bool,
}

// === impl Stdin ===

impl<R: Read> Stdin<'_, R> {
    /// Reads all objects of a file, or of the standard input.
    fn read(&mut self, file: &str, objects: &mut Objects) {
        objects.of_file(file);
        if file == "-" {
            if std::mem::replace(&mut self.taken, true) {
                objects.problems.push(Problem::of(file, "the standard input can be read once".to_owned()));
                return;
            }
            read::read(file, &mut Text::new(&mut *self.stdin), objects);
            return;
        }
        match source::open(file) {
            Ok(opened) => read::read(file, &mut Text::new(opened), objects),
            Err(why) => objects.problems.push(Problem::of(file, why)),
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
