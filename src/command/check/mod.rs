//! `linkerd-gate check`: looks at a cluster and says what is wrong, why, and what to type.

mod table;

use std::io::Write;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use self::table::Look;
use super::not_done::NotDone;
use crate::check::certificate::{Injector, Served};
use crate::check::{self, Level, Report, State, Suppression};
use crate::cluster::check::{CronJob, Scope};
use crate::cluster::{self, Client, Person};
use crate::observe;

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

/// At most so many replicas of the injector are connected to.
const ADDRESSES_DIALLED: usize = 16;

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
    /// How many columns the terminal has; nothing where the output is none.
    pub columns: Option<usize>,
    /// What is not to be shown.
    pub suppressed: Vec<Suppression>,
    /// The CronJob that gets an Event where something is an error.
    pub event: Option<CronJob>,
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
    let end = arguments.wait.map(|wait| Instant::now() + wait);
    let mut report;
    let mut unused;
    loop {
        let client = cluster::of_person(access).await;
        report = match &client {
            Ok(client) => Box::pin(look(client, arguments, end)).await,
            Err(error) => check::unreachable(&error.to_string()),
        };
        unused = report.suppress(&arguments.suppressed);
        match end {
            // Of a kubeconfig that cannot be used waiting makes no better one.
            Some(end) if client.is_ok() && report.may_pass() && Instant::now() + PAUSE + MARGIN < end => {
                sleep(PAUSE).await;
            }
            _ => break,
        }
    }
    if let Some(cron_job) = arguments.event.as_ref().filter(|_| !report.success)
        && let Err(why) = note(access, cron_job, &report).await
    {
        writeln!(notes, "linkerd-gate: no Event was created: {why}")?;
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
            let look =
                Look { short: arguments.output == Output::Short, colour: arguments.colour, columns: arguments.columns };
            table::write(&report, look, out)?;
        }
    }
    out.flush()?;
    Ok(report.success)
}

/// Looks once, and no longer than until shortly before `end`: a caller with a limit, such as Linkerd's CLI, gets an answer.
async fn look(client: &Client, arguments: &Arguments, end: Option<Instant>) -> Report {
    let looked = async {
        let mut state = Box::pin(cluster::check::read(client, &arguments.scope)).await;
        if arguments.scope.dials {
            state.served = dial(&state).await;
        }
        check::check(&state)
    };
    let Some(end) = end else { return looked.await };
    let rest = end.saturating_duration_since(Instant::now());
    timeout(rest.saturating_sub(MARGIN.min(rest / 4)), looked)
        .await
        .unwrap_or_else(|_| check::unreachable("the API server did not answer everything within the time of --wait"))
}

/// Connects to the injector at each of its addresses, and looks at the certificate that it serves.
async fn dial(state: &State) -> Served {
    let (Ok(injectors), Ok(view)) = (&state.injectors, state.webhooks()) else { return Served::Dialled(Vec::new()) };
    let asked = injectors.iter().take(ADDRESSES_DIALLED).map(|Injector { server_name, address }| {
        let its = view.webhooks.iter().filter(|webhook| webhook.endpoint.server_name().as_ref() == Some(server_name));
        let bundles: Vec<_> = its.map(|webhook| webhook.ca.clone()).collect();
        async move { observe::served(*address, server_name, &bundles).await }
    });
    Served::Dialled(join_all(asked).await)
}

/// Says on the CronJob what is wrong: the first line of each error.
async fn note(access: &Person, cron_job: &CronJob, report: &Report) -> Result<(), String> {
    let client = cluster::of_person(access).await.map_err(|error| error.to_string())?;
    let errors = report.checks().filter(|check| check.result == Level::Error).map(|check| {
        let error = check.error.as_deref().unwrap_or_default();
        format!("{}: {}", check.code.id, error.lines().next().unwrap_or_default())
    });
    cluster::check::note(client, cron_job, &errors.collect::<Vec<_>>().join("; ")).await
}
