//! `linkerd-gate check`: looks at a cluster and says what is wrong, why, and what to type.

mod table;

use super::not_done::NotDone;
use crate::{
    check::{self, Level, Report, Suppression},
    cluster::{self, Person, check::Scope},
};
use std::{io::Write, time::Duration};
use tokio::time::{Instant, sleep};

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// How long after a look the next one may still begin: Linkerd's CLI shows nothing before the answer is whole.
const MARGIN: Duration = Duration::from_secs(3);

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For a person: every check
    #[default]
    Table,

    /// For a person: only what is wrong
    Short,

    /// For a program: one object, as Linkerd's CLI wants it of an extension
    Json,
}

/// What to check, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// What is read.
    pub scope: Scope,
    /// For how long to check again while there is an error.
    pub wait: Option<Duration>,
    /// The output format.
    pub output: Output,
    /// Whether to use colours.
    pub colour: bool,
    /// What is not to be shown.
    pub suppressed: Vec<Suppression>,
}

/// Checks, writes what was found, and returns whether nothing is an error.
///
/// # Errors
/// An output that cannot be written. A cluster that cannot be asked is a finding.
pub async fn run(
    access: &Person,
    arguments: &Arguments,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<bool, NotDone> {
    let began = Instant::now();
    let mut report = Box::pin(look(access, arguments)).await;
    let mut unused = report.suppress(&arguments.suppressed);
    while let Some(wait) = arguments.wait
        && report.level() == Level::Error
        && began.elapsed() + PAUSE + MARGIN < wait
    {
        sleep(PAUSE).await;
        report = Box::pin(look(access, arguments)).await;
        unused = report.suppress(&arguments.suppressed);
    }
    for Suppression { code, object } in unused {
        writeln!(notes, "linkerd-gate: --suppress {code}={object} suppresses nothing")?;
    }
    match arguments.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Output::Table | Output::Short => {
            table::write(&report, arguments.output == Output::Short, arguments.colour, out)?;
        }
    }
    out.flush()?;
    Ok(report.success)
}

async fn look(access: &Person, arguments: &Arguments) -> Report {
    match cluster::of_person(access).await {
        Ok(client) => check::check(&Box::pin(cluster::check::read(&client, &arguments.scope)).await),
        Err(error) => check::unreachable(&error.to_string()),
    }
}
