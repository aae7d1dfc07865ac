//! The command line: subcommands and flags. Roles are configured by environment only.

use clap::{Parser, Subcommand};

use crate::{
    cluster::{Person, Subject},
    command::{by_hand, explain::Output},
    config::table,
};
use std::{path::PathBuf, time::Duration};

/// Keeps workloads from starting outside the Linkerd mesh after a cluster or node boot.
#[derive(Debug, Parser)]
#[command(name = "linkerd-gate", version, about, disable_help_subcommand = true)]
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
        after_help = "Exit codes:\n  0    explained\n  2    bad input: nothing was explained"
    )]
    Explain(ExplainArguments),

    /// Break the glass: let pods start on nodes for a while, whatever Linkerd does
    #[command(
        long_about = "Opens nodes by hand, for a time: their taint goes, and every linkerd-gate entry there lets its pod \
                      through, whether Linkerd injects or not. It is one annotation, linkerd-gate/override, on each Node or, \
                      for all of them, on the agents' Lease. Agents obey it even where nobody proves anything.",
        after_help = COMMAND_EXIT_CODES
    )]
    Open(SayArguments),

    /// Break the glass: let no new pod start on nodes for a while, whatever Linkerd does
    #[command(
        long_about = "Closes nodes by hand, for a time: they are tainted, and every linkerd-gate entry there holds its pod. \
                      What runs there goes on running. It is one annotation, as with `open`.",
        after_help = COMMAND_EXIT_CODES
    )]
    Close(SayArguments),

    /// Take back what `open` or `close` said: what is proven counts again
    #[command(after_help = COMMAND_EXIT_CODES)]
    Forget(ForgetArguments),
}

const COMMAND_EXIT_CODES: &str = "Exit codes:
  0    done
  2    bad usage: nothing was done
  69   the cluster could not be reached, or refused: what was done all the same is on standard output";

/// What `open` and `close` take.
#[derive(Debug, clap::Args)]
pub struct SayArguments {
    /// How long it holds, from 1m to 168h: 90s, 30m, 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = by_hand::lasts)]
    pub lasts: Duration,

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
    /// YAML or JSON of pods, Deployments, Jobs, …; `-` is the standard input; can be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<String>,

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
}

// === impl PlaceArguments ===

impl PlaceArguments {
    /// Whom it is about, and how to get there.
    pub fn read(self) -> (Vec<Subject>, Person) {
        let Self { nodes, all, namespace, context, kubeconfig, user, groups } = self;
        let subjects =
            if all { vec![Subject::All { namespace }] } else { nodes.into_iter().map(Subject::Node).collect() };
        (subjects, Person { context, kubeconfig, user, groups })
    }
}

fn exit_codes() -> String {
    let lines: Vec<String> =
        crate::exit::Exit::ALL.iter().map(|exit| format!("  {:<4} {}", exit.code(), exit.meaning())).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}
