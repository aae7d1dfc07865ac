//! One pod, explained.

use std::io::{self, Write};

use k8s_openapi::api::core::v1::{Namespace, Pod, VolumeMount};
use serde::Serialize;

use super::entry::{Entry, Found, Remark};
use super::finding::Finding;
use super::read::Place;
use super::sentences::{Facts, Warning};
use super::subject::Subject;
use super::{CLUSTER, plain};
use crate::linkerd::injection::injection;
use crate::linkerd::mesh_state::{meshing, missed, started};
use crate::linkerd::{Meshing, Started, Surroundings, TokenProjection, WebhookView, names, patch_problems, refusals};

/// The version of what `-o json` prints: it grows when a field is renamed, goes away, or means something else. Fields that
/// are added do not change it.
pub const VERSION: u32 = 1;

/// What there is to say about one pod, or about the pods that one template makes.
///
/// As JSON this is an interface to other programs, described in `docs/explain.md`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "programs read them one by one, and each may be true with any other")]
pub struct Explanation {
    /// [`VERSION`].
    pub version: u32,

    /// `inject`, `skip`, `not-called`; `conditional` where match conditions decide; `patch-fails` where the injector's patch
    /// would be no JSON, and `refused` where the injector would refuse the pod.
    pub decision: &'static str,

    /// Why not, by keys: Linkerd's own for `skip`; `not_installed`, `rules`, `namespace_selector`, `object_selector` for
    /// `not-called`; `match_conditions` for `conditional`; `patch_is_no_json`, `injector_refuses`; none for `inject`.
    pub reasons: Vec<&'static str>,

    /// Whether the pod carries a proxy that Linkerd injected.
    pub meshed: bool,

    /// Whether the pod, as it stands here, asks and is not meshed. Never true of a template.
    pub missed: bool,

    /// Whether the pod exists, is missed, and none of its containers has ever started.
    pub held: bool,

    /// Whether the pod's linkerd-gate entry never lets it start, nor the one in its place, since neither would be injected:
    /// to `wait` the entry is the ask. As far as the entry's variables are told here.
    pub never_starts: bool,

    /// The kind of the object.
    pub kind: String,

    /// Its name.
    pub name: String,

    /// The namespace that was assumed or found for it.
    pub namespace: String,

    /// Where in the object the pod's template is; nothing where it is a pod itself.
    pub template: Option<String>,

    /// Where it stood.
    pub source: Source,

    /// What `--fail-on` can ask for.
    pub findings: Vec<Finding>,

    /// The decision's reasons in sentences.
    pub because: Vec<String>,

    /// The entry of `linkerd-gate wait`.
    pub wait: Entry,

    /// What is likely to surprise.
    pub warnings: Vec<String>,

    /// A key for each of the warnings, in their order.
    pub warning_keys: Vec<&'static str>,

    /// What was assumed because it is not known.
    pub assumptions: Vec<String>,

    /// What to do, if anything.
    pub next: Vec<String>,

    #[serde(skip)]
    mesh: String,

    /// Whether where the template is goes without saying.
    #[serde(skip)]
    usual: bool,
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
    pub(super) surroundings: Surroundings<'a>,
    pub(super) projection: TokenProjection,
    pub(super) assumptions: Vec<String>,
}

impl Explanation {
    /// Explains one subject in its setting.
    pub(super) fn new(subject: &Subject, setting: Setting<'_>) -> Self {
        let Setting { namespace, webhooks, surroundings, projection, mut assumptions } = setting;
        let mut pod = subject.pod.pod();
        let exists = subject.exists(&pod);
        if projection == TokenProjection::Disabled && !exists {
            mount_token(&mut pod, &mut assumptions);
        }
        let decision = injection(&pod, namespace, webhooks, projection);
        let meshing = meshing(&pod);
        let missed = subject.template.is_none() && missed(&pod, namespace, webhooks, projection);
        let held = exists && missed && started(&pod) == Started::Never;
        let Found { entry: wait, effect } = Found::new(&pod, &subject.maker, &subject.limits);
        let namespace_name = namespace.metadata.name.clone().unwrap_or_default();
        let facts = Facts {
            subject,
            pod: &pod,
            namespace,
            namespace_name: &namespace_name,
            webhooks,
            meshing,
            wait: &wait,
            effect,
            // Of a pod that is meshed they are history.
            problems: if meshing == Meshing::Meshed {
                vec![]
            } else {
                patch_problems(&pod.metadata, &namespace.metadata)
            },
            refusals: if meshing == Meshing::Meshed {
                vec![]
            } else {
                refusals(&pod, &namespace.metadata, surroundings)
            },
        };

        let (word, reasons, because) = facts.decision(&decision);
        let never_starts = facts.never_starts(&decision);
        let next = facts.next(&decision);
        let warnings = facts.warnings(&decision);
        let findings = facts.findings(&decision, &warnings);
        let mesh = facts.mesh();
        let Place { file, document, line } = subject.place.clone();
        let (warning_keys, warnings) = warnings.into_iter().map(|Warning { key, text }| (key, text)).unzip();
        Self {
            version: VERSION,
            decision: word,
            reasons,
            meshed: meshing == Meshing::Meshed,
            missed,
            held,
            never_starts,
            kind: subject.kind.clone(),
            name: subject.name.clone(),
            namespace: namespace_name.clone(),
            template: subject.template.clone(),
            source: Source { file, document, line },
            findings,
            because,
            warnings,
            warning_keys,
            assumptions,
            next,
            mesh,
            usual: matches!(
                subject.template.as_deref(),
                None | Some("template" | "spec.template" | "spec.jobTemplate.spec.template")
            ),
            wait,
        }
    }

    /// Writes it for a person. Names and values are whatever stands in the input: none of it may pass for a line of ours.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { kind, name, namespace, source, .. } = self;
        let file = if source.file == "-" { "standard input" } else { &source.file };
        let (document, line) = (source.document, source.line);
        let place =
            if file == CLUSTER { String::new() } else { format!(" ({file}, document {document}, line {line})") };
        writeln!(out, "{}", plain(&format!("{kind} {namespace}/{name}{place}")))?;

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
        let template = self.template.iter().filter(|_| !self.usual).cloned().collect();

        for (label, lines) in [
            ("template", &template),
            ("decision", &decision),
            ("meshed", &vec![self.mesh.clone()]),
            ("wait", &entry),
            ("warning", &self.warnings),
            ("assumed", &self.assumptions),
            ("next", &self.next),
        ] {
            for (place, line) in lines.iter().enumerate() {
                let label = if place == 0 { label } else { "" };
                writeln!(out, "  {label:<9} {}", plain(line))?;
            }
        }
        Ok(())
    }
}

/// The API server mounts a token before any webhook is called: so the injector is sent the pod.
fn mount_token(pod: &mut Pod, assumptions: &mut Vec<String>) {
    let first = pod
        .spec
        .as_mut()
        .filter(|spec| spec.automount_service_account_token != Some(false))
        .and_then(|spec| spec.containers.first_mut());
    let Some(container) = first else { return };
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().all(|mount| mount.mount_path != names::path::SERVICE_ACCOUNT) {
        mounts.push(VolumeMount { mount_path: names::path::SERVICE_ACCOUNT.to_owned(), ..VolumeMount::default() });
        assumptions.push("the API server mounts a token: its service account does not say otherwise".to_owned());
    }
}
