//! What the two programs run: argv becomes a role or a command, its end becomes an exit code; nothing else.

mod process;
mod waiting;

use std::io::{StdoutLock, Write as _};
use std::process::ExitCode;

use self::process::{misconfigured, run};
pub use self::waiting::main as wait_main;

use crate::cli;
use crate::cli::{
    CheckArguments, Cli, Command, ExplainArguments, PlaceArguments, VersionArguments, for_linkerd, tip_for_role,
    write_completion,
};
use crate::cluster::{self, Person, Replacing};
use crate::command::explain::{ExplainError, Explained, Live, explain, explain_live};
use crate::command::manual_override::{self, OverrideCommand};
use crate::command::not_done::NotDone;
use crate::command::{check, install, recreate, release, report, status, uninstall, version};
use crate::config::{AgentSettings, ControllerSettings, OwnPod};
use crate::exit::Exit;
use crate::role::wait::Replacer;
use crate::role::{agent, controller};
use clap::Parser as _;

/// Says it on standard error. `eprintln` would panic where that is closed or full.
macro_rules! tell {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($text)*); // standard error is closed or full
    }};
}

/// Its name is the program's; without `checks: always` its checks run where a namespace says that it is installed
/// (linkerd2 `EXTENSIONS.md`).
const EXTENSION_METADATA: &str = r#"{"name":"linkerd-gate"}"#;

/// The whole program: reads the arguments of the process, runs a role or a command, and returns the exit code of its end.
pub fn main() -> ExitCode {
    let (arguments, left_out) = for_linkerd(std::env::args_os().collect());
    if !left_out.is_empty() {
        // Where it is closed, there is no reader.
        let _ = writeln!(std::io::stderr(), "linkerd-gate: not known, and left out: {}", left_out.join(", "));
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help and version are answers, not errors; clap tells them apart and writes each where it belongs.
        Err(answer) => {
            let exit = if answer.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = answer.print(); // Standard output is closed: no reader is left.
            let arguments: Vec<_> = std::env::args_os().filter_map(|argument| argument.into_string().ok()).collect();
            if answer.use_stderr()
                && let Some(tip) = tip_for_role(&arguments)
            {
                let _ = writeln!(std::io::stderr(), "\ntip: {tip}"); // Where it is closed, there is no reader.
            }
            return exit.into();
        }
    };
    match cli.command {
        Command::Wait => run_wait().into(),
        Command::Agent => run_agent().into(),
        Command::Controller => run_controller().into(),
        Command::Check(arguments) => run_check(arguments).into(),
        Command::Explain(arguments) => run_explain(arguments).into(),
        Command::Open(arguments) => {
            run_override(OverrideCommand::Open(arguments.lasts), arguments.places, arguments.dry_run).into()
        }
        Command::Close(arguments) => {
            run_override(OverrideCommand::Close(arguments.lasts), arguments.places, arguments.dry_run).into()
        }
        Command::Clear(arguments) => run_override(OverrideCommand::Clear, arguments.places, false).into(),
        Command::Release(arguments) => {
            let (release, access) = arguments.read();
            run_command(async |out| release::run(&access, &release, out).await).into()
        }
        Command::Recreate(arguments) => {
            let (recreate, access) = arguments.read(std::env::temp_dir());
            run_command(async |out| recreate::run(&access, &recreate, out).await).into()
        }
        Command::Uninstall(arguments) => {
            let (uninstall, access) = arguments.read();
            run_command(async |out| uninstall::run(&access, &uninstall, out).await).into()
        }
        Command::Install(arguments) => {
            let (install, access) = arguments.read();
            run_command(async |out| install::run(&access, &install, out).await).into()
        }
        Command::Status(arguments) => {
            let (scope, output, access) = arguments.read();
            run_command(async |out| status::run(&access, &scope, output, out).await).into()
        }
        Command::Report(arguments) => {
            let (scope, output, access) = arguments.read();
            run_command(async |out| report::run(&access, &scope, output, out).await).into()
        }
        Command::ExtensionMetadata => run_command(async |out| Ok(writeln!(out, "{EXTENSION_METADATA}")?)).into(),
        Command::Version(VersionArguments { client, output, namespace, person }) => {
            let access = (!client).then(|| person.read());
            run_command(async |out| version::run(access.as_ref(), &namespace, output, out).await).into()
        }
        Command::Completion { shell } => {
            let written = async |out: &mut StdoutLock<'static>| Ok(write_completion(shell, out)?);
            run_command(written).into()
        }
    }
}

fn run_wait() -> Exit {
    match waiting::settings() {
        Ok(settings) => waiting::run(&settings, InCluster),
        Err(problems) => misconfigured(&problems),
    }
}

fn run_agent() -> Exit {
    let settings = match AgentSettings::read(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(problems) => return misconfigured(&problems),
    };
    let log = settings.termination_log.clone();
    run(&log, &settings.log.clone(), settings.log_format, async |signalled| {
        Box::pin(agent::run(settings, signalled)).await.map_err(|error| error.to_string())
    })
}

fn run_controller() -> Exit {
    let settings = match ControllerSettings::read(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(problems) => return misconfigured(&problems),
    };
    let log = settings.termination_log.clone();
    run(&log, &settings.log.clone(), settings.log_format, async |signalled| {
        Box::pin(controller::run(settings, signalled)).await.map_err(|error| error.to_string())
    })
}

fn run_explain(arguments: ExplainArguments) -> Exit {
    let arguments = match arguments.read() {
        Ok(cli::Explained::Files(arguments)) => arguments,
        Ok(cli::Explained::Live(live, access)) => return run_explain_live(&live, &access),
        Err(tip) => {
            tell!("linkerd-gate: {tip}");
            return Exit::Usage;
        }
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match explain(&arguments, &mut std::io::stdin().lock(), &mut out, &mut std::io::stderr().lock()) {
        Ok(Explained { incomplete: true, .. }) => Exit::Usage,
        Ok(Explained { failed: true, .. }) => Exit::Found,
        Ok(_) => Exit::Done,
        // `explain … | head` has read what it wanted.
        Err(ExplainError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error @ ExplainError::Input(_)) => {
            tell!("{error}");
            Exit::Usage
        }
        Err(ExplainError::Write(error)) => {
            tell!("linkerd-gate: the explanation could not be written: {error}");
            Exit::Internal
        }
    }
}

fn run_explain_live(live: &Live, access: &Person) -> Exit {
    let mut explained = Explained { incomplete: false, failed: false };
    let exit = run_command(async |out| {
        let mut out = std::io::BufWriter::new(out);
        explained = explain_live(access, live, &mut out, &mut std::io::stderr()).await?;
        Ok(())
    });
    match exit {
        Exit::Done if explained.incomplete => Exit::Usage,
        Exit::Done if explained.failed => Exit::Found,
        exit => exit,
    }
}

fn run_check(arguments: CheckArguments) -> Exit {
    let (arguments, access) = arguments.read();
    let mut success = false;
    let exit = run_command(async |out| {
        success = check::run(&access, &arguments, out, &mut std::io::stderr()).await?;
        Ok(())
    });
    if exit == Exit::Done && !success { Exit::Found } else { exit }
}

fn run_override(command: OverrideCommand, places: PlaceArguments, dry_run: bool) -> Exit {
    let (subjects, access) = places.read();
    run_command(async |out| manual_override::run(&access, command, &subjects, dry_run, out).await)
}

/// Runs a person's command to its end, and says on standard error what it did not do.
fn run_command(command: impl AsyncFnOnce(&mut StdoutLock<'static>) -> Result<(), NotDone>) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell!("linkerd-gate: cannot start: {error}");
            return Exit::Internal;
        }
    };
    match runtime.block_on(command(&mut std::io::stdout().lock())) {
        Ok(()) => Exit::Done,
        Err(error @ NotDone::Refused(_)) => {
            for line in error.to_string().lines() {
                tell!("linkerd-gate: {line}");
            }
            Exit::GaveUp
        }
        Err(NotDone::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error @ NotDone::Write(_)) => {
            tell!("linkerd-gate: {error}");
            Exit::Internal
        }
    }
}

/// Replaces the pod through the API server.
struct InCluster;

// === impl InCluster ===

impl Replacer for InCluster {
    async fn replace(&self, pod: &OwnPod) -> Result<Replacing, String> {
        // The configuration has all three: `replace` is refused without them.
        let [namespace, name, uid] =
            [&pod.namespace, &pod.name, &pod.uid].map(|part| part.as_deref().unwrap_or_default());
        cluster::replace(cluster::in_cluster, namespace, name, uid).await.map_err(|error| error.to_string())
    }
}
