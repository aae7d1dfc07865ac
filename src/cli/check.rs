//! What `check` takes, from people and from Linkerd's CLI.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::CommandFactory as _;

use super::PersonArguments;
use crate::check::Suppression;
use crate::cluster::Person;
use crate::cluster::check::{CronJob, Scope};
use crate::command::check::{Arguments, Output};
use crate::command::pod_name;
use crate::linkerd::TokenProjection;

pub(super) const EXIT_CODES: &str = "Exit codes:
  0    nothing is an error; there may be warnings
  1    there is an error
  2    bad usage: nothing was checked";

pub(super) const EXAMPLES: &str = "Examples:
  linkerd-gate check
  linkerd-gate check --pre
  linkerd-gate check -n shop -o short
  linkerd-gate check --suppress LG503='deployment/linkerd-identity -n linkerd'";

/// What `check` takes.
#[derive(Debug, clap::Args)]
pub struct CheckArguments {
    /// Check before linkerd-gate is installed
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, action = clap::ArgAction::Set, hide_possible_values = true)]
    pub pre: bool,

    /// For a person or for a program
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// The namespace whose pods are counted [default: all]
    #[arg(long, short, value_parser = pod_name::namespace)]
    pub namespace: Option<String>,

    /// For how long to check again while there is an error, such as 5m [default: check once]
    #[arg(long, value_name = "TIME", value_parser = wait)]
    pub wait: Option<Duration>,

    /// Leave out a finding: CODE, or CODE=OBJECT as the finding names it; can be given several times
    #[arg(long, short = 'S', value_name = "CODE=OBJECT")]
    pub suppress: Vec<Suppression>,

    /// The namespace of dry-run pods
    #[arg(long, value_parser = pod_name::namespace, default_value = "linkerd-gate-probe")]
    pub probe_namespace: String,

    /// Also connect to the injector and look at the certificate that it serves: from where pods are reached, such as a node [default: in a pod]
    #[arg(long)]
    pub dial: bool,

    /// Where something is an error, create an Event on this CronJob, which runs this check
    #[arg(long, value_name = "NAMESPACE/CRONJOB", value_parser = cron_job)]
    pub event: Option<CronJob>,

    /// Judge for an installation with identity.serviceAccountTokenProjection=false
    #[arg(long)]
    pub no_token_projection: bool,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

// === impl CheckArguments ===

impl CheckArguments {
    /// What to check, and how to get there.
    pub fn read(self) -> (Arguments, Person) {
        let Self { pre, output, namespace, wait, suppress, probe_namespace, dial, event, no_token_projection, person } =
            self;
        let projection = if no_token_projection { TokenProjection::Disabled } else { TokenProjection::Enabled };
        // https://no-color.org
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        // What kubelet sets in every pod.
        let dials = dial || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|value| !value.is_empty());
        let columns = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        let arguments = Arguments {
            scope: Scope { pre, namespace, selector: None, probe_namespace, proves: true, dials, projection },
            wait: wait.filter(|wait| !wait.is_zero()),
            output,
            colour: !refused && std::io::stdout().is_terminal(),
            columns,
            suppressed: suppress,
            event,
        };
        (arguments, person.read())
    }
}

fn cron_job(text: &str) -> Result<CronJob, String> {
    let parts = text
        .split_once('/')
        .and_then(|(namespace, name)| Some((pod_name::namespace(namespace).ok()?, pod_name::name(name).ok()?)));
    let (namespace, name) = parts.ok_or_else(|| {
        "it is no CronJob's namespace and name; for example --event linkerd-gate/linkerd-gate-check".to_owned()
    })?;
    Ok(CronJob { namespace, name })
}

fn wait(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        let meant = crate::config::fix::duration(text).unwrap_or_else(|| "5m".to_owned());
        format!("it is no time with a unit; for example --wait {meant}")
    })
}

/// The arguments as this program takes them, out of those that Linkerd's CLI gives an extension's `check`: its own flags, each
/// with a value (`--as-group=[]`, `--verbose=false`; linkerd2 `cli/cmd/check_extensions.go`). Those of them that this program
/// does not have are left out, as its `EXTENSIONS.md` asks; they come second. Any other flag is left to be refused, and so is
/// each flag of another command, where leaving one out could do what it was meant to prevent.
pub fn for_linkerd(arguments: Vec<OsString>) -> (Vec<OsString>, Vec<String>) {
    let mut command = super::Cli::command();
    command.build();
    let Some(name) = arguments.get(1).and_then(|name| name.to_str()).filter(|name| *name == "check") else {
        return (arguments, Vec::new());
    };
    let Some(subcommand) = command.find_subcommand(name) else { return (arguments, Vec::new()) };
    let known = |flag: &str| subcommand.get_arguments().any(|argument| argument.get_long() == Some(flag));
    let mut left_out = Vec::new();
    let kept = arguments
        .iter()
        .enumerate()
        .filter(|(place, argument)| {
            let flag =
                argument.to_str().filter(|_| *place > 1).and_then(|text| text.strip_prefix("--")?.split_once('='));
            match flag {
                Some((flag, _)) if !LINKERDS.contains(&flag) => true,
                // Its lists are empty by default.
                Some((_, "" | "[]")) => false,
                Some((flag, _)) if !known(flag) => {
                    left_out.push(format!("--{flag}"));
                    false
                }
                _ => true,
            }
        })
        .flat_map(|(_, argument)| one_by_one(argument))
        .collect();
    (kept, left_out)
}

/// A list as Go's flags print one, `--as-group=[a,b]`, is as many flags with one value each.
fn one_by_one(argument: &OsString) -> Vec<OsString> {
    let list = argument.to_str().and_then(|text| text.strip_prefix("--as-group=[")?.strip_suffix(']'));
    match list {
        Some(list) => values(list).into_iter().map(|group| format!("--as-group={group}").into()).collect(),
        None => vec![argument.clone()],
    }
}

/// The values of a list of Go's flags, which is a line of CSV (github.com/spf13/pflag `string_array.go`): one that has a comma or a
/// quote is in quotes, and each quote in it is there twice.
fn values(list: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                values.last_mut().map(|value| value.push('"')).unwrap_or_default();
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => values.push(String::new()),
            _ => values.last_mut().map(|value| value.push(character)).unwrap_or_default(),
        }
    }
    values
}

/// The flags that Linkerd's CLI hands on to the `check` of an extension, and those that all of its commands have.
const LINKERDS: [&str; 12] = [
    "api-addr",
    "as",
    "as-group",
    "cni-namespace",
    "context",
    "kubeconfig",
    "linkerd-namespace",
    "namespace",
    "output",
    "proxy",
    "verbose",
    "wait",
];

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn filtered(arguments: &[&str]) -> (Vec<String>, Vec<String>) {
        let arguments = arguments.iter().map(OsString::from).collect();
        let (kept, left_out) = for_linkerd(arguments);
        (kept.into_iter().map(|it| it.into_string().unwrap()).collect(), left_out)
    }

    #[test]
    fn what_linkerds_cli_passes_is_taken() {
        let called = [
            "linkerd-gate",
            "check",
            "--as-group=[]",
            "--linkerd-namespace=linkerd",
            "--verbose=false",
            "--proxy=false",
            "--wait=10s",
            "--output=json",
        ];
        let (kept, left_out) = filtered(&called);
        assert_eq!(
            kept,
            ["linkerd-gate", "check", "--linkerd-namespace=linkerd", "--verbose=false", "--wait=10s", "--output=json"]
        );
        assert_eq!(left_out, ["--proxy"]);
        super::super::Cli::try_parse_from(kept).unwrap();
    }

    #[test]
    fn what_a_person_types_is_left_alone() {
        let typed = ["linkerd-gate", "explain", "--filename=x", "--no-such=y"];
        assert_eq!(filtered(&typed), (typed.map(ToOwned::to_owned).to_vec(), vec![]));
        let typed = ["linkerd-gate", "check", "--pre", "--nonsense"];
        assert_eq!(filtered(&typed).0, typed);
    }

    #[test]
    fn a_list_of_linkerds_cli_is_as_many_flags() {
        let called = ["linkerd-gate", "check", "--as=jane", "--as-group=[ops,system:masters]"];
        let (kept, _) = filtered(&called);
        assert_eq!(kept[3..], ["--as-group=ops", "--as-group=system:masters"]);
        let cli = super::super::Cli::try_parse_from(kept).unwrap();
        let super::super::Command::Check(arguments) = cli.command else { unreachable!("it is check") };
        assert_eq!(arguments.person.groups, ["ops", "system:masters"]);
        for (list, groups) in [
            ("a", &["a"][..]),
            ("a,b,c", &["a", "b", "c"]),
            (r#""cn=ops,dc=example",b"#, &["cn=ops,dc=example", "b"]),
            (r#""say ""hi""",b"#, &[r#"say "hi""#, "b"]),
        ] {
            assert_eq!(values(list), groups, "{list}");
        }
    }

    #[test]
    fn only_linkerds_flags_and_only_those_of_check_are_left_out() {
        for typed in [
            ["linkerd-gate", "uninstall", "--now", "--dry-run=true"],
            ["linkerd-gate", "install", "--image=x", "--verbose=false"],
            ["linkerd-gate", "check", "--namespace=shop", "--no-such=y"],
        ] {
            assert_eq!(filtered(&typed), (typed.map(ToOwned::to_owned).to_vec(), vec![]));
        }
        for refused in
            [&["linkerd-gate", "uninstall", "--now", "--dryrun=true"][..], &["linkerd-gate", "check", "--no-such=y"]]
        {
            let error = super::super::Cli::try_parse_from(filtered(refused).0).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{refused:?}");
        }
    }
}
