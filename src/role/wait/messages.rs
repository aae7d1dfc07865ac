//! The lines that a person reads at three in the morning: what holds, why, and what to run next. Pure.

use std::fmt;
use std::time::Duration;

use super::pod_class::{PodClass, refused_annotation};
use super::status::{Opening, Status};
use super::status_log::whole_seconds;
use crate::config::{OnMissed, OnTimeout, OwnPod, Wait};
use crate::decide::{Basis, Gate, GateStatus};
use crate::observe::Issuer;

/// The first line: what this pod is, and what `wait` will do about it.
pub(super) fn beginning(settings: &Wait, standing: PodClass) -> String {
    let own = pod(&settings.pod);
    let namespace = &settings.linkerd.namespace;
    match standing {
        PodClass::Meshed => match settings.when_meshed {
            crate::config::WhenMeshed::Pass => {
                format!("{own} is meshed (by {}): its proxy waits for identity itself; open", settings.pod.injected_by)
            }
            crate::config::WhenMeshed::Identity => {
                format!("{own} is meshed (by {}): waiting for Linkerd's identity", settings.pod.injected_by)
            }
        },
        PodClass::Disabled => {
            format!(
                "{own} says linkerd.io/inject: disabled: it starts outside the mesh once Linkerd in {namespace} is ready"
            )
        }
        PodClass::HostNetwork => {
            format!(
                "{own} is on the host network, where Linkerd never injects: it starts once Linkerd in {namespace} is ready"
            )
        }
        PodClass::Missed => {
            let then = match settings.on_missed {
                OnMissed::Hold => "it is held until it is created again through Linkerd's injector",
                OnMissed::Exit => {
                    "once Linkerd is ready this container exits with code 75, so that it is created again"
                }
                OnMissed::Replace => "once injection is proven it is deleted, so that it is created again",
                OnMissed::Open => "LINKERD_GATE_ON_MISSED=open: once Linkerd is ready it starts outside the mesh",
            };
            let end = match (settings.timeout, settings.on_timeout) {
                (None, _) => String::new(),
                (Some(limit), OnTimeout::Fail) => format!("; after {} it fails", humantime::format_duration(limit)),
                (Some(limit), OnTimeout::Open) => {
                    format!("; after {} it starts outside the mesh all the same", humantime::format_duration(limit))
                }
            };
            format!("{own} was created without Linkerd's proxy: {then}{end}")
        }
    }
}

/// Ready, and this pod may start.
pub(super) fn open(standing: PodClass, opening: &Opening<'_>, after: Duration) -> String {
    let after = short(after);
    let ready = match opening {
        Opening::ByHand(word) if standing == PodClass::Missed => {
            return format!("opened by hand ({word}): this pod starts OUTSIDE the mesh after {after}");
        }
        Opening::ByHand(word) => return format!("opened by hand ({word}) after {after}"),
        Opening::Agents(Basis::NotInstalled) => format!("{}, says this node's agent", Basis::NotInstalled),
        Opening::Agents(basis) => format!("Linkerd is ready ({basis}, says this node's agent)"),
        Opening::Reachable(None) => "Linkerd is ready (reachable, not proven)".to_owned(),
        Opening::Reachable(Some(Issuer::Bundle)) => {
            "Linkerd is ready (reachable, not proven; the injector's certificate chains to the bundle given)".to_owned()
        }
        Opening::Reachable(Some(Issuer::Unchecked)) => {
            "Linkerd is ready (reachable, not proven; without a CA bundle the injector's issuer was not checked)"
                .to_owned()
        }
    };
    match standing {
        PodClass::Meshed => format!("Linkerd's identity answers; open after {after}"),
        PodClass::Disabled | PodClass::HostNetwork => format!("{ready}; open after {after}"),
        PodClass::Missed => {
            format!("{ready}; LINKERD_GATE_ON_MISSED=open lets this pod start OUTSIDE the mesh after {after}")
        }
    }
}

/// The agent cannot be followed (any more).
pub(super) fn without_agent(why: &str) -> String {
    format!("looking at Linkerd itself until this node's agent can be followed: {why}")
}

/// The agent can be followed, after people were told that it cannot.
pub(super) fn agent_is_back(answer: &GateStatus) -> String {
    format!("following the agent on node {} from now on", answer.node.name)
}

/// Ready, but this pod has to be created again by somebody else.
pub(super) fn held(pod: &OwnPod, opening: &Opening<'_>) -> String {
    if *opening == Opening::Agents(Basis::NotInstalled) {
        return format!(
            "Linkerd is not installed, says this node's agent: nobody can inject {}, nor another in its place, and it asked \
             to start in the mesh only. Install Linkerd, or take the entry out of its template",
            self::pod(pod)
        );
    }
    let how = match opening {
        Opening::Agents(basis) => format!(" ({basis})"),
        Opening::Reachable(_) | Opening::ByHand(_) => String::new(),
    };
    format!(
        "Linkerd is ready{how}, but a pod cannot be injected once it exists: {} has to be created again. {}",
        self::pod(pod),
        next(pod)
    )
}

/// Ready, and the container exits so that the pod's owner creates it again.
pub(super) fn exit(pod: &OwnPod) -> String {
    format!(
        "Linkerd is ready, but a pod cannot be injected once it exists: exiting with code 75, so that {}'s owner creates \
         it again. Only a Job whose podFailurePolicy ignores 75 does. {}",
        self::pod(pod),
        next(pod)
    )
}

/// A signal ended it.
pub(super) fn signalled(signal: &str, standing: PodClass, known: &Status, after: Duration) -> String {
    format!("ended by {signal} after {}, nothing was opened; {}", short(after), awaited(standing, known))
}

/// The timeout, and the pod fails.
pub(super) fn gave_up(pod: &OwnPod, standing: PodClass, known: &Status, after: Duration) -> String {
    let next = if known.opening().is_some() {
        next(pod)
    } else {
        "Look at what it names first, or run: linkerd check".to_owned()
    };
    format!("gave up after {} (LINKERD_GATE_TIMEOUT); {}. {next}", short(after), awaited(standing, known))
}

/// The timeout, and the pod starts all the same.
pub(super) fn opened_by_timeout(standing: PodClass, known: &Status, after: Duration) -> String {
    let how = match standing {
        PodClass::Missed => "this pod starts OUTSIDE the mesh",
        PodClass::Meshed | PodClass::Disabled | PodClass::HostNetwork => "this pod starts all the same",
    };
    format!("waited {} (LINKERD_GATE_ON_TIMEOUT=open): {how}; {}", short(after), awaited(standing, known))
}

/// The pod will be deleted by us.
pub(super) fn about_to_replace(pod: &OwnPod) -> String {
    format!("Linkerd is ready; {} replaces itself in a moment", self::pod(pod))
}

/// The pod was deleted by us.
pub(super) fn replaced(pod: &OwnPod) -> String {
    format!("injection is proven: {} was deleted, its owner creates it again; waiting to be ended", self::pod(pod))
}

/// The pod could not be deleted by us.
pub(super) fn not_replaced(pod: &OwnPod, why: &impl fmt::Display) -> String {
    format!("Linkerd is ready, but {} cannot replace itself: {why}. By hand: {}", self::pod(pod), delete_command(pod))
}

/// What a person does next.
fn next(pod: &OwnPod) -> String {
    let command = format!(
        "Its owner does so after: {} (a pod without an owner instead: {}; in a Job a deletion counts against backoffLimit)",
        delete_command(pod),
        recreate_command(pod)
    );
    match refused_annotation(pod) {
        None => command,
        Some(value) => format!(
            "First mend its template: linkerd.io/inject: {value:?} is no value that Linkerd takes (enabled, ingress, \
             disabled), so the next pod would come without a proxy too. {command}"
        ),
    }
}

/// The command that replaces this pod, to be copied.
pub(super) fn delete_command(pod: &OwnPod) -> String {
    match (&pod.name, &pod.namespace) {
        (Some(name), Some(namespace)) => format!("kubectl delete pod {name} --namespace {namespace}"),
        _ => "kubectl delete pod <this pod>".to_owned(),
    }
}

/// The command that makes this pod again where no owner does, to be copied.
fn recreate_command(pod: &OwnPod) -> String {
    match (&pod.name, &pod.namespace) {
        (Some(name), Some(namespace)) => format!("linkerd-gate recreate pod/{name} -n {namespace}"),
        _ => "linkerd-gate recreate pod/<this pod>".to_owned(),
    }
}

/// This pod, for people.
pub(super) fn pod(pod: &OwnPod) -> String {
    match (&pod.namespace, &pod.name) {
        (Some(namespace), Some(name)) => format!("pod {namespace}/{name}"),
        (None, Some(name)) => format!("pod {name}"),
        (_, None) => "this pod".to_owned(),
    }
}

fn awaited(standing: PodClass, known: &Status) -> String {
    match known.opening() {
        Some(_) if standing == PodClass::Missed => "Linkerd was ready, but this pod was not created again".to_owned(),
        Some(_) => "Linkerd was ready".to_owned(),
        None => match known {
            Status::Directly(Gate::Settling { .. }, _) => "Linkerd had just begun to answer".to_owned(),
            Status::Directly(..) | Status::FromAgent(_) => format!("Linkerd was not ready: {known}"),
        },
    }
}

fn short(duration: Duration) -> impl fmt::Display {
    humantime::format_duration(whole_seconds(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop(inject: Option<&str>) -> OwnPod {
        OwnPod {
            injected_by: String::new(),
            inject: inject.map(str::to_owned),
            ip: None,
            host_ip: None,
            name: Some("web-0".to_owned()),
            namespace: Some("shop".to_owned()),
            uid: None,
        }
    }

    const REACHABLE: Opening<'_> = Opening::Reachable(None);

    fn open_gate() -> Status {
        Status::Directly(
            Gate::Open { basis: Basis::Reachable, since: Duration::ZERO, latest: Duration::ZERO, doubt: None },
            None,
        )
    }

    #[test]
    fn a_held_pod_names_the_command_that_replaces_it() {
        assert!(held(&shop(None), &REACHABLE).contains("after: kubectl delete pod web-0 --namespace shop ("));
        assert!(held(&shop(None), &REACHABLE).contains("instead: linkerd-gate recreate pod/web-0 -n shop;"));
    }

    #[test]
    fn a_value_that_linkerd_does_not_take_is_pointed_out() {
        assert!(held(&shop(Some("Enabled")), &REACHABLE).contains("\"Enabled\" is no value that Linkerd takes"));
        assert!(!held(&shop(Some("ingress")), &REACHABLE).contains("no value"));
        assert!(gave_up(&shop(Some("Enabled")), PodClass::Missed, &open_gate(), Duration::ZERO).contains("no value"));
    }
}
