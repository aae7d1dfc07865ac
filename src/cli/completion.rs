//! Completions for shells.

use super::Cli;
use clap::CommandFactory as _;
use std::io;

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
