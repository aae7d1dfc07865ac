//! The variables of the entry as the kubelet will set them, and what `wait` does by them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use crate::config::{OnTimeout, Problems, Wait, table};
use crate::decide::wait::{PodClass, Then};
use crate::linkerd::injection_input::inject_annotation;
use crate::linkerd::names;

pub(super) const INJECTED_BY: &str = "LINKERD_GATE_INJECTED_BY";
pub(super) const INJECT: &str = "LINKERD_GATE_INJECT";
pub(super) const POD_IP: &str = "LINKERD_GATE_POD_IP";
pub(super) const HOST_IP: &str = "LINKERD_GATE_HOST_IP";

/// The variables that tell a pod about itself, and the field that each has to come from, to the letter: the kubelet knows no
/// other way to write one (`SplitMaybeSubscriptedPath` in pkg/fieldpath of k8s.io/kubernetes).
pub(super) const FIELDS: [(&str, &str); 7] = [
    (INJECTED_BY, "metadata.labels['linkerd.io/control-plane-ns']"),
    (INJECT, "metadata.annotations['linkerd.io/inject']"),
    (POD_IP, "status.podIP"),
    (HOST_IP, "status.hostIP"),
    ("LINKERD_GATE_POD_NAME", "metadata.name"),
    ("LINKERD_GATE_POD_NAMESPACE", "metadata.namespace"),
    ("LINKERD_GATE_POD_UID", "metadata.uid"),
];

/// The variables by which a missed pod may start. What their value is where the pod does not tell it is not guessed.
const DECIDING: [&str; 2] = ["LINKERD_GATE_ON_MISSED", "LINKERD_GATE_ON_TIMEOUT"];

/// What `wait` does to a pod without a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It waits until Linkerd is ready, and then lets the pod start outside the mesh.
    Opens,

    /// It lets the pod start outside the mesh after this time, at the latest.
    OpensAfter(Duration),

    /// It never lets the pod start; something else has to replace it.
    Holds,

    /// It never lets the pod start; after this time it ends with an error, and begins again where the pod restarts it.
    GivesUpAfter(Duration),

    /// It never lets the pod start, but ends it once Linkerd is ready, so that another takes its place.
    Exits,

    /// It never lets the pod start, but deletes it once Linkerd is ready, so that another takes its place.
    Replaces,
}

/// A container's variables.
pub(super) struct Variables<'a> {
    container: &'a Container,
    last: BTreeMap<&'a str, &'a EnvVar>,
}

// === impl Variables ===

impl<'a> Variables<'a> {
    /// Of several variables of one name the kubelet takes the last (`makeEnvironmentVariables` in pkg/kubelet of
    /// k8s.io/kubernetes keeps them by name).
    pub(super) fn of(container: &'a Container) -> Self {
        let last = container.env.iter().flatten().map(|variable| (variable.name.as_str(), variable)).collect();
        Self { container, last }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a EnvVar> {
        self.last.get(name).copied()
    }

    /// The names of ours that stand there more than once.
    pub(super) fn repeated(&self) -> Vec<&'a str> {
        let times = |name: &str| self.container.env.iter().flatten().filter(|variable| variable.name == name).count();
        self.last.keys().copied().filter(|name| name.starts_with(table::PREFIX) && times(name) > 1).collect()
    }

    /// Whether a variable is there, and comes from its field and from nowhere else.
    pub(super) fn is_wired(&self, name: &str) -> bool {
        let wanted = FIELDS.into_iter().find(|(known, _)| *known == name).map(|(_, field)| field);
        wanted.is_some() && self.get(name).and_then(field_of) == wanted
    }

    /// The deciding variables whose value the pod does not tell.
    pub(super) fn untold(&self) -> Vec<&'a str> {
        DECIDING
            .into_iter()
            .filter_map(|name| self.get(name))
            .filter(|variable| !is_literal(variable))
            .map(|variable| variable.name.as_str())
            .collect()
    }

    /// What `wait` makes of them in this pod, as far as the pod tells their values.
    pub(super) fn read(&self, pod: &Pod) -> Result<Wait, Problems> {
        let mut values: BTreeMap<&str, String> = self.last.iter().map(|(name, it)| (*name, value(pod, it))).collect();
        // What is wrong with this one is told in better words.
        values.entry(INJECTED_BY).or_default();
        Wait::from_variables(values.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
    }
}

/// The field that a variable comes from.
pub(super) fn field_of(variable: &EnvVar) -> Option<&str> {
    let field = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
    field.map(|field| field.field_path.as_str())
}

/// Whether a variable's value stands in the pod: neither taken from elsewhere nor made of other variables.
fn is_literal(variable: &EnvVar) -> bool {
    variable.value_from.is_none() && !variable.value.as_deref().unwrap_or_default().contains("$(")
}

/// A variable's value, or one that `wait` takes where the pod does not tell it.
fn value(pod: &Pod, variable: &EnvVar) -> String {
    let name = variable.name.as_str();
    if is_literal(variable) {
        return variable.value.clone().unwrap_or_default();
    }
    if DECIDING.contains(&name) {
        return String::new();
    }
    let example = |name| table::find(name).map_or("", |known| known.example).to_owned();
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    match field_of(variable) {
        Some(field) if field == FIELDS[0].1 => {
            let labels = pod.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(names::label::CONTROL_PLANE_NS)).cloned().unwrap_or_default()
        }
        Some(field) if field == FIELDS[1].1 => inject_annotation(&pod.metadata).to_owned(),
        Some("status.podIP") if on_host => example(HOST_IP),
        Some("status.podIP") => example(POD_IP),
        Some("status.hostIP") => example(HOST_IP),
        _ => example(name),
    }
}

// === impl Effect ===

impl Effect {
    /// What `wait` does with these settings in the pod that they were read in.
    pub(super) fn of(settings: &Wait) -> Self {
        Self::at(PodClass::of(&settings.pod), settings)
    }

    /// What `wait` does with these settings in a missed pod.
    pub(super) fn of_missed(settings: &Wait) -> Self {
        Self::at(PodClass::Missed, settings)
    }

    fn at(class: PodClass, settings: &Wait) -> Self {
        let then = class.then(settings.on_missed, &settings.pod);
        match (then, settings.timeout, settings.on_timeout) {
            (Then::Open, ..) => Self::Opens,
            (_, Some(timeout), OnTimeout::Open) => Self::OpensAfter(timeout),
            (Then::Hold, Some(timeout), OnTimeout::Fail) => Self::GivesUpAfter(timeout),
            (Then::Hold, ..) => Self::Holds,
            (Then::Exit, ..) => Self::Exits,
            (Then::Replace, ..) => Self::Replaces,
        }
    }

    /// Whether a pod never starts outside the mesh.
    pub(super) fn holds(self) -> bool {
        !matches!(self, Self::Opens | Self::OpensAfter(_))
    }
}
