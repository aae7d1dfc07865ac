//! Linkerd as the creation of a pod meets it. What `linkerd check` looks at (its certificates' dates, its pods) is left to it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::code::{FAILURE_POLICY, LINKERD, NAMESPACE_ANNOTATIONS, NAMESPACE_INJECT, ONE_LINKERD, SELECTORS};
use super::{Check, State, ca_bundle, fix};
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};
use crate::linkerd::injection_input::inject_annotation;
use crate::linkerd::webhook::{Endpoint, FailurePolicy};
use crate::linkerd::{PatchOutcome, names, patch_problems};

/// The label by which a namespace is left out of Linkerd's webhooks.
const WEBHOOKS_OFF: &str = "config.linkerd.io/admission-webhooks";

pub(super) fn checks(state: &State) -> Vec<Check> {
    let webhooks = match state.webhooks() {
        Ok(webhooks) => webhooks,
        Err(unread) => return vec![LINKERD.unread(&unread)],
    };
    if webhooks.is_empty() {
        let error = "there is no webhook of Linkerd's injector: no pod is injected";
        return vec![LINKERD.fails(error).with_fix("linkerd install | kubectl apply -f -")];
    }
    let configurations: BTreeSet<_> = webhooks.webhooks.iter().map(|webhook| webhook.configuration.as_str()).collect();
    let mut checks = vec![LINKERD.passes()];
    checks.push(if configurations.len() == 1 {
        ONE_LINKERD.passes()
    } else {
        let mut check = ONE_LINKERD
            .warns("each of these calls an injector of Linkerd's for pods: one that is left over fails each time")
            .with_fix(stale(state, &webhooks));
        let object = |name: &&str| format!("mutatingwebhookconfiguration/{name}");
        check.listing(webhooks.webhooks.iter().map(|webhook| {
            let calls = match &webhook.endpoint {
                Endpoint::Service { namespace, name, .. } => format!("service/{name} -n {namespace}"),
                Endpoint::Url(url) => url.clone(),
            };
            format!("{}: calls {calls}", object(&webhook.configuration.as_str()))
        }));
        check.objects = configurations.iter().map(object).collect();
        check
    });
    checks.push(failure_policy(state, webhooks.webhooks.iter().map(|webhook| webhook.failure_policy)));
    checks.push(ca_bundle::check(state, &webhooks));
    match &state.namespaces {
        Err(unread) => checks.push(SELECTORS.unread(unread)),
        Ok(namespaces) => checks.extend(of_namespaces(&webhooks, namespaces)),
    }
    checks
}

/// Deletes the configurations whose Linkerd is gone; where none of their namespaces is, shows which injectors there are.
fn stale(state: &State, webhooks: &crate::linkerd::WebhookView) -> String {
    let exists = |name: &String| {
        let Ok(namespaces) = &state.namespaces else { return true };
        namespaces.iter().any(|it| it.metadata.name.as_ref() == Some(name))
    };
    let gone = webhooks.webhooks.iter().filter(|webhook| match &webhook.endpoint {
        Endpoint::Service { namespace, .. } => !exists(namespace),
        Endpoint::Url(_) => false,
    });
    let commands =
        fix::all(gone.map(|webhook| format!("kubectl delete mutatingwebhookconfiguration {}", webhook.configuration)));
    if commands.is_empty() {
        "kubectl get deployments -A -l linkerd.io/control-plane-component=proxy-injector   # and delete the configuration whose \
         injector is not among them"
            .to_owned()
    } else {
        commands
    }
}

fn failure_policy(state: &State, policies: impl Iterator<Item = FailurePolicy>) -> Check {
    if !policies.collect::<Vec<_>>().contains(&FailurePolicy::Ignore) {
        return FAILURE_POLICY.passes().described(
            "failurePolicy is Fail: while the injector does not answer, no pod is created in the namespaces that it is called for, \
             asked for or not",
        );
    }
    if let Err(unread) = &state.admission {
        return FAILURE_POLICY.unread(unread);
    }
    if state.acts(HOLD_POLICY) {
        FAILURE_POLICY.passes().described(
            "failurePolicy is Ignore, and hold is bound: a pod that asks and is created while the injector does not answer is held",
        )
    } else if state.acts(GUARD_POLICY) {
        FAILURE_POLICY.passes().described(
            "failurePolicy is Ignore, and the guard is bound: a pod that asks and is created while the injector does not answer is \
             refused, and its owner tries again",
        )
    } else {
        FAILURE_POLICY
            .warns(
                "failurePolicy is Ignore, and nothing holds pods: one that is created while the injector does not answer starts \
                 outside the mesh, for good",
            )
            .with_fix(fix::install(state))
    }
}

fn of_namespaces(webhooks: &crate::linkerd::WebhookView, namespaces: &[Namespace]) -> Vec<Check> {
    let name = |namespace: &Namespace| namespace.metadata.name.clone().unwrap_or_default();
    let object = |namespace: &Namespace| format!("namespace/{}", name(namespace));
    let asks = |namespace: &&Namespace| {
        [names::inject::ENABLED, names::inject::INGRESS].contains(&inject_annotation(&namespace.metadata))
    };
    let selected = |namespace: &Namespace| {
        let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
        labels.insert(names::label::METADATA_NAME.to_owned(), name(namespace));
        webhooks.webhooks.iter().any(|webhook| webhook.namespace_selector.matches(&labels))
    };
    let left_out: Vec<_> = namespaces.iter().filter(asks).filter(|it| !selected(it)).collect();
    let mut checks = vec![if left_out.is_empty() {
        SELECTORS.passes()
    } else {
        SELECTORS
            .warns(
                "these namespaces ask, and Linkerd's webhook does not select them: their pods start outside the mesh",
            )
            .with_fix(fix::all(left_out.iter().map(|namespace| {
                let name = name(namespace);
                let labels = namespace.metadata.labels.as_ref();
                if labels.is_some_and(|labels| labels.contains_key(WEBHOOKS_OFF)) {
                    format!("kubectl label namespace {name} {WEBHOOKS_OFF}-")
                } else {
                    format!("kubectl annotate namespace {name} {}-", names::annotation::INJECT)
                }
            })))
            .about(left_out.into_iter().map(object))
    }];
    let mut broken = Vec::new();
    let mut fixes = Vec::new();
    for namespace in namespaces {
        for problem in patch_problems(&ObjectMeta::default(), &namespace.metadata) {
            let what = match problem.outcome {
                PatchOutcome::NoJson => "no pod that is created there is injected",
                PatchOutcome::Refused => "each pod that asks there is refused",
            };
            broken.push((object(namespace), format!("{}: {}: {what}", object(namespace), problem.key)));
            fixes.push(format!("kubectl annotate namespace {} {}-", name(namespace), problem.key));
        }
    }
    checks.push(if broken.is_empty() {
        NAMESPACE_ANNOTATIONS.passes()
    } else {
        let mut check = NAMESPACE_ANNOTATIONS
            .fails("with these the injector's patch cannot be applied, each time, however healthy Linkerd is");
        let (objects, lines): (Vec<_>, Vec<_>) = broken.into_iter().unzip();
        check.listing(lines);
        check.objects = objects;
        check.with_fix(fix::all(fixes))
    });
    let invalid: Vec<_> = namespaces
        .iter()
        .filter(|it| {
            let known = ["", names::inject::ENABLED, names::inject::INGRESS, names::inject::DISABLED];
            !known.contains(&inject_annotation(&it.metadata))
        })
        .collect();
    checks.push(if invalid.is_empty() {
        NAMESPACE_INJECT.passes()
    } else {
        NAMESPACE_INJECT
            .warns(
                "Linkerd takes enabled, ingress and disabled, to the letter: pods of these namespaces are not injected",
            )
            .with_fix(fix::all(invalid.iter().map(|it| {
                let (name, key) = (name(it), names::annotation::INJECT);
                format!("kubectl annotate --overwrite namespace {name} {key}={}", names::inject::ENABLED)
            })))
            .about(invalid.iter().map(|it| object(it)))
    });
    checks
}
