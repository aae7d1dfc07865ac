//! What `explain` takes.

use super::PersonArguments;
use crate::{
    cluster::Person,
    command::{
        explain::{Explain, Finding, Kind, Live, Output},
        pod_name,
    },
    linkerd::TokenProjection,
};

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

    /// Exit with 1 where there is such a finding; several by commas
    #[arg(long, value_enum, value_name = "FINDING", value_delimiter = ',')]
    pub fail_on: Vec<Finding>,

    /// Count the missed pods by owner: how many, how many of them are held, why
    #[arg(long, conflicts_with_all = ["files", "words"])]
    pub missed: bool,

    /// Pods of all namespaces of the cluster
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,

    /// The namespace of what is explained in the cluster [default: default]
    #[arg(short, long, value_parser = pod_name::namespace)]
    pub namespace: Option<String>,

    /// Only what has these labels, as with kubectl
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// What is in the cluster: pod/NAME, deploy/NAME, job/NAME, … or a kind and names
    #[arg(value_name = "TYPE/NAME", conflicts_with = "files")]
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
    /// What to explain, and how.
    ///
    /// # Errors
    /// What is not written so: what to write instead.
    pub fn read(self) -> Result<Explained, String> {
        let is_live = self.missed || self.all_namespaces || self.namespace.is_some() || self.selector.is_some();
        let Self { files, recursive, namespace_file, webhook_file, output, fail_on, words, person, .. } = self;
        let token_projection =
            if self.no_token_projection { TokenProjection::Disabled } else { TokenProjection::Enabled };
        if output == Output::Commands && !self.missed {
            return Err("-o commands is for missed pods: linkerd-gate explain -A --missed -o commands".to_owned());
        }
        if self.missed && matches!(output, Output::Name | Output::Sarif) {
            return Err(
                "--missed counts by owner: -o text, json or commands; for each pod: linkerd-gate explain -A -o name"
                    .to_owned(),
            );
        }
        if files.is_empty() && words.is_empty() && !is_live {
            return Err("there is nothing to explain: linkerd-gate explain -f FILE, explain pod/NAME -n NAMESPACE, or explain -A".to_owned());
        }
        if !files.is_empty() {
            if is_live {
                return Err("-A, -n, -l and --missed are of a cluster, and -f reads files: give one of both".to_owned());
            }
            let explain = Explain { files, recursive, namespace_file, webhook_file, token_projection, output, fail_on };
            return Ok(Explained::Files(explain));
        }
        if namespace_file.is_some() || webhook_file.is_some() || recursive {
            return Err(
                "--namespace-file, --webhook-file and -R go with -f: a cluster tells these by itself".to_owned()
            );
        }
        let namespace = if self.all_namespaces || self.missed && self.namespace.is_none() {
            None
        } else {
            Some(self.namespace.unwrap_or_else(|| "default".to_owned()))
        };
        let kinds = if words.is_empty() { vec![(Kind::PODS, Vec::new())] } else { kinds(&words)? };
        if namespace.is_none() && kinds.iter().any(|(_, names)| !names.is_empty()) {
            return Err(format!(
                "one object is in one namespace: linkerd-gate explain {} -n NAMESPACE",
                words.join(" ")
            ));
        }
        let Self { selector, missed, .. } = self;
        let live = Live { kinds, namespace, selector, missed, token_projection, output, fail_on };
        Ok(Explained::Live(live, person.read()))
    }
}

/// `pod/web deploy/shop`, or `pod web-0 web-1`, or `deploy`.
fn kinds(words: &[String]) -> Result<Vec<(Kind, Vec<String>)>, String> {
    let known = |name: &str| {
        Kind::named(name).ok_or_else(|| {
            format!(
                "{name} is not asked for by name; give it as a file: kubectl get {} -o yaml | linkerd-gate explain -f -",
                words.join(" ")
            )
        })
    };
    let name = |name: &str| match pod_name::name(name) {
        Ok(name) => Ok(name),
        Err(why) => Err(format!("{name}: {why}")),
    };
    if words[0].contains('/') {
        let mut found: Vec<(Kind, Vec<String>)> = Vec::new();
        for word in words {
            if std::path::Path::new(word).exists() || word.starts_with("http") {
                return Err(behind_f(word));
            }
            let (kind, rest) = word.split_once('/').ok_or_else(|| behind_f(word))?;
            let (kind, rest) = (known(kind)?, name(rest)?);
            match found.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, names)) => names.push(rest),
                None => found.push((kind, vec![rest])),
            }
        }
        return Ok(found);
    }
    match Kind::named(&words[0]) {
        Some(kind) => Ok(vec![(kind, words[1..].iter().map(|word| name(word)).collect::<Result<_, _>>()?)]),
        None if words.len() > 1 => known(&words[0]).map(|kind| vec![(kind, Vec::new())]),
        None => Err(behind_f(&words[0])),
    }
}

fn behind_f(word: &str) -> String {
    format!("a file goes behind -f: linkerd-gate explain -f {word}")
}
