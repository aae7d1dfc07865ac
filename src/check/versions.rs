//! Versions, and what of the control plane there is one of only.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;

use super::code::{OUR_VERSIONS, PROXIES, REPLICAS, SPREAD};
use super::labels::component;
use super::state::container;
use super::survey::Owner;
use super::{Check, State, fix};
use crate::linkerd::names;

pub(super) fn checks(state: &State) -> Vec<Check> {
    let mut checks = Vec::new();
    match &state.deployments {
        Err(unread) => checks.push(REPLICAS.unread(unread)),
        Ok(deployments) => {
            let control_plane: Vec<_> =
                deployments.iter().filter(|it| component(it.metadata.labels.as_ref()).is_some()).collect();
            checks.extend(proxies(state, &control_plane));
            checks.extend(ours(state));
            checks.extend(replicas(&control_plane));
        }
    }
    checks.extend(spread(state));
    checks
}

fn proxies(state: &State, control_plane: &[&Deployment]) -> Option<Check> {
    let survey = state.pods.as_ref().ok()?;
    let version = |deployment: &&&Deployment| {
        let created_by = deployment.metadata.annotations.as_ref()?.get(names::annotation::CREATED_BY)?;
        created_by.split_whitespace().last().map(ToOwned::to_owned)
    };
    let versions: BTreeSet<String> = control_plane
        .iter()
        .filter(|it| component(it.metadata.labels.as_ref()) == Some(names::component::PROXY_INJECTOR))
        .filter_map(|it| version(&it))
        .collect();
    if versions.is_empty() || survey.proxies.is_empty() {
        return None;
    }
    let others: Vec<_> = survey.proxies.iter().filter(|(proxy, _)| !versions.contains(*proxy)).collect();
    let control: Vec<_> = versions.into_iter().collect();
    Some(if others.is_empty() {
        PROXIES.passes()
    } else {
        let mut check = PROXIES.warns(format!(
            "the control plane is {}, and proxies get its version only when their pods are created again",
            control.join(", ")
        ));
        let restarts =
            others.iter().filter_map(|(version, _)| survey.proxied.get(*version)).flatten().filter_map(Owner::restart);
        let fix = fix::all(restarts);
        check.listing(others.into_iter().map(|(version, count)| format!("{count} proxies are {version}")));
        if fix.is_empty() {
            check.with_fix(
                "kubectl get pods -A -l linkerd.io/control-plane-ns   # and run again what no rollout restarts",
            )
        } else {
            check.with_fix(fix)
        }
    })
}

fn ours(state: &State) -> Option<Check> {
    let agents = state.agents().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
    let controller = state.controller().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
    let image = |spec, role| container(spec, role).and_then(|container| container.image.clone());
    let agent = agents.and_then(|spec| image(spec, "agent"))?;
    let controller = controller.and_then(|spec| image(spec, "controller"))?;
    Some(if agent == controller {
        OUR_VERSIONS.passes()
    } else {
        let mut check = OUR_VERSIONS.warns("agents and controller are of different images: finish the update");
        check.listing([format!("agents: {agent}"), format!("controller: {controller}")]);
        check.with_fix(format!(
            "kubectl set image deployment/{} -n {} controller={agent}   # or `daemonset/linkerd-gate agent={controller}`",
            state.controller().ok().flatten().and_then(|it| it.metadata.name.clone()).unwrap_or_default(),
            fix::namespace(state)
        ))
    })
}

fn replicas(control_plane: &[&Deployment]) -> Option<Check> {
    let wanted = [names::component::PROXY_INJECTOR, names::component::IDENTITY, names::component::DESTINATION];
    let of_ours = |it: &&&Deployment| component(it.metadata.labels.as_ref()).is_some_and(|part| wanted.contains(&part));
    let parts: Vec<_> = control_plane.iter().filter(of_ours).collect();
    if parts.is_empty() {
        return None;
    }
    let single: Vec<_> = parts
        .into_iter()
        .filter(|it| it.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1) < 2)
        .map(|it| {
            let name = it.metadata.name.as_deref().unwrap_or_default();
            format!("deployment/{name} -n {}", it.metadata.namespace.as_deref().unwrap_or_default())
        })
        .collect();
    Some(if single.is_empty() {
        REPLICAS.passes()
    } else {
        REPLICAS
            .warns("with one replica, a node that goes takes it along: pods that are created until it is back miss it")
            .about(single)
            .with_fix("linkerd upgrade --ha | kubectl apply -f -")
    })
}

fn spread(state: &State) -> Option<Check> {
    let survey = state.pods.as_ref().ok()?;
    let together: Vec<_> = survey
        .control_plane
        .iter()
        .filter(|(_, nodes)| nodes.len() > 1 && nodes.iter().collect::<BTreeSet<_>>().len() == 1)
        .map(|(part, nodes)| format!("{part}: all {} on node {}", nodes.len(), nodes[0]))
        .collect();
    if survey.control_plane.is_empty() {
        return None;
    }
    Some(if together.is_empty() {
        SPREAD.passes()
    } else {
        let mut check = SPREAD.warns("all replicas of these are on one node, which takes them along when it goes");
        let parts = together.iter().filter_map(|line| line.split(':').next());
        let restarts = state.deployments.as_deref().unwrap_or_default().iter().filter(|it| {
            component(it.metadata.labels.as_ref()).is_some_and(|part| parts.clone().any(|alone| alone == part))
        });
        let restarts = restarts.map(|it| {
            format!(
                "kubectl rollout restart deployment/{} -n {}",
                it.metadata.name.as_deref().unwrap_or_default(),
                it.metadata.namespace.as_deref().unwrap_or_default()
            )
        });
        let fix = format!("linkerd upgrade --ha | kubectl apply -f - && {}", fix::all(restarts));
        check.listing(together);
        check.with_fix(fix.trim_end_matches(" && "))
    })
}
