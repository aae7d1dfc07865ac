//! The lines that a person reads: state, cause, next command. Pure.

use std::fmt;
use std::time::Duration;

use super::status_log::{Line, whole_seconds};
use crate::config::{OnMissed, OnTimeout, OwnPod, Wait};
use crate::decide::wait::pod_class::{PodClass, refused_annotation};
use crate::decide::wait::{Opening, Status};
use crate::decide::{Basis, Gate, GateStatus};
use crate::observe::Issuer;

/// The first line: the pod's class, and what `wait` will do.
pub(super) fn beginning(settings: &Wait, class: PodClass) -> Line {
    let namespace = &settings.linkerd.namespace;
    match class {
        PodClass::Meshed => {
            let by = &settings.pod.injected_by;
            let then = match settings.when_meshed {
                crate::config::WhenMeshed::Pass => "its proxy waits for identity itself; open",
                crate::config::WhenMeshed::Identity => "waiting for Linkerd's identity",
            };
            Line::new("this pod is meshed", format!("injected by {by}: {then}"))
        }
        PodClass::Disabled => Line::new(
            "this pod has linkerd.io/inject: disabled",
            format!("it starts outside the mesh once Linkerd in {namespace} is ready"),
        ),
        PodClass::HostNetwork => Line::new(
            "this pod is on the host network, where Linkerd never injects",
            format!("it starts once Linkerd in {namespace} is ready"),
        ),
        PodClass::Missed => {
            let then = match settings.on_missed {
                OnMissed::Hold => "it is held until it is created again through Linkerd's injector",
                OnMissed::Exit => {
                    "once Linkerd is ready, this container exits with code 75, so that its owner creates it again"
                }
                OnMissed::Replace => "once injection is proven, it deletes itself, so that its owner creates it again",
                OnMissed::Open => "LINKERD_GATE_ON_MISSED=open: once Linkerd is ready, it starts outside the mesh",
            };
            let end = match (settings.timeout, settings.on_timeout) {
                (None, _) => String::new(),
                (Some(limit), OnTimeout::Fail) => format!("; after {} it fails", humantime::format_duration(limit)),
                (Some(limit), OnTimeout::Open) => {
                    format!("; after {} it starts outside the mesh", humantime::format_duration(limit))
                }
            };
            Line::new("this pod was created without Linkerd's proxy", format!("{then}{end}"))
        }
    }
}

/// The gate is open, and this pod may start.
pub(super) fn open(class: PodClass, opening: Opening<'_>, issuer: Option<Issuer>, after: Duration) -> Line {
    let after = short(after);
    let ready = match opening {
        Opening::Overridden(by) if class == PodClass::Missed => {
            let reason = format!("manual override ({by}): this pod starts OUTSIDE the mesh after {after}");
            return Line::new("open", reason);
        }
        Opening::Overridden(by) => return Line::new("open", format!("manual override ({by}) after {after}")),
        Opening::Agents(Basis::NotInstalled) => format!("{}, says this node's agent", Basis::NotInstalled),
        Opening::Agents(basis) => format!("Linkerd is ready ({basis}, says this node's agent)"),
        Opening::Reachable => match issuer {
            None => "Linkerd is ready (reachable, not proven)".to_owned(),
            Some(Issuer::Bundle) => {
                "Linkerd is ready (reachable, not proven; the injector's certificate chains to the CA bundle)"
                    .to_owned()
            }
            Some(Issuer::Unchecked) => {
                "Linkerd is ready (reachable, not proven; without a CA bundle the injector's issuer was not checked)"
                    .to_owned()
            }
        },
    };
    let reason = match class {
        PodClass::Meshed => format!("Linkerd's identity answers, after {after}"),
        PodClass::Disabled | PodClass::HostNetwork => format!("{ready}, after {after}"),
        PodClass::Missed => {
            format!("{ready}; LINKERD_GATE_ON_MISSED=open lets this pod start OUTSIDE the mesh after {after}")
        }
    };
    Line::new("open", reason)
}

/// The gate is not open: `known` has the reason.
pub(super) fn waiting(known: &Status) -> Line {
    Line::new("waiting", known.to_string())
}

/// The agent gives no usable answer (any more).
pub(super) fn without_agent(why: &str) -> Line {
    Line::new("probing Linkerd itself until this node's agent answers", why)
}

/// The agent answers again, after a line that it does not.
pub(super) fn agent_is_back(answer: &GateStatus) -> Line {
    Line::new("following the agent", format!("it answers on node {}", answer.node.name))
}

/// Linkerd is ready, but only the owner or a person can replace this pod.
pub(super) fn held(pod: &OwnPod, opening: Opening<'_>) -> Line {
    if opening == Opening::Agents(Basis::NotInstalled) {
        return Line::new(
            "this pod cannot be injected",
            "Linkerd is not installed, says this node's agent, and the pod requests injection. Install Linkerd, or remove the \
             entry from the pod's template",
        );
    }
    let how = match opening {
        Opening::Agents(basis) => format!(" ({basis})"),
        Opening::Reachable | Opening::Overridden(_) => String::new(),
    };
    let reason = format!("Linkerd is ready{how}, and injects a pod only when it is created. {}", next(pod));
    Line::new("this pod must be created again", reason)
}

/// Linkerd is ready, and the container exits so that the pod's owner creates it again.
pub(super) fn exit(pod: &OwnPod) -> Line {
    let reason = format!(
        "Linkerd is ready, and injects a pod only when it is created: the owner must create this pod again. Only a Job whose \
         podFailurePolicy ignores 75 does. {}",
        next(pod)
    );
    Line::new("exiting with code 75", reason)
}

/// A signal ended `wait`.
pub(super) fn signalled(signal: &str, class: PodClass, known: &Status, after: Duration) -> Line {
    let reason = format!("{signal} after {}, nothing was opened; {}", short(after), awaited(class, known));
    Line::new("ended by a signal", reason)
}

/// The timeout passed, and the pod fails.
pub(super) fn gave_up(pod: &OwnPod, class: PodClass, known: &Status, after: Duration) -> Line {
    let next = if known.opening().is_some() { next(pod) } else { "Next: linkerd check".to_owned() };
    let reason = format!("LINKERD_GATE_TIMEOUT passed after {}; {}. {next}", short(after), awaited(class, known));
    Line::new("gave up", reason)
}

/// The timeout passed, and the pod starts.
pub(super) fn opened_by_timeout(class: PodClass, known: &Status, after: Duration) -> Line {
    let how = match class {
        PodClass::Missed => "this pod starts OUTSIDE the mesh",
        PodClass::Meshed | PodClass::Disabled | PodClass::HostNetwork => "this pod starts",
    };
    let reason = format!("LINKERD_GATE_ON_TIMEOUT=open, waited {}: {how}; {}", short(after), awaited(class, known));
    Line::new("open", reason)
}

/// `wait` will delete this pod.
pub(super) fn about_to_replace() -> Line {
    Line::new("this pod replaces itself soon", "Linkerd is ready")
}

/// `wait` deleted this pod.
pub(super) fn replaced() -> Line {
    Line::new("this pod deleted itself", "injection is proven, and its owner creates it again; waiting for SIGTERM")
}

/// The pod was being deleted already.
pub(super) fn already_going() -> Line {
    Line::new("this pod is being replaced already", "")
}

/// `wait` could not delete this pod.
pub(super) fn not_replaced(pod: &OwnPod, why: &impl fmt::Display) -> Line {
    let reason = format!("Linkerd is ready, but {why}. To replace it yourself: {}", delete_command(pod));
    Line::new("this pod cannot replace itself", reason)
}

/// The next command for a person.
fn next(pod: &OwnPod) -> String {
    let command = format!(
        "Its owner creates it again after: {} (for a pod without an owner: {}; a Job counts a deletion against backoffLimit)",
        delete_command(pod),
        recreate_command(pod)
    );
    match refused_annotation(pod) {
        None => command,
        Some(value) => format!(
            "First correct its template: Linkerd does not accept linkerd.io/inject: {value:?} (but enabled, ingress, disabled), so \
             the next pod would have no proxy either. {command}"
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

/// The command that creates a pod without an owner again, to be copied.
fn recreate_command(pod: &OwnPod) -> String {
    match (&pod.name, &pod.namespace) {
        (Some(name), Some(namespace)) => format!("linkerd-gate recreate pod/{name} -n {namespace}"),
        _ => "linkerd-gate recreate pod/<this pod>".to_owned(),
    }
}

fn awaited(class: PodClass, known: &Status) -> String {
    match known.opening() {
        Some(_) if class == PodClass::Missed => "Linkerd was ready, but this pod was not created again".to_owned(),
        Some(_) => "Linkerd was ready".to_owned(),
        None => match known {
            Status::Directly(Gate::Settling { .. }) => "Linkerd had just begun to answer".to_owned(),
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

    const REACHABLE: Opening<'_> = Opening::Reachable;

    fn open_gate() -> Status {
        Status::Directly(Gate::Open {
            basis: Basis::Reachable,
            since: Duration::ZERO,
            latest: Duration::ZERO,
            degraded: None,
        })
    }

    #[test]
    fn a_held_pod_names_the_command_that_replaces_it() {
        assert!(
            held(&shop(None), REACHABLE).to_string().contains("after: kubectl delete pod web-0 --namespace shop (")
        );
        assert!(held(&shop(None), REACHABLE).to_string().contains("owner: linkerd-gate recreate pod/web-0 -n shop;"));
    }

    #[test]
    fn a_value_that_linkerd_does_not_take_is_pointed_out() {
        assert!(
            held(&shop(Some("Enabled")), REACHABLE)
                .to_string()
                .contains("does not accept linkerd.io/inject: \"Enabled\"")
        );
        assert!(!held(&shop(Some("ingress")), REACHABLE).to_string().contains("does not accept"));
        assert!(
            gave_up(&shop(Some("Enabled")), PodClass::Missed, &open_gate(), Duration::ZERO)
                .to_string()
                .contains("does not accept")
        );
    }
}
