//! What `report` takes.

use k8s_openapi::jiff::SignedDuration;

use super::PersonArguments;
use crate::cluster::Person;
use crate::cluster::report::Scope;
use crate::command::pod_name;
use crate::command::report::Output;
use crate::linkerd::TokenProjection;

pub(super) const EXAMPLES: &str = "Examples:
  linkerd-gate report
  linkerd-gate report --since 15m -n shop
  linkerd-gate report --since 2h -o html > boot.html
  linkerd-gate report -o json";

/// The shortest and the longest time that a report may be about.
const SINCE: [SignedDuration; 2] = [SignedDuration::from_mins(1), SignedDuration::from_hours(7 * 24)];

/// What `report` takes.
#[derive(Debug, clap::Args)]
pub struct ReportArguments {
    /// How far back to look, from 1m to 168h: 15m, 1h, 24h
    #[arg(long, value_name = "TIME", value_parser = since, default_value = "1h")]
    pub since: SignedDuration,

    /// The output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// The namespace whose pods are reported [default: all]
    #[arg(long, short, value_parser = pod_name::namespace)]
    pub namespace: Option<String>,

    /// Judge for an installation with identity.serviceAccountTokenProjection=false
    #[arg(long)]
    pub no_token_projection: bool,

    /// How to get there.
    #[command(flatten)]
    pub person: PersonArguments,
}

// === impl ReportArguments ===

impl ReportArguments {
    /// The scope, the output format, and the access to the cluster.
    pub fn read(self) -> (Scope, Output, Person) {
        let Self { since, output, namespace, no_token_projection, person } = self;
        let projection = if no_token_projection { TokenProjection::Disabled } else { TokenProjection::Enabled };
        (Scope { since, namespace, projection }, output, person.read())
    }
}

fn since(text: &str) -> Result<SignedDuration, String> {
    let parsed = humantime::parse_duration(text).map_err(|_| {
        let meant = crate::config::fix::duration(text).unwrap_or_else(|| "1h".to_owned());
        format!("it is no time with a unit; for example --since {meant}")
    })?;
    let since = SignedDuration::try_from(parsed).unwrap_or(SignedDuration::MAX);
    match since {
        _ if since < SINCE[0] => Err("it is too short: --since 1m is the shortest".to_owned()),
        _ if since > SINCE[1] => Err("it is too long: --since 168h is the longest".to_owned()),
        _ => Ok(SignedDuration::from_secs(since.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_taken_as_a_person_types_it() {
        for (text, minutes) in [("15m", 15), ("1h", 60), ("24h", 1440), ("1h 30m", 90), ("168h", 10080), ("1day", 1440)]
        {
            assert_eq!(since(text), Ok(SignedDuration::from_mins(minutes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_what_is() {
        for (text, says) in [
            ("0s", "--since 1m is the shortest"),
            ("59s", "--since 1m is the shortest"),
            ("169h", "--since 168h is the longest"),
            ("900000years", "--since 168h is the longest"),
            ("soon", "for example --since 1h"),
            ("-1h", "for example --since"),
            ("", "for example --since 1h"),
        ] {
            let error = since(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
