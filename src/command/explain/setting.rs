//! What a pod is judged by besides itself: its namespace, and Linkerd's webhooks.

use super::{Problem, Stdin, object::Objects, subject::Subject};
use crate::linkerd::WebhookView;
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{LimitRange, Namespace, ResourceQuota},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::io::Read;

/// The namespaces that are known.
pub(super) struct Namespaces<'a> {
    file: Option<&'a str>,
    /// From the file for namespaces.
    given: Vec<Namespace>,
    /// From beside the pods.
    beside: Vec<Namespace>,
}

/// The webhooks that are judged by.
pub(super) struct Webhooks {
    pub(super) view: WebhookView,
    pub(super) assumption: Option<String>,
}

// === impl Namespaces ===

impl<'a> Namespaces<'a> {
    /// Reads the file for namespaces. What is wrong with it goes to `given`'s problems.
    pub(super) fn read<R: Read>(
        file: Option<&'a str>,
        stdin: &mut Stdin<'_, R>,
        given: &mut Objects,
        objects: &mut Objects,
    ) -> Self {
        if let Some(file) = file {
            stdin.read(file, given);
            if given.namespaces.is_empty() && given.problems.is_empty() {
                let message = "there is no Namespace in it; this prints one: kubectl get namespace NAME -o yaml";
                given.problems.push(Problem::of(file, message.to_owned()));
            }
        }
        let (given, beside) = (std::mem::take(&mut given.namespaces), std::mem::take(&mut objects.namespaces));
        Self { file, given, beside }
    }

    /// All that a cluster has.
    pub(super) fn of_cluster(given: Vec<Namespace>) -> Self {
        Self { file: Some(super::CLUSTER), given, beside: Vec::new() }
    }

    /// The namespace of a subject; whatever of it is not known is assumed, and said.
    pub(super) fn of(&self, subject: &Subject, assumptions: &mut Vec<String>) -> Namespace {
        let Some(wanted) = subject.namespace.as_deref() else {
            // As with kubectl, a pod that names no namespace lands in the one of the command.
            if let [only] = self.given.as_slice() {
                return only.clone();
            }
            return self.named("default").unwrap_or_else(|| {
                assumptions.push(match self.file {
                    Some(file) => format!(
                        "it is created in namespace default, which {file} does not describe: \
                         a namespace without labels and annotations"
                    ),
                    None => "it is created in namespace default, which has no labels and no annotations: \
                             --namespace-file would tell"
                        .to_owned(),
                });
                bare("default")
            });
        };
        if let Some(namespace) = self.named(wanted) {
            return namespace;
        }
        // A namespace without a name is a template of one: it fits every pod.
        if let [only @ Namespace { metadata: ObjectMeta { name: None, .. }, .. }] = self.given.as_slice() {
            let mut namespace = only.clone();
            namespace.metadata.name = Some(wanted.to_owned());
            return namespace;
        }
        assumptions.push(match self.file {
            Some(file) => {
                format!("namespace {wanted}, which {file} does not describe, has no labels and no annotations")
            }
            None => format!("namespace {wanted} has no labels and no annotations: --namespace-file would tell"),
        });
        bare(wanted)
    }

    /// The last description of a namespace, as the last one applied counts; the file for namespaces goes first.
    fn named(&self, name: &str) -> Option<Namespace> {
        let named = |namespaces: &[Namespace]| {
            let mut namespaces = namespaces.iter().rev();
            namespaces.find(|namespace| namespace.metadata.name.as_deref() == Some(name)).cloned()
        };
        named(&self.given).or_else(|| named(&self.beside))
    }
}

fn bare(name: &str) -> Namespace {
    Namespace { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Namespace::default() }
}

/// The quotas and limit ranges of a namespace, of those that stand beside the pods.
pub(super) fn surroundings<'a>(
    namespace: &Namespace,
    objects: &'a Objects,
) -> (Vec<&'a ResourceQuota>, Vec<&'a LimitRange>) {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    // What names no namespace goes where the pods go that name none.
    let here = |metadata: &ObjectMeta| metadata.namespace.as_deref().unwrap_or("default") == name;
    let quotas = objects.quotas.iter().filter(|quota| here(&quota.metadata)).collect();
    let limits = objects.limits.iter().filter(|range| here(&range.metadata)).collect();
    (quotas, limits)
}

// === impl Webhooks ===

impl Webhooks {
    /// Reads the file for webhooks; without one, takes Linkerd's beside the pods, and else assumes the chart's.
    pub(super) fn read<R: Read>(
        file: Option<&str>,
        stdin: &mut Stdin<'_, R>,
        given: &mut Objects,
        objects: &mut Objects,
    ) -> Option<Self> {
        let Some(file) = file else {
            return Some(Self::beside(objects));
        };
        let before = given.problems.len();
        let (lists, webhooks) = (std::mem::take(&mut given.has_list), given.webhooks.len());
        stdin.read(file, given);
        let problems: Vec<_> = given.webhook_problems.drain(..).map(|(problem, _)| problem).collect();
        given.problems.extend(problems);
        if given.problems.len() > before {
            return None;
        }
        let has_list = std::mem::replace(&mut given.has_list, lists);
        if given.webhooks.len() == webhooks && !has_list {
            let message = "there is no MutatingWebhookConfiguration in it; this prints them: kubectl get \
                           mutatingwebhookconfigurations -o yaml";
            given.problems.push(Problem::of(file, message.to_owned()));
            return None;
        }
        match WebhookView::new(&given.webhooks[webhooks..]) {
            Ok(view) => Some(Self { view, assumption: None }),
            Err(error) => {
                given.problems.push(Problem::of(file, error.to_string()));
                None
            }
        }
    }

    /// All that a cluster has.
    ///
    /// # Errors
    /// One that makes no sense.
    pub(super) fn of_cluster(all: &[MutatingWebhookConfiguration]) -> Result<Self, String> {
        let view = WebhookView::new(all).map_err(|error| error.to_string())?;
        Ok(Self { view, assumption: None })
    }

    fn beside(objects: &mut Objects) -> Self {
        match WebhookView::new(&objects.webhooks) {
            Ok(view) if !view.is_empty() => return Self { view, assumption: None },
            Ok(_) => {}
            Err(error) => objects.webhook_problems.push((Problem::of("-f", error.to_string()), true)),
        }
        let assumption =
            "Linkerd's webhook is as its chart installs it by default: --webhook-file would tell".to_owned();
        Self { view: WebhookView::chart_default(), assumption: Some(assumption) }
    }
}
