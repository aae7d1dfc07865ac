//! What of a pod and of a namespace decides about injection, and nothing else of them: for whoever keeps thousands in mind.

use super::{
    injection::{Condition, Excluded, Injection, NotCalled, SkipReason, TokenProjection},
    injection::{asked, has_sidecar, has_token, inject_annotation, namespace_labels},
    webhook::{Call, WebhookView},
};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use std::collections::BTreeMap;

/// A pod as the injector would see it before it injects, reduced to what decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodOutline {
    /// Its labels, which webhooks select by.
    labels: BTreeMap<String, String>,
    /// Its annotation; empty where it has none.
    inject: String,
    /// What its spec says; nothing where it has none.
    spec: Option<SpecOutline>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SpecOutline {
    host_network: bool,
    sidecar: bool,
    token: bool,
}

/// A namespace, reduced likewise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceOutline {
    /// Its labels, and its name as one of them.
    labels: BTreeMap<String, String>,
    /// Its annotation; empty where it has none.
    inject: String,
}

// === impl PodOutline ===

impl PodOutline {
    /// What decides of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            inject: inject_annotation(&pod.metadata).to_owned(),
            spec: pod.spec.as_ref().map(|spec| SpecOutline {
                host_network: spec.host_network.unwrap_or(false),
                sidecar: has_sidecar(spec),
                token: has_token(spec),
            }),
        }
    }

    /// What becomes of the pod if it is created in `namespace` now: [`injection`](super::injection()) of the whole objects.
    pub fn injection(
        &self,
        namespace: &NamespaceOutline,
        webhooks: &WebhookView,
        projection: TokenProjection,
    ) -> Injection {
        let mut excluded = Vec::new();
        let mut conditions = Vec::new();
        let mut called = false;
        for webhook in &webhooks.webhooks {
            match webhook.call(&namespace.labels, &self.labels) {
                Call::Called => called = true,
                Call::Conditional(names) => conditions.push(Condition { webhook: webhook.name.clone(), names }),
                Call::Excluded(by) => excluded.push(Excluded { webhook: webhook.name.clone(), by }),
            }
        }
        if webhooks.is_empty() {
            return Injection::NotCalled(NotCalled::NotInstalled);
        }
        if !called && conditions.is_empty() {
            return Injection::NotCalled(NotCalled::Excluded(excluded));
        }
        let asked = asked(&namespace.inject, &self.inject);
        let reasons = self.reasons(asked.err(), projection);
        match asked {
            Ok(asked_by) if reasons.is_empty() && called => Injection::Inject(asked_by),
            Ok(_) if reasons.is_empty() => Injection::Conditional(conditions),
            Ok(_) | Err(_) => Injection::Skip(reasons),
        }
    }

    /// Why the injector leaves the pod alone once it is called (`Report.Injectable` in `pkg/inject/report.go`).
    fn reasons(&self, unasked: Option<SkipReason>, projection: TokenProjection) -> Vec<SkipReason> {
        let Some(spec) = self.spec else {
            return vec![SkipReason::UnsupportedResource];
        };
        [
            spec.host_network.then_some(SkipReason::HostNetwork),
            spec.sidecar.then_some(SkipReason::SidecarExists),
            unasked,
            (projection == TokenProjection::Disabled && !spec.token).then_some(SkipReason::NoServiceAccountToken),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

// === impl NamespaceOutline ===

impl NamespaceOutline {
    /// What decides of a namespace.
    pub fn of(namespace: &Namespace) -> Self {
        Self {
            labels: namespace_labels(&namespace.metadata),
            inject: inject_annotation(&namespace.metadata).to_owned(),
        }
    }
}
