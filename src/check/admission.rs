//! Our admission policies, and the webhooks around Linkerd's.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, RuleWithOperations};

use super::clean::is_name;
use super::code::{CONDITIONS, HOLD_SUPPORTED, LATER_WEBHOOKS, PARAMETER, POLICIES};
use super::state::{Admission, Binding, GUARD, HOLD, HOLDS_FROM, PolicyKind};
use super::{Check, State, fix};
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
            checks.extend(policies(state, admission));
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

fn policies(state: &State, admission: &Admission) -> Vec<Check> {
    let has_policy = |name: &str| admission.policies.iter().any(|(_, policy)| policy == name);
    let binding = |name: &str| admission.bindings.iter().find(|binding| binding.name == name);
    // With `admission: refuse` the guard alone is there, also where pods could be held.
    let refuses = has_policy(GUARD) && binding(GUARD).is_some();
    let holds = admission.offers_mutating && !refuses;
    let mut wrong = Vec::new();
    for (name, wanted) in [(HOLD, holds), (GUARD, true)] {
        match (has_policy(name), binding(name)) {
            (false, Some(_)) => wrong.push(format!("the policy {name} is missing, which is bound")),
            (true, None) => wrong.push(format!("the policy {name} is not bound: it does nothing")),
            (false, None) if wanted => wrong.push(format!("the policy {name} is missing")),
            (true, Some(_)) | (false, None) => {}
        }
    }
    let only_tells = |binding: &&Binding| {
        binding.kind == PolicyKind::Validating && !binding.actions.iter().any(|action| action == "Deny")
    };
    let tells: Vec<_> = admission.bindings.iter().filter(only_tells).collect();
    wrong.extend(
        tells.iter().map(|it| format!("{} only tells ({}): it refuses nothing", it.name, it.actions.join(", "))),
    );
    let mut checks = vec![if wrong.is_empty() {
        POLICIES.passes()
    } else {
        let mut check = POLICIES.warns("pods that miss the injector are admitted").with_fix(fix::install(state));
        check.listing(wrong);
        check
    }];
    let without: Vec<_> = admission.bindings.iter().filter(|binding| !binding.has_parameter).collect();
    if without.is_empty() {
        checks.push(PARAMETER.passes());
    } else {
        let names: Vec<_> = without.iter().map(|binding| binding.name.as_str()).collect();
        checks.push(
            PARAMETER
                .fails(format!(
                    "{} takes no webhook configuration as its parameter, and lets every pod pass",
                    names.join(" and ")
                ))
                .with_fix(format!(
                    "kubectl label --overwrite mutatingwebhookconfiguration {} linkerd.io/control-plane-component=proxy-injector",
                    linkerds(state).unwrap_or_else(|| names::webhook::CONFIGURATION.to_owned())
                )),
        );
    }
    checks
}

/// The configuration of Linkerd's webhook, by what it calls.
fn linkerds(state: &State) -> Option<String> {
    let all = state.mutating.as_ref().ok()?;
    let is_it = |hook: &MutatingWebhook| hook.name == "linkerd-proxy-injector.linkerd.io";
    all.iter().find(|it| it.webhooks.iter().flatten().any(is_it))?.metadata.name.clone().filter(|name| is_name(name))
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

/// Whether a rule matches the creation of pods.
pub(super) fn rules_create_pods(rules: Option<&[RuleWithOperations]>) -> bool {
    let has = |items: &Option<Vec<String>>, wanted: &[&str]| {
        items.iter().flatten().any(|item| wanted.contains(&item.as_str()))
    };
    rules.unwrap_or_default().iter().any(|rule| {
        has(&rule.operations, &["*", "CREATE"])
            && has(&rule.api_groups, &["*", ""])
            && has(&rule.api_versions, &["*", "v1"])
            && has(&rule.resources, &["*", "*/*", "pods", "pods/*"])
            && rule.scope.as_deref() != Some("Cluster")
    })
}
