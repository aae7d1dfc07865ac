//! All pods in one pass, so that ten thousand of them need no memory: who asks, who is meshed, who is missed, by owner and reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::jiff::Timestamp;

use super::clean::{clean, is_name};
use super::labels::{component, is_ours};
use super::unread::Unread;
use crate::decide::hold;
use crate::linkerd::injection::injection_of;
use crate::linkerd::mesh_state::{self, started};
use crate::linkerd::selector::Selector;
use crate::linkerd::{Meshing, NamespaceInput, PodInput, Started, TokenProjection, WebhookView, names, patch_problems};

/// What makes a pod, as a person restarts it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// `deployment`, `statefulset`, …, in lower case; `rollout.argoproj.io` where it is not of Kubernetes' own; `pod` where no
    /// controller owns it.
    pub kind: String,
    /// Its name, without control characters. The API server takes any text for the name of an owner.
    pub name: String,
}

/// Why a pod that asks is not meshed, as far as the pod and its namespace tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// An annotation breaks the injector's patch: its key, and whether it is the namespace's.
    Annotation(String, bool),
    /// It carries the label that says it is meshed, and no proxy: the label was copied.
    ForgedLabel,
    /// It was created before Linkerd's webhook was.
    BeforeLinkerd,
    /// A person let it start outside the mesh.
    Released,
    /// The injector did not answer when it was created, or its namespace has asked only since.
    NotAnswered,
}

/// The missed pods of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// So many pods of it are missed.
    pub missed: usize,
    /// In so many of those nothing has started.
    pub waiting: usize,
    /// So many of these are held: by our scheduling gate or an entry of `wait`.
    pub held: usize,
    /// So many of those are held by our scheduling gate.
    pub gated: usize,
    /// Why: usually one reason.
    pub why: BTreeSet<Why>,
    /// The names of those in which nothing has started.
    pub waiting_names: Vec<String>,
    /// The names of the others, where no workload can be restarted in their place.
    pub other_names: Vec<String>,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    webhooks: WebhookView,
    installed: Option<Timestamp>,
    projection: TokenProjection,
    namespaces: BTreeMap<String, (Namespace, NamespaceInput)>,
    /// Pods that are not over and not going away.
    pub pods: usize,
    /// Those that are meshed.
    pub meshed: usize,
    /// Owners with missed pods.
    pub rows: BTreeMap<Owner, Row>,
    /// Pods with Linkerd's label and without its proxy, as `pod/NAME -n NAMESPACE`, and their owners.
    pub forged: Vec<(String, Owner)>,
    /// Pods with their own annotation that breaks the injector's patch, its key, and their owners.
    pub broken: Vec<(String, String, Owner)>,
    /// How many proxies there are of each version.
    pub proxies: BTreeMap<String, usize>,
    /// Whose pods they are in.
    pub proxied: BTreeMap<String, BTreeSet<Owner>>,
    /// The labels of pods, in namespaces that were named before.
    labels: BTreeMap<String, BTreeSet<BTreeMap<String, String>>>,
    /// Owners of pods that ask, meshed or not, and have no entry of `wait`, with how many pods they have.
    pub unguarded: BTreeMap<Owner, usize>,
    /// Nodes with an agent that is ready.
    pub agents: BTreeSet<String>,
    /// Why these are not known; nothing where they are.
    pub agents_unread: Option<Unread>,
    /// The node of each pod of Linkerd's control plane, by part.
    pub control_plane: BTreeMap<String, Vec<String>>,
}

// === impl Survey ===

impl Survey {
    /// Nothing counted yet. `installed` is when the oldest of the webhooks was made.
    pub fn new(
        webhooks: WebhookView,
        installed: Option<Timestamp>,
        projection: TokenProjection,
        namespaces: &[Namespace],
    ) -> Self {
        let named = |namespace: &Namespace| {
            let name = namespace.metadata.name.clone()?;
            Some((name, (namespace.clone(), NamespaceInput::of(namespace))))
        };
        let namespaces = namespaces.iter().filter_map(named).collect();
        Self { webhooks, installed, projection, namespaces, ..Self::default() }
    }

    /// Pods that ask: those that are meshed, and those that are missed.
    pub fn asked(&self) -> usize {
        self.meshed + self.missed()
    }

    /// Pods that ask and are not meshed.
    pub fn missed(&self) -> usize {
        self.rows.values().map(|row| row.missed).sum()
    }

    /// Those of them that something holds.
    pub fn held(&self) -> usize {
        self.rows.values().map(|row| row.held).sum()
    }

    /// From here on keeps the labels of the pods of these namespaces.
    pub fn watch(&mut self, namespaces: impl IntoIterator<Item = String>) {
        self.labels.extend(namespaces.into_iter().map(|name| (name, BTreeSet::new())));
    }

    /// Whether a namespace has a pod that the selector takes. Where no pod of it is known, one without labels stands for them.
    pub fn has_pod(&self, namespace: &str, selector: &Selector) -> bool {
        match self.labels.get(namespace).filter(|known| !known.is_empty()) {
            Some(known) => known.iter().any(|labels| selector.matches(labels)),
            None => selector.matches(&BTreeMap::new()),
        }
    }

    /// Counts one pod.
    pub fn add(&mut self, pod: &Pod) {
        let metadata = &pod.metadata;
        let (name, namespace) =
            (metadata.name.as_deref().unwrap_or_default(), metadata.namespace.as_deref().unwrap_or_default());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) || metadata.deletion_timestamp.is_some() {
            return;
        }
        self.pods += 1;
        if let Some(known) = self.labels.get_mut(namespace) {
            known.insert(metadata.labels.clone().unwrap_or_default());
        }
        self.parts(pod);
        let shown = || format!("pod/{name} -n {namespace}");
        let meshing = mesh_state::meshing(pod);
        // What is the control plane's own has the label from Linkerd's chart, whether a proxy is in it or not.
        if meshing == Meshing::ForgedLabel && component(metadata.labels.as_ref()).is_none() {
            self.forged.push((shown(), Owner::of(pod)));
        }
        if meshing == Meshing::Meshed {
            self.meshed += 1;
            let annotations = metadata.annotations.as_ref();
            if let Some(version) = annotations.and_then(|all| all.get(names::annotation::PROXY_VERSION)) {
                *self.proxies.entry(version.clone()).or_default() += 1;
                self.proxied.entry(version.clone()).or_default().insert(Owner::of(pod));
            }
            if !waits(pod) {
                *self.unguarded.entry(Owner::of(pod)).or_default() += 1;
            }
            return;
        }
        let Some((namespace, input)) = self.namespaces.get(namespace) else { return };
        let injection = injection_of(&PodInput::of(pod), input, &self.webhooks, self.projection);
        if !injection.is_inject() {
            return;
        }
        let problem = patch_problems(metadata, &namespace.metadata).into_iter().next();
        if let Some(problem) = problem.as_ref().filter(|problem| !problem.of_namespace) {
            self.broken.push((shown(), problem.key.clone(), Owner::of(pod)));
        }
        let created = metadata.creation_timestamp.as_ref().map(|created| created.0);
        let why = match problem {
            Some(problem) => Why::Annotation(problem.key, problem.of_namespace),
            None if meshing == Meshing::ForgedLabel => Why::ForgedLabel,
            None if hold::is_released(pod) => Why::Released,
            None if created < self.installed && created.is_some() => Why::BeforeLinkerd,
            None => Why::NotAnswered,
        };
        let waiting = started(pod) == Started::Never;
        let owner = Owner::of(pod);
        let restarts = owner.restart().is_some();
        if !waits(pod) {
            *self.unguarded.entry(owner.clone()).or_default() += 1;
        }
        let row = self.rows.entry(owner).or_default();
        row.missed += 1;
        row.why.insert(why);
        if waiting {
            row.waiting += 1;
            row.held += usize::from(hold::is_gated(pod) || waits(pod));
            row.gated += usize::from(hold::is_gated(pod));
            row.waiting_names.push(name.to_owned());
        } else if !restarts {
            row.other_names.push(name.to_owned());
        }
    }

    /// Notes whether the pod is an agent of a node, or a part of the control plane, and counts it among none.
    pub fn parts(&mut self, pod: &Pod) {
        let labels = pod.metadata.labels.as_ref();
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { return };
        let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if ready && is_ours(labels, "agent") {
            self.agents.insert(node);
        } else if ready && let Some(component) = component(labels) {
            self.control_plane.entry(component.to_owned()).or_default().push(node);
        }
    }
}

/// Whether the pod has an entry of `wait` that holds it whatever admission does: one that never lets it start without a proxy.
fn waits(pod: &Pod) -> bool {
    hold::wait_of(pod).is_some_and(|wait| !hold::may_open(wait))
}

// === impl Owner ===

impl Owner {
    /// Of a pod, by its controller. A ReplicaSet of a Deployment stands for that: its name is the Deployment's and the value of
    /// the label `pod-template-hash` (k8s.io/kubernetes `pkg/controller/deployment/sync.go`).
    pub fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let mut owners = metadata.owner_references.iter().flatten();
        let Some(owner) = owners.find(|owner| owner.controller == Some(true)) else {
            return Self { namespace, kind: "pod".to_owned(), name: metadata.name.clone().unwrap_or_default() };
        };
        let own = matches!(
            (owner.api_version.as_str(), owner.kind.as_str()),
            ("apps/v1", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
                | ("batch/v1", "Job" | "CronJob")
                | ("v1", "ReplicationController" | "Node")
        );
        if own && owner.kind == "ReplicaSet" {
            let hash = metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
            let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
            if let Some(name) = deployment {
                return Self { namespace, kind: "deployment".to_owned(), name: clean(name) };
            }
        }
        let kind = owner.kind.to_lowercase();
        let kind =
            if own { kind } else { format!("{kind}.{}", owner.api_version.split('/').next().unwrap_or_default()) };
        Self { namespace, kind: clean(&kind), name: clean(&owner.name) }
    }

    /// Whether its names may stand in a command: `; rm -r` is no name, and can be what a pod says of its owner.
    fn is_named(&self) -> bool {
        is_name(&self.name) && is_name(&self.namespace)
    }

    /// As kubectl restarts it, `deployment/web`; nothing where that cannot be done.
    pub fn restartable(&self) -> Option<String> {
        let Self { kind, name, .. } = self;
        (matches!(kind.as_str(), "deployment" | "statefulset" | "daemonset") && self.is_named())
            .then(|| format!("{kind}/{name}"))
    }

    /// The command that has its pods created again, one after another; nothing where there is none.
    pub fn restart(&self) -> Option<String> {
        let Self { namespace, .. } = self;
        self.restartable().map(|what| format!("kubectl rollout restart {what} -n {namespace}"))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, kind, name } = self;
        write!(f, "{kind}/{name} -n {namespace}")
    }
}

// === impl Row ===

impl Row {
    /// The reasons, in words.
    pub fn reason(&self) -> String {
        let all: Vec<_> = self.why.iter().map(ToString::to_string).collect();
        all.join("; ")
    }

    /// Commands that have the missed pods of `owner` made again, each with how much it costs: 0 is nothing. Only what Kubernetes
    /// itself knows by such a name is in a command; for any other owner there is a shell's comment.
    pub fn commands(&self, owner: &Owner) -> Vec<(u8, String)> {
        const AT_ONCE: usize = 20;
        let namespace = &owner.namespace;
        let is_key = |key: &str| key.split('/').all(|part| is_name(&part.to_ascii_lowercase().replace('_', "-")));
        let mut commands = Vec::new();
        if let Some(Why::Annotation(key, of_namespace)) = self.why.iter().next() {
            commands.push((
                0,
                if *of_namespace && is_name(namespace) && is_key(key) {
                    format!("kubectl annotate namespace {namespace} {key}-   # it breaks Linkerd's patch")
                } else {
                    format!("# {owner}: take {} off its pods' template first: it breaks Linkerd's patch", clean(key))
                },
            ));
        }
        if owner.kind == "pod" {
            let name = &owner.name;
            commands.push((4, format!(
                "# pod/{name} -n {namespace} has no owner: linkerd-gate recreate pod/{name} -n {namespace} if it is held, else \
                 delete it and apply its manifest again"
            )));
            return commands;
        }
        let by_pod = matches!(owner.kind.as_str(), "replicaset" | "replicationcontroller") && owner.is_named();
        let by_name = |names: &[String]| names.iter().filter(|name| is_name(name)).cloned().collect::<Vec<_>>();
        let (waiting, others) = (by_name(&self.waiting_names), by_name(&self.other_names));
        let safe = by_pod || owner.restart().is_some();
        if safe {
            for names in waiting.chunks(AT_ONCE) {
                commands.push((0, format!("kubectl delete pod -n {namespace} {}", names.join(" "))));
            }
        }
        let running = self.missed - self.waiting;
        match owner.restart() {
            Some(restart) if running > 0 => {
                let cost = match owner.kind.as_str() {
                    "deployment" => 1,
                    "daemonset" => 2,
                    _ => 3,
                };
                commands.push((cost, restart));
            }
            Some(_) => {}
            None if by_pod => {
                for name in &others {
                    commands.push((3, format!("kubectl delete pod -n {namespace} {name}")));
                }
            }
            None => commands.push((
                4,
                format!(
                    "# {owner}: {}: run it again by its own means; a pod that is deleted may count as a failure",
                    super::phrase::count(self.missed, "pod")
                ),
            )),
        }
        commands
    }
}

// === impl Why ===

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation(key, true) => write!(f, "the namespace's annotation {key} breaks Linkerd's patch"),
            Self::Annotation(key, false) => write!(f, "its annotation {key} breaks Linkerd's patch"),
            Self::ForgedLabel => f.write_str("it carries Linkerd's label without its proxy"),
            Self::BeforeLinkerd => f.write_str("created before Linkerd's webhook was"),
            Self::Released => f.write_str("released by a person"),
            Self::NotAnswered => f.write_str("the injector did not answer, or its namespace asked later"),
        }
    }
}
