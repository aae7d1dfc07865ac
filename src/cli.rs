//! The command line: subcommands and flags. Roles are configured by environment only.

use clap::{Parser, Subcommand};

use crate::{command::explain::Output, config::table};

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

    /// Say whether a pod would be injected, by which rule, and what to do, from its manifest alone
    #[command(
        long_about = "Says of every pod, and of everything that makes pods, in the given files whether Linkerd would inject \
                      it, by which rule, whether it is meshed, whether it holds the linkerd-gate entry properly, and what to \
                      do. The cluster is not asked: what the files do not tell is assumed, and said to be assumed.",
        after_help = "Exit codes:\n  0    explained\n  2    bad input: nothing was explained"
    )]
    Explain(ExplainArguments),
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

fn exit_codes() -> String {
    let lines: Vec<String> =
        crate::exit::Exit::ALL.iter().map(|exit| format!("  {:<4} {}", exit.code(), exit.meaning())).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}
