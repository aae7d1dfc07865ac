//! Documents become the objects that decisions are about.

mod documents;
mod fields;
mod passed_over;
mod workload;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use self::documents::Current;
use self::fields::unknown_fields;
use self::passed_over::PassedOver;
use super::read::{Node, Place, Repeated, Value};
use super::subject::{Kept, Limits, Maker, Subject};
use super::{Problem, template};
use crate::linkerd::names;

/// What every object has.
const SHAPE: &str = "it takes apiVersion, kind and metadata, as this prints them: \
                     kubectl create deployment web --image=IMAGE --dry-run=client -o yaml";

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

// === impl Objects ===

impl Objects {
    /// From here on, problems are about this file.
    pub(super) fn of_file(&mut self, file: &str) {
        file.clone_into(&mut self.file);
    }

    fn problem(&mut self, place: &Place, message: String) {
        self.problems.push(Problem::at(place, message));
    }

    /// Takes in one object, which stands at `path` in its document.
    fn add(&mut self, place: &Place, node: &Node, repeated: Vec<Repeated>, of_list: (&str, &str), path: &[String]) {
        let place = Place { line: node.line, ..place.clone() };
        if !matches!(node.value, Value::Map(_)) {
            let what = if matches!(node.value, Value::List(_)) {
                "a bare list; its items one by one: jq -c '.[]' FILE | linkerd-gate explain -f -".to_owned()
            } else {
                format!("a bare value; {SHAPE}")
            };
            self.problem(&place, format!("this is no Kubernetes object, but {what}"));
            return;
        }
        if node.get("kind").is_none()
            && of_list.1.is_empty()
            && let Some(tip) = passed_over::tip_for_file(&place.file)
        {
            let nameless = PassedOver { tip: Some(tip), place, ..PassedOver::default() };
            self.passed_over.push(nameless);
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
                self.problem(&place, format!("this is no Kubernetes object: {missing}; {SHAPE}"));
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
            // As kubectl, which takes a list within a list apart as well.
            ("", "List") => {
                let items = node.get("items").map(|items| &items.value);
                let Some(Value::List(items)) = items else { return };
                for (index, item) in items.iter().enumerate() {
                    let path: Vec<_> = path.iter().cloned().chain([format!("items[{index}]")]).collect();
                    self.add(&place, item, Vec::new(), ("", ""), &path);
                }
            }
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

    fn take(&mut self, mut subject: Subject, pod: Pod) {
        if pod.spec.as_ref().is_some_and(|spec| !spec.containers.is_empty()) {
            subject.pod = Kept::new(pod);
            self.subjects.push(subject);
            return;
        }
        let within = subject.template.as_ref().map_or_else(String::new, |template| format!("{template}."));
        let Subject { place, kind, .. } = subject;
        self.problem(
            &place,
            format!(
                "this is no {kind}: {within}spec.containers is empty, and one container is the least; \
             kubectl explain {}.{within}spec.containers says what it takes",
                kind.to_ascii_lowercase(),
            ),
        );
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
        let tip = passed_over::tip_for_kind(&version, &kind, &place.file);
        self.passed_over.push(PassedOver { place, version, kind, name, unread, tip });
    }

    fn read<K: DeserializeOwned>(&mut self, place: &Place, node: &Node, kind: &str, path: &[String]) -> Option<K> {
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        match node.read(&path) {
            Ok(object) => Some(object),
            Err(misfit) => {
                let hint = match &misfit.unquoted {
                    Some(written) => {
                        format!(": YAML takes {written} for more than text, so write \"{written}\", in quotes")
                    }
                    None => format!("; kubectl explain {} says what it takes", misfit.field(kind)),
                };
                let line = if misfit.line > 0 { misfit.line } else { place.line };
                self.problem(&Place { line, ..place.clone() }, format!("this is no {kind}: {misfit}{hint}"));
                None
            }
        }
    }
}

fn name(metadata: &ObjectMeta) -> String {
    match (&metadata.name, &metadata.generate_name) {
        (Some(name), _) => name.clone(),
        (None, Some(prefix)) => format!("{prefix}*"),
        (None, None) => "(without a name)".to_owned(),
    }
}
