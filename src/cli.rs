//! The command line: subcommands and flags. Roles are configured by environment only.

use clap::{Parser, Subcommand};

use crate::config::table;

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
}

fn exit_codes() -> String {
    let lines: Vec<String> =
        crate::exit::Exit::ALL.iter().map(|exit| format!("  {:<4} {}", exit.code(), exit.meaning())).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}
