//! One pod, explained.

use super::{
    document::Place,
    entry::{Entry, Found, Remark},
    gated,
    object::{Maker, Subject},
    variables::{Effect, HOST_IP, POD_IP},
};
use crate::linkerd::{
    AskedBy, Injection, Meshing, NotCalled, SkipReason, Started, TokenProjection, WebhookView,
    injection::{self, inject_annotation, injection},
    meshing::{meshing, missed, started},
    names,
};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, VolumeMount};
use serde::Serialize;
use std::io::{self, Write};

/// What there is to say about one pod, or about the pods that one workload makes.
///
/// As JSON this is an interface to other programs: fields are added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "programs read them one by one, and each may be true with any other")]
pub struct Explanation {
    /// `inject`, `skip`, `not-called`, or `conditional` where match conditions decide.
    pub decision: &'static str,

    /// Why not, by keys: Linkerd's own for `skip`; `not_installed`, `rules`, `namespace_selector`, `object_selector` for
    /// `not-called`; `match_conditions` for `conditional`; none for `inject`.
    pub reasons: Vec<&'static str>,

    /// Whether the pod carries a proxy that Linkerd injected.
    pub meshed: bool,

    /// Whether the pod, as it stands here, asks and is not meshed. A template always stands here before injection.
    pub missed: bool,

    /// Whether the pod exists, is missed, and none of its containers has ever started.
    pub held: bool,

    /// Whether the pod's linkerd-gate entry never lets it start, nor the one in its place, since Linkerd would inject neither:
    /// to `wait` the entry is the ask. As far as the entry's variables are told here.
    pub never_starts: bool,

    /// The kind of the object.
    pub kind: String,

    /// Its name.
    pub name: String,

    /// The namespace that was assumed or found for it.
    pub namespace: String,

    /// Where it stood.
    pub source: Source,

    /// The decision's reasons in sentences.
    pub because: Vec<String>,

    /// The entry of `linkerd-gate wait`.
    pub wait: Entry,

    /// What is likely to surprise.
    pub warnings: Vec<String>,

    /// What was assumed for want of better knowledge.
    pub assumptions: Vec<String>,

    /// What to do, if anything.
    pub next: Vec<String>,

    #[serde(skip)]
    mesh: String,
}

/// Where an object stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The file as it was given: `-` is the standard input.
    pub file: String,
    /// From 1, counting the documents of the file that are not empty.
    pub document: usize,
    /// From 1, in the file.
    pub line: usize,
}

/// What a pod is judged by besides itself.
pub(super) struct Setting<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) webhooks: &'a WebhookView,
    pub(super) projection: TokenProjection,
    pub(super) assumptions: Vec<String>,
}

impl Explanation {
    /// Explains one subject in its setting.
    pub(super) fn new(subject: &Subject, setting: Setting<'_>) -> Self {
        let Setting { namespace, webhooks, projection, mut assumptions } = setting;
        let pod = as_sent(subject, projection, &mut assumptions);
        let pod = pod.as_ref();
        let decision = injection(pod, namespace, webhooks, projection);
        let meshing = meshing(pod);
        let missed = missed(pod, namespace, webhooks, projection);
        let held = subject.exists() && missed && started(pod) == Started::Never;
        let Found { entry: wait, effect } = Found::new(pod, &subject.maker);
        let namespace_name = namespace.metadata.name.clone().unwrap_or_default();
        let told = Told { subject, pod, namespace, namespace_name: &namespace_name, meshing, wait: &wait, effect };

        let (word, reasons, because) = told.decision(&decision);
        let never_starts = told.never_starts(&decision);
        let next = told.next(&decision);
        let warnings = told.warnings(&decision);
        let mesh = told.mesh();
        let Place { file, document, line } = subject.place.clone();
        Self {
            decision: word,
            reasons,
            meshed: meshing == Meshing::Meshed,
            missed,
            held,
            never_starts,
            kind: subject.kind.clone(),
            name: subject.name.clone(),
            namespace: namespace_name,
            source: Source { file, document, line },
            because,
            wait,
            warnings,
            assumptions,
            next,
            mesh,
        }
    }

    /// Writes it for a person.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { kind, name, namespace, source, .. } = self;
        let file = if source.file == "-" { "standard input" } else { &source.file };
        writeln!(out, "{kind} {namespace}/{name} ({file}, document {}, line {})", source.document, source.line)?;

        let mut decision = vec![self.decision.to_owned()];
        decision.extend(self.because.iter().cloned());
        let (wait, remarks) = match &self.wait {
            Entry::Missing => ("no linkerd-gate entry among its init containers".to_owned(), None),
            Entry::Ok { container, holds: true, remarks } => {
                (format!("init container {container}, as it should be"), Some(remarks))
            }
            Entry::Ok { container, holds: false, remarks } => {
                (format!("init container {container}, by which a missed pod may start all the same"), Some(remarks))
            }
            Entry::Wrong { container, remarks } => {
                (format!("container {container} does not do what it is for"), Some(remarks))
            }
        };
        let mut entry = vec![wait];
        entry.extend(remarks.into_iter().flatten().map(|Remark { text, .. }| text.clone()));

        for (label, lines) in [
            ("decision", &decision),
            ("meshed", &vec![self.mesh.clone()]),
            ("wait", &entry),
            ("warning", &self.warnings),
            ("assumed", &self.assumptions),
            ("next", &self.next),
        ] {
            for (place, line) in lines.iter().enumerate() {
                let label = if place == 0 { label } else { "" };
                writeln!(out, "  {label:<9} {line}")?;
            }
        }
        Ok(())
    }
}

/// The pod as the injector is sent it: with the token that the API server mounts before any webhook is called.
fn as_sent<'a>(
    subject: &'a Subject,
    projection: TokenProjection,
    assumptions: &mut Vec<String>,
) -> std::borrow::Cow<'a, Pod> {
    use std::borrow::Cow;
    if projection == TokenProjection::Enabled || subject.exists() {
        return Cow::Borrowed(&subject.pod);
    }
    let mut pod = subject.pod.clone();
    let first = pod
        .spec
        .as_mut()
        .filter(|spec| spec.automount_service_account_token != Some(false))
        .and_then(|spec| spec.containers.first_mut());
    if let Some(container) = first {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().all(|mount| mount.mount_path != names::path::SERVICE_ACCOUNT) {
            mounts.push(VolumeMount { mount_path: names::path::SERVICE_ACCOUNT.to_owned(), ..VolumeMount::default() });
            assumptions.push("the API server mounts a token: its service account does not say otherwise".to_owned());
        }
    }
    Cow::Owned(pod)
}

/// Why an API server refuses a pod that the injector patched (*measured*).
#[derive(Clone, Copy)]
enum Refusal {
    /// Two of its containers have one name.
    SameName,

    /// It is for Windows, and Linkerd's containers are not.
    Windows,
}

/// What sentences are made of.
struct Told<'a> {
    subject: &'a Subject,
    pod: &'a Pod,
    namespace: &'a Namespace,
    namespace_name: &'a str,
    meshing: Meshing,
    wait: &'a Entry,
    effect: Option<Effect>,
}

impl Told<'_> {
    fn pod_says(&self) -> &str {
        inject_annotation(&self.pod.metadata)
    }

    fn namespace_says(&self) -> &str {
        inject_annotation(&self.namespace.metadata)
    }

    /// What a person calls the thing that carries the pod's annotations.
    fn pods_metadata(&self) -> String {
        match self.subject.template {
            Some(template) => format!("{template}.metadata"),
            None => "metadata".to_owned(),
        }
    }

    /// The decision's word, its reasons' keys, and sentences.
    fn decision(&self, decision: &Injection) -> (&'static str, Vec<&'static str>, Vec<String>) {
        match decision {
            Injection::Inject(asked_by) => ("inject", vec![], vec![self.asked(*asked_by)]),
            Injection::Conditional(conditions) => {
                let because = conditions.iter().map(|condition| {
                    let names = condition.names.join(", ");
                    format!(
                        "webhook {} is called only if its match conditions hold: {names}; only the API server can tell",
                        condition.webhook
                    )
                });
                ("conditional", vec!["match_conditions"], because.collect())
            }
            Injection::Skip(reasons) => {
                let because = reasons.iter().map(|reason| match self.detail(*reason) {
                    Some(detail) => format!("{reason}: {detail}"),
                    None => reason.to_string(),
                });
                ("skip", reasons.iter().map(|reason| reason.key()).collect(), because.collect())
            }
            Injection::NotCalled(why) => {
                let because = match why {
                    NotCalled::NotInstalled => vec![why.to_string()],
                    NotCalled::Excluded(excluded) => excluded
                        .iter()
                        .flat_map(|excluded| {
                            excluded.by.iter().map(|by| format!("webhook {} leaves it out: {by}", excluded.webhook))
                        })
                        .collect(),
                };
                ("not-called", why.keys(), because)
            }
        }
    }

    fn asked(&self, asked_by: AskedBy) -> String {
        let key = names::annotation::INJECT;
        match asked_by {
            AskedBy::Pod => format!("the pod's annotation {key} says {}", self.pod_says()),
            AskedBy::Namespace => {
                format!(
                    "the namespace's annotation {key} says {}, and the pod has none of its own",
                    self.namespace_says()
                )
            }
        }
    }

    /// What Linkerd's sentence leaves open.
    fn detail(&self, reason: SkipReason) -> Option<String> {
        match reason {
            SkipReason::SidecarExists => Some(self.sidecars().join(", ")),
            SkipReason::InvalidAnnotationAtWorkload => Some(invalid(self.pod_says())),
            SkipReason::InvalidAnnotationAtNamespace => {
                Some(format!("{}; the pod's own annotation is not even read", invalid(self.namespace_says())))
            }
            SkipReason::EnableAnnotationAbsent
            | SkipReason::DisableAnnotationPresent
            | SkipReason::HostNetwork
            | SkipReason::UnsupportedResource
            | SkipReason::NoServiceAccountToken => None,
        }
    }

    /// The containers for which the injector leaves the pod alone.
    fn sidecars(&self) -> Vec<String> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let tell = |what: &str, container: &Container| {
            let image = container.image.as_deref().unwrap_or("(no image)");
            format!("{what} {} ({image})", container.name)
        };
        let init = spec.init_containers.iter().flatten();
        let init = init.filter(|container| injection::is_sidecar(container) || injection::is_sidecar_init(container));
        let regular = spec.containers.iter().filter(|container| injection::is_sidecar(container));
        init.map(|container| tell("init container", container))
            .chain(regular.map(|container| tell("container", container)))
            .collect()
    }

    fn mesh(&self) -> String {
        let label = names::label::CONTROL_PLANE_NS;
        let proxy = names::container::PROXY;
        match self.meshing {
            Meshing::Meshed => {
                let control_plane = self.pod.metadata.labels.as_ref().and_then(|labels| labels.get(label));
                format!("yes, by the control plane in namespace {}", control_plane.map_or("?", String::as_str))
            }
            Meshing::ForgedLabel => format!(
                "no: somebody wrote the label {label} by hand, but there is no container {proxy}; \
                 the label does not stop the injector, but linkerd-gate wait believes it"
            ),
            Meshing::ForeignProxy => format!(
                "no: somebody put a container {proxy} there by hand, without the label {label}; \
                 for its name the injector leaves the pod alone"
            ),
            Meshing::Bare if self.subject.template.is_some() => "not yet: this is a template".to_owned(),
            Meshing::Bare => "no".to_owned(),
        }
    }

    fn warnings(&self, decision: &Injection) -> Vec<String> {
        let mut warnings = Vec::new();
        let asked = matches!(decision, Injection::Inject(_) | Injection::Conditional(_));
        if let Some(value) = &self.subject.unread_annotation {
            warnings.push(format!(
                "{} says {} on the {} itself, where nobody reads it: it belongs into {}.annotations",
                names::annotation::INJECT,
                value,
                self.subject.kind,
                self.pods_metadata()
            ));
        }
        for field in &self.subject.unknown_fields {
            let within = self.subject.template.map_or_else(String::new, |template| format!("{template}."));
            warnings.push(format!("Kubernetes knows no field {within}{field}: it is not read"));
        }
        let labels = self.pod.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.contains_key(names::annotation::INJECT)) {
            warnings
                .push(format!("{} is a label of the pod: only as an annotation it is read", names::annotation::INJECT));
        }
        let labels = self.namespace.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.contains_key(names::annotation::INJECT)) {
            let key = names::annotation::INJECT;
            warnings.push(format!("{key} is a label of the namespace: only as an annotation it is read"));
        }
        match self.refusal().filter(|_| asked) {
            Some(Refusal::SameName) => warnings.push(format!(
                "a regular container is called {}, as the one is that Linkerd adds: \
                 the injector patches the pod, and the API server then refuses it",
                names::container::INIT
            )),
            Some(Refusal::Windows) => warnings.push(
                "this is a pod for Windows: the injector patches it, and the API server then refuses it".to_owned(),
            ),
            None => {}
        }
        warnings
    }

    fn next(&self, decision: &Injection) -> Vec<String> {
        if self.meshing == Meshing::Meshed {
            return vec!["nothing: it is in the mesh".to_owned()];
        }
        if let Some(next) = gated::next(self.subject, self.namespace_name, decision) {
            return next;
        }
        let mut next = match decision {
            Injection::Inject(_) if self.subject.exists() => self.next_missed(),
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
    fn never_starts(&self, decision: &Injection) -> bool {
        let left_out = matches!(decision, Injection::Skip(_) | Injection::NotCalled(_));
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
        self.subject.exists() && (started(self.pod) == Started::Ever || self.pod.metadata.deletion_timestamp.is_some())
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
            Some(Effect::Holds) => next.push(
                "its linkerd-gate entry holds it for ever, because Linkerd would not inject the next one either: \
                 remove the entry if it is not meant to be meshed, else:"
                    .to_owned(),
            ),
            Some(Effect::Ends) => next.push(
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
        let what = match started(self.pod) {
            Started::Never => "it was missed, and nothing in it has started",
            Started::Unknown => "it was missed, and its node has not told whether anything in it has started",
            Started::Ever => "it was missed, and runs outside the mesh",
        };
        let delete = format!("once the injector answers, kubectl -n {namespace} delete pod {name}");
        vec![match &self.subject.maker {
            Maker::Other(kind) => format!("{what}; {delete}: its {kind} creates it again"),
            Maker::Job(_) | Maker::JobElsewhere => format!(
                "{what}; {delete}: its Job creates it again, but counts the deletion against backoffLimit, and fails \
                 where that is used up: raise it first, or create the Job anew"
            ),
            Maker::Nobody => format!(
                "{what}; no controller owns it, so nobody creates it again: once the injector answers, delete it and \
                 apply its manifest anew"
            ),
        }]
    }

    fn next_inject(&self) -> Vec<String> {
        match self.refusal() {
            Some(Refusal::SameName) => return vec!["give that container another name".to_owned()],
            Some(Refusal::Windows) => {
                return vec![format!(
                    "set {}: disabled in {}.annotations",
                    names::annotation::INJECT,
                    self.pods_metadata()
                )];
            }
            None => {}
        }
        if self.meshing == Meshing::ForgedLabel {
            let label = names::label::CONTROL_PLANE_NS;
            return vec![format!(
                "remove the label {label}: as long as it is there, no linkerd-gate entry holds a pod of it"
            )];
        }
        let what = "apply it; created while the injector cannot be reached, a pod of it has no proxy,";
        vec![match self.wait {
            Entry::Missing => {
                format!("{what} and runs outside the mesh: an init container linkerd-gate, args: [wait], would hold it")
            }
            Entry::Ok { holds: true, .. } => format!("{what} and its linkerd-gate entry holds it"),
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
                Some(Effect::Holds | Effect::Ends) | None => {
                    format!(
                        "{what} and its linkerd-gate entry holds it only if no variable that is not told here says otherwise"
                    )
                }
            },
            Entry::Wrong { .. } => format!("{what} and its linkerd-gate entry cannot be relied on to hold it"),
        }]
    }

    /// Why the API server would refuse the pod after the injector's patch.
    fn refusal(&self) -> Option<Refusal> {
        let spec = self.pod.spec.as_ref()?;
        if spec.containers.iter().any(|container| container.name == names::container::INIT) {
            return Some(Refusal::SameName);
        }
        spec.os.as_ref().is_some_and(|os| os.name == "windows").then_some(Refusal::Windows)
    }

    fn next_skip(&self, reason: SkipReason, tell: &impl Fn(&str, String) -> String) -> String {
        const MEANT: &str = "it is not meant to be meshed";
        let key = names::annotation::INJECT;
        let (namespace, annotations) = (self.namespace_name, format!("{}.annotations", self.pods_metadata()));
        match reason {
            SkipReason::HostNetwork if matches!(self.effect, Some(Effect::Holds | Effect::Ends)) => format!(
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

fn invalid(value: &str) -> String {
    format!("it says {value:?}, and only enabled, ingress and disabled count, to the letter")
}
