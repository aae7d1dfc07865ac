//! The certificate that the injector serves, against the bundle that the API server holds it against.

use super::certificate::{Found, Served, ServedBy, fingerprint};
use super::code::CA_BUNDLE;
use super::{Check, Proof, State};
use crate::decide::ProbeResult;
use crate::linkerd::webhook::CaBundle;
use crate::linkerd::{InjectorWebhook, WebhookView};

/// The Secret of the injector's certificate (linkerd2 `charts/linkerd-control-plane/templates/proxy-injector-rbac.yaml`).
const SECRET: &str = "linkerd-proxy-injector-k8s-tls";

pub(super) fn check(state: &State, view: &WebhookView) -> Check {
    let unusable: Vec<_> = view
        .webhooks
        .iter()
        .filter_map(|webhook| {
            Some(format!("mutatingwebhookconfiguration/{}: {}", webhook.configuration, webhook.ca.problem()?))
        })
        .collect();
    if !unusable.is_empty() {
        let mut check =
            CA_BUNDLE.fails("its caBundle cannot be used: each call of the injector fails").with_fix(fix(state, view));
        check.listing(unusable);
        return check;
    }
    let served: &[ServedBy] = match &state.served {
        Served::NotDialled => &[],
        Served::Dialled(served) => served,
    };
    let mut trusted: Vec<&str> = Vec::new();
    let mut strangers = Vec::new();
    for ServedBy { address, found } in served {
        match found {
            Found::Trusted { fingerprint } if !trusted.contains(&fingerprint.as_str()) => trusted.push(fingerprint),
            Found::NotTrusted { fingerprint, why } => {
                strangers.push(format!("{address} serves SHA-256 {fingerprint}: {why}"));
            }
            Found::Trusted { .. } | Found::Nothing(_) => {}
        }
    }
    if !strangers.is_empty() {
        let mut check = CA_BUNDLE
            .fails("the caBundle does not vouch for the certificate that the injector serves: calls of it fail")
            .with_fix(fix(state, view));
        check.listing(strangers.into_iter().chain(bundles(view)));
        return check;
    }
    let outcome = match &state.proof {
        Proof::Answered { outcome, .. } => Some(outcome),
        Proof::Skipped(_) | Proof::Forbidden(_) => None,
    };
    // With failurePolicy Fail the API server says why it could not call the webhook, in Go's words.
    let reason = outcome.and_then(ProbeResult::reason).map(ToString::to_string).unwrap_or_default();
    if let Some((_, why)) = reason.split_once("x509: ") {
        let mut check = CA_BUNDLE
            .fails(format!("the API server does not trust the certificate that the injector serves: {why}"))
            .with_fix(fix(state, view));
        check.listing(bundles(view));
        return check;
    }
    if !trusted.is_empty() {
        return CA_BUNDLE.passes().described(format!("{} (SHA-256 {})", CA_BUNDLE.description, trusted.join(", ")));
    }
    if outcome.is_some_and(ProbeResult::is_ready) {
        return CA_BUNDLE.passes();
    }
    let mut check = CA_BUNDLE
        .warns(match &state.served {
            Served::NotDialled => {
                "not looked at: no dry-run pod was injected, and this machine is not in the cluster; the CronJob of `check` connects to the \
                 injector, and so does `check --dial` on a node"
            }
            Served::Dialled(_) => "not looked at: no dry-run pod was injected, and no certificate of the injector was seen",
        })
        .with_fix("linkerd check   # linkerd-webhooks-and-apisvc-tls compares the Secret with the caBundle");
    if let Err(unread) = &state.injectors {
        check.listing([unread.to_string()]);
    }
    check.listing(served.iter().filter_map(|it| match &it.found {
        Found::Nothing(why) => Some(format!("{}: {why}", it.address)),
        Found::Trusted { .. } | Found::NotTrusted { .. } => None,
    }));
    check
}

/// The certificates in the bundles, by their fingerprints.
fn bundles(view: &WebhookView) -> Vec<String> {
    let of = |webhook: &InjectorWebhook| match &webhook.ca {
        CaBundle::Certificates(all) => {
            let prints: Vec<_> = all.iter().map(|der| fingerprint(der)).collect();
            Some(format!(
                "the caBundle of mutatingwebhookconfiguration/{}: SHA-256 {}",
                webhook.configuration,
                prints.join(", ")
            ))
        }
        CaBundle::Absent | CaBundle::Placeholder | CaBundle::Unusable(_) => None,
    };
    view.webhooks.iter().filter_map(of).collect()
}

/// Puts what the injector's Secret has into the bundle: its authority, or a self-signed certificate itself, as Linkerd's chart makes one.
fn fix(state: &State, view: &WebhookView) -> String {
    let all = state.mutating.as_deref().unwrap_or_default();
    let commands = all.iter().filter(|it| view.is_of(it)).flat_map(|it| {
        let name = it.metadata.name.clone().unwrap_or_default();
        it.webhooks.iter().flatten().enumerate().filter_map(move |(place, hook)| {
            let namespace = &hook.client_config.service.as_ref()?.namespace;
            Some(format!(
                "kubectl patch mutatingwebhookconfiguration {name} --type=json \
                 -p='[{{\"op\":\"add\",\"path\":\"/webhooks/{place}/clientConfig/caBundle\",\"value\":\"'$(kubectl get secret {SECRET} \
                 -n {namespace} -o go-template='{{{{or (index .data \"ca.crt\") (index .data \"tls.crt\")}}}}')'\"}}]'"
            ))
        })
    });
    let commands = super::fix::all(commands);
    if commands.is_empty() { "linkerd check   # linkerd-webhooks-and-apisvc-tls".to_owned() } else { commands }
}
