//! `linkerd-gate status`: one screen, or one object.

use std::io::Write;

use serde::Serialize;

use super::not_done::NotDone;
pub use super::version::Output;
use crate::check::State;
use crate::check::state::variable;
use crate::cluster;
use crate::cluster::Person;
use crate::cluster::check::Scope;
use crate::decide::Basis;
use crate::decide::election::lease_record;
use crate::decide::election::published_verdict::WireVerdict;
use crate::decide::node::taint::{OPENED_BOOT, TAINT_EFFECT};

/// What there is. As JSON, fields are added and never renamed; what could not be read is null, and among `problems`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Status {
    /// The verdict: `open`, `settling`, `closed`, or nothing where none is published.
    verdict: Option<&'static str>,
    /// Why, in words.
    because: Vec<String>,
    /// Who proves.
    prover: Option<Holder>,
    /// Which controller leads.
    leader: Option<Holder>,
    /// The versions.
    versions: Versions,
    /// The mode of the agents.
    mode: Option<String>,
    /// The nodes.
    nodes: Option<Nodes>,
    /// Pods.
    pods: Option<Pods>,
    /// Manual overrides that are in force.
    overrides: Vec<String>,
    /// What could not be read.
    problems: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Versions {
    client: &'static str,
    kubernetes: Option<String>,
    agents: Option<String>,
    controller: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Holder {
    identity: String,
    renewed: Option<String>,
    since: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Nodes {
    all: usize,
    open: usize,
    closed: Vec<String>,
    overridden: usize,
    /// When a node became ready last, and which: its last boot, about.
    last_boot: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Pods {
    asked: usize,
    meshed: usize,
    missed: usize,
    held: usize,
}

/// Writes the status.
///
/// # Errors
/// A cluster that cannot be asked.
pub async fn run(access: &Person, scope: &Scope, output: Output, out: &mut impl Write) -> Result<(), NotDone> {
    let client = cluster::of_person(access).await.map_err(|error| NotDone::one(error.to_string()))?;
    let state = Box::pin(cluster::check::read(&client, scope)).await;
    if let Err(unread) = &state.version {
        return Err(NotDone::one(unread.to_string()));
    }
    let status = Status::of(&state);
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &status).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Output::Text => status.write(out)?,
    }
    out.flush()?;
    Ok(())
}

// === impl Status ===

impl Status {
    fn of(state: &State) -> Self {
        let mut problems: Vec<String> = [
            state.nodes.as_ref().err(),
            state.pods.as_ref().err(),
            state.leases.as_ref().err(),
            state.daemon_sets.as_ref().err(),
            state.deployments.as_ref().err(),
        ]
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
        let (verdict, because) = match state.verdict() {
            None => (None, Vec::new()),
            Some(Err(why)) => {
                problems.push(format!("the published verdict: {why}"));
                (None, Vec::new())
            }
            Some(Ok(published)) => match published.verdict {
                WireVerdict::Open { basis, degraded, .. } => {
                    let basis = match basis {
                        Basis::Proven => "proven by an injected dry-run pod",
                        Basis::NotInstalled => "Linkerd is not installed",
                        Basis::Reachable => "all parts answer",
                    };
                    let reasons = degraded.iter().map(|reasons| format!("not looked at lately: {reasons}"));
                    (Some("open"), [basis.to_owned()].into_iter().chain(reasons).collect())
                }
                WireVerdict::Settling => (Some("settling"), vec!["all probes are ready".to_owned()]),
                WireVerdict::Closed { failed_probes } => {
                    (Some("closed"), failed_probes.iter().map(ToString::to_string).collect())
                }
            },
        };
        let agents = state.agents().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
        let controller = state.controller().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
        let image = |spec: &k8s_openapi::api::core::v1::PodSpec| spec.containers.first()?.image.clone();
        let overrides = state.overrides();
        Self {
            verdict,
            because,
            prover: holder(state, lease_record::PROVER_LEASE),
            leader: holder(state, lease_record::CONTROLLER_LEASE),
            versions: Versions {
                client: env!("CARGO_PKG_VERSION"),
                kubernetes: state.version.as_ref().ok().map(|version| version.text.clone()),
                agents: agents.and_then(image),
                controller: controller.and_then(image),
            },
            mode: agents
                .map(|spec| variable(spec, "agent", "LINKERD_GATE_MODE").unwrap_or_else(|| "enforce".to_owned())),
            nodes: Nodes::of(state, overrides.iter().filter(|(what, _)| what.starts_with("node/")).count()),
            pods: state.pods.as_ref().ok().map(|survey| Pods {
                asked: survey.asked(),
                meshed: survey.meshed,
                missed: survey.missed(),
                held: survey.held(),
            }),
            overrides: overrides
                .into_iter()
                .map(|(what, manual_override)| format!("{what}: {manual_override}"))
                .collect(),
            problems,
        }
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self { verdict, because, prover, leader, versions, mode, nodes, pods, overrides, problems } = self;
        let mut line = |label: &str, text: String| writeln!(out, "{label:<13} {}", super::explain::plain(&text));
        let none = "none".to_owned();
        line("verdict", verdict.map_or_else(|| "none is published".to_owned(), ToOwned::to_owned))?;
        for reason in because {
            line("", reason.clone())?;
        }
        line("prover", prover.as_ref().map_or(none.clone(), Holder::summary))?;
        line("leader", leader.as_ref().map_or(none.clone(), Holder::summary))?;
        line("mode", mode.clone().unwrap_or_else(|| "no agents".to_owned()))?;
        line("kubernetes", versions.kubernetes.clone().unwrap_or_default())?;
        line("agents", versions.agents.clone().unwrap_or(none.clone()))?;
        line("controller", versions.controller.clone().unwrap_or(none))?;
        line("client", versions.client.to_owned())?;
        if let Some(nodes) = nodes {
            let Nodes { all, open, closed, overridden, last_boot } = nodes;
            line("nodes", format!("{open} of {all} open, {} closed, {overridden} overridden", closed.len()))?;
            for node in closed {
                line("", format!("closed: {node}"))?;
            }
            if let Some(last) = last_boot {
                line("last boot", last.clone())?;
            }
        }
        if let Some(Pods { asked, meshed, missed, held }) = pods {
            line("pods", format!("{meshed} of {asked} that ask are meshed, {missed} missed, {held} of them held"))?;
        }
        for text in overrides {
            line("override", text.clone())?;
        }
        for text in problems {
            line("not read", text.clone())?;
        }
        Ok(())
    }
}

fn holder(state: &State, name: &str) -> Option<Holder> {
    let spec = state.lease(name)?.spec.as_ref()?;
    let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty())?;
    let renewed = spec.renew_time.as_ref().map(|time| time.0.to_string());
    Some(Holder { identity: holder, renewed, since: spec.acquire_time.as_ref().map(|time| time.0.to_string()) })
}

// === impl Holder ===

impl Holder {
    fn summary(&self) -> String {
        let since = self.since.as_ref().map(|since| format!(", since {since}")).unwrap_or_default();
        let renewed = self.renewed.as_ref().map(|renewed| format!(", renewed {renewed}")).unwrap_or_default();
        format!("{}{since}{renewed}", self.identity)
    }
}

// === impl Nodes ===

impl Nodes {
    fn of(state: &State, overridden: usize) -> Option<Self> {
        let nodes = state.nodes.as_ref().ok()?;
        let key = state.taint_key();
        let name = |node: &k8s_openapi::api::core::v1::Node| node.metadata.name.clone().unwrap_or_default();
        let ready = |node: &k8s_openapi::api::core::v1::Node| {
            let conditions = node.status.as_ref()?.conditions.as_ref()?;
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
            Some(ready.last_transition_time.as_ref()?.0)
        };
        let is_closed = |node: &&k8s_openapi::api::core::v1::Node| {
            let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            taints.into_iter().any(|taint| taint.key == key && taint.effect == TAINT_EFFECT)
        };
        let closed: Vec<_> = nodes
            .iter()
            .filter(is_closed)
            .map(|node| match ready(node) {
                Some(since) => format!("{} (ready since {since})", name(node)),
                None => name(node),
            })
            .collect();
        let opened = |node: &k8s_openapi::api::core::v1::Node| {
            node.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(OPENED_BOOT))
        };
        let last = nodes.iter().filter(|node| opened(node)).filter_map(|node| Some((ready(node)?, name(node)))).max();
        Some(Self {
            all: nodes.len(),
            open: nodes.len() - closed.len(),
            closed,
            overridden,
            last_boot: last.map(|(at, node)| format!("node {node} became ready at {at}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_field_of_the_json() {
        let holder = || Some(Holder { identity: String::new(), renewed: None, since: None });
        let (nodes, pods) = (Some(Nodes::default()), Some(Pods::default()));
        let all = Status { prover: holder(), leader: holder(), nodes, pods, ..Status::default() };
        crate::command::json_tests::the_page_has_the_fields_of("status", &serde_json::to_value(all).unwrap());
    }
}
