//! Nodes: closed, yielding, without an agent, opened or closed by a person.

use k8s_openapi::api::core::v1::Node;

use super::code::{CLOSED, NODES_WITHOUT_AGENT, OVERRIDES, TAINT_SUPPRESSED};
use super::{Check, State, fix};
use crate::decide::election::published_verdict::{EVERY_NODE, WireVerdict};
use crate::decide::node::taint::TAINT_EFFECT;

pub(super) fn checks(state: &State) -> Vec<Check> {
    let nodes = match &state.nodes {
        Ok(nodes) => nodes,
        Err(unread) => return vec![CLOSED.unread(unread)],
    };
    let mut checks = Vec::new();
    let key = state.taint_key();
    let closed: Vec<_> = nodes.iter().filter(|node| is_closed(node, &key)).collect();
    let agents = state.agents().ok().flatten();
    if agents.is_none() && closed.is_empty() {
        return checks;
    }
    checks.push(if closed.is_empty() {
        CLOSED.passes()
    } else {
        let why = match state.fresh_verdict() {
            Some(Ok(published)) => match published.verdict {
                WireVerdict::Closed { failed_probes } if !failed_probes.is_empty() => {
                    failed_probes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
                }
                WireVerdict::Open { .. } => {
                    "injection is proven: they are about to open, or their agents do not run".to_owned()
                }
                WireVerdict::Settling | WireVerdict::Closed { .. } => "the prover makes sure of its proof".to_owned(),
            },
            Some(Err(_)) | None if state.verdict().is_some() => {
                "the prover has published nothing for a minute".to_owned()
            }
            Some(Err(_)) | None => "no verdict is published".to_owned(),
        };
        let mut check = CLOSED
            .warns(format!("{} of {} nodes take no new pods: {why}", closed.len(), nodes.len()))
            .with_fix(format!(
                "linkerd-gate open {} --for 1h   # pods then start there, whatever Linkerd does",
                closed.iter().take(20).filter_map(|node| node.metadata.name.as_deref()).collect::<Vec<_>>().join(" ")
            ));
        check.listing(closed.iter().map(|node| match since(node) {
            Some(since) => format!("{} (booted about {since})", object(node)),
            None => object(node),
        }));
        check.objects = closed.iter().map(|node| object(node)).collect();
        check
    });
    checks.push(taint_suppressed(state, &key));
    if agents.is_some()
        && let Ok(survey) = &state.pods
    {
        let without: Vec<_> = nodes
            .iter()
            .filter(|node| node.metadata.name.as_ref().is_some_and(|name| !survey.agents.contains(name)))
            .map(object)
            .collect();
        checks.push(match &survey.agents_unread {
            Some(unread) => NODES_WITHOUT_AGENT.unread(unread),
            None if without.is_empty() => NODES_WITHOUT_AGENT.passes(),
            None => NODES_WITHOUT_AGENT
                .warns("at their next boot these nodes are not closed, or not opened before the controller does")
                .about(without)
                .with_fix(format!(
                    "kubectl get pods -n {} -l app.kubernetes.io/component=agent -o wide   # and `kubectl describe` of what is missing",
                    fix::namespace(state)
                )),
        });
    }
    let overrides = state.overrides();
    checks.push(match overrides.first() {
        None => OVERRIDES.passes(),
        Some((_, manual_override)) => {
            let word =
                if manual_override.open { "pods start there, whatever Linkerd does" } else { "no pod starts there" };
            let mut check = OVERRIDES
                .warns(format!("a person said so, and until then it goes before what is proven: {word}"))
                .with_fix(clear(overrides.iter().map(|(what, _)| what.as_str())));
            check.listing(overrides.iter().map(|(what, manual_override)| format!("{what}: {manual_override}")));
            check.objects = overrides.into_iter().map(|(what, _)| what).collect();
            check
        }
    });
    checks
}

/// Takes these overrides back.
fn clear<'a>(targets: impl Iterator<Item = &'a str>) -> String {
    let (nodes, all): (Vec<_>, Vec<_>) = targets.partition(|what| what.starts_with("node/"));
    let nodes: Vec<_> = nodes.iter().take(20).map(|node| node.trim_start_matches("node/")).collect();
    let all = (!all.is_empty()).then(|| "linkerd-gate clear --all".to_owned());
    let nodes = (!nodes.is_empty()).then(|| format!("linkerd-gate clear {}", nodes.join(" ")));
    all.into_iter().chain(nodes).collect::<Vec<_>>().join(" && ")
}

/// DaemonSets for which nodes are not closed.
fn taint_suppressed(state: &State, key: &str) -> Check {
    let suppressions =
        state.fresh_verdict().and_then(Result::ok).map(|published| published.taint_suppressed_by).unwrap_or_default();
    if suppressions.is_empty() {
        TAINT_SUPPRESSED.passes()
    } else {
        let object = |name: &String| match name.split_once('/') {
            Some((namespace, name)) => format!("daemonset/{name} -n {namespace}"),
            None => name.clone(),
        };
        let mut check = TAINT_SUPPRESSED.warns(format!(
            "where a pod of these is missing the node is not closed: they do not tolerate the taint {key}"
        ));
        check.listing(suppressions.iter().map(|(name, nodes)| {
            let everywhere = nodes.contains(EVERY_NODE);
            let nodes: Vec<_> = nodes.iter().take(3).map(String::as_str).collect();
            format!("{} (on {})", object(name), if everywhere { "every node".to_owned() } else { nodes.join(", ") })
        }));
        check.objects = suppressions.keys().map(object).collect();
        let sets = state.daemon_sets.as_deref().unwrap_or_default();
        let named: Vec<_> = suppressions.keys().filter_map(|name| name.split_once('/')).collect();
        let commands = fix::all(named.iter().filter_map(|(namespace, name)| fix::tolerate(sets, namespace, name, key)));
        match named.first() {
            // It is gone, or may not be read.
            Some((namespace, name)) if commands.is_empty() => {
                check.with_fix(format!("kubectl describe daemonset {name} -n {namespace}"))
            }
            _ => check.with_fix(commands),
        }
    }
}

/// Whether our taint is on it.
pub(super) fn is_closed(node: &Node, key: &str) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == key && taint.effect == TAINT_EFFECT)
}

fn object(node: &Node) -> String {
    format!("node/{}", node.metadata.name.as_deref().unwrap_or_default())
}

/// A node is closed when it boots, and kubelet says when that made it ready. The taint itself has no time: only
/// `NoExecute` has.
fn since(node: &Node) -> Option<String> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some(ready.last_transition_time.as_ref()?.0.to_string())
}
