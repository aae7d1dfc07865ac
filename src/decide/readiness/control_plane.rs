//! What watched objects say of Linkerd's webhook and of its injector.

use super::evidence::LinkerdInstallation;
use super::probe_result::ProbeResult;
use crate::linkerd::WebhookView;
use crate::linkerd::endpoints::{self, EndpointsView};
use crate::linkerd::webhook::{Endpoint, InjectorWebhook};

/// Whether Linkerd is installed, and whether its webhook can be called at all. `webhooks` is `None` before the first whole
/// list, and an error where a configuration cannot be read.
pub fn webhook(webhooks: Option<&Result<WebhookView, String>>) -> (LinkerdInstallation, ProbeResult) {
    let view = match webhooks {
        None => {
            return (
                LinkerdInstallation::Unseen,
                ProbeResult::unknown("the webhook configuration has not been seen yet"),
            );
        }
        Some(Err(error)) => return (LinkerdInstallation::Present, ProbeResult::unknown(error.as_str())),
        Some(Ok(view)) if view.is_empty() => {
            let reason = "there is no webhook configuration of Linkerd's injector";
            return (LinkerdInstallation::Absent, ProbeResult::not_ready(reason));
        }
        Some(Ok(view)) => view,
    };
    let problem = view.webhooks.iter().find_map(|webhook| {
        let problem = webhook.ca.problem()?;
        // Where another one that can be called does what this one should, the proof tells whether it does.
        let covered = view.webhooks.iter().any(|other| other.ca.problem().is_none() && other.covers(webhook));
        (!covered).then(|| format!("caBundle of webhook {} in {}: {problem}", webhook.name, webhook.configuration))
    });
    let matches_pods = view.webhooks.iter().any(|webhook| webhook.rules_match_pods);
    let outcome = match problem {
        Some(problem) => ProbeResult::not_ready(problem),
        None if !matches_pods => ProbeResult::not_ready("no rule of the webhook matches the creation of pods"),
        None => ProbeResult::Ready,
    };
    (LinkerdInstallation::Present, outcome)
}

/// Whether the Service that the webhook names has an endpoint that is ready; `slices` is `None` before the first whole list.
pub fn injector<'a>(
    webhooks: &WebhookView,
    slices: Option<impl IntoIterator<Item = &'a EndpointsView> + Clone>,
) -> ProbeResult {
    let Some(slices) = slices else {
        return ProbeResult::unknown("its EndpointSlices have not been seen yet");
    };
    let missing = |webhook: &InjectorWebhook| unanswered(webhook, slices.clone());
    for webhook in &webhooks.webhooks {
        let Some(service) = missing(webhook) else { continue };
        let serves = |other: &InjectorWebhook| other.ca.problem().is_none() && missing(other).is_none();
        if !webhooks.webhooks.iter().any(|other| serves(other) && other.covers(webhook)) {
            return ProbeResult::not_ready(format!(
                "Service {service} has no endpoint that is ready (webhook configuration {})",
                webhook.configuration
            ));
        }
    }
    ProbeResult::Ready
}

/// Webhooks without a server, which another webhook replaces: left from an earlier installation, most likely. One sentence each.
pub fn superseded(webhooks: &WebhookView, slices: &[EndpointsView]) -> Vec<String> {
    let is_dead = |webhook: &InjectorWebhook| webhook.ca.problem().is_some() || unanswered(webhook, slices).is_some();
    let (dead, serving): (Vec<_>, Vec<_>) = webhooks.webhooks.iter().partition(|webhook| is_dead(webhook));
    let covered = dead.into_iter().filter(|webhook| serving.iter().any(|other| other.covers(webhook)));
    covered
        .map(|webhook| {
            format!(
                "webhook {} in {} cannot be called, and another one is called for the same pods: if an earlier installation left it, \
                 kubectl delete mutatingwebhookconfiguration {}",
                webhook.name, webhook.configuration, webhook.configuration
            )
        })
        .collect()
}

/// The Service of a webhook, as `namespace/name`, that has no endpoint which is ready.
fn unanswered<'a>(webhook: &InjectorWebhook, slices: impl IntoIterator<Item = &'a EndpointsView>) -> Option<String> {
    // Somewhere outside the cluster there are no endpoints to look at: only the proof tells.
    let Endpoint::Service { namespace, name, .. } = &webhook.endpoint else { return None };
    (endpoints::ready(slices, namespace, name) == 0).then(|| format!("{namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;

    use super::*;

    fn view(ca_bundle: &str) -> Result<WebhookView, String> {
        let configuration: MutatingWebhookConfiguration = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "w", "labels": {"linkerd.io/control-plane-component": "proxy-injector"}},
            "webhooks": [{
                "name": "linkerd-proxy-injector.linkerd.io",
                "clientConfig": {"service": {"name": "linkerd-proxy-injector", "namespace": "linkerd"}, "caBundle": ca_bundle},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
                "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            }],
        }))
        .unwrap();
        WebhookView::new([&configuration]).map_err(|error| error.to_string())
    }

    #[test]
    fn only_an_empty_list_is_absence_and_a_placeholder_is_no_bundle() {
        assert_eq!(webhook(None).0, LinkerdInstallation::Unseen);
        assert_eq!(webhook(Some(&Ok(WebhookView::default()))).0, LinkerdInstallation::Absent);
        let (installation, outcome) = webhook(Some(&view("Cg==")));
        assert_eq!(installation, LinkerdInstallation::Present);
        assert!(matches!(outcome, ProbeResult::NotReady(_)), "{outcome}");
        assert!(matches!(
            webhook(Some(&Err("bad".to_owned()))),
            (LinkerdInstallation::Present, ProbeResult::Unknown(_))
        ));
    }

    #[test]
    fn the_injectors_endpoints_are_of_the_webhooks_service() {
        let webhooks = view("Cg==").unwrap();
        let slice = |service: &str| EndpointsView {
            namespace: "linkerd".to_owned(),
            service: service.to_owned(),
            ready: ["10.0.0.1".parse().unwrap()].into(),
            ..EndpointsView::default()
        };
        let no_endpoints: Option<&[EndpointsView]> = None;
        assert!(matches!(injector(&webhooks, no_endpoints), ProbeResult::Unknown(_)));
        assert!(matches!(injector(&webhooks, Some(&[slice("linkerd-dst")])), ProbeResult::NotReady(_)));
        assert!(injector(&webhooks, Some(&[slice("linkerd-proxy-injector")])).is_ready());
    }

    /// A configuration with a CA bundle of this text, for namespaces with this label, answered by this Service.
    fn configuration(name: &str, ca_bundle: &[u8], label: &str, service: &str) -> MutatingWebhookConfiguration {
        let expressions =
            if label.is_empty() { Vec::new() } else { vec![serde_json::json!({"key": label, "operator": "Exists"})] };
        let mut configuration: MutatingWebhookConfiguration = serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "labels": {"linkerd.io/control-plane-component": "proxy-injector"}},
            "webhooks": [{
                "name": "linkerd-proxy-injector.linkerd.io",
                "namespaceSelector": {"matchExpressions": expressions},
                "clientConfig": {"service": {"name": service, "namespace": "linkerd"}},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
                "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            }],
        }))
        .unwrap();
        let webhook = configuration.webhooks.as_mut().unwrap().first_mut().unwrap();
        webhook.client_config.ca_bundle = Some(k8s_openapi::ByteString(ca_bundle.to_vec()));
        configuration
    }

    fn certificate() -> Vec<u8> {
        rcgen::generate_simple_self_signed(["linkerd".to_owned()]).unwrap().cert.pem().into_bytes()
    }

    fn served(service: &str) -> Vec<EndpointsView> {
        vec![EndpointsView {
            namespace: "linkerd".to_owned(),
            service: service.to_owned(),
            ready: ["10.0.0.1".parse().unwrap()].into(),
            ..EndpointsView::default()
        }]
    }

    #[test]
    fn a_stale_webhook_keeps_nothing_closed_if_another_replaces_it() {
        let good = configuration("new", &certificate(), "", "linkerd-proxy-injector");
        let served = served("linkerd-proxy-injector");
        for stale in [
            configuration("old", b" ", "", "linkerd-proxy-injector"),
            configuration("old", &certificate(), "", "linkerd-old-injector"),
            configuration("old", &certificate(), "opt-in", "linkerd-old-injector"),
        ] {
            let view = WebhookView::new([&good, &stale]).unwrap();
            let (installation, outcome) = webhook(Some(&Ok(view.clone())));
            assert_eq!(installation, LinkerdInstallation::Present);
            assert!(outcome.is_ready(), "{outcome}");
            assert!(injector(&view, Some(&served)).is_ready());
            let problems = superseded(&view, &served);
            assert!(problems.len() == 1 && problems[0].contains("in old cannot be called"), "{problems:?}");
        }
    }

    #[test]
    fn a_webhook_that_alone_covers_some_pods_has_to_be_served() {
        let some = configuration("some", &certificate(), "opt-in", "linkerd-proxy-injector");
        let served = served("linkerd-proxy-injector");
        let dead = configuration("all", &certificate(), "", "linkerd-old-injector");
        let view = WebhookView::new([&some, &dead]).unwrap();
        let outcome = injector(&view, Some(&served));
        assert!(
            outcome.to_string().contains("linkerd/linkerd-old-injector has no endpoint that is ready"),
            "{outcome}"
        );
        assert!(superseded(&view, &served).is_empty());
        let bare = configuration("all", b"", "", "linkerd-proxy-injector");
        let view = WebhookView::new([&some, &bare]).unwrap();
        assert!(matches!(webhook(Some(&Ok(view))).1, ProbeResult::NotReady(_)));
    }
}
