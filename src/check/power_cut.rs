//! What a power cut would do, as far as what was read tells: nothing is tried.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::admissionregistration::v1::{RuleWithOperations, WebhookClientConfig};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::code::{AFTER_A_CUT, AUTOSCALER, FAIL_WEBHOOKS, INTOLERANT};
use super::policy::rules_create_pods;
use super::state::variable;
use super::{Check, State, fix, phrase};
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};
use crate::decide::node::essential;
use crate::decide::node::taint::TAINT_KEY;
use crate::linkerd::names;
use crate::linkerd::selector::Selector;

pub(super) fn checks(state: &State) -> Vec<Check> {
    let mut checks = vec![after_a_cut(state)];
    checks.extend(fail_webhooks(state));
    if state.agents().is_ok_and(|agents| agents.is_some()) {
        checks.extend(intolerant(state));
        checks.extend(autoscaler(state));
    }
    checks
}

fn after_a_cut(state: &State) -> Check {
    let survey = match &state.pods {
        Ok(survey) => survey,
        Err(unread) => return AFTER_A_CUT.unread(unread),
    };
    if let Err(unread) = &state.admission {
        return AFTER_A_CUT.unread(unread);
    }
    if state.acts(HOLD_POLICY) {
        return AFTER_A_CUT.passes().described("a pod that misses the injector is held until it can be created again");
    }
    if state.acts(GUARD_POLICY) {
        return AFTER_A_CUT.passes().described("a pod that misses the injector is refused, and its owner tries again");
    }
    if survey.unguarded.is_empty() {
        return AFTER_A_CUT.passes().described(match (survey.asked(), survey.meshed) {
            (0, _) => "there is no meshed pod, and none asks for Linkerd",
            (_, 0) => "there is no meshed pod; every pod that asks has an entry of `wait`, which holds it",
            _ => "every pod that asks has an entry of `wait`, which holds it",
        });
    }
    let pods: usize = survey.unguarded.values().sum();
    let mut largest: Vec<_> = survey.unguarded.iter().collect();
    largest.sort_by_key(|(_, pods)| std::cmp::Reverse(**pods));
    let mut check = AFTER_A_CUT
        .warns(format!(
            "nothing holds {} of {}: created again before the injector answers, they start outside the mesh; the \
             admission policies of linkerd-gate would hold them",
            phrase::count(pods, "pod"),
            phrase::count(survey.unguarded.len(), "owner")
        ))
        .with_fix(fix::install(state));
    check.listing(largest.iter().map(|(owner, pods)| format!("{owner}: {pods}")));
    check.objects = survey.unguarded.keys().map(ToString::to_string).collect();
    check
}

/// A webhook of either kind, as far as it can be in the way.
struct Hook<'a> {
    object: String,
    policy: Option<&'a str>,
    client: &'a WebhookClientConfig,
    /// `mutatingwebhookconfiguration/NAME`, and its place in it.
    place: usize,
    namespaces: Option<&'a LabelSelector>,
    objects: Option<&'a LabelSelector>,
    is_conditional: bool,
    rules: Option<&'a [RuleWithOperations]>,
}

fn fail_webhooks(state: &State) -> Option<Check> {
    let namespaces = state.namespaces.as_ref().ok()?;
    let (Ok(mutating), Ok(validating)) = (&state.mutating, &state.validating) else { return None };
    let mutating = mutating.iter().flat_map(|it| {
        let name = it.metadata.name.as_deref().unwrap_or_default();
        it.webhooks.iter().flatten().enumerate().map(move |(place, hook)| Hook {
            place,
            objects: hook.object_selector.as_ref(),
            is_conditional: hook.match_conditions.as_ref().is_some_and(|all| !all.is_empty()),
            object: format!("mutatingwebhookconfiguration/{name}"),
            policy: hook.failure_policy.as_deref(),
            client: &hook.client_config,
            namespaces: hook.namespace_selector.as_ref(),
            rules: hook.rules.as_deref(),
        })
    });
    let validating = validating.iter().flat_map(|it| {
        let name = it.metadata.name.as_deref().unwrap_or_default();
        it.webhooks.iter().flatten().enumerate().map(move |(place, hook)| Hook {
            place,
            objects: hook.object_selector.as_ref(),
            is_conditional: hook.match_conditions.as_ref().is_some_and(|all| !all.is_empty()),
            object: format!("validatingwebhookconfiguration/{name}"),
            policy: hook.failure_policy.as_deref(),
            client: &hook.client_config,
            namespaces: hook.namespace_selector.as_ref(),
            rules: hook.rules.as_deref(),
        })
    });
    let linkerds: BTreeSet<String> = state.webhooks().ok().map(|it| services(&it)).unwrap_or_default();
    let survey = state.pods.as_ref().ok();
    let mut fixes = Vec::new();
    let in_the_way: BTreeMap<String, String> = mutating
        .chain(validating)
        .filter(|hook| hook.policy != Some("Ignore") && rules_create_pods(hook.rules))
        .filter_map(|hook| {
            let own = hook.client.service.as_ref()?.namespace.clone();
            let needs = [own.clone(), "kube-system".to_owned()].into_iter().chain(linkerds.iter().cloned());
            let objects = Selector::new(hook.objects).ok()?;
            let called = |name: &String| {
                survey.map_or_else(|| objects.matches(&BTreeMap::new()), |it| it.has_pod(name, &objects))
            };
            let blocked: BTreeSet<_> =
                needs.filter(|name| selects(hook.namespaces, name, namespaces) && called(name)).collect();
            if blocked.is_empty() {
                return None;
            }
            let blocked: Vec<_> = blocked.into_iter().collect();
            let condition = if hook.is_conditional { ", where its match conditions hold" } else { "" };
            fixes.push(leave_out(&hook, &blocked));
            Some((hook.object, format!("called for pods of {}{condition}, runs in {own}", blocked.join(", "))))
        })
        .collect();
    Some(if in_the_way.is_empty() {
        FAIL_WEBHOOKS.passes()
    } else {
        let mut check = FAIL_WEBHOOKS.warns(
            "while what answers these is down, no pod is created where it runs, in kube-system, or in Linkerd's namespace: after a \
             power cut nothing may come back by itself",
        );
        check.listing(in_the_way.iter().map(|(object, why)| format!("{object}: {why}")));
        check.objects = in_the_way.into_keys().collect();
        check.with_fix(format!("{}   # leaves these namespaces out; elsewhere it refuses as before", fix::all(fixes)))
    })
}

/// Has the webhook called for no pod of these namespaces.
fn leave_out(hook: &Hook<'_>, namespaces: &[String]) -> String {
    let names: Vec<_> = namespaces.iter().map(|name| format!("\"{name}\"")).collect();
    let names = names.join(",");
    let expression =
        format!("{{\"key\":\"{}\",\"operator\":\"NotIn\",\"values\":[{names}]}}", names::label::METADATA_NAME);
    let has_some = hook.namespaces.is_some_and(|it| it.match_expressions.as_ref().is_some_and(|all| !all.is_empty()));
    let (path, value) = match (hook.namespaces, has_some) {
        (_, true) => ("/matchExpressions/-", expression),
        (Some(_), false) => ("/matchExpressions", format!("[{expression}]")),
        (None, false) => ("", format!("{{\"matchExpressions\":[{expression}]}}")),
    };
    format!(
        "kubectl patch {} --type=json -p='[{{\"op\":\"add\",\"path\":\"/webhooks/{}/namespaceSelector{path}\",\"value\":{value}}}]'",
        hook.object.replace('/', " "),
        hook.place
    )
}

fn services(webhooks: &crate::linkerd::WebhookView) -> BTreeSet<String> {
    let namespace = |webhook: &crate::linkerd::InjectorWebhook| match &webhook.endpoint {
        crate::linkerd::webhook::Endpoint::Service { namespace, .. } => Some(namespace.clone()),
        crate::linkerd::webhook::Endpoint::Url(_) => None,
    };
    webhooks.webhooks.iter().filter_map(namespace).collect()
}

fn selects(selector: Option<&LabelSelector>, name: &str, namespaces: &[Namespace]) -> bool {
    let Some(namespace) = namespaces.iter().find(|it| it.metadata.name.as_deref() == Some(name)) else { return false };
    let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
    labels.insert(names::label::METADATA_NAME.to_owned(), name.to_owned());
    Selector::new(selector).is_ok_and(|selector| selector.matches(&labels))
}

fn intolerant(state: &State) -> Option<Check> {
    let (namespaces, sets) = (state.namespaces.as_ref().ok()?, state.daemon_sets.as_ref().ok()?);
    let webhooks = state.webhooks().ok()?;
    let views: Vec<_> = namespaces.iter().map(essential::EssentialNamespace::of).collect();
    let essential = essential::namespaces(&webhooks, &views, &BTreeSet::new());
    let sets: Vec<_> = sets.iter().map(essential::DaemonSetView::of).collect();
    let key = state.taint_key();
    let spec = state.agents().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
    let ignored = spec.and_then(|spec| variable(spec, "agent", "LINKERD_GATE_IGNORED_DAEMON_SETS")).unwrap_or_default();
    let ignored: Vec<String> = ignored.split(',').map(|name| name.trim().to_owned()).collect();
    let without = essential::intolerant(&key, &essential, &ignored, &sets);
    Some(if without.is_empty() {
        INTOLERANT.passes()
    } else {
        INTOLERANT
            .warns("where a pod of these is missing, the node is not closed: otherwise it would never come back")
            .about(without.iter().map(|set| format!("daemonset/{} -n {}", set.name, set.namespace)))
            .with_fix(fix::all(without.iter().filter_map(|set| {
                fix::tolerate(state.daemon_sets.as_deref().unwrap_or_default(), &set.namespace, &set.name, &key)
            })))
    })
}

/// By labels that only nodes of that autoscaler have, and the beginning of a taint's key that it takes for one that goes by
/// itself. Karpenter: <https://karpenter.sh/docs/concepts/nodepools/#spectemplatespecstartuptaints>; cluster-autoscaler:
/// `StartupTaintPrefix` in `cluster-autoscaler/utils/taints/taints.go`.
const AUTOSCALERS: [(&str, &str, &str); 4] = [
    ("karpenter.sh/nodepool", "Karpenter", "readiness.k8s.io/"),
    ("cloud.google.com/gke-nodepool", "GKE's autoscaler", "startup-taint.cluster-autoscaler.kubernetes.io/"),
    ("kubernetes.azure.com/agentpool", "AKS's autoscaler", "startup-taint.cluster-autoscaler.kubernetes.io/"),
    ("eks.amazonaws.com/nodegroup", "cluster-autoscaler", "startup-taint.cluster-autoscaler.kubernetes.io/"),
];

fn autoscaler(state: &State) -> Option<Check> {
    let nodes = state.nodes.as_ref().ok()?;
    let key = state.taint_key();
    let has = |label: &str| {
        nodes.iter().any(|node| node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label)))
    };
    let found: Vec<_> = AUTOSCALERS.iter().filter(|(label, ..)| has(label)).collect();
    let wrong = found.iter().find(|(_, _, prefix)| !key.starts_with(prefix));
    Some(match wrong {
        None => AUTOSCALER.passes(),
        Some((_, name, prefix)) => AUTOSCALER
            .warns(format!(
                "{name} is there, and takes the taint {key} for one that stays: it may replace closed nodes, or add nodes that do \
                 not help; the key has to begin with {prefix}"
            ))
            .with_fix(fix::set_value(state, &format!("agent.taintKey={prefix}{}", TAINT_KEY.replace('/', "-")))),
    })
}
