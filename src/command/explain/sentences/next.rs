//! What to do.

use super::{Facts, is_unrendered};
use crate::command::explain::entry::Entry;
use crate::command::explain::gated;
use crate::command::explain::subject::Maker;
use crate::command::explain::template::Removed;
use crate::command::explain::variables::{Effect, HOST_IP, POD_IP};
use crate::decide::hold;
use crate::linkerd::mesh_state::started;
use crate::linkerd::{Injection, Meshing, NotCalled, PatchOutcome, PatchProblem, Refusal, SkipReason, Started, names};

impl Facts<'_> {
    pub(in super::super) fn next(&self, decision: &Injection) -> Vec<String> {
        if self.meshing == Meshing::Meshed {
            return vec!["nothing: it is in the mesh".to_owned()];
        }
        if matches!(&self.subject.maker, Maker::Other(kind) if kind == "Node") && self.exists() {
            return vec![
                "nothing: kubelet makes this static pod of a file on its node, and no webhook changes what runs there; \
                 to have it in the mesh, make it a DaemonSet"
                    .to_owned(),
            ];
        }
        if let Some(Removed { instead, .. }) = &self.subject.removed {
            return vec![format!("write apiVersion: {instead}, and explain it again")];
        }
        if self.is_unrendered() {
            return vec!["render it first: helm template CHART | linkerd-gate explain -f -".to_owned()];
        }
        // Of a patch that fails no controller makes a good one.
        if self.problems.is_empty()
            && let Some(next) = gated::next(self.subject, self.pod, self.namespace_name, decision)
        {
            return next;
        }
        let mut next = match decision {
            Injection::Inject(_) if !self.problems.is_empty() => self.next_broken_patch(decision),
            Injection::Inject(_) if self.exists() => self.next_missed(),
            Injection::Inject(_) => self.next_inject(),
            Injection::Conditional(_) => vec![
                "ask the API server: kubectl create --dry-run=server -o yaml -f FILE, and look for a container linkerd-proxy"
                    .to_owned(),
            ],
            Injection::Skip(_) | Injection::NotCalled(_) => self.next_left_out(decision),
        };
        if matches!(self.wait, Entry::Wrong { .. }) {
            next.push("mend the linkerd-gate entry: see above".to_owned());
        }
        next
    }

    /// Whether the entry keeps this pod, and each in its place, from ever starting.
    pub(in super::super) fn never_starts(&self, decision: &Injection) -> bool {
        let left_out = matches!(decision, Injection::Skip(_) | Injection::NotCalled(_))
            || (decision.is_inject() && !self.problems.is_empty());
        let waits = match self.effect {
            // Where there is no Linkerd, it never becomes ready either.
            Some(Effect::Opens) => {
                *decision == Injection::NotCalled(NotCalled::NotInstalled) && self.meshing != Meshing::ForgedLabel
            }
            Some(effect) => effect.holds(),
            None => false,
        };
        left_out && waits && self.meshing != Meshing::Meshed && !self.is_past()
    }

    /// Whether the pod is past its start, whatever its entry says: it has started, or it is going away.
    fn is_past(&self) -> bool {
        self.exists() && (started(self.pod) == Started::Ever || self.pod.metadata.deletion_timestamp.is_some())
    }

    /// What to do about a pod that Linkerd leaves alone: what its entry makes of that goes first.
    fn next_left_out(&self, decision: &Injection) -> Vec<String> {
        let never_starts = self.never_starts(decision);
        let installed = *decision != Injection::NotCalled(NotCalled::NotInstalled);
        let mut next = Vec::new();
        match self.effect.filter(|_| !self.is_past() && self.meshing != Meshing::ForgedLabel) {
            Some(_) if never_starts && !installed => {
                next.push("its linkerd-gate entry holds it for ever, as long as Linkerd is not installed".to_owned());
            }
            Some(Effect::Holds | Effect::GivesUpAfter(_)) => next.push(
                "its linkerd-gate entry holds it for ever, because Linkerd would not inject the next one either: \
                 remove the entry if it is not meant to be meshed, else:"
                    .to_owned(),
            ),
            Some(Effect::Exits | Effect::Replaces) => next.push(
                "its linkerd-gate entry ends it and never lets one in its place start, because Linkerd would not inject \
                 that either: remove the entry if it is not meant to be meshed, else:"
                    .to_owned(),
            ),
            Some(Effect::OpensAfter(timeout)) => next.push(format!(
                "its linkerd-gate entry holds it for {}, and then lets it start outside the mesh",
                humantime::format_duration(timeout)
            )),
            Some(Effect::Opens) => next.push(
                "its linkerd-gate entry waits until Linkerd is ready, and then lets it start outside the mesh".to_owned(),
            ),
            None => {}
        }
        // Where the pod never starts, doing nothing is no choice.
        let tell =
            |meant: &str, what: String| if never_starts { what } else { format!("nothing, if {meant}; else {what}") };
        match decision {
            // Where one reason is final, mending the others leads nowhere.
            Injection::Skip(reasons) if reasons.contains(&SkipReason::HostNetwork) => {
                next.push(self.next_skip(SkipReason::HostNetwork, &tell));
            }
            Injection::Skip(reasons) => next.extend(reasons.iter().map(|reason| self.next_skip(*reason, &tell))),
            Injection::NotCalled(NotCalled::NotInstalled) if never_starts => {
                next.push("install Linkerd, or remove the entry".to_owned());
            }
            Injection::NotCalled(NotCalled::NotInstalled) => {
                next.push("nothing, if Linkerd is not meant to be there; else: linkerd check".to_owned());
            }
            Injection::NotCalled(NotCalled::Excluded(_)) => {
                let what = "change the labels, or move it to another namespace".to_owned();
                next.push(tell("it is meant to be left out", what));
            }
            Injection::Inject(_) | Injection::Conditional(_) => {}
        }
        next
    }

    fn next_missed(&self) -> Vec<String> {
        let (name, namespace) = (&self.subject.name, self.namespace_name);
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return vec!["nothing: it was missed, and has finished".to_owned()];
        }
        if self.pod.metadata.deletion_timestamp.is_some() {
            return vec!["nothing: it was missed, and is being deleted".to_owned()];
        }
        let started = started(self.pod);
        let what = match started {
            Started::Never => "it was missed, and nothing in it has started",
            Started::Unknown => "it was missed, and its node has not told whether anything in it has started",
            Started::Ever => "it was missed, and runs outside the mesh",
        };
        let delete = format!("once the injector answers, kubectl -n {namespace} delete pod {name}");
        let mut next = Vec::new();
        if started != Started::Ever && matches!(self.wait, Entry::Ok { holds: true, .. }) {
            next.extend(match (self.effect, &self.subject.maker) {
                (Some(Effect::Exits), Maker::Job(_) | Maker::JobElsewhere) => Some(
                    "it was missed, and its linkerd-gate entry ends it with exit code 75 once Linkerd is ready: \
                     its Job makes another, where its podFailurePolicy ignores 75"
                        .to_owned(),
                ),
                (Some(Effect::Replaces), maker) if maker.is_known() => Some(
                    "it was missed, and its linkerd-gate entry deletes it once Linkerd injects again, \
                     so that its owner makes another: nothing to do"
                        .to_owned(),
                ),
                _ => None,
            });
            if !next.is_empty() {
                return next;
            }
        }
        next.push(match &self.subject.maker {
            Maker::Other(kind) if self.subject.maker.is_known() => format!("{what}; {delete}: its {kind} creates it again"),
            Maker::Other(kind) => format!(
                "{what}; whether its {kind} creates it again is not known: of an Argo Workflow a deleted pod is a step that \
                 failed. Once the injector answers, run it again by the means of its {kind}"
            ),
            Maker::Job(_) | Maker::JobElsewhere => format!(
                "{what}; {delete}: its Job creates it again, but counts the deletion against backoffLimit, and fails \
                 where that is used up: raise it first, or create the Job again"
            ),
            Maker::NoOwner => format!(
                "{what}; no controller owns it, so it is not created again: once the injector answers, delete it and \
                 apply its manifest again"
            ),
        });
        next
    }

    fn next_inject(&self) -> Vec<String> {
        let certain: Vec<_> = self.refusals.iter().filter(|refusal| refusal.is_certain()).collect();
        if !certain.is_empty() {
            return certain.into_iter().map(|refusal| self.remedy(refusal)).collect();
        }
        if self.meshing == Meshing::ForgedLabel {
            let label = names::label::CONTROL_PLANE_NS;
            return vec![format!(
                "remove the label {label}: as long as it is there, no linkerd-gate entry holds a pod of it"
            )];
        }
        let what = "apply it; created while the injector cannot be reached, a pod of it has no proxy,";
        let mut next = vec![match self.wait {
            Entry::Missing => {
                format!("{what} and runs outside the mesh: an init container linkerd-gate, args: [wait], would hold it")
            }
            Entry::Ok { holds: true, .. } => match self.effect {
                Some(Effect::Exits) => format!(
                    "{what} and its linkerd-gate entry holds it until Linkerd is ready, then ends it with exit code 75 for \
                     its Job to make another"
                ),
                Some(Effect::Replaces) => format!(
                    "{what} and its linkerd-gate entry holds it until Linkerd injects again, then deletes it for its owner \
                     to make another"
                ),
                Some(Effect::GivesUpAfter(timeout)) => format!(
                    "{what} and its linkerd-gate entry holds it for {}, then ends with exit code 69 and begins again where \
                     restartPolicy restarts it, else the pod fails",
                    humantime::format_duration(timeout)
                ),
                _ => format!("{what} and its linkerd-gate entry holds it"),
            },
            Entry::Ok { holds: false, .. } => match self.effect {
                Some(Effect::OpensAfter(timeout)) => {
                    let timeout = humantime::format_duration(timeout);
                    format!("{what} and starts outside the mesh after {timeout}, which its linkerd-gate entry allows")
                }
                Some(Effect::Opens) => {
                    format!(
                        "{what} and starts outside the mesh once Linkerd is ready, which its linkerd-gate entry allows"
                    )
                }
                _ => {
                    format!(
                        "{what} and its linkerd-gate entry holds it only if no variable that is not told here says otherwise"
                    )
                }
            },
            Entry::Wrong { .. } => format!("{what} and its linkerd-gate entry cannot be relied on to hold it"),
        }];
        next.extend(self.refusals.iter().map(|refusal| self.remedy(refusal)));
        next
    }

    /// What to do about an annotation that breaks the injector's patch.
    fn next_broken_patch(&self, decision: &Injection) -> Vec<String> {
        let mut next = Vec::new();
        if self.exists() && hold::is_gated(self.pod) {
            next.push(format!(
                "the scheduling gate {} holds it: the next one would not be injected either",
                hold::GATE
            ));
        } else if self.exists() && !self.is_past() && self.never_starts(decision) {
            next.push("its linkerd-gate entry holds it for ever: the next one would not be injected either".to_owned());
        }
        for problem in &self.problems {
            let PatchProblem { key, of_namespace, outcome, .. } = problem;
            let annotations = format!("{}.annotations", self.pods_metadata());
            let namespace = self.namespace_name;
            next.push(match (outcome, of_namespace) {
                (PatchOutcome::Refused, true) => {
                    format!("kubectl annotate --overwrite namespace {namespace} {key}=off (or insecure)")
                }
                (PatchOutcome::Refused, false) => format!("set {key} in {annotations} to off or insecure"),
                (PatchOutcome::NoJson, true) if key.ends_with("proxy-additional-env") => format!(
                    "kubectl annotate namespace {namespace} {key}- and set it in {annotations} instead: \
                     on a pod it works, on a namespace it cannot"
                ),
                (PatchOutcome::NoJson, true) => format!(
                    "kubectl annotate namespace {namespace} {key}- or write its value without quotes, backslashes and line \
                     feeds; or set it in {annotations} instead"
                ),
                (PatchOutcome::NoJson, false) => {
                    format!("write {key} in {annotations} without quotes, backslashes and line feeds")
                }
            });
        }
        next
    }

    fn remedy(&self, refusal: &Refusal) -> String {
        match refusal {
            Refusal::Windows | Refusal::WindowsNodes => {
                let key = names::annotation::INJECT;
                format!("set {key}: {} in {}.annotations", names::inject::DISABLED, self.pods_metadata())
            }
            other => other.remedy(),
        }
    }

    /// Whether what decides stands there as a template has it.
    fn is_unrendered(&self) -> bool {
        [self.pod_says(), self.namespace_says(), self.subject.namespace.as_deref().unwrap_or_default()]
            .into_iter()
            .any(is_unrendered)
    }

    fn next_skip(&self, reason: SkipReason, tell: &impl Fn(&str, String) -> String) -> String {
        const MEANT: &str = "it is not meant to be meshed";
        let key = names::annotation::INJECT;
        let (namespace, annotations) = (self.namespace_name, format!("{}.annotations", self.pods_metadata()));
        match reason {
            SkipReason::HostNetwork if self.effect.is_some_and(Effect::holds) => format!(
                "a pod in its host's network cannot be meshed: with {POD_IP} and {HOST_IP} the entry would only wait \
                 until Linkerd is ready"
            ),
            SkipReason::HostNetwork => {
                "nothing: a pod in its host's network cannot be meshed, since the redirection would be its host's"
                    .to_owned()
            }
            SkipReason::SidecarExists => {
                "rename the container, or take its image from elsewhere, if it is no sidecar".to_owned()
            }
            SkipReason::UnsupportedResource => "nothing: there is no pod to inject".to_owned(),
            SkipReason::EnableAnnotationAbsent => {
                let what = format!(
                    "set {key}: enabled in {annotations}, \
                     or for all pods created from then on: kubectl annotate namespace {namespace} {key}=enabled"
                );
                tell(MEANT, what)
            }
            SkipReason::DisableAnnotationPresent => tell(MEANT, format!("remove {key} from {annotations}")),
            SkipReason::InvalidAnnotationAtWorkload => {
                format!("set {key} in {annotations} to enabled, ingress or disabled, or remove it")
            }
            SkipReason::InvalidAnnotationAtNamespace => {
                format!("kubectl annotate --overwrite namespace {namespace} {key}=enabled (or ingress, or disabled)")
            }
            SkipReason::NoServiceAccountToken => "let the pod have its token (automountServiceAccountToken), \
                 or install Linkerd with identity.serviceAccountTokenProjection"
                .to_owned(),
        }
    }
}
