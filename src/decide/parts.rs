//! What watched objects say of Linkerd's webhook and of its injector.

use super::{evidence::Installation, outcome::Outcome};
use crate::linkerd::{
    WebhookView,
    endpoints::{self, EndpointsView},
    webhook::Endpoint,
};

/// Whether Linkerd is installed, and whether its webhook can be called at all. `webhooks` is `None` before the first whole
/// list, and an error where a configuration cannot be read.
pub fn webhook(webhooks: Option<&Result<WebhookView, String>>) -> (Installation, Outcome) {
    let view = match webhooks {
        None => return (Installation::Unseen, Outcome::unknown("the webhook configuration has not been seen yet")),
        Some(Err(error)) => return (Installation::Present, Outcome::unknown(error.as_str())),
        Some(Ok(view)) if view.is_empty() => {
            let reason = "there is no webhook configuration of Linkerd's injector";
            return (Installation::Absent, Outcome::not_ready(reason));
        }
        Some(Ok(view)) => view,
    };
    let problem = view.webhooks.iter().find_map(|webhook| {
        let problem = webhook.ca.problem()?;
        Some(format!("caBundle of webhook {} in {}: {problem}", webhook.name, webhook.configuration))
    });
    let matches_pods = view.webhooks.iter().any(|webhook| webhook.rules_match_pods);
    let outcome = match problem {
        Some(problem) => Outcome::not_ready(problem),
        None if !matches_pods => Outcome::not_ready("no rule of the webhook matches the creation of pods"),
        None => Outcome::Ready,
    };
    (Installation::Present, outcome)
}

/// Whether the Service that the webhook names has an endpoint that is ready; `slices` is `None` before the first whole list.
pub fn injector<'a>(
    webhooks: &WebhookView,
    slices: Option<impl IntoIterator<Item = &'a EndpointsView> + Clone>,
) -> Outcome {
    let Some(slices) = slices else {
        return Outcome::unknown("its EndpointSlices have not been seen yet");
    };
    for webhook in &webhooks.webhooks {
        // Somewhere outside the cluster there are no endpoints to look at: only the proof tells.
        let Endpoint::Service { namespace, name, .. } = &webhook.endpoint else { continue };
        if endpoints::ready(slices.clone(), namespace, name) == 0 {
            return Outcome::not_ready(format!("Service {namespace}/{name} has no endpoint that is ready"));
        }
    }
    Outcome::Ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;

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
    fn absent_is_only_what_a_list_says_and_a_placeholder_is_no_bundle() {
        assert_eq!(webhook(None).0, Installation::Unseen);
        assert_eq!(webhook(Some(&Ok(WebhookView::default()))).0, Installation::Absent);
        let (installation, outcome) = webhook(Some(&view("Cg==")));
        assert_eq!(installation, Installation::Present);
        assert!(matches!(outcome, Outcome::NotReady(_)), "{outcome}");
        assert!(matches!(webhook(Some(&Err("bad".to_owned()))), (Installation::Present, Outcome::Unknown(_))));
    }

    #[test]
    fn the_injectors_endpoints_are_those_of_the_service_that_the_webhook_names() {
        let webhooks = view("Cg==").unwrap();
        let slice = |service: &str| EndpointsView {
            namespace: "linkerd".to_owned(),
            service: service.to_owned(),
            ready: ["10.0.0.1".parse().unwrap()].into(),
            ..EndpointsView::default()
        };
        let nobody: Option<&[EndpointsView]> = None;
        assert!(matches!(injector(&webhooks, nobody), Outcome::Unknown(_)));
        assert!(matches!(injector(&webhooks, Some(&[slice("linkerd-dst")])), Outcome::NotReady(_)));
        assert!(injector(&webhooks, Some(&[slice("linkerd-proxy-injector")])).is_ready());
    }
}
