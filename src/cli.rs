//! The command line: subcommands and flags. Roles are configured by environment only.

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    cluster::{Person, Subject},
    command::{
        by_hand,
        explain::{Explain, Finding, Output},
        pod_name,
        recreate::Recreate,
        release::Release,
        uninstall::Uninstall,
        version,
    },
    config::table,
    decide::node::TAINT_KEY,
    linkerd::TokenProjection,
};
use std::{io, path::PathBuf, time::Duration};

/// Keeps workloads from starting outside the Linkerd mesh after a cluster or node boot.
#[derive(Debug, Parser)]
#[command(name = "linkerd-gate", version, about)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// One for each role or command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold this pod until Linkerd can inject and certify (an init container)
    #[command(
        long_about = "Holds its pod until Linkerd can inject and certify, and never lets a pod start that asked for the \
                      mesh and was created without a proxy. Runs as an init container; configured by environment only.",
        after_help = exit_codes(),
        after_long_help = format!("{}\n\n{}", table::help(table::WAIT), exit_codes()),
    )]
    Wait,

    /// Close this node at each boot, open it when injection is proven, answer the `wait`s on it (a DaemonSet)
    #[command(
        long_about = "Closes its node at each boot by a taint, opens it when injection is proven, and answers the `wait`s on \
                      it at :4192/gate. One agent of the cluster proves injection for all. Runs as a DaemonSet; configured by \
                      environment only.",
        after_help = exit_codes(),
        after_long_help = format!("{}\n\n{}", table::help(table::AGENT), exit_codes()),
    )]
    Agent,

    /// Replace pods that slipped past the injector, and wake owners whose pods were refused (a Deployment)
    #[command(
        long_about = "Finds the pods that ask for Linkerd and were created without its proxy, and has their owners make them anew \
                      once injection is proven: those that never ran by default, those that run where it is told to. Asks \
                      owners whose creates were refused for want of injection to try again. Opens nodes whose agent is gone. Of \
                      two replicas one acts. Runs as a Deployment; configured by environment only.",
        after_help = exit_codes(),
        after_long_help = format!("{}\n\n{}", table::help(table::CONTROLLER), exit_codes()),
    )]
    Controller,

    /// Say whether a pod would be injected, by which rule, and what to do, from its manifest alone
    #[command(
        long_about = "Says of every pod, and of everything that makes pods, in the given files whether Linkerd would inject \
                      it, by which rule, whether it is meshed, whether it holds the linkerd-gate entry properly, and what to \
                      do. The cluster is not asked: what the files do not tell is assumed, and said to be assumed.",
        after_help = EXPLAIN_EXIT_CODES,
        after_long_help = format!("{EXPLAIN_EXAMPLES}\n\n{EXPLAIN_EXIT_CODES}")
    )]
    Explain(ExplainArguments),

    /// Break the glass: let pods start on nodes for a while, whatever Linkerd does
    #[command(
        after_long_help = format!("{OPEN_EXAMPLES}\n\n{COMMAND_EXIT_CODES}"),
        long_about = "Opens nodes by hand, for a time: their taint goes, and every linkerd-gate entry there lets its pod \
                      through, whether Linkerd injects or not. It is one annotation, linkerd-gate/override, on each Node or, \
                      for all of them, on the agents' Lease. Agents obey it even where nobody proves anything.",
        after_help = COMMAND_EXIT_CODES
    )]
    Open(SayArguments),

    /// Break the glass: let no new pod start on nodes for a while, whatever Linkerd does
    #[command(
        after_long_help = format!("{CLOSE_EXAMPLES}\n\n{COMMAND_EXIT_CODES}"),
        long_about = "Closes nodes by hand, for a time: they are tainted, and every linkerd-gate entry there holds its pod. \
                      What runs there goes on running. It is one annotation, as with `open`.",
        after_help = COMMAND_EXIT_CODES
    )]
    Close(SayArguments),

    /// Take back what `open` or `close` said: what is proven counts again
    #[command(after_help = format!("Example:\n  linkerd-gate forget worker-1\n\n{COMMAND_EXIT_CODES}"))]
    Forget(ForgetArguments),

    /// Let held pods start outside the mesh: take linkerd-gate's scheduling gate off them
    #[command(
        long_about = "Takes the scheduling gate linkerd-gate/injected off held pods (kubectl shows them as SchedulingGated) and \
                      marks each with the annotation linkerd-gate/release=true. They start outside the mesh, without a proxy: \
                      meshed peers may refuse their traffic. Gates of other programs stay. Needs no controller. Each release is \
                      a Warning Event on its pod.",
        after_help = format!(
            "Examples:\n  linkerd-gate release pod/web-7d4b9c-x2x7p -n shop\n  linkerd-gate release --all -n shop\n\n{COMMAND_EXIT_CODES}"
        )
    )]
    Release(ReleaseArguments),

    /// Make a held pod again that no controller owns, in the mesh, without losing it
    #[command(
        long_about = "Makes an ownerless held pod again: reads it, tries to create it in a dry run under another name, and only \
                      if that comes back with linkerd-proxy deletes it and creates it again. Its manifest is in a file \
                      meanwhile; where the create fails after all, the file stays and its name is printed. A pod with an owner \
                      is refused: its owner creates it again.",
        after_help = format!("Example:\n  linkerd-gate recreate pod/shell -n shop\n\n{COMMAND_EXIT_CODES}")
    )]
    Recreate(RecreateArguments),

    /// Take everything of linkerd-gate out of the way before its manifests are deleted, held pods included
    #[command(
        long_about = "Without --now it only says what is there and what would be done. With --now, in this order: deletes the \
                      controller and the admission bindings; lets held pods go (deletes those whose owners create them again, \
                      where injection is proven, and releases the others, which start outside the mesh); resumes Jobs that \
                      linkerd-gate has suspended; deletes the agents; lifts taints and annotations off nodes; deletes the \
                      Leases. What fails is named, the rest is done all the same, and the same command again does what is left. \
                      Policies, rights and namespaces are left to `helm uninstall` or `kubectl delete -f`. Needs neither our \
                      controller nor our image in the cluster.",
        after_help = format!("Example:\n  linkerd-gate uninstall --now && kubectl delete -f deploy/manifests/\n\n{COMMAND_EXIT_CODES}")
    )]
    Uninstall(UninstallArguments),

    /// Say which versions are here and in the cluster
    #[command(
        long_about = "Says the version of this program and, unless --client, those of the cluster: of Kubernetes, of Linkerd's \
                      injector, and of linkerd-gate's agents and controllers, by their images. What may not be read is named.",
        after_help = format!("Examples:\n  linkerd-gate version --client\n  linkerd-gate version -o json\n\n{COMMAND_EXIT_CODES}")
    )]
    Version(VersionArguments),

    /// Print a shell's completions of this program
    #[command(
        after_help = "Examples:\n  source <(linkerd-gate completion bash)\n  linkerd-gate completion zsh > \"${fpath[1]}/_linkerd-gate\"\n  \
                      linkerd-gate completion fish > ~/.config/fish/completions/linkerd-gate.fish"
    )]
    Completion {
        /// Which shell
        #[arg(value_enum)]
        shell: CompletionShell,
    },
}

/// A shell that completes what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CompletionShell {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
    /// Windows PowerShell, and PowerShell elsewhere
    Powershell,
}

/// What `version` takes.
#[derive(Debug, clap::Args)]
pub struct VersionArguments {
    /// Only this program's: no cluster is asked
    #[arg(long)]
    pub client: bool,

    /// For a person or for a program
    #[arg(short, long, value_enum, default_value_t)]
    pub output: version::Output,

    /// The namespace of the agents and the controller
    #[arg(long, short, value_parser = pod_name::namespace, default_value = "linkerd-gate")]
    pub namespace: String,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

const OPEN_EXAMPLES: &str = "Examples:
  linkerd-gate open worker-1 --for 1h
  linkerd-gate open --all --for 30m --dry-run";

const CLOSE_EXAMPLES: &str = "Examples:
  linkerd-gate close worker-1 --for 1h
  linkerd-gate close --all --for 30m --dry-run";

const COMMAND_EXIT_CODES: &str = "Exit codes:
  0    done
  2    bad usage: nothing was done
  69   the cluster could not be reached, or refused: what was done all the same is on standard output";

const EXPLAIN_EXIT_CODES: &str = "Exit codes:
  0    explained
  1    there is a finding that --fail-on asks for
  2    something is wrong with the input: what could be read was explained";

const EXPLAIN_EXAMPLES: &str = "Examples:
  linkerd-gate explain -f deployment.yaml --namespace-file namespace.yaml
  linkerd-gate explain -R -f manifests/ --fail-on missing-entry,broken-entry,warning
  helm template my-chart | linkerd-gate explain -f - -o json
  kubectl get pods -A -o yaml | linkerd-gate explain -f - -o name --fail-on missing-entry";

/// What `open` and `close` take.
#[derive(Debug, clap::Args)]
pub struct SayArguments {
    /// How long it holds, from 1m to 168h: 90s, 30m, 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = by_hand::lasts)]
    pub lasts: Duration,

    /// Ask the API server to do everything but store it
    #[arg(long)]
    pub dry_run: bool,

    /// Where.
    #[command(flatten)]
    pub places: PlaceArguments,
}

/// What `forget` takes.
#[derive(Debug, clap::Args)]
pub struct ForgetArguments {
    /// Where.
    #[command(flatten)]
    pub places: PlaceArguments,
}

/// Which nodes, of which cluster.
#[derive(Debug, clap::Args)]
pub struct PlaceArguments {
    /// Names of nodes
    #[arg(value_name = "NODE", value_parser = by_hand::node, required_unless_present = "all")]
    pub nodes: Vec<String>,

    /// Every node, those that join meanwhile too
    #[arg(long, conflicts_with = "nodes")]
    pub all: bool,

    /// The agents' namespace, where the Lease is that `--all` writes to
    #[arg(long, short, default_value = "linkerd-gate")]
    pub namespace: String,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

/// What `release` takes.
#[derive(Debug, clap::Args)]
pub struct ReleaseArguments {
    /// The held pods, as pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name::pod, required_unless_present = "all")]
    pub pods: Vec<String>,

    /// Every pod of the namespace that linkerd-gate's gate holds
    #[arg(long, conflicts_with = "pods")]
    pub all: bool,

    /// The namespace of the pods
    #[arg(long, short, value_parser = pod_name::namespace, default_value = "default")]
    pub namespace: String,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

/// What `recreate` takes.
#[derive(Debug, clap::Args)]
pub struct RecreateArguments {
    /// The held pod, as pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name::pod)]
    pub pod: String,

    /// The namespace of the pod
    #[arg(long, short, value_parser = pod_name::namespace, default_value = "default")]
    pub namespace: String,

    /// Where the pod's manifest is kept until it is created again [default: the directory for temporary files]
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

/// What `uninstall` takes.
#[derive(Debug, clap::Args)]
pub struct UninstallArguments {
    /// Do it; without this flag it is only said what would be done
    #[arg(long)]
    pub now: bool,

    /// The namespace of the agents and the controller
    #[arg(long, short, value_parser = pod_name::namespace, default_value = "linkerd-gate")]
    pub namespace: String,

    /// The namespace of dry-run pods
    #[arg(long, value_parser = pod_name::namespace, default_value = "linkerd-gate-probe")]
    pub probe_namespace: String,

    /// The key of the taint of closed nodes
    #[arg(long, value_name = "KEY", default_value = TAINT_KEY)]
    pub taint_key: String,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

/// With whose rights, on which cluster.
#[derive(Debug, clap::Args)]
pub struct PersonArguments {
    /// The context of the kubeconfig
    #[arg(long)]
    pub context: Option<String>,

    /// The kubeconfig [default: what KUBECONFIG names, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Impersonate this user
    #[arg(long = "as", value_name = "USER")]
    pub user: Option<String>,

    /// Impersonate a member of this group; can be given several times
    #[arg(long = "as-group", value_name = "GROUP", requires = "user")]
    pub groups: Vec<String>,
}

/// What `explain` takes.
#[derive(Debug, clap::Args)]
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

    /// What belongs behind -f: told so.
    #[arg(hide = true, value_name = "FILE")]
    pub words: Vec<String>,
}

// === impl PlaceArguments ===

impl PlaceArguments {
    /// Whom it is about, and how to get there.
    pub fn read(self) -> (Vec<Subject>, Person) {
        let Self { nodes, all, namespace, person } = self;
        let subjects =
            if all { vec![Subject::All { namespace }] } else { nodes.into_iter().map(Subject::Node).collect() };
        (subjects, person.read())
    }
}

// === impl ReleaseArguments ===

impl ReleaseArguments {
    /// What is released, and how to get there.
    pub fn read(self) -> (Release, Person) {
        let Self { pods, all: _, namespace, person } = self;
        (Release { namespace, pods }, person.read())
    }
}

// === impl RecreateArguments ===

impl RecreateArguments {
    /// What is made again, and how to get there. `temporary` is the directory for temporary files.
    pub fn read(self, temporary: PathBuf) -> (Recreate, Person) {
        let Self { pod, namespace, directory, person } = self;
        (Recreate { namespace, pod, directory: directory.unwrap_or(temporary) }, person.read())
    }
}

// === impl UninstallArguments ===

impl UninstallArguments {
    /// What is uninstalled, and how to get there.
    pub fn read(self) -> (Uninstall, Person) {
        let Self { now, namespace, probe_namespace, taint_key, person } = self;
        (Uninstall { now, namespace, probe_namespace, taint_key }, person.read())
    }
}

// === impl PersonArguments ===

impl PersonArguments {
    /// As the cluster's clients are made of it.
    pub fn read(self) -> Person {
        let Self { context, kubeconfig, user, groups } = self;
        Person { context, kubeconfig, user, groups }
    }
}

// === impl ExplainArguments ===

impl ExplainArguments {
    /// What to write instead, where this is not how it is written.
    pub fn tip(&self) -> Option<String> {
        let word = match (self.words.first(), self.files.is_empty()) {
            (Some(word), _) => word,
            (None, false) => return None,
            (None, true) => {
                let tip = "explain reads manifests: linkerd-gate explain -f FILE, or -f - for the standard input";
                return Some(tip.to_owned());
            }
        };
        let bare_kind = matches!(word.as_str(), "pod" | "pods" | "po" | "deployment" | "deploy" | "job" | "cronjob");
        Some(if word.contains('/') && !std::path::Path::new(word).exists() || bare_kind {
            let object = self.words.join(" ");
            format!(
                "explain asks no cluster, it reads manifests: kubectl get {object} -o yaml | linkerd-gate explain -f -"
            )
        } else {
            format!("a file goes behind -f: linkerd-gate explain -f {word}")
        })
    }

    /// What to explain, and how.
    pub fn read(self) -> Explain {
        let Self { files, recursive, namespace_file, webhook_file, no_token_projection, output, fail_on, words: _ } =
            self;
        let token_projection = if no_token_projection { TokenProjection::Disabled } else { TokenProjection::Enabled };
        Explain { files, recursive, namespace_file, webhook_file, token_projection, output, fail_on }
    }
}

/// Writes a shell's completions.
///
/// # Errors
/// An output that cannot be written.
pub fn write_completion(shell: CompletionShell, out: &mut impl io::Write) -> io::Result<()> {
    let shell = match shell {
        CompletionShell::Bash => clap_complete::Shell::Bash,
        CompletionShell::Zsh => clap_complete::Shell::Zsh,
        CompletionShell::Fish => clap_complete::Shell::Fish,
        CompletionShell::Powershell => clap_complete::Shell::PowerShell,
    };
    // It panics where it cannot write: into memory it can.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "linkerd-gate", &mut script);
    out.write_all(&script)?;
    out.flush()
}

/// What to write instead, where somebody gives a role a flag: roles are configured by variables.
pub fn tip_for_role(arguments: &[String]) -> Option<String> {
    let given = arguments.get(2..)?;
    let role = table::Role::ALL.iter().find(|role| role.as_str() == arguments[1])?;
    let at = given.iter().position(|argument| argument.starts_with("--") && argument != "--help")?;
    let flag = given[at].trim_start_matches('-');
    let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
    let value = value.or_else(|| given.get(at + 1).map(String::as_str));
    let name = format!("{}{}", table::PREFIX, name.replace('-', "_").to_ascii_uppercase());
    let role_name = role.as_str();
    Some(match role.find(&name) {
        Some(known) => format!(
            "`{role_name}` is configured by variables: {name}={} linkerd-gate {role_name}, or in a pod's env: {{name: {name}, value: ...}}",
            value.unwrap_or(known.example)
        ),
        None => format!("`{role_name}` is configured by variables, which `linkerd-gate {role_name} --help` lists"),
    })
}

fn exit_codes() -> String {
    let lines: Vec<String> =
        crate::exit::Exit::ALL.iter().map(|exit| format!("  {:<4} {}", exit.code(), exit.meaning())).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}
