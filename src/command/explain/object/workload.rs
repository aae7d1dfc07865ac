//! What makes pods: its pod template becomes the pod that it would make.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::fields::unknown_fields;
use super::{Objects, name};
use crate::command::explain::read::{Node, Place, Repeated, Value};
use crate::command::explain::subject::{Kept, Limits, Maker, Subject};
use crate::command::explain::template::{self, Removed};
use crate::linkerd::injection_input::inject_annotation;

/// A pod's template, and what it was found in.
struct Found<'a> {
    place: &'a Place,
    node: &'a Node,
    kind: &'a str,
    metadata: &'a ObjectMeta,
    maker: Maker,
    template: &'a str,
    pod: &'a Node,
    removed: Option<Removed>,
    repeated: Vec<Repeated>,
}

// === impl Objects ===

impl Objects {
    /// A kind of Kubernetes' own that makes pods, or any other.
    pub(super) fn maker_of_pods(
        &mut self,
        place: &Place,
        node: &Node,
        version: &str,
        kind: &str,
        repeated: Vec<Repeated>,
        path: &[String],
    ) {
        let Some(template::Workload { template, removed }) = template::workload(version, kind) else {
            return self.maker_of_another_kind(place, node, version, kind, &repeated);
        };
        let metadata = match node.get("metadata") {
            Some(metadata) => self.read(place, metadata, kind, &below(path, "metadata")),
            None => Some(ObjectMeta::default()),
        };
        let Some(metadata) = metadata else { return };
        let Some(pod) = node.at(template) else {
            let kind_in_kubectl = kind.to_ascii_lowercase();
            self.problem(
                place,
                format!(
                    "this is no {kind}: it has no {template}; kubectl explain {kind_in_kubectl}.{template} says what it takes"
                ),
            );
            return;
        };
        let maker = if matches!(kind, "Job" | "CronJob") {
            let field = template.replace("template", "podFailurePolicy");
            match node.at(&field) {
                None => Maker::Job(None),
                Some(policy) => match self.read(place, policy, kind, &below(path, &field)) {
                    Some(policy) => Maker::Job(Some(policy)),
                    None => return,
                },
            }
        } else {
            Maker::Other(kind.to_owned())
        };
        let Some(read) = self.read::<PodTemplateSpec>(place, pod, kind, &below(path, template)) else { return };
        self.template(Found { place, node, kind, metadata: &metadata, maker, template, pod, removed, repeated }, read);
    }

    /// Any other kind: each pod template in it is explained.
    fn maker_of_another_kind(&mut self, place: &Place, node: &Node, version: &str, kind: &str, repeated: &[Repeated]) {
        let steps = template::workflow_steps(version, kind, node);
        let steps = steps.iter().map(|(path, node)| (path.clone(), node));
        let found: Vec<_> = template::templates(node).into_iter().chain(steps).collect();
        let metadata: ObjectMeta =
            node.get("metadata").and_then(|metadata| metadata.read(&[]).ok()).unwrap_or_default();
        let mut unread = None;
        let before = self.subjects.len();
        for (template, pod) in found {
            match pod.read::<PodTemplateSpec>(&[&template]) {
                Ok(read) => {
                    let (maker, repeated) = (Maker::Other(kind.to_owned()), repeated.to_vec());
                    let (template, metadata) = (template.as_str(), &metadata);
                    let found = Found { place, node, kind, metadata, maker, template, pod, removed: None, repeated };
                    self.template(found, read);
                }
                Err(misfit) => unread = Some(misfit.to_string()),
            }
        }
        if self.subjects.len() == before {
            self.pass_over(place.clone(), node, version.to_owned(), kind.to_owned(), unread);
        }
    }

    fn template(&mut self, found: Found<'_>, read: PodTemplateSpec) {
        let Found { place, node, kind, metadata, maker, template, pod, removed, repeated } = found;
        let name = name(metadata);
        let mut pod_metadata = read.metadata.unwrap_or_default();
        pod_metadata.labels.get_or_insert_default().extend(template::added_labels(kind, &name, node));
        let number = |path: &str| match node.at(path).map(|node| &node.value) {
            Some(Value::Signed(number)) => Some(*number),
            _ => None,
        };
        let limits = match kind {
            "Job" => Limits { deadline: number("spec.activeDeadlineSeconds"), one_at_a_time: false },
            "CronJob" => Limits {
                deadline: number("spec.jobTemplate.spec.activeDeadlineSeconds"),
                one_at_a_time: node.at("spec").and_then(|spec| spec.string("concurrencyPolicy")) == Some("Forbid"),
            },
            _ => Limits::default(),
        };
        let subject = Subject {
            place: place.clone(),
            kind: kind.to_owned(),
            name,
            namespace: metadata.namespace.clone(),
            maker,
            template: Some(template.to_owned()),
            unread_annotation: Some(inject_annotation(metadata).to_owned()).filter(|value| !value.is_empty()),
            unknown_fields: unknown_fields(pod, &format!("{template}.")),
            removed,
            repeated,
            limits,
            pod: Kept::default(),
        };
        self.take(subject, Pod { metadata: pod_metadata, spec: read.spec, status: None });
    }
}

fn below(path: &[String], field: &str) -> Vec<String> {
    path.iter().cloned().chain(field.split('.').map(ToOwned::to_owned)).collect()
}
