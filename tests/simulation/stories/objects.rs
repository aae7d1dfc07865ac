//! The API server's pods and what makes them: objects with versions, logs that watches read, and what is behind them.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use linkerd_gate_core::decide::repair::retry::RefusedCreate;
use linkerd_gate_core::decide::repair::{Kind, OwnerReference, OwnerView, PodView};
use linkerd_gate_core::decide::wait::OnMissed;

use crate::render;

/// What a controller watches, one stream each. Within a stream the order holds; between two of them nothing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    Pods,
    ReplicaSets,
    ReplicationControllers,
    StatefulSets,
    DaemonSets,
    Jobs,
    Refusals,
    Namespaces,
    Webhooks,
    Nodes,
    Override,
}

/// One change of a stream.
#[derive(Clone, Debug)]
pub enum Change {
    Pod(Rc<PodView>),
    Owner(Rc<OwnerView>),
    Refusal(Rc<RefusedCreate>),
    Gone,
    /// Whatever is there when it is delivered.
    Current,
}

/// How a pod stands to Linkerd's injector, by what Linkerd documents and not by the code under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Its namespace asks.
    ByNamespace,
    /// Its own annotation does.
    ByPod,
    /// Its namespace asks, and it declines.
    Declines,
    /// Its namespace does not ask.
    Nothing,
    /// Its namespace asks, and it is on its host's network.
    HostNetwork,
    /// Its namespace asks, and its own annotation has a value that Linkerd does not know.
    Invalid,
}

/// What an owner makes its pods of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    pub ask: Ask,
    /// Whether `wait` is among its init containers, and what it does with a missed pod.
    pub waits: bool,
    pub on_missed: OnMissed,
    /// Whether it is exempt from admission.
    pub exempt: bool,
    /// Whether its annotation says that repair only reports.
    pub report: bool,
}

/// What its kubelet said last of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    Nothing,
    /// All its containers wait.
    Waiting,
    /// `wait` runs.
    Waits,
    Runs {
        ready: bool,
    },
    Succeeded,
}

/// A pod of an application.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is apart from the others")]
pub struct AppPod {
    pub namespace: &'static str,
    pub name: String,
    pub uid: String,
    pub version: u64,
    pub created: Timestamp,
    pub owner: Option<usize>,
    pub reference: Option<OwnerReference>,
    pub template: Template,
    /// The node that it must be on: a DaemonSet's.
    pub pin: Option<usize>,
    pub node: Option<usize>,
    pub meshed: bool,
    pub gated: bool,
    /// Whether its Job counts it.
    pub tracked: bool,
    pub released: bool,
    pub deleting: bool,
    pub reported: Reported,
    pub restarts: i32,
    // --- what no process sees ---
    /// Whether hold or guard was there for it when it was made.
    pub enforced: bool,
    /// Whether, while it was held, a person or a limit let it run without a proxy: by what is so, not by what a controller says.
    pub excused: bool,
    /// Whether its gate came off.
    pub let_go: bool,
    /// Since when its app runs, in this boot of its node.
    pub runs_since: Option<Duration>,
    /// Whether it was there while Linkerd was not, as far as a controller may have seen.
    pub came_before: bool,
    /// Whether its app ever ran.
    pub ran: bool,
    /// Whether a controller of ours removed it.
    pub removed: bool,
    /// When it was made.
    pub made: Duration,
}

/// What makes pods.
#[derive(Clone, Debug)]
pub struct Owner {
    pub reference: OwnerReference,
    pub namespace: &'static str,
    pub version: u64,
    pub template: Template,
    /// Replicas, or completions.
    pub wanted: usize,
    /// How often a create was refused in a row, and when the next is tried.
    pub failures: u32,
    pub next_try: Duration,
    /// Whether the last create was refused.
    pub refused: bool,
    pub suspended: bool,
    pub mark: Option<String>,
    pub succeeded: usize,
    pub failed: usize,
    /// Since when it has made pods that are held, and none that is meshed.
    pub held_since: Option<Duration>,
    pub made: usize,
    /// How many of its pods are on how many nodes: a DaemonSet's.
    pub desired: usize,
    pub has: usize,
    pub stored: Option<Rc<OwnerView>>,
}

#[derive(Default)]
pub struct Objects {
    version: u64,
    pub pods: BTreeMap<String, AppPod>,
    pub owners: Vec<Owner>,
    refusals: BTreeMap<String, Rc<RefusedCreate>>,
    logs: BTreeMap<Channel, Vec<(String, Change)>>,
    views: BTreeMap<String, Rc<PodView>>,
    /// Streams with news.
    pub news: Vec<Channel>,
}

// === impl Owner ===

impl Owner {
    /// One that wants so many pods, and has made none. It first tries at `now`.
    pub fn new(reference: OwnerReference, template: Template, wanted: usize, now: Duration) -> Self {
        Self {
            reference,
            namespace: template.namespace(),
            version: 0,
            template,
            wanted,
            failures: 0,
            next_try: now,
            refused: false,
            suspended: false,
            mark: None,
            succeeded: 0,
            failed: 0,
            held_since: None,
            made: 0,
            desired: 0,
            has: 0,
            stored: None,
        }
    }
}

// === impl Channel ===

impl Channel {
    pub const ALL: [Self; 11] = [
        Self::Pods,
        Self::ReplicaSets,
        Self::ReplicationControllers,
        Self::StatefulSets,
        Self::DaemonSets,
        Self::Jobs,
        Self::Refusals,
        Self::Namespaces,
        Self::Webhooks,
        Self::Nodes,
        Self::Override,
    ];

    /// The stream of an owner.
    pub fn of(kind: &Kind) -> Self {
        match kind {
            Kind::ReplicationController => Self::ReplicationControllers,
            Kind::StatefulSet => Self::StatefulSets,
            Kind::DaemonSet => Self::DaemonSets,
            Kind::Job => Self::Jobs,
            _ => Self::ReplicaSets,
        }
    }
}

// === impl Template ===

impl Template {
    pub fn asks(self) -> bool {
        matches!(self.ask, Ask::ByNamespace | Ask::ByPod)
    }

    pub fn namespace(self) -> &'static str {
        match self.ask {
            Ask::ByPod | Ask::Nothing => "plain",
            _ => "shop",
        }
    }
}

// === impl AppPod ===

impl AppPod {
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub fn is_finished(&self) -> bool {
        self.reported == Reported::Succeeded
    }

    /// Whether it is neither over nor going.
    pub fn is_active(&self) -> bool {
        !self.deleting && !self.is_finished()
    }

    /// Whether the API server knows that something of it but `wait` started.
    pub fn has_started(&self) -> bool {
        self.restarts > 0 || matches!(self.reported, Reported::Runs { .. } | Reported::Succeeded)
    }

    /// Whether it is outside the mesh and should be inside.
    pub fn is_missed(&self) -> bool {
        self.template.asks() && !self.meshed && self.is_active()
    }
}

// === impl Objects ===

impl Objects {
    pub fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    pub fn note(&mut self, channel: Channel, key: String, change: Change) {
        self.logs.entry(channel).or_default().push((key, change));
        self.news.push(channel);
    }

    pub fn end_of(&self, channel: Channel) -> usize {
        self.logs.get(&channel).map_or(0, Vec::len)
    }

    pub fn log(&self, channel: Channel, from: usize, to: usize) -> &[(String, Change)] {
        self.logs.get(&channel).and_then(|log| log.get(from..to)).unwrap_or_default()
    }

    /// What a list of this stream shows.
    pub fn list(&self, channel: Channel) -> Vec<(String, Change)> {
        match channel {
            Channel::Pods => self.views.iter().map(|(key, view)| (key.clone(), Change::Pod(Rc::clone(view)))).collect(),
            Channel::Refusals => {
                self.refusals.iter().map(|(key, one)| (key.clone(), Change::Refusal(Rc::clone(one)))).collect()
            }
            Channel::Namespaces | Channel::Webhooks | Channel::Nodes | Channel::Override => Vec::new(),
            _ => {
                let of_kind = self.owners.iter().filter(|owner| Channel::of(&owner.reference.kind) == channel);
                let stored = of_kind.filter_map(|owner| Some((owner.path(), owner.stored.clone()?)));
                stored.map(|(path, view)| (path, Change::Owner(view))).collect()
            }
        }
    }

    /// Stores a pod, new or changed.
    pub fn store(&mut self, mut pod: AppPod) {
        pod.version = self.next_version();
        let view = Rc::new(PodView::of(&render::pod(&pod)));
        let path = pod.path();
        self.views.insert(path.clone(), Rc::clone(&view));
        self.note(Channel::Pods, path.clone(), Change::Pod(view));
        self.pods.insert(path, pod);
    }

    /// Stores a pod that is none of an application.
    pub fn store_other(&mut self, pod: &k8s_openapi::api::core::v1::Pod) {
        self.next_version();
        let view = Rc::new(PodView::of(pod));
        self.views.insert(view.path(), Rc::clone(&view));
        self.note(Channel::Pods, view.path(), Change::Pod(view));
    }

    pub fn change(&mut self, path: &str, change: impl FnOnce(&mut AppPod)) {
        if let Some(mut pod) = self.pods.get(path).cloned() {
            change(&mut pod);
            self.store(pod);
        }
    }

    /// Deletes a pod: it is gone at once where no node has it and no finalizer keeps it.
    pub fn delete(&mut self, path: &str) {
        let Some(pod) = self.pods.get(path) else { return };
        if pod.tracked || pod.node.is_some() && !pod.is_finished() {
            if !pod.deleting {
                self.change(path, |pod| pod.deleting = true);
            }
        } else {
            self.remove(path);
        }
    }

    pub fn remove(&mut self, path: &str) {
        if self.pods.remove(path).is_some() {
            self.views.remove(path);
            self.note(Channel::Pods, path.to_owned(), Change::Gone);
        }
    }

    pub fn pods_of(&self, owner: usize) -> impl Iterator<Item = &AppPod> {
        self.pods.values().filter(move |pod| pod.owner == Some(owner))
    }

    /// Writes an owner, spec or metadata: its controller looks at once.
    pub fn touch(&mut self, owner: usize, now: Duration) {
        self.owners[owner].next_try = self.owners[owner].next_try.min(now);
        self.sync(owner, true);
    }

    /// Writes an owner where what is to be seen of it has changed, or in any case.
    pub fn sync(&mut self, owner: usize, always: bool) {
        let active = self.pods_of(owner).filter(|pod| pod.is_active()).count();
        let one = &mut self.owners[owner];
        one.has = active;
        let mut view = render::owner(one);
        let same = one.stored.as_ref().is_some_and(|stored| {
            view.resource_version.clone_from(&stored.resource_version);
            **stored == view
        });
        if same && !always {
            return;
        }
        let version = self.next_version();
        let one = &mut self.owners[owner];
        one.version = version;
        let view = Rc::new(render::owner(one));
        one.stored = Some(Rc::clone(&view));
        let (channel, path) = (Channel::of(&one.reference.kind), one.path());
        self.note(channel, path, Change::Owner(view));
    }

    /// An Event says that an owner's create was refused.
    pub fn note_refusal(&mut self, owner: usize) {
        let stamp = self.next_version().to_string();
        let one = &self.owners[owner];
        let refusal = RefusedCreate { namespace: one.namespace.to_owned(), owner: one.reference.clone(), stamp };
        let refusal = Rc::new(refusal);
        let key = one.path();
        self.refusals.insert(key.clone(), Rc::clone(&refusal));
        self.note(Channel::Refusals, key, Change::Refusal(refusal));
    }
}

// === impl Owner ===

impl Owner {
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.reference.name)
    }

    pub fn is_job(&self) -> bool {
        self.reference.kind == Kind::Job
    }

    /// Whether a Job is over.
    pub fn is_over(&self) -> bool {
        self.is_job() && (self.succeeded >= self.wanted || self.failed > 0)
    }
}
