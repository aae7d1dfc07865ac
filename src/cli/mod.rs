//! The command line: subcommands and flags. Roles are configured by environment only.

mod check;
mod completion;
mod explain;
mod install;
mod report;
mod tip;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

pub use self::check::{CheckArguments, for_linkerd};
pub use self::completion::{CompletionShell, write_completion};
pub use self::explain::{ExplainArguments, Explained, Refusal};
pub use self::install::{InstallArguments, StatusArguments};
pub use self::report::ReportArguments;
pub use self::tip::tip_for_role;
use crate::cluster::{OverrideTarget, Person};
use crate::command::recreate::Recreate;
use crate::command::release::Release;
use crate::command::uninstall::Uninstall;
use crate::command::{manual_override, pod_name, version};
use crate::config::table;
use crate::decide::node::taint::TAINT_KEY;

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
        after_long_help = format!(
            "Examples:\n  kubectl logs web-0 -n shop -c linkerd-gate\n  linkerd-gate explain pod/web-0 -n shop\n\n{}\n\n{}",
            table::help(table::WAIT),
            exit_codes()
        ),
    )]
    Wait,

    /// Close this node at each boot, open it when injection is proven, answer the `wait`s on it (a DaemonSet)
    #[command(
        long_about = "Closes its node at each boot by a taint, opens it when injection is proven, and answers the `wait`s on \
                      it at :4192/gate. One agent of the cluster proves injection for all. Runs as a DaemonSet; configured by \
                      environment only.",
        after_help = exit_codes(),
        after_long_help = format!(
            "Examples:\n  kubectl logs daemonset/linkerd-gate -n linkerd-gate\n  kubectl set env daemonset/linkerd-gate -n linkerd-gate LINKERD_GATE_MODE=audit\n\n{}\n\n{}",
            table::help(table::AGENT),
            exit_codes()
        ),
    )]
    Agent,

    /// Replace pods that lack Linkerd's proxy, and retry owners whose pods were refused (a Deployment)
    #[command(
        long_about = "Finds the pods that request injection and have no proxy, and has their owners create them again once \
                      injection is proven: by default those in which no container has started, by LINKERD_GATE_REPAIR=running the \
                      others too. Retries owners whose pods admission refused. Opens closed nodes that have no agent. Of two \
                      replicas one acts. Runs as a Deployment; configured by environment only.",
        after_help = exit_codes(),
        after_long_help = format!(
            "Examples:\n  kubectl logs deployment/linkerd-gate-controller -n linkerd-gate\n  kubectl set env deployment/linkerd-gate-controller -n linkerd-gate LINKERD_GATE_MODE=audit\n\n{}\n\n{}",
            table::help(table::CONTROLLER),
            exit_codes()
        ),
    )]
    Controller,

    /// Look at the cluster and say what is wrong, why, and what to type; changes nothing
    #[command(
        long_about = "Looks at linkerd-gate, at Linkerd as the creation of a pod meets it, at nodes and at pods: how many are outside \
                      the mesh, their owners, why, what to type, and what the next power cut would do. Reads only; a dry-run pod that is \
                      never stored shows whether injection works. What may not be read is named, and the rest is checked. `linkerd \
                      gate check` is the same.",
        after_help = check::EXIT_CODES,
        after_long_help = format!("{}\n\n{}", check::EXAMPLES, check::EXIT_CODES)
    )]
    Check(CheckArguments),

    /// Say whether a pod would be injected, by which rule, and what to do: of files, or of what is in the cluster
    #[command(
        long_about = "Says of every pod, and of everything that makes pods, whether Linkerd would inject it, by which rule, whether \
                      it is meshed, whether it holds the linkerd-gate entry properly, and what to do. With -f it reads files and asks \
                      no cluster: what the files do not tell is assumed, and said to be assumed. Without -f it reads what is in the \
                      cluster, with its namespaces and Linkerd's webhook.",
        after_help = explain::EXIT_CODES,
        after_long_help = format!("{}\n\n{}", explain::EXAMPLES, explain::EXIT_CODES)
    )]
    Explain(ExplainArguments),

    /// Manual override: let pods start on nodes for a while, whatever Linkerd does
    #[command(
        after_long_help = format!("{OPEN_EXAMPLES}\n\n{COMMAND_EXIT_CODES}"),
        long_about = "Opens nodes for a time: the node's agent lifts the taint, and each `wait` on the node lets its pod start, \
                      injected or not. Writes one annotation, linkerd-gate/override, on each Node, or with --all on the agents' \
                      Lease. An agent obeys it even while no agent proves injection; a node without an agent stays as it is. \
                      Only --all also frees held pods (SchedulingGated): the controller takes the scheduling gate off them.",
        after_help = COMMAND_EXIT_CODES
    )]
    Open(SayArguments),

    /// Manual override: let no new pod start on nodes for a while, whatever Linkerd does
    #[command(
        after_long_help = format!("{CLOSE_EXAMPLES}\n\n{COMMAND_EXIT_CODES}"),
        long_about = "Closes nodes for a time: the node's agent taints it, and each `wait` on the node holds its pod. Running \
                      pods go on. With --all the controller also replaces no pod meanwhile. Writes one annotation, as `open` does.",
        after_help = COMMAND_EXIT_CODES
    )]
    Close(SayArguments),

    /// Remove a manual override of `open` or `close`: automatic control resumes
    #[command(after_help = format!("Example:\n  linkerd-gate clear worker-1\n\n{COMMAND_EXIT_CODES}"))]
    Clear(ClearArguments),

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

    /// Print the manifests, for kubectl apply
    #[command(
        long_about = "Prints what deploy/manifests holds, with this image: namespaces, agents, controller, admission. Asks the cluster \
                      for its version only. No image is published yet: `make image` builds one, which you push.",
        after_help = format!("{}\n\n{COMMAND_EXIT_CODES}", install::INSTALL_EXAMPLES)
    )]
    Install(InstallArguments),

    /// Show one screen of what there is: verdict, prover, leader, versions, nodes, pods
    #[command(after_help = format!("Examples:\n  linkerd-gate status\n  linkerd-gate status -o json\n\n{COMMAND_EXIT_CODES}"))]
    Status(StatusArguments),

    /// Tell the cluster's last boot: when nodes closed and opened and why, which pods were held, what is still outside the mesh
    #[command(
        long_about = "Tells what the cluster's last boot did, from its Events, Nodes, Leases and pods: when each node was closed and \
                      opened, and why; when Linkerd could inject; which pods were held, created again, or are still outside the mesh. \
                      As Markdown for a post-mortem, as one self-contained page of HTML, or as JSON. Reads only. What could not \
                      be read is named, and nothing is stated about it. Kubernetes keeps Events for an hour by default.",
        after_help = COMMAND_EXIT_CODES,
        after_long_help = format!("{}\n\n{COMMAND_EXIT_CODES}", report::EXAMPLES)
    )]
    Report(ReportArguments),

    /// What Linkerd's CLI asks of an extension; no cluster is asked
    #[command(name = "_extension-metadata", hide = true)]
    ExtensionMetadata,

    /// Take everything of linkerd-gate out of the way before its manifests are deleted, held pods included
    #[command(
        long_about = "Without --now it only says what is there and what would be done. With --now, in this order: deletes the \
                      controller and the admission bindings; lets held pods go (deletes those whose owners create them again, \
                      where injection is proven, and releases the others, which start outside the mesh); resumes Jobs that \
                      linkerd-gate has suspended; deletes the agents; lifts taints and annotations off nodes; deletes the \
                      Leases. What fails is named, the rest is done all the same, and the same command again does what is left. \
                      Policies, rights and namespaces are left to `helm uninstall` or `kubectl delete -k`. Needs neither our \
                      controller nor our image in the cluster.",
        after_help = format!("Example:\n  linkerd-gate uninstall --now && kubectl delete -k deploy/manifests\n\n{COMMAND_EXIT_CODES}")
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

/// What `open` and `close` take.
#[derive(Debug, clap::Args)]
pub struct SayArguments {
    /// How long it holds, from 1m to 168h: 90s, 30m, 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = manual_override::lasts)]
    pub lasts: Duration,

    /// Ask the API server to do everything but store it
    #[arg(long)]
    pub dry_run: bool,

    /// Where.
    #[command(flatten)]
    pub places: PlaceArguments,
}

/// What `clear` takes.
#[derive(Debug, clap::Args)]
pub struct ClearArguments {
    /// Where.
    #[command(flatten)]
    pub places: PlaceArguments,
}

/// Which nodes, of which cluster.
#[derive(Debug, clap::Args)]
pub struct PlaceArguments {
    /// Names of nodes
    #[arg(value_name = "NODE", value_parser = manual_override::node, required_unless_present = "all")]
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

    /// Linkerd's namespace: taken, as every extension of Linkerd's takes it; the webhook's configuration tells it
    #[arg(long, short = 'L', value_name = "NAMESPACE", hide = true)]
    pub linkerd_namespace: Option<String>,

    /// Linkerd's API: taken likewise, and not used
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub api_addr: Option<String>,

    /// Taken likewise; there is nothing more to say
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, hide = true)]
    pub verbose: Option<bool>,
}

// === impl PlaceArguments ===

impl PlaceArguments {
    /// The nodes, and the access to the cluster.
    pub fn read(self) -> (Vec<OverrideTarget>, Person) {
        let Self { nodes, all, namespace, person } = self;
        let subjects = if all {
            vec![OverrideTarget::All { namespace }]
        } else {
            nodes.into_iter().map(OverrideTarget::Node).collect()
        };
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
        let Self { context, kubeconfig, user, groups, linkerd_namespace: _, api_addr: _, verbose: _ } = self;
        Person { context, kubeconfig, user, groups }
    }
}

fn exit_codes() -> String {
    let lines: Vec<String> =
        crate::exit::Exit::ALL.iter().map(|exit| format!("  {:<4} {}", exit.code(), exit.meaning())).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}
