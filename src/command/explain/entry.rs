//! Whether a pod holds the entry of `linkerd-gate wait`, and holds it properly.

use crate::{
    config::{Problems, Wait, table},
    linkerd::{
        injection::{inject_annotation, is_sidecar, is_sidecar_init},
        names,
    },
};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use serde::Serialize;
use std::ffi::OsString;

/// The entry in `initContainers` that holds a pod until the mesh is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Entry {
    /// There is none.
    Missing,

    /// There is one, and it will do what it is for.
    Ok {
        /// The name of the container.
        container: String,
        /// What is worth knowing about it all the same.
        remarks: Vec<Remark>,
    },

    /// There is one, and it will not do what it is for.
    Wrong {
        /// The name of the container.
        container: String,
        /// What is wrong with it, and what is worth knowing besides.
        remarks: Vec<Remark>,
    },
}

/// One thing about the entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// A word for programs.
    pub key: &'static str,
    /// A sentence for people.
    pub text: String,
    /// Whether the entry does not do what it is for because of this.
    pub wrong: bool,
}

/// The variable that tells a pod whether Linkerd's injector saw it, and the field that it has to come from, to the letter: the
/// kubelet knows no other way to write it (`SplitMaybeSubscriptedPath` in pkg/fieldpath of k8s.io/kubernetes).
const INJECTED_BY: &str = "LINKERD_GATE_INJECTED_BY";
const INJECTED_BY_FIELD: &str = "metadata.labels['linkerd.io/control-plane-ns']";

/// The variables by which a pod that does not ask tells itself from one that was missed.
const INJECT: &str = "LINKERD_GATE_INJECT";
const POD_IP: &str = "LINKERD_GATE_POD_IP";
const HOST_IP: &str = "LINKERD_GATE_HOST_IP";

// === impl Entry ===

impl Entry {
    /// Finds the entry in a pod: the container that is named, or imaged, or configured like the gate's.
    pub(super) fn find(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::Missing };
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let inits = init.iter().enumerate().map(|(place, container)| (Some(place), container));
        let regular = spec.containers.iter().map(|container| (None, container));
        // A container that says `wait` is the entry, before one that only looks like the gate (its agent, say).
        let candidates: Vec<_> = inits.chain(regular).filter(|(_, container)| is_gates(container)).collect();
        let waiting = candidates.iter().find(|(place, container)| place.is_some() && waits(container));
        let Some((place, container)) = waiting.or(candidates.first()) else {
            return Self::Missing;
        };

        let remarks = remarks(pod, *place, container, candidates.len());
        let container = container.name.clone();
        if remarks.iter().any(|remark| remark.wrong) {
            Self::Wrong { container, remarks }
        } else {
            Self::Ok { container, remarks }
        }
    }
}

fn remarks(pod: &Pod, place: Option<usize>, container: &Container, candidates: usize) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let mut remark = |wrong, key, text: String| remarks.push(Remark { key, text, wrong });

    if place.is_none() {
        remark(
            true,
            "not_an_init_container",
            "it stands among containers, where it holds nobody: move it to initContainers".to_owned(),
        );
    }
    if !waits(container) {
        let text = "it does not say wait: give it args: [wait]".to_owned();
        remark(true, "does_not_wait", text);
    }
    if container.restart_policy.as_deref() == Some("Always") {
        let text = "its restartPolicy is Always, which makes it a sidecar that nothing waits for: remove that line";
        remark(true, "restarts_always", text.to_owned());
    }
    if let Some(text) = label_problem(container) {
        remark(true, "label_variable", text);
    }
    if waits(container) {
        for problem in configuration_problems(container) {
            remark(true, "configuration", format!("it will exit with 2, for {problem}"));
        }
    }
    if is_sidecar(container) || (place.is_some() && is_sidecar_init(container)) {
        remark(
            true,
            "looks_like_a_sidecar",
            "its name or its image makes Linkerd's injector take it for a sidecar and leave the pod alone: \
             name it linkerd-gate"
                .to_owned(),
        );
    }
    if inject_annotation(&pod.metadata) == names::inject::DISABLED && variable(container, INJECT).is_none() {
        remark(
            true,
            "inject_variable",
            format!(
                "the pod says that it does not want to be injected, but {INJECT} does not tell the entry, \
                 which will hold it like a missed pod"
            ),
        );
    }
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    if host_network && (variable(container, POD_IP).is_none() || variable(container, HOST_IP).is_none()) {
        remark(
            true,
            "address_variables",
            format!(
                "the pod is in its host's network, but {POD_IP} and {HOST_IP} do not tell the entry, \
                 which will hold it like a missed pod"
            ),
        );
    }
    if let Some(before @ 1..) = place {
        let text = format!("{before} of the pod's own init containers come before it and are not held");
        remark(false, "not_first", text);
    }
    if candidates > 1 {
        remark(
            false,
            "several",
            format!("{candidates} containers look like the entry; this is about the first that waits"),
        );
    }
    remarks
}

fn label_problem(container: &Container) -> Option<String> {
    let paste =
        format!("paste it as {{name: {INJECTED_BY}, valueFrom: {{fieldRef: {{fieldPath: \"{INJECTED_BY_FIELD}\"}}}}}}");
    let Some(variable) = variable(container, INJECTED_BY) else {
        return Some(format!("it has no variable {INJECTED_BY}, so it will exit with 2: {paste}"));
    };
    let field = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
    match field {
        Some(field) if field.field_path == INJECTED_BY_FIELD => None,
        Some(field) => {
            Some(format!("{INJECTED_BY} is taken from {}, which does not tell who injected: {paste}", field.field_path))
        }
        None => Some(format!(
            "{INJECTED_BY} is written down instead of being taken from the pod's label, so every pod looks alike to it: {paste}"
        )),
    }
}

/// What `wait` itself would say of its variables, as far as the pod tells their values.
fn configuration_problems(container: &Container) -> Vec<String> {
    let told = container.env.iter().flatten().map(|variable| {
        let written = variable.value.as_deref().unwrap_or_default();
        // A value from elsewhere, or made of other variables, is not known here: take one that `wait` takes.
        let value = if variable.value_from.is_some() || written.contains("$(") {
            table::find(&variable.name).map_or("", |known| known.example)
        } else {
            written
        };
        (variable.name.as_str(), value)
    });
    // What is wrong with this one is told in better words.
    let told = told.filter(|(name, _)| *name != INJECTED_BY).chain([(INJECTED_BY, "linkerd")]);
    let problems = Wait::from_variables(told.map(|(name, value)| (OsString::from(name), OsString::from(value)))).err();
    problems.iter().flat_map(Problems::iter).map(ToString::to_string).collect()
}

fn variable<'a>(container: &'a Container, name: &str) -> Option<&'a EnvVar> {
    container.env.iter().flatten().find(|variable| variable.name == name)
}

/// Whether this container is the gate's, by its name, the last part of its image's name, or one of its variables.
fn is_gates(container: &Container) -> bool {
    const NAME: &str = "linkerd-gate";
    let image = container.image.as_deref().unwrap_or_default();
    let image = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let image = image.split(':').next().unwrap_or_default();
    container.name == NAME
        || image == NAME
        || container.env.iter().flatten().any(|variable| variable.name.starts_with("LINKERD_GATE_"))
}

/// Whether this container runs `wait`: as the first argument, of the image's entry point or of a command that spells it out.
fn waits(container: &Container) -> bool {
    const WAIT: &str = "wait";
    let command = container.command.as_deref().unwrap_or_default();
    let args = container.args.as_deref().unwrap_or_default();
    match command {
        [] | [_] => args.first().is_some_and(|arg| arg == WAIT),
        [_, first, ..] => first == WAIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EnvVarSource, ObjectFieldSelector, PodSpec};

    fn field(name: &str, path: &str) -> EnvVar {
        EnvVar {
            name: name.to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: None }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }
    }

    /// The entry as it is documented, without what most pods can do without.
    fn entry() -> Container {
        Container {
            name: "linkerd-gate".to_owned(),
            image: Some("ghcr.io/x/linkerd-gate:1".to_owned()),
            args: Some(vec!["wait".to_owned()]),
            env: Some(vec![field(INJECTED_BY, INJECTED_BY_FIELD)]),
            ..Container::default()
        }
    }

    fn app() -> Container {
        Container { name: "app".to_owned(), ..Container::default() }
    }

    fn pod(init: Vec<Container>, regular: Vec<Container>) -> Pod {
        let spec = PodSpec { init_containers: Some(init), containers: regular, ..PodSpec::default() };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    fn keys(entry: &Entry) -> (&'static str, Vec<&'static str>) {
        let keys = |remarks: &[Remark]| remarks.iter().map(|remark| remark.key).collect();
        match entry {
            Entry::Missing => ("missing", vec![]),
            Entry::Ok { remarks, .. } => ("ok", keys(remarks)),
            Entry::Wrong { remarks, .. } => ("wrong", keys(remarks)),
        }
    }

    #[test]
    fn the_entry_as_documented_is_fine_and_known_by_any_of_its_marks() {
        let renamed = Container { name: "hold".to_owned(), ..entry() };
        let mirrored = Container { image: Some("mirror/linkerd-gate@sha256:0".to_owned()), ..renamed.clone() };
        let own_image = Container { image: Some("mine:1".to_owned()), ..renamed.clone() };
        let spelled =
            Container { command: Some(vec!["/linkerd-gate".to_owned(), "wait".to_owned()]), args: None, ..entry() };
        for container in [entry(), renamed, mirrored, own_image, spelled] {
            assert_eq!(keys(&Entry::find(&pod(vec![container], vec![app()]))), ("ok", vec![]));
        }
    }

    #[test]
    fn a_pod_without_it_has_none() {
        assert_eq!(Entry::find(&pod(vec![app()], vec![app()])), Entry::Missing);
        assert_eq!(Entry::find(&Pod::default()), Entry::Missing);
    }

    #[test]
    fn everything_that_is_pasted_wrong_is_told() {
        let change = |change: fn(&mut Container)| {
            let mut container = entry();
            change(&mut container);
            container
        };
        let literal = EnvVar { name: INJECTED_BY.to_owned(), value: Some("linkerd".to_owned()), value_from: None };
        let literal = Container { env: Some(vec![literal]), ..entry() };
        let cases = vec![
            ("does_not_wait", change(|container| container.args = None)),
            ("does_not_wait", change(|container| container.args = Some(vec!["--wait".to_owned()]))),
            ("does_not_wait", change(|container| container.args = Some(vec!["check".to_owned(), "wait".to_owned()]))),
            ("restarts_always", change(|container| container.restart_policy = Some("Always".to_owned()))),
            ("label_variable", change(|container| container.env = None)),
            ("label_variable", literal),
            (
                "label_variable",
                change(|container| {
                    container.env = Some(vec![field(INJECTED_BY, "metadata.labels['linkerd.io/workload-ns']")]);
                }),
            ),
            ("looks_like_a_sidecar", change(|container| container.name = "linkerd-init".to_owned())),
            (
                "looks_like_a_sidecar",
                change(|container| container.image = Some("cr.l5d.io/linkerd/proxy-init:v1".to_owned())),
            ),
        ];
        for (wrong, container) in cases {
            assert_eq!(keys(&Entry::find(&pod(vec![container], vec![app()]))), ("wrong", vec![wrong]));
        }
    }

    #[test]
    fn variables_are_judged_as_wait_itself_judges_them() {
        let with = |name: &str, value: &str| {
            let variable = EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
            let mut container = entry();
            container.env.as_mut().unwrap().push(variable);
            pod(vec![container], vec![app()])
        };
        let Entry::Wrong { remarks, .. } = Entry::find(&with("LINKERD_GATE_TIMOUT", "5m")) else {
            panic!("a variable that nobody knows");
        };
        assert!(remarks[0].text.contains("did you mean LINKERD_GATE_TIMEOUT?"), "{remarks:?}");
        assert_eq!(keys(&Entry::find(&with("LINKERD_GATE_TIMEOUT", "soon"))), ("wrong", vec!["configuration"]));
        assert_eq!(keys(&Entry::find(&with("LINKERD_GATE_TIMEOUT", "5m"))), ("ok", vec![]));
        assert_eq!(keys(&Entry::find(&with("LINKERD_GATE_TIMEOUT", "$(PATIENCE)"))), ("ok", vec![]));
    }

    #[test]
    fn the_variables_that_are_looked_for_are_those_of_wait() {
        for name in [INJECTED_BY, INJECT, POD_IP, HOST_IP] {
            assert!(table::find(name).is_some(), "{name}");
        }
        assert!(table::find(INJECTED_BY).unwrap().accepted.contains(INJECTED_BY_FIELD));
    }

    #[test]
    fn the_one_that_waits_is_the_entry_whatever_else_looks_like_the_gate() {
        let agent = Container { args: Some(vec!["agent".to_owned()]), ..entry() };
        let sidecar =
            Container { name: "agent".to_owned(), restart_policy: Some("Always".to_owned()), ..agent.clone() };
        for pod in [pod(vec![sidecar, entry()], vec![app()]), pod(vec![entry()], vec![agent])] {
            let Entry::Ok { container, .. } = Entry::find(&pod) else { panic!("{:?}", Entry::find(&pod)) };
            assert_eq!(container, "linkerd-gate");
        }
    }

    #[test]
    fn among_containers_it_holds_nobody() {
        assert_eq!(keys(&Entry::find(&pod(vec![], vec![app(), entry()]))), ("wrong", vec!["not_an_init_container"]));
    }

    #[test]
    fn where_it_stands_among_others_is_worth_a_remark() {
        assert_eq!(keys(&Entry::find(&pod(vec![app(), entry()], vec![app()]))), ("ok", vec!["not_first"]));
        assert_eq!(keys(&Entry::find(&pod(vec![entry(), entry()], vec![app()]))), ("ok", vec!["several"]));
    }

    #[test]
    fn a_pod_that_does_not_ask_must_be_able_to_tell() {
        let mut declines = pod(vec![entry()], vec![app()]);
        declines.metadata.annotations =
            Some([(names::annotation::INJECT.to_owned(), names::inject::DISABLED.to_owned())].into());
        assert_eq!(keys(&Entry::find(&declines)), ("wrong", vec!["inject_variable"]));

        let mut on_host = pod(vec![entry()], vec![app()]);
        on_host.spec.as_mut().unwrap().host_network = Some(true);
        assert_eq!(keys(&Entry::find(&on_host)), ("wrong", vec!["address_variables"]));

        let all = vec![
            field(INJECTED_BY, INJECTED_BY_FIELD),
            field(INJECT, "metadata.annotations['linkerd.io/inject']"),
            field(POD_IP, "status.podIP"),
            field(HOST_IP, "status.hostIP"),
        ];
        for mut pod in [declines, on_host] {
            pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].env = Some(all.clone());
            assert_eq!(keys(&Entry::find(&pod)), ("ok", vec![]));
        }
    }
}
