//! Whether the injector would be called for a pod, and what it would do.

use std::fmt;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use strum::EnumCount;

use super::injection_input::{NamespaceInput, PodInput};
use super::names;
use super::webhook::{Call, Exclusion, WebhookView};

/// What becomes of a pod that is created now, if everything works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Injection {
    /// The injector is called and injects it.
    Inject(AskedBy),

    /// The injector would inject it if it is called, and it is called only if match conditions of its webhooks hold. They are
    /// CEL, which only the API server evaluates: this is an answer, not a guess.
    Conditional(Vec<Condition>),

    /// If the injector is called, it leaves the pod alone, for each of these reasons: at least one, in Linkerd's order.
    Skip(Vec<SkipReason>),

    /// The injector is not called.
    NotCalled(NotCalled),
}

/// Whose annotation asks for injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedBy {
    /// The pod's own.
    Pod,

    /// The namespace's, which the pod does not contradict.
    Namespace,
}

/// Match conditions on which a call depends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The webhook they belong to.
    pub webhook: String,
    /// Their names: at least one. All of them must hold.
    pub names: Vec<String>,
}

/// Why the injector is not called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCalled {
    /// There is no webhook of Linkerd's injector.
    NotInstalled,

    /// Each of its webhooks excludes the pod.
    Excluded(Vec<Excluded>),
}

/// How one webhook excludes a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded {
    /// The webhook.
    pub webhook: String,
    /// The reasons: at least one.
    pub by: Vec<Exclusion>,
}

/// Why the injector leaves a pod alone; its own keys and sentences (`pkg/inject/report.go`, edge-26.8.3).
///
/// Variants are in the order in which Linkerd lists them. UDP ports, which the same file names, are a warning of
/// `linkerd inject` and no reason to the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EnumCount)]
pub enum SkipReason {
    /// The pod is in its host's network.
    HostNetwork,

    /// The pod has a sidecar of Linkerd's or Istio's already.
    SidecarExists,

    /// There is no pod to inject.
    UnsupportedResource,

    /// Neither the namespace nor the pod asks.
    EnableAnnotationAbsent,

    /// The namespace asks, and the pod declines.
    DisableAnnotationPresent,

    /// The pod's annotation has a value that Linkerd does not know.
    InvalidAnnotationAtWorkload,

    /// The namespace's annotation has a value that Linkerd does not know. The pod's is not even read.
    InvalidAnnotationAtNamespace,

    /// The proxy would find no token to identify itself with.
    NoServiceAccountToken,
}

/// Whether Linkerd was installed with `identity.serviceAccountTokenProjection`: the one input to its decision that neither
/// the pod, nor the namespace, nor the webhook configuration tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TokenProjection {
    /// Yes, the chart's default: the proxy brings its own token.
    #[default]
    Enabled,

    /// No: the proxy takes the token that the API server mounted into the pod's first container.
    Disabled,
}

/// What becomes of `pod` if it is created in `namespace` now, with these webhooks, and everything works.
///
/// The pod is the one that the injector would be sent, *before* injection: an injected pod, asked about again, is skipped
/// because it has a sidecar. Ask [`meshing`](super::mesh_state::meshing) first.
pub fn injection(pod: &Pod, namespace: &Namespace, webhooks: &WebhookView, projection: TokenProjection) -> Injection {
    injection_of(&PodInput::of(pod), &NamespaceInput::of(namespace), webhooks, projection)
}

/// The same as [`injection`], for a pod and a namespace of which only the injector's input was kept.
pub fn injection_of(
    pod: &PodInput,
    namespace: &NamespaceInput,
    webhooks: &WebhookView,
    projection: TokenProjection,
) -> Injection {
    let mut excluded = Vec::new();
    let mut conditions = Vec::new();
    let mut called = false;
    for webhook in &webhooks.webhooks {
        match webhook.call(&namespace.labels, &pod.labels) {
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
    let asked = asked(&namespace.inject, &pod.inject);
    let reasons = reasons(pod, asked.err(), projection);
    match asked {
        Ok(asked_by) if reasons.is_empty() && called => Injection::Inject(asked_by),
        Ok(_) if reasons.is_empty() => Injection::Conditional(conditions),
        Ok(_) | Err(_) => Injection::Skip(reasons),
    }
}

/// Why the injector leaves the pod alone once it is called (`Report.Injectable` in `pkg/inject/report.go`).
fn reasons(pod: &PodInput, unasked: Option<SkipReason>, projection: TokenProjection) -> Vec<SkipReason> {
    let Some(spec) = pod.spec else {
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

/// Whether the two annotations together ask for injection. Values count to the letter: `Enabled` and ` enabled` are invalid.
pub(super) fn asked(namespace: &str, pod: &str) -> Result<AskedBy, SkipReason> {
    enum Says {
        Yes,
        No,
        Nothing,
    }
    let read = |value| match value {
        names::inject::ENABLED | names::inject::INGRESS => Some(Says::Yes),
        names::inject::DISABLED => Some(Says::No),
        "" => Some(Says::Nothing),
        _ => None,
    };
    let namespace = read(namespace).ok_or(SkipReason::InvalidAnnotationAtNamespace)?;
    let pod = read(pod).ok_or(SkipReason::InvalidAnnotationAtWorkload)?;
    match (namespace, pod) {
        (_, Says::Yes) => Ok(AskedBy::Pod),
        (Says::Yes, Says::Nothing) => Ok(AskedBy::Namespace),
        (Says::Yes, Says::No) => Err(SkipReason::DisableAnnotationPresent),
        (Says::No | Says::Nothing, Says::No | Says::Nothing) => Err(SkipReason::EnableAnnotationAbsent),
    }
}

// === impl Injection ===

impl Injection {
    /// Whether the pod asks and the injector would answer: [`Injection::Inject`], and nothing less certain.
    pub fn is_inject(&self) -> bool {
        matches!(self, Self::Inject(_))
    }
}

// === impl SkipReason ===

impl SkipReason {
    /// All of them, in the order in which Linkerd lists them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::HostNetwork,
        Self::SidecarExists,
        Self::UnsupportedResource,
        Self::EnableAnnotationAbsent,
        Self::DisableAnnotationPresent,
        Self::InvalidAnnotationAtWorkload,
        Self::InvalidAnnotationAtNamespace,
        Self::NoServiceAccountToken,
    ];

    /// The key in Linkerd's metrics (`skip_reason`).
    pub const fn key(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network_enabled",
            Self::SidecarExists => "sidecar_already_exists",
            Self::UnsupportedResource => "unsupported_resource",
            Self::EnableAnnotationAbsent => "injection_enable_annotation_absent",
            Self::DisableAnnotationPresent => "injection_disable_annotation_present",
            Self::InvalidAnnotationAtWorkload => "invalid_inject_annotation_at_workload",
            Self::InvalidAnnotationAtNamespace => "invalid_inject_annotation_at_ns",
            Self::NoServiceAccountToken => "disabled_automount_service_account_token_account",
        }
    }

    /// The sentence in Linkerd's events (`InjectionSkipped`) and logs.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::HostNetwork => "hostNetwork is enabled",
            Self::SidecarExists => "pod has a sidecar injected already",
            Self::UnsupportedResource => "this resource kind is unsupported",
            Self::EnableAnnotationAbsent => {
                "neither the namespace nor the pod have the annotation \"linkerd.io/inject:enabled\""
            }
            Self::DisableAnnotationPresent => "pod has the annotation \"linkerd.io/inject:disabled\"",
            Self::InvalidAnnotationAtWorkload => "invalid value for annotation \"linkerd.io/inject\" at workload",
            Self::InvalidAnnotationAtNamespace => "invalid value for annotation \"linkerd.io/inject\" at namespace",
            Self::NoServiceAccountToken => {
                "automountServiceAccountToken set to \"false\", \
                 with Values.identity.serviceAccountTokenProjection set to \"false\""
            }
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

// === impl NotCalled ===

impl NotCalled {
    /// One word for each reason, each once, for JSON and metrics.
    pub fn keys(&self) -> Vec<&'static str> {
        match self {
            Self::NotInstalled => vec!["not_installed"],
            Self::Excluded(excluded) => {
                let mut keys = Vec::new();
                for exclusion in excluded.iter().flat_map(|excluded| &excluded.by) {
                    if !keys.contains(&exclusion.key()) {
                        keys.push(exclusion.key());
                    }
                }
                keys
            }
        }
    }
}

impl fmt::Display for NotCalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => f.write_str("there is no webhook of Linkerd's injector"),
            Self::Excluded(excluded) => {
                for (place, Excluded { webhook, by }) in excluded.iter().enumerate() {
                    let separator = if place > 0 { "; " } else { "" };
                    write!(f, "{separator}webhook {webhook}: ")?;
                    for (place, exclusion) in by.iter().enumerate() {
                        let separator = if place > 0 { ", and " } else { "" };
                        write!(f, "{separator}{exclusion}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skip_reasons_have_linkerds_keys_and_sentences() {
        // `pkg/inject/report.go`, edge-26.8.3; `sentence` by what tells it from the others.
        for (reason, key, part) in [
            (SkipReason::HostNetwork, "host_network_enabled", "hostNetwork"),
            (SkipReason::SidecarExists, "sidecar_already_exists", "sidecar"),
            (SkipReason::UnsupportedResource, "unsupported_resource", "unsupported"),
            (SkipReason::EnableAnnotationAbsent, "injection_enable_annotation_absent", "linkerd.io/inject:enabled"),
            (
                SkipReason::DisableAnnotationPresent,
                "injection_disable_annotation_present",
                "linkerd.io/inject:disabled",
            ),
            (SkipReason::InvalidAnnotationAtWorkload, "invalid_inject_annotation_at_workload", "at workload"),
            (SkipReason::InvalidAnnotationAtNamespace, "invalid_inject_annotation_at_ns", "at namespace"),
            (
                SkipReason::NoServiceAccountToken,
                "disabled_automount_service_account_token_account",
                "serviceAccountTokenProjection",
            ),
        ] {
            assert_eq!(reason.key(), key);
            let with_it = SkipReason::ALL.into_iter().filter(|other| other.to_string().contains(part));
            assert!(reason.to_string().contains(part), "{reason}");
            assert!(with_it.count() <= 2, "{part} tells it from others");
        }
    }

    #[test]
    fn only_a_certain_answer_counts_as_injected() {
        let condition = Condition { webhook: "w".to_owned(), names: vec!["not-mine".to_owned()] };
        for (injection, is_inject) in [
            (Injection::Inject(AskedBy::Pod), true),
            (Injection::Conditional(vec![condition]), false),
            (Injection::Skip(vec![SkipReason::HostNetwork]), false),
            (Injection::NotCalled(NotCalled::NotInstalled), false),
        ] {
            assert_eq!(injection.is_inject(), is_inject, "{injection:?}");
        }
    }

    #[test]
    fn exclusions_are_named_by_webhook_and_each_key_once() {
        let webhooks = WebhookView::chart_default();
        let labels = [(names::label::CNI_RESOURCE.to_owned(), "true".to_owned())].into();
        let Call::Excluded(by) = webhooks.webhooks[0].call(&std::collections::BTreeMap::new(), &labels) else {
            panic!("the chart excludes pods of the CNI plug-in")
        };
        let excluded = |webhook: &str, by: Vec<Exclusion>| Excluded { webhook: webhook.to_owned(), by };
        let one = [vec![Exclusion::Rules], by].concat();
        let all = NotCalled::Excluded(vec![excluded("one", one), excluded("two", vec![Exclusion::Rules])]);
        assert_eq!(all.keys(), ["rules", "object_selector"]);
        assert_eq!(
            all.to_string(),
            "webhook one: its rules do not match the creation of pods, and it wants of the pod's labels: \
             linkerd.io/cni-resource DoesNotExist; webhook two: its rules do not match the creation of pods"
        );
        assert_eq!(NotCalled::NotInstalled.keys(), ["not_installed"]);
        assert_eq!(NotCalled::NotInstalled.to_string(), "there is no webhook of Linkerd's injector");
    }
}
