//! What of linkerd-gate is there, and what the user may read.

use k8s_openapi::api::core::v1::PodSpec;

use super::code::{AGENTS, API_SERVER, CONTROLLER, ENFORCES, INSTALLED, LEADER, PROVER, RIGHTS};
use super::state::variable;
use super::{Check, State, fix};
use crate::decide::election::lease_record;

pub(super) fn checks(state: &State) -> Vec<Check> {
    let mut checks = vec![api_server(state)];
    match (state.agents(), state.controller()) {
        (Ok(None), Ok(None)) => checks.push(
            INSTALLED
                .warns("nothing of linkerd-gate is there: pods that are created while the injector is away start outside the mesh")
                .with_fix(fix::install(state)),
        ),
        (Err(unread), Err(_) | Ok(None)) | (Ok(None), Err(unread)) => checks.push(INSTALLED.unread(&unread)),
        (agents, controller) => {
            checks.push(INSTALLED.passes());
            checks.extend(ready(state));
            let specs = [
                agents.ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref()).map(|it| ("agent", it)),
                controller
                    .ok()
                    .flatten()
                    .and_then(|it| it.spec.as_ref()?.template.spec.as_ref())
                    .map(|it| ("controller", it)),
            ];
            checks.push(enforces(state, specs.into_iter().flatten()));
        }
    }
    checks.push(rights(state));
    checks
}

/// Before linkerd-gate is installed.
pub(super) fn before(state: &State) -> Vec<Check> {
    let mut checks = vec![api_server(state), rights(state), super::admission::hold_supported(state)];
    if matches!(state.agents(), Ok(Some(_))) || matches!(state.controller(), Ok(Some(_))) {
        checks
            .push(INSTALLED.passes().described("linkerd-gate is installed already: `check` without --pre looks at it"));
    }
    checks
}

fn api_server(state: &State) -> Check {
    match &state.version {
        Ok(version) => API_SERVER.passes().described(format!("the API server answers ({})", version.text)),
        Err(unread) => API_SERVER.fails(unread.to_string()).with_fix("kubectl version"),
    }
}

fn ready(state: &State) -> Vec<Check> {
    let mut checks = Vec::new();
    match state.agents() {
        Err(unread) => checks.push(AGENTS.unread(&unread)),
        Ok(None) => {
            checks.push(
                AGENTS
                    .warns("there is no DaemonSet of agents: no node is closed at boot")
                    .with_fix(fix::install(state)),
            );
        }
        Ok(Some(agents)) => {
            let namespace = agents.metadata.namespace.as_deref().unwrap_or_default();
            let status = agents.status.as_ref();
            let (wanted, ready) = status.map_or((0, 0), |it| (it.desired_number_scheduled, it.number_ready));
            let summary = format!("{ready} of {wanted} agents are ready");
            let fix = format!("kubectl describe daemonset linkerd-gate -n {namespace}");
            checks.push(if ready >= wanted && wanted > 0 {
                AGENTS.passes()
            } else if ready == 0 && wanted > 0 {
                AGENTS.fails(summary).with_fix(fix)
            } else {
                AGENTS.warns(summary).with_fix(fix)
            });
            checks.push(renewed(
                state,
                lease_record::PROVER_LEASE,
                PROVER,
                "agent",
                "no agent proves injection, and no node opens by a proof",
            ));
        }
    }
    match state.controller() {
        Err(unread) => checks.push(CONTROLLER.unread(&unread)),
        Ok(None) => checks.push(
            CONTROLLER
                .warns("there is no controller: held pods stay held, and refused ones are not retried")
                .with_fix(fix::install(state)),
        ),
        Ok(Some(controller)) => {
            let namespace = controller.metadata.namespace.as_deref().unwrap_or_default();
            let name = controller.metadata.name.as_deref().unwrap_or_default();
            let wanted = controller.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let ready = controller.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            let summary = format!("{ready} of {wanted} replicas are ready");
            let fix = format!("kubectl describe deployment {name} -n {namespace}");
            checks.push(if ready >= wanted && wanted > 0 {
                CONTROLLER.passes()
            } else if ready == 0 {
                CONTROLLER.fails(summary).with_fix(fix)
            } else {
                CONTROLLER.warns(summary).with_fix(fix)
            });
            checks.push(renewed(state, lease_record::CONTROLLER_LEASE, LEADER, "controller", "no pod is repaired"));
        }
    }
    checks
}

/// Whether the Lease is renewed; `consequence` follows where it is not.
fn renewed(state: &State, name: &str, code: super::Code, component: &str, consequence: &str) -> Check {
    let leases = match &state.leases {
        Ok(leases) => leases,
        Err(unread) => return code.unread(unread),
    };
    let found = leases.iter().find(|lease| lease.metadata.name.as_deref() == Some(name));
    let spec = found.and_then(|lease| lease.spec.as_ref());
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    if holder.is_empty() {
        return code
            .warns(format!("the Lease {name} has no holder: {consequence}"))
            .with_fix(fix::logs(state, component));
    }
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    match renewed {
        Some(renewed) if !state.is_stale(renewed) => code.passes(),
        Some(renewed) => code.warns(format!(
            "{holder} renewed the Lease {name} last at {renewed}, which is more than a minute ago by this machine's clock: \
             {consequence}"
        )).with_fix(fix::logs(state, component)),
        None => code.warns(format!("the Lease {name} was never renewed: {consequence}")).with_fix(fix::logs(state, component)),
    }
}

fn enforces<'a>(state: &State, specs: impl Iterator<Item = (&'static str, &'a PodSpec)>) -> Check {
    let audits: Vec<_> = specs
        .filter(|(role, spec)| variable(spec, role, "LINKERD_GATE_MODE").is_some_and(|mode| mode == "audit"))
        .map(|(role, _)| role)
        .collect();
    if audits.is_empty() {
        return ENFORCES.passes();
    }
    ENFORCES
        .warns(format!("mode is audit ({}): what would be done is logged, nothing is done", audits.join(" and ")))
        .with_fix(fix::enforce(state))
}

/// Each right that was missing.
fn rights(state: &State) -> Check {
    let missing = state.forbidden();
    if missing.is_empty() {
        return RIGHTS.passes();
    }
    let mut check = RIGHTS.warns("what these rights are for is not checked").with_fix(fix::grant(state));
    check.listing(missing);
    check
}
