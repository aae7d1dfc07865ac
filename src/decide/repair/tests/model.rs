//! A cluster as a controller sees it, and what the controller keeps of it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::super::object::OwnersOfAKind;
use super::super::{
    Action, ClusterOverride, Decision, KeepReason, Kind, NamespaceView, Operation, OwnerView, Owners, PodView, Repair,
    RepairPolicy, Scan, Snapshot, Tracker, UngateReason, WriteOutcome, plan,
};
use super::fixtures::{Draft, SHOP};
use crate::linkerd::{TokenProjection, WebhookView};

/// What is there.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub pods: BTreeMap<String, PodView>,
    pub namespaces: BTreeMap<String, NamespaceView>,
    /// ReplicaSets, StatefulSets, DaemonSets, ReplicationControllers, Jobs.
    pub owners: [OwnersOfAKind; 5],
    pub webhooks: WebhookView,
    pub proven: Option<Duration>,
    pub manual: Option<ClusterOverride>,
    pub wall: Timestamp,
}

/// What is there, what is remembered, and the time.
#[derive(Clone, Debug)]
pub struct Model {
    pub cluster: Cluster,
    pub policy: RepairPolicy,
    pub tracker: Tracker,
    pub now: Duration,
    pub again: Option<Duration>,
    /// What was published last.
    pub pending: usize,
}

/// When gated pods were created.
pub fn noon() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn namespace(name: &str) -> Draft {
    Draft(json!({"metadata": {"name": name}}))
}

/// 1 eviction every 10 seconds; an owner rests for 30.
pub fn policy(repair: Repair) -> RepairPolicy {
    RepairPolicy {
        repair,
        enforces: true,
        evicts: true,
        hold_max: None,
        eviction_rate: "6/m".parse().unwrap(),
        cooldown: seconds(30),
    }
}

/// An act in words.
pub fn words(action: &Action) -> String {
    let names = action.operation.removes().unwrap_or_default().0.iter().map(|target| target.name.as_str());
    let names: Vec<&str> =
        if matches!(action.operation, Operation::Delete(_) | Operation::Untrack { .. } | Operation::Evict(_)) {
            names.collect()
        } else {
            std::iter::once(action.owner.name.as_str()).chain(names).collect()
        };
    format!("{} {}", action.operation.key(), names.join(" "))
}

impl Cluster {
    pub fn asking() -> Self {
        let shop = namespace(SHOP).annotated("linkerd.io/inject", "enabled");
        Self {
            pods: BTreeMap::new(),
            namespaces: [(SHOP.to_owned(), NamespaceView::of(&shop.build()))].into(),
            owners: Default::default(),
            webhooks: WebhookView::chart_default(),
            proven: None,
            manual: None,
            wall: noon(),
        }
    }

    pub fn snapshot(&self) -> Snapshot<'_> {
        let [replica_sets, stateful_sets, daemon_sets, replication_controllers, jobs] = &self.owners;
        Snapshot {
            pods: &self.pods,
            others: 0,
            namespaces: &self.namespaces,
            owners: Owners { replica_sets, stateful_sets, daemon_sets, replication_controllers, jobs },
            webhooks: &self.webhooks,
            projection: TokenProjection::Enabled,
            proven: self.proven,
            manual: self.manual,
            wall: self.wall,
        }
    }

    pub fn put_owner(&mut self, view: OwnerView) {
        let place = match view.reference.kind {
            Kind::ReplicaSet => 0,
            Kind::StatefulSet => 1,
            Kind::DaemonSet => 2,
            Kind::ReplicationController => 3,
            Kind::Job => 4,
            Kind::Other(_) => return,
        };
        self.owners[place].insert(format!("{}/{}", view.namespace, view.reference.name), view);
    }
}

impl Model {
    /// Everything works, for an hour already: all tokens are there.
    pub fn with(repair: Repair, owners: impl IntoIterator<Item = Draft>) -> Self {
        let policy = policy(repair);
        let tracker = Tracker::new(&policy, Duration::ZERO);
        let mut cluster = Cluster::asking();
        owners.into_iter().for_each(|owner| cluster.put_owner(owner.owner_view()));
        let now = Duration::from_hours(1);
        cluster.proven = Some(now);
        Self { cluster, policy, tracker, now, again: None, pending: 0 }
    }

    /// The namespace is another than it was.
    pub fn namespace(&mut self, draft: &Draft) -> &mut Self {
        self.cluster.namespaces.insert(draft.name(), NamespaceView::of(&draft.build()));
        self
    }

    pub fn owner(&mut self, draft: &Draft) -> &mut Self {
        self.cluster.put_owner(draft.owner_view());
        self
    }

    pub fn pods(&mut self, drafts: impl IntoIterator<Item = Draft>) -> &mut Self {
        let views = drafts.into_iter().map(|draft| draft.view());
        self.cluster.pods.extend(views.map(|view| (view.path(), view)));
        self
    }

    pub fn gone(&mut self, name: &str) -> &mut Self {
        self.cluster.pods.remove(&format!("{SHOP}/{name}")).unwrap();
        self
    }

    /// The pod of this name has another version.
    pub fn changed(&mut self, name: &str) -> &mut Self {
        let pod = self.cluster.pods.get_mut(&format!("{SHOP}/{name}")).unwrap();
        pod.resource_version = Some("another".to_owned());
        self
    }

    /// Time passes, and the proof is as old as the present.
    pub fn after(&mut self, passed: u64) -> &mut Self {
        self.now += seconds(passed);
        self.cluster.wall += SignedDuration::from_secs(i64::try_from(passed).unwrap());
        self.cluster.proven = Some(self.now);
        self
    }

    pub fn without_proof(&mut self) -> &mut Self {
        self.cluster.proven = None;
        self
    }

    /// What is due; what `again` says is held to be in the future.
    pub fn due(&mut self) -> Vec<Action> {
        let snapshot = self.cluster.snapshot();
        let scan = Scan::of(&snapshot, |owner| self.tracker.remembers(owner));
        self.tracker.observe(&snapshot, &scan, self.now);
        let plan = plan(&snapshot, &scan, &self.tracker, &self.policy, self.now);
        assert!(plan.again.is_none_or(|again| again > self.now), "a busy loop: {:?} at {:?}", plan.again, self.now);
        self.again = plan.again;
        self.pending = plan.pending;
        plan.actions
    }

    /// Whose gate comes off, and why; what begins has begun.
    pub fn ungated(&mut self) -> Vec<(String, UngateReason)> {
        let snapshot = self.cluster.snapshot();
        let scan = Scan::of(&snapshot, |owner| self.tracker.remembers(owner));
        self.tracker.observe(&snapshot, &scan, self.now);
        let plan = plan(&snapshot, &scan, &self.tracker, &self.policy, self.now);
        assert!(plan.again.is_none_or(|again| again > self.now), "a busy loop: {:?} at {:?}", plan.again, self.now);
        self.again = plan.again;
        for ungate in &plan.ungates {
            self.tracker.begin_ungating(ungate, self.now);
        }
        plan.ungates.into_iter().map(|ungate| (ungate.name, ungate.reason)).collect()
    }

    /// What is due, in words.
    pub fn due_text(&mut self) -> Vec<String> {
        self.due().iter().map(words).collect()
    }

    pub fn begin(&mut self, action: &Action) {
        let snapshot = self.cluster.snapshot();
        let scan = Scan::of(&snapshot, |owner| self.tracker.remembers(owner));
        self.tracker.begin(action, scan.siblings_of(&action.owner.uid), self.now);
    }

    /// Begins what is due, all of it with this outcome; in words.
    pub fn act(&mut self, outcome: &WriteOutcome) -> Vec<String> {
        let actions = self.due();
        for action in &actions {
            self.begin(action);
            self.tracker.acted(action, outcome, self.now);
        }
        actions.iter().map(words).collect()
    }

    /// Does what is due, in words.
    pub fn done(&mut self) -> Vec<String> {
        self.act(&WriteOutcome::Done)
    }

    /// What becomes of a pod: the act, or the reason why none.
    pub fn fate(&mut self, name: &str) -> Result<super::super::Method, KeepReason> {
        let snapshot = self.cluster.snapshot();
        let scan = Scan::of(&snapshot, |owner| self.tracker.remembers(owner));
        self.tracker.observe(&snapshot, &scan, self.now);
        let plan = plan(&snapshot, &scan, &self.tracker, &self.policy, self.now);
        let missed = plan.missed.iter().find(|missed| missed.pod.name == name).expect("a missed pod");
        match &missed.decision {
            Decision::Replace(way) => Ok(*way),
            Decision::Leave(because) => Err(because.clone()),
            Decision::Ungate(reason) => panic!("{name} is let go: {reason}"),
        }
    }
}
