//! What is read of a cluster, and what could not be.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Container, Namespace, Node, PodSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::Survey;
use super::certificate::{Injector, Served};
use super::labels::{component, is_ours};
use super::policy::{Admission, Policy};
use super::unread::{Read, Unread};
use crate::decide::election::lease_record;
use crate::decide::{ProbeResult, PublishedVerdict, manual_override};
use crate::linkerd::webhook::ViewError;
use crate::linkerd::{TokenProjection, WebhookView};

/// Everything that is read.
#[derive(Debug)]
pub struct State {
    /// Whether it is checked before linkerd-gate is installed.
    pub pre: bool,
    /// How Linkerd was installed, in the one respect that its webhook does not tell: what pods are judged by.
    pub projection: TokenProjection,
    /// The time of this machine.
    pub now: Timestamp,
    /// The API server's version.
    pub version: Read<Version>,
    /// All of them, in the order of their names, which is the order in which they are called.
    pub mutating: Read<Vec<MutatingWebhookConfiguration>>,
    /// All of them.
    pub validating: Read<Vec<ValidatingWebhookConfiguration>>,
    /// Our policies and their bindings.
    pub admission: Read<Admission>,
    /// All of them.
    pub namespaces: Read<Vec<Namespace>>,
    /// All of them.
    pub daemon_sets: Read<Vec<DaemonSet>>,
    /// Our own, and Linkerd's control plane.
    pub deployments: Read<Vec<Deployment>>,
    /// Our Leases: none where our namespace is not known.
    pub leases: Read<Vec<Lease>>,
    /// All of them, without what is of no use here.
    pub nodes: Read<Vec<Node>>,
    /// All pods, counted.
    pub pods: Read<Survey>,
    /// What a dry-run pod shows.
    pub proof: Proof,
    /// Where the injector of each of Linkerd's webhooks listens.
    pub injectors: Read<Vec<Injector>>,
    /// The certificates that are served there.
    pub served: Served,
    /// Who asks, where some right is missing: as `kubectl create clusterrolebinding` takes it.
    pub asker: Option<String>,
}

/// What a dry-run pod shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It was answered.
    Answered {
        /// Where it was sent to.
        namespace: String,
        /// What the answer says of injection.
        outcome: ProbeResult,
    },
    /// None was sent, or it was not answered: one sentence.
    Skipped(String),
    /// It may not be sent: the right that is missing.
    Forbidden(String),
}

/// The version of an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// As it says it: `v1.36.3`.
    pub text: String,
    /// Of the first number and the second.
    pub minor: (u32, u32),
}

/// The first Kubernetes with MutatingAdmissionPolicy in its stable version.
pub const HOLDS_FROM: (u32, u32) = (1, 36);

/// How long after its last renewal a Lease counts as given up here: its time is by another machine's clock.
const STALE: SignedDuration = SignedDuration::from_secs(60);

// === impl State ===

impl State {
    /// Linkerd's webhooks, as decisions read them.
    ///
    /// # Errors
    /// Configurations that could not be read, and one that makes no sense.
    pub fn webhooks(&self) -> Read<WebhookView> {
        let all = self.mutating.as_ref().map_err(Clone::clone)?;
        WebhookView::new(all).map_err(|error: ViewError| Unread::Failed(error.to_string()))
    }

    /// The agents' DaemonSet; nothing where it is not there.
    pub fn agents(&self) -> Read<Option<&DaemonSet>> {
        let all = self.daemon_sets.as_ref().map_err(Clone::clone)?;
        Ok(all.iter().find(|it| is_ours(it.metadata.labels.as_ref(), "agent")))
    }

    /// The controller's Deployment; nothing where it is not there.
    pub fn controller(&self) -> Read<Option<&Deployment>> {
        let all = self.deployments.as_ref().map_err(Clone::clone)?;
        Ok(all.iter().find(|it| is_ours(it.metadata.labels.as_ref(), "controller")))
    }

    /// Whether the policy and its binding are there, and the binding takes a configuration of Linkerd's webhook as its parameter and does
    /// more than tell. Nothing acts where admission could not be read: a check that states it as a fact reads that first.
    pub fn acts(&self, name: &str) -> bool {
        let (Ok(admission), Ok(mutating), Ok(view)) = (&self.admission, &self.mutating, self.webhooks()) else {
            return false;
        };
        admission.bindings.iter().any(|binding| {
            let is_its = |policy: &Policy| policy.kind == binding.kind && policy.name == name;
            let takes_linkerds = binding.parameters(mutating).into_iter().any(|it| view.is_of(it));
            binding.name == name
                && binding.policy == name
                && binding.enforces()
                && takes_linkerds
                && admission.policies.iter().any(is_its)
        })
    }

    /// Whether a right was missing somewhere.
    pub fn is_forbidden_something(&self) -> bool {
        !self.forbidden().is_empty()
    }

    /// Each right that was missing: `list nodes`.
    pub(super) fn forbidden(&self) -> Vec<String> {
        fn of<T>(read: &Read<T>) -> Option<String> {
            match read {
                Err(Unread::Forbidden(right)) => Some(right.clone()),
                _ => None,
            }
        }
        let proof = match &self.proof {
            Proof::Forbidden(right) => Some(right.clone()),
            Proof::Answered { .. } | Proof::Skipped(_) => None,
        };
        let agents = self.pods.as_ref().ok().and_then(|survey| survey.agents_unread.clone());
        [
            of(&self.version),
            of(&self.mutating),
            of(&self.validating),
            of(&self.admission),
            of(&self.namespaces),
            of(&self.daemon_sets),
            of(&self.deployments),
            of(&self.leases),
            of(&self.nodes),
            of(&self.pods),
            agents.and_then(|unread| of::<()>(&Err(unread))),
            proof,
            of(&self.injectors),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The Lease of that name.
    pub fn lease(&self, name: &str) -> Option<&Lease> {
        let leases = self.leases.as_ref().ok()?;
        leases.iter().find(|lease| lease.metadata.name.as_deref() == Some(name))
    }

    /// The verdict that the prover publishes; nothing where there is none, and an error where it cannot be read.
    pub fn verdict(&self) -> Option<Result<PublishedVerdict, String>> {
        let text = self.lease(lease_record::PROVER_LEASE)?.metadata.annotations.as_ref()?.get(lease_record::VERDICT)?;
        Some(PublishedVerdict::read(text).map_err(|error| error.to_string()))
    }

    /// Whether a Lease that was renewed then counts as given up.
    pub fn is_stale(&self, renewed: Timestamp) -> bool {
        self.now.duration_since(renewed) > STALE
    }

    /// The same, as long as the prover renews the Lease that it is on: an old verdict is no news.
    pub fn fresh_verdict(&self) -> Option<Result<PublishedVerdict, String>> {
        let renewed = self.lease(lease_record::PROVER_LEASE)?.spec.as_ref()?.renew_time.as_ref()?.0;
        self.verdict().filter(|_| !self.is_stale(renewed))
    }

    /// The key of the taint of closed nodes, as the agents have it.
    pub fn taint_key(&self) -> String {
        let configured = self.agents().ok().flatten().and_then(|agents| {
            variable(agents.spec.as_ref()?.template.spec.as_ref()?, "agent", "LINKERD_GATE_TAINT_KEY")
        });
        configured.unwrap_or_else(|| crate::decide::node::taint::TAINT_KEY.to_owned())
    }

    /// Manual overrides that are in force, by what they are for.
    pub fn overrides(&self) -> Vec<(String, manual_override::ManualOverride)> {
        let nodes = self.nodes.as_deref().unwrap_or_default();
        let nodes = nodes.iter().filter_map(|node| {
            let name = node.metadata.name.as_deref()?;
            Some((format!("node/{name}"), node.metadata.annotations.as_ref()?.get(manual_override::ANNOTATION)?))
        });
        let all = self.lease(lease_record::PROVER_LEASE).and_then(|lease| {
            Some(("all nodes".to_owned(), lease.metadata.annotations.as_ref()?.get(manual_override::ANNOTATION)?))
        });
        let in_force = |(what, text): (String, &String)| {
            let manual_override = manual_override::ManualOverride::in_force(Some(text), self.now).ok().flatten()?;
            Some((what, manual_override))
        };
        nodes.chain(all).filter_map(in_force).collect()
    }
}

/// Whether a Deployment is of any use here: the controller's, and those of Linkerd's control plane.
pub fn is_of_use(deployment: &Deployment) -> bool {
    let labels = deployment.metadata.labels.as_ref();
    component(labels).is_some() || is_ours(labels, "controller")
}

/// The container that runs a role of ours.
pub(super) fn container<'a>(spec: &'a PodSpec, role: &str) -> Option<&'a Container> {
    spec.containers
        .iter()
        .find(|container| container.args.as_ref().and_then(|args| args.first()).is_some_and(|first| first == role))
}

/// The value of a variable of a role of ours, where it is written in the template.
pub fn variable(spec: &PodSpec, role: &str, name: &str) -> Option<String> {
    let mut env = container(spec, role)?.env.as_deref()?.iter();
    env.find(|variable| variable.name == name)?.value.clone().filter(|value| !value.is_empty())
}

// === impl Version ===

impl Version {
    /// Of `v1.36.3`, `1.34.1-eks-…` and the like; nothing where it is of another form.
    pub fn read(text: &str) -> Option<Self> {
        let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']);
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { text: text.to_owned(), minor: (major, minor) })
    }
}
