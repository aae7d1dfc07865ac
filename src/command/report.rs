//! `linkerd-gate report`: the story of the cluster's last boot.

use std::io::Write;

use super::not_done::NotDone;
use crate::cluster::report::Scope;
use crate::cluster::{self, Person};
use crate::report::{self, Report};

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Markdown, for a post-mortem
    #[default]
    Md,

    /// One page for a browser, without scripts, and without anything from elsewhere
    Html,

    /// For a program: one object (docs/report.md)
    Json,
}

/// Writes the report.
///
/// # Errors
/// A cluster that cannot be asked at all. What alone could not be read is in the report.
pub async fn run(access: &Person, scope: &Scope, output: Output, out: &mut impl Write) -> Result<(), NotDone> {
    let client = cluster::of_person(access).await.map_err(|error| NotDone::one(error.to_string()))?;
    let read = Box::pin(cluster::report::read(&client, scope)).await;
    let facts = read.map_err(|unread| NotDone::one(unread.to_string()))?;
    write(&report::report(&facts), output, out)?;
    Ok(())
}

fn write(report: &Report, output: Output, out: &mut impl Write) -> std::io::Result<()> {
    match output {
        Output::Md => out.write_all(report::markdown(report).as_bytes())?,
        Output::Html => out.write_all(report::html(report).as_bytes())?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
    }
    out.flush()
}
