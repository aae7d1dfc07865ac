//! Whether a pod is meshed, missed, held.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Namespace, Pod};

use super::injection::{Injection, TokenProjection, injection};
use super::injection_input::all_containers;
use super::names;
use super::webhook::WebhookView;

/// The name of our init container, which runs `wait`.
pub const WAIT: &str = "linkerd-gate";

/// What a pod carries of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meshing {
    /// Linkerd's label, and a container or init container `linkerd-proxy`: the injector put both there.
    Meshed,

    /// Linkerd's label alone. Another client wrote it: the pod has no proxy, and the injector would not mind the label.
    ForgedLabel,

    /// A container `linkerd-proxy` without Linkerd's label. Another client added it: the injector skips the pod for it.
    ForeignProxy,

    /// Neither.
    Bare,
}

/// Whether anything of a pod but our own init container has ever started: an app container, an init container of the pod's (a
/// schema migration, say), a native sidecar, or a debug container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// None has, for certain.
    Never,

    /// The pod's status does not say.
    Unknown,

    /// At least one has, or may have.
    Ever,
}

/// Whether one of the pod's containers, init containers included, is Linkerd's proxy, by its name.
pub fn has_proxy(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.is_some_and(|spec| all_containers(spec).any(|container| container.name == names::container::PROXY))
}

/// What `pod` carries of the mesh: native sidecars stand among the init containers, classic ones among the containers.
pub fn meshing(pod: &Pod) -> Meshing {
    // An empty value is no control plane's name; a pod's own view of the label (the downward API) reads it as absent too.
    let labelled = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(names::label::CONTROL_PLANE_NS))
        .is_some_and(|namespace| !namespace.is_empty());
    match (labelled, has_proxy(pod)) {
        (true, true) => Meshing::Meshed,
        (true, false) => Meshing::ForgedLabel,
        (false, true) => Meshing::ForeignProxy,
        (false, false) => Meshing::Bare,
    }
}

/// Whether Linkerd injected `pod`. A forged label does not make a pod meshed.
pub fn meshed(pod: &Pod) -> bool {
    meshing(pod) == Meshing::Meshed
}

/// Whether `pod` asks for injection, would have got it, and has not.
///
/// Where match conditions decide whether the injector is called, no pod counts as missed: only the API server knows.
/// Annotations are read as they are now; a namespace that began to ask later makes its older pods look missed.
pub fn missed(pod: &Pod, namespace: &Namespace, webhooks: &WebhookView, projection: TokenProjection) -> bool {
    matches!(injection(pod, namespace, webhooks, projection), Injection::Inject(_)) && !meshed(pod)
}

/// Whether `pod` is [`missed`] and nothing of it but our own init container has ever started, for certain: removing it loses
/// nothing.
pub fn held(pod: &Pod, namespace: &Namespace, webhooks: &WebhookView, projection: TokenProjection) -> bool {
    missed(pod, namespace, webhooks, projection) && started(pod) == Started::Never
}

/// Whether anything of `pod` but our own init container has ever started, by its status. Whatever is not certain is not
/// [`Started::Never`].
pub fn started(pod: &Pod) -> Started {
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let inits = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let debuggers = status.and_then(|status| status.ephemeral_container_statuses.as_deref()).unwrap_or_default();
    let others = inits.iter().filter(|status| status.name != WAIT);
    if statuses.iter().chain(others).chain(debuggers).any(has_started) {
        return Started::Ever;
    }
    match status.and_then(|status| status.phase.as_deref()) {
        // A finished pod is history, whatever ran in it; a running one has started by definition.
        Some("Running" | "Succeeded" | "Failed") => return Started::Ever,
        Some("Pending") | None => {}
        // `Unknown`: its node cannot be asked.
        Some(_) => return Started::Unknown,
    }
    let Some(spec) = &pod.spec else {
        return Started::Unknown;
    };
    if spec.node_name.as_deref().unwrap_or_default().is_empty() {
        // No kubelet has it. The API server would not let a status tell otherwise.
        return Started::Never;
    }
    let reported = |name: &str| statuses.iter().chain(inits).any(|status| status.name == name);
    let mut inits = spec.init_containers.iter().flatten().filter(|container| container.name != WAIT);
    if !inits.all(|container| reported(&container.name)) {
        return Started::Unknown;
    }
    // A kubelet starts app containers only after all init containers, and says so in this condition.
    let initializing = status.and_then(|status| status.conditions.as_deref()).is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Initialized" && condition.status == "False")
    });
    if initializing
        || (!spec.containers.is_empty() && spec.containers.iter().all(|container| reported(&container.name)))
    {
        return Started::Never;
    }
    // Bound, but its kubelet has not reported every container yet.
    Started::Unknown
}

/// Whether this status has any trace of a start. A container that only ever waited has none.
fn has_started(status: &ContainerStatus) -> bool {
    let ran = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
    status.restart_count > 0
        || status.started == Some(true)
        || status.state.as_ref().is_some_and(ran)
        || status.last_state.as_ref().is_some_and(ran)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        Container, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, PodCondition, PodSpec,
        PodStatus,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    /// A pod of one container `app` that asks for injection, is bound to a node and has this status.
    fn bound(status: Option<PodStatus>) -> Pod {
        Pod {
            metadata: ObjectMeta {
                annotations: Some([(names::annotation::INJECT.to_owned(), names::inject::ENABLED.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                containers: vec![Container { name: "app".to_owned(), ..Container::default() }],
                node_name: Some("node".to_owned()),
                ..PodSpec::default()
            }),
            status,
        }
    }

    fn pending(statuses: Vec<ContainerStatus>) -> PodStatus {
        PodStatus {
            phase: Some("Pending".to_owned()),
            container_statuses: Some(statuses).filter(|statuses| !statuses.is_empty()),
            ..PodStatus::default()
        }
    }

    fn status(name: &str, state: ContainerState) -> ContainerStatus {
        ContainerStatus { name: name.to_owned(), state: Some(state), ..ContainerStatus::default() }
    }

    fn waiting() -> ContainerState {
        ContainerState {
            waiting: Some(ContainerStateWaiting { reason: Some("PodInitializing".to_owned()), message: None }),
            ..ContainerState::default()
        }
    }

    fn running() -> ContainerState {
        ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() }
    }

    fn terminated() -> ContainerState {
        ContainerState { terminated: Some(ContainerStateTerminated::default()), ..ContainerState::default() }
    }

    fn initializing(mut status: PodStatus) -> PodStatus {
        status.conditions = Some(vec![PodCondition {
            type_: "Initialized".to_owned(),
            status: "False".to_owned(),
            ..PodCondition::default()
        }]);
        status
    }

    #[test]
    fn only_certainty_counts_as_never_started() {
        use Started::{Ever, Never, Unknown};
        let app = || status("app", waiting());
        let phase = |phase: &str| PodStatus { phase: Some(phase.to_owned()), ..pending(vec![app()]) };
        let mut second = bound(Some(pending(vec![app()])));
        second.spec.as_mut().unwrap().containers.push(Container { name: "second".to_owned(), ..Container::default() });
        let mut unscheduled = bound(Some(pending(vec![])));
        unscheduled.spec.as_mut().unwrap().node_name = None;

        let cases = vec![
            (Never, "unscheduled", unscheduled),
            (Never, "in an init container, by its statuses", bound(Some(pending(vec![app()])))),
            (Never, "in an init container, by its condition", bound(Some(initializing(pending(vec![]))))),
            (Unknown, "bound, its kubelet silent", bound(Some(pending(vec![])))),
            (Unknown, "bound, without any status", bound(None)),
            (Unknown, "one of two containers told", second),
            (Unknown, "its node cannot be asked", bound(Some(phase("Unknown")))),
            (Unknown, "without a spec", Pod { spec: None, ..bound(Some(pending(vec![app()]))) }),
            (Ever, "running", bound(Some(pending(vec![status("app", running())])))),
            (Ever, "terminated", bound(Some(pending(vec![status("app", terminated())])))),
            (
                Ever,
                "ran before, waits now",
                bound(Some(pending(vec![ContainerStatus { last_state: Some(terminated()), ..app() }]))),
            ),
            (Ever, "restarted", bound(Some(pending(vec![ContainerStatus { restart_count: 1, ..app() }])))),
            (Ever, "started", bound(Some(pending(vec![ContainerStatus { started: Some(true), ..app() }])))),
            (
                Ever,
                "ran before its node rebooted, initializes again",
                bound(Some(initializing(pending(vec![ContainerStatus { restart_count: 1, ..app() }])))),
            ),
            (Ever, "phase Running", bound(Some(phase("Running")))),
            (Ever, "phase Succeeded", bound(Some(phase("Succeeded")))),
            (Ever, "phase Failed, evicted before any start", bound(Some(phase("Failed")))),
        ];
        for (expected, what, pod) in cases {
            assert_eq!(started(&pod), expected, "{what}");
            let held = held(&pod, &Namespace::default(), &WebhookView::chart_default(), TokenProjection::Enabled);
            assert_eq!(held, expected == Never && pod.spec.is_some(), "{what}: held");
        }
    }

    /// The same pod with these init containers, of which kubelet reports these states.
    fn with_inits(inits: &[&str], reported: Vec<ContainerStatus>) -> Pod {
        let mut pod = bound(Some(initializing(pending(vec![status("app", waiting())]))));
        let container = |name: &&str| Container { name: (*name).to_owned(), ..Container::default() };
        pod.spec.as_mut().unwrap().init_containers = Some(inits.iter().map(container).collect());
        pod.status.as_mut().unwrap().init_container_statuses = Some(reported);
        pod
    }

    #[test]
    fn our_init_container_is_the_only_one_that_may_have_started() {
        let ours = || ContainerStatus { restart_count: 7, ..status("linkerd-gate", running()) };
        let both = ["linkerd-gate", "migrate"];
        for (expected, what, pod) in [
            (Started::Never, "ours alone", with_inits(&["linkerd-gate"], vec![ours()])),
            (Started::Never, "the other one waits", with_inits(&both, vec![ours(), status("migrate", waiting())])),
            (Started::Ever, "the other one runs", with_inits(&both, vec![ours(), status("migrate", running())])),
            (Started::Ever, "the other one is done", with_inits(&both, vec![status("migrate", terminated()), ours()])),
            (Started::Ever, "a native sidecar", with_inits(&["proxy"], vec![status("proxy", running())])),
            (Started::Unknown, "the other one is not reported", with_inits(&both, vec![ours()])),
        ] {
            assert_eq!(started(&pod), expected, "{what}");
        }
        let mut debugged = with_inits(&["linkerd-gate"], vec![ours()]);
        debugged.status.as_mut().unwrap().ephemeral_container_statuses = Some(vec![status("debugger", running())]);
        assert_eq!(started(&debugged), Started::Ever);
    }

    #[test]
    fn meshed_needs_the_label_and_the_container_wherever_it_stands() {
        let proxy = || Container { name: names::container::PROXY.to_owned(), ..Container::default() };
        let label = |value: &str| Some([(names::label::CONTROL_PLANE_NS.to_owned(), value.to_owned())].into());
        let spec = |init: bool, regular: bool| PodSpec {
            init_containers: init.then(|| vec![proxy()]),
            containers: if regular { vec![proxy()] } else { vec![] },
            ..PodSpec::default()
        };
        for (expected, labels, spec) in [
            (Meshing::Meshed, label("linkerd"), spec(true, false)),
            (Meshing::Meshed, label("linkerd"), spec(false, true)),
            (Meshing::ForgedLabel, label("linkerd"), spec(false, false)),
            (Meshing::ForeignProxy, None, spec(true, false)),
            (Meshing::ForeignProxy, label(""), spec(false, true)),
            (Meshing::Bare, None, spec(false, false)),
        ] {
            let pod = Pod { metadata: ObjectMeta { labels, ..ObjectMeta::default() }, spec: Some(spec), status: None };
            assert_eq!(meshing(&pod), expected, "{pod:?}");
            assert_eq!(meshed(&pod), expected == Meshing::Meshed);
        }
    }
}
