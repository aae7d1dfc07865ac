//! What to write instead of what was typed.

use crate::config::table;

/// What to write instead, for a role with a flag: roles are configured by variables.
pub fn tip_for_role(arguments: &[String]) -> Option<String> {
    let given = arguments.get(2..)?;
    let role = table::Role::ALL.iter().find(|role| role.as_str() == arguments[1])?;
    let at = given.iter().position(|argument| argument.starts_with("--") && argument != "--help")?;
    let flag = given[at].trim_start_matches('-');
    let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
    let value = value.or_else(|| given.get(at + 1).map(String::as_str));
    let name = format!("{}{}", table::PREFIX, name.replace('-', "_").to_ascii_uppercase());
    let role_name = role.as_str();
    Some(match role.find(&name) {
        Some(known) => format!(
            "`{role_name}` is configured by variables: {name}={} linkerd-gate {role_name}, or in a pod's env: {{name: {name}, value: ...}}",
            value.unwrap_or(known.example)
        ),
        None => format!("`{role_name}` is configured by variables, which `linkerd-gate {role_name} --help` lists"),
    })
}
