//! Documents become the objects that decisions are about.

use super::{
    Problem,
    document::{Document, Place},
    node::{Node, Value},
};
use crate::linkerd::injection::inject_annotation;
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        batch::v1::PodFailurePolicy,
        core::v1::{Namespace, Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use std::fmt;

/// Everything that the given files hold, in order.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) subjects: Vec<Subject>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) webhooks: Vec<MutatingWebhookConfiguration>,
    /// Whether a list of any kind was there, be it empty: `kubectl get` prints one that is.
    pub(super) has_list: bool,
    pub(super) passed_over: Vec<PassedOver>,
}

/// A pod, or what makes pods.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) place: Place,
    pub(super) kind: String,
    pub(super) name: String,
    /// As it is written; nothing where it is left to the command that applies it.
    pub(super) namespace: Option<String>,
    /// The pod itself, or the one that the template makes.
    pub(super) pod: Pod,
    pub(super) maker: Maker,
    /// For a pod: nothing. For everything else: where the pod's template is.
    pub(super) template: Option<&'static str>,
    /// The annotation `linkerd.io/inject` on the workload itself, where nobody reads it.
    pub(super) unread_annotation: Option<String>,
    /// Fields of the pod's metadata that Kubernetes does not know.
    pub(super) unknown_fields: Vec<String>,
}

/// Who makes a pod, and makes another in its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Maker {
    /// Nobody: it was made by hand.
    Nobody,

    /// A Job, with this policy.
    Job(Option<PodFailurePolicy>),

    /// A Job that is not here.
    JobElsewhere,

    /// Something else, of this kind.
    Other(String),
}

/// An object that is neither a pod, nor makes pods, nor says anything about them.
#[derive(Clone, Debug)]
pub(super) struct PassedOver {
    pub(super) place: Place,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) name: String,
}

/// Kinds that make no pods, beside kinds of their groups that do.
const WITHOUT_PODS: [(&str, &str); 13] = [
    ("", "Binding"),
    ("", "ConfigMap"),
    ("", "Endpoints"),
    ("", "Event"),
    ("", "LimitRange"),
    ("", "Node"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "ResourceQuota"),
    ("", "Secret"),
    ("", "Service"),
    ("", "ServiceAccount"),
    ("apps", "ControllerRevision"),
];

/// Kubernetes' own groups without any kind that makes pods: <https://kubernetes.io/docs/reference/kubernetes-api/>.
const GROUPS_WITHOUT_PODS: [&str; 13] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "autoscaling",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Kinds that make pods, the group they are in, and the path of the pod's template.
const WORKLOADS: [(&str, &str, &str); 8] = [
    ("Deployment", "apps", "spec.template"),
    ("ReplicaSet", "apps", "spec.template"),
    ("StatefulSet", "apps", "spec.template"),
    ("DaemonSet", "apps", "spec.template"),
    ("ReplicationController", "", "spec.template"),
    ("Job", "batch", "spec.template"),
    ("CronJob", "batch", "spec.jobTemplate.spec.template"),
    ("PodTemplate", "", "template"),
];

/// The fields of ObjectMeta, for which a typo is so easily made and so hard to see.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

// === impl Objects ===

impl Objects {
    /// Takes in one document. What is wrong goes to `problems`; the rest is read all the same.
    pub(super) fn add(&mut self, document: &Document, problems: &mut Vec<Problem>) {
        self.add_node(document, &document.root, None, &mut Vec::new(), problems);
    }

    fn add_node(
        &mut self,
        document: &Document,
        node: &Node,
        of_list: Option<(&str, &str)>,
        path: &mut Vec<String>,
        problems: &mut Vec<Problem>,
    ) {
        let place = document.place_of(node);
        if !matches!(node.value, Value::Map(_)) {
            problems.push(Problem::at(&place, "this is no Kubernetes object, but a bare value".to_owned()));
            return;
        }
        // Items of a typed list (PodList) may leave out what the list's own kind says.
        let (list_version, list_kind) = of_list.unwrap_or_default();
        let version = node.string("apiVersion").unwrap_or(list_version);
        let kind = node.string("kind").unwrap_or(list_kind);
        if version.is_empty() || kind.is_empty() {
            let missing = if kind.is_empty() { "kind" } else { "apiVersion" };
            problems.push(Problem::at(&place, format!("this is no Kubernetes object: it has no {missing}")));
            return;
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);

        if let Some(items) = node.get("items").filter(|_| kind.ends_with("List")) {
            self.has_list = true;
            let Value::List(items) = &items.value else {
                problems.push(Problem::at(&place, format!("this is no {kind}: items is no list")));
                return;
            };
            let item_kind = kind.strip_suffix("List").unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                path.push(format!("items[{index}]"));
                self.add_node(document, item, Some((version, item_kind)), path, problems);
                path.pop();
            }
            return;
        }
        if kind.ends_with("List") && node.get("metadata").is_none_or(|metadata| metadata.get("name").is_none()) {
            // An empty list may lack its items altogether.
            self.has_list = true;
            return;
        }

        match (group, kind) {
            ("", "Namespace") => self.namespaces.extend(read(document, node, kind, path, problems)),
            ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => {
                self.webhooks.extend(read(document, node, kind, path, problems));
            }
            ("", "Pod") => {
                let pod: Option<Pod> = read(document, node, kind, path, problems);
                self.subjects.extend(pod.and_then(|pod| {
                    let subject = Subject {
                        place,
                        kind: kind.to_owned(),
                        name: name(&pod.metadata),
                        namespace: pod.metadata.namespace.clone(),
                        maker: maker(&pod.metadata),
                        template: None,
                        unread_annotation: None,
                        unknown_fields: unknown_fields(node),
                        pod,
                    };
                    subject.checked(problems)
                }));
            }
            _ => {
                let known = WORKLOADS.into_iter().find(|(known, of, _)| *known == kind && *of == group);
                if let Some((kind, _, template)) = known {
                    self.subjects.extend(workload(document, node, kind, template, path, problems));
                } else {
                    let name = node.get("metadata").and_then(|metadata| metadata.string("name")).unwrap_or("?");
                    // YAML has texts of several lines; what is told of an object is one.
                    let [version, kind, name] = [version, kind, name].map(|text| text.replace(char::is_control, " "));
                    self.passed_over.push(PassedOver { place, version, kind, name });
                }
            }
        }
    }
}

fn read<K: DeserializeOwned>(
    document: &Document,
    node: &Node,
    kind: &str,
    path: &[String],
    problems: &mut Vec<Problem>,
) -> Option<K> {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    match node.read(&path) {
        Ok(object) => Some(object),
        Err(misfit) => {
            problems.push(document.misfit(kind, &misfit));
            None
        }
    }
}

fn workload(
    document: &Document,
    node: &Node,
    kind: &'static str,
    template: &'static str,
    path: &[String],
    problems: &mut Vec<Problem>,
) -> Option<Subject> {
    let place = document.place_of(node);
    let below = |field: &str| {
        let mut path = path.to_vec();
        path.extend(field.split('.').map(ToOwned::to_owned));
        path
    };
    let metadata: ObjectMeta = match node.get("metadata") {
        Some(metadata) => read(document, metadata, kind, &below("metadata"), problems)?,
        None => ObjectMeta::default(),
    };
    let Some(pod) = template.split('.').try_fold(node, |node, field| node.get(field)) else {
        problems.push(Problem::at(&place, format!("this is no {kind}: it has no {template}")));
        return None;
    };
    let unknown_fields = unknown_fields(pod);
    let maker = if matches!(kind, "Job" | "CronJob") {
        let field = template.replace("template", "podFailurePolicy");
        let policy = field.split('.').try_fold(node, |node, field| node.get(field));
        Maker::Job(match policy {
            Some(policy) => Some(read(document, policy, kind, &below(&field), problems)?),
            None => None,
        })
    } else {
        Maker::Other(kind.to_owned())
    };
    let pod: PodTemplateSpec = read(document, pod, kind, &below(template), problems)?;
    let subject = Subject {
        place,
        kind: kind.to_owned(),
        name: name(&metadata),
        namespace: metadata.namespace.clone(),
        maker,
        pod: Pod { metadata: pod.metadata.unwrap_or_default(), spec: pod.spec, status: None },
        template: Some(template),
        unread_annotation: Some(inject_annotation(&metadata).to_owned()).filter(|value| !value.is_empty()),
        unknown_fields,
    };
    subject.checked(problems)
}

fn maker(metadata: &ObjectMeta) -> Maker {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    // Only its controller creates another; any other owner just takes it along when it goes.
    match owners.iter().find(|owner| owner.controller == Some(true)) {
        None => Maker::Nobody,
        Some(owner) if owner.kind == "Job" && owner.api_version.starts_with("batch/") => Maker::JobElsewhere,
        Some(owner) => Maker::Other(owner.kind.clone()),
    }
}

fn name(metadata: &ObjectMeta) -> String {
    match (&metadata.name, &metadata.generate_name) {
        (Some(name), _) => name.clone(),
        (None, Some(prefix)) => format!("{prefix}*"),
        (None, None) => "(without a name)".to_owned(),
    }
}

fn unknown_fields(node: &Node) -> Vec<String> {
    let Some(Node { value: Value::Map(fields), .. }) = node.get("metadata") else {
        return Vec::new();
    };
    let names = fields.iter().map(|(name, _)| name.as_str());
    names.filter(|name| !METADATA.contains(name)).map(|name| format!("metadata.{name}")).collect()
}

// === impl PassedOver ===

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, version, kind, name } = self;
        let group = version.split_once('/').map_or("", |(group, _)| group);
        if GROUPS_WITHOUT_PODS.contains(&group) || WITHOUT_PODS.contains(&(group, kind)) {
            write!(f, "{place}: {kind} {name} makes no pods: passed over")
        } else {
            write!(
                f,
                "{place}: {kind} ({version}) is not a kind that linkerd-gate knows: {name} is passed over; \
                 if it makes pods, give one of them: kubectl get pod NAME -o yaml"
            )
        }
    }
}

// === impl Subject ===

impl Subject {
    fn checked(self, problems: &mut Vec<Problem>) -> Option<Self> {
        if self.pod.spec.as_ref().is_some_and(|spec| !spec.containers.is_empty()) {
            return Some(self);
        }
        let within = self.template.map_or_else(String::new, |template| format!("{template}."));
        problems.push(Problem::at(&self.place, format!("this is no {}: {within}spec.containers is empty", self.kind)));
        None
    }

    /// Whether this is a pod that an API server has already admitted.
    pub(super) fn exists(&self) -> bool {
        self.template.is_none() && self.pod.metadata.uid.is_some()
    }
}
