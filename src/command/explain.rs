//! `linkerd-gate explain -f`: whether a pod would be injected, by which rule, and what to do. Offline.
//!
//! The cluster is not asked: what it would know (the namespace, the webhook configuration) comes from files, or is assumed and
//! said to be assumed.

mod document;
mod entry;
mod explanation;
mod gated;
mod node;
mod object;
mod variables;

use self::{
    document::{Document, Place},
    explanation::Setting,
    object::{Objects, Subject},
};
pub use self::{
    entry::{Entry, Remark},
    explanation::{Explanation, Source},
};
use crate::linkerd::{TokenProjection, WebhookView};
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use std::{
    fmt::{self, Write as _},
    io::{self, Read, Write},
};

/// What to explain, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explain {
    /// Files of pods and of what makes pods, in order. `-` is the standard input, once.
    pub files: Vec<String>,

    /// A file of namespaces. They win over those that the files of pods describe.
    pub namespace_file: Option<String>,

    /// A file of MutatingWebhookConfigurations, Linkerd's among them; the chart's default without it.
    pub webhook_file: Option<String>,

    /// Linkerd's value `identity.serviceAccountTokenProjection`, which no file tells.
    pub token_projection: TokenProjection,

    /// For whom.
    pub output: Output,
}

/// For whom an explanation is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For a person
    #[default]
    Text,

    /// For a program: an array in the order given
    Json,
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

/// One thing that is wrong with the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was given.
    pub file: String,
    /// The document in it, from 1, where it is known.
    pub document: Option<usize>,
    /// The line in the file, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

/// Explains every pod, and everything that makes pods, of the given files.
///
/// What is neither is named on `notes`, one line each; nothing but the explanation goes to `out`. Everything is read and judged
/// before the first byte is written.
pub fn explain(
    arguments: &Explain,
    stdin: &mut impl Read,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), ExplainError> {
    let mut problems = Vec::new();
    let Some((explanations, passed_over)) = gather(arguments, stdin, &mut problems) else {
        return Err(ExplainError::Input(problems));
    };

    for object in passed_over {
        writeln!(notes, "{object}").map_err(ExplainError::Write)?;
    }
    write(arguments.output, &explanations, out).and_then(|()| out.flush()).map_err(ExplainError::Write)
}

fn write(output: Output, explanations: &[Explanation], out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, explanations)?;
            writeln!(out)
        }
        Output::Text => {
            for (place, explanation) in explanations.iter().enumerate() {
                if place > 0 {
                    writeln!(out)?;
                }
                explanation.write(out)?;
            }
            Ok(())
        }
    }
}

/// Reads and judges everything; nothing where a problem stands in the way of that.
fn gather(
    arguments: &Explain,
    stdin: &mut impl Read,
    problems: &mut Vec<Problem>,
) -> Option<(Vec<Explanation>, Vec<object::PassedOver>)> {
    let mut stdin = Stdin { stdin, taken: false };
    let mut objects = Objects::default();
    for file in &arguments.files {
        stdin.read(file, &mut objects, problems);
    }
    if arguments.files.is_empty() {
        problems.push(Problem::of("-f", "there is no file to explain".to_owned()));
    } else if objects.subjects.is_empty() && problems.is_empty() && !objects.has_list {
        let files = arguments.files.join(", ");
        let mut message = "there is neither a pod nor anything that is known to make pods".to_owned();
        for object in &objects.passed_over {
            let _infallible = write!(message, "\n{object}");
        }
        problems.push(Problem::of(&files, message));
    }

    let mut given = Objects::default();
    if let Some(file) = &arguments.namespace_file {
        let before = problems.len();
        stdin.read(file, &mut given, problems);
        if given.namespaces.is_empty() && problems.len() == before {
            problems.push(Problem::of(file, "there is no Namespace".to_owned()));
        }
    }
    let namespaces = Namespaces {
        file: arguments.namespace_file.as_deref(),
        given: given.namespaces,
        beside: std::mem::take(&mut objects.namespaces),
    };
    let webhooks = Webhooks::new(arguments.webhook_file.as_deref(), &mut stdin, problems);
    let webhooks = webhooks.filter(|_| problems.is_empty())?;

    let explanations = objects.subjects.iter().map(|subject| {
        let mut assumptions = Vec::new();
        let namespace = namespaces.of(subject, &mut assumptions);
        assumptions.extend(webhooks.assumption.clone());
        let setting = Setting {
            namespace: &namespace,
            webhooks: &webhooks.view,
            projection: arguments.token_projection,
            assumptions,
        };
        Explanation::new(subject, setting)
    });
    Some((explanations.collect(), objects.passed_over))
}

/// The namespaces that are known.
struct Namespaces<'a> {
    file: Option<&'a str>,
    /// From the file for namespaces.
    given: Vec<Namespace>,
    /// From beside the pods.
    beside: Vec<Namespace>,
}

/// The webhooks that are judged by.
struct Webhooks {
    view: WebhookView,
    assumption: Option<String>,
}

/// The standard input, which can be read once.
struct Stdin<'a, R> {
    stdin: &'a mut R,
    taken: bool,
}

// === impl Namespaces ===

impl Namespaces<'_> {
    /// The namespace of a subject; whatever of it is not known is assumed, and said.
    fn of(&self, subject: &Subject, assumptions: &mut Vec<String>) -> Namespace {
        let Some(wanted) = subject.namespace.as_deref() else {
            // As with kubectl, a pod that names no namespace lands in the one of the command.
            if let [only] = self.given.as_slice() {
                return only.clone();
            }
            let namespace = self.named("default").unwrap_or_else(|| {
                assumptions.push(match self.file {
                    Some(file) => format!(
                        "it is created in namespace default, which {file} does not describe: \
                                           a namespace without labels and annotations"
                    ),
                    None => "it is created in namespace default, which has no labels and no annotations: \
                             --namespace-file would tell"
                        .to_owned(),
                });
                bare("default")
            });
            return namespace;
        };
        if let Some(namespace) = self.named(wanted) {
            return namespace;
        }
        // A namespace without a name is a template of one: it fits every pod.
        if let [only @ Namespace { metadata: ObjectMeta { name: None, .. }, .. }] = self.given.as_slice() {
            let mut namespace = only.clone();
            namespace.metadata.name = Some(wanted.to_owned());
            return namespace;
        }
        assumptions.push(match self.file {
            Some(file) => {
                format!("namespace {wanted}, which {file} does not describe, has no labels and no annotations")
            }
            None => format!("namespace {wanted} has no labels and no annotations: --namespace-file would tell"),
        });
        bare(wanted)
    }

    /// The last description of a namespace, as the last one applied counts; the file for namespaces goes first.
    fn named(&self, name: &str) -> Option<Namespace> {
        let named = |namespaces: &[Namespace]| {
            let mut namespaces = namespaces.iter().rev();
            namespaces.find(|namespace| namespace.metadata.name.as_deref() == Some(name)).cloned()
        };
        named(&self.given).or_else(|| named(&self.beside))
    }
}

fn bare(name: &str) -> Namespace {
    Namespace { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Namespace::default() }
}

// === impl Webhooks ===

impl Webhooks {
    fn new<R: Read>(file: Option<&str>, stdin: &mut Stdin<'_, R>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Some(file) = file else {
            return Some(Self {
                view: WebhookView::chart_default(),
                assumption: Some(
                    "Linkerd's webhook is as its chart installs it by default: --webhook-file would tell".to_owned(),
                ),
            });
        };
        let mut objects = Objects::default();
        let before = problems.len();
        stdin.read(file, &mut objects, problems);
        if problems.len() > before {
            return None;
        }
        if objects.webhooks.is_empty() && !objects.has_list {
            problems.push(Problem::of(file, "there is no MutatingWebhookConfiguration".to_owned()));
            return None;
        }
        match WebhookView::new(&objects.webhooks) {
            Ok(view) => Some(Self { view, assumption: None }),
            Err(error) => {
                problems.push(Problem::of(file, error.to_string()));
                None
            }
        }
    }
}

// === impl Stdin ===

impl<R: Read> Stdin<'_, R> {
    /// Reads all objects of a file, or of the standard input.
    fn read(&mut self, file: &str, objects: &mut Objects, problems: &mut Vec<Problem>) {
        let bytes = if file == "-" {
            if self.taken {
                problems.push(Problem::of(file, "the standard input can be read once".to_owned()));
                return;
            }
            self.taken = true;
            let mut bytes = Vec::new();
            self.stdin.read_to_end(&mut bytes).map(|_| bytes)
        } else {
            std::fs::read(file)
        };
        match bytes.map(String::from_utf8) {
            Ok(Ok(text)) => {
                let before = problems.len();
                let documents = Document::all(file, &text, problems);
                if documents.is_empty() && problems.len() == before {
                    problems.push(Problem::of(file, "it is empty".to_owned()));
                }
                for document in documents {
                    objects.add(&document, problems);
                }
                problems[before..].sort_by_key(|problem| (problem.document, problem.line));
            }
            Ok(Err(_)) => problems.push(Problem::of(file, "it is not text in UTF-8".to_owned())),
            Err(error) => problems.push(Problem::of(file, format!("it cannot be read: {error}"))),
        }
    }
}

// === impl Problem ===

impl Problem {
    fn of(file: &str, message: String) -> Self {
        Self { file: file.to_owned(), document: None, line: None, message }
    }

    fn at(place: &Place, message: String) -> Self {
        // What was typed in is quoted in it: that must not pass for a line of ours.
        let message = if message.contains(char::is_control) { message.replace(char::is_control, " ") } else { message };
        Self { file: place.file.clone(), document: Some(place.document), line: Some(place.line), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.file == "-" { "standard input" } else { &self.file })?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
