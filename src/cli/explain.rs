//! What `explain` takes.

mod refusal;
mod words;

pub use self::refusal::Refusal;
use super::PersonArguments;
use crate::cluster::Person;
use crate::command::explain::{Explain, Finding, Kind, Live, Output};
use crate::command::pod_name;
use crate::linkerd::TokenProjection;

pub(super) const EXIT_CODES: &str = "Exit codes:
  0    explained
  1    there is a finding that --fail-on asks for
  2    something is wrong with the input: what could be read was explained
  69   the cluster could not be reached, or has no such object";

pub(super) const EXAMPLES: &str = "Examples:
  linkerd-gate explain pod/web-0 -n shop
  linkerd-gate explain deploy/web -n shop
  linkerd-gate explain -A --missed
  linkerd-gate explain -A --missed -o commands
  linkerd-gate explain -f deployment.yaml --namespace-file namespace.yaml
  linkerd-gate explain -R -f manifests/ --fail-on missing-entry,broken-entry,warning
  helm template my-chart | linkerd-gate explain -f - -o json
  kubectl get pods -A -o yaml | linkerd-gate explain -f - -o name --fail-on missing-entry";

/// What `explain` takes.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags are independent of each other")]
pub struct ExplainArguments {
    /// YAML or JSON of pods, Deployments, Jobs, …, or a folder of such files; `-` is the standard input; can be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<String>,

    /// Look into the folders below a folder as well
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// YAML or JSON of the pods' namespaces, as in `kubectl get namespace NAME -o yaml`
    #[arg(long, value_name = "FILE")]
    pub namespace_file: Option<String>,

    /// YAML or JSON of Linkerd's webhook configuration, as in `kubectl get mutatingwebhookconfigurations -o yaml`
    #[arg(long, value_name = "FILE")]
    pub webhook_file: Option<String>,

    /// Judge for an installation with identity.serviceAccountTokenProjection=false
    #[arg(long)]
    pub no_token_projection: bool,

    /// For a person or for a program
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// Exit with 1 where there is such a finding; several by commas; not with --missed
    #[arg(long, value_enum, value_name = "FINDING", value_delimiter = ',')]
    pub fail_on: Vec<Finding>,

    /// Count the missed pods by owner: how many, how many of them are held, why
    #[arg(long)]
    pub missed: bool,

    /// Pods of all namespaces of the cluster
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// The namespace of what is explained in the cluster [default: default]
    #[arg(short, long, value_parser = pod_name::namespace)]
    pub namespace: Option<String>,

    /// Only what has these labels, as with kubectl
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// What is in the cluster: pod/NAME, deploy/NAME, job/NAME, … or a kind and names
    #[arg(value_name = "TYPE/NAME")]
    pub words: Vec<String>,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

/// What is explained: files, or what is in a cluster.
#[derive(Debug)]
pub enum Explained {
    /// Files: no cluster is asked.
    Files(Explain),
    /// What is in a cluster; with how to get there.
    Live(Live, Person),
}

// === impl ExplainArguments ===

impl ExplainArguments {
    /// What to explain, and how. Nothing is read or asked before.
    ///
    /// # Errors
    /// What is not written so: what to write instead.
    pub fn read(self) -> Result<Explained, Refusal> {
        let typed = self.words.join(" ");
        let Self { files, recursive, namespace_file, webhook_file, output, fail_on, words, person, .. } = self;
        let token_projection =
            if self.no_token_projection { TokenProjection::Disabled } else { TokenProjection::Enabled };
        let of_cluster = [
            (self.missed, "--missed"),
            (self.all_namespaces, "-A"),
            (self.namespace.is_some(), "-n"),
            (self.selector.is_some(), "-l"),
            (!words.is_empty(), "TYPE/NAME"),
        ];
        let of_cluster = of_cluster.into_iter().find_map(|(is_there, flag)| is_there.then_some(flag));
        let of_files = [
            (recursive, "-R"),
            (namespace_file.is_some(), "--namespace-file"),
            (webhook_file.is_some(), "--webhook-file"),
        ];
        let of_files = of_files.into_iter().find_map(|(is_there, flag)| is_there.then_some(flag));
        match (files.first(), of_cluster, of_files) {
            (Some(file), Some(flag), _) => return Err(Refusal::FilesAndCluster { file: file.clone(), flag }),
            (None, None, _) => return Err(Refusal::Nothing),
            (None, Some(_), Some(flag)) => return Err(Refusal::NeedsFiles(flag)),
            _ => {}
        }
        if output == Output::Commands && !self.missed {
            return Err(Refusal::CommandsWithoutMissed);
        }
        if !files.is_empty() {
            let explain = Explain { files, recursive, namespace_file, webhook_file, token_projection, output, fail_on };
            return Ok(Explained::Files(explain));
        }
        if self.missed {
            if !words.is_empty() {
                return Err(Refusal::MissedOf(typed));
            }
            if matches!(output, Output::Name | Output::Sarif) {
                return Err(Refusal::MissedAs(output));
            }
            if let Some(finding) = fail_on.first() {
                return Err(Refusal::MissedFails(*finding));
            }
        }
        if let (true, Some(namespace)) = (self.all_namespaces, &self.namespace) {
            return Err(Refusal::AllAndOne { typed, namespace: namespace.clone() });
        }
        let place = match &self.namespace {
            Some(namespace) => format!(" -n {namespace}"),
            None if self.all_namespaces => " -A".to_owned(),
            None => String::new(),
        };
        let kinds = if words.is_empty() { vec![(Kind::PODS, Vec::new())] } else { words::kinds(&words, &place)? };
        if let Some((kind, names)) = kinds.iter().find(|(_, names)| !names.is_empty()) {
            if self.all_namespaces {
                return Err(Refusal::NameInAll(typed));
            }
            if let Some(selector) = self.selector {
                let kind = kind.name();
                return Err(Refusal::NameAndSelector { name: names[0].clone(), kind, selector, place });
            }
        }
        let namespace = if self.all_namespaces || self.missed && self.namespace.is_none() {
            None
        } else {
            Some(self.namespace.unwrap_or_else(|| "default".to_owned()))
        };
        let Self { selector, missed, .. } = self;
        let live = Live { kinds, namespace, selector, missed, token_projection, output, fail_on };
        Ok(Explained::Live(live, person.read()))
    }
}
