//! Documents become the objects that decisions are about.

use std::fmt;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, PodTemplateSpec, ResourceQuota};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use super::read::{Node, Place, Repeated, Sink, Value};
use super::subject::{Kept, Limits, Maker, Subject};
use super::template::{self, Removed};
use super::{Problem, plain};
use crate::linkerd::injection_input::inject_annotation;
use crate::linkerd::names;

/// Everything that the given files hold, in order.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) subjects: Vec<Subject>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) webhooks: Vec<MutatingWebhookConfiguration>,
    pub(super) quotas: Vec<ResourceQuota>,
    pub(super) limits: Vec<LimitRange>,
    /// Whether a list of any kind was there, be it empty: `kubectl get` prints one that is.
    pub(super) has_list: bool,
    pub(super) passed_over: Vec<PassedOver>,
    pub(super) problems: Vec<Problem>,
    /// What is wrong with webhook configurations, each with whether it is Linkerd's.
    pub(super) webhook_problems: Vec<(Problem, bool)>,
    file: String,
    current: Option<Current>,
}

/// An object that is neither a pod, nor makes pods, nor says anything about them.
#[derive(Clone, Debug)]
pub(super) struct PassedOver {
    place: Place,
    version: String,
    kind: String,
    name: String,
    /// Why a pod's template in it could not be read.
    unread: Option<String>,
}

/// The document that is read.
#[derive(Debug)]
struct Current {
    place: Place,
    before: Counts,
    items: usize,
    /// Items that leave it to the list to say what they are, with their places in it.
    pending: Vec<(usize, Node, Vec<Repeated>)>,
}

/// How much there was of everything.
#[derive(Clone, Copy, Debug)]
struct Counts([usize; 8]);

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

/// Fields that belong into metadata and are easily written beside it.
const MISPLACED: [&str; 2] = ["annotations", "labels"];

// === impl Objects ===

impl Objects {
    /// From here on, problems are about this file.
    pub(super) fn of_file(&mut self, file: &str) {
        file.clone_into(&mut self.file);
    }

    fn counts(&self) -> Counts {
        Counts([
            self.subjects.len(),
            self.namespaces.len(),
            self.webhooks.len(),
            self.quotas.len(),
            self.limits.len(),
            self.passed_over.len(),
            self.problems.len(),
            self.webhook_problems.len(),
        ])
    }

    fn go_back(&mut self, Counts(counts): Counts) {
        self.subjects.truncate(counts[0]);
        self.namespaces.truncate(counts[1]);
        self.webhooks.truncate(counts[2]);
        self.quotas.truncate(counts[3]);
        self.limits.truncate(counts[4]);
        self.passed_over.truncate(counts[5]);
        self.problems.truncate(counts[6]);
        self.webhook_problems.truncate(counts[7]);
    }

    fn problem(&mut self, place: &Place, message: String) {
        self.problems.push(Problem::at(place, message));
    }

    /// Takes in one object, which stands at `path` in its document.
    fn add(&mut self, place: &Place, node: &Node, repeated: Vec<Repeated>, of_list: (&str, &str), path: &[String]) {
        let place = Place { line: node.line, ..place.clone() };
        if !matches!(node.value, Value::Map(_)) {
            self.problem(&place, "this is no Kubernetes object, but a bare value".to_owned());
            return;
        }
        let word = |field: &'static str, of_list: &str| match node.get(field) {
            Some(Node { value: Value::String(text), .. }) if !text.is_empty() => Ok(text.clone()),
            Some(Node { value: Value::String(_), .. }) | None if of_list.is_empty() => {
                Err(format!("it has no {field}"))
            }
            Some(Node { value: Value::String(_), .. }) | None => Ok(of_list.to_owned()),
            Some(other) => Err(format!("{field} is {}, and text is wanted", other.value.kind())),
        };
        let (version, kind) = match (word("apiVersion", of_list.0), word("kind", of_list.1)) {
            (Ok(version), Ok(kind)) => (version, kind),
            (_, Err(missing)) | (Err(missing), Ok(_)) => {
                self.problem(&place, format!("this is no Kubernetes object: {missing}"));
                return;
            }
        };
        let group = version.split_once('/').map_or("", |(group, _)| group);
        match (group, kind.as_str()) {
            ("", "Namespace") => {
                let read = self.read(&place, node, &kind, path);
                self.namespaces.extend(read);
            }
            ("", "ResourceQuota") => {
                let read = self.read(&place, node, &kind, path);
                self.quotas.extend(read);
                self.pass_over(place, node, version, kind, None);
            }
            ("", "LimitRange") => {
                let read = self.read(&place, node, &kind, path);
                self.limits.extend(read);
                self.pass_over(place, node, version, kind, None);
            }
            ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => self.webhook(&place, node, &kind, path),
            ("", "Pod") => {
                if let Some(pod) = self.read::<Pod>(&place, node, &kind, path) {
                    let subject = Subject {
                        place,
                        name: name(&pod.metadata),
                        kind,
                        namespace: pod.metadata.namespace.clone(),
                        maker: Maker::of(&pod.metadata),
                        template: None,
                        unread_annotation: None,
                        unknown_fields: unknown_fields(node, ""),
                        removed: None,
                        repeated,
                        limits: Limits::default(),
                        pod: Kept::default(),
                    };
                    self.take(subject, pod);
                }
            }
            _ if group.is_empty() || !template::makes_no_pods(group, &kind) => {
                self.maker_of_pods(&place, node, &version, &kind, repeated, path);
            }
            _ => self.pass_over(place, node, version, kind, None),
        }
    }

    fn maker_of_pods(
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
            self.problem(place, format!("this is no {kind}: it has no {template}"));
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

    fn take(&mut self, mut subject: Subject, pod: Pod) {
        if pod.spec.as_ref().is_some_and(|spec| !spec.containers.is_empty()) {
            subject.pod = Kept::new(pod);
            self.subjects.push(subject);
            return;
        }
        let within = subject.template.as_ref().map_or_else(String::new, |template| format!("{template}."));
        self.problem(&subject.place, format!("this is no {}: {within}spec.containers is empty", subject.kind));
    }

    fn webhook(&mut self, place: &Place, node: &Node, kind: &str, path: &[String]) {
        let before = self.problems.len();
        let read = self.read(place, node, kind, path);
        self.webhooks.extend(read);
        let problems: Vec<_> = self.problems.drain(before..).collect();
        let labels = node.at("metadata.labels");
        let component = labels.and_then(|labels| labels.string(names::label::CONTROL_PLANE_COMPONENT));
        let linkerds = component == Some(names::component::PROXY_INJECTOR)
            || node.get("metadata").and_then(|metadata| metadata.string("name")) == Some(names::webhook::CONFIGURATION);
        self.webhook_problems.extend(problems.into_iter().map(|problem| (problem, linkerds)));
    }

    fn pass_over(&mut self, place: Place, node: &Node, version: String, kind: String, unread: Option<String>) {
        let name = node.get("metadata").and_then(|metadata| metadata.string("name")).unwrap_or("?").to_owned();
        self.passed_over.push(PassedOver { place, version, kind, name, unread });
    }

    fn read<K: DeserializeOwned>(&mut self, place: &Place, node: &Node, kind: &str, path: &[String]) -> Option<K> {
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        match node.read(&path) {
            Ok(object) => Some(object),
            Err(misfit) => {
                let hint = misfit.unquoted.as_ref().map_or_else(String::new, |written| {
                    format!(": YAML takes {written} for more than text, so write \"{written}\", in quotes")
                });
                let line = if misfit.line > 0 { misfit.line } else { place.line };
                self.problem(&Place { line, ..place.clone() }, format!("this is no {kind}: {misfit}{hint}"));
                None
            }
        }
    }
}

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

// === impl Sink for Objects ===

impl Sink for Objects {
    fn begin(&mut self, place: &Place) {
        self.current = Some(Current { place: place.clone(), before: self.counts(), items: 0, pending: Vec::new() });
    }

    fn item(&mut self, item: Node, repeated: Vec<Repeated>, header: &[(String, Node)]) {
        let Some(current) = &mut self.current else { return };
        let index = current.items;
        current.items += 1;
        let of_list = |field: &str| {
            header.iter().find(|(name, _)| name == field).and_then(|(_, node)| match &node.value {
                Value::String(text) => Some(text.as_str()),
                _ => None,
            })
        };
        let named = item.string("apiVersion").is_some() && item.string("kind").is_some();
        let of_list = match (of_list("apiVersion"), of_list("kind").and_then(|kind| kind.strip_suffix("List"))) {
            (Some(version), Some(kind)) => Some((version, kind)),
            _ if named => Some(("", "")),
            // What the items are may follow them.
            _ => None,
        };
        match of_list {
            Some(of_list) => {
                let place = current.place.clone();
                self.add(&place, &item, repeated, of_list, &[format!("items[{index}]")]);
            }
            None => current.pending.push((index, item, repeated)),
        }
    }

    fn end(&mut self, root: Node, repeated: Vec<Repeated>) {
        let Some(Current { place, before, items, pending }) = self.current.take() else { return };
        let kind = root.string("kind").unwrap_or_default().to_owned();
        let version = root.string("apiVersion").unwrap_or_default();
        let nameless = root.get("metadata").is_none_or(|metadata| metadata.get("name").is_none());
        let is_list = kind.ends_with("List") && !version.is_empty();
        if is_list && (items > 0 || nameless) {
            self.has_list = true;
            if root.get("items").is_some() {
                self.problem(&place, format!("this is no {kind}: items is no list"));
            }
            let of_list = (version, kind.strip_suffix("List").unwrap_or_default());
            for (index, item, repeated) in pending {
                self.add(&place, &item, repeated, of_list, &[format!("items[{index}]")]);
            }
            return;
        }
        // `items` of something that is no list are its own affair.
        self.go_back(before);
        self.add(&place, &root, repeated, ("", ""), &[]);
    }

    fn abandon(&mut self) {
        if let Some(Current { before, .. }) = self.current.take() {
            self.go_back(before);
        }
    }

    fn fault(&mut self, place: Option<&Place>, message: String) {
        match place {
            _ if message.is_empty() => {}
            Some(place) => self.problem(place, message),
            None => self.problems.push(Problem::of(&self.file, message)),
        }
    }
}

fn below(path: &[String], field: &str) -> Vec<String> {
    path.iter().cloned().chain(field.split('.').map(ToOwned::to_owned)).collect()
}

fn name(metadata: &ObjectMeta) -> String {
    match (&metadata.name, &metadata.generate_name) {
        (Some(name), _) => name.clone(),
        (None, Some(prefix)) => format!("{prefix}*"),
        (None, None) => "(without a name)".to_owned(),
    }
}

/// Fields of a pod or of its template that Kubernetes does not know, as far as they look like metadata.
fn unknown_fields(node: &Node, within: &str) -> Vec<String> {
    let metadata = node.get("metadata").into_iter().flat_map(Node::fields).map(|(name, _)| name);
    let metadata = metadata.filter(|name| !METADATA.contains(name)).map(|name| format!("{within}metadata.{name}"));
    let beside = |path: &'static str| {
        let fields = if path.is_empty() { Some(node) } else { node.get(path) };
        let fields = fields.into_iter().flat_map(Node::fields).map(|(name, _)| name);
        let dot = if path.is_empty() { "" } else { "." };
        fields.filter(|name| MISPLACED.contains(name)).map(move |name| format!("{within}{path}{dot}{name}"))
    };
    metadata.chain(beside("")).chain(beside("spec")).collect()
}

// === impl PassedOver ===

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, version, kind, name, unread } = self;
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let [version, kind_text, name] = [version, kind, name].map(|text| plain(text));
        if template::makes_no_pods(group, kind) {
            return write!(f, "{place}: {kind_text} {name} makes no pods: passed over");
        }
        if let Some(unread) = unread {
            let unread = plain(unread);
            return write!(
                f,
                "{place}: {kind_text} {name}: the pod template in it cannot be read: {unread}: passed over"
            );
        }
        write!(
            f,
            "{place}: {kind_text} ({version}) has no pod template that linkerd-gate finds: {name} is passed over; \
             if it makes pods, give one of them: kubectl get pod NAME -o yaml"
        )
    }
}
