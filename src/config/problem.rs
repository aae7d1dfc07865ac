//! What is wrong with a configuration, worded so that a person can correct it.

use std::fmt;

use super::fix;
use super::table::{self, PREFIX, Role};

/// One variable that cannot be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable's whole name.
    pub variable: String,
    /// Its value; `None` where the variable is absent.
    pub value: Option<String>,
    /// What is wrong with it, as a clause: "is not a duration".
    pub complaint: String,
    /// Whose variable it is: roles share names, and not every example.
    pub role: Option<Role>,
}

/// Everything that is wrong with a configuration, all at once. Never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

// === impl Problem ===

impl Problem {
    /// A value that is not accepted.
    pub fn value(variable: &str, value: impl Into<String>, complaint: impl Into<String>) -> Self {
        Self { variable: variable.to_owned(), value: Some(value.into()), complaint: complaint.into(), role: None }
    }

    /// A variable that has to be there and is not.
    pub fn absent(variable: &str, complaint: impl Into<String>) -> Self {
        Self { variable: variable.to_owned(), value: None, complaint: complaint.into(), role: None }
    }

    /// A variable that this role does not know.
    pub fn unknown(role: Role, variable: &str, value: impl Into<String>) -> Self {
        let elsewhere = Role::ALL.iter().find(|other| **other != role && other.find(variable).is_some());
        let role_name = role.as_str();
        let complaint = match (elsewhere, nearest(role, variable)) {
            (Some(other), _) => {
                format!(
                    "`{role_name}` has no such variable (`{}` has); `linkerd-gate {role_name} --help` lists its own",
                    other.as_str()
                )
            }
            (None, Some(known)) => format!("there is no such variable; did you mean {known}?"),
            (None, None) => format!("there is no such variable; `linkerd-gate {role_name} --help` lists them"),
        };
        Self::value(variable, value, complaint)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever sets a variable may call it anything.
        let name = self.variable.escape_debug();
        match &self.value {
            Some(value) => write!(out, "{name}={value:?}: {}", self.complaint)?,
            None => write!(out, "{name} is not set: {}", self.complaint)?,
        }
        match self.role.and_then(|role| role.find(&self.variable)).or_else(|| table::find(&self.variable)) {
            Some(known) => {
                let fix = match &self.value {
                    Some(value) => fix::of(value, known.accepted, known.example),
                    None => known.example.to_owned(),
                };
                write!(out, "; accepted: {} (for example {}={fix})", known.accepted, known.name)
            }
            None => Ok(()),
        }
    }
}

/// The known name that a person who typed `variable` most likely meant.
fn nearest(role: Role, variable: &str) -> Option<&'static str> {
    let typed = variable.strip_prefix(PREFIX).unwrap_or(variable);
    role.variables()
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(typed, &known.name[PREFIX.len()..]), known.name))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

// === impl Problems ===

impl Problems {
    /// Of the variables of `role`; `None` where nothing is wrong.
    pub fn new(role: Role, problems: Vec<Problem>) -> Option<Self> {
        let with_role = |problem| Problem { role: Some(role), ..problem };
        (!problems.is_empty()).then(|| Self(problems.into_iter().map(with_role).collect()))
    }

    /// Each of them, in the order found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => Ok(()),
            [only] => write!(out, "the configuration is wrong, nothing was done: {only}"),
            several => {
                write!(out, "the configuration is wrong in {} places, nothing was done:", several.len())?;
                several.iter().try_for_each(|problem| write!(out, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_answered_with_the_nearest_name() {
        let problem = Problem::unknown(Role::Wait, "LINKERD_GATE_TIMOUT", "5m");
        assert!(problem.to_string().ends_with("did you mean LINKERD_GATE_TIMEOUT?"), "{problem}");
        let problem = Problem::unknown(Role::Wait, "LINKERD_GATE_ON_MISS", "hold");
        assert!(problem.to_string().ends_with("did you mean LINKERD_GATE_ON_MISSED?"), "{problem}");
    }

    #[test]
    fn an_absent_variable_is_reported_with_the_example_of_its_role() {
        let message =
            |role| Problems::new(role, vec![Problem::absent("LINKERD_GATE_POD_NAME", "…")]).unwrap().to_string();
        for role in Role::ALL {
            let example = role.find("LINKERD_GATE_POD_NAME").unwrap().example;
            assert!(message(*role).contains(&format!("LINKERD_GATE_POD_NAME={example}")), "{}", message(*role));
        }
    }

    #[test]
    fn a_name_like_no_other_is_answered_with_where_the_names_are() {
        let problem = Problem::unknown(Role::Wait, "LINKERD_GATE_ZZZZZZ", "1");
        assert!(problem.to_string().contains("wait --help"), "{problem}");
        let problem = Problem::unknown(Role::Agent, "LINKERD_GATE_ON_MISSED", "hold");
        assert!(problem.to_string().contains("`agent` has no such variable (`wait` has)"), "{problem}");
    }
}
