//! Our admission policies, and the webhooks around Linkerd's.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;

use super::code::{CONDITIONS, HOLD_SUPPORTED, LATER_WEBHOOKS, POLICIES};
use super::policy::rules_create_pods;
use super::state::HOLDS_FROM;
use super::{Check, State, fix, policies};
use crate::linkerd::names;

pub(super) fn checks(state: &State) -> Vec<Check> {
    let installed = !matches!((state.agents(), state.controller()), (Ok(None), Ok(None)));
    let mut checks = Vec::new();
    match &state.admission {
        Err(unread) => checks.push(POLICIES.unread(unread)),
        // That nothing is installed is said already.
        Ok(admission) if !installed && admission.policies.is_empty() && admission.bindings.is_empty() => {}
        Ok(admission) => {
            checks.push(hold_supported(state));
            checks.extend(policies::checks(state, admission));
        }
    }
    checks.extend(conditions(state));
    checks.extend(later_webhooks(state));
    checks
}

pub(super) fn hold_supported(state: &State) -> Check {
    let version = match &state.version {
        Ok(version) => version,
        Err(unread) => return HOLD_SUPPORTED.unread(unread),
    };
    let text = &version.text;
    let (major, minor) = HOLDS_FROM;
    if version.minor >= HOLDS_FROM {
        HOLD_SUPPORTED.passes().described(format!("this Kubernetes ({text}) can hold pods"))
    } else {
        HOLD_SUPPORTED.passes().described(format!(
            "this Kubernetes ({text}) cannot hold pods: the guard refuses them instead (hold needs {major}.{minor})"
        ))
    }
}

fn conditions(state: &State) -> Option<Check> {
    let webhooks = state.webhooks().ok().filter(|webhooks| !webhooks.is_empty())?;
    let conditional: Vec<_> = webhooks.webhooks.iter().filter(|webhook| !webhook.match_conditions.is_empty()).collect();
    let all = state.mutating.as_deref().unwrap_or_default();
    let removals = all.iter().filter(|it| conditional.iter().any(|one| Some(&one.configuration) == it.metadata.name.as_ref())).flat_map(|it| {
        let hooks = it.webhooks.iter().flatten().enumerate();
        let name = it.metadata.name.clone().unwrap_or_default();
        hooks.filter(|(_, hook)| hook.match_conditions.as_ref().is_some_and(|all| !all.is_empty())).map(move |(place, _)| {
            format!("kubectl patch mutatingwebhookconfiguration {name} --type=json -p='[{{\"op\":\"remove\",\"path\":\"/webhooks/{place}/matchConditions\"}}]'")
        })
    });
    let fix = format!("{}   # once namespaceSelector or objectSelector says the same", fix::all(removals));
    Some(if conditional.is_empty() {
        CONDITIONS.passes()
    } else {
        let names = conditional.iter().map(|webhook| {
            format!("mutatingwebhookconfiguration/{} ({})", webhook.configuration, webhook.match_conditions.join(", "))
        });
        CONDITIONS
            .warns("Linkerd's webhook has match conditions, which only the API server evaluates: no pod of it is held or repaired")
            .about(names)
            .with_fix(fix)
    })
}

/// Webhooks are called in the order of their configurations' names (k8s.io/apiserver
/// `pkg/admission/configuration/mutating_webhook_manager.go`).
fn later_webhooks(state: &State) -> Option<Check> {
    let all = state.mutating.as_ref().ok()?;
    let linkerds = state.webhooks().ok().filter(|webhooks| !webhooks.is_empty())?;
    let last = linkerds.webhooks.iter().map(|webhook| webhook.configuration.as_str()).max()?;
    let reinvoked = all.iter().filter(|it| it.metadata.name.as_deref() == Some(last)).any(|it| {
        it.webhooks.iter().flatten().any(|webhook| webhook.reinvocation_policy.as_deref() == Some("IfNeeded"))
    });
    let later: Vec<_> = all
        .iter()
        .filter(|it| it.metadata.name.as_deref() > Some(last))
        .filter(|it| it.webhooks.iter().flatten().any(creates_pods))
        // Linkerd's own, of viz and jaeger: they make no pod ask.
        .filter(|it| !it.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::label::EXTENSION)))
        .filter_map(|it| it.metadata.name.clone())
        .collect();
    Some(if later.is_empty() || reinvoked {
        LATER_WEBHOOKS.passes()
    } else {
        LATER_WEBHOOKS
            .warns(
                "these are called after Linkerd's webhook: a pod that one of them makes ask for injection is not injected",
            )
            .about(later.into_iter().map(|name| format!("mutatingwebhookconfiguration/{name}")))
            .with_fix(format!(
                "kubectl patch mutatingwebhookconfiguration {last} --type=json \
                 -p='[{{\"op\":\"add\",\"path\":\"/webhooks/0/reinvocationPolicy\",\"value\":\"IfNeeded\"}}]'"
            ))
    })
}

fn creates_pods(webhook: &MutatingWebhook) -> bool {
    rules_create_pods(webhook.rules.as_deref())
}
