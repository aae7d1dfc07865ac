//! What is not taken: what was typed, what is taken instead, and one command that works.

use std::fmt;

use crate::command::explain::{Finding, Output, plain, source};

/// Why what was typed is not explained. Nothing was read, and no cluster was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Neither files nor anything of a cluster.
    Nothing,
    /// Files, and something that is of a cluster.
    FilesAndCluster {
        /// The first file.
        file: String,
        /// The flag that is of a cluster.
        flag: &'static str,
    },
    /// A flag about files without files.
    NeedsFiles(&'static str),
    /// `-o commands` is of missed pods.
    CommandsWithoutMissed,
    /// `--missed` is of pods.
    MissedOf(String),
    /// `--missed` counts by owner: it has no names of pods.
    MissedAs(Output),
    /// Findings are of single pods as well.
    MissedFails(Finding),
    /// All namespaces and one.
    AllAndOne {
        /// What is to be explained.
        typed: String,
        /// Which namespace.
        namespace: String,
    },
    /// An object's name, and all namespaces.
    NameInAll(String),
    /// An object's name and a selector of labels.
    NameAndSelector {
        /// The name.
        name: String,
        /// Its kind.
        kind: &'static str,
        /// The selector.
        selector: String,
        /// How the namespace was given.
        place: String,
    },
    /// A kind that is not asked for by name.
    Kind {
        /// The kind.
        kind: String,
        /// All that was typed.
        typed: String,
        /// How the namespace was given.
        place: String,
    },
    /// What no object can be called.
    Name {
        /// As it was typed.
        name: String,
        /// Of which kind.
        kind: &'static str,
        /// How the namespace was given.
        place: String,
    },
    /// `pod/a b`.
    NoSlash {
        /// What has no kind.
        word: String,
        /// The first word, which has one.
        first: String,
        /// How the namespace was given.
        place: String,
    },
    /// A URL.
    Url(String),
    /// A file without `-f`.
    File(String),
    /// A folder without `-f`.
    Folder(String),
    /// A file without `-f`, where there is no such file.
    NoFile(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str(
                "there is nothing to explain; it takes -f FILE, TYPE/NAME -n NAMESPACE, or -A: linkerd-gate explain -A",
            ),
            Self::FilesAndCluster { file, flag } => write!(
                f,
                "-f reads files, and {flag} is of a cluster; it takes one of both: linkerd-gate explain -f {file}"
            ),
            Self::NeedsFiles(flag) => write!(
                f,
                "{flag} goes with -f: a cluster tells its namespaces and webhooks by itself; for files: \
                 linkerd-gate explain {flag}{} -f FILE",
                if *flag == "-R" { "" } else { " FILE" }
            ),
            Self::CommandsWithoutMissed => {
                f.write_str("-o commands is for missed pods of a cluster: linkerd-gate explain -A --missed -o commands")
            }
            Self::MissedOf(typed) => write!(
                f,
                "--missed counts the pods of a namespace or of all, and {typed} is something else: \
                 linkerd-gate explain --missed -n NAMESPACE"
            ),
            Self::MissedAs(output) => {
                let output = if *output == Output::Name { "name" } else { "sarif" };
                write!(
                    f,
                    "--missed counts by owner, and has -o text, json and commands; for single pods: \
                     linkerd-gate explain -A -o {output}"
                )
            }
            Self::MissedFails(finding) => write!(
                f,
                "--missed counts by owner, and --fail-on is about single pods: linkerd-gate explain -A --fail-on {finding}; \
                 `linkerd-gate check` exits with 1 where pods are missed"
            ),
            Self::AllAndOne { typed, namespace } => {
                let space = if typed.is_empty() { "" } else { " " };
                write!(
                    f,
                    "-A is all namespaces, and -n one; it takes one of both: linkerd-gate explain{space}{typed} -n {namespace}"
                )
            }
            Self::NameInAll(typed) => {
                write!(f, "one object is in one namespace, and -A is all: linkerd-gate explain {typed} -n NAMESPACE")
            }
            Self::NameAndSelector { name, kind, selector, place } => write!(
                f,
                "{kind}/{name} is a name, and -l picks by labels; it takes one of both: \
                 linkerd-gate explain {kind}{place} -l {selector}"
            ),
            Self::Kind { kind, typed, place } => write!(
                f,
                "{kind} is not asked for by name; it takes pods, deployments, statefulsets, daemonsets, replicasets, \
                 replicationcontrollers, jobs and cronjobs; other kinds go as a file: \
                 kubectl get {typed}{place} -o yaml | linkerd-gate explain -f -"
            ),
            Self::Name { name, kind, place } => write!(
                f,
                "no {kind} can be called `{}`: a name takes lower case letters, digits, `-` and `.`; all there are: \
                 linkerd-gate explain {kind}{place}",
                plain(name)
            ),
            Self::NoSlash { word, first, place } => {
                let kind = first.split('/').next().unwrap_or_default();
                write!(
                    f,
                    "{word} is without its kind; it takes TYPE/NAME for each: linkerd-gate explain {first} {kind}/{word}{place}"
                )
            }
            Self::Url(url) => f.write_str(&source::url(url)),
            Self::File(file) => write!(f, "a file goes behind -f: linkerd-gate explain -f {file}"),
            Self::Folder(folder) => write!(f, "a folder goes behind -f: linkerd-gate explain -R -f {folder}"),
            Self::NoFile(file) => write!(
                f,
                "there is no file {file}, and files go behind -f; all manifests in and below this folder: \
                 linkerd-gate explain -R -f ."
            ),
        }
    }
}
