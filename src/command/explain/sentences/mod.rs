//! The sentences of an explanation.

mod next;
mod warning;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod};

use super::entry::Entry;
use super::finding::Finding;
use super::subject::Subject;
use super::variables::Effect;
use crate::linkerd::injection_input::{self, inject_annotation};
use crate::linkerd::webhook::FailurePolicy;
use crate::linkerd::{
    AskedBy, Injection, Meshing, NotCalled, PatchOutcome, PatchProblem, Refusal, SkipReason, WebhookView, names,
};

/// What sentences are made of.
pub(super) struct Facts<'a> {
    pub(super) subject: &'a Subject,
    pub(super) pod: &'a Pod,
    pub(super) namespace: &'a Namespace,
    pub(super) namespace_name: &'a str,
    pub(super) webhooks: &'a WebhookView,
    pub(super) meshing: Meshing,
    pub(super) wait: &'a Entry,
    pub(super) effect: Option<Effect>,
    /// What makes the injector's patch fail.
    pub(super) problems: Vec<PatchProblem>,
    /// What refuses the patched pod.
    pub(super) refusals: Vec<Refusal>,
}

/// What is likely to surprise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    /// A word for programs.
    pub(super) key: &'static str,
    /// A sentence for people.
    pub(super) text: String,
}

impl Facts<'_> {
    fn pod_says(&self) -> &str {
        inject_annotation(&self.pod.metadata)
    }

    fn namespace_says(&self) -> &str {
        inject_annotation(&self.namespace.metadata)
    }

    /// What a person calls the thing that carries the pod's annotations.
    fn pods_metadata(&self) -> String {
        match &self.subject.template {
            Some(template) => format!("{template}.metadata"),
            None => "metadata".to_owned(),
        }
    }

    fn exists(&self) -> bool {
        self.subject.exists(self.pod)
    }

    /// What comes of a patch that fails, by what the API server does where a call fails.
    fn outcome(&self, outcome: PatchOutcome) -> Option<String> {
        let ignored = self.webhooks.webhooks.iter().any(|webhook| webhook.failure_policy == FailurePolicy::Ignore);
        match outcome {
            // Its own sentence says it.
            PatchOutcome::Refused => None,
            PatchOutcome::NoJson if ignored => Some(
                "by the webhook's failurePolicy Ignore the pod is then admitted without a proxy, each time, \
                 however healthy Linkerd is"
                    .to_owned(),
            ),
            PatchOutcome::NoJson => {
                Some("by the webhook's failurePolicy Fail the pod is then refused, each time".to_owned())
            }
        }
    }

    /// The decision's word, its reasons' keys, and sentences.
    pub(super) fn decision(&self, decision: &Injection) -> (&'static str, Vec<&'static str>, Vec<String>) {
        match decision {
            Injection::Inject(asked_by) => match self.problems.first() {
                Some(problem) => {
                    let word = match problem.outcome {
                        PatchOutcome::NoJson => "patch-fails",
                        PatchOutcome::Refused => "refused",
                    };
                    let mut because = vec![self.asked(*asked_by)];
                    because.extend(self.problems.iter().map(ToString::to_string));
                    because.extend(self.outcome(problem.outcome));
                    let mut reasons: Vec<_> = self.problems.iter().map(PatchProblem::reason).collect();
                    reasons.dedup();
                    (word, reasons, because)
                }
                None => ("inject", vec![], vec![self.asked(*asked_by)]),
            },
            Injection::Conditional(conditions) => {
                let because = conditions.iter().map(|condition| {
                    let names = condition.names.join(", ");
                    format!(
                        "webhook {} is called only if its match conditions hold: {names}; only the API server can tell",
                        condition.webhook
                    )
                });
                ("conditional", vec!["match_conditions"], because.collect())
            }
            Injection::Skip(reasons) => {
                let because = reasons.iter().map(|reason| match self.detail(*reason) {
                    Some(detail) => format!("{reason}: {detail}"),
                    None => reason.to_string(),
                });
                ("skip", reasons.iter().map(|reason| reason.key()).collect(), because.collect())
            }
            Injection::NotCalled(why) => {
                let because = match why {
                    NotCalled::NotInstalled => vec![why.to_string()],
                    NotCalled::Excluded(excluded) => excluded
                        .iter()
                        .flat_map(|excluded| {
                            excluded.by.iter().map(|by| format!("webhook {} leaves it out: {by}", excluded.webhook))
                        })
                        .collect(),
                };
                ("not-called", why.keys(), because)
            }
        }
    }

    /// What `--fail-on` can ask for.
    pub(super) fn findings(&self, decision: &Injection, warnings: &[Warning]) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.meshing != Meshing::Meshed {
            let asks = matches!(decision, Injection::Inject(_) | Injection::Conditional(_));
            if asks && *self.wait == Entry::Missing {
                findings.push(Finding::MissingEntry);
            }
            if matches!(self.wait, Entry::Wrong { .. }) {
                findings.push(Finding::BrokenEntry);
            }
            if !asks || (decision.is_inject() && !self.problems.is_empty()) {
                findings.push(Finding::NotInjected);
            }
        }
        if !warnings.is_empty() {
            findings.push(Finding::Warning);
        }
        findings
    }

    fn asked(&self, asked_by: AskedBy) -> String {
        let key = names::annotation::INJECT;
        match asked_by {
            AskedBy::Pod => format!("the pod's annotation {key} says {}", self.pod_says()),
            AskedBy::Namespace => {
                format!("the namespace's annotation {key} says {}, and the pod itself has none", self.namespace_says())
            }
        }
    }

    /// What Linkerd's sentence leaves open.
    fn detail(&self, reason: SkipReason) -> Option<String> {
        match reason {
            SkipReason::SidecarExists => Some(self.sidecars().join(", ")),
            SkipReason::InvalidAnnotationAtWorkload => Some(invalid(self.pod_says())),
            SkipReason::InvalidAnnotationAtNamespace => {
                Some(format!("{}; the pod's own annotation is not even read", invalid(self.namespace_says())))
            }
            SkipReason::EnableAnnotationAbsent
            | SkipReason::DisableAnnotationPresent
            | SkipReason::HostNetwork
            | SkipReason::UnsupportedResource
            | SkipReason::NoServiceAccountToken => None,
        }
    }

    /// The containers for which the injector leaves the pod alone.
    fn sidecars(&self) -> Vec<String> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let tell = |what: &str, container: &Container| {
            let image = container.image.as_deref().unwrap_or("(no image)");
            format!("{what} {} ({image})", container.name)
        };
        let init = spec.init_containers.iter().flatten();
        let init = init
            .filter(|container| injection_input::is_sidecar(container) || injection_input::is_sidecar_init(container));
        let regular = spec.containers.iter().filter(|container| injection_input::is_sidecar(container));
        init.map(|container| tell("init container", container))
            .chain(regular.map(|container| tell("container", container)))
            .collect()
    }

    pub(super) fn mesh(&self) -> String {
        let label = names::label::CONTROL_PLANE_NS;
        let proxy = names::container::PROXY;
        match self.meshing {
            Meshing::Meshed => {
                let control_plane = self.pod.metadata.labels.as_ref().and_then(|labels| labels.get(label));
                format!("yes, by the control plane in namespace {}", control_plane.map_or("?", String::as_str))
            }
            Meshing::ForgedLabel => format!(
                "no: the label {label} was written by hand, but there is no container {proxy}; \
                 the label does not stop the injector, but linkerd-gate wait believes it"
            ),
            Meshing::ForeignProxy => format!(
                "no: a container {proxy} was put there by hand, without the label {label}; \
                 for its name the injector leaves the pod alone"
            ),
            Meshing::Bare if self.subject.template.is_some() => "not yet: this is a template".to_owned(),
            Meshing::Bare => "no".to_owned(),
        }
    }
}

fn invalid(value: &str) -> String {
    format!("it says {value:?}, and only enabled, ingress and disabled count, to the letter")
}

/// Whether a value is one of a template that was not rendered.
fn is_unrendered(value: &str) -> bool {
    value.contains("{{") || value.contains("${")
}
