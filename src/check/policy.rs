//! Our admission policies and their bindings, as they are in the cluster.

use k8s_openapi::api::admissionregistration::v1::{MatchResources, MutatingWebhookConfiguration, RuleWithOperations};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::linkerd::selector::Selector;

/// Our admission policies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// Whether the API server has MutatingAdmissionPolicy in its stable version.
    pub offers_mutating: bool,
    /// The policies that are there.
    pub policies: Vec<Policy>,
    /// The bindings that are there.
    pub bindings: Vec<Binding>,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyKind {
    /// It changes pods.
    Mutating,
    /// It refuses pods.
    Validating,
}

/// A policy of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Of which kind.
    pub kind: PolicyKind,
    /// Its name.
    pub name: String,
    /// What it applies to: `matchConstraints`.
    pub matches: MatchResources,
    /// All of its CEL expressions, in order.
    pub expressions: Vec<String>,
    /// `failurePolicy`.
    pub on_failure: String,
    /// `reinvocationPolicy`: empty where it validates.
    pub reinvocation: String,
    /// The chart's value `admission`, and what it came to on the Kubernetes that this was rendered for: annotations.
    pub chosen: Option<(String, String)>,
}

/// A binding of a policy of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Of which kind.
    pub kind: PolicyKind,
    /// Its name.
    pub name: String,
    /// The policy that it binds.
    pub policy: String,
    /// What it does, where it validates: `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
    /// What it takes as its parameter.
    pub parameter: Parameter,
    /// Whether it refuses pods where there is no such parameter: `parameterNotFoundAction: Deny`.
    pub refuses_without: bool,
    /// What it applies to, besides what its policy says: `matchResources`.
    pub matches: MatchResources,
}

/// Which webhook configurations a binding takes as its parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// None: it has no `paramRef`.
    Missing,
    /// The one of this name.
    Name(String),
    /// All with these labels.
    Labels(LabelSelector),
}

/// Why a policy and its binding do not apply to the pods of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unapplied {
    /// The namespace's labels do not meet this: the label's key, and the requirement in words.
    Namespace(String, String),
    /// They apply to no pod that is created, or only to pods with certain labels.
    Pods,
}

// === impl Binding ===

impl Binding {
    /// The webhook configurations that are its parameters.
    pub fn parameters<'a>(&self, all: &'a [MutatingWebhookConfiguration]) -> Vec<&'a MutatingWebhookConfiguration> {
        let none = std::collections::BTreeMap::new();
        let takes = |it: &&MutatingWebhookConfiguration| match &self.parameter {
            Parameter::Missing => false,
            Parameter::Name(name) => it.metadata.name.as_ref() == Some(name),
            Parameter::Labels(labels) => Selector::new(Some(labels))
                .is_ok_and(|selector| selector.matches(it.metadata.labels.as_ref().unwrap_or(&none))),
        };
        all.iter().filter(takes).collect()
    }

    /// Whether it does more than tell.
    pub fn enforces(&self) -> bool {
        self.kind == PolicyKind::Mutating || self.actions.iter().any(|action| action == "Deny")
    }
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
