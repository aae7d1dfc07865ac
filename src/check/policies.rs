//! Our admission policies: there, bound, and in step with the live configuration of Linkerd's webhook.

use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, MutatingWebhookConfiguration, NamedRuleWithOperations, RuleWithOperations,
};
use k8s_openapi::api::core::v1::Namespace;

use super::clean::is_name;
use super::code::{COVERAGE, PARAMETER, POLICIES};
use super::policy::{Admission, Binding, Parameter, Unapplied, rules_create_pods};
use super::state::variable;
use super::{Check, State, fix, rules};
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};
use crate::linkerd::injection_input::inject_annotation;
use crate::linkerd::selector::Selector;
use crate::linkerd::webhook::{Call, Endpoint};
use crate::linkerd::{WebhookView, names};

/// The label of namespaces by which admission is chosen.
const ADMISSION: &str = "linkerd-gate/admission";

/// The label of namespaces that the gate waits for.
const ESSENTIAL: &str = "linkerd-gate/essential";

pub(super) fn checks(state: &State, admission: &Admission) -> Vec<Check> {
    let mut checks = vec![bound(state, admission)];
    match (&state.mutating, state.webhooks()) {
        (Ok(mutating), Ok(view)) => {
            checks.push(parameters(state, admission, mutating, &view));
            checks.extend(coverage(state, admission, &view));
        }
        (Err(unread), _) => checks.push(PARAMETER.unread(unread)),
        (_, Err(unread)) => checks.push(PARAMETER.unread(&unread)),
    }
    checks.extend(rules::check(state, admission));
    checks
}

fn bound(state: &State, admission: &Admission) -> Check {
    let policy = |name: &str| admission.policies.iter().find(|policy| policy.name == name);
    let binding = |name: &str| admission.bindings.iter().find(|binding| binding.name == name);
    // With `admission: refuse` the guard alone is there, also where pods could be held.
    let refuses = policy(GUARD_POLICY).is_some() && binding(GUARD_POLICY).is_some();
    let holds = admission.offers_mutating && !refuses;
    let mut wrong = Vec::new();
    for (name, wanted) in [(HOLD_POLICY, holds), (GUARD_POLICY, true)] {
        match (policy(name), binding(name)) {
            (None, Some(_)) => wrong.push(format!("the policy {name} is missing, which is bound")),
            (Some(_), None) => wrong.push(format!("the policy {name} is not bound: it does nothing")),
            (None, None) if wanted => wrong.push(format!("the policy {name} is missing")),
            (Some(_), Some(binding)) if binding.policy != name => {
                wrong.push(format!("the binding {name} binds the policy {}", binding.policy));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    let tells: Vec<_> = admission.bindings.iter().filter(|binding| !binding.enforces()).collect();
    wrong.extend(
        tells.iter().map(|it| format!("{} only tells ({}): it refuses nothing", it.name, it.actions.join(", "))),
    );
    let chosen = policy(GUARD_POLICY).and_then(|guard| guard.chosen.as_ref());
    if admission.offers_mutating
        && policy(HOLD_POLICY).is_none()
        && chosen.is_some_and(|(value, chosen)| value == "auto" && chosen == "refuse")
    {
        wrong.push(
            "admission is auto, and was rendered for a Kubernetes that cannot hold pods: this one can, and the guard refuses them instead"
                .to_owned(),
        );
    }
    if wrong.is_empty() {
        POLICIES.passes()
    } else {
        let only_older = wrong.len() == 1 && wrong[0].starts_with("admission is auto");
        let mut check = POLICIES
            .warns(if only_older {
                "the policies are for an older Kubernetes"
            } else {
                "pods that miss the injector are admitted"
            })
            .with_fix(fix::install(state));
        check.listing(wrong);
        check
    }
}

/// Whether each binding takes as its parameter what Linkerd's webhook is configured by.
fn parameters(
    state: &State,
    admission: &Admission,
    mutating: &[MutatingWebhookConfiguration],
    view: &WebhookView,
) -> Check {
    let linkerds: Vec<String> = mutating
        .iter()
        .filter(|it| view.is_of(it))
        .filter_map(|it| it.metadata.name.clone())
        .filter(|name| is_name(name))
        .collect();
    let mut wrong = Vec::new();
    let mut lets_pass = false;
    let mut fixes = Vec::new();
    for binding in &admission.bindings {
        let name = &binding.name;
        let taken = binding.parameters(mutating);
        let of_linkerd: Vec<_> = taken.iter().filter(|it| view.is_of(it)).collect();
        if of_linkerd.is_empty() {
            lets_pass = true;
            let found: Vec<_> = taken.iter().filter_map(|it| it.metadata.name.as_deref()).collect();
            wrong.push(match &binding.parameter {
                Parameter::Missing => format!("{name} has no paramRef"),
                _ if !found.is_empty() => format!(
                    "{name} takes {} as its parameter, which is no configuration of Linkerd's webhook",
                    found.join(", ")
                ),
                Parameter::Name(wanted) => {
                    format!("{name} takes {wanted} as its parameter, which does not exist")
                }
                Parameter::Labels(_) => {
                    format!("no webhook configuration has the labels by which {name} takes its parameter")
                }
            });
        } else if let Some(missing) = uncovered(view, &of_linkerd) {
            wrong.push(format!(
                "{name} does not take {missing}, which is of Linkerd's webhook too: pods that only {missing} selects pass"
            ));
        }
        if binding.refuses_without {
            wrong.push(format!(
                "{name} has parameterNotFoundAction Deny: without Linkerd's configuration, it refuses every pod"
            ));
        }
        fixes.extend(mended(state, binding, &linkerds));
    }
    if wrong.is_empty() {
        let taken = linkerds.join(", ");
        return PARAMETER.passes().described(if taken.is_empty() {
            PARAMETER.description.to_owned()
        } else {
            format!("{} ({taken})", PARAMETER.description)
        });
    }
    let fix = fix::all(fixes);
    let fix = if fix.is_empty() { fix::install(state) } else { fix };
    let mut check = if lets_pass {
        PARAMETER.fails("a policy that does not read Linkerd's live webhook configuration lets every pod pass")
    } else {
        PARAMETER.warns("the policies do not read Linkerd's live webhook configuration as they should")
    };
    check.listing(wrong);
    check.with_fix(fix)
}

/// A configuration of Linkerd's webhook that calls it for pods which no configuration in `taken` does.
fn uncovered(view: &WebhookView, taken: &[&&MutatingWebhookConfiguration]) -> Option<String> {
    let is_taken = |name: &String| taken.iter().any(|it| it.metadata.name.as_ref() == Some(name));
    let (ours, others): (Vec<_>, Vec<_>) = view.webhooks.iter().partition(|webhook| is_taken(&webhook.configuration));
    let alone = others.into_iter().find(|other| !ours.iter().any(|one| one.covers(other)))?;
    Some(alone.configuration.clone())
}

/// What gives a binding its parameter back: Linkerd's label, or the name in the chart's value.
fn mended(state: &State, binding: &Binding, linkerds: &[String]) -> Option<String> {
    let label = format!("{}={}", names::label::CONTROL_PLANE_COMPONENT, names::component::PROXY_INJECTOR);
    let first = linkerds.first()?;
    match &binding.parameter {
        Parameter::Labels(_) => {
            Some(format!("kubectl label --overwrite mutatingwebhookconfiguration {} {label}", linkerds.join(" ")))
        }
        Parameter::Name(name) if !linkerds.contains(name) => {
            Some(fix::set_value(state, &format!("linkerd.webhookConfiguration={first}")))
        }
        Parameter::Name(_) | Parameter::Missing => None,
    }
}

/// Whether some policy that acts applies to the pods of each namespace that asks and that Linkerd's webhook selects.
fn coverage(state: &State, admission: &Admission, view: &WebhookView) -> Option<Check> {
    let acting: Vec<_> = admission
        .bindings
        .iter()
        .filter(|binding| state.acts(&binding.name))
        .filter_map(|binding| Some((admission.policies.iter().find(|it| it.name == binding.policy)?, binding)))
        .collect();
    if acting.is_empty() {
        // That nothing acts is said already.
        return None;
    }
    let namespaces = match &state.namespaces {
        Ok(namespaces) => namespaces,
        Err(unread) => return Some(COVERAGE.unread(unread)),
    };
    let mut left_out: Vec<(String, Unapplied)> = Vec::new();
    // Its dry-run pods have to show what the injector does, and no policy.
    let probes = probe_namespace(state);
    let asks = |it: &&Namespace| is_injected(it, view) && it.metadata.name.as_ref() != Some(&probes);
    for namespace in namespaces.iter().filter(asks) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let mut reasons =
            acting.iter().map(|(policy, binding)| unapplied(&[&policy.matches, &binding.matches], namespace));
        // `all` stops at the first policy that applies; otherwise the first reason is as good as any.
        let first = reasons.next().flatten();
        if let Some(reason) = first.filter(|_| reasons.all(|it| it.is_some())) {
            left_out.push((name, reason));
        }
    }
    if left_out.is_empty() {
        return Some(COVERAGE.passes());
    }
    let mut check = COVERAGE
        .warns("these namespaces ask, Linkerd's webhook selects them, and no policy applies to their pods: what misses the injector there starts outside the mesh")
        .with_fix(fix::all(left_out.iter().map(|(name, why)| match why {
            Unapplied::Namespace(key, _) if key == ADMISSION && !is_exempt(namespaces, name) => {
                format!("kubectl label --overwrite namespace {name} {ADMISSION}=enforce")
            }
            Unapplied::Namespace(key, _) if [ADMISSION, ESSENTIAL].contains(&key.as_str()) => {
                format!("kubectl label namespace {name} {key}-")
            }
            Unapplied::Namespace(key, _) if key == names::label::METADATA_NAME => {
                format!("kubectl annotate namespace {name} {}-", names::annotation::INJECT)
            }
            Unapplied::Namespace(..) | Unapplied::Pods => fix::install(state),
        })));
    check.listing(left_out.iter().map(|(name, why)| match why {
        Unapplied::Namespace(_, requirement) => format!("namespace/{name}: the policies want {requirement}"),
        Unapplied::Pods => format!("namespace/{name}: the policies do not apply to each pod that is created"),
    }));
    check.objects = left_out.into_iter().map(|(name, _)| format!("namespace/{name}")).collect();
    Some(check)
}

/// Where dry-run pods are sent, as the agents have it.
fn probe_namespace(state: &State) -> String {
    let agents = state.agents().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
    let given = agents.and_then(|spec| variable(spec, "agent", "LINKERD_GATE_PROBE_NAMESPACE"));
    given.unwrap_or_else(|| "linkerd-gate-probe".to_owned())
}

fn is_exempt(namespaces: &[Namespace], name: &str) -> bool {
    let found = namespaces.iter().find(|it| it.metadata.name.as_deref() == Some(name));
    found.and_then(|it| it.metadata.labels.as_ref()?.get(ADMISSION)).is_some_and(|value| value == "exempt")
}

/// Whether a pod that says nothing itself is injected in this namespace.
fn is_injected(namespace: &Namespace, view: &WebhookView) -> bool {
    let asks = [names::inject::ENABLED, names::inject::INGRESS].contains(&inject_annotation(&namespace.metadata));
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let labels = labels(namespace);
    let none = std::collections::BTreeMap::new();
    let is_called = |webhook: &crate::linkerd::InjectorWebhook| {
        let is_own = matches!(&webhook.endpoint, Endpoint::Service { namespace, .. } if namespace == name);
        !is_own && webhook.call(&labels, &none) == Call::Called
    };
    asks && view.webhooks.iter().any(is_called)
}

fn labels(namespace: &Namespace) -> std::collections::BTreeMap<String, String> {
    let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
    labels.insert(names::label::METADATA_NAME.to_owned(), namespace.metadata.name.clone().unwrap_or_default());
    labels
}

/// Why these do not apply to all pods that are created in the namespace; nothing where they do.
fn unapplied(all: &[&MatchResources], namespace: &Namespace) -> Option<Unapplied> {
    let labels = labels(namespace);
    for matches in all {
        let Ok(selector) = Selector::new(matches.namespace_selector.as_ref()) else { return Some(Unapplied::Pods) };
        if let Some(unmet) = selector.unmet(&labels).next() {
            return Some(Unapplied::Namespace(unmet.key().to_owned(), unmet.to_string()));
        }
        let none = std::collections::BTreeMap::new();
        let takes_pods = Selector::new(matches.object_selector.as_ref()).is_ok_and(|selector| selector.matches(&none));
        let rule = |rule: &NamedRuleWithOperations| RuleWithOperations {
            api_groups: rule.api_groups.clone(),
            api_versions: rule.api_versions.clone(),
            operations: rule.operations.clone(),
            resources: rule.resources.clone(),
            scope: rule.scope.clone(),
        };
        let rules =
            |rules: &Option<Vec<NamedRuleWithOperations>>| -> Vec<_> { rules.iter().flatten().map(rule).collect() };
        let (included, excluded) = (rules(&matches.resource_rules), rules(&matches.exclude_resource_rules));
        // A binding without rules takes its policy's.
        let is_called = included.is_empty() || rules_create_pods(Some(&included));
        if !takes_pods || !is_called || rules_create_pods(Some(&excluded)) {
            return Some(Unapplied::Pods);
        }
    }
    None
}
