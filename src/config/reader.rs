//! The variables of one role, read one by one: each value by its parser, each problem kept for the one report.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::problem::{Problem, Problems};
use super::table::{self, Role};
use super::value::{Component, DnsName};

/// Collects what is wrong while values are read, so that one run reports all of it.
pub(super) struct Reader {
    role: Role,
    /// By what follows the prefix, in lower case, as envy gives them.
    values: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

// === impl Reader ===

impl Reader {
    /// Reads the variables of a role out of a process's environment; others are left alone. `settings` goes on with a default
    /// after each problem: what it returns is used only where there was none.
    ///
    /// # Errors
    /// Every variable with our prefix that is unknown, unreadable, absent and needed, or has a value that is not accepted.
    pub(super) fn read<T>(
        role: Role,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        settings: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, Problems> {
        let mut reader = Self { role, values: BTreeMap::new(), problems: Vec::new() };
        reader.take(variables);
        let settings = settings(&mut reader);
        match Problems::new(role, reader.problems) {
            None => Ok(settings),
            Some(problems) => Err(problems),
        }
    }

    fn take(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        let mut known = Vec::new();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(table::PREFIX) {
                continue;
            }
            let value = match value.into_string() {
                Ok(value) => value,
                Err(bytes) => {
                    let shown = bytes.to_string_lossy().into_owned();
                    self.problems.push(Problem::value(&name, shown, "is not UTF-8"));
                    continue;
                }
            };
            if self.role.find(&name).is_some() {
                known.push((name, value));
            } else if !is_service_variable(&name, &value) {
                self.problems.push(Problem::unknown(self.role, &name, value));
            }
        }
        match envy::prefixed(table::PREFIX).from_iter(known) {
            Ok(values) => self.values = values,
            // Every value is text: there is nothing left for envy to refuse.
            Err(error) => self.problems.push(Problem::absent(table::PREFIX, error.to_string())),
        }
    }

    /// Adds a problem that no parser of one value sees.
    pub(super) fn complain(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Whether the variable is there, empty or not.
    pub(super) fn is_there(&self, variable: &str) -> bool {
        self.values.contains_key(&key(variable))
    }

    /// The variable's text; nothing where it is absent or empty: a template that leaves a variable empty means its default.
    pub(super) fn text(&self, variable: &str) -> Option<String> {
        debug_assert!(self.role.find(variable).is_some(), "{variable} has no row in the table");
        self.values.get(&key(variable)).filter(|value| !value.is_empty()).cloned()
    }

    /// A variable that has to be there; `why` says what for.
    pub(super) fn needed(&mut self, variable: &str, why: &str) -> String {
        self.text(variable).unwrap_or_else(|| {
            self.problems.push(Problem::absent(variable, why));
            String::new()
        })
    }

    /// A variable whose default is no value of it: nothing where it is absent or empty, or where its value was a problem.
    pub(super) fn optional<T>(&mut self, variable: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.text(variable)?;
        match parse(&value) {
            Ok(meaning) => Some(meaning),
            Err(complaint) => {
                self.problems.push(Problem::value(variable, value, complaint));
                None
            }
        }
    }

    /// A variable whose default in the table is a value of it: that stands in where there is none, or where it was a problem.
    pub(super) fn defaulted<T>(&mut self, variable: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let default = self.role.find(variable).map_or("", |known| known.default);
        self.optional(variable, &parse).unwrap_or_else(|| match parse(default) {
            Ok(meaning) => meaning,
            Err(complaint) => unreachable!("the default {default:?} of {variable} {complaint}"),
        })
    }

    /// A path; whether it exists is not looked at.
    pub(super) fn path(&self, variable: &str) -> Option<PathBuf> {
        self.text(variable).map(PathBuf::from)
    }

    /// A path, or the default in the table.
    pub(super) fn defaulted_path(&self, variable: &str) -> PathBuf {
        let default = || self.role.find(variable).map_or("", |known| known.default).into();
        self.path(variable).unwrap_or_else(default)
    }
}

fn key(variable: &str) -> String {
    variable.trim_start_matches(table::PREFIX).to_ascii_lowercase()
}

/// One of the words of an enum.
pub(super) fn choice<T: FromStr<Err = strum::ParseError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "is not a valid value".to_owned())
}

pub(super) fn word<T: FromStr<Err = &'static str>>(text: &str) -> Result<T, String> {
    text.parse().map_err(str::to_owned)
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "is not a valid value".to_owned())
}

pub(super) fn namespace(text: &str) -> Result<DnsName, String> {
    match text.parse::<DnsName>() {
        // A namespace is one label, and in lower case (RFC 1123, as the API server checks it).
        Ok(name) if text.len() <= 63 && !text.contains(['.', '_']) && text == text.to_ascii_lowercase() => Ok(name),
        _ => Err("is not a namespace's name".to_owned()),
    }
}

/// Hours, minutes and seconds only: humantime alone would take `5M` for five months.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text.contains(|character: char| !character.is_ascii_digit() && !" hms".contains(character))
        || text.contains("ms")
    {
        return Err("is not a duration in s, m and h".to_owned());
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("has no unit".to_owned());
    }
    // humantime's own words give examples that are not taken here.
    let duration = humantime::parse_duration(text).map_err(|_| "is not a duration in s, m and h".to_owned())?;
    if duration < Duration::from_secs(1) {
        return Err("is not at least 1s; leave the variable out to wait for ever".to_owned());
    }
    Ok(duration)
}

pub(super) fn components(text: &str) -> Result<BTreeSet<Component>, String> {
    text.split(',')
        .map(str::trim)
        .map(|name| name.parse().map_err(|_| format!("names {name:?}, which is none of Linkerd's parts")))
        .collect()
}

/// Whether this is one of the variables that kubelet sets for each Service of the namespace: a Service called
/// `linkerd-gate`, or `linkerd-gate-metrics`, makes names that begin as ours do. They are no mistake.
///
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_variable(name: &str, value: &str) -> bool {
    let tail = &name[table::PREFIX.len() - 1..];
    let is_port = || value.parse::<u16>().is_ok();
    let is_link = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    if tail.ends_with("_SERVICE_HOST") {
        return value.parse::<IpAddr>().is_ok();
    }
    if tail.ends_with("_SERVICE_PORT") || tail.contains("_SERVICE_PORT_") {
        return is_port();
    }
    if tail.ends_with("_PORT") && is_link() {
        return true;
    }
    // LINKERD_GATE_PORT_4192_TCP, …_TCP_PROTO, …_TCP_PORT, …_TCP_ADDR
    let Some((_, link)) = tail.rsplit_once("_PORT_") else { return false };
    let parts: Vec<&str> = link.split('_').collect();
    let [number, protocol, rest @ ..] = parts.as_slice() else { return false };
    number.parse::<u16>().is_ok()
        && ["TCP", "UDP", "SCTP"].contains(protocol)
        && matches!(rest, [] | ["PROTO" | "PORT" | "ADDR"])
}
