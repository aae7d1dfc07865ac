//! `make campaign`: outages on two genuine nodes, each with every kind of admission and without linkerd-gate, and a table of what came
//! of them.

mod scenarios;
mod step;
mod table;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use linkerd_gate_kit::cluster::{self, ApiOptions, ClusterOptions};

use self::scenarios::{SCENARIOS, Scenario};
use self::step::{Kept, heal};
use self::table::{Row, table};
use super::harness::{GATE, Harness, SHOP, app_runs};
use super::history::History;
use super::release::Admission;
use super::workloads::{self, Pods, owners_settled};

/// Asks for the campaign: `all`, or places in the list such as `3 17`.
pub const VARIABLE: &str = "LINKERD_GATE_CAMPAIGN";

/// Which modes are played, where not all are: `auto refuse`.
const MODES: &str = "LINKERD_GATE_CAMPAIGN_MODES";

/// A workload that is not in the mesh so long after everything else is healthy stays outside: the longest pause of a repair is shorter.
const LIMIT: Duration = Duration::from_mins(3);

/// A workload outside the mesh that nothing repairs is seen after this: controllers act within seconds.
const LIMIT_UNREPAIRED: Duration = Duration::from_secs(45);

/// What is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing of ours, in no pod either.
    Without,
    /// Agents, controller and `wait`.
    Off,
    /// These and the guard.
    Refuse,
    /// The default: these and hold.
    Auto,
}

// === impl Mode ===

impl Mode {
    const ALL: [Self; 4] = [Self::Without, Self::Off, Self::Refuse, Self::Auto];

    pub fn is_installed(self) -> bool {
        self != Self::Without
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Without => "without",
            Self::Off => "off",
            Self::Refuse => "refuse",
            Self::Auto => "auto",
        }
    }

    /// Whether nothing may start outside the mesh, and everything has to end up in it without a person.
    fn promises(self) -> bool {
        matches!(self, Self::Refuse | Self::Auto)
    }

    async fn begins(self, harness: &Harness) -> Result<()> {
        match self {
            Self::Without => return Ok(()),
            Self::Off => harness.upgrade(Admission::Off).await?,
            Self::Refuse => harness.upgrade(Admission::Refuse).await?,
            Self::Auto => harness.upgrade(Admission::Auto).await?,
        }
        harness.until_all_nodes_are_open().await
    }
}

/// Plays what the variables ask for, and prints the table. It also stands in `target/tmp/campaign.md`.
pub async fn run() -> Result<()> {
    let (scenarios, modes) = (wanted_scenarios()?, wanted_modes()?);
    let api = ApiOptions { audit: true, ..ApiOptions::default() };
    let options = ClusterOptions { api, nodes: 2, ..ClusterOptions::default() };
    let harness = Harness::set(options, |linkerd| linkerd).await?;
    let mut rows = Vec::new();
    for mode in modes {
        mode.begins(&harness).await?;
        for place in &scenarios {
            let scenario = &SCENARIOS[place - 1];
            let began = Instant::now();
            let row =
                play(&harness, mode, scenario).await.unwrap_or_else(|error| Row::failed(mode, scenario.name, &error));
            println!("campaign {place:>2} {:<7} {row} [{} s]", mode.name(), began.elapsed().as_secs());
            rows.push(row);
        }
    }
    let text = table(&rows);
    println!("\n{text}");
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("campaign.md");
    std::fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    let broken: Vec<String> = rows.iter().filter(|row| row.breaks_a_promise()).map(ToString::to_string).collect();
    ensure!(broken.is_empty(), "{} of {} did not end as promised:\n{}", broken.len(), rows.len(), broken.join("\n"));
    Ok(())
}

fn wanted_scenarios() -> Result<Vec<usize>> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    if text == "all" {
        return Ok((1..=SCENARIOS.len()).collect());
    }
    let places = text.split_whitespace().map(|word| match word.parse() {
        Ok(place) if (1..=SCENARIOS.len()).contains(&place) => Ok(place),
        _ => bail!("{VARIABLE} is {text:?}: `all`, or numbers from 1 to {} with spaces between them", SCENARIOS.len()),
    });
    places.collect()
}

fn wanted_modes() -> Result<Vec<Mode>> {
    let Ok(text) = std::env::var(MODES) else { return Ok(Mode::ALL.to_vec()) };
    let modes: Result<BTreeSet<Mode>> = text
        .split_whitespace()
        .map(|word| {
            let mode = Mode::ALL.into_iter().find(|mode| mode.name() == word);
            mode.with_context(|| format!("{MODES} is {text:?}: without, off, refuse or auto, with spaces between them"))
        })
        .collect();
    // What is installed is not uninstalled again.
    Ok(modes?.into_iter().collect())
}

async fn play(harness: &Harness, mode: Mode, scenario: &Scenario) -> Result<Row> {
    let mut kept = Kept::default();
    heal(harness, mode, &mut kept).await?;
    workloads::open(harness, mode.is_installed()).await?;
    let mut history = History::begin(harness)?;
    history.follow(harness).await?;
    let before = writes(harness)?;
    for step in scenario.steps {
        step.happens(harness, mode, &mut kept).await.with_context(|| format!("{step:?}"))?;
    }
    for node in harness.cluster.nodes() {
        harness.cluster.until_ready(node).await?;
    }
    harness.until_linkerd_is_ready().await?;
    let healthy = Instant::now();
    let settled = until_settled(harness, mode.promises() && scenario.promised).await?;
    let seconds = settled.then(|| healthy.elapsed().as_secs_f64());
    if settled && mode.is_installed() {
        harness.until_all_nodes_are_open().await?;
    }
    let pods = harness.pods(SHOP).await?;
    let outside = pods.iter().filter(|pod| app_runs(pod) && !linkerd_gate::linkerd::meshed(pod)).count();
    let started = history.made(harness).await?;
    Ok(Row {
        mode,
        scenario: scenario.name,
        promised: mode.promises() && scenario.promised,
        bare: started.bare.len(),
        outside,
        seconds,
        failed_jobs: workloads::failed_jobs(harness).await?,
        writes: writes(harness)? - before,
        error: None,
    })
}

/// Whether every owner's pods run in the mesh, and every Job is complete, before the limit.
async fn until_settled(harness: &Harness, promised: bool) -> Result<bool> {
    let pods: Api<Pod> = harness.api(SHOP).await?;
    let limit = if promised { LIMIT } else { LIMIT_UNREPAIRED };
    let found = |pods: &Pods| owners_settled(harness, pods).then_some(());
    let all = ListParams::default();
    let settles = async {
        cluster::until_any(&pods, &all, "every workload runs in the mesh", limit, found).await?;
        workloads::until_those_jobs_complete(harness).await
    };
    // Which of the two it was, the row tells by its other figures.
    Ok(tokio::time::timeout(limit, settles).await.is_ok_and(|outcome| outcome.is_ok()))
}

/// How many writes the gate's accounts have made, renewals of Leases and dry-runs aside.
fn writes(harness: &Harness) -> Result<usize> {
    let mut count = 0;
    for account in ["linkerd-gate-agent", "linkerd-gate-controller"] {
        let requests = harness.cluster.requests_of(&format!("system:serviceaccount:{GATE}:{account}"))?;
        let written = requests.iter().filter(|request| {
            let writes = ["create", "update", "patch", "delete", "deletecollection"].contains(&request.verb.as_str());
            writes && !request.dry_run && request.resource != "leases"
        });
        count += written.count();
    }
    Ok(count)
}
