//! Repair's writes: several are under way at a time, and others are planned for meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::{Instrument as _, error_span, info};

use super::{Context, leads, report, wall};
use crate::cluster::{repair, successor};
use crate::decide::Gate;
use crate::decide::repair::successor::Trial;
use crate::decide::repair::{Action, Dropped, MissedState, Operation, Pace, Room, Ungate, WriteOutcome, step};

/// How many are under way at a time. A deletion takes a third of a second of an API server that is busy with what comes instead.
const AT_A_TIME: usize = 64;

/// How many more acts may wait for their turn. Each was planned for by what was seen then, so it does not wait for long.
const WAITING: usize = 64;

/// How many gates may wait to come off.
const UNGATES_WAITING: usize = 200;

/// How long one may take. Unlike its neighbours, so that a reason tells which limit fired.
const ANSWER: Duration = Duration::from_millis(5300);

/// How long the dry-run of a successor may take: an API server waits ten seconds for a webhook, by default.
const TRIAL: Duration = Duration::from_millis(10_700);

/// What was written, and what became of it; or why it was not sent.
pub(super) enum Written {
    Acted(Action, Result<WriteOutcome, Dropped>),
    Ungated(Ungate, Result<WriteOutcome, Dropped>),
}

/// Writes that wait for their turn, and those that are under way.
pub(super) struct Writes {
    shared: Arc<Shared>,
    actions: VecDeque<Action>,
    ungates: VecDeque<Ungate>,
    under_way: FuturesUnordered<BoxFuture<'static, Written>>,
}

/// What tells whether something may be written now.
struct Shared {
    context: Arc<Context>,
    renewed: watch::Receiver<Instant>,
    gate: watch::Receiver<Gate>,
    /// Whether the last plan found the watches in sync and no override: what waits since then must not go on after that.
    free: AtomicBool,
    /// When the next eviction may be sent. A dry-run before it takes as long as it takes, so the rate is kept here once more.
    evictions: Mutex<Pace>,
}

// === impl Writes ===

impl Writes {
    pub(super) fn new(context: Arc<Context>, renewed: watch::Receiver<Instant>, gate: watch::Receiver<Gate>) -> Self {
        let (actions, ungates) = (VecDeque::new(), VecDeque::new());
        let evictions = Mutex::new(Pace::new(context.settings.repair.eviction_rate, context.now()));
        let free = AtomicBool::new(false);
        let shared = Arc::new(Shared { context, renewed, gate, free, evictions });
        Self { shared, actions, ungates, under_way: FuturesUnordered::new() }
    }

    /// Whether nothing waits, and nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.ungates.is_empty() && self.under_way.is_empty()
    }

    /// How much more may be planned for.
    pub(super) fn room(&self) -> Room {
        Room {
            actions: WAITING.saturating_sub(self.actions.len()),
            ungates: UNGATES_WAITING.saturating_sub(self.ungates.len()),
        }
    }

    /// Lets what waits go on, or not: resuming a Job and removing a gate do not wait for it.
    pub(super) fn set_free(&self, free: bool) {
        self.shared.free.store(free, Ordering::Relaxed);
    }

    pub(super) fn act(&mut self, actions: Vec<Action>) {
        self.actions.extend(actions);
    }

    pub(super) fn ungate(&mut self, ungates: Vec<Ungate>) {
        self.ungates.extend(ungates);
    }

    /// What the next one that ends has written; nothing where none waits or is under way. It may be dropped at any time: what is
    /// under way stays so, and goes on with the next call.
    pub(super) async fn next(&mut self) -> Option<Written> {
        while self.under_way.len() < AT_A_TIME {
            let shared = Arc::clone(&self.shared);
            // Gates last: as many as may come off at once must not keep others from being replaced.
            if let Some(action) = self.actions.pop_front() {
                // What a library logs of these requests has the owner too.
                let span = error_span!("repair", namespace = action.namespace, owner = %action.owner);
                self.under_way.push(Box::pin(async move { shared.act(action).await }.instrument(span)));
            } else if let Some(ungate) = self.ungates.pop_front() {
                self.under_way.push(Box::pin(async move { shared.ungate(ungate).await }));
            } else {
                break;
            }
        }
        self.under_way.next().await
    }
}

impl Drop for Writes {
    /// The lead was lost: what waits is never sent, and what is under way may have arrived.
    fn drop(&mut self) {
        for action in &self.actions {
            report::dropped(action, Dropped::NotLeading);
        }
        for ungate in &self.ungates {
            report::ungate_dropped(ungate, Dropped::NotLeading);
        }
        let requests = self.under_way.len();
        if requests > 0 {
            info!(requests, "no longer awaited: requests under way, which may have been executed");
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Before each write: what comes before it may take long.
    fn may(&self, action: &Action) -> Result<(), Dropped> {
        let proven = self.gate.borrow().proven_at(self.context.now()).is_some();
        step::may_send(&action.operation, leads(&self.renewed), self.free.load(Ordering::Relaxed), proven)
    }

    /// Waits until an eviction may be sent by its rate.
    async fn pace(&self) {
        let mut evictions = self.evictions.lock().await;
        tokio::time::sleep(evictions.next().saturating_sub(self.context.now())).await;
        evictions.goes(self.context.now());
    }

    async fn act(&self, action: Action) -> Written {
        if let Err(dropped) = self.may(&action) {
            return Written::Acted(action, Err(dropped));
        }
        if let Some(reason) = tried_in_vain(&self.context, &action).await {
            // Nothing was sent: neither the owner's other pods nor other owners wait.
            return Written::Acted(action, Ok(WriteOutcome::Refused(reason)));
        }
        if matches!(action.operation, Operation::Evict(_)) {
            self.pace().await;
        }
        if let Err(dropped) = self.may(&action) {
            return Written::Acted(action, Err(dropped));
        }
        let outcome = in_time(perform(&self.context, &action)).await;
        Written::Acted(action, Ok(outcome))
    }

    async fn ungate(&self, ungate: Ungate) -> Written {
        // Each time: others may take long.
        if !leads(&self.renewed) {
            return Written::Ungated(ungate, Err(Dropped::NotLeading));
        }
        let outcome = in_time(repair::ungate(self.context.client.clone(), &ungate)).await;
        Written::Ungated(ungate, Ok(outcome))
    }
}

async fn in_time(write: impl Future<Output = WriteOutcome>) -> WriteOutcome {
    let late = || WriteOutcome::Failed(format!("the API server did not answer in {ANSWER:?}"));
    tokio::time::timeout(ANSWER, write).await.unwrap_or_else(|_| late())
}

/// Why a running pod is not evicted: a dry-run of the pod that would be made instead failed, or was refused. Nothing where that
/// is not asked: what never ran has nothing to lose.
async fn tried_in_vain(context: &Context, action: &Action) -> Option<String> {
    let Operation::Evict([target]) = &action.operation else { return None };
    if target.state != MissedState::Running {
        return None;
    }
    let tried = successor::prove(context.client.clone(), &action.namespace, &action.owner, target);
    let tried = match tokio::time::timeout(TRIAL, tried).await {
        Ok(Some(trial)) => trial,
        Ok(None) => return Some("not evicted: its owner changed meanwhile".to_owned()),
        Err(_) => Trial::Failed(format!("not evicted: a dry-run of its replacement took longer than {TRIAL:?}")),
    };
    context.metrics.successor_tried(tried.key());
    match tried {
        Trial::Accepted | Trial::QuotaFreed => None,
        Trial::Refused(_, why) | Trial::Failed(why) => Some(why),
    }
}

async fn perform(context: &Context, action: &Action) -> WriteOutcome {
    let (client, namespace) = (context.client.clone(), action.namespace.as_str());
    match &action.operation {
        Operation::Delete([target]) => repair::remove(client, namespace, target, false).await,
        Operation::Untrack { target: [target], gate_index } => {
            repair::untrack(client, namespace, target, *gate_index).await
        }
        Operation::Evict([target]) => repair::remove(client, namespace, target, true).await,
        Operation::Suspend { resource_version, .. } => {
            repair::suspend(client, namespace, &action.owner, resource_version, wall()).await
        }
        Operation::Resume { resource_version, .. } => {
            repair::resume(client, namespace, &action.owner, resource_version).await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::cluster::Access;
    use crate::config::{ControllerSettings, LogFormat};
    use crate::decide::election::lease_record::{LeaseHolder, RENEW_DEADLINE};
    use crate::decide::repair::{Kind, OwnerReference, Target, UngateReason};
    use crate::metrics::Metrics;
    use crate::telemetry::Captured;

    /// Of an API server that is not there: a request that is sent would fail.
    async fn context() -> Arc<Context> {
        let _already_there = rustls::crypto::ring::default_provider().install_default();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let kubeconfig = r#"{"clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}],"users":[{"name":"u","user":{}}],
            "contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"current-context":"c"}"#;
        file.write_all(kubeconfig.as_bytes()).unwrap();
        let given =
            [("NODE_NAME", "node-0"), ("POD_NAME", "one"), ("POD_NAMESPACE", "linkerd-gate"), ("POD_UID", "u-1")];
        let variables = given.map(|(name, value)| (format!("LINKERD_GATE_{name}").into(), value.into()));
        let settings = ControllerSettings::read(variables).unwrap();
        let access = Access::by_kubeconfig(file.path()).await.unwrap();
        let client = access.client().unwrap();
        let me = LeaseHolder { name: "one".to_owned(), detail: "node-0".to_owned(), incarnation: "u-1".to_owned() };
        let first = super::super::face(&settings, &Gate::closed(), crate::decide::ProbeResult::Ready);
        let (face, _) = watch::channel(first);
        let metrics = Arc::new(Metrics::controller());
        Arc::new(Context { settings, access, client, me, epoch: Instant::now(), metrics, face })
    }

    fn delete(name: &str) -> Action {
        let owner = OwnerReference { kind: Kind::ReplicaSet, name: "web".to_owned(), uid: "o-1".to_owned() };
        let target = Target {
            name: name.to_owned(),
            uid: format!("uid of {name}"),
            resource_version: "1".to_owned(),
            state: MissedState::Held,
            held_since: None,
        };
        Action { namespace: "shop".to_owned(), owner, operation: Operation::Delete([target]) }
    }

    fn ungate(name: &str) -> Ungate {
        Ungate {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: format!("uid of {name}"),
            resource_version: "1".to_owned(),
            index: 0,
            owner: None,
            reason: UngateReason::Meshed,
        }
    }

    async fn dropped(writes: &mut Writes) -> Dropped {
        writes.act(vec![delete("web-x")]);
        match writes.next().await {
            Some(Written::Acted(_, Err(why))) => why,
            Some(Written::Acted(_, Ok(outcome))) => panic!("it was sent: {outcome:?}"),
            _ => panic!("another write"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_is_not_sent_where_it_may_not_be() {
        let (renewed_at, renewed) = watch::channel(Instant::now());
        let (_gate, gate) = watch::channel(Gate::closed());
        let mut writes = Writes::new(context().await, renewed, gate);
        assert_eq!(dropped(&mut writes).await, Dropped::Paused);
        writes.set_free(true);
        assert_eq!(dropped(&mut writes).await, Dropped::Unproven);
        tokio::time::advance(RENEW_DEADLINE).await;
        assert_eq!(dropped(&mut writes).await, Dropped::NotLeading);
        writes.ungate(vec![ungate("web-y")]);
        assert!(matches!(writes.next().await, Some(Written::Ungated(_, Err(Dropped::NotLeading)))));
        renewed_at.send_replace(Instant::now());
        assert_eq!(dropped(&mut writes).await, Dropped::Unproven);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_waits_when_the_lead_is_lost_is_logged() {
        let (_renewed, renewed) = watch::channel(Instant::now());
        let (_gate, gate) = watch::channel(Gate::closed());
        let mut writes = Writes::new(context().await, renewed, gate);
        writes.act(vec![delete("web-x")]);
        writes.ungate(vec![ungate("web-y")]);
        let (log, _guard) = Captured::begin(LogFormat::Plain);
        drop(writes);
        let text = log.text();
        let lines: Vec<_> = text.lines().map(|line| line.split_once("INFO ").unwrap().1).collect();
        let dropped = "action dropped before it was sent: this replica no longer leads";
        assert_eq!(
            lines,
            [
                format!("{dropped} operation=delete pod namespace=shop pod=web-x owner=ReplicaSet web"),
                format!("{dropped} operation=remove scheduling gate namespace=shop pod=web-y"),
            ]
        );
    }
}
