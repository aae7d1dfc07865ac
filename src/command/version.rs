//! `linkerd-gate version`: which versions are here and in the cluster.

use super::not_done::NotDone;
use crate::cluster::{Person, Refused, of_person, versions};
use serde::Serialize;
use std::io::Write;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For a person
    #[default]
    Text,

    /// For a program: one object
    Json,
}

/// What there is. As JSON, fields are added and never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<Servers>,
}

/// What is in the cluster; empty where it may not be read, and then among `problems`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Servers {
    kubernetes: Option<String>,
    linkerd: Vec<String>,
    linkerd_gate: Vec<String>,
    problems: Vec<String>,
}

/// Writes the versions: of the cluster too, where there is an `access`.
///
/// # Errors
/// A cluster that cannot be asked: this program's version is written all the same.
pub async fn run(
    access: Option<&Person>,
    namespace: &str,
    output: Output,
    out: &mut impl Write,
) -> Result<(), NotDone> {
    let mut versions = Versions { client: env!("CARGO_PKG_VERSION"), servers: None };
    let mut problems = Vec::new();
    if let Some(access) = access {
        let mut servers = Servers::default();
        match of_person(access).await {
            Ok(client) => {
                let mut take = |what: &str, found: Result<Vec<String>, Refused>| match found {
                    Ok(found) => found,
                    Err(refused) => {
                        problems.push(format!("{what}: {refused}"));
                        Vec::new()
                    }
                };
                servers.kubernetes = take("Kubernetes", versions::kubernetes(&client).await).pop();
                // Where the first is not answered, the others are not either.
                if servers.kubernetes.is_some() {
                    servers.linkerd = take("Linkerd", versions::linkerd(&client).await);
                    servers.linkerd_gate = take("linkerd-gate", versions::linkerd_gate(&client, namespace).await);
                }
            }
            Err(error) => problems.push(error.to_string()),
        }
        servers.problems.clone_from(&problems);
        versions.servers = Some(servers);
    }
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &versions).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Output::Text => write_text(&versions, namespace, out)?,
    }
    out.flush()?;
    if problems.is_empty() { Ok(()) } else { Err(NotDone::Refused(problems)) }
}

fn write_text(versions: &Versions, namespace: &str, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "client        {}", versions.client)?;
    let Some(servers) = &versions.servers else { return Ok(()) };
    if let Some(kubernetes) = &servers.kubernetes {
        writeln!(out, "kubernetes    {kubernetes}")?;
        let none = |found: &[String], none: String| if found.is_empty() { none } else { found.join(", ") };
        writeln!(out, "linkerd       {}", none(&servers.linkerd, "none found".to_owned()))?;
        writeln!(out, "linkerd-gate  {}", none(&servers.linkerd_gate, format!("none found in namespace {namespace}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_field_of_the_json() {
        let all = Versions { client: "", servers: Some(Servers::default()) };
        crate::command::json_tests::the_page_has_the_fields_of("version", &serde_json::to_value(all).unwrap());
    }
}
