//! One replica of the controller: the pure steps that the program runs, with a loop around them as the role's. It sees what its
//! watches and the answers to its requests bring, and never the world.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use linkerd_gate_core::decide::PendingRepair;
use linkerd_gate_core::decide::election::elector::{Elector, Pause, Step, WriteError};
use linkerd_gate_core::decide::election::lease_record::{LeaseHolder, LeaseRecord};
use linkerd_gate_core::decide::node::taint::NodeView;
use linkerd_gate_core::decide::repair::retry::OwnerRetry;
use linkerd_gate_core::decide::repair::{Action, Operation, RepairPolicy, Ungate, WriteOutcome};

use crate::agent::{Found, Process};
use crate::api_server::Refused;
use crate::leader::Leader;
use crate::objects::{Change, Channel};
use crate::random::{Format, Random};

/// What a replica asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Taking or renewing the Lease.
    Lease {
        number: u64,
        expected: Option<String>,
        renewed: String,
        transitions: i32,
        pending: String,
    },
    Look,
    /// Whether the pod that would come instead of an evicted one is taken.
    Trial(Action),
    /// A write to pods or a Job.
    Act(Action),
    /// The second half of an untracking: the deletion, of the version that the first half made.
    Delete(Action, u64),
    Ungate(Ungate),
    Retry(OwnerRetry),
    OpenNode(Rc<NodeView>),
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Reply {
    Lease(u64, Result<LeaseRecord, Refused>),
    Look(Found),
    Tried(Action, bool),
    Acted(Action, WriteOutcome),
    Untracked(Action, u64),
    Ungated(Ungate, WriteOutcome),
    Retried(OwnerRetry, WriteOutcome),
    NodeOpened,
}

/// What reaches a replica.
#[derive(Clone, Debug)]
pub enum News {
    Lease(Option<Rc<LeaseRecord>>),
    /// A list, or changes, of a stream, for the leader of that generation.
    Stream {
        generation: u64,
        channel: Channel,
        listed: bool,
        end: usize,
        changes: Vec<(String, Change)>,
        current: Current,
    },
    /// A stream is out of sync.
    Trouble {
        generation: u64,
        channel: Channel,
    },
    /// With the number of the request.
    Reply(u64, Reply),
}

/// What a person says of everything; nothing where the agents' Lease says nothing.
#[derive(Clone, Debug)]
pub struct Said(pub Option<String>);

/// What is read when it is delivered.
#[derive(Clone, Debug, Default)]
pub struct Current {
    pub webhooks: Option<Rc<linkerd_gate_core::linkerd::WebhookView>>,
    pub nodes: Option<Vec<Rc<NodeView>>>,
    pub manual_override: Option<Said>,
    pub namespaces: bool,
}

/// What a replica may use of its surroundings.
pub struct Around<'a> {
    pub now: Duration,
    pub wall: Timestamp,
    pub policy: &'a RepairPolicy,
    pub orphan_after: Duration,
    pub random: &'a mut Random,
}

/// A process.
pub struct Controller {
    /// Which of the two it is, and which pod of that.
    pub seat: usize,
    pub pod: usize,
    pub me: LeaseHolder,
    pub node: usize,
    pub started: Duration,
    pub process: Process,
    pub cut_off: bool,
    /// How it writes what it publishes.
    pub format: Format,
    pub watching: bool,
    /// Streams that show nothing before then, and do not say so.
    pub stalled: BTreeMap<Channel, Duration>,
    /// By how much its wall clock is wrong.
    pub clock: SignedDuration,
    pub evicted_at: Option<Duration>,
    pub undisturbed: Duration,
    pub inbox: Vec<News>,
    pub alarm: u64,
    pub wake: Duration,
    /// Which of its leaderships this is: answers to an earlier one say nothing to a later.
    pub generation: u64,
    /// It ends after so many more writes.
    pub dies_after: Option<usize>,
    pub elector: Elector,
    pub leader: Option<Box<Leader>>,
    writing: Option<(u64, PendingRepair)>,
    written: PendingRepair,
    requests: u64,
    pub open: BTreeMap<u64, (Duration, Ask)>,
}

// === impl Controller ===

impl Controller {
    pub fn new(seat: usize, pod: usize, node: usize, me: LeaseHolder, now: Duration) -> Self {
        Self {
            seat,
            pod,
            watching: false,
            stalled: BTreeMap::new(),
            clock: SignedDuration::ZERO,
            evicted_at: None,
            elector: Elector::new(me.clone()),
            me,
            node,
            started: now,
            process: Process::Runs,
            cut_off: false,
            format: Format::Ours,
            undisturbed: now,
            inbox: Vec::new(),
            alarm: 0,
            wake: now,
            generation: 0,
            dies_after: None,
            leader: None,
            writing: None,
            written: PendingRepair::uncounted(),
            requests: 0,
            open: BTreeMap::new(),
        }
    }

    /// Its monotonic clock.
    pub fn local(&self, now: Duration) -> Duration {
        now.saturating_sub(self.started)
    }

    /// Whether its wall clock is wrong.
    pub fn skewed(&self) -> bool {
        !self.clock.is_zero()
    }

    pub fn leads(&self, now: Duration) -> bool {
        self.leader.is_some() && self.elector.leads(self.local(now))
    }

    pub fn number(&mut self, now: Duration, ask: Ask) -> u64 {
        self.requests += 1;
        self.open.insert(self.requests, (now, ask));
        self.requests
    }

    pub fn receive(&mut self, news: News, around: &mut Around<'_>) -> Vec<Ask> {
        let local = self.local(around.now);
        match news {
            News::Lease(record) => self.elector.observe(record.as_deref(), local),
            News::Stream { generation, channel, listed, end, changes, current } => {
                if let Some(leader) = self.leader.as_mut().filter(|_| generation == self.generation) {
                    leader.take(channel, listed, end, changes, current, local);
                }
            }
            News::Trouble { generation, channel } => {
                if let Some(leader) = self.leader.as_mut().filter(|_| generation == self.generation) {
                    leader.trouble(channel);
                }
            }
            News::Reply(number, reply) => {
                // One that was given up says nothing any more.
                if self.open.remove(&number).is_some() {
                    return self.replied(reply, around);
                }
            }
        }
        Vec::new()
    }

    fn replied(&mut self, reply: Reply, around: &mut Around<'_>) -> Vec<Ask> {
        let local = self.local(around.now);
        match reply {
            Reply::Lease(number, result) => {
                let result = result.map_err(|refused| match refused {
                    Refused::Conflict => WriteError::Conflict,
                    Refused::Lost => WriteError::Failed("lost".to_owned()),
                });
                let random = &mut *around.random;
                self.elector.answered(number, result, local, &mut |pause| length(pause, random));
                Vec::new()
            }
            reply => {
                let leads = self.elector.leads(local);
                let Some(leader) = &mut self.leader else { return Vec::new() };
                let asks = leader.replied(reply, leads, local, around);
                self.elector.note_probes(leader.look_at);
                asks
            }
        }
    }

    /// Gives up what was not answered in time.
    fn expire(&mut self, around: &mut Around<'_>) -> Vec<Ask> {
        let late = |(sent, ask): &(Duration, Ask)| *sent + limit(ask) <= around.now;
        let expired: Vec<u64> = self.open.iter().filter(|(_, one)| late(one)).map(|(number, _)| *number).collect();
        let mut asks = Vec::new();
        for number in expired {
            let Some((_, ask)) = self.open.remove(&number) else { continue };
            if let Some(reply) = given_up(ask) {
                asks.extend(self.replied(reply, around));
            }
        }
        asks
    }

    /// Does what is to be done now.
    pub fn step(&mut self, around: &mut Around<'_>) -> Vec<Ask> {
        let (now, local) = (around.now, self.local(around.now));
        self.wake = now + Duration::from_secs(30);
        let mut asks = self.expire(around);
        loop {
            if let Some((_, pending)) = self.writing.take_if(|(number, _)| *number == self.elector.accepted()) {
                self.written = pending;
            }
            let content = self.leader.as_ref().map_or(PendingRepair::uncounted(), |leader| leader.pending);
            let news = (self.leader.is_some() && content != self.written).then(|| content.renewed_after(self.written));
            let random = &mut *around.random;
            match self.elector.step(local, news, &mut |pause| length(pause, random)) {
                Step::Wait { until } => {
                    self.wake_at(until.map(|until| self.started + until), now);
                    break;
                }
                Step::Write(write) => {
                    self.writing = Some((write.number, content));
                    let renewed = now.as_micros().to_string();
                    self.elector.sent(write.number, renewed.clone());
                    let record = write.record.as_ref();
                    let ours = record.is_some_and(|record| record.holder.as_ref() == Some(&self.me));
                    let transitions = record.map_or(0, |record| record.transitions);
                    asks.push(Ask::Lease {
                        number: write.number,
                        expected: record.map(|record| record.resource_version.clone()),
                        renewed,
                        transitions: if ours { transitions } else { transitions + 1 },
                        pending: self.format.apply(content.write()),
                    });
                }
                Step::Lead(_) => {
                    self.generation += 1;
                    self.leader = Some(Box::new(Leader::new(around.policy, local)));
                    self.elector.note_probes(local);
                }
                Step::StepDown(_) => {
                    self.leader = None;
                    self.open.retain(|_, (_, ask)| matches!(ask, Ask::Lease { .. }));
                }
            }
        }
        let leads = self.elector.leads(local);
        if let Some(leader) = &mut self.leader {
            asks.extend(leader.step(leads, local, around));
            self.elector.note_probes(leader.look_at);
            let wake = leader.wake.map(|wake| self.started + wake);
            self.wake_at(wake, now);
        }
        let limits = self.open.values().map(|(sent, ask)| *sent + limit(ask)).min();
        self.wake_at(limits, now);
        asks
    }

    fn wake_at(&mut self, at: Option<Duration>, now: Duration) {
        if let Some(at) = at {
            self.wake = self.wake.min(at.max(now + Duration::from_millis(1)));
        }
    }
}

/// How long each is waited for, as the roles do.
fn limit(ask: &Ask) -> Duration {
    match ask {
        Ask::Lease { .. } => Duration::from_secs(20),
        Ask::Look => Duration::from_secs(7),
        Ask::Trial(_) => Duration::from_millis(10_700),
        Ask::Act(_) | Ask::Delete(..) | Ask::Ungate(_) => Duration::from_millis(5300),
        Ask::Retry(_) => Duration::from_millis(4100),
        Ask::OpenNode(_) => Duration::from_secs(13),
    }
}

/// What a replica takes a request for that was not answered; nothing where the elector counts by itself.
fn given_up(ask: Ask) -> Option<Reply> {
    let late = || WriteOutcome::Failed("late".to_owned());
    Some(match ask {
        Ask::Lease { .. } => return None,
        Ask::Look => Reply::Look(Found::nothing()),
        Ask::Trial(action) => Reply::Tried(action, false),
        Ask::Act(action) | Ask::Delete(action, _) => Reply::Acted(action, late()),
        Ask::Ungate(ungate) => Reply::Ungated(ungate, late()),
        Ask::Retry(retry) => Reply::Retried(retry, late()),
        Ask::OpenNode(_) => Reply::NodeOpened,
    })
}

/// There are two replicas, so none leaves a free Lease to others.
fn length(pause: Pause, random: &mut Random) -> Duration {
    match pause {
        Pause::Acquire => Duration::ZERO,
        Pause::Retry => random.between(500, 1500),
    }
}

// === impl Ask ===

impl Ask {
    /// Whether it changes anything but the Lease.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Lease { .. } | Self::Look | Self::Trial(_))
    }

    pub fn is_eviction(&self) -> bool {
        matches!(self, Self::Act(Action { operation: Operation::Evict(_), .. }))
    }
}
